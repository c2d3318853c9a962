"""Which protocol a backend speaks, and the adapter for it.

The one rule: this is the only place that knows all protocols; another one is a file and a case here.
"""

from typing import Final

import aiohttp

from schemas.registry import Backend, Protocol
from schemas.requests import Kind
from services.dispatcher.backends.base import Adapter, Health, Misconfigured
from services.dispatcher.backends.classify import NOT_FOUND, OK, UNAVAILABLE, Broken, Reply, health
from services.dispatcher.backends.http import Endpoint
from services.dispatcher.backends.openai_health import HEALTH, MODELS
from services.dispatcher.backends.openai_images import OpenaiImagesAdapter
from services.dispatcher.backends.openai_stt import OpenaiSttAdapter
from services.dispatcher.backends.sdcpp import SdcppAdapter
from services.dispatcher.backends.sdcpp_wire import CAPABILITIES, model_name

_ROUTES: Final = {Kind.IMAGE: (CAPABILITIES, MODELS, HEALTH), Kind.SPEECH: (MODELS, HEALTH)}
_NOTHING_SAID: Final = frozenset({OK, NOT_FOUND, 405})


def adapter_for(session: aiohttp.ClientSession, backend: Backend) -> Adapter:
    """Build the adapter. ValueError before the protocol of a plain url was recognised."""
    match backend.speaks:
        case Protocol.SDCPP:
            return SdcppAdapter(session, backend)
        case Protocol.OPENAI_IMAGES:
            return OpenaiImagesAdapter(session, backend)
        case Protocol.OPENAI_STT:
            return OpenaiSttAdapter(session, backend)
        case None:
            raise ValueError(f"{backend.name}: its protocol is not known before it was recognised")


async def recognise(
    session: aiohttp.ClientSession, backend: Backend, timeout_s: float
) -> Protocol | Health:
    """Tell a plain url's protocol by the routes it answers, else say why not yet; within ``timeout_s``."""
    endpoint = Endpoint(session, backend)
    routes = _ROUTES[backend.kind]
    answers: list[Reply] = []
    for route in routes:
        answer = await endpoint.get(route, timeout_s / len(routes))
        if isinstance(answer, Broken):
            return health(answer)
        if protocol := _told_by(backend.kind, route, answer):
            return protocol
        answers.append(answer)
    # "No such route" says little: a wrong key or a model that loads is the better reason.
    telling = [answer for answer in answers if answer.status not in _NOTHING_SAID]
    if telling:
        return health(telling[0])
    return Misconfigured(f"none of {', '.join(routes)} answers as a server for {backend.kind} does")


def _told_by(kind: Kind, route: str, answer: Reply) -> Protocol | None:
    match kind:
        case Kind.IMAGE:
            if route == CAPABILITIES:
                native = answer.status == OK and model_name(answer.body) is not None
                return Protocol.SDCPP if native else None
            return Protocol.OPENAI_IMAGES if answer.status == OK else None
        case Kind.SPEECH:
            return Protocol.OPENAI_STT if answer.status in (OK, UNAVAILABLE) else None
