"""Where everything lives on NATS: the one map of streams, subjects, consumers and buckets.

The one rule: nothing else spells a subject or a name. Configurations are the JSON of the JetStream API
(durations in nanoseconds), since a client's own types lag behind the server's.
"""

import base64
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from msgspec import Struct

from schemas.errors import UndecodableError
from schemas.events import TOKENS, TaskEvent, TaskSubmitted
from schemas.ids import ArtifactId, BackendId, TaskId, UploadId

Config = Mapping[str, Any]  # Any: the JSON of the JetStream API

TASKS: Final = "TASKS"
PROGRESS: Final = "PROGRESS"
ARTIFACTS: Final = "ARTIFACTS"
BACKENDS: Final = "BACKENDS"
LEASES: Final = "LEASES"
FLEET: Final = "FLEET"
CONTROL: Final = "CONTROL"

TASK_EVENTS: Final = "task.>"
APPLIED: Final = "taskfold.applied"
"""The projector's hint that it has committed; its content is trusted by nobody."""
SUSPECT: Final = "taskfold.readmodel.suspect"
"""A reader's hint that the read model's file could not be read."""
REBUILD: Final = "taskfold.readmodel.rebuild"
"""A request that every projector makes its read model anew; each tells how far it is until it is done."""
WAKE_SUBMITTED: Final = "wake.*.*.*.*.*.submitted"
WAKE_CANCELLED: Final = "wake.*.*.*.*.*.cancelled"
WAKE_EXPIRED: Final = "wake.*.*.*.*.*.expired"

UPLOAD_MARKS: Final = f"$O.{ARTIFACTS}.U.*"
"""What has become of each upload that came by its id; beside what ADR-20 knows of an object store."""

SWEEPER: Final = "sweeper"
"""The key in LEASES of the role that expires overdue tasks."""

SAVED: Final = (
    *(f"KV_{LEASES}", f"KV_{FLEET}", PROGRESS, TASKS),
    *(f"OBJ_{ARTIFACTS}", f"KV_{BACKENDS}", f"KV_{CONTROL}"),
)
"""Every stream, in the order of a backup: what names another before what it names.

So no lease names a task, and no event an artifact, that the copy lacks.
"""

LANES: Final = 8
MOST_LANES: Final = 100_000
"""Of all queues together. A stream that says nothing of it has 1,000 consumers, which are forty models."""
ACK_WAIT_S: Final = 30
NANOSECOND: Final = 1_000_000_000
_DAY: Final = 86_400 * NANOSECOND


class Lane(Struct, frozen=True, order=True, cache_hash=True):
    """One durable pull consumer: (kind, model, priority, number)."""

    kind: str
    model: str
    priority: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.model}-{self.priority}-{self.number}"

    @property
    def filter(self) -> str:
        return f"task.{self.kind}.{self.model}.{self.priority}.{self.number}.*.submitted"

    @property
    def consumer(self) -> Config:
        """Define a lane's consumer. A ticket is acked after the final event, so no delivery limit."""
        return {
            "name": self.name,
            "durable_name": self.name,
            "filter_subject": self.filter,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": ACK_WAIT_S * NANOSECOND,
            "max_deliver": -1,
            "max_ack_pending": -1,
            "max_waiting": 4096,
        }


class Address(Struct, frozen=True):
    """Where the events of one task live: its lane and its id."""

    lane: Lane
    task_id: TaskId

    @property
    def prefix(self) -> str:
        lane = self.lane
        return f"task.{lane.kind}.{lane.model}.{lane.priority}.{lane.number}.{self.task_id}"

    @property
    def guard(self) -> str:
        """What every append of this task is guarded by: literally the same from every writer."""
        return f"{self.prefix}.*"

    def subject(self, event_type: type[TaskEvent]) -> str:
        return f"{self.prefix}.{TOKENS[event_type]}"


def address_of(prefix: str) -> Address:
    """Read an address back from its prefix, as the read model keeps it."""
    return parse_subject(f"{prefix}.*")[0]


def lane_of_filter(subject: str) -> Lane | None:
    """Read a lane back from its consumer's filter; None for a consumer that is no lane."""
    tokens = subject.split(".")
    return _lane(*tokens[1:5]) if len(tokens) == 7 and tokens[5:] == ["*", "submitted"] else None  # noqa: PLR2004 - the grammar's seven tokens


def parse_subject(subject: str) -> tuple[Address, str]:
    """Split ``task.<kind>.<model>.<priority>.<lane>.<id>.<event>``, or its ``wake.`` twin, in two."""
    prefix, _, token = subject.rpartition(".")
    address = _address(prefix)
    if address is None:
        raise UndecodableError(f"not the subject of an event: {subject}")
    return address, token


