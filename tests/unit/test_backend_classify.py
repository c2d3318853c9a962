"""Which answers of servers blame whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import ErrorClass
from services.dispatcher.backends.base import (
    Failed,
    Finished,
    Loading,
    Misconfigured,
    Ready,
    Refused,
    Silent,
)
from services.dispatcher.backends.classify import (
    Broken,
    Reply,
    Trouble,
    cancelled,
    health,
    job_failed,
    models_listed,
    no_success,
    retry_after_s,
    said,
    unless_stopped,
)

OURS, PASSING, BUSY, WRONG, DOWN = (
    ErrorClass.PERMANENT,
    ErrorClass.TRANSIENT,
    ErrorClass.OVERLOADED,
    ErrorClass.MISCONFIGURED,
    ErrorClass.BACKEND_DOWN,
)

ANSWERS = [
    # sd-server
    (400, b'{"error":"prompt required"}', OURS, "rejected_by_backend"),
    (429, b'{"error":"job queue is full"}', BUSY, "backend_busy"),
    (500, b'{"error":"generate_image returned no results"}', PASSING, "backend_error"),
    (
        500,
        b'{"error":"server_error","message":"[json.exception.parse_error.101] x"}',
        OURS,
        "rejected_by_backend",
    ),
    (500, b"[json.exception.type_error.302] type must be string", OURS, "rejected_by_backend"),
    (500, b'{"error":"server_error","message":"CUDA error: out of memory"}', PASSING, "backend_oom"),
    (404, b"", WRONG, "no_such_route"),
    # FastAPI: vLLM-Omni, SGLang, speaches
    (422, b'{"detail":[{"loc":["body","size"],"msg":"bad size"}]}', OURS, "rejected_by_backend"),
    (404, b'{"detail":"Not Found"}', WRONG, "no_such_route"),
    (404, b'{"detail":"Model \'x\' is not installed locally. You can"}', WRONG, "model_missing"),
    (404, b'{"error":{"message":"The model `x` does not exist.","code":404}}', WRONG, "model_missing"),
    (400, b'{"detail":{"error":{"message":"unknown model: x"}}}', WRONG, "model_missing"),
    (415, b'{"detail":"Failed to decode audio"}', OURS, "rejected_by_backend"),
    (413, b'{"error":{"message":"Maximum file size exceeded"}}', OURS, "rejected_by_backend"),
    (403, b'{"detail":"Invalid API key"}', WRONG, "access_denied"),
    (401, b'{"error":"Unauthorized"}', WRONG, "access_denied"),
    (405, b'{"detail":"Method Not Allowed"}', WRONG, "no_such_route"),
    (501, b"", WRONG, "no_such_route"),
    (503, b'{"status":"loading model"}', BUSY, "backend_busy"),
    (503, b"CUDA out of memory", BUSY, "backend_busy"),
    # A1111, whisper.cpp, proxies, others
    (404, b'{"error":"HTTPException","detail":"Sampler not found"}', OURS, "rejected_by_backend"),
    (500, b'{"error":"OutOfMemoryError","errors":"..."}', PASSING, "backend_oom"),
    (404, b"File Not Found", WRONG, "no_such_route"),
    (404, b"File Not Found (/v1/audio/transcriptions)", WRONG, "no_such_route"),
    (404, b"404: Not Found", WRONG, "no_such_route"),
    (404, b"404 page not found", WRONG, "no_such_route"),
    (400, b"Invalid request", OURS, "rejected_by_backend"),
    (500, b"Internal Server Error", PASSING, "backend_error"),
    (502, b"<html>bad gateway</html>", PASSING, "backend_error"),
    (504, b"", PASSING, "backend_error"),
    (408, b"", PASSING, "backend_error"),
    (499, b"", PASSING, "backend_error"),
    (302, b"", WRONG, "redirected"),
    (204, b"", PASSING, "bad_answer"),
]


@pytest.mark.parametrize(("status", "body", "error_class", "code"), ANSWERS)
def test_an_answer_is_judged_by_status_and_body(
    status: int, body: bytes, error_class: ErrorClass, code: str
) -> None:
    error = no_success(Reply(status, body)).error
    assert (error.error_class, error.code) == (error_class, code)
    assert error.message.startswith(f"HTTP {status}: ")


@pytest.mark.parametrize(
    ("trouble", "error_class"),
    [
        (Trouble.REFUSED, DOWN),
        (Trouble.UNREACHABLE, DOWN),
        (Trouble.LOST, PASSING),
        (Trouble.SILENT, PASSING),
        (Trouble.TOO_LARGE, PASSING),
        (Trouble.UNUSABLE_URL, WRONG),
    ],
)
def test_no_answer_is_judged_by_what_broke(trouble: Trouble, error_class: ErrorClass) -> None:
    error = no_success(Broken(trouble, "why")).error
    assert (error.error_class, error.code, error.message) == (error_class, trouble, "why")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":"plain"}', "plain"),
        (b'{"error":{"message":"nested","type":"x","code":1}}', "nested"),
        (b'{"detail":"fastapi"}', "fastapi"),
        (b'{"detail":{"error":{"message":"deep"}}}', "deep"),
        (b'{"detail":[{"loc":["body","n"],"msg":"too many"},{"msg":"two"}]}', "body.n: too many; two"),
        (b'{"error":"RuntimeError","detail":"","body":"","errors":"too much"}', "RuntimeError: too much"),
        (b'{"error":"server_error","message":"[json.exception]"}', "server_error: [json.exception]"),
        (b"just text\n", "just text"),
        (b"", ""),
        (b"{}", "{}"),
        (b"[" * 100_000, "[" * 1000),
        (b"\xff\xfe", "\N{REPLACEMENT CHARACTER}" * 2),
    ],
)
def test_a_server_is_quoted_in_its_own_words(body: bytes, words: str) -> None:
    assert said(body) == words


@given(st.integers(100, 599), st.binary(max_size=200) | st.from_regex(rb'\{"(error|detail)":.*\}'))
def test_any_answer_at_all_has_a_class_and_a_message(status: int, body: bytes) -> None:
    error = no_success(Reply(status, body)).error
    assert error.code
    assert error.message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7),
        (" 7 ", 7),
        ("-1", None),
        ("1e9", None),
        ("9999999", 3600),
        ("Wed, 21 Oct", None),
    ],
)
def test_retry_after_is_read_in_seconds_and_bounded(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds


def test_only_an_overloaded_backend_says_when_to_come_back() -> None:
    assert no_success(Reply(503, b"", "5")).retry_after_s == 5
    assert no_success(Reply(500, b"", "5")).retry_after_s is None


def test_a_failed_job_is_transient_and_memory_is_told_apart() -> None:
    assert job_failed("generation_failed: no results").error.code == "backend_error"
    assert job_failed("CUDA out of memory").error.code == "backend_oom"


def test_a_stopped_call_never_succeeds() -> None:
    success, failure = Finished(outputs=()), Failed(error=job_failed("x").error)
    assert unless_stopped(success, stopped=True) == cancelled()
    assert unless_stopped(success, stopped=False) is success
    assert unless_stopped(failure, stopped=True) is failure


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Reply(200, b'{"data":[{"id":"a"},{"id":"b"}]}'), Ready(("a", "b"))),
        (Reply(200, b"OK"), Ready()),
        (Broken(Trouble.SILENT, "x"), Silent()),
        (Broken(Trouble.REFUSED, "x"), Refused("x")),
        (Broken(Trouble.UNREACHABLE, "x"), Refused("x")),
        (Broken(Trouble.LOST, "x"), Refused("x")),
        (Broken(Trouble.UNUSABLE_URL, "x"), Misconfigured("x")),
        (Reply(503, b"loading"), Loading("HTTP 503: loading")),
        (Reply(500, b"no"), Loading("HTTP 500: no")),
        (Reply(401, b"no"), Misconfigured("HTTP 401: no")),
        (Reply(302), Misconfigured("HTTP 302: no message")),
    ],
)
def test_health_is_what_a_probe_is_answered(answer: Reply | Broken, expected: object) -> None:
    assert health(answer) == expected


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data":3}', b'{"data":[{"id":3}]}', b'{"object":"list"}'])
def test_what_is_no_list_of_models_names_none(body: bytes) -> None:
    assert models_listed(body) == ()
