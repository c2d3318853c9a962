"""A profile as a web application, with the simulator's own routes under `/_sim`.

Those are for tests and operators: they ask for no key, and no fault touches them.
"""

import base64
import hmac
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from services.gpusim.gpu import Gpu
from services.gpusim.model import REFUSE_S, Fault, Script
from services.gpusim.profiles import Profile, detail, reply

MAX_BODY = 64 * 1024 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Refuse = Callable[[float], Awaitable[None]]
"""Refuse connections for so many seconds, beginning before this returns."""


def assemble(profile: Profile, gpu: Gpu, refuse: Refuse) -> web.Application:
    """Build the application of one simulated server."""
    middlewares = [_in_its_manner(profile)]
    if gpu.options.api_key is not None:
        middlewares.append(_with_key(profile, gpu.options.api_key))
    app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY)
    app.add_routes([*profile.routes(), *_Controls(gpu, refuse).routes()])
    return app


def _in_its_manner(profile: Profile) -> Middleware:
    """Let the profile say in its own way that there is no such route."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as absent:
            return profile.missing(absent.status)

    return middleware


def _with_key(profile: Profile, api_key: str) -> Middleware:
    basic = b"Basic " + base64.b64encode(api_key.encode())
    expected = basic if ":" in api_key else f"Bearer {api_key}".encode()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if not request.path.startswith("/_sim/") and not hmac.compare_digest(given, expected):
            refusal = profile.unauthorized(request.path)
            if refusal is not None:
                return refusal
        return await handler(request)

    return middleware


class _Controls:
    """The routes under `/_sim`."""

    def __init__(self, gpu: Gpu, refuse: Refuse) -> None:
        self._gpu = gpu
        self._refuse = refuse

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.get("/_sim/stats", self._stats),
            web.get("/_sim/jobs", self._jobs),
            web.get("/_sim/faults", self._show),
            web.post("/_sim/faults", self._script),
            web.delete("/_sim/faults", self._clear),
        ]

    async def _stats(self, _request: web.Request) -> web.Response:
        return reply(self._gpu.stats())

    async def _jobs(self, _request: web.Request) -> web.Response:
        return reply({"jobs": self._gpu.ledger.jobs()})

    async def _show(self, _request: web.Request) -> web.Response:
        return reply({"faults": self._gpu.scripts})

    async def _script(self, http: web.Request) -> web.Response:
        script = _parsed(await http.read())
        if isinstance(script, str):
            return detail(script, 422)
        if script.mode is Fault.REFUSE:
            await self._refuse(REFUSE_S if script.seconds is None else script.seconds)
        else:
            self._gpu.script(script)
        return await self._show(http)

    async def _clear(self, http: web.Request) -> web.Response:
        self._gpu.clear()
        return await self._show(http)


def _parsed(body: bytes) -> Script | str:
    """Read a script, or say what is wrong with it."""
    try:
        return msgspec.json.decode(body, type=Script)
    except msgspec.DecodeError as error:
        allowed = ", ".join(Fault)
        return f"{error}. mode is one of: {allowed}"
