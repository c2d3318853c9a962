"""Every command of the documentation, run as it is written against an instance of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import documents, speech
from tests.acceptance.test_up_life import Instance, up
from tests.nats import free_port

Make = Callable[..., Instance]
__all__ = ["up"]  # the fixture
ELSEWHERE = {"operations.md"}  # run by test_operations, once, which looks at what its commands print too
PAGES = [p for p in documents.pages() if p.name not in ELSEWHERE and documents.commands(p)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(documents.ROOT)))
def test_its_commands_work_as_they_are_written(page: Path, up: Make, tmp_path: Path) -> None:
    written = "".join(block.text for block in documents.commands(page))
    if "nats " in written and not documents.nats_cli():
        pytest.skip("the nats CLI is not installed: go install github.com/nats-io/natscli/nats@v0.5.0")
    nats = f"127.0.0.1:{(port := free_port())}"
    instance = up(simulated_step_ms=5, nats_port=port).start().ready()
    folder = tmp_path / "reader"
    folder.mkdir()
    if "recording.wav" in written:
        shutil.copy(next(iter(speech.clips())), folder / "recording.wav")

    documents.run(
        page,
        folder,
        {
            "localhost:8080": urlsplit(instance.url).netloc,
            "127.0.0.1:8080": urlsplit(instance.url).netloc,
            "127.0.0.1:4222": nats,
        },
        {
            "TASKFOLD_URL": instance.url,
            "TASKFOLD_NATS_URL": f"nats://{nats}",
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "ROOT": str(documents.ROOT),
        },
    )
