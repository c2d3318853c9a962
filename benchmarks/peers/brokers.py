"""What the peers keep their tasks in: each a fresh server in the folder of the rig, as durable as it goes.

The one rule: a submission that was acknowledged is on the disk, as it is with Taskfold.
"""

import contextlib
import os
import pwd
import shutil
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import psutil  # type: ignore[import-untyped]  # it has no types

from benchmarks.rig import HOST, Rig, until
from services.up import ports
from services.up.tree import Command

_OWNER: Final = "peers"
_READY: Final = "ready to accept connections"
_DEBIAN: Final = Path("/usr/lib/postgresql")
"""Debian has its servers here, by version, and not on PATH."""

_ACCOUNTS: Final = ("postgres", "nobody")
_TO_THE_FOLDER: Final = "+dac_override"
"""Lets another account pass through folders that are root's alone."""


class Broker(NamedTuple):
    """``spent_s`` tells how much processor time its processes have used."""

    url: str
    spent_s: Callable[[], float]


Start = Callable[[Rig], AbstractAsyncContextManager[Broker]]

REDIS: Final = ("redis-server",)
POSTGRES: Final = ("postgres", "initdb", *(("setpriv",) if os.geteuid() == 0 else ()))
"""The programs that they need."""


def missing(programs: Sequence[str]) -> list[str]:
    """Give those of the programs that are not on this machine."""
    return [program for program in programs if not _path(program)]


@asynccontextmanager
async def nats(rig: Rig) -> AsyncIterator[Broker]:
    """Give the server of the rig, which syncs every message as it does for Taskfold."""
    yield Broker(rig.settings.bus_url, lambda: rig.cpu_s()["nats-server"])


@asynccontextmanager
async def redis(rig: Rig) -> AsyncIterator[Broker]:
    folder = rig.settings.data_path / "redis"
    folder.mkdir()
    synced = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
    with _port() as port:
        place = ("--bind", HOST, "--port", str(port), "--dir", str(folder))
        process = await rig.run(_command(rig, "redis-server", *place, *synced))
        await until(lambda: ports.listens(HOST, port))
        yield Broker(f"redis://{HOST}:{port}", lambda: tree_s(process))


@asynccontextmanager
async def postgres(rig: Rig) -> AsyncIterator[Broker]:
    """Start it as it is shipped: a commit waits for the disk."""
    folder = rig.settings.data_path / "postgres"
    folder.mkdir(mode=0o700)
    account = _account()
    if account:
        shutil.chown(folder, account)
    making = _command(rig, "initdb", "--pgdata", str(folder), "--username", _OWNER, account=account)
    assert await (await rig.run(making)).wait() == 0, f"see {making.log}"
    with _port() as port:
        place = ("-D", str(folder), "-h", HOST, "-p", str(port), "-c", "unix_socket_directories=")
        serving = _command(rig, "postgres", *place, account=account)
        process = await rig.run(serving)

        async def ready() -> bool:
            return _READY in serving.log.read_text()

        await until(ready)
        yield Broker(f"postgresql://{_OWNER}@{HOST}:{port}/postgres", lambda: tree_s(process))


def tree_s(process: Process) -> float:
    """Give the processor time of a process and of all its children, those that have ended as well."""
    parent = psutil.Process(process.pid)
    spent_s = 0.0
    for each in (parent, *parent.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            spent = each.cpu_times()
            spent_s += spent.user + spent.system + spent.children_user + spent.children_system
    return spent_s


@contextlib.contextmanager
def _port() -> Iterator[int]:
    with contextlib.ExitStack() as reserved:
        yield ports.reserve(reserved, HOST, 0, "port")


def _command(rig: Rig, program: str, *words: str, account: str = "") -> Command:
    argv = (*_become(account), _path(program), *words)
    return Command(
        name=program, argv=argv, env={**os.environ}, log=rig.settings.data_path / "logs" / f"{program}.log"
    )


def _path(program: str) -> str:
    """Give where a program is; empty where it is not on this machine."""
    versions = sorted(_DEBIAN.glob("*/bin"), reverse=True)
    path = os.pathsep.join((os.environ.get("PATH", ""), *map(str, versions)))
    return shutil.which(program, path=path) or ""


def _account() -> str:
    """Name the account that PostgreSQL runs under where we are root, which it refuses; else none."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in _ACCOUNTS if name in known) if os.geteuid() == 0 else ""


def _become(account: str) -> tuple[str, ...]:
    """Give the words that run a program under an account, still tied to our life."""
    if not account:
        return ()
    group = str(pwd.getpwnam(account).pw_gid)
    rights = (f"--inh-caps={_TO_THE_FOLDER}", f"--ambient-caps={_TO_THE_FOLDER}", "--pdeathsig=KILL")
    return (_path("setpriv"), f"--reuid={account}", f"--regid={group}", "--clear-groups", *rights)
