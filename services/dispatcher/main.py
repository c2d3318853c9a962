"""Wires the dispatcher together; the only module here that reads settings."""

import asyncio
import os
import socket

import aiohttp
import structlog

from schemas.ids import slug
from services import clock, process, supervision
from services.artifacts import ArtifactStore
from services.bus.connection import Bus
from services.bus.tasklog import TaskLog
from services.dispatcher.backends.http import session
from services.dispatcher.control import Control
from services.dispatcher.desk import Desk
from services.dispatcher.execution import Execution
from services.dispatcher.fleet import Fleet
from services.dispatcher.loop import Loop, Parts
from services.dispatcher.recording import Recorder
from services.dispatcher.registry import Registry
from services.leases import Leases
from services.settings import Settings

log = structlog.get_logger()


def new_name() -> str:
    """Name this dispatcher so that no other, before or after it, has the same name."""
    return f"{slug(socket.gethostname())}-{os.getpid()}-{clock.new_name()[:8]}"


async def announce(leases: Leases, name: str) -> None:
    """Say that the work begins: before it knows the leases, a dispatcher takes nothing."""
    await leases.known.wait()
    process.settle_garbage()
    supervision.ready(f"dispatches as {name}")


def _wired(bus: Bus, http: aiohttp.ClientSession, settings: Settings, name: str) -> Parts:
    """Build everything that a dispatcher is made of."""
    artifacts = ArtifactStore(bus)
    leases = Leases(bus, name, settings.lease_s)
    fleet = Fleet(bus, name)
    registry = Registry(bus, http, settings, fleet, leases)
    recorder = Recorder(artifacts, fleet, settings)
    execution = Execution(bus, artifacts, leases, registry, fleet, recorder, settings)
    tasklog = TaskLog(bus, f"/taskfold/dispatcher/{name}", clock.now, clock.new_event_id)
    return Parts(
        bus=bus,
        leases=leases,
        registry=registry,
        fleet=fleet,
        control=Control(bus, name, leases.changed),
        desk=Desk(tasklog, leases, registry, execution, recorder),
        execution=execution,
        settings=settings,
    )


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Dispatch until ``stop``, then drain."""
    name = new_name()
    bus = Bus(settings.bus_url, f"taskfold dispatcher {name}")
    if not await process.unless(stop, bus.connect()):
        return
    log.info("dispatcher.started", name=name, nats=settings.bus_url)
    try:
        async with session() as http:
            parts = _wired(bus, http, settings, name)
            async with process.background(announce(parts.leases, name)):
                await Loop(parts).run(stop)
    finally:
        await bus.close()
    log.info("dispatcher.stopped", name=name)
