"""Wires the dispatcher together; the only module here that reads settings."""

import asyncio
import os
import socket

import structlog

from schemas.ids import slug
from services import clock, supervision
from services.artifacts import ArtifactStore
from services.bus.connection import Bus
from services.bus.tasklog import TaskLog
from services.dispatcher.backends.http import session
from services.dispatcher.desk import Desk
from services.dispatcher.execution import Execution
from services.dispatcher.instances import Registry
from services.dispatcher.loop import Loop
from services.leases import Leases
from services.process import background, unless
from services.settings import Settings

log = structlog.get_logger()


def new_name() -> str:
    """Name this dispatcher so that no other, before or after it, has the same name."""
    return f"{slug(socket.gethostname())}-{os.getpid()}-{clock.new_name()[:8]}"


async def announce(leases: Leases, name: str) -> None:
    """Say that the work begins: before it knows the leases, a dispatcher takes nothing."""
    await leases.known.wait()
    supervision.ready(f"dispatches as {name}")


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Dispatch until ``stop``, then drain."""
    name = new_name()
    bus = Bus(settings.bus_url, f"taskfold dispatcher {name}")
    if not await unless(stop, bus.connect()):
        return
    log.info("dispatcher.started", name=name, nats=settings.bus_url)
    try:
        async with session() as http:
            leases = Leases(bus, name, settings.lease_s)
            registry = Registry(bus, http, settings, name, leases.changed)
            execution = Execution(bus, ArtifactStore(bus), settings, name)
            tasklog = TaskLog(bus, f"/taskfold/dispatcher/{name}", clock.now, clock.new_event_id)
            desk = Desk(tasklog, leases, registry, execution)
            async with background(announce(leases, name)):
                await Loop(bus, leases, registry, desk, execution, settings).run(stop)
    finally:
        await bus.close()
    log.info("dispatcher.stopped", name=name)
