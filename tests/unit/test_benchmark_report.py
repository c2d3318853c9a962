"""What becomes of the results of the benchmarks: kept, compared, and made into a page with pictures."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks import comparison, kept, page, report
from benchmarks.kept import Report, Taken
from benchmarks.machine import Machine
from benchmarks.measure import MILLISECONDS, Figure, spread

MACHINE = Machine(
    machine="a machine",
    cores=2,
    system="a system",
    file_system="a file system",
    versions={"python": "3.11", "nats-server": "2.15"},
    commit="0123456789ab",
)
SUBMIT = Figure(
    name="submit",
    what="POST <somewhere>",
    floor_what="one publish & no more",
    unit=MILLISECONDS,
    ours=spread([[1.0, 1.2, 1.4], [1.1, 1.3, 1.5]]),
    floor=spread([[0.8, 0.9, 1.0], [0.9, 1.0, 1.1]]),
    target="p50 at most 1.5 times its floor",
    met=True,
    notes=("a note",),
    ratio_target=1.5,
)
THROUGHPUT = Figure(
    name="throughput",
    what="all of it",
    floor_what="",
    unit="tasks/s",
    ours=spread([[100.0]]),
    target="at least 200",
    met=False,
    faults=3,
    more_is_better=True,
)


def swept(clients: int, who: str) -> Figure:
    return replace(SUBMIT, name=f"{who}, {clients} clients", series="clients", along="clients", at=clients)


SWEEP = [swept(clients, who) for who in ("submit", "status") for clients in (1, 8, 64)]
BARS = [replace(SUBMIT, name=f"list, {by}", series="lists", floor=None) for by in ("tag", "user")]


def taken(name: str, *figures: Figure, syncs: tuple[str, ...] = ("always",)) -> Taken:
    return Taken(
        name=name,
        load_average=(0.5, 0.25, 0.125),
        others_share=0.03,
        took_s=12.0,
        syncs=syncs,
        runs=3,
        size=1.0,
        figures=list(figures),
    )


def made(*results: Taken) -> Report:
    return Report(taken_at="2026-11-24T12:00:00+00:00", machine=MACHINE, results=list(results))


REPORT = made(
    taken("submit", SUBMIT),
    taken("throughput", THROUGHPUT, syncs=("always", "default")),
    taken("scaling", *SWEEP, *BARS),
)


def times(figure: Figure, factor: float) -> Figure:
    """Make ours so many times as much."""
    return replace(figure, ours=spread([[run * factor for run in figure.ours.runs]]))


class Page(HTMLParser):
    """The pictures of a page by their file, its captions, and whether every element is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.alts: dict[str, str] = {}
        self.tables = self.captions = 0
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "img":
            self.alts[said["src"] or ""] = said["alt"] or ""
        self.tables += tag == "table"
        self.captions += tag == "caption"
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = kept.write(REPORT, "2026-11-24", tmp_path)

    assert kept.read(path) == REPORT


def test_the_newest_saved_results_come_first_and_the_latest_run_is_none_of_them(tmp_path: Path) -> None:
    for name in ("2026-09-30", "2026-11-02", kept.LATEST):
        kept.write(REPORT, name, tmp_path)

    assert [path.stem for path in kept.dated(tmp_path)] == ["2026-11-02", "2026-09-30"]


@pytest.mark.parametrize(
    "text", ['{"taken_at": "2026-01-01", "results": [{"figures": []}]}', "no JSON", ""]
)
def test_results_of_another_form_are_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "2026-01-01.json").write_text(text)

    assert kept.read(tmp_path / "2026-01-01.json") is None


def test_a_command_says_what_is_not_usual() -> None:
    usual = REPORT.results[0]

    assert usual.command == "python -m benchmarks --only submit"
    assert (
        replace(usual, runs=1, size=0.05).command
        == "python -m benchmarks --only submit --runs 1 --size 0.05"
    )
    assert replace(usual, runs=1, size=None).command == "python -m benchmarks --only submit --runs 1"


@pytest.mark.parametrize(
    ("figure", "factor", "regressed"),
    [
        (SUBMIT, 1.19, False),
        (SUBMIT, 1.25, True),
        (SUBMIT, 0.5, False),
        (THROUGHPUT, 0.85, False),
        (THROUGHPUT, 0.8, True),
        (THROUGHPUT, 2.0, False),
    ],
)
def test_much_worse_than_then_is_a_regression(figure: Figure, factor: float, *, regressed: bool) -> None:
    then = times(figure, 1)

    [change] = comparison.compare(made(taken("one", times(figure, factor))), made(taken("one", then)))

    assert change.p50 == pytest.approx(factor)
    assert change.p99 == pytest.approx(factor)
    assert change.regressed is regressed


@pytest.mark.parametrize(
    ("figure", "factor", "pace", "regressed"),
    [
        (SUBMIT, 1.5, 1.5, False),
        (SUBMIT, 1.5, 1.2, True),
        (SUBMIT, 1.0, 0.8, True),
        (THROUGHPUT, 0.7, 1.4, False),
        (THROUGHPUT, 0.7, 1.1, True),
        (replace(SUBMIT, unit="MB"), 1.5, 1.5, True),
    ],
)
def test_what_a_slower_machine_does_is_no_regression(
    figure: Figure, factor: float, pace: float, *, regressed: bool
) -> None:
    then = replace(taken("one", figure), pace_ms=4.0)
    now = replace(taken("one", times(figure, factor)), pace_ms=4.0 * pace)

    [change] = comparison.compare(made(now), made(then))

    assert change.pace == pytest.approx(pace)
    assert change.regressed is regressed
    [unknown] = comparison.compare(made(now), made(replace(then, pace_ms=None)))
    assert unknown.pace is None


