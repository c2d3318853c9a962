"""How a server with OpenAI's routes is probed, image and speech alike.

The one rule: ``/health`` says whether it is up, ``/v1/models`` whether it serves us; speaches leaves the
first open to those whom it denies the second.
"""

from typing import Final

from services.dispatcher.backends.base import Health, Ready
from services.dispatcher.backends.classify import NOT_FOUND, OK, Broken, Reply, Trouble, health
from services.dispatcher.backends.http import Endpoint

HEALTH: Final = "/health"
MODELS: Final = "/v1/models"
IDLE_TIMEOUT_S: Final = 2.0

_NO_ROUTE: Final = frozenset({NOT_FOUND, 405})


async def probe(endpoint: Endpoint, timeout_s: float) -> Health:
    """Ask for both, each in half of the time; a server that has only one of them is fine."""
    up = await endpoint.get(HEALTH, timeout_s / 2)
    if isinstance(up, Broken) or (up.status != OK and up.status not in _NO_ROUTE):
        return health(up)
    models = await endpoint.get(MODELS, timeout_s / 2)
    if up.status == OK and isinstance(models, Reply) and models.status in _NO_ROUTE:
        return Ready()
    return health(models)


async def idle(endpoint: Endpoint) -> bool | None:
    """Say True when the process is gone; a request leaves no trace, so otherwise nobody knows."""
    answer = await endpoint.get(HEALTH, IDLE_TIMEOUT_S)
    gone = isinstance(answer, Broken) and answer.trouble is Trouble.REFUSED
    return True if gone else None
