"""The form of the documentation: what its blocks are fenced as, and where its links lead."""

import re
from pathlib import Path

import pytest

from tests import documents

LANGUAGES = {"sh", "console", "text", "json", "toml", "ini", "yaml", "sql", "python", "mermaid"}
PAGES = documents.pages()
# What stands indented in a page and is no command: a line of a file of settings.
SETTING = re.compile(r"[A-Z][A-Z0-9_]*=\S*")
PROMPT = re.compile(r"[$#] ")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return str(page.relative_to(documents.ROOT))


def anchors(page: Path) -> set[str]:
    """Give what a link's part after # may be, as GitHub makes it of a heading."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_are_pages_and_some_of_them_are_run() -> None:
    assert {"README.md", "docs/api.md", "docs/backends.md"} <= {name(page) for page in PAGES}
    assert sum(bool(documents.commands(page)) for page in PAGES) >= 4


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page: Path) -> None:
    wrong = [
        f"line {block.line}: {block.language or 'indented'}"
        for block in documents.blocks(page)
        if block.language not in LANGUAGES
        and (block.language or not all(map(SETTING.fullmatch, block.text.splitlines())))
    ]

    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_only_what_is_not_run_has_a_prompt(page: Path) -> None:
    found = documents.blocks(page)

    assert not [b.line for b in found if b.language == "sh" and PROMPT.match(b.text) and b.text[0] == "$"]
    assert not [b.line for b in found if b.language == "console" and not PROMPT.match(b.text)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    broken: list[str] = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert not broken
