"""whisper.cpp's ``whisper-server`` at its own path.

The one rule: nothing is left to the options that it was started with; without a language it would take
every recording for English, and it breaks segments within words unless told otherwise.
"""

import re
from typing import Final

from schemas.requests import SpeechRequest
from services.dispatcher.backends.base import Health, Ready
from services.dispatcher.backends.classify import NOT_FOUND, OK, Broken, Reply, health
from services.dispatcher.backends.http import Endpoint
from services.dispatcher.backends.speech import Asked, Dialect
from services.dispatcher.backends.transcripts import parse

INFERENCE: Final = "/inference"
HEALTH: Final = "/health"
PAGE: Final = "/"

_FORM: Final = re.compile(rb'<form[^>]*action="[^"]*/inference"')


def asked(request: SpeechRequest, _model: str | None) -> Asked:
    """List the form's fields; it has one model, which has no name."""
    listed = [
        ("response_format", "verbose_json"),
        ("temperature", str(request.temperature)),
        ("language", request.language or "auto"),
        ("translate", "true" if request.translate else "false"),
        ("split_on_word", "true"),
        # Or it would listen to the beginning once more, to say how sure it is of the language.
        ("no_language_probabilities", "true"),
    ]
    if request.prompt:
        listed.append(("prompt", request.prompt))
    return Asked(path=INFERENCE, fields=listed)


async def probe(endpoint: Endpoint, timeout_s: float) -> Health:
    """Ask for its health, which it says while it works too; old builds have only their page."""
    up = await endpoint.get(HEALTH, timeout_s / 2)
    if isinstance(up, Broken) or up.status != NOT_FOUND:
        return health(up)
    page = await endpoint.get(PAGE, timeout_s / 2)
    return Ready() if isinstance(page, Reply) and is_page(page) else health(up)


def is_page(answer: Reply) -> bool:
    """Whether this is the page that it has at its root; another ``--inference-path`` stands there too."""
    return answer.status == OK and _FORM.search(answer.body) is not None


DIALECT: Final = Dialect(asked=asked, read=parse, probe=probe, disconnect_cancels=True)
