"""Makes the server ready: streams and buckets, then the registry. Safe to run at any time, any number of times."""

import asyncio
import sys

import msgspec

from schemas import registry, subjects
from schemas.registry import Backend, Source
from services.bus.buckets import Bucket
from services.bus.connection import Bus
from services.bus.streams import ensure_stream
from services.settings import Settings

_GIB = 1024**3


async def serve(settings: Settings, stop: asyncio.Event) -> None:  # noqa: ARG001 - ends by itself
    """Create what lacks, change what differs, and print a line for each."""
    bus = Bus(settings.bus_url, "taskfold init")
    await bus.connect()
    try:
        await prepare(bus, settings)
    finally:
        await bus.close()


async def prepare(bus: Bus, settings: Settings) -> None:
    for config in subjects.streams(
        max_age_days=settings.max_age_days,
        artifact_bytes=int(settings.artifact_gib * _GIB),
        replicas=settings.replicas,
    ):
        if line := await ensure_stream(bus, config):
            sys.stdout.write(f"{line}\n")
    bucket = Bucket(bus, subjects.BACKENDS)
    for backend in settings.backends():
        if line := await seed(bucket, backend):
            sys.stdout.write(f"{line}\n")


async def seed(bucket: Bucket, configured: Backend) -> str | None:
    """Put a configured backend into the registry; one that is there keeps what it is wanted to be and has learned."""
    while True:
        entry = await bucket.get(configured.name)
        if entry.value is None and entry.revision:
            return None  # somebody removed it; a restart does not bring it back
        known = registry.decode(entry.value) if entry.value else None
        backend = merged(known, configured)
        if backend == known:
            return None
        if await bucket.replace(configured.name, registry.encode(backend), entry.revision) is not None:
            return f"{'changed' if known else 'added'} backend {backend.name} at {backend.url}"


def merged(known: Backend | None, configured: Backend) -> Backend:
    """Say what the registry should hold: the configured url, and from what is known the rest."""
    if known is None:
        return configured
    learned = known.url == configured.url
    return msgspec.structs.replace(
        configured,
        wanted=known.wanted,
        source=Source.CONFIG,
        learned_protocol=known.learned_protocol if learned else None,
        learned_models=known.learned_models,
    )
