"""Which children ``up`` runs and what they are told.

The one rule: this is pure; settings, ports and the environment come in, commands go out.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from services.settings import Settings
from services.up.tree import Command

_ROOT: Final = str(Path(__file__).parents[2])
_ENDING_S: Final = 5.0
"""What a process may need beyond its own grace."""


class Simulator(Struct, frozen=True, kw_only=True):
    """A simulated GPU server: its profile, and the variable that tells the others where it is."""

    name: str
    profile: str
    variable: str
    model: str


class Places(Struct, frozen=True, kw_only=True):
    """What was decided when `up` began: ports and the settings file."""

    api_port: int
    nats_url: str
    config: Path | None
    simulators: tuple[tuple[Simulator, int], ...] = ()


def simulators(settings: Settings) -> list[Simulator]:
    """Give the simulators to run: none of a kind that has a url, none at all for simulated_gpus = 0."""
    count = settings.simulated_gpus
    wanted: list[Simulator] = []
    if not settings.image_gen_urls:
        wanted += [_image(number, last=number == count > 1) for number in range(1, count + 1)]
    if not settings.whisper_urls and count:
        wanted.append(
            Simulator(
                name="gpusim-speech-1",
                profile="whisper",
                variable="WHISPER_URL_1",
                model="whisper-tiny.en",
            )
        )
    return wanted


def _image(number: int, *, last: bool) -> Simulator:
    return Simulator(
        name=f"gpusim-image-{number}",
        profile="openai" if last else "sdcpp",
        variable=f"IMAGE_GEN_URL_{number}",
        model="qwen-image",
    )


def environment(settings: Settings, places: Places, base: Mapping[str, str]) -> dict[str, str]:
    """Give what every process is told: where things are, whatever the terminal's settings say."""
    path = f"{_ROOT}:{base['PYTHONPATH']}" if base.get("PYTHONPATH") else _ROOT
    told = {
        "PYTHONPATH": path,
        "TASKFOLD_API_PORT": str(places.api_port),
        "TASKFOLD_NATS_URL": places.nats_url,
        "TASKFOLD_DATA_DIR": str(settings.data_path),
    }
    if places.config is not None:
        told["TASKFOLD_CONFIG"] = str(places.config.absolute())
    for simulator, port in places.simulators:
        told[simulator.variable] = f"http://127.0.0.1:{port}"
    return {**base, **told}


def simulator_commands(settings: Settings, places: Places, env: Mapping[str, str]) -> list[Command]:
    return [
        _taskfold(
            settings,
            env,
            (
                *("gpusim", simulator.profile, "--port", str(port), "--model", simulator.model),
                *("--step-ms", f"{settings.simulated_step_ms:g}", "--seed", str(seed)),
            ),
            name=simulator.name,
            stage=2,
        )
        for seed, (simulator, port) in enumerate(places.simulators)
    ]


def init_command(settings: Settings, env: Mapping[str, str]) -> Command:
    return _taskfold(settings, env, ("init",), name="init")


def process_commands(settings: Settings, env: Mapping[str, str]) -> Sequence[Command]:
    """Give the processes; the dispatcher stops first, so that api and projector still tell how it ended."""
    return (
        _taskfold(settings, env, ("api",), name="api", stage=1),
        _taskfold(settings, env, ("projector",), name="projector", stage=1),
        _taskfold(
            settings, env, ("dispatcher",), name="dispatcher", grace_s=settings.drain_grace_s + _ENDING_S
        ),
    )


def _taskfold(
    settings: Settings,
    env: Mapping[str, str],
    words: tuple[str, ...],
    *,
    name: str,
    stage: int = 0,
    grace_s: float = 10.0,
) -> Command:
    return Command(
        name=name,
        argv=(sys.executable, "-P", "-m", "services", *words),
        env=env,
        log=settings.data_path / "logs" / f"{name}.log",
        stage=stage,
        grace_s=grace_s,
    )
