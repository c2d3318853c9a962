"""Which protocol a backend speaks, and the adapter for it.

The one rule: this is the only place that knows all protocols; another one is a file and a case here.
"""

from typing import Final

import aiohttp

from schemas.registry import Backend, Protocol
from schemas.requests import Kind
from services.dispatcher.backends import openai_stt, whisper_asr, whispercpp
from services.dispatcher.backends.base import Adapter, Health, Misconfigured
from services.dispatcher.backends.classify import NOT_FOUND, OK, Broken, Reply, health
from services.dispatcher.backends.comfyui import ComfyuiAdapter
from services.dispatcher.backends.comfyui_wire import STATS, is_comfyui
from services.dispatcher.backends.http import Endpoint
from services.dispatcher.backends.openai_health import HEALTH, MODELS
from services.dispatcher.backends.openai_images import OpenaiImagesAdapter
from services.dispatcher.backends.sdapi import SdapiAdapter
from services.dispatcher.backends.sdapi_wire import SAMPLERS, speaks_sdapi
from services.dispatcher.backends.sdcpp import SdcppAdapter
from services.dispatcher.backends.sdcpp_wire import CAPABILITIES, model_name
from services.dispatcher.backends.speech import SpeechAdapter

_ROUTES: Final = {
    Kind.IMAGE: (CAPABILITIES, SAMPLERS, STATS, MODELS, HEALTH),
    Kind.SPEECH: (MODELS, whispercpp.PAGE, whisper_asr.OPENAPI, HEALTH),
}
_NOTHING_SAID: Final = frozenset({OK, NOT_FOUND, 405, 307})  # 307: a root that leads to some other page


def adapter_for(session: aiohttp.ClientSession, backend: Backend) -> Adapter:
    """Build the adapter. ValueError before the protocol of a plain url was recognised."""
    match backend.speaks:
        case Protocol.SDCPP:
            return SdcppAdapter(session, backend)
        case Protocol.OPENAI_IMAGES:
            return OpenaiImagesAdapter(session, backend)
        case Protocol.SDAPI:
            return SdapiAdapter(session, backend)
        case Protocol.COMFYUI:
            return ComfyuiAdapter(session, backend)
        case Protocol.OPENAI_STT:
            return SpeechAdapter(session, backend, openai_stt.DIALECT)
        case Protocol.WHISPERCPP:
            return SpeechAdapter(session, backend, whispercpp.DIALECT)
        case Protocol.WHISPER_ASR:
            return SpeechAdapter(session, backend, whisper_asr.DIALECT)
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
            # Before the routes of others: KoboldCpp has them too.
            if route == SAMPLERS:
                return Protocol.SDAPI if speaks_sdapi(answer) else None
            if route == STATS:
                return Protocol.COMFYUI if answer.status == OK and is_comfyui(answer.body) else None
            return Protocol.OPENAI_IMAGES if answer.status == OK else None
        case Kind.SPEECH:
            if route == whispercpp.PAGE:
                return Protocol.WHISPERCPP if whispercpp.is_page(answer) else None
            if route == whisper_asr.OPENAPI:
                return Protocol.WHISPER_ASR if whisper_asr.is_described(answer) else None
            return Protocol.OPENAI_STT if answer.status == OK else None
