"""Two small tenants and one with twenty times as many tasks, all there at once, on four equal GPUs.

The one rule: a tenant's share is held against what it is entitled to. While the large one has tasks waiting
(the window), the GPUs' time is divided so that nobody gets more than the work that came from it then, and
all who wanted more get the same (max-min). x is what a tenant got in the window as a part of that; Jain's
index is (sum x)^2 / (n * sum x^2).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.measure import MILLISECONDS, Figure, spread
from benchmarks.playing import STEPS, Coming, Seen, play, step_ms
from benchmarks.rig import Bench
from schemas.subjects import lanes_of_tenant
from services.gpusim.model import Options, ProfileName, chance

GPUS: Final = 4
TASK_S: Final = 0.1
LARGE: Final = "hog"
SMALL: Final = ("small-1", "small-2")
EACH: Final = 12
TIMES: Final = 20
WARM_UP: Final = 20
WINDOW_S: Final = (TIMES + len(SMALL)) * EACH * TASK_S / GPUS
"""How long all the work takes at best."""
FROM_TO: Final = (0.2, 0.9)
"""In which part of that the small ones' tasks come."""
LEAST_JAIN: Final = 0.95
MODEL: Final = "fox"
SEED: Final = 1


async def measure(bench: Bench) -> list[Figure]:
    """Measure with the large tenant and without it, and with it where all stand in one line."""
    few, all_of_them = _small(), [*_large(), *_small()]
    alone, shared = await _played(bench, few, all_of_them)
    (in_line,) = await _played(bench, all_of_them, lanes=1)
    shares = _shares(shared)
    jain = _jain(shares)
    figure = Figure(
        name="small tenants",
        what=f"submitted to done, beside a tenant of {TIMES * EACH} tasks",
        floor_what="nobody else is there",
        unit=MILLISECONDS,
        ours=spread([_small_ms(shared)]),
        floor=spread([_small_ms(alone)]),
        target=f"Jain's index at least {LEAST_JAIN:g}",
        met=jain >= LEAST_JAIN,
        notes=_notes(shares, jain, shared, alone, in_line),
    )
    return [figure]


def _notes(
    shares: Mapping[str, float],
    jain: float,
    shared: Sequence[Seen],
    alone: Sequence[Seen],
    in_line: Sequence[Seen],
) -> tuple[str, ...]:
    p95, quiet, fifo = (spread([_small_ms(seen)]).p95 for seen in (shared, alone, in_line))
    told = ", ".join(f"{tenant} {share:.2f}" for tenant, share in shares.items())
    common = ", ".join(
        f"{tenant} {len(set(lanes_of_tenant(tenant)) & set(lanes_of_tenant(LARGE)))}" for tenant in SMALL
    )
    return (
        f"Jain's index {jain:.3f}, in one line for all {_jain(_shares(in_line)):.3f}",
        f"of what it was entitled to, each got: {told}",
        f"small tenants' p95 {p95:.0f} ms, alone {quiet:.0f}, in one line for all {fifo:.0f}",
        f"{GPUS} equal GPUs, tasks of {TASK_S * 1000:g} ms, {EACH} of each small tenant; one run",
        f"of their 2 lanes they share with {LARGE}: {common}",
    )


async def _played(bench: Bench, *plays: Sequence[Coming], **settings: object) -> list[list[Seen]]:
    """Start everything, and play one after the other."""
    options = Options(profile=ProfileName.OPENAI, models=(MODEL,), step_ms=step_ms(TASK_S))
    async with bench.rig(trust_tenant_header=True, **settings) as rig:
        await rig.unequal_gpus([options] * GPUS, "openai_images", f"?models={MODEL}")
        await rig.start("projector", "dispatcher", "api")
        await play(rig, [_coming(0.0, "early") for _ in range(WARM_UP)])
        return [await play(rig, coming) for coming in plays]


def _large() -> list[Coming]:
    return [_coming(0.0, LARGE) for _ in range(TIMES * EACH)]


def _small() -> list[Coming]:
    """Draw the times of a steady trickle, in which each moment is as likely."""
    begin, end = FROM_TO
    coming = [
        _coming(WINDOW_S * (begin + (end - begin) * chance(SEED, tenant, number)), tenant)
        for tenant in SMALL
        for number in range(EACH)
    ]
    return sorted(coming, key=lambda each: each.at_s)


def _coming(at_s: float, tenant: str) -> Coming:
    return Coming(at_s=at_s, tenant=tenant, steps=STEPS, model=MODEL)


def _small_ms(seen: Sequence[Seen]) -> list[float]:
    return [task.total_s * 1000 for task in seen if task.tenant in SMALL]


def _shares(seen: Sequence[Seen]) -> dict[str, float]:
    """Give what each tenant got in the window, as a part of what it was entitled to."""
    begin = min(task.submitted_at for task in seen)
    end = max(task.started_at for task in seen if task.tenant == LARGE)
    got, wanted = dict.fromkeys((LARGE, *SMALL), 0.0), dict.fromkeys((LARGE, *SMALL), 0.0)
    for task in seen:
        got[task.tenant] += max(0.0, min(task.finished_at, end) - max(task.started_at, begin))
        wanted[task.tenant] += task.run_s if task.submitted_at < end else 0.0
    entitled = entitlements(wanted, sum(got.values()))
    return {tenant: got[tenant] / entitled[tenant] for tenant in got}


def entitlements(wanted: Mapping[str, float], there_is: float) -> dict[str, float]:
    """Divide so that nobody gets more than is wanted, and all who want more get the same."""
    entitled = {}
    left = there_is
    for count, tenant in enumerate(sorted(wanted, key=lambda name: wanted[name])):
        entitled[tenant] = min(wanted[tenant], left / (len(wanted) - count))
        left -= entitled[tenant]
    return entitled


def _jain(shares: Mapping[str, float]) -> float:
    x = list(shares.values())
    return sum(x) ** 2 / (len(x) * sum(each * each for each in x))
