"""The pages that list what the code knows, held to the code."""

import re

from schemas import generate
from schemas.errors import Code
from schemas.views import HTTP_STATUS


def page(path: str) -> str:
    return (generate.ROOT / path).read_text(encoding="utf-8")


def test_the_api_page_lists_every_code_once_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| \S", page("docs/api.md"), re.MULTILINE)

    assert len(rows) == len(Code)
    assert {code: int(status) for status, code in rows} == HTTP_STATUS


def test_the_lifecycle_page_shows_the_table_of_transitions() -> None:
    text = page(generate.LIFECYCLE)
    blocks = dict(re.findall(r"<!-- generated: (\w+) -->\n(.*?)<!-- end -->", text, re.DOTALL))

    assert {name: block.strip() for name, block in blocks.items()} == {
        "diagram": generate.diagram().strip(),
        "table": generate.table().strip(),
    }
