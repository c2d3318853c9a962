"""``taskfold simulate``: what it shows, and what it makes of files."""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from services.__main__ import main
from services.cli import replay, simulate
from services.cli.failures import Exit
from services.scheduling.outcome import Outcome, Percentiles
from services.scheduling.policies import POLICIES
from tests.unit.test_scheduling_recorded import backend, done

OUTCOME = Outcome(
    policy="round_robin",
    tasks=9,
    waiting=Percentiles(p50=0.04, p95=9.96, p99=1234.5),
    total=Percentiles(p50=8.0, p95=99.94, p99=100.0),
    utilisation={"a": 0.5, "b": 0.9},
    loads=3,
    fairness=0.987,
    eta_error=Percentiles(p50=1.26, p95=2.0, p99=3.0),
)


def run(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(main, ["simulate", *arguments], input=stdin)


def recorded() -> bytes:
    pages = [{"events": done(f"t{number}", number, 10.0 * number), "next": None} for number in range(4)]
    pages.append({"events": done("lost")[:1], "next": None})
    documents = [*pages, {"backends": [backend(), backend("image-2")]}]
    return b"\n".join(map(msgspec.json.encode, documents)) + b"\n\n"


def test_every_policy_can_be_named() -> None:
    assert set(simulate.POLICIES) == set(POLICIES)
    assert simulate.POLICIES[0] == "least_expected_completion"


def test_an_outcome_is_a_row() -> None:
    assert replay.row(OUTCOME) == (
        *("round_robin", "0.0 s", "10.0 s", "1,234 s", "8.0 s", "99.9 s", "100 s"),
        *("70% (50%-90%)", "3", "0.99", "1.3 s"),
    )
    assert len(replay.row(OUTCOME)) == len(replay.HEAD)


def test_where_tenants_never_waited_together_nothing_is_said_of_fairness() -> None:
    assert replay.row(msgspec.structs.replace(OUTCOME, fairness=None))[-2] == ""


def test_a_file_is_replayed_through_all_policies(tmp_path: Path) -> None:
    file = tmp_path / "recorded.jsonl"
    file.write_bytes(recorded())
    result = run("--file", str(file))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["POLICY", *simulate.POLICIES]
    assert result.stderr == (
        "taskfold: 4 tasks that came in 3.0 s to 2 GPUs; 1 that are not done are left out\n"
    )


def test_json_has_every_figure() -> None:
    result = run("--file", "-", "--json", "--policy", "round_robin", "--tasks", "3", stdin=recorded())
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["tasks"], document["left_out"]) == (3, 1)
    assert document["backends"] == ["image-1", "image-2"]
    (outcome,) = document["outcomes"]
    assert outcome["total"] == {"p50": 10.0, "p95": 18.0, "p99": 18.0}
    assert set(outcome["utilisation"]) == {"image-1", "image-2"}


def test_a_scenario_is_replayed_the_same_each_time() -> None:
    arguments = ("--scenario", "unequal", "--tasks", "50", "--load", "0.7", "--seed", "3")
    first, second = run(*arguments), run(*arguments)
    assert first.exit_code == 0
    assert first.stdout == second.stdout
    assert first.stdout != run(*arguments[:-1], "4").stdout


@pytest.mark.parametrize("content", [b"hello\n", b'{"tasks": []}\n', b"\xff\n"])
def test_a_line_that_is_no_document_is_named(content: bytes) -> None:
    result = run("--file", "-", stdin=recorded() + content)
    assert result.exit_code == Exit.USAGE
    assert result.stderr.startswith("taskfold: -, line 8: neither events nor backends")
    assert result.stderr.count("\n") == 1


def test_nothing_to_replay_is_said() -> None:
    result = run("--file", "-", stdin=b'{"events": [], "next": null}\n')
    assert (result.exit_code, result.stderr) == (
        Exit.USAGE,
        "taskfold: nothing to replay: no task there is done\n",
    )


def test_an_api_that_is_away_is_said() -> None:
    assert run("--url", "http://127.0.0.1:9").exit_code == Exit.AWAY
