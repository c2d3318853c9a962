"""Makes the server ready: streams and buckets, then the registry. Safe to run at any time, and again."""

import asyncio
import sys

from msgspec.structs import replace

from schemas import registry, subjects
from schemas.ids import BackendId
from schemas.registering import merged
from schemas.registry import Backend, Source, Wanted
from services.bus.buckets import Bucket
from services.bus.connection import Bus
from services.bus.streams import ensure_stream
from services.process import unless
from services.settings import Settings

_GIB = 1024**3


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Create what lacks, change what differs, and print a line for each."""
    bus = Bus(settings.bus_url, "taskfold init")
    if not await unless(stop, bus.connect()):
        return
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
    configured = settings.backends()
    for backend in configured:
        if line := await seed(bucket, backend):
            sys.stdout.write(f"{line}\n")
    for line in await retire(bucket, {backend.name for backend in configured}):
        sys.stdout.write(f"{line}\n")


async def seed(bucket: Bucket, configured: Backend) -> str | None:
    """Put a configured backend into the registry; what was changed since, and learned, is kept."""
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


async def retire(bucket: Bucket, configured: set[BackendId]) -> list[str]:
    """Take out of use what was configured once and is no more; it comes back when it is again."""
    lines: list[str] = []
    for entry in await bucket.all():
        backend = registry.decode(entry.value) if entry.value else None
        if backend is None or backend.source is not Source.CONFIG or backend.name in configured:
            continue
        gone = replace(backend, wanted=Wanted.GONE)
        if gone != backend and await bucket.replace(entry.key, registry.encode(gone), entry.revision):
            lines.append(f"retired backend {backend.name} at {backend.url}")
    return lines
