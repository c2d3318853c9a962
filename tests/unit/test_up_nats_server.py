"""The embedded nats-server: what it is told, and what it says when it fails."""

from pathlib import Path

import pytest

from services.process import StartError
from services.settings import Settings
from services.up import nats_server


def test_without_the_binary_the_refusal_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"taskfold\[embedded\].*TASKFOLD_NATS_URL"):
        nats_server.find(str(tmp_path))


def test_artifacts_may_take_half_of_the_room_and_no_more() -> None:
    nats_server.check_room(Settings(artifact_gib=8, nats_max_file_gib=16))
    with pytest.raises(StartError) as error:
        nats_server.check_room(Settings(artifact_gib=8.1, nats_max_file_gib=16))
    assert "artifact_gib is 8.1" in str(error.value)
    assert "nats_max_file_gib" in str(error.value)


def test_the_configuration_asks_for_what_the_environment_gives() -> None:
    lines = nats_server.CONFIGURATION.read_text().splitlines()
    asked = {line.split("$")[1] for line in lines if "$" in line and not line.lstrip().startswith("#")}
    assert asked <= nats_server.environment(Settings(), 4222, {}).keys()


def test_the_memory_limit_of_the_environment_is_kept() -> None:
    assert nats_server.environment(Settings(), 1, {})["GOMEMLIMIT"] == "512MiB"
    assert nats_server.environment(Settings(), 1, {"GOMEMLIMIT": "4GiB"})["GOMEMLIMIT"] == "4GiB"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            [
                "[7] 2026/11/24 05:43:22.523723 [INF] Starting",
                "[7] 2026/11/24 05:43:22.5 [FTL] Can't start: no",
            ],
            "Can't start: no",
        ),
        (
            ["[7] 2026/11/24 05:43:22.1 [FTL] first", "[7] 2026/11/24 05:43:22.5 [INF] Server Exiting.."],
            "first",
        ),
        (["nats-server: x.conf:3:1: unknown field"], "x.conf:3:1: unknown field"),
        (["panic: boom", "goroutine 1"], "goroutine 1"),
        (["cannot run /x: Permission denied"], "cannot run /x: Permission denied"),
        ([], "it said nothing"),
    ],
)
def test_the_last_error_is_picked_out_of_the_log(lines: list[str], said: str) -> None:
    assert nats_server.complaint(lines) == said
