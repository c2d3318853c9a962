"""A GPU instance as the registry (bucket BACKENDS) knows it.

The one rule: ``wanted`` and what is configured is what people say; ``learned_*`` is what probes saw.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from schemas.errors import Code, RejectedError
from schemas.ids import BackendId, slug
from schemas.requests import Instant, Kind
from schemas.workflow import Workflow

MOST_SLOTS: Final = 64
HIDDEN: Final = "***"

ModelEntry = Annotated[str, Meta(min_length=1, max_length=256)]
Count = Annotated[int, Meta(ge=1, le=MOST_SLOTS)]
Weight = Annotated[float, Meta(gt=0)]


class Protocol(StrEnum):
    """What an instance speaks; an adapter each, ``services.dispatcher.backends``."""

    SDCPP = "sdcpp"
    OPENAI_IMAGES = "openai_images"
    SDAPI = "sdapi"
    COMFYUI = "comfyui"
    OPENAI_STT = "openai_stt"
    WHISPERCPP = "whispercpp"
    WHISPER_ASR = "whisper_asr"


KIND_OF: Final = {
    Protocol.SDCPP: Kind.IMAGE,
    Protocol.OPENAI_IMAGES: Kind.IMAGE,
    Protocol.SDAPI: Kind.IMAGE,
    Protocol.COMFYUI: Kind.IMAGE,
    Protocol.OPENAI_STT: Kind.SPEECH,
    Protocol.WHISPERCPP: Kind.SPEECH,
    Protocol.WHISPER_ASR: Kind.SPEECH,
}


class Wanted(StrEnum):
    """GONE: was configured, and is no more."""

    ON = "on"
    DRAINING = "draining"
    OFF = "off"
    GONE = "gone"


class Source(StrEnum):
    CONFIG = "config"
    API = "api"
    ANNOUNCED = "announced"


class Backend(Struct, frozen=True, kw_only=True):
    """One GPU instance behind one url.

    ``models`` empty: what the instance itself says. An entry ``alias=name`` is a model under a name of
    the operator's, ``qwen-image-4k=qwen-image``: what it can do beyond the model is said by such names.
    ``keeps``: models that it holds loaded at once. ``workflow``: what a ComfyUI is given, here in whole, so
    that whoever reads the registry needs no file. ``alive_until``: an instance that announced itself is
    taken out of use then, unless it has said again that it lives. ``overridden``: what its configuration,
    or its announcement, said of the members that the API has changed since.
    """

    name: BackendId
    url: str
    kind: Kind
    protocol: Protocol | None = None
    models: tuple[ModelEntry, ...] = ()
    slots: Count = 1
    keeps: Count = 1
    weight: Weight = 1.0
    labels: dict[str, str] = {}
    wanted: Wanted = Wanted.ON
    alive_until: Instant | None = None
    source: Source = Source.CONFIG
    api_key: str | None = None
    disconnect_cancels: bool = False
    workflow: Workflow | None = None
    overridden: dict[str, Any] = {}  # Any: the JSON of a member
    learned_protocol: Protocol | None = None
    learned_models: tuple[str, ...] = ()

    @property
    def speaks(self) -> Protocol | None:
        """The protocol as configured, else as recognised, None before the first probe."""
        return self.protocol or self.learned_protocol

    @property
    def shown_url(self) -> str:
        """The url without what may be secret: user, password, query; ``***`` for what is no address."""
        parts = _address(self.url)
        if parts is None:
            return HIDDEN
        _, at, host = parts.netloc.rpartition("@")
        return urlunsplit((parts.scheme, f"{HIDDEN}@{host}" if at else host, parts.path, "", ""))

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names that a submission may use."""
        return tuple(entry.partition("=")[0] for entry in self.models) or self.learned_models

    @property
    def model_slugs(self) -> frozenset[str]:
        return frozenset(self.own_names)

    @property
    def own_names(self) -> dict[str, str]:
        """The slugs that a task may ask for, each with the instance's own name of that model."""
        names: dict[str, str] = {}
        for entry in self.models or self.learned_models:
            name, _, own = entry.partition("=")
            names.setdefault(slug(name), own or name)
        return names


encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder(Backend).decode

_OPTIONS: Final = ("slots", "models", "keeps", "weight", "api_key", "disconnect_cancels", "workflow")


WorkflowAt = Callable[[str], Workflow | None]
"""Reads the workflow at a path; None: nobody is to look now."""


def _no_files(path: str) -> Workflow | None:
    raise RejectedError(Code.OUT_OF_RANGE, f"workflow={path} names a file, which only settings may")


def from_url(name: BackendId, url: str, kind: Kind, workflow_at: WorkflowAt = _no_files) -> Backend:
    """Read ``[protocol+]http://host:port[/path][?slots=2&models=a,b]``.

    Raises RejectedError that names the variable or setting, ``name``, and what is allowed.
    """
    # A scheme may not have the underscore that a protocol has, so that is taken off first.
    protocol, _, rest = url.rpartition("+") if "+" in url.partition("://")[0] else ("", "", url)
    parts = _address(rest)
    if parts is None:
        raise RejectedError(
            Code.OUT_OF_RANGE, f"{name}: an address like http://host:port, not {url!r}", member=name
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise RejectedError(
            Code.UNKNOWN_MEMBER,
            f"{name}: unknown option {unknown[0]!r} in {url!r}; allowed are {', '.join(_OPTIONS)}",
            member=name,
        )
    bare = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    models = tuple(m for m in options.pop("models", "").split(",") if m)
    workflow = options.pop("workflow", None)
    raw = {"name": name, "url": bare, "kind": kind, "models": models, **options}
    if rest != url:
        raw["protocol"] = protocol
    try:
        backend = msgspec.convert(raw, Backend, strict=False)
    except msgspec.ValidationError as error:
        raise RejectedError(Code.OUT_OF_RANGE, f"{name}: {error} in {url!r}", member=name) from error
    if backend.protocol and KIND_OF[backend.protocol] is not kind:
        raise RejectedError(
            Code.OUT_OF_RANGE, f"{name}: {backend.protocol} does not serve {kind}, in {url!r}", member=name
        )
    return backend if workflow is None else _with_workflow(backend, workflow, workflow_at)


def _with_workflow(backend: Backend, path: str, workflow_at: WorkflowAt) -> Backend:
    name = backend.name
    if backend.protocol not in (None, Protocol.COMFYUI):
        reason = f"{name}: the option workflow is for comfyui, not for {backend.protocol}"
        raise RejectedError(Code.CONFLICTING_MEMBERS, reason, member=name)
    try:
        return replace(backend, workflow=workflow_at(path))
    except RejectedError as error:
        reason = f"{name}: the workflow {path!r}: {error.detail}"
        raise RejectedError(error.code, reason, member=name) from error


def _address(url: str) -> SplitResult | None:
    """Take a url apart; None for what nobody could connect to."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is no number
        return None
    return parts if usable else None
