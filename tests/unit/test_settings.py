"""Settings: where a value comes from, and that every refusal names the setting."""

import json
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from services.settings import Settings, SettingsError, load, masked, sources


def toml(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "taskfold.toml"
    file.write_text(text)
    return file


def test_without_file_and_environment_everything_is_default() -> None:
    assert load({}) == Settings()


def test_the_environment_wins_over_the_file_which_wins_over_the_default(tmp_path: Path) -> None:
    file = toml(tmp_path, "api_port = 1\nlanes = 2\n")
    settings = load({"TASKFOLD_API_PORT": "3"}, file)
    assert (settings.api_port, settings.lanes, settings.replicas) == (3, 2, 1)


def test_sources_tell_where_each_value_came_from(tmp_path: Path) -> None:
    file = toml(tmp_path, "api_port = 1\nlanes = 2\n")
    origin = sources({"TASKFOLD_API_PORT": "3", "IMAGE_GEN_URL": "http://gpu:1"}, file)
    assert origin["api_port"] == origin["image_gen_urls"] == "environment"
    assert origin["lanes"] == str(file)
    assert origin["replicas"] == "default"
    assert origin.keys() == {field.name for field in msgspec.structs.fields(Settings)}


def test_every_setting_has_a_description() -> None:
    for field in msgspec.structs.fields(Settings):
        assert any(getattr(note, "description", None) for note in field.type.__metadata__), field.name


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"TASKFOLD_API_PORT": "eighty"}, "api_port"),
        ({"TASKFOLD_API_PORT": "65536"}, "api_port"),
        ({"TASKFOLD_API_PORT": ""}, "api_port"),
        ({"TASKFOLD_NATS_SYNC": "never"}, "nats_sync"),
        ({"TASKFOLD_REPLICAS": "2"}, "replicas"),
        ({"TASKFOLD_LEASE_S": "-1"}, "lease_s"),
        ({"TASKFOLD_PICTURE_DAYS": "0"}, "picture_days"),
        ({"TASKFOLD_UPLOAD_DAYS": "15"}, "upload_days: at most max_age_days, which is 14"),
        ({"TASKFOLD_MAX_AGE_DAYS": "3", "TASKFOLD_TRANSCRIPT_DAYS": "4"}, "transcript_days"),
        ({"TASKFOLD_KEEP_TASKS_DAYS": "13"}, "keep_tasks_days: at least max_age_days, which is 14"),
        ({"TASKFOLD_MAX_AGE_DAYS": "91"}, "keep_tasks_days: at least max_age_days, which is 91"),
        ({"TASKFOLD_SNAPSHOT_INTERVAL_H": "-1"}, "snapshot_interval_h"),
        ({"TASKFOLD_TRUST_TENANT_HEADER": "perhaps"}, "trust_tenant_header"),
        ({"TASKFOLD_API_PROT": "1"}, "api_prot"),
        ({"TASKFOLD_IMAGE_GEN_URLS": "http://gpu:1"}, "image_gen_urls"),
        ({"TASKFOLD_IMAGE_GEN_URLS": "x", "IMAGE_GEN_URL_1": "http://gpu:1"}, "IMAGE_GEN_URLS"),
        ({"IMAGE_GEN_URL": "http://a:1", "IMAGE_GEN_URL_1": "http://b:1"}, "IMAGE_GEN_URL_1"),
        ({"IMAGE_GEN_URL_2": "gpu:7860"}, "IMAGE_GEN_URL_2"),
        ({"WHISPER_URL_3": "ftp://gpu:1"}, "WHISPER_URL_3"),
        ({"WHISPER_URL": "http://gpu:1?slots=0"}, "WHISPER_URL_1"),
        ({"WHISPER_URL": "http://gpu:1?slot=2"}, "WHISPER_URL_1"),
        ({"WHISPER_URL": "sdcpp+http://gpu:1"}, "WHISPER_URL_1"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_names_the_setting(
    env: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError) as error:
        load(env)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("api_port = 'x'", "api_port"),
        ("api_prot = 1", "api_prot"),
        ("[image_gen_urls]\nfirst = 'http://gpu:1'", "image_gen_urls"),
        ("api_port 1", "taskfold.toml"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError) as error:
        load({}, toml(tmp_path, text))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml"):
        load({}, tmp_path / "absent.toml")


def test_gpus_are_named_by_kind_and_number_in_numeric_order() -> None:
    backends = load(
        {
            "IMAGE_GEN_URL_10": "http://ten:1",
            "IMAGE_GEN_URL_2": "http://two:1",
            "IMAGE_GEN_URL": "http://one:1",
            "WHISPER_URL_1": "http://ears:1",
        }
    ).backends()
    assert [backend.name for backend in backends] == ["image-1", "image-2", "image-10", "speech-1"]


def test_an_empty_gpu_variable_counts_as_not_set() -> None:
    assert load({"IMAGE_GEN_URL_1": "", "WHISPER_URL": ""}).backends() == []


def test_gpus_can_stand_in_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, '[whisper_urls]\n1 = "http://ears:1?slots=2"\n')
    assert [backend.slots for backend in load({}, file).backends()] == [2]


def test_what_surrounds_a_process_is_no_setting() -> None:
    assert load({"TASKFOLD_CONFIG": "x", "TASKFOLD_URL": "y", "PATH": "z"}) == Settings()


def test_secrets_in_urls_are_masked() -> None:
    shown = masked('{"1":"http://me:pass@gpu:1?api_key=abc&slots=2"}')
    assert shown == '{"1":"http://***@gpu:1?api_key=***&slots=2"}'


def test_a_refusal_does_not_tell_the_secret_in_a_url() -> None:
    with pytest.raises(SettingsError) as error:
        load({"IMAGE_GEN_URL_1": "http://gpu:1?api_key=abc&slot=2"})
    assert "abc" not in str(error.value)


def test_a_workflow_is_read_by_whoever_asks_for_the_gpus_and_not_before(tmp_path: Path) -> None:
    file = tmp_path / "workflow.json"
    settings = load({"IMAGE_GEN_URL_2": f"http://gpu:8188?workflow={file}"})
    graph = {"1": {"class_type": "A", "inputs": {"a": 1}}}

    with pytest.raises(SettingsError, match=r"^IMAGE_GEN_URL_2: the workflow .* cannot be read: No such"):
        settings.backends()
    file.write_text(json.dumps({"workflow": graph, "inputs": {}}))
    with pytest.raises(SettingsError, match=r"^IMAGE_GEN_URL_2: .* inputs\.prompt is needed"):
        settings.backends()
    file.write_text(
        json.dumps({"workflow": graph, "inputs": dict.fromkeys(("prompt", "seed"), "1.inputs.a")})
    )
    (backend,) = settings.backends()
    assert backend.workflow is not None
    assert backend.workflow.place("seed") == ("1", "a")


def test_results_are_kept_by_kind_and_where_nothing_is_said_as_long_as_the_log() -> None:
    settings = load({"TASKFOLD_PICTURE_DAYS": "3", "TASKFOLD_UPLOAD_DAYS": "14"})

    assert settings.keeps_results("image") == timedelta(days=3)
    assert settings.keeps_results("speech") is None
    assert settings.keeps_uploads == timedelta(days=14)
