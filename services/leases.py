"""Leases over the bucket LEASES: watched, taken, renewed, released.

The one rule: a holder trusts its lease only while, by its own clock, nobody can have taken it.
"""

import asyncio
import math
from bisect import insort
from collections.abc import Iterator
from typing import Final

import structlog
from msgspec.structs import replace

from schemas import lease as leases
from schemas.errors import UnavailableError
from schemas.ids import BackendId, TaskId
from schemas.lease import RELEASED, Claim, Lease, Sighting, claim, seen
from schemas.subjects import LEASES, SWEEPER, lease_key, slot_of
from services.bus.buckets import Bucket, Entry
from services.bus.connection import Bus
from services.process import at_most

log = structlog.get_logger()

_RENEWALS: Final = 3
_MARGIN: Final = 0.9
_PAUSE_S: Final = 0.25
_ALONE_S: Final = 60.0


class Held:
    """A lease of ours. ``valid`` turns false before anybody else may take it."""

    def __init__(self, owner: "Leases", key: str, lease: Lease, revision: int, renewed_at: float) -> None:
        self._owner = owner
        self._lock = asyncio.Lock()
        self.key = key
        self.lease = lease
        self.revision = revision
        self.renewed_at = renewed_at
        self.lost = False

    @property
    def valid(self) -> bool:
        age_s = asyncio.get_running_loop().time() - self.renewed_at
        return not self.lost and age_s < self._owner.lease_s * _MARGIN

    async def write(self, lease: Lease) -> bool:
        """Renew with this content; False when somebody else holds it.

        Without NATS it is written with the next renewal.
        """
        async with self._lock:
            if self.lost:
                return False
            asked_at = asyncio.get_running_loop().time()
            try:
                revision = await self._owner.put(self.key, lease, self.revision)
            except UnavailableError:
                self.lease = lease
                return True
            if revision is None:
                self.lost = True
                log.warning("lease.lost", key=self.key)
                return False
            self.lease, self.revision, self.renewed_at = lease, revision, asked_at
            return True

    async def assured(self) -> bool:
        """Wait, through an outage, until it is good for sure; False when somebody else holds it."""
        while not self.valid and not self.lost:
            await self.renew()
            await asyncio.sleep(_PAUSE_S)
        return not self.lost

    async def renew(self) -> None:
        await self.write(self.lease)

    async def release(self) -> None:
        """Say that the slot is free and idle."""
        await self._end(RELEASED)

    async def leave(self) -> None:
        """Say that what runs there goes on without us, for another to take over at once."""
        await self._end(replace(self.lease, holder=None))

    async def _end(self, lease: Lease) -> None:
        self._owner.forget(self)
        await self.write(lease)
        self.lost = True


