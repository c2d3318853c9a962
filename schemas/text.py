"""The words of a prompt, and what a search asks of them.

The one rule: what is stored and what is searched for are cut into words by the same function, so that a
search finds what it was copied from.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

LONGEST: Final = 256
"""Characters that a search has at most."""

SHORTEST_PREFIX: Final = 3
"""Letters that stand before a ``*`` at least: what begins with less is nearly everything."""

_ASCII_WORD: Final = re.compile(r"[0-9a-z]+")
# Scripts written without spaces, of which each character is a word: Thai, Lao, Myanmar, Khmer, kana, Han.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNSPACED_CHARACTER: Final = re.compile(f"([{_UNSPACED}])")
_PIECE: Final = re.compile(r'"([^"]*)"?|([^\s"]+)')


class Phrase(NamedTuple):
    """Words that have to stand one after the other; of the last one ``prefix`` means the beginning only."""

    words: tuple[str, ...]
    prefix: bool = False

    def stands_in(self, text: Sequence[str]) -> bool:
        """Whether these words stand in those of a text."""
        first, count = self.words[0], len(self.words)
        if count == 1 and not self.prefix:
            return first in text
        return any(self._stands_at(text[at : at + count]) for at in range(len(text) - count + 1))

    def _stands_at(self, part: Sequence[str]) -> bool:
        *whole, last = self.words
        found = part[-1].startswith(last) if self.prefix else part[-1] == last
        return found and list(part[:-1]) == whole


def words(text: str) -> list[str]:
    """Cut a text into words: without accents, in lower case, of letters and digits alone.

    A character of a script that is written without spaces is a word.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    spelled = _UNSPACED_CHARACTER.sub(r" \1 ", "".join(map(_spelled, _folded(text))))
    return spelled.split()


def search(text: str) -> tuple[Phrase, ...]:
    """Read what is searched for; all of it has to stand in the prompt, in any order.

    ``"…"`` is a phrase, and so is what is written together in a script without spaces; ``fox*`` is any word
    that begins so. Empty where there is no word in it.
    """
    return tuple(dict.fromkeys(_phrases(text)))


def stands_in(wanted: Sequence[Phrase], text: Sequence[str]) -> bool:
    """Whether all that is searched for stands in the words of a text."""
    return all(phrase.stands_in(text) for phrase in wanted)


def matched(wanted: Sequence[Phrase]) -> str:
    """Spell a search as an FTS5 expression; words have no character that means anything there."""
    return " AND ".join(f'"{" ".join(phrase.words)}"{" *" if phrase.prefix else ""}' for phrase in wanted)


def _phrases(text: str) -> Iterator[Phrase]:
    for quoted, bare in _PIECE.findall(text):
        if quoted:
            if found := words(quoted):
                yield Phrase(tuple(found))
            continue
        runs = [tuple(words(run)) for run in _runs(bare)]
        for run in runs:
            begins = run is runs[-1] and bare.endswith("*") and not _UNSPACED_CHARACTER.match(run[-1])
            yield Phrase(run, prefix=begins)


def _runs(text: str) -> list[str]:
    """Cut at what is neither letter nor digit, and not inside what is written together."""
    return "".join(map(_spelled, _folded(text))).split()


def _folded(text: str) -> str:
    """Take the accents off; folding the case may bring some, so that they go after it."""
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())


def _spelled(character: str) -> str:
    """Keep letters and digits, and the vowel signs of scripts that write them as marks."""
    if character.isalnum():
        return character
    if unicodedata.combining(character):
        return ""
    return character if unicodedata.category(character)[0] == "M" else " "
