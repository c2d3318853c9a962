"""How long a task should take on a GPU."""

from collections.abc import Mapping

import pytest

from schemas.fleet import Learned
from schemas.ids import BackendId
from services.scheduling.estimates import Estimates, after, is_cold, learned, runs_as
from services.scheduling.situation import Gpu

TWO: Mapping[str, str] = {"x": "X", "y": "Y"}


def gpu(name: str = "a", models: Mapping[str, str] = TWO, load_s: float | None = None, **s: float) -> Gpu:
    return Gpu(
        name=BackendId(name),
        kind="image",
        models=models,
        free=(0,),
        learned=Learned(seconds=s, load_s=load_s),
    )


def test_what_ran_there_counts_first() -> None:
    here = gpu(X=2.0)
    assert Estimates([here, gpu("b", X=9.0)], 20).run_s(here, "X", 3.0) == 6.0


def test_a_model_known_elsewhere_is_scaled_by_how_fast_the_gpu_is_beside_the_others() -> None:
    fast, slow = gpu("a", X=1.0, Y=2.0), gpu("b", X=2.0)
    assert Estimates([fast, slow], 20).run_s(slow, "Y", 1.0) == pytest.approx(4.0)


def test_a_model_known_elsewhere_on_gpus_of_unequal_speed_is_brought_to_one_speed_first() -> None:
    gpus = [gpu("a", X=1.0), gpu("b", X=4.0, Y=8.0), gpu("c", X=1.0)]
    assert Estimates(gpus, 20).run_s(gpus[0], "Y", 1.0) == pytest.approx(2.0)


def test_a_gpu_that_shares_no_model_is_taken_to_be_as_fast_as_the_others() -> None:
    here = gpu("a", X=5.0)
    assert Estimates([here, gpu("b", Y=2.0), gpu("c", Y=4.0)], 20).run_s(here, "Y", 1.0) == pytest.approx(
        3.0
    )


def test_a_model_that_ran_nowhere_takes_what_the_gpu_takes_for_others_else_what_all_take() -> None:
    here, new = gpu("a", X=2.0, Z=4.0), gpu("b")
    estimates = Estimates([here, new], 20)
    assert estimates.run_s(here, "Y", 1.0) == 3.0
    assert estimates.run_s(new, "Y", 2.0) == 6.0
    assert Estimates([new], 20).run_s(new, "Y", 7.0) == 7.0


def test_only_a_cold_model_has_to_be_loaded() -> None:
    here = gpu(load_s=9.0)
    estimates = Estimates([here], 20)
    assert estimates.load_s(here, "X", ("X",)) == 0
    assert estimates.load_s(here, "X", ("Y",)) == 9.0


def test_a_load_not_seen_there_takes_what_it_takes_elsewhere_else_the_default() -> None:
    here = gpu()
    assert Estimates([here, gpu("b", load_s=4.0), gpu("c", load_s=8.0)], 20).load_s(here, "X", ()) == 6.0
    assert Estimates([here], 20).load_s(here, "X", ()) == 20


@pytest.mark.parametrize("models", [{}, {"x": "X"}, {"x": "X", "x-4k": "X"}])
def test_a_gpu_with_one_model_never_loads_it(models: Mapping[str, str]) -> None:
    assert not is_cold(gpu(models=models), "X", ())


def test_other_names_of_a_model_share_its_warmth() -> None:
    here = gpu(models={"x": "X", "x-4k": "X", "y": "Y"})
    own = runs_as(here, "x-4k", ())
    assert own == "X"
    assert not is_cold(here, own, ("X",))


@pytest.mark.parametrize(
    ("models", "warm", "own"),
    [
        (TWO, ("Y", "X"), "Y"),
        (TWO, ("taken-away", "Y"), "Y"),
        (TWO, (), "X"),
        ({}, (), "any"),
    ],
)
def test_any_model_is_the_warmest_else_the_first(
    models: Mapping[str, str], warm: tuple[str, ...], own: str
) -> None:
    assert runs_as(gpu(models=models), "any", warm) == own


def test_a_model_that_a_gpu_does_not_have_does_not_run_there() -> None:
    assert runs_as(gpu(), "z", ("X",)) is None


def test_what_was_used_last_stays_loaded() -> None:
    assert after(("X", "Y"), "Y", 2) == ("Y", "X")
    assert after(("X", "Y"), "Z", 2) == ("Z", "X")
    assert after(("X",), "X", 1) == ("X",)
    assert after((), "X", 1) == ("X",)


def test_a_model_no_longer_kept_is_forgotten_when_the_one_used_last_is_used_again() -> None:
    assert after(("X", "Y"), "X", 1) == ("X",)


def test_a_warm_run_moves_the_seconds_and_leaves_the_load() -> None:
    first = learned(Learned(load_s=5.0), "X", 2.0, 8.0, cold=False, keeps=1)
    assert first == Learned(seconds={"X": 4.0}, load_s=5.0, warm=("X",))
    second = learned(first, "X", 2.0, 4.0, cold=False, keeps=1)
    assert second.seconds == {"X": pytest.approx(3.4)}


def test_a_cold_run_says_how_long_the_load_was_when_the_run_is_known() -> None:
    known = Learned(seconds={"X": 4.0}, warm=("Y",))
    assert learned(known, "X", 2.0, 28.0, cold=True, keeps=2) == Learned(
        seconds={"X": 4.0}, load_s=20.0, warm=("X", "Y")
    )
    assert learned(known, "X", 2.0, 1.0, cold=True, keeps=2).load_s == 0


def test_a_first_cold_run_teaches_nothing_but_what_is_loaded() -> None:
    assert learned(Learned(), "X", 2.0, 28.0, cold=True, keeps=2) == Learned(warm=("X",))
