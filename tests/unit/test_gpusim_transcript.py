"""The forms in which a simulated speech server gives a transcript."""

import msgspec

from services.gpusim.transcript import ResponseFormat, Segment, Transcript, Word, rendered


def segment(number: int, start: float, end: float, text: str) -> Segment:
    return Segment(
        id=number,
        seek=0,
        start=start,
        end=end,
        text=text,
        tokens=(1, 2),
        temperature=0.0,
        avg_logprob=-0.3,
        compression_ratio=0.9,
        no_speech_prob=0.01,
        words=(Word(start=start, end=end, word=text, probability=0.9),),
    )


TRANSCRIPT = Transcript(
    language="en",
    duration=3725.5,
    segments=(segment(1, 0.0, 2.8, " He might."), segment(2, 3723.0415, 3725.5, " She did.")),
)


def text_of(form: ResponseFormat) -> str:
    return rendered(TRANSCRIPT, form, "transcribe")[1].decode()


def test_json_holds_the_text_alone() -> None:
    assert text_of(ResponseFormat.JSON) == '{"text":"He might. She did."}'


def test_text_is_one_plain_line() -> None:
    assert rendered(TRANSCRIPT, ResponseFormat.TEXT, "transcribe") == ("text/plain", b"He might. She did.")


def test_srt_numbers_its_cues_and_writes_commas() -> None:
    assert text_of(ResponseFormat.SRT) == (
        "1\n00:00:00,000 --> 00:00:02,800\nHe might.\n\n2\n01:02:03,042 --> 01:02:05,500\nShe did.\n\n"
    )


def test_vtt_has_a_heading_and_writes_dots() -> None:
    assert text_of(ResponseFormat.VTT) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.800\nHe might.\n\n01:02:03.042 --> 01:02:05.500\nShe did.\n\n"
    )


def test_verbose_json_holds_segments_words_and_the_task() -> None:
    verbose = msgspec.json.decode(rendered(TRANSCRIPT, ResponseFormat.VERBOSE_JSON, "translate")[1])
    assert verbose["task"] == "translate"
    assert verbose["language"] == "en"
    assert verbose["duration"] == 3725.5
    assert [each["text"] for each in verbose["segments"]] == [" He might.", " She did."]
    assert verbose["words"][1] == {
        "start": 3723.0415,
        "end": 3725.5,
        "word": " She did.",
        "probability": 0.9,
    }
