"""The pure parts of the GPU simulator's behaviour: chance, step times, faults, the books."""

import statistics

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gpusim.ledger import REMEMBERED, Ledger
from services.gpusim.model import (
    UNIT_AREA,
    Fault,
    Job,
    Options,
    Outcome,
    ProfileName,
    Script,
    chance,
    drawn_seed,
    fails_by_chance,
    loaded_with,
    next_fault,
    step_times_s,
)

OPTIONS = Options(profile=ProfileName.SDCPP, step_ms=40, sigma=0.5, seed=1)


def test_the_same_seed_and_counters_draw_the_same_number() -> None:
    assert chance(1, 2, "a") == chance(1, 2, "a")
    assert chance(1, 2, "a") != chance(1, 2, "b") != chance(2, 2, "b")


@given(st.integers(), st.integers())
def test_chance_stays_strictly_between_nought_and_one(seed: int, counter: int) -> None:
    assert 0 < chance(seed, counter) < 1


def test_chance_is_spread_evenly() -> None:
    drawn = [chance(0, counter) for counter in range(4000)]
    assert statistics.fmean(drawn) == pytest.approx(0.5, abs=0.02)
    assert statistics.pstdev(drawn) == pytest.approx(12**-0.5, abs=0.01)


def test_the_mean_step_time_does_not_depend_on_the_spread() -> None:
    times_s = step_times_s(OPTIONS, 0, UNIT_AREA, 10_000)
    assert statistics.fmean(times_s) == pytest.approx(0.040, rel=0.03)
    assert statistics.pstdev(times_s) > 0.015


def test_a_step_takes_time_in_proportion_to_the_area() -> None:
    small = step_times_s(OPTIONS, 3, UNIT_AREA, 5)
    large = step_times_s(OPTIONS, 3, 4 * UNIT_AREA, 5)
    assert large == pytest.approx([4 * each for each in small])


def test_without_spread_every_step_takes_the_mean() -> None:
    steady = msgspec.structs.replace(OPTIONS, sigma=0)
    assert step_times_s(steady, 0, UNIT_AREA, 3) == pytest.approx([0.04, 0.04, 0.04])


def test_no_step_time_makes_a_job_instant() -> None:
    assert step_times_s(msgspec.structs.replace(OPTIONS, step_ms=0), 0, UNIT_AREA, 20) == []


def test_the_share_of_failing_jobs_is_the_fail_rate() -> None:
    options = msgspec.structs.replace(OPTIONS, fail_rate=0.25)
    failing = sum(fails_by_chance(options, job) for job in range(4000))
    assert failing == pytest.approx(1000, abs=100)
    assert not any(fails_by_chance(OPTIONS, job) for job in range(100))


def test_drawn_seeds_are_positive_and_differ() -> None:
    seeds = {drawn_seed(OPTIONS, job) for job in range(100)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**31 for seed in seeds)


@given(st.lists(st.sampled_from("abcd")), st.integers(1, 4))
def test_the_models_that_were_used_last_stay_loaded(used: list[str], keeps: int) -> None:
    loaded: tuple[str, ...] = ()
    for model in used:
        loaded = loaded_with(loaded, model, keeps)
    latest = tuple(dict.fromkeys(reversed(used)))
    assert loaded == latest[:keeps]


def test_a_script_serves_as_many_jobs_as_it_counts_and_then_the_next_follows() -> None:
    scripts: tuple[Script, ...] = (Script(mode=Fault.OOM, count=2), Script(mode=Fault.BUSY))
    given_out = []
    for _ in range(4):
        fault, scripts = next_fault(scripts)
        given_out.append(None if fault is None else fault.mode)
    assert given_out == [Fault.OOM, Fault.OOM, Fault.BUSY, None]


@pytest.mark.parametrize(
    "wrong",
    [
        {"profile": "sdcpp", "step_ms": -1},
        {"profile": "sdcpp", "fail_rate": 1.1},
        {"profile": "sdcpp", "port": 70_000},
        {"profile": "invokeai"},
        {"profile": "sdcpp", "slots": 2},
        {"profile": "openai", "keeps": 0},
        {"profile": "openai", "load_s": -1},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Options)


class _Books:
    """A ledger whose clock is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ledger = Ledger(ProfileName.OPENAI, "a-model", self.now)

    def job(self) -> Job:
        return Job(id=self.ledger.next_id, prompt="a fox", received_at=self.now)


def test_busy_time_counts_the_job_that_runs() -> None:
    books = _Books()
    running = books.ledger.start(books.ledger.admit(books.job()), 101)
    assert books.ledger.stats(103).busy_s == 2
    books.ledger.close(running, Outcome.DONE, 105)
    assert books.ledger.stats(200).busy_s == 4
    assert books.ledger.stats(200).since_s == 100


def test_max_waiting_counts_the_running_job_and_forgets_nothing() -> None:
    books = _Books()
    first, second = books.ledger.admit(books.job()), books.ledger.admit(books.job())
    assert books.ledger.stats(100).max_waiting == 2
    for job in (first, second):
        books.ledger.close(books.ledger.start(job, 100), Outcome.DONE, 100)
    books.ledger.refuse(books.job())
    assert books.ledger.stats(100).max_waiting == 2


@given(st.lists(st.sampled_from(Outcome)))
def test_the_counts_add_up_whatever_happens(ends: list[Outcome]) -> None:
    books = _Books()
    for end in ends:
        if end is Outcome.REFUSED:
            books.ledger.refuse(books.job())
            continue
        job = books.ledger.admit(books.job())
        match end:
            case Outcome.CANCELLED:
                books.ledger.close(job, end, 100)
            case Outcome.DONE | Outcome.FAILED | Outcome.INTERRUPTED:
                books.ledger.close(books.ledger.start(job, 100), end, 100)
            case Outcome.WAITING | Outcome.RUNNING:
                pass
    stats = books.ledger.stats(100)
    assert stats.running == 0
    assert stats.waiting == ends.count(Outcome.WAITING) + ends.count(Outcome.RUNNING)
    assert stats.jobs.received == len(ends)


def test_only_the_last_jobs_are_remembered() -> None:
    books = _Books()
    first = books.ledger.admit(books.job())
    for _ in range(REMEMBERED):
        books.ledger.admit(books.job())
    books.ledger.close(first, Outcome.CANCELLED, 100)
    remembered = [job.id for job in books.ledger.jobs()]
    assert remembered == list(range(1, REMEMBERED + 1))
