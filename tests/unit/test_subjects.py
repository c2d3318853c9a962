"""The one map of streams, subjects, consumers and buckets."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import subjects
from schemas.errors import UndecodableError
from schemas.events import TOKENS, TaskEvent, TaskSubmitted
from schemas.ids import ArtifactId, BackendId, TaskId
from schemas.subjects import Address, Lane, lane_of_filter, lanes_of_tenant, parse_subject, streams
from tests.builders import ADDRESS, LANE, TASK

TOKEN = st.from_regex(r"[a-z0-9_][a-z0-9_-]{0,20}", fullmatch=True)
LANES = st.builds(Lane, TOKEN, TOKEN, TOKEN, st.integers(0, 1000))


def test_the_grammar_of_subjects() -> None:
    prefix = f"task.image.any.normal.3.{TASK}"

    assert ADDRESS.subject(TaskSubmitted) == f"{prefix}.submitted"
    assert ADDRESS.guard == f"{prefix}.*"
    assert ADDRESS.prefix == prefix
    assert LANE.name == "image-any-normal-3"
    assert LANE.filter == "task.image.any.normal.3.*.submitted"
    assert subjects.any_guard(TASK) == f"task.*.*.*.*.{TASK}.*"
    assert subjects.progress_subject(TASK) == f"progress.{TASK}"
    assert subjects.preview_subject(TASK) == f"preview.{TASK}"
    assert subjects.schedule_subject(TASK) == f"sched.{TASK}"
    assert subjects.lease_key(BackendId("image-1"), 0) == "image-1.0"


@given(TOKEN, st.integers(0, 63))
def test_a_slot_reads_back_from_the_key_of_its_lease(backend: str, slot: int) -> None:
    key = subjects.lease_key(BackendId(backend), slot)

    assert subjects.slot_of(key) == (backend, slot)


@pytest.mark.parametrize("key", [subjects.SWEEPER, "image-1", "image-1.", ".1", "image-1.x", ""])
def test_any_other_key_is_of_no_slot(key: str) -> None:
    assert subjects.slot_of(key) is None


@given(LANES, st.uuids(), st.sampled_from(list(TOKENS)), st.sampled_from(["task", "wake"]))
def test_an_address_reads_back_from_its_subject(
    lane: Lane, task_id: object, event: type[TaskEvent], root: str
) -> None:
    address = Address(lane, TaskId(str(task_id)))
    subject = address.subject(event).replace("task", root, 1)

    assert parse_subject(subject) == (address, TOKENS[event])


@pytest.mark.parametrize(
    "subject",
    ["", "task", f"sched.{TASK}", "task.a.b.c.0.id", "task.a.b.c.0.id.x.y", "task.a.b.c.x.id.done"],
)
def test_what_is_no_event_s_subject_cannot_be_read(subject: str) -> None:
    with pytest.raises(UndecodableError):
        parse_subject(subject)


@given(LANES)
def test_a_lane_reads_back_from_its_consumer(lane: Lane) -> None:
    assert lane_of_filter(lane.consumer["filter_subject"]) == lane


@pytest.mark.parametrize(
    "filter_subject",
    ["", "task.>", "task.*.*.*.*.*.done", "task.a.b.c.x.*.submitted", "task.a.b.c.0.*.done", "progress.*"],
)
def test_a_consumer_that_is_no_lane_is_none(filter_subject: str) -> None:
    assert lane_of_filter(filter_subject) is None


def test_a_lane_s_consumer_gives_a_ticket_out_until_it_is_acked() -> None:
    assert LANE.consumer == {
        "name": "image-any-normal-3",
        "durable_name": "image-any-normal-3",
        "filter_subject": "task.image.any.normal.3.*.submitted",
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": 30_000_000_000,
        "max_deliver": -1,
        "max_ack_pending": -1,
        "max_waiting": 4096,
    }


@given(st.text(), st.integers(2, 64))
def test_a_tenant_has_two_lanes_that_are_never_the_same(tenant: str, lanes: int) -> None:
    one, other = lanes_of_tenant(tenant, lanes)

    assert one != other
    assert {one, other} <= set(range(lanes))
    assert (one, other) == lanes_of_tenant(tenant, lanes)


def test_where_there_are_two_lanes_a_tenant_has_both() -> None:
    assert {frozenset(lanes_of_tenant(f"tenant-{number}", 2)) for number in range(100)} == {
        frozenset({0, 1})
    }


def test_where_there_is_one_lane_a_tenant_has_that() -> None:
    assert lanes_of_tenant("acme", 1) == (0, 0)


def test_tenants_are_spread_over_all_pairs_of_lanes() -> None:
    pairs = {frozenset(lanes_of_tenant(f"tenant-{number}")) for number in range(1000)}

    assert len(pairs) == 28


def configs(replicas: int = 1) -> dict[str, dict[str, Any]]:  # Any: the JSON of the JetStream API
    made = streams(max_age_days=14, artifact_bytes=1000, replicas=replicas)
    return {config["name"]: config for config in made}


def test_there_are_as_many_streams_as_the_design_says() -> None:
    assert set(configs()) == {
        "TASKS",
        "PROGRESS",
        "OBJ_ARTIFACTS",
        "KV_BACKENDS",
        "KV_LEASES",
        "KV_FLEET",
        "KV_CONTROL",
    }


def test_every_stream_is_saved() -> None:
    assert sorted(subjects.SAVED) == sorted(configs())


def test_the_log_drops_nothing_but_what_is_old() -> None:
    log = configs()["TASKS"]

    assert (log["max_bytes"], log["discard"]) == (-1, "old")
    assert log["max_age"] == 14 * 86_400 * 10**9
    assert "max_msgs" not in log
    assert log["max_consumers"] == subjects.MOST_LANES, "the server's own limit is 1,000"
    assert "persist_mode" not in log


def test_the_log_can_do_what_is_asked_of_it() -> None:
    log = configs()["TASKS"]

    abilities = ("allow_direct", "allow_msg_ttl", "allow_msg_schedules", "allow_atomic")
    assert all(log[ability] for ability in abilities)
    assert log["subjects"] == ["task.>", "sched.>"]
    assert log["republish"] == {"src": "task.>", "dest": "wake.>", "headers_only": True}


@pytest.mark.parametrize(("replicas", "mode"), [(1, "async"), (3, None)])
def test_what_may_be_lost_is_not_synced_where_that_can_be(replicas: int, mode: str | None) -> None:
    made = configs(replicas)

    lossy = {name for name, config in made.items() if config.get("persist_mode") == "async"}
    assert lossy == ({"PROGRESS", "KV_LEASES", "KV_FLEET"} if mode else set())
    assert {config["num_replicas"] for config in made.values()} == {replicas}


def test_everything_is_on_disk_and_everything_but_the_log_is_bounded() -> None:
    made = configs()

    assert {config["storage"] for config in made.values()} == {"file"}
    assert [name for name, config in made.items() if config["max_bytes"] <= 0] == ["TASKS"]


def test_artifacts_live_at_least_as_long_as_the_events_that_name_them() -> None:
    made = configs()

    assert made["OBJ_ARTIFACTS"]["max_age"] >= made["TASKS"]["max_age"]
    assert made["OBJ_ARTIFACTS"]["max_bytes"] == 1000


def test_leases_outlive_an_outage() -> None:
    assert "max_age" not in configs()["KV_LEASES"]


def test_progress_keeps_the_latest_only() -> None:
    assert configs()["PROGRESS"]["max_msgs_per_subject"] == 1
    assert configs()["PROGRESS"]["max_age"] == 3600 * 10**9


def test_a_repeated_append_is_noticed_for_two_minutes() -> None:
    assert configs()["TASKS"]["duplicate_window"] == 120 * 10**9


def test_what_people_say_keeps_some_history_and_what_processes_say_does_not() -> None:
    kept = {name: config["max_msgs_per_subject"] for name, config in configs().items() if "KV_" in name}

    assert kept == {"KV_BACKENDS": 5, "KV_LEASES": 1, "KV_FLEET": 1, "KV_CONTROL": 5}


def test_buckets_and_objects_are_what_the_stock_clients_expect() -> None:
    made = configs()

    assert all(config["allow_direct"] for config in made.values())
    assert {name for name, config in made.items() if config.get("allow_rollup_hdrs")} == {
        "OBJ_ARTIFACTS",
        *(name for name in made if name.startswith("KV_")),
    }


def test_objects_lie_where_the_stock_clients_look() -> None:
    assert subjects.object_meta_subject(ArtifactId("ab-1-0")) == "$O.ARTIFACTS.M.YWItMS0w"
    assert subjects.object_chunk_subject("nuid") == "$O.ARTIFACTS.C.nuid"
