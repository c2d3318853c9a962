"""Who the peers are, how their workers are started, and what is said beside their figures.

The one rule: what a peer does and does not do is said as the documentation or the code of the version that
is locked has it, settings that differ from its defaults too.
"""

from typing import Final

from msgspec import Struct

from benchmarks.peers import brokers

_REDIS: Final = "Redis with appendonly yes and appendfsync always; as shipped it takes snapshots alone"
_ALL_LACK: Final = (
    "GPUs it knows of (another one after a failure, the one with the model), fairness of tenants, SSE"
)


class Peer(Struct, frozen=True, kw_only=True):
    """``worker`` and ``prepare`` are words for the peers' interpreter.

    ``programs``: what its broker needs on this machine. ``told``: how a client learns of a task's end.
    ``kept``: what is left of a task afterwards.
    """

    name: str
    packages: tuple[str, ...]
    programs: tuple[str, ...] = ()
    broker: brokers.Start
    store: str
    prepare: tuple[str, ...] = ()
    worker: tuple[str, ...]
    told: str
    kept: str
    crash: str
    lacks: str = _ALL_LACK


PEERS: Final = (
    Peer(
        name="taskiq",
        packages=("taskiq", "taskiq-nats"),
        broker=brokers.nats,
        store="the same nats-server as Taskfold, which syncs every message",
        worker=("taskiq", "worker", "benchmarks.peers.taskiq_app:broker", "--workers", "1"),
        told="asks the object store every 5 ms",
        kept="the task and its result, both without end by default, and no history",
        crash="by default a task is acknowledged once its result is saved; after 30 s without that it is "
        "delivered anew, also while it still runs",
    ),
    Peer(
        name="saq",
        packages=("saq", "redis"),
        programs=brokers.REDIS,
        broker=brokers.redis,
        store=_REDIS,
        worker=("saq", "benchmarks.peers.saq_app.settings"),
        told="is told over pub/sub",
        kept="the job as it ended, for 10 minutes by default, and no history",
        crash="a job over its timeout (10 s by default) is swept, once a minute, and tried again if it has "
        "attempts left (here 5 in all; by default 1)",
    ),
    Peer(
        name="arq",
        packages=("arq", "redis"),
        programs=brokers.REDIS,
        broker=brokers.redis,
        store=_REDIS,
        worker=("arq", "benchmarks.peers.arq_app.Worker"),
        told="asks every 5 ms; its worker looks for work as often, by default every 500 ms",
        kept="the result, for an hour by default, and no history",
        crash="a job of a dead worker runs again 10 s after the longest timeout is over, by default "
        "5 minutes, and at most 5 times in all",
    ),
    Peer(
        name="celery",
        packages=("celery", "kombu", "redis"),
        programs=brokers.REDIS,
        broker=brokers.redis,
        store=_REDIS,
        worker=("celery", "--app", "benchmarks.peers.celery_app", "worker"),
        told="is told over pub/sub",
        kept="the result, for a day by default; its events, where they are on, are sent and not kept",
        crash="with acks_late, which is not its default, a task is delivered anew after its visibility "
        "timeout, an hour by default",
    ),
    Peer(
        name="procrastinate",
        packages=("procrastinate", "psycopg"),
        programs=brokers.POSTGRES,
        broker=brokers.postgres,
        store="PostgreSQL as it is shipped, which syncs every commit",
        prepare=("procrastinate", "--app=benchmarks.peers.procrastinate_app.app", "schema", "--apply"),
        worker=("procrastinate", "--app=benchmarks.peers.procrastinate_app.app", "worker"),
        told="asks for the status every 5 ms",
        kept="the job and the moments of its states, but no result: the job puts the picture into a table",
        crash="a job whose worker's heartbeat has stopped is stalled, and stays so until a periodic "
        "task that its user writes tries it again",
    ),
)