class Leases:
    """All leases as this process sees them, and those that it holds."""

    def __init__(self, bus: Bus, holder: str, lease_s: float) -> None:
        self._bus = bus
        self._bucket = Bucket(bus, LEASES)
        self._watch = self._bucket.watch(f"leases-{holder}")
        self._seen: dict[str, Sighting] = {}
        self._slots: dict[str, list[int]] = {}
        """Those of each backend that were seen to have a lease, in order."""
        self._held: dict[str, Held] = {}
        self._doubted: set[str] = set()
        self._renew_now = asyncio.Event()
        self._settled_at = 0.0
        self._met_at = -math.inf
        self._followed = 0
        self._progress = asyncio.Condition()
        self.holder = holder
        self.lease_s = lease_s
        self.changed = asyncio.Event()
        """Set whenever a lease was seen to change."""
        bus.on_reconnect(self._renew_first)

    @property
    def known(self) -> asyncio.Event:
        """Set once what was there at the start is known; before that nothing may be taken."""
        return self._watch.follower.caught_up

    def _renew_first(self) -> None:
        """Take nothing for one renewal interval after an outage.

        A server that was killed has forgotten the last writes of a few milliseconds, or with its machine of
        a few minutes, so a slot that it says is free may be another's, who is about to say so again.
        """
        self._settled_at = asyncio.get_running_loop().time() + self.lease_s / _RENEWALS
        self._renew_now.set()

    async def follow(self) -> None:
        """Keep watching; runs until it is cancelled."""
        generation = 0
        async for entries in self._watch.entries():
            if generation != self._watch.follower.generation:
                generation = self._watch.follower.generation
                self._doubted = set(self._seen)  # whose revisions a server that forgot may use again
            for entry in entries:
                known = self._seen.get(entry.key)
                if known is None or entry.revision > known.revision or entry.key in self._doubted:
                    self._see(entry)
                self._followed = entry.revision
            self.changed.set()
            await self._note_progress()

    def _see(self, entry: Entry) -> None:
        """Take in what a key says; what was known already keeps its age."""
        self._doubted.discard(entry.key)
        known = self._seen.get(entry.key)
        lease = leases.decode(entry.value) if entry.value else RELEASED
        if lease.holder not in (None, self.holder) and entry.key != SWEEPER:  # which is no slot
            self._met_at = asyncio.get_running_loop().time()
        if known is None or (known.revision, known.lease) != (entry.revision, lease):
            self._note(entry.key, lease, entry.revision)

    def _note(self, key: str, lease: Lease, revision: int) -> None:
        known = self._seen.get(key)
        if known is None and (named := slot_of(key)):
            backend, slot = named
            insort(self._slots.setdefault(backend, []), slot)
        self._seen[key] = seen(known, lease, revision, asyncio.get_running_loop().time())

    async def _note_progress(self) -> None:
        async with self._progress:
            self._progress.notify_all()

    async def rank(self, held: Held, tenant: str) -> int:
        """Give how many attempts of a tenant were begun before the one that a lease of ours is for.

        Leases are written in one order that everybody sees, so of all who ask at once the first few of a
        tenant are the same for everybody. Waits until what was written before ours has been seen.
        """
        ours = self._seen[held.key]
        async with self._progress:
            await self._progress.wait_for(lambda: self._followed >= ours.began)
        return sum(began < ours.began for began in self._begun(tenant, held))

    def begun(self, tenant: str, besides: Held | None = None) -> int:
        """Count the attempts of a tenant that are under way as far as this process has seen."""
        return sum(1 for _ in self._begun(tenant, besides))

    def _begun(self, tenant: str, besides: Held | None) -> Iterator[int]:
        """Give when each attempt of a tenant was begun, but for that of one lease."""
        for key, other in self._seen.items():
            of_tenant = other.lease.tenant == tenant and other.lease.task_id is not None
            if of_tenant and not (besides and key == besides.key) and self.claim(key) is Claim.HELD:
                yield other.began

    async def keep(self) -> None:
        """Renew what is held a third of a lease time after it was last written, and after a reconnect.

        Each in its own time: all at once, many leases would keep a task from its start for that long.
        """
        while True:
            async with at_most(_PAUSE_S):
                await self._renew_now.wait()
            at_once = self._renew_now.is_set()
            self._renew_now.clear()
            due = asyncio.get_running_loop().time() - self.lease_s / _RENEWALS
            old = [held for held in self._held.values() if at_once or held.renewed_at <= due]
            await asyncio.gather(*(held.renew() for held in old))

    @property
    def alone(self) -> bool:
        """Whether nobody else has had a lease for a while, so that hardly anybody will be faster."""
        return asyncio.get_running_loop().time() - self._met_at > _ALONE_S

    def sighting(self, key: str) -> Sighting | None:
        return self._seen.get(key)

    def claim(self, key: str) -> Claim:
        """Say whether a lease may be taken now."""
        now = asyncio.get_running_loop().time()
        if now < self._settled_at or not self._watch.follower.current:
            return Claim.HELD
        return claim(
            self._seen.get(key), now=now, connected_since=self._bus.connected_since, lease_s=self.lease_s
        )

    def working_on(self, task_id: TaskId) -> bool:
        """Whether somebody who renews a lease says that it is for that task."""
        return any(
            task_id in (found.lease.task_id, found.lease.recording) and self.claim(key) is Claim.HELD
            for key, found in self._seen.items()
        )

    def left(self, task_id: TaskId) -> str | None:
        """Give the key of the stale lease under which a task was begun by one that is gone."""
        for key, found in self._seen.items():
            if found.lease.task_id == task_id and found.lease.remote_id and self.claim(key) is Claim.STALE:
                return key
        return None

    def of_task(self, task_id: TaskId) -> Lease | None:
        """Give the lease under which a task runs, or ran last."""
        found = (sighting for sighting in self._seen.values() if sighting.lease.task_id == task_id)
        last = max(found, key=lambda sighting: sighting.revision, default=None)
        return last.lease if last else None

    def running(self, backend: BackendId) -> list[tuple[int, Lease]]:
        """Give the slots of a backend, in order, that somebody who renews the lease runs a task on.

        Of all the slots that there may be: one that is no longer configured ends what it began. Left behind
        counts too: somebody is about to go on with it.
        """
        keys = [(slot, lease_key(backend, slot)) for slot in self._slots.get(backend, ())]
        return [
            (slot, found.lease)
            for slot, key in keys
            if (found := self._seen.get(key))
            and found.lease.task_id
            and (found.lease.holder is None or self.claim(key) is Claim.HELD)
        ]

    async def take(self, key: str, lease: Lease) -> Held | None:
        """Take a lease that is free or stale; None when it is not, somebody was faster or NATS is away."""
        # Looked at here, in the same breath as the revision: the caller's own look may be out of date.
        if self.claim(key) is Claim.HELD:
            return None
        known = self._seen.get(key)
        asked_at = asyncio.get_running_loop().time()
        ours = replace(lease, holder=self.holder)
        try:
            revision = await self.put(key, ours, known.revision if known else 0)
        except UnavailableError:
            return None
        if revision is None:
            return None
        held = self._held[key] = Held(self, key, ours, revision, asked_at)
        return held

    def forget(self, held: Held) -> None:
        self._held.pop(held.key, None)

    async def put(self, key: str, lease: Lease, revision: int) -> int | None:
        """Write on top of ``revision``; if that fails, see whether our own write came first.

        Or whether the server has forgotten that revision; nobody has it then, or who had it before.
        """
        content = leases.encode(lease)
        written = await self._bucket.replace(key, content, revision)
        if written is None:
            entry = await self._bucket.get(key)
            found = leases.decode(entry.value) if entry.value else RELEASED
            forgotten = found.holder is None and entry.revision < revision
            if found.holder != self.holder and not forgotten:
                self._see(entry)
                return None
            written = await self._bucket.replace(key, content, entry.revision)
        if written is not None:
            self._note(key, lease, written)
        return written
