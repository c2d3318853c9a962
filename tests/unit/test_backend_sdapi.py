"""What is sent to servers with `/sdapi/v1`, and how their answers read."""

import base64

import msgspec
import pytest
from msgspec.structs import replace

from schemas import previews
from schemas.requests import ImageRequest
from services.dispatcher.backends import sdapi_wire as wire
from services.dispatcher.backends.base import Failed, Previewed, Progressed
from services.dispatcher.backends.classify import Broken, Reply, Trouble

FOX = ImageRequest(prompt="a fox", width=640, height=480, steps=9, seed=7, n=2)
SEEN = wire.Seen(0.25, wire.State(job_count=1, sampling_step=5, sampling_steps=20))


def test_everything_is_sent_that_the_server_would_choose_itself() -> None:
    assert wire.body(FOX, None, "task-1", 1) == {
        "prompt": "a fox",
        "negative_prompt": "",
        "seed": 8,
        "steps": 9,
        "width": 640,
        "height": 480,
        "batch_size": 1,
        "n_iter": 1,
        "send_images": True,
        "save_images": False,
        "force_task_id": "task-1",
    }


def test_sampler_guidance_and_model_are_sent_when_they_were_asked_for() -> None:
    sent = wire.body(replace(FOX, sampler="Euler a", guidance=2.5), "xl", "task-1", 0)
    assert sent["sampler_name"] == "Euler a"
    assert sent["cfg_scale"] == 2.5
    assert sent["override_settings"] == {"sd_model_checkpoint": "xl"}


def test_the_tag_of_sd_server_is_disarmed_and_a_lora_is_left_as_it_is() -> None:
    prompt = '<sd_cpp_extra_args>{"width":192}</sd_cpp_extra_args> a fox <lora:soft:0.5>'
    sent = str(wire.body(replace(FOX, prompt=prompt), None, "task-1", 0)["prompt"])
    assert sent == '(sd_cpp_extra_args){"width":192}(/sd_cpp_extra_args) a fox <lora:soft:0.5>'


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"images":null}', b'{"images":[]}'])
def test_an_answer_without_a_picture_is_a_bad_one(body: bytes) -> None:
    found = wire.picture(body)
    assert isinstance(found, Failed)
    assert found.error.code == "bad_answer"


@pytest.mark.parametrize("info", ['""', '"{\\"seed\\":7}"', "{}"])
def test_the_first_picture_counts_whatever_else_is_said(info: str) -> None:
    assert wire.picture(f'{{"images":["aaaa","bbbb"],"parameters":{{}},"info":{info}}}'.encode()) == "aaaa"


@pytest.mark.parametrize(
    ("answer", "free"),
    [
        (Reply(200, b'{"progress":0,"state":{"job_count":0}}'), True),
        (Reply(200, b'{"progress":0.5,"state":{"job_count":1}}'), None),
        (Reply(200, b'{"progress":0.01,"state":{"job_count":-1}}'), None),
        (Reply(200, b"<html>"), None),
        (Reply(404), None),
        (Reply(401), None),
        (Broken(Trouble.REFUSED, "x"), True),
        (Broken(Trouble.SILENT, "x"), None),
    ],
)
def test_only_a_server_where_nothing_runs_is_known_to_be_free(
    answer: Reply | Broken,
    free: bool | None,  # noqa: FBT001 - from the table
) -> None:
    assert wire.idle(answer) is free


@pytest.mark.parametrize(
    ("answer", "runs"),
    [
        (Reply(200, b'{"active":true,"queued":false,"completed":false}'), True),
        (Reply(200, b'{"active":true,"queued":false,"completed":true}'), True),
        (Reply(200, b'{"active":false,"queued":true,"completed":false}'), False),
        (Reply(200, b'{"active":false,"queued":false,"completed":true}'), False),
        (Reply(200, b'{"active":false,"queued":false,"completed":false}'), None),
        (Reply(200, b"<html>"), None),
        (Reply(404), None),
        (Broken(Trouble.SILENT, "x"), None),
    ],
)
def test_a_server_knows_whether_a_task_runs_if_it_knows_the_task(
    answer: Reply | Broken,
    runs: bool | None,  # noqa: FBT001 - from the table
) -> None:
    assert wire.runs(answer) is runs


def test_progress_is_that_of_all_pictures() -> None:
    assert wire.progressed(SEEN, 0, 1) == Progressed(fraction=0.25, step=5, steps=20)
    assert wire.progressed(SEEN, 1, 2) == Progressed(fraction=0.625, step=25, steps=40)


def test_progress_stays_within_its_bounds_and_has_no_steps_before_they_are_known() -> None:
    assert wire.progressed(wire.Seen(-0.2), 0, 1) == Progressed(fraction=0)
    assert wire.progressed(wire.Seen(1.7), 1, 2) == Progressed(fraction=1)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'[{"title":"xl.safetensors [1f2e]","model_name":"xl"}]', ("xl",)),
        (b'[{"title":"xl.safetensors"},{}]', ("xl.safetensors",)),
        (b"[]", ()),
        (b"<html>", ()),
    ],
)
def test_models_are_named_without_their_hash_where_the_server_does(
    body: bytes, names: tuple[str, ...]
) -> None:
    assert wire.checkpoints(body) == names


@pytest.mark.parametrize(
    ("answer", "speaks"),
    [
        (Reply(200, b'[{"name":"Euler","aliases":[]}]'), True),
        (Reply(200, b"[]"), True),
        (Reply(200, b"<html>"), False),
        (Reply(200, b'{"data":[]}'), False),
        (Reply(404, b"[]"), False),
    ],
)
def test_a_list_of_samplers_tells_the_protocol(
    answer: Reply,
    speaks: bool,  # noqa: FBT001 - from the table
) -> None:
    assert wire.speaks_sdapi(answer) is speaks


PNG = b"\x89PNG\r\n\x1a\n, the rest of it"
ENCODED = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (ENCODED, Previewed(PNG)),
        (f"data:image/png;base64,{ENCODED}", Previewed(PNG)),
        (None, None),
        ("", None),
        ("no base64!", None),
        ("A" * (2 * previews.MAX_BYTES), None),
    ],
)
def test_what_is_being_drawn_is_seen_where_the_server_shows_it(
    shown: str | None, expected: Previewed | None
) -> None:
    body = {"progress": 0.5, "state": {"job_count": 1}, "current_image": shown}
    found = wire.seen(Reply(200, msgspec.json.encode(body)))
    assert found is not None
    assert wire.previewed(found) == expected
