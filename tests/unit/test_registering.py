"""What clients may say of a backend, and what becomes of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from schemas import registering
from schemas.errors import Code, RejectedError
from schemas.ids import BackendId
from schemas.registering import added, addition, changed, lapsed, merged, removed
from schemas.registry import Backend, Protocol, Source, Wanted, decode, encode
from schemas.requests import Kind

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=10)
BODY = {"name": "gpu-1", "url": "http://gpu:8080", "kind": "image"}


def body(**members: Any) -> dict[str, Any]:  # Any: JSON
    return {**BODY, **members}


def configured(**members: Any) -> Backend:  # Any: whatever a backend may have
    return Backend(name=BackendId("image-1"), url="http://gpu:8080", kind=Kind.IMAGE, **members)


def announced(now: datetime = NOW, **members: Any) -> Backend:  # Any: JSON
    return addition(body(ttl_s=30, **members), now)


def refusal(code: Code, member: str | None) -> Any:  # Any: pytest's own
    return pytest.raises(RejectedError, check=lambda e: (e.code, e.member) == (code, member))


class TestAddition:
    def test_a_backend_is_what_its_members_say(self) -> None:
        said = body(
            protocol="sdcpp",
            models=["a", "alias=Own/Name"],
            slots=2,
            keeps=3,
            weight=0.5,
            labels={"zone": "b"},
            api_key="hush",
            disconnect_cancels=True,
            wanted="draining",
        )
        assert addition(said, NOW) == Backend(
            name=BackendId("gpu-1"),
            url="http://gpu:8080",
            kind=Kind.IMAGE,
            protocol=Protocol.SDCPP,
            models=("a", "alias=Own/Name"),
            slots=2,
            keeps=3,
            weight=0.5,
            labels={"zone": "b"},
            api_key="hush",
            disconnect_cancels=True,
            wanted=Wanted.DRAINING,
            source=Source.API,
        )

    def test_a_url_is_written_as_in_the_settings_and_a_member_counts_more(self) -> None:
        made = addition(body(url="sdcpp+http://gpu:8080/?slots=2&models=a,b", models=["c"]), NOW)
        assert (made.url, made.protocol, made.slots) == ("http://gpu:8080", Protocol.SDCPP, 2)
        assert made.models == ("c",)

    def test_a_url_names_no_file_of_the_api(self) -> None:
        with refusal(Code.OUT_OF_RANGE, "url"):
            addition(body(url="comfyui+http://gpu?workflow=/etc/passwd"), NOW)

    def test_a_workflow_is_checked_as_the_file_is(self) -> None:
        graph = {"1": {"class_type": "X", "inputs": {"text": "", "seed": 0}}}
        inputs = {"prompt": "1.inputs.text", "seed": "1.inputs.seed"}
        made = addition(body(protocol="comfyui", workflow={"workflow": graph, "inputs": inputs}), NOW)
        assert made.workflow is not None
        assert (made.workflow.graph, made.workflow.inputs) == (graph, inputs)
        with refusal(Code.CONFLICTING_MEMBERS, "workflow"):
            addition(body(protocol="sdcpp", workflow={"workflow": graph, "inputs": inputs}), NOW)
        with refusal(Code.MALFORMED, "workflow"):
            addition(body(workflow={"workflow": graph}), NOW)

    def test_an_announcement_lives_for_its_time(self) -> None:
        made = announced()
        assert (made.source, made.alive_until) == (Source.ANNOUNCED, NOW + timedelta(seconds=30))

    @pytest.mark.parametrize("name", ["name", "url", "kind"])
    def test_what_is_required_is_named(self, name: str) -> None:
        with refusal(Code.MISSING_MEMBER, name):
            addition({member: value for member, value in BODY.items() if member != name}, NOW)

    @pytest.mark.parametrize(
        ("code", "member", "value"),
        [
            (Code.UNKNOWN_MEMBER, "colour", "red"),
            (Code.UNKNOWN_MEMBER, "source", "config"),
            (Code.OUT_OF_RANGE, "name", "GPU"),
            (Code.OUT_OF_RANGE, "name", "-gpu"),
            (Code.OUT_OF_RANGE, "name", "gpu.1"),
            (Code.OUT_OF_RANGE, "name", "gpu\n"),
            (Code.OUT_OF_RANGE, "name", ">"),
            (Code.OUT_OF_RANGE, "name", ""),
            (Code.OUT_OF_RANGE, "name", "g" * 64),
            (Code.WRONG_TYPE, "name", 7),
            (Code.OUT_OF_RANGE, "url", "gpu:8080"),
            (Code.OUT_OF_RANGE, "url", "ftp://gpu"),
            (Code.OUT_OF_RANGE, "url", "http://"),
            (Code.OUT_OF_RANGE, "url", "http://gpu/ x"),
            (Code.OUT_OF_RANGE, "url", "http://gpu?slots=0"),
            (Code.UNKNOWN_MEMBER, "url", "http://gpu?colour=red"),
            (Code.OUT_OF_RANGE, "url", "openai_stt+http://gpu"),
            (Code.OUT_OF_RANGE, "kind", "video"),
            (Code.OUT_OF_RANGE, "protocol", "carrier-pigeon"),
            (Code.OUT_OF_RANGE, "protocol", "openai_stt"),
            (Code.WRONG_TYPE, "models", "a,b"),
            (Code.OUT_OF_RANGE, "models", [""]),
            (Code.OUT_OF_RANGE, "models", ["=own"]),
            (Code.OUT_OF_RANGE, "models", ["alias="]),
            (Code.OUT_OF_RANGE, "slots", 0),
            (Code.OUT_OF_RANGE, "slots", 65),
            (Code.WRONG_TYPE, "slots", "2"),
            (Code.OUT_OF_RANGE, "keeps", 0),
            (Code.OUT_OF_RANGE, "weight", 0),
            (Code.WRONG_TYPE, "labels", ["a"]),
            (Code.OUT_OF_RANGE, "labels", {"": "a"}),
            (Code.WRONG_TYPE, "labels", {"a": 1}),
            (Code.OUT_OF_RANGE, "labels", {str(n): "" for n in range(33)}),
            (Code.OUT_OF_RANGE, "api_key", "hush\nhush"),
            (Code.WRONG_TYPE, "disconnect_cancels", "yes"),
            (Code.OUT_OF_RANGE, "wanted", "gone"),
            (Code.OUT_OF_RANGE, "ttl_s", 4),
            (Code.OUT_OF_RANGE, "ttl_s", 3601),
        ],
    )
    def test_what_is_wrong_is_named(self, code: Code, member: str, value: object) -> None:
        with refusal(code, member):
            addition(body(**{member: value}), NOW)

    def test_an_announcement_says_nothing_of_what_operators_want(self) -> None:
        with refusal(Code.CONFLICTING_MEMBERS, "wanted"):
            addition(body(ttl_s=30, wanted="on"), NOW)


class TestAdded:
    def test_a_name_is_taken_until_it_is_gone(self) -> None:
        new = addition(BODY, NOW)
        assert added(None, new) == new
        for known in (
            new,
            replace(new, wanted=Wanted.OFF),
            announced(),
            replace(new, source=Source.CONFIG),
        ):
            with refusal(Code.BACKEND_EXISTS, "name"):
                added(known, new)
            assert added(replace(known, wanted=Wanted.GONE), new) == new

    @pytest.mark.parametrize("source", [Source.API, Source.CONFIG])
    def test_nobody_announces_over_what_is_somebody_elses(self, source: Source) -> None:
        with refusal(Code.BACKEND_EXISTS, "name"):
            added(replace(addition(BODY, NOW), source=source), announced())

    def test_an_announcement_is_renewed_with_whatever_it_says_now(self) -> None:
        known = replace(announced(), learned_protocol=Protocol.SDCPP, learned_models=("a",))
        renewed = added(known, announced(LATER, slots=2))
        assert renewed == replace(known, slots=2, alive_until=LATER + timedelta(seconds=30))

    @pytest.mark.parametrize("wanted", [Wanted.DRAINING, Wanted.OFF])
    def test_a_renewal_leaves_what_operators_want(self, wanted: Wanted) -> None:
        known = changed(announced(), {"wanted": str(wanted)})
        assert added(known, announced(LATER)).wanted is wanted

    def test_one_that_had_fallen_silent_is_on_again(self) -> None:
        drained = lapsed(announced(), LATER, running=1)
        again = added(drained, announced(LATER))
        assert (again.wanted, again.alive_until) == (Wanted.ON, LATER + timedelta(seconds=30))


class TestChanged:
    def test_a_member_that_is_not_there_stays(self) -> None:
        known = addition(body(slots=2, labels={"a": "b"}, api_key="hush"), NOW)
        assert changed(known, {}) == known
        assert changed(known, {"slots": 3}) == replace(known, slots=3)
        assert changed(known, {"api_key": None, "labels": {}}) == replace(known, api_key=None, labels={})
        assert changed(known, {"wanted": "off"}) == replace(known, wanted=Wanted.OFF)

    def test_another_url_is_recognised_anew_and_keeps_its_models_until_then(self) -> None:
        known = replace(
            addition(body(slots=2), NOW), learned_protocol=Protocol.SDCPP, learned_models=("a",)
        )
        moved = changed(known, {"url": "http://other"})
        assert moved == replace(known, url="http://other", learned_protocol=None)
        assert changed(known, {"url": "sdcpp+http://gpu:8080?weight=2"}) == replace(
            known, protocol=Protocol.SDCPP, weight=2.0
        )

    @pytest.mark.parametrize("member", ["name", "kind", "ttl_s", "source", "colour"])
    def test_some_things_cannot_be_changed(self, member: str) -> None:
        with refusal(Code.UNKNOWN_MEMBER, member):
            changed(addition(BODY, NOW), {member: "image"})

    @pytest.mark.parametrize(
        ("member", "value"),
        [("slots", None), ("wanted", "gone"), ("protocol", "openai_stt"), ("url", "gpu"), ("weight", -1)],
    )
    def test_what_is_wrong_is_named(self, member: str, value: object) -> None:
        with pytest.raises(RejectedError) as refused:
            changed(addition(BODY, NOW), {member: value})
        assert refused.value.member == member


class TestMerged:
    def test_a_change_over_the_api_outlives_a_restart(self) -> None:
        known = changed(configured(slots=2), {"slots": 4, "weight": 2.0, "labels": {"a": "b"}})
        again = merged(decode(encode(known)), configured(slots=2))
        assert (again.slots, again.weight, again.labels) == (4, 2.0, {"a": "b"})
        assert merged(again, configured(slots=2)) == again

    def test_the_configuration_counts_again_once_it_says_something_new(self) -> None:
        known = changed(configured(slots=2), {"slots": 4, "url": "http://other"})
        again = merged(known, configured(slots=3))
        assert (again.slots, again.url) == (3, "http://other")
        assert merged(again, configured(slots=2)).slots == 2

    def test_a_change_back_is_no_change(self) -> None:
        known = changed(changed(configured(slots=2), {"slots": 4}), {"slots": 2})
        assert known == configured(slots=2)
        assert merged(known, configured(slots=8)).slots == 8

    def test_what_is_wanted_stays_but_for_what_was_gone(self) -> None:
        assert merged(configured(wanted=Wanted.OFF), configured()).wanted is Wanted.OFF
        assert merged(configured(wanted=Wanted.GONE), configured()).wanted is Wanted.ON
        assert merged(None, configured()) == configured()

    def test_what_was_learned_of_another_url_is_forgotten(self) -> None:
        known = configured(learned_protocol=Protocol.SDCPP, learned_models=("a",))
        assert merged(known, configured()) == known
        assert merged(known, replace(configured(), url="http://other")) == replace(
            known, url="http://other", learned_protocol=None
        )

    def test_an_announcement_that_says_the_same_leaves_a_change(self) -> None:
        known = changed(announced(slots=2), {"slots": 1})
        assert added(known, announced(LATER, slots=2)).slots == 1
        assert added(known, announced(LATER, slots=3)).slots == 3


class TestRemoved:
    def test_only_what_is_drained_or_off_and_runs_nothing_goes(self) -> None:
        for wanted in (Wanted.DRAINING, Wanted.OFF):
            removed(configured(wanted=wanted), running=0)
            with refusal(Code.BACKEND_IN_USE, None):
                removed(configured(wanted=wanted), running=1)
        with refusal(Code.BACKEND_IN_USE, None):
            removed(configured(), running=0)


class TestLapsed:
    def test_one_that_is_heard_of_in_time_stays(self) -> None:
        assert lapsed(announced(), NOW, running=0) == announced()
        for known in (configured(), addition(BODY, NOW)):
            assert lapsed(known, LATER, running=0) == known

    def test_a_silent_one_that_runs_nothing_is_removed(self) -> None:
        for wanted in (Wanted.ON, Wanted.DRAINING):
            assert lapsed(replace(announced(), wanted=wanted), LATER, running=0) is None

    def test_a_silent_one_that_runs_something_drains_first(self) -> None:
        drains = lapsed(announced(), LATER, running=1)
        assert drains is not None
        assert drains.wanted is Wanted.DRAINING
        assert lapsed(drains, LATER, running=1) == drains
        assert lapsed(drains, LATER, running=0) is None

    def test_one_that_is_off_stays_so(self) -> None:
        known = replace(announced(), wanted=Wanted.OFF)
        assert lapsed(known, LATER, running=0) == known


@pytest.mark.parametrize("name", ["image-1", "gpu_7", "0", "a" * 63])
def test_a_backend_has_a_name_that_is_one_token_of_a_subject(name: str) -> None:
    assert registering.backend_named(name) == name


@pytest.mark.parametrize("name", ["", "a" * 64, "a.b", "*", ">", "a b", "A", 'a"', "-a"])
def test_what_is_no_token_of_a_subject_names_no_backend(name: str) -> None:
    assert registering.backend_named(name) is None