def test_of_another_machine_only_ratios_to_floors_compare() -> None:
    then = replace(REPORT, machine=replace(MACHINE, machine="another machine"))
    now = made(taken("submit", times(SUBMIT, 3)), taken("throughput", THROUGHPUT))

    [change] = comparison.compare(now, then)

    assert (change.name, change.p50, change.p99) == ("submit", None, None)
    assert change.ratio is not None
    assert change.regressed
    assert "another machine" in comparison.text(now, then)


def test_of_another_sync_only_ratios_to_floors_compare() -> None:
    [change] = comparison.compare(made(taken("submit", SUBMIT, syncs=("default",))), REPORT)

    assert (change.p50, change.ratio) == (None, 1)


def test_of_another_size_nothing_compares() -> None:
    first, *others = REPORT.results
    small = made(replace(first, size=0.1), *others)

    assert [change.name for change in comparison.compare(REPORT, small)][:1] == ["throughput"]
    assert comparison.compare(REPORT, made(replace(first, size=None))) == []


def test_what_is_saved_on_one_day_of_one_commit_is_kept_together(tmp_path: Path) -> None:
    first, second, _ = REPORT.results
    kept.save(made(first, second), tmp_path)
    anew, more = replace(first, took_s=99.0), taken("peers", SUBMIT)
    path = kept.save(made(more, anew), tmp_path)

    assert path.name == "2026-11-24.json"
    assert kept.read(path) == made(anew, second, more)
    other = replace(made(more), machine=replace(MACHINE, commit="another"))
    assert kept.read(kept.save(other, tmp_path)) == other


def test_a_figure_that_was_not_there_or_was_nothing_does_not_compare() -> None:
    nothing = replace(THROUGHPUT, ours=spread([[0.0]]))
    then = made(taken("throughput", nothing), taken("older", SUBMIT))

    assert comparison.compare(REPORT, then) == []
    assert "no figure is in both" in comparison.text(REPORT, then)


def test_a_comparison_reads_as_a_table() -> None:
    now = made(taken("submit", times(SUBMIT, 2)), replace(REPORT.results[1], took_s=1))

    title, headings, submit, throughput = comparison.text(now, REPORT).splitlines()

    assert "2026-11-24 (commit 0123456789ab)" in title
    assert headings.split()[:2] == ["p50", "p99"]
    assert submit.endswith("REGRESSED")
    assert throughput.split() == ["throughput", "1.00", "1.00", "-", "-"]


def test_a_page_has_every_figure_with_its_command_its_target_and_whether_it_was_met(tmp_path: Path) -> None:
    report.write(REPORT, tmp_path)

    text = (tmp_path / "index.html").read_text()
    for each in REPORT.results:
        section = text.partition(f'<h2 id="{each.name}">')[2].partition("<h2")[0]
        assert f"<code>{each.command}</code>" in section
        for figure in each.figures:
            assert f"<strong>{figure.name}</strong> ({figure.unit})" in section
            assert (figure.target or "none") in section
    assert 'p50 at most 1.5 times its floor: <span class="met">met</span>' in text
    assert (
        'at least 200: <span class="missed">missed</span><br><span class="missed">3 faults</span>' in text
    )
    assert "POST &lt;somewhere&gt;" in text


def test_a_page_says_where_and_in_what_noise_the_figures_were_taken() -> None:
    text = page.page(REPORT)

    for said in ("a machine, 2 cores", "nats-server 2.15", "0123456789ab", "a file system"):
        assert said in text
    assert "load average before 0.50 0.25, others had 3% of the processors" in text
    assert "sync of the server: always, default" in text


def test_every_picture_is_there_with_its_words_and_every_table_has_a_caption(tmp_path: Path) -> None:
    (tmp_path / "of-a-figure-that-is-gone.png").touch()

    report.write(REPORT, tmp_path)

    read = Page((tmp_path / "index.html").read_text())
    assert not read.open
    assert read.alts.keys() == {path.name for path in tmp_path.glob("*.png")}
    assert read.alts.keys() == {"ratios.png", "scaling-clients.png", "scaling-lists.png"}
    assert "submit 1.30 (target 1.5)" in read.alts["ratios.png"]
    assert "status, 64 clients: 1.3, floor 1 ms" in read.alts["scaling-clients.png"]
    assert read.captions == read.tables == 4


def test_what_a_figure_is_made_up_of_is_drawn_and_said(tmp_path: Path) -> None:
    made_up = replace(SUBMIT, name="profile", series="made up", parts={"event loop": 0.9, "JSON": 0.4})

    report.write(made(taken("profile", made_up)), tmp_path)

    text = (tmp_path / "index.html").read_text()
    assert ">made up of event loop 69%, JSON 31%<" in text
    assert "event loop 69%, JSON 31%" in Page(text).alts["profile-made-up.png"]


def test_every_set_of_figures_can_be_gone_to_from_the_top() -> None:
    text = page.page(REPORT)

    for each in REPORT.results:
        assert f'<a href="#{each.name}">{each.name}</a>' in text
        assert f'<h2 id="{each.name}">' in text


def test_the_same_report_makes_the_same_files(tmp_path: Path) -> None:
    folders = tmp_path / "one", tmp_path / "other"
    for folder in folders:
        report.write(REPORT, folder)

    one, other = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)

    assert one == other


def test_a_report_without_floors_and_series_is_a_page_without_pictures(tmp_path: Path) -> None:
    report.write(made(taken("throughput", THROUGHPUT)), tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
