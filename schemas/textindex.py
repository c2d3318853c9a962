"""The text index beside the read model: its tables, its queries, and what is indexed of a task.

The one rule: its file goes by the name of the read model's file that it belongs to. Its rows are the words
of prompts, cut by ``schemas.text`` and nobody else, under the numbers of their tasks.
"""

from typing import Final

import msgspec
from msgspec import Struct

from schemas.text import words

SUFFIX: Final = ".text"
VERSION: Final = 1
"""Of the tables, and of how a text is cut into words."""
MERGED_AT_ONCE: Final = 500
_PAGE: Final = 512
"""Bytes of a leaf. Newest first, each that a page of a list begins in is read to its end: of a million
prompts a third of the time that SQLite's own 4050 take, and as large."""

# With its own copy of the words, so that a task can be taken out whatever has become of its document.
# Words have no character below 128 that is no letter or digit, so this tokenizer cuts at spaces alone.
TABLES: Final = f"""
CREATE VIRTUAL TABLE prompts USING fts5 (words, tokenize = 'ascii', columnsize = 0, prefix = '3');
INSERT INTO prompts (prompts, rank) VALUES ('pgsz', {_PAGE});
CREATE TABLE indexed (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    number  INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT;
INSERT INTO indexed VALUES (1, 0, {VERSION});
"""  # noqa: S608 - a constant of this module
GET_INDEXED: Final = "SELECT number, version FROM indexed WHERE one = 1"
SET_INDEXED: Final = "UPDATE indexed SET number = ? WHERE one = 1"
INSERT_PROMPT: Final = "INSERT INTO prompts (rowid, words) VALUES (?, ?)"
DELETE_PROMPT: Final = "DELETE FROM prompts WHERE rowid = ?"
# What was deleted is in the index until its part of it is merged: all of it once, so much at a time.
MERGE_ALL: Final = f"INSERT INTO prompts (prompts, rank) VALUES ('merge', -{MERGED_AT_ONCE})"  # noqa: S608 - as above
MERGE_ON: Final = f"INSERT INTO prompts (prompts, rank) VALUES ('merge', {MERGED_AT_ONCE})"  # noqa: S608 - as above
CHECK: Final = "INSERT INTO prompts (prompts) VALUES ('integrity-check')"

# The api's side, which has it beside the read model's file.
ATTACH: Final = "ATTACH ? AS text"
DETACH: Final = "DETACH text"
HOW_FAR: Final = (
    "SELECT (SELECT number FROM text.indexed), (SELECT coalesce(max(number), 0) FROM main.tasks)"
)


class _Request(Struct, frozen=True):
    prompt: str | None = None


class _Asked(Struct, frozen=True):
    """What of a task's document is indexed."""

    request: _Request | None = None


_decode: Final = msgspec.json.Decoder(_Asked).decode


def indexed_words(document: bytes) -> str:
    """Give the words of the prompt in a task's document, empty where there is none."""
    request = _decode(document).request
    return " ".join(words(request.prompt)) if request and request.prompt else ""
