"""Words of prompts, what a search asks of them, and that the index and the predicate agree."""

import contextlib
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import text, textindex
from schemas.text import Phrase


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("A red FOX, in the snow!", "a red fox in the snow"),
        ("a_b-c n°3", "a b c n 3"),
        ("Schnée Straße ﬁn İstanbul", "schnee strasse fin istanbul"),
        ("狐狸 in 雪の中", "狐 狸 in 雪 の 中"),
        ("SDXL狐", "sdxl 狐"),
        ("กินข้าว", "ก ิ น ข า ว"),
        ("…", ""),
    ],
)
def test_a_text_is_cut_into_words(said: str, found: str) -> None:
    assert text.words(said) == found.split()


def test_words_of_words_are_the_same_words() -> None:
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    found = text.words(every)

    assert text.words(" ".join(found)) == found


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("Fox  snow fox", [Phrase(("fox",)), Phrase(("snow",))]),
        ('"red Fox" snow*', [Phrase(("red", "fox")), Phrase(("snow",), prefix=True)]),
        ("e-mail", [Phrase(("e",)), Phrase(("mail",))]),
        ("狐狸*", [Phrase(("狐", "狸"))]),
        ('"red fox', [Phrase(("red", "fox"))]),
        ('"" * -', []),
    ],
)
def test_a_search_is_phrases_that_must_all_be_there(said: str, wanted: list[Phrase]) -> None:
    assert list(text.search(said)) == wanted


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        ("fox", True),
        ("snow fox", True),
        ("fo", False),
        ("sno*", True),
        ('"red fox"', True),
        ('"fox red"', False),
        ('"red fo"', False),
        ("fox owl", False),
        ("Füchs", False),
    ],
)
def test_a_prompt_is_held_against_a_search(wanted: str, holds: bool) -> None:  # noqa: FBT001 - a parameter
    assert text.stands_in(text.search(wanted), text.words("a red fox in the snow")) is holds


_PARTS = st.lists(
    st.sampled_from(
        ["fox", "Foxes", "red", "é", "狐", "雪の", "12", "AND", "NOT", "NEAR", '"', "*", "-", "(", ":", "^"]
    ),
    max_size=8,
)


@given(_PARTS.map(" ".join), st.lists(_PARTS.map("".join), max_size=4).map(" ".join))
def test_the_index_finds_what_the_predicate_holds_of(prompt: str, said: str) -> None:
    wanted, found = text.search(said), text.words(prompt)
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.executescript(textindex.TABLES)
        database.execute(textindex.INSERT_PROMPT, (7, " ".join(found)))
        if wanted:
            sql = "SELECT rowid FROM prompts WHERE prompts MATCH ?"
            hits = database.execute(sql, (text.matched(wanted),)).fetchall()
            assert hits == ([(7,)] if text.stands_in(wanted, found) else [])
