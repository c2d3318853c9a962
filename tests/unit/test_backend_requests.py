"""What is sent to each server."""

import email.message
import email.policy
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.requests import ImageRequest, SpeechRequest
from services.dispatcher.backends import (
    openai_images,
    openai_stt,
    sdcpp_wire,
    speech,
    whisper_asr,
    whispercpp,
)
from services.dispatcher.backends.base import Audio, Failed
from services.dispatcher.backends.classify import Broken, Reply, Trouble
from services.dispatcher.backends.polling import Unclear
from services.dispatcher.backends.sdcpp_wire import JobState

FOX = ImageRequest(prompt="a fox", width=640, height=480, steps=9, seed=7, n=2)
TALK = SpeechRequest(artifact="a")


def test_sd_server_is_told_seed_size_and_steps_and_no_more_than_was_asked_for() -> None:
    assert sdcpp_wire.submission(FOX) == {
        "prompt": "a fox",
        "negative_prompt": "",
        "width": 640,
        "height": 480,
        "seed": 7,
        "batch_count": 2,
        "output_format": "png",
        "sample_params": {"sample_steps": 9},
    }


def test_sd_server_is_told_sampler_and_guidance_when_they_were_asked_for() -> None:
    asked = replace(FOX, sampler="euler", guidance=2.5)
    assert sdcpp_wire.submission(asked)["sample_params"] == {
        "sample_steps": 9,
        "sample_method": "euler",
        "guidance": {"txt_cfg": 2.5},
    }


def test_openai_servers_are_told_everything_that_they_would_choose_themselves() -> None:
    assert openai_images.body(FOX, "qwen") == {
        "model": "qwen",
        "prompt": "a fox",
        "n": 2,
        "size": "640x480",
        "response_format": "b64_json",
        "seed": 7,
        "num_inference_steps": 9,
    }
    asked = openai_images.body(replace(FOX, negative_prompt="blur", guidance=4.0), None)
    assert asked["negative_prompt"] == "blur"
    assert asked["true_cfg_scale"] == 4.0
    assert "model" not in asked


@pytest.mark.parametrize(
    "tag",
    [
        "<sd_cpp_extra_args>{}</sd_cpp_extra_args>",
        "<SD_CPP_extra_args>{}</SD_CPP_extra_args>",
        "<sd_cpp_<sd_cpp_extra_args>extra_args>",
        "<</sd_cpp_extra_args>sd_cpp_extra_args>",
    ],
)
def test_the_tag_by_which_a_prompt_commands_sd_server_is_disarmed(tag: str) -> None:
    sent = str(openai_images.body(replace(FOX, prompt=f"a {tag} fox"), None)["prompt"])
    assert "<sd_cpp_extra_args>" not in sent.lower()
    assert "</sd_cpp_extra_args>" not in sent.lower()
    assert "sd_cpp_extra_args" in sent.lower()


async def sent(
    request: SpeechRequest, audio: Audio, model: str | None = "whisper-1"
) -> tuple[bytes, int, str]:
    upload = speech.multipart(openai_stt.asked(request, model), audio, audio.open(), "b0undary")
    body = b"".join([chunk async for chunk in upload.chunks])
    return body, upload.size, upload.content_type


def recording(content: bytes, media_type: str = "audio/wav", filename: str = "a.wav") -> Audio:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    return Audio(open=chunks, size=len(content), media_type=media_type, filename=filename)


def parts(body: bytes, content_type: str) -> list[tuple[str, str | None, bytes]]:
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    assert isinstance(message, email.message.EmailMessage)
    found = []
    for part in message.iter_parts():
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        name = str(part.get_param("name", header="content-disposition"))
        found.append((name, part.get_filename(), payload))
    return found


async def test_a_form_has_every_field_and_the_recording_last() -> None:
    asked = replace(TALK, language="en", prompt="Austen", temperature=0.2, word_timestamps=True)
    body, size, content_type = await sent(asked, recording(b"RIFF"))
    assert size == len(body)
    assert parts(body, content_type) == [
        ("response_format", None, b"verbose_json"),
        ("temperature", None, b"0.2"),
        ("model", None, b"whisper-1"),
        ("model_name", None, b"whisper-1"),
        ("language", None, b"en"),
        ("prompt", None, b"Austen"),
        ("timestamp_granularities[]", None, b"word"),
        ("timestamp_granularities[]", None, b"segment"),
        ("file", "a.wav", b"RIFF"),
    ]


def test_whisper_cpp_is_told_everything_that_it_was_perhaps_started_with() -> None:
    plain = whispercpp.asked(TALK, "of-the-operator")
    assert (plain.path, plain.file_field) == ("/inference", "file")
    assert plain.fields == [
        ("response_format", "verbose_json"),
        ("temperature", "0.0"),
        ("language", "auto"),
        ("translate", "false"),
        ("split_on_word", "true"),
        ("no_language_probabilities", "true"),
    ]
    asked = whispercpp.asked(replace(TALK, language="de", translate=True, prompt="Fontane"), None)
    assert {("language", "de"), ("translate", "true"), ("prompt", "Fontane")} < set(asked.fields)


