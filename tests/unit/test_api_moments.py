"""What the outlook takes for a GPU in service, and which of its slots are free."""

import pytest
from msgspec.structs import replace

from schemas.fleet import Circuit, Condition, Health, Learned
from schemas.ids import BackendId
from schemas.registry import Backend, Wanted
from schemas.requests import Kind
from services.api.moments import gpu, in_service
from tests.builders import T0, at

GPU = Backend(name=BackendId("image-1"), url="http://gpu", kind=Kind.IMAGE, models=("big=Qwen/Qwen-Image",))


@pytest.mark.parametrize(
    ("backend", "health", "serves"),
    [
        (GPU, Health(), True),
        (GPU, Health(condition=Condition.UP), True),
        (GPU, Health(condition=Condition.LOADING), True),
        (GPU, Health(condition=Condition.OVERLOADED), True),
        (GPU, Health(condition=Condition.UP, circuit=Circuit.HALF_OPEN), True),
        (GPU, Health(condition=Condition.UP, circuit=Circuit.OPEN), False),
        (GPU, Health(condition=Condition.DOWN), False),
        (GPU, Health(condition=Condition.FAILING), False),
        (GPU, Health(condition=Condition.STUCK), False),
        (GPU, Health(condition=Condition.MISCONFIGURED), False),
        (replace(GPU, wanted=Wanted.OFF), Health(), False),
        (replace(GPU, wanted=Wanted.DRAINING), Health(), False),
        (replace(GPU, alive_until=at(1)), Health(), True),
        (replace(GPU, alive_until=at(-1)), Health(), False),
    ],
)
def test_a_backend_is_in_service_while_nothing_keeps_it_from_work(
    backend: Backend, health: Health, *, serves: bool
) -> None:
    assert in_service(backend, health, T0) is serves


@pytest.mark.parametrize(
    ("slots", "wide", "busy", "free", "rests"),
    [
        (2, None, {}, (0, 1), ()),
        (2, None, {0: 5.0}, (1,), (5.0,)),
        (2, None, {0: 5.0, 1: 6.0}, (), (5.0, 6.0)),
        (4, 1, {}, (0,), ()),
        (4, 2, {3: 5.0}, (0,), (5.0,)),
        (4, 1, {0: 5.0, 1: 6.0}, (), (5.0, 6.0)),
        (1, None, {7: 5.0}, (0,), ()),
    ],
)
def test_slots_are_free_or_busy_as_the_leases_and_a_slow_start_say(
    slots: int, wide: int | None, busy: dict[int, float], free: tuple[int, ...], rests: tuple[float, ...]
) -> None:
    made = gpu(replace(GPU, slots=slots), Health(wide=wide), Learned(), busy)

    assert (made.free, made.rests_s) == (free, rests)


def test_a_model_is_known_by_its_slug_and_to_the_gpu_by_its_own_name() -> None:
    assert gpu(GPU, Health(), Learned(), {}).models == {"big": "Qwen/Qwen-Image"}
