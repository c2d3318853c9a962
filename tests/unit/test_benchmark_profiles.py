"""Where a process spends its time: what is read from folded stacks, and what a figure says of it."""

from collections import Counter

import pytest

from benchmarks import profiles, stacks
from benchmarks.profiles import Seen

MAIN = (
    "<module> (services/__main__.py);Runner.run (asyncio/runners.py);Loop.run (services/dispatcher/loop.py)"
)


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        (MAIN, "services/dispatcher"),
        (f"{MAIN}:140", "services/dispatcher"),
        (f"{MAIN};now (services/clock.py)", "services"),
        (f"{MAIN};attempt (services/dispatcher/backends/openai_images.py)", "services/dispatcher"),
        (f"{MAIN};_decoded (schemas/envelope.py:12)", "schemas"),
        (f"{MAIN};Client._send_publish (nats/aio/client.py)", stacks.NATS),
        (f"{MAIN};ClientSession._request (aiohttp/client.py)", stacks.CLIENT),
        (f"{MAIN};run_asgi (uvicorn/protocols/http/httptools_impl.py)", stacks.SERVER),
        (f"{MAIN};wait_for (asyncio/tasks.py)", stacks.LOOP),
        (f"{MAIN};uv_run (core.c)", stacks.LOOP),
        (f"{MAIN};uv__write (stream.c);writev (libc.so.6)", stacks.SOCKETS),
        (f"{MAIN};json_encode (msgspec/_core.cpython-311-x86_64-linux-gnu.so)", stacks.JSON),
        (f"{MAIN};gc_collect_main (libpython3.11.so.1.0);list_traverse (listobject.c)", stacks.GARBAGE),
        (f"{MAIN};pysqlite_connection_execute (connection.c);0x7f1c (libsqlite3.so.0.8.6)", stacks.SQLITE),
        (f"{MAIN};pysqlite_connection_execute (connection.c);pwrite64 (libc.so.6)", stacks.SQLITE),
        ("clone3 (libc.so.6);start_thread (libc.so.6)", stacks.OTHER),
    ],
)
def test_a_sample_is_of_the_innermost_part_that_has_a_name(stack: str, part: str) -> None:
    assert stacks.parts([f"{stack} 3"]) == {part: 3}


@pytest.mark.parametrize(
    "within",
    ["randbytes (random.py)", "_PyEval_EvalFrameDefault (libpython3.11.so.1.0)", "malloc (libc.so.6)"],
)
def test_what_has_no_name_belongs_to_its_caller(within: str) -> None:
    assert stacks.parts([f"{MAIN};{within} 2"]) == {"services/dispatcher": 2}


@pytest.mark.parametrize(
    "stack",
    [
        "Thread.run (threading.py);_worker (concurrent/futures/thread.py:81)",
        "_worker (concurrent/futures/thread.py);_queue_SimpleQueue_get (_queuemodule.c);0x7f0c (libc.so.6)",
        "Thread.run (threading.py);_connection_worker_thread (aiosqlite/core.py)",
        "Runner.run (asyncio/runners.py);uv__io_poll (linux.c);epoll_pwait (libc.so.6)",
        "_checkpoint_file (services/projector/store.py);sqlite3_step (libsqlite3.so);fdatasync (libc.so.6)",
    ],
)
def test_who_waits_is_left_out(stack: str) -> None:
    assert not stacks.parts([f"{stack} 9"])


def test_a_thread_of_a_pool_that_has_something_to_do_counts() -> None:
    folded = ["_worker (concurrent/futures/thread.py);finished (services/dispatcher/backends/images.py) 4"]

    assert stacks.parts(folded) == {"services/dispatcher": 4}


def test_samples_of_a_part_are_added_up_over_all_stacks() -> None:
    assert stacks.parts([f"{MAIN} 1", f"{MAIN};get (nats/nuid.py) 2", f"{MAIN};now (random.py) 3", ""]) == {
        "services/dispatcher": 4,
        stacks.NATS: 2,
    }


def test_shares_are_the_largest_first_and_small_parts_are_told_together() -> None:
    samples = {"a": 3, "b": 6, stacks.OTHER: 990, "c": 1, "d": 400, "e": 600}

    shares = profiles.shares(samples)

    assert list(shares) == ["e", "d", stacks.OTHER]
    assert shares == pytest.approx({"e": 0.3, "d": 0.2, stacks.OTHER: 0.5})


def test_a_figure_divides_what_a_task_costs_by_the_samples_of_all_runs() -> None:
    seen = [Seen(Counter({"a": 30, "b": 10})), Seen(Counter({"a": 30, "b": 30}))]

    figure = profiles.figure("api", [[2.0], [2.0]], seen)

    assert figure.parts == pytest.approx({"a": 1.2, "b": 0.8})
    assert figure.remarks[0] == "made up of a 60%, b 40%"


def test_a_process_that_nobody_may_look_into_still_has_its_cost() -> None:
    figure = profiles.figure("api", [[2.0]], [Seen(Counter(), "Permission Denied")])

    assert figure.ours.p50 == 2.0
    assert figure.remarks[-1] == "py-spy could not look into it: Permission Denied"