def test_whisper_asr_is_asked_in_the_query() -> None:
    plain = whisper_asr.asked(TALK, "of-the-operator")
    assert (plain.path, plain.file_field) == ("/asr?output=json&task=transcribe&encode=true", "audio_file")
    assert plain.fields == []
    asked = replace(TALK, language="de", translate=True, prompt="Effi & Co. + 1%", word_timestamps=True)
    assert whisper_asr.asked(asked, None).path == (
        "/asr?output=json&task=translate&encode=true&language=de"
        "&initial_prompt=Effi+%26+Co.+%2B+1%25&word_timestamps=true"
    )


async def test_what_was_not_asked_for_is_not_in_the_form() -> None:
    body, _, content_type = await sent(TALK, recording(b""), model=None)
    assert [name for name, _, _ in parts(body, content_type)] == ["response_format", "temperature", "file"]


@given(st.text(), st.text(), st.text())
async def test_no_name_and_no_type_adds_a_field_to_the_form(
    filename: str, media_type: str, prompt: str
) -> None:
    audio = recording(b"RIFF", media_type, filename)
    body, size, _ = await sent(replace(TALK, prompt=prompt), audio)
    assert size == len(body)
    head = body.split(b'name="file"')[1].split(b"\r\n\r\n")[0]
    assert head.count(b"\r\n") == 1
    assert head.count(b"\n") == 1
    assert head.count(b'"') == 2


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Reply(202, b'{"id":"job_1","status":"queued"}'), "job_1"),
        (Reply(202, b"{}"), "bad_answer"),
        (Reply(202, b'{"id":""}'), "bad_answer"),
        (Reply(429, b'{"error":"job queue is full"}'), "backend_busy"),
        (Broken(Trouble.REFUSED, "x"), "connection_refused"),
    ],
)
def test_a_submission_gives_an_id_or_the_reason_why_not(answer: Reply | Broken, expected: str) -> None:
    found = sdcpp_wire.accepted(answer)
    assert (found.error.code if isinstance(found, Failed) else found) == expected


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Reply(200, b'{"status":"generating"}'), JobState),
        (Reply(200, b'{"status":"what_comes_later"}'), JobState),
        (Reply(200, b"<html>"), Unclear),
        (Reply(502), Unclear),
        (Reply(401), Unclear),
        (Reply(404), Failed),
        (Reply(410), Failed),
        (Broken(Trouble.SILENT, "x"), Unclear),
    ],
)
def test_a_poll_tells_a_state_or_a_loss_or_nothing(answer: Reply | Broken, kind: type) -> None:
    assert isinstance(sdcpp_wire.understood(answer), kind)


@pytest.mark.parametrize(
    ("answer", "free"),
    [
        (Reply(200, b'{"status":"queued"}'), False),
        (Reply(200, b'{"status":"generating"}'), False),
        (Reply(200, b'{"status":"completed"}'), True),
        (Reply(200, b'{"status":"failed"}'), True),
        (Reply(200, b'{"status":"cancelled"}'), True),
        (Reply(404), True),
        (Reply(410), True),
        (Reply(200, b"<html>"), None),
        (Reply(401), None),
        (Broken(Trouble.REFUSED, "x"), True),
        (Broken(Trouble.SILENT, "x"), False),
        (Broken(Trouble.UNREACHABLE, "x"), False),
    ],
)
def test_a_job_holds_the_gpu_until_the_server_says_otherwise(
    answer: Reply | Broken,
    free: bool | None,  # noqa: FBT001 - from the table
) -> None:
    assert sdcpp_wire.idle(answer) is free


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (b'{"status":"failed","error":{"code":"generation_failed","message":"no"}}', "backend_error"),
        (b'{"status":"failed","error":{"code":"x","message":"out of memory"}}', "backend_oom"),
        (b'{"status":"failed","error":null}', "backend_error"),
        (b'{"status":"cancelled","error":{"code":"cancelled","message":"by someone"}}', "backend_error"),
        (b'{"status":"completed","result":null}', "bad_image"),
        (b'{"status":"completed","result":{"images":[]}}', "bad_image"),
        (b'{"status":"completed","result":{"images":[{"b64_json":"####"}]}}', "bad_image"),
    ],
)
def test_a_job_that_gave_no_picture_says_why(state: bytes, code: str) -> None:
    found = sdcpp_wire.understood(Reply(200, state))
    assert isinstance(found, JobState)
    ended = sdcpp_wire.result(found, 1)
    assert isinstance(ended, Failed)
    assert ended.error.code == code


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"model":{"stem":"qwen-image","name":"qwen-image.gguf"}}', "qwen-image"),
        (b'{"model":{"name":"qwen-image.gguf"}}', "qwen-image.gguf"),
        (b'{"model":{"stem":""}}', ""),
        (b'{"data":[]}', None),
        (b"<html>", None),
    ],
)
def test_the_model_is_named_by_its_stem(body: bytes, name: str | None) -> None:
    assert sdcpp_wire.model_name(body) == name


def test_a_job_id_cannot_leave_its_path() -> None:
    assert sdcpp_wire.job_path("../x?y#z") == "/sdcpp/v1/jobs/..%2Fx%3Fy%23z"
