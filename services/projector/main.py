"""Wires the projector together; the only module here that reads settings."""

import asyncio
import socket
from datetime import timedelta
from pathlib import Path

import structlog

from services import clock, supervision
from services.bus.bulk import BulkBus
from services.process import StartError, background, unless
from services.projector.loop import TICK_S, Projector
from services.settings import Settings

log = structlog.get_logger()


async def announce(path: Path) -> None:
    """Say that there is a read model; a new one is put in place once it has caught up."""
    while not path.exists():  # noqa: ASYNC110, ASYNC240 - a look at a local file, and it sends no signal
        await asyncio.sleep(TICK_S)
    supervision.ready(f"folds into {path}")


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Project until ``stop``; what was folded by then is committed."""
    path = settings.readmodel_path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"cannot make the data folder {path.parent}: {error.strerror}") from error
    name = clock.new_name()[:8]
    bus = BulkBus(settings.bus_url, f"taskfold projector {name}")
    if not await unless(stop, bus.connect()):
        return
    log.info("projector.started", readmodel=str(path))
    projector = Projector(
        bus,
        settings.bus_url,
        path,
        name,
        f"{socket.gethostname()}:{path}",
        keep=timedelta(days=settings.keep_tasks_days),
        copy_every=timedelta(hours=settings.snapshot_interval_h),
    )
    try:
        async with background(projector.run(), announce(path)):
            await stop.wait()
    finally:
        await bus.close()
    log.info("projector.stopped")
