"""What every adapter promises, the fake included: the suite of ``backends.base.Adapter``."""

import asyncio
import io
from collections.abc import AsyncIterator

import aiohttp
import pytest
from msgspec.structs import replace
from PIL import Image

from schemas.events import ErrorClass
from schemas.registry import Protocol
from schemas.requests import ImageRequest, Kind, SpeechRequest
from services.dispatcher.backends.base import Attached, Failed, Job, Ready, Refused, Report, Silent
from tests.conformance.rigs import (
    FakeRig,
    Rig,
    end,
    failed,
    finished,
    image_job,
    job,
    read,
    simulated,
    speech_job,
)


@pytest.fixture(params=[*Protocol, *(f"fake_{kind}" for kind in Kind)])
async def rig(request: pytest.FixtureRequest, session: aiohttp.ClientSession) -> AsyncIterator[Rig]:
    name: str = request.param
    if isinstance(name, Protocol):
        async with simulated(session, name) as real:
            yield real
    else:
        yield FakeRig(Kind(name.removeprefix("fake_")))


async def test_a_job_ends_with_exactly_one_end_and_its_result_is_what_was_asked_for(rig: Rig) -> None:
    ended = await finished(rig.adapter.call(job(rig)))
    match rig.kind:
        case Kind.IMAGE:
            (output,) = ended.outputs
            with Image.open(io.BytesIO(output.data)) as picture:
                picture.load()
                assert picture.size == (output.width, output.height) == (128, 64)
            assert output.media_type == "image/png"
        case Kind.SPEECH:
            assert ended.text
            assert ended.audio_s is not None
            assert ended.audio_s > 0
            assert ended.outputs[0].media_type == "application/json"


async def test_an_id_is_reported_before_the_end_where_the_protocol_gives_one(rig: Rig) -> None:
    reports = await read(rig.adapter.call(job(rig)))
    assert isinstance(reports[0], Attached) is rig.attaches
    assert sum(isinstance(report, Attached) for report in reports) == rig.attaches


async def test_several_images_have_the_seeds_that_follow(rig: Rig) -> None:
    if rig.kind is not Kind.IMAGE:
        return
    ended = await finished(rig.adapter.call(job(rig, seed=40, n=3)))
    assert [output.seed for output in ended.outputs] == [40, 41, 42]
    assert len({output.data for output in ended.outputs}) == 3


async def test_the_same_request_gives_the_same_result(rig: Rig) -> None:
    first = await finished(rig.adapter.call(job(rig)))
    second = await finished(rig.adapter.call(job(rig)))
    assert [output.data for output in first.outputs] == [output.data for output in second.outputs]
    assert first.text == second.text


async def test_another_seed_gives_another_image(rig: Rig) -> None:
    if rig.kind is not Kind.IMAGE:
        return
    first = await finished(rig.adapter.call(job(rig, seed=1)))
    second = await finished(rig.adapter.call(job(rig, seed=2)))
    assert first.outputs[0].data != second.outputs[0].data


@pytest.mark.parametrize(
    ("response_format", "media_type", "begins"),
    [
        ("json", "application/json", b'{"text":'),
        ("verbose_json", "application/json", b'{"task":"transcribe"'),
        ("text", "text/plain; charset=utf-8", b""),
        ("srt", "application/x-subrip", b"1\n00:00:0"),
        ("vtt", "text/vtt", b"WEBVTT\n\n00:00:0"),
    ],
)
async def test_a_transcript_comes_in_the_format_asked_for(
    rig: Rig, response_format: str, media_type: str, begins: bytes
) -> None:
    if rig.kind is not Kind.SPEECH:
        return
    request = SpeechRequest(artifact="a-1", response_format=response_format)  # type: ignore[arg-type]  # from a table
    ended = await finished(rig.adapter.call(speech_job(rig.model, request)))
    (output,) = ended.outputs
    assert output.media_type == media_type
    assert output.data.startswith(begins)


async def test_a_job_of_another_kind_is_refused_for_good(rig: Rig) -> None:
    speech = speech_job(rig.model, SpeechRequest(artifact="a-1"), content=b"RIFF")
    wrong = speech if rig.kind is Kind.IMAGE else image_job(rig.model)
    ended = await failed(rig.adapter.call(wrong))
    assert (ended.error.error_class, ended.error.code) == (ErrorClass.PERMANENT, "wrong_kind")


async def test_a_call_that_is_stopped_before_it_begins_reaches_no_backend(rig: Rig) -> None:
    call = rig.adapter.call(job(rig))
    await call.stop()
    assert (await failed(call)).error.code == "cancelled"
    assert await rig.received() == 0


async def test_a_call_that_is_stopped_while_it_runs_ends_when_the_gpu_is_free(rig: Rig) -> None:
    await rig.hold()
    call = rig.adapter.call(job(rig))
    async with asyncio.TaskGroup() as group:
        ending = group.create_task(failed(call))
        await rig.held()
        await call.stop()
        await call.stop()
        assert rig.hangs_up or not ending.done()
        await rig.release()
    stopped = ending.result()
    assert (stopped.error.error_class, stopped.error.code) == (ErrorClass.PERMANENT, "cancelled")
    await finished(rig.adapter.call(job(rig)))


async def test_stopping_a_call_that_has_ended_changes_nothing(rig: Rig) -> None:
    call = rig.adapter.call(job(rig))
    await finished(call)
    await call.stop()
    await finished(rig.adapter.call(job(rig)))


