"""How the simulated whisper.cpp breaks what it heard into lines."""

from hypothesis import given
from hypothesis import strategies as st

from services.gpusim.profiles.whispercpp_answer import MAX_LENGTH, wrapped
from services.gpusim.transcript import Segment, Word


def heard(words: list[str]) -> Segment:
    return Segment(
        id=0,
        seek=0,
        start=0.0,
        end=float(len(words)),
        text="".join(words),
        tokens=(1,),
        temperature=0.0,
        avg_logprob=-0.3,
        compression_ratio=0.9,
        no_speech_prob=0.01,
        words=tuple(
            Word(start=float(at), end=float(at + 1), word=word, probability=0.9)
            for at, word in enumerate(words)
        ),
    )


@given(st.lists(st.text("ab", min_size=1, max_size=20).map(lambda word: f" {word}")), st.booleans())
def test_the_lines_are_short_and_together_they_are_the_whole(
    words: list[str],
    on_words: bool,  # noqa: FBT001 - drawn
) -> None:
    lines = wrapped(heard(words), on_words=on_words)
    assert "".join(line.text for line in lines) == "".join(words)
    assert all(len(line.text) <= MAX_LENGTH for line in lines)
    assert all(line.start <= line.end for line in lines)
    assert not on_words or all(line.text.startswith(" ") for line in lines if words)


def test_a_word_is_broken_where_the_line_ends() -> None:
    first, second = wrapped(heard([" abcdefgh"] * 8), on_words=False)
    assert (len(first.text), second.text[0]) == (60, "f")
