"""What `up` runs and what it tells its children."""

from pathlib import Path

from services.settings import Settings, load
from services.up import plan
from services.up.plan import Places


def test_without_urls_there_are_three_image_gpus_and_a_speech_server() -> None:
    assert [(s.name, s.profile, s.variable) for s in plan.simulators(Settings())] == [
        ("gpusim-image-1", "sdcpp", "IMAGE_GEN_URL_1"),
        ("gpusim-image-2", "sdcpp", "IMAGE_GEN_URL_2"),
        ("gpusim-image-3", "openai", "IMAGE_GEN_URL_3"),
        ("gpusim-speech-1", "whisper", "WHISPER_URL_1"),
    ]


def test_a_kind_with_a_url_is_not_simulated() -> None:
    images = plan.simulators(load({"WHISPER_URL": "http://ears:1"}))
    speech = plan.simulators(load({"IMAGE_GEN_URL_2": "http://gpu:1"}))
    assert {s.profile for s in images} == {"sdcpp", "openai"}
    assert {s.profile for s in speech} == {"whisper"}


def test_a_single_simulated_gpu_is_of_the_first_protocol() -> None:
    assert [s.profile for s in plan.simulators(Settings(simulated_gpus=1))] == ["sdcpp", "whisper"]


def test_no_simulated_gpus_means_no_simulators() -> None:
    assert plan.simulators(Settings(simulated_gpus=0)) == []


def places(settings: Settings, config: Path | None = None) -> Places:
    return Places(
        api_port=81,
        nats_url="nats://127.0.0.1:42",
        config=config,
        simulators=tuple((s, 9000 + i) for i, s in enumerate(plan.simulators(settings))),
    )


def test_what_children_are_told_is_what_was_decided(tmp_path: Path) -> None:
    settings = Settings(api_port=0, nats_port=0, data_dir=str(tmp_path))
    env = plan.environment(settings, places(settings), {"HOME": "/root", "TASKFOLD_API_PORT": "0"})
    told = load({name: value for name, value in env.items() if name != "TASKFOLD_CONFIG"})
    assert (told.api_port, told.bus_url, told.data_path) == (81, "nats://127.0.0.1:42", tmp_path)
    assert told.image_gen_urls == {
        "1": "http://127.0.0.1:9000",
        "2": "http://127.0.0.1:9001",
        "3": "http://127.0.0.1:9002",
    }
    assert told.whisper_urls == {"1": "http://127.0.0.1:9003"}
    assert env["HOME"] == "/root"


def test_children_read_the_same_file(tmp_path: Path) -> None:
    settings = Settings()
    env = plan.environment(settings, places(settings, tmp_path / "taskfold.toml"), {})
    assert env["TASKFOLD_CONFIG"] == str(tmp_path / "taskfold.toml")


def test_the_dispatcher_stops_first_and_has_its_grace() -> None:
    settings = Settings(drain_grace_s=40)
    commands = [
        *plan.process_commands(settings, {}),
        *plan.simulator_commands(settings, places(settings), {}),
    ]
    first = min(commands, key=lambda command: command.stage)
    assert first.name == "dispatcher"
    assert first.grace_s > 40
    assert max(commands, key=lambda command: command.stage).name.startswith("gpusim")