async def test_a_reader_that_is_cancelled_leaves_the_adapter_usable(rig: Rig) -> None:
    await rig.hold()
    reading = asyncio.ensure_future(end(rig.adapter.call(job(rig))))
    await rig.held()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await rig.release()
    await finished(rig.adapter.call(job(rig)))


async def test_a_backend_that_answers_is_ready_and_names_its_models(rig: Rig) -> None:
    assert await rig.adapter.probe(2.0) == Ready(() if rig.model is None else (rig.model,))


async def test_a_backend_that_is_busy_is_still_ready_or_silent(rig: Rig) -> None:
    await rig.hold()
    async with asyncio.TaskGroup() as group:
        group.create_task(finished(rig.adapter.call(job(rig))))
        await rig.held()
        probed = await rig.adapter.probe(2.0 if rig.answers_busy else 1.0)
        assert isinstance(probed, Ready if rig.answers_busy else Silent)
        await rig.release()


async def test_a_backend_that_is_not_there_is_refused_and_blamed_for_it(rig: Rig) -> None:
    assert isinstance(await rig.gone.probe(2.0), Refused)
    ended = await failed(rig.gone.call(job(rig)))
    assert (ended.error.error_class, ended.error.code) == (ErrorClass.BACKEND_DOWN, "connection_refused")


async def test_without_an_id_nobody_knows_whether_the_gpu_is_free(rig: Rig) -> None:
    await rig.hold()
    async with asyncio.TaskGroup() as group:
        group.create_task(finished(rig.adapter.call(job(rig))))
        await rig.held()
        assert await rig.adapter.idle(None) is None
        await rig.release()


async def test_a_backend_where_nothing_runs_is_free_as_far_as_it_tells(rig: Rig) -> None:
    assert await rig.adapter.idle(None) is (True if rig.shows_idle else None)


async def test_a_process_that_is_gone_holds_no_gpu(rig: Rig) -> None:
    assert await rig.gone.idle(None) is True
    assert await rig.gone.idle("job_0_0") is True


async def test_an_id_tells_whether_its_job_still_holds_the_gpu(rig: Rig) -> None:
    if not rig.attaches:
        return
    await rig.hold()
    reports = rig.adapter.call(job(rig)).reports()
    attached = await anext(reports)
    assert isinstance(attached, Attached)
    async with asyncio.TaskGroup() as group:
        group.create_task(rest(reports))
        await rig.held()
        assert await rig.adapter.idle(attached.remote_id) is False
        await rig.release()
    assert await rig.adapter.idle(attached.remote_id) is True


async def test_an_id_that_the_backend_does_not_know_holds_no_gpu(rig: Rig) -> None:
    expected = True if rig.attaches or rig.shows_idle else None
    assert await rig.adapter.idle("job_0_0/../x?y") is expected


async def abandoned(rig: Rig, begun: Job) -> str:
    """Begin a job that is held, lose its reader, and give the id by which the backend knows it."""
    await rig.hold()
    reports = rig.adapter.call(begun).reports()
    attached = await anext(reports)
    assert isinstance(attached, Attached)
    reading = asyncio.ensure_future(rest(reports))
    await rig.held()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    return attached.remote_id


async def test_a_job_that_another_call_began_is_read_to_its_end_and_not_begun_again(rig: Rig) -> None:
    if not rig.adapter.resumes:
        return
    begun = job(rig)
    remote_id = await abandoned(rig, begun)
    resuming = replace(begun, attempt=begun.attempt + 1000, remote_id=remote_id)
    async with asyncio.TaskGroup() as group:
        ending = group.create_task(finished(rig.adapter.call(resuming)))
        await rig.release()
    assert await rig.received() == 1
    assert await finished(rig.adapter.call(resuming)) == ending.result()
    assert await rig.received() == 1
    assert await finished(rig.adapter.call(job(rig))) == ending.result()


async def test_a_job_that_is_resumed_can_be_stopped(rig: Rig) -> None:
    if not rig.adapter.resumes:
        return
    begun = job(rig)
    call = rig.adapter.call(replace(begun, remote_id=await abandoned(rig, begun)))
    async with asyncio.TaskGroup() as group:
        ending = group.create_task(failed(call))
        await call.stop()
        await rig.release()
    assert ending.result().error.code == "cancelled"
    assert await rig.received() == 1


async def test_a_job_that_the_backend_does_not_know_is_lost_and_not_begun(rig: Rig) -> None:
    if not rig.adapter.resumes:
        return
    unknown = replace(job(rig), remote_id="0199d4e8-7c1a-8000-8000-000000000000")
    assert (await failed(rig.adapter.call(unknown))).error.error_class is ErrorClass.LOST
    assert await rig.received() == 0


async def rest(reports: AsyncIterator[Report]) -> list[Report]:
    return [report async for report in reports]


async def test_the_end_of_a_failed_job_says_who_is_to_blame(rig: Rig) -> None:
    ended = await end(rig.gone.call(job(rig)))
    assert isinstance(ended, Failed)
    assert ended.error.message


async def test_prompts_are_taken_literally(rig: Rig) -> None:
    if rig.kind is not Kind.IMAGE:
        return
    prompt = '<sd_cpp_extra_args>{"width":192,"seed":1}</sd_cpp_extra_args> a | b <lora:x:1>'
    request = ImageRequest(prompt=prompt, width=64, height=64, seed=5, steps=1)
    plain = image_job(rig.model)
    ended = await finished(rig.adapter.call(type(plain)(task_id=plain.task_id, attempt=1, request=request)))
    assert (ended.outputs[0].width, ended.outputs[0].height, ended.outputs[0].seed) == (64, 64, 5)
