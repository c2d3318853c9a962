"""What is made of the transcripts of all kinds of servers."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.requests import SpeechRequest
from services.dispatcher.backends import languages, whisper_asr
from services.dispatcher.backends.base import Failed, Finished
from services.dispatcher.backends.subtitles import Cue, srt, vtt
from services.dispatcher.backends.transcripts import Transcript, Word, finished, parse, render

SPEACHES = b"""{"task":"transcribe","language":"en","duration":3.29,"text":" He might. Even so.",
 "segments":[{"id":0,"seek":0,"start":0.0,"end":1.5,"text":" He might.","tokens":[1],"avg_logprob":-0.3},
 {"id":1,"start":1.5,"end":3.25,"text":" Even so."}],
 "words":[{"word":" He","start":0.0,"end":0.4,"probability":0.9}]}"""
VLLM = b'{"duration":"3.29","language":"en","text":"He might.","segments":null,"words":null,"usage":{}}'
WHISPER_CPP = b"""{"task":"transcribe","language":"english","duration":3.29,
 "text":" He might.\\n Even so.\\n",
 "segments":[{"id":0,"text":" He might.","start":0,"end":1.5,
 "words":[{"word":" He","start":0,"end":0.4,"probability":1}]}]}"""

TALK = Transcript(
    text="He might. Even so.",
    language="en",
    duration=3.29,
    segments=(Cue(start=0, end=1.5, text="He might."), Cue(start=1.5, end=3.25, text="Even so.")),
    words=(Word(word="He", start=0, end=0.4),),
)


def asked(response_format: str = "json") -> SpeechRequest:
    return msgspec.convert({"artifact": "a", "response_format": response_format}, SpeechRequest)


def test_a_full_transcript_is_read_whole() -> None:
    assert parse(SPEACHES) == TALK


def test_a_duration_may_be_a_string_and_segments_may_be_missing() -> None:
    assert parse(VLLM) == Transcript(text="He might.", language="en", duration=3.29)


def test_a_language_may_come_by_its_name_and_words_in_their_segments() -> None:
    assert parse(WHISPER_CPP) == Transcript(
        text="He might. Even so.",
        language="en",
        duration=3.29,
        segments=(Cue(start=0, end=1.5, text="He might."),),
        words=TALK.words,
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"text":""}', Transcript(text="")),
        (b'{"segments":[]}', Transcript(text="")),
        (b'{"segments":[{"start":1,"text":"a"},{"start":2,"text":"b"}]}', "a b"),
        (b'{"text":"a","duration":"nan","language":3,"segments":[1,{}],"words":{}}', Transcript(text="a")),
        (b'{"text":"a","duration":-1}', Transcript(text="a")),
        (b'{"text":"a","duration":true}', Transcript(text="a")),
        (b"{}", None),
        (b'{"text":3}', None),
        (b"[]", None),
        (b"", None),
        (b"\x00\xff<html>", None),
        (b'{"text":' + b"[" * 100_000, None),
    ],
)
def test_what_makes_no_sense_is_left_out(body: bytes, expected: Transcript | str | None) -> None:
    found = parse(body)
    assert (found.text if found and isinstance(expected, str) else found) == expected


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["text", "segments", "words", "duration", "start", "end", "word"]), inner
            )
        ),
    ),
    st.sampled_from(["json", "text", "srt", "vtt", "verbose_json"]),
)
def test_any_json_gives_a_result_or_a_failure(value: object, response_format: str) -> None:
    try:
        body = msgspec.json.encode(value)
    except OverflowError:
        return  # an integer that no JSON of ours can hold
    for read in (parse, whisper_asr.read):
        ended = finished(read(body), asked(response_format))
        assert isinstance(ended, Finished | Failed)


def test_lines_that_are_segments_are_joined_as_they_were_spoken() -> None:
    body = b"""{"text":" ami\\nable. He\\n",
     "segments":[{"text":" ami","start":0},{"text":"able. He","start":1}]}"""
    found = parse(body)
    assert found is not None
    assert found.text == "amiable. He"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("English", "en"),
        ("haitian creole", "ht"),
        ("cantonese", "yue"),
        ("EN", "en"),
        ("klingon", "klingon"),
    ],
)
def test_a_language_that_whisper_knows_is_given_by_its_code(given: str, expected: str) -> None:
    assert languages.code(given) == expected


def test_every_code_has_a_name_of_its_own() -> None:
    assert len(languages.NAMES) == len(set(languages.NAMES.values())) == 100
    assert all(
        name == name.strip() and languages.code(name) == code for code, name in languages.NAMES.items()
    )


@pytest.mark.parametrize(
    "segments",
    [
        b"""[{"id":0,"seek":0,"start":0.0,"end":1.5,"text":" He might.","tokens":[1],
          "words":[{"word":" He","start":0.0,"end":0.4,"probability":0.9}]},
          {"id":1,"seek":0,"start":1.5,"end":3.29,"text":" Even so.","words":[]}]""",
        b"""[[0,0,0.0,1.5," He might.",[1],0.0,-0.3,1.1,0.01,[[0.0,0.4," He",0.9],7]],
          [1,0,1.5,3.29," Even so.",[2],0.0,-0.3,1.1,0.01,null]]""",
    ],
)
def test_whisper_asr_names_the_members_of_a_segment_or_only_lists_them(segments: bytes) -> None:
    body = b'{"language":"en","text":" He might. Even so.","segments":%s}' % segments
    cues = (TALK.segments[0], Cue(start=1.5, end=3.29, text="Even so."))
    assert whisper_asr.read(body) == replace(TALK, segments=cues)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"text":"","segments":[],"language":"en"}', Transcript(text="", language="en")),
        (b'{"text":"a","segments":[[],[1],[0,0,0]]}', Transcript(text="a")),
        (b'{"text":"a","segments":[[0,0,1,2]],"duration":9}', Transcript(text="a", duration=9)),
        (b"Please select an output method!", None),
        (b"[]", None),
        (b"", None),
    ],
)
def test_of_whisper_asr_too_what_makes_no_sense_is_left_out(
    body: bytes, expected: Transcript | None
) -> None:
    assert whisper_asr.read(body) == expected


def test_each_format_looks_as_it_should() -> None:
    written = {name: render(TALK, asked(name)).data.decode() for name in ("json", "text", "srt", "vtt")}
    assert written == {
        "json": '{"text":"He might. Even so."}',
        "text": "He might. Even so.\n",
        "srt": "1\n00:00:00,000 --> 00:00:01,500\nHe might.\n\n"
        "2\n00:00:01,500 --> 00:00:03,250\nEven so.\n",
        "vtt": "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHe might.\n\n"
        "00:00:01.500 --> 00:00:03.250\nEven so.\n",
    }


def test_the_verbose_format_has_everything_that_is_known() -> None:
    written = msgspec.json.decode(render(TALK, asked("verbose_json")).data)
    assert written["segments"][1] == {"id": 1, "start": 1.5, "end": 3.25, "text": "Even so."}
    assert written["words"] == [{"word": "He", "start": 0, "end": 0.4}]
    assert (written["task"], written["language"], written["duration"]) == ("transcribe", "en", 3.29)


def test_a_text_without_segments_is_one_cue_over_the_whole_recording() -> None:
    whole = Transcript(text="All of it.", duration=61.5)
    assert render(whole, asked("srt")).data == b"1\n00:00:00,000 --> 00:01:01,500\nAll of it.\n"


def test_silence_is_an_empty_transcript_and_no_failure() -> None:
    ended = finished(parse(b'{"text":"","segments":[],"duration":2}'), asked("vtt"))
    assert isinstance(ended, Finished)
    assert (ended.text, ended.audio_s, ended.outputs[0].data) == ("", 2, b"WEBVTT\n")


@given(st.text(), st.floats(0, 1e12), st.floats(0, 1e12))
def test_no_text_and_no_time_breaks_a_subtitle(text: str, start: float, end: float) -> None:
    cue = Cue(start=start, end=end, text=" ".join(text.split()))
    for written in (srt([cue]), vtt([cue])):
        assert written.count("-->") == 1