@lru_cache(maxsize=16_384)
def _address(prefix: str) -> Address | None:
    """Read what the events of a task have in common; they come soon after one another."""
    tokens = prefix.split(".")
    lane = _lane(*tokens[1:5]) if len(tokens) == 6 else None  # noqa: PLR2004 - as above, less the last
    return Address(lane, TaskId(tokens[5])) if lane else None


@lru_cache(maxsize=4096)
def _lane(kind: str, model: str, priority: str, number: str) -> Lane | None:
    """Give the same lane for the same words, by which it is found the faster in a dictionary."""
    return Lane(kind, model, priority, int(number)) if number.isdecimal() else None


def any_guard(task_id: TaskId) -> str:
    """Give the wildcard guard, for where the same id may come again with another model or lane."""
    return f"task.*.*.*.*.{task_id}.*"


def progress_subject(task_id: TaskId) -> str:
    return f"progress.{task_id}"


def preview_subject(task_id: TaskId) -> str:
    return f"preview.{task_id}"


def schedule_subject(task_id: TaskId) -> str:
    return f"sched.{task_id}"


def lease_key(backend: BackendId, slot: int) -> str:
    return f"{backend}.{slot}"


def slot_of(key: str) -> tuple[BackendId, int] | None:
    """Read a key of LEASES, None where it is for no slot of a backend."""
    backend, _, slot = key.rpartition(".")
    return (BackendId(backend), int(slot)) if backend and slot.isdecimal() else None


def lanes_of_tenant(tenant: str, lanes: int = LANES) -> tuple[int, int]:
    """Give the two lanes that a tenant's tasks go to, always different where there are two."""
    digest = hashlib.sha256(tenant.encode()).digest()
    first = digest[0] % lanes
    return first, (first + 1 + digest[1] % max(1, lanes - 1)) % lanes


SUBMITTED: Final = TOKENS[TaskSubmitted]


def streams(*, max_age_days: float, artifact_bytes: int, replicas: int = 1) -> list[dict[str, Any]]:
    """Every stream, bucket and object store that Taskfold needs, as JetStream spells them."""
    max_age = int(max_age_days * _DAY)
    unsynced = "async" if replicas == 1 else None  # no fsync, where the server offers that
    log = {
        "name": TASKS,
        "subjects": [TASK_EVENTS, "sched.>"],
        "retention": "limits",
        "discard": "old",
        "max_age": max_age,
        "max_bytes": -1,
        "max_consumers": MOST_LANES,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "allow_msg_schedules": True,
        "allow_atomic": True,
        "duplicate_window": 120 * NANOSECOND,
        "republish": {"src": TASK_EVENTS, "dest": "wake.>", "headers_only": True},
    }
    progress = {
        "name": PROGRESS,
        "subjects": ["progress.*", "preview.*"],
        "retention": "limits",
        "discard": "old",
        "max_msgs_per_subject": 1,
        "max_age": 3600 * NANOSECOND,
        "max_bytes": 256 * 1024 * 1024,
        "allow_direct": True,
        **({"persist_mode": unsynced} if unsynced else {}),
    }
    artifacts = {
        "name": f"OBJ_{ARTIFACTS}",
        "subjects": [f"$O.{ARTIFACTS}.C.>", f"$O.{ARTIFACTS}.M.>", UPLOAD_MARKS],
        "retention": "limits",
        "discard": "new",
        "max_age": max_age,
        "max_bytes": artifact_bytes,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": True,
    }
    buckets = [
        _bucket(BACKENDS, history=5, allow_msg_ttl=True),
        _bucket(LEASES, persist_mode=unsynced),
        _bucket(FLEET, persist_mode=unsynced, allow_msg_ttl=True),
        _bucket(CONTROL, history=5),
    ]
    return [
        {"storage": "file", "num_replicas": replicas, **config}
        for config in (log, progress, artifacts, *buckets)
    ]


def _bucket(
    name: str, *, history: int = 1, persist_mode: str | None = None, allow_msg_ttl: bool = False
) -> dict[str, Any]:
    return {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "retention": "limits",
        "discard": "new",
        "max_msgs_per_subject": history,
        "max_bytes": 64 * 1024 * 1024,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        **({"persist_mode": persist_mode} if persist_mode else {}),
        **({"allow_msg_ttl": True} if allow_msg_ttl else {}),
    }


def object_meta_subject(name: ArtifactId) -> str:
    """Where an object's description lives (ADR-20): its name in URL-safe base64."""
    return f"$O.{ARTIFACTS}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def object_chunk_subject(nuid: str) -> str:
    return f"$O.{ARTIFACTS}.C.{nuid}"


def upload_mark_subject(upload_id: UploadId) -> str:
    return UPLOAD_MARKS.replace("*", upload_id)


def upload_of_mark(subject: str) -> UploadId:
    return UploadId(subject.rpartition(".")[2])
