"""What the command line shows of documents and events, and what it makes of refusals and streams."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.errors import Code
from schemas.events import TOKENS
from services.cli import failures, findings, results, show, submit, watch
from services.cli.failures import AwayError, EndError, Exit
from services.cli.findings import Level
from services.cli.frames import Frame, Frames
from services.cli.top import Seen, plain

Json = dict[str, Any]  # Any: as the api answers
ID = "0199d4e8-7c1a-7000-8000-0123456789ab"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def event(name: str, seconds: float = 0, **data: object) -> Json:
    at = (NOW + timedelta(seconds=seconds)).isoformat()
    return {"sequence": 7, "type": f"task.{name}", "time": at, "task_id": ID, "data": data}


def document(**members: object) -> Json:
    made: Json = {
        **dict.fromkeys(("user", "not_before", "started_at", "finished_at", "text", "error", "progress")),
        "task_id": ID,
        "kind": "image",
        "status": "QUEUED",
        "priority": "normal",
        "tags": [],
        "submitted_at": "2026-11-24T12:00:00Z",
        "attempts": [],
        "artifacts": [],
        "request": {"prompt": "a red fox"},
    }
    return {**made, **members}


def problem(code: str, **members: object) -> bytes:
    return msgspec.json.encode({"code": code, "detail": "no", **members})


class TestEvents:
    def test_every_event_of_a_task_but_its_erasure_has_the_status_that_follows(self) -> None:
        assert set(show.STATUS_AFTER) == {f"task.{name}" for name in TOKENS.values()} - {"task.erased"}

    def test_a_line_has_the_time_the_id_the_type_and_what_is_worth_knowing(self) -> None:
        line = show.event_line(event("started", attempt=2, backend="image-2", dispatcher="x"))
        assert line == f"2026-11-24T12:00:00+00:00 {ID} task.started attempt=2 backend=image-2"

    def test_text_from_elsewhere_cannot_command_the_terminal(self) -> None:
        failed = event("failed", error={"code": "oom", "message": "\x1b[2Jgone\nnext"})
        assert show.event_line(failed).endswith('task.failed error=oom message=" [2Jgone next"')
        assert "\x1b" not in "".join(
            show.summary(document(request={"prompt": "\x1b]0;title\x07"}), "http://a")
        )

    def test_the_page_of_an_erased_task_says_so_and_offers_no_result(self) -> None:
        picture = {"url": "/api/images/x-1-0", "media_type": "image/png", "bytes": 7}
        erased = document(artifacts=[picture], request={"prompt": None}, erased_at="2026-11-24T12:00:00Z")
        page = "\n".join(show.summary(erased, "http://a"))
        assert "erased      2026-11-24T12:00:00Z" in page
        assert "result" not in page

    def test_a_history_tells_the_time_since_the_submission(self) -> None:
        rows = show.history_rows([event("submitted"), event("started", 1.25, attempt=1)])
        assert [row[1] for row in rows] == ["+0.000 s", "+1.250 s"]
        assert show.history_rows([]) == []

    @pytest.mark.parametrize(
        ("seen", "fraction", "state"),
        [
            (event("submitted"), 0.0, "QUEUED"),
            (event("started", backend="image-1"), 0.0, "RUNNING image-1"),
            (event("attached", remote_id="7"), None, None),
            (event("progress", fraction=0.25), 0.25, "RUNNING 25%"),
            (event("attempt_failed", error={"message": "out of memory"}), None, "RETRYING out of memory"),
            (event("done"), 1.0, "DONE"),
        ],
    )
    def test_a_bar_stands_where_the_task_is(
        self, seen: Json, fraction: float | None, state: str | None
    ) -> None:
        assert watch.bar(seen) == (fraction, state)


class TestDocuments:
    def test_a_summary_tells_status_progress_attempts_error_and_results(self) -> None:
        text = "\n".join(
            show.summary(
                document(
                    status="RUNNING",
                    progress={"fraction": 0.5, "estimated": True},
                    tags=["a", "b"],
                    attempts=[
                        {
                            "attempt": 1,
                            "backend": "image-1",
                            "finished_at": "x",
                            "error": {"code": "oom", "message": "out of memory"},
                        },
                        {"attempt": 2, "backend": "image-2", "finished_at": None, "error": None},
                    ],
                    artifacts=[{"url": "/api/images/x", "media_type": "image/png", "bytes": 1234}],
                ),
                "http://a",
            )
        )
        for part in ("RUNNING (~50%)", "a, b", "image-1: out of memory (oom)", "image-2, running"):
            assert part in text
        assert "http://a/api/images/x (image/png, 1,234 bytes)" in text

    def test_a_long_prompt_is_cut_in_a_list_and_whole_in_a_summary(self) -> None:
        made = document(request={"prompt": "fox " * 100})
        assert len(show.task_row(made)[-1]) < 60
        assert ("fox " * 100).strip() in "\n".join(show.summary(made, ""))

    @pytest.mark.parametrize(
        ("queue", "row", "told"),
        [
            (None, ("", ""), ""),
            (
                {"position": 3, "eta_at": "2026-11-24T12:04:00.000Z", "why": "waiting_for_slot"},
                ("3", "2026-11-24T12:04:00.000Z"),
                "place 3, waits for a GPU, done at 2026-11-24T12:04:00.000Z",
            ),
            (
                {"position": 1, "eta_at": None, "why": "paused"},
                ("1 paused", ""),
                "place 1, its queue is paused",
            ),
            (
                {"position": None, "eta_at": "2026-11-24T12:04:00.000Z", "why": "running"},
                ("", "2026-11-24T12:04:00.000Z"),
                "done at 2026-11-24T12:04:00.000Z",
            ),
        ],
    )
    def test_a_task_s_place_and_end_are_told_in_its_row_and_its_summary(
        self, queue: Json | None, row: tuple[str, str], told: str
    ) -> None:
        made = document(status="QUEUED", queue=queue)
        assert show.task_row(made)[5:7] == row
        lines = [line for line in show.summary(made, "") if line.startswith("line ")]
        assert lines == ([f"line        {told}"] if told else [])

    def test_a_person_is_told_in_how_long_a_task_should_be_done(self) -> None:
        end = (NOW + timedelta(minutes=4, seconds=5)).isoformat()
        queue = {"position": 2, "eta_at": end, "why": "no_backend"}
        made = document(status="QUEUED", queue=queue)
        assert show.task_row(made, NOW)[5:7] == ("2 no_backend", "4 min")
        assert watch.waits(made, NOW) == (
            "QUEUED place 2, no GPU in service has its model, done in about 4 min"
        )

    def test_a_queue_tells_how_long_a_task_takes_and_how_far_off_that_was(self) -> None:
        counts = dict.fromkeys(("waiting", "scheduled", "retrying", "running", "slots"), 0)
        queue = {"kind": "image", "model": "any", **counts, "oldest_at": None, "paused": None}
        assert show.queue_row(queue)[-3:-1] == ("", "")
        foretold = {"eta_s": 75.2, "eta_error": {"median": 0.125, "p90": 0.4, "tasks": 9}}
        assert show.queue_row({**queue, **foretold})[-3:-1] == ("1 min", "12%")

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [(-5, "0 s"), (59.9, "59 s"), (61, "1 min"), (7300, "2 h"), (200_000, "2 d")],
    )
    def test_a_person_is_told_how_long_ago(self, seconds: float, shown: str) -> None:
        made = document(submitted_at=(NOW - timedelta(seconds=seconds)).isoformat())
        assert show.task_row(made, NOW)[3] == shown
        assert show.task_row(made)[3] == made["submitted_at"]
        assert show.task_row(document(submitted_at=None), NOW)[3] == ""

    def test_rows_in_a_pipe_are_aligned_and_whole(self) -> None:
        assert show.aligned(("A", "B"), [("1", "x" * 300)]) == ["A  B", f"1  {'x' * 300}"]

    def test_top_shows_what_runs_where_and_how_far(self) -> None:
        backend = {
            "name": "image-1",
            "kind": "image",
            "url": "http://a",
            "protocol": None,
            "models": [],
            "slots": 1,
            "wanted": "on",
            "condition": "down",
            "circuit": "open",
            "reason": "refused",
            "running": [{"task_id": ID, "attempt": 3}],
        }
        lines = plain(Seen([], None, [backend], {ID: 0.5}))
        assert lines[-4].split() == ["image-1", "image", "on", "down", "open", "1/1", "any", "refused"]
        assert lines[-1].split() == ["image-1", ID, "3", "50%"]

    def test_a_backend_is_told_in_one_line(self) -> None:
        backend = {"name": "image-1", "wanted": "draining", "running": [{}]}
        assert show.backend_line(backend) == "image-1 is draining and runs 1 task"
        assert show.backend_line({**backend, "running": [{}, {}]}).endswith("runs 2 tasks")
        assert show.backend_line({**backend, "running": []}) == "image-1 is draining"

    def test_a_pause_is_told_with_its_reason(self) -> None:
        held = {"model": None, "at": "2026-11-24T12:00:00Z", "by": "client", "reason": None}
        assert show.pause_line("image", held) == "image is paused since 2026-11-24T12:00:00Z"
        whole = {**held, "model": "flux", "reason": "new\nweights"}
        assert show.pause_line("image", whole).startswith("image flux is paused since ")
        assert show.pause_line("image", whole).endswith(": new weights")

    def test_a_queue_shows_since_when_it_is_paused(self) -> None:
        counts = dict.fromkeys(("waiting", "scheduled", "retrying", "running", "slots"), 0)
        queue = {"kind": "image", "model": "any", **counts, "oldest_at": None, "paused": None}
        held = {"at": NOW.isoformat(), "by": "client", "reason": "drivers"}
        assert show.queue_row(queue, NOW)[-1] == ""
        later = NOW + timedelta(minutes=3)
        assert show.queue_row({**queue, "paused": held}, later)[-1] == "3 min drivers"
        assert show.queue_row({**queue, "paused": {**held, "reason": None}})[-1] == held["at"]


class TestRefusals:
    @pytest.mark.parametrize("code", list(Code))
    def test_only_what_may_work_in_a_moment_is_away(self, code: Code) -> None:
        away = {Code.NATS_AWAY, Code.OUTCOME_UNKNOWN, Code.SHUTTING_DOWN, Code.READ_MODEL_AWAY}
        error = failures.refusal(400, problem(code), "http://a")
        assert error.exit_code is (Exit.AWAY if code in away else Exit.REFUSED)
        assert isinstance(error, AwayError) is (code in away)

    def test_a_refusal_is_one_line_with_detail_member_and_what_is_allowed(self) -> None:
        body = problem("unknown_kind", detail="no\nsuch", member="kind", allowed=["image", "speech"])
        line = str(failures.refusal(422, body, "http://a"))
        assert line == "no such (unknown_kind, member kind); allowed: image, speech"

    def test_an_unknown_outcome_says_how_to_look(self) -> None:
        line = str(failures.refusal(503, problem("outcome_unknown", task_id=ID), "http://a"))
        assert f"taskfold get {ID}" in line

    @pytest.mark.parametrize(("status", "code"), [(404, Exit.REFUSED), (502, Exit.AWAY)])
    @pytest.mark.parametrize("body", [b"<html>", b"{}", b"\xff", b"[]"])
    def test_an_answer_of_something_else_says_so(self, status: int, code: Exit, body: bytes) -> None:
        error = failures.refusal(status, body, "http://a")
        assert error.exit_code is code
        assert "--url" in str(error)


class TestStreams:
    STREAM = (
        b'retry: 2000\n\n: heartbeat\n\nid: 4\nevent: task.started\ndata: {"a":1}\n\n'
        b"event: task.progress\r\ndata: x\r\ndata: y\r\n\r\nid: 5\nda"
    )

    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    def test_frames_are_the_same_however_the_bytes_arrive(self, size: int) -> None:
        frames = Frames()
        pieces = [self.STREAM[at : at + size] for at in range(0, len(self.STREAM), size)]
        found = [frame for piece in pieces for frame in frames.feed(piece)]
        assert found == [Frame("4", "task.started", b'{"a":1}'), Frame("", "task.progress", b"x\ny")]


class TestFiles:
    def test_several_results_are_numbered_before_the_suffix(self) -> None:
        assert results.targets("a/fox.png", 3) == ["a/fox.png", "a/fox-2.png", "a/fox-3.png"]
        assert results.targets("-", 1) == ["-"]
        with pytest.raises(EndError) as caught:
            results.targets("-", 2)
        assert caught.value.exit_code is Exit.USAGE

    def test_a_file_replaces_the_old_one_and_leaves_nothing_beside_it(self, tmp_path: Path) -> None:
        place = tmp_path / "fox.png"
        place.write_bytes(b"old")
        results.save(b"new", str(place))
        assert [path.name for path in tmp_path.iterdir()] == ["fox.png"]
        assert place.read_bytes() == b"new"

    def test_a_file_that_cannot_be_written_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "fox.png").mkdir()
        (tmp_path / "fox.png" / "full").touch()
        with pytest.raises(EndError) as caught:
            results.save(b"new", str(tmp_path / "fox.png"))
        assert caught.value.exit_code is Exit.USAGE
        assert [path.name for path in tmp_path.iterdir()] == ["fox.png"]

    def test_a_link_stays_one_and_a_device_stays_what_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "link.png").symlink_to(tmp_path / "fox.png")
        results.save(b"new", str(tmp_path / "link.png"))
        results.check("/dev/null", 1, as_json=False)
        results.save(b"new", "/dev/null")
        assert (tmp_path / "link.png").is_symlink()
        assert (tmp_path / "fox.png").read_bytes() == b"new"
        assert Path("/dev/null").is_char_device()

    @pytest.mark.parametrize("name", [".", "missing/fox.png"])
    def test_a_place_that_will_not_do_is_refused_before_anything_is_sent(
        self, name: str, tmp_path: Path
    ) -> None:
        with pytest.raises(EndError) as caught:
            results.check(str(tmp_path / name), 1, as_json=False)
        assert caught.value.exit_code is Exit.USAGE

    @pytest.mark.parametrize(
        ("flags", "output", "form"),
        [
            ({}, "a.srt", "srt"),
            ({}, "a.VTT", "vtt"),
            ({}, "a.txt", "text"),
            ({"response_format": "verbose_json"}, "a.json", "verbose_json"),
            ({}, "-", None),
            ({}, None, None),
        ],
    )
    def test_the_suffix_says_the_format_where_nothing_else_does(
        self, flags: Json, output: str | None, form: str | None
    ) -> None:
        assert submit.fields(flags, output).get("response_format") == form

    def test_members_of_a_form_are_text_and_what_was_not_typed_is_left_out(self) -> None:
        flags = {"delay_s": 1.5, "tags": ("a", "b,c"), "user": "me", "model": None}
        assert submit.fields(flags, None) == {"delay_s": "1.5", "tags": '["a","b,c"]', "user": "me"}
        assert submit.given({"tags": (), "n": None, "seed": 0}) == {"seed": 0}


class TestFindings:
    @pytest.mark.parametrize(
        ("finding", "level"),
        [
            (findings.python((3, 11, 0)), Level.OK),
            (findings.python((3, 10, 9)), Level.FAIL),
            (findings.port("api_port", 0, None, None), Level.OK),
            (findings.port("api_port", 80, "our api", "in use"), Level.OK),
            (findings.port("api_port", 80, None, "in use"), Level.FAIL),
            (findings.disk("d", 20 * findings.GIB, 16, writable=True), Level.OK),
            (findings.disk("d", 10 * findings.GIB, 16, writable=True), Level.WARN),
            (findings.disk("d", 1000, 0, writable=True), Level.FAIL),
            (findings.disk("d", 20 * findings.GIB, 16, writable=False), Level.FAIL),
            (findings.nats_version("n", "2.14.0"), Level.OK),
            (findings.nats_version("n", "2.9.30"), Level.FAIL),
            (findings.nats_away("n", configured=True), Level.FAIL),
            (findings.nats_away("n", configured=False), Level.WARN),
            (findings.api("a", 200, [], named=True), Level.OK),
            (findings.api("a", 503, ["lag"], named=False), Level.FAIL),
            (findings.api("a", 0, [], named=True), Level.FAIL),
            (findings.api("a", 0, [], named=False), Level.WARN),
            (findings.clock(NOW, NOW), Level.OK),
            (findings.clock(NOW, NOW - timedelta(seconds=10)), Level.WARN),
            (findings.clock(NOW, NOW + timedelta(hours=1)), Level.FAIL),
            (findings.backend("b", "u", "on", 404), Level.OK),
            (findings.backend("b", "u", "on", 0), Level.FAIL),
            (findings.backend("b", "u", "off", 0), Level.OK),
            (findings.no_backends(3), Level.WARN),
        ],
    )
    def test_what_is_wrong_is_told_with_what_to_do(self, finding: findings.Finding, level: Level) -> None:
        assert finding.level is level
        assert bool(finding.advice) is (level is not Level.OK)
        assert findings.line(finding).startswith(level.value)
        assert findings.failed([finding]) is (level is Level.FAIL)

    @pytest.mark.parametrize(
        ("limit", "used", "level"),
        [(-1, 0, Level.FAIL), (10, 1, Level.WARN), (16, 1, Level.OK), (16, 13.5, Level.FAIL)],
    )
    def test_the_room_of_jetstream_needs_a_limit_and_some_left(
        self, limit: float, used: float, level: Level
    ) -> None:
        info = {"limits": {"max_storage": limit * findings.GIB}, "storage": used * findings.GIB}
        assert findings.jetstream(info, 6).level is level
