"""A report as a page of HTML that needs nothing but the pictures beside it. Pure.

The one rule: the same report makes the same page, and beside each figure stands the command that takes it.
"""

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from benchmarks.kept import SIZE, Report, Taken
from benchmarks.measure import Figure, Spread, written

RATIOS: Final = "ratios.png"
_HEADINGS: Final = ("n", "p50", "p90", "p95", "p99", "max", "ratio to floor (single runs)")
_STYLE: Final = """
:root { color-scheme: light dark; --text: #1c2024; --back: #fff; --soft: #5b6570; --line: #d5dae0;
  --met: #17692f; --missed: #b3261e; --code: #f1f3f5; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7ea; --back: #14171a; --soft: #a3adb8;
  --line: #363d45; --met: #6fd08c; --missed: #ff8f85; --code: #22272d; } }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
a { color: inherit; }
nav { margin-top: 1rem; }
nav a { display: inline-block; padding: .2rem .8rem .2rem 0; }
code { display: block; background: var(--code); padding: .3em .6em; border-radius: 4px; overflow-x: auto;
  white-space: nowrap; }
img { width: 62rem; max-width: max(100%, 40rem); height: auto; background: #fff; border-radius: 6px; }
figure { margin: 1rem 0; }
.wide { overflow-x: auto; }
.wide table { min-width: 58rem; }
.stay { display: inline-block; position: sticky; left: 0; max-width: min(70rem, 100vw - 2rem); }
table { border-collapse: collapse; font-size: .875rem; width: 100%; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .25rem .6rem; text-align: right; vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
th { vertical-align: bottom; }
th[scope=row] { vertical-align: top; font-weight: normal; }
th[scope=row], .words { text-align: left; }
thead th, tbody { border-bottom: 1px solid var(--line); }
.soft { color: var(--soft); }
.met { color: var(--met); font-weight: 600; }
.missed { color: var(--missed); font-weight: 600; }
"""


def page(report: Report) -> str:
    """Write the whole page. Its pictures are ``RATIOS`` and those that ``pictures`` names."""
    title = f"What Taskfold costs, {escape(report.taken_at[:10])}"
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>",
        _about(report),
        _contents(report),
        *_overview(floored(report)),
        *(_section(taken) for taken in report.results),
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(parts)


def floored(report: Report) -> list[Figure]:
    """Give the figures whose ratios to floors are drawn together.

    A series has a picture of its own: of it, only what has a target for the ratio is among them.
    """
    figures = (figure for taken in report.results for figure in taken.figures)
    return [each for each in figures if each.ratio and (each.ratio_target or not each.series)]


def pictures(taken: Taken) -> dict[str, list[Figure]]:
    """Give the figures of each series, by the name of its picture's file."""
    found: dict[str, list[Figure]] = {}
    for figure in taken.figures:
        if figure.series:
            found.setdefault(f"{_slug(taken.name)}-{_slug(figure.series)}.png", []).append(figure)
    return found


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _about(report: Report) -> str:
    here = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    rows = {
        "taken at": report.taken_at,
        "machine": f"{here.machine}, {here.cores} cores, {here.system}",
        "store": f"on {here.file_system}",
        "versions": versions,
        "commit": here.commit,
    }
    lines = "\n".join(
        f'<tr><th scope="row">{name}</th><td class="words">{escape(text)}</td></tr>'
        for name, text in rows.items()
    )
    return f"<table>\n<caption>Where and how the figures were taken</caption>\n{lines}\n</table>"


def _contents(report: Report) -> str:
    links = "\n".join(
        f'<a href="#{_slug(taken.name)}">{escape(taken.name)}</a>' for taken in report.results
    )
    return f'<nav aria-label="Figures">\n{links}\n</nav>'


def _overview(figures: Sequence[Figure]) -> Iterator[str]:
    if not figures:
        return
    yield "<h2>Ratios to floors</h2>"
    yield "<p>A floor is the least that a program could do in our place, measured in turns with it.</p>"
    told = (f"{each.name} {each.ratio:.2f}{_aim(each)}" for each in figures)
    yield _picture(RATIOS, f"Ratio of p50 to its floor: {'; '.join(told)}.")


def _aim(figure: Figure) -> str:
    return "" if figure.ratio_target is None else f" (target {figure.ratio_target:g})"


def _section(taken: Taken) -> str:
    name = escape(taken.name)
    drawn = [_picture(file, _said(figures)) for file, figures in pictures(taken).items()]
    bodies = "\n".join(_body(figure) for figure in taken.figures)
    headings = "".join(f'<th scope="col">{heading}</th>' for heading in _HEADINGS)
    caption = _stay(f"{taken.name}, {_how(taken)}; {_noise(taken)}")
    table = (
        f'<div class="wide" tabindex="0"><table>\n<caption>{caption}</caption>\n'
        f'<thead><tr><th scope="col" class="words">figure</th>{headings}'
        '<th scope="col" class="words">target</th></tr></thead>\n'
        f"{bodies}\n</table></div>"
    )
    command = f"<p><code>{escape(taken.command)}</code></p>"
    return "\n".join([f'<h2 id="{_slug(taken.name)}">{name}</h2>', command, *drawn, table])


def _how(taken: Taken) -> str:
    runs = "one run" if taken.runs == 1 else f"{taken.runs} runs together, floor and ours in turns"
    return runs if taken.size in (None, SIZE) else f"{runs}, at {taken.size:g} of its full size"


def _noise(taken: Taken) -> str:
    one, five, _ = taken.load_average
    sync = f"; sync of the server: {', '.join(taken.syncs)}" if taken.syncs else ""
    others = f"others had {taken.others_share:.0%} of the processors"
    pace = f", pace {taken.pace_ms:.2f} ms" if taken.pace_ms else ""
    return f"{taken.took_s:.0f} s, load average before {one:.2f} {five:.2f}, {others}{pace}{sync}"


def _stay(text: str) -> str:
    """Keep a text in sight where the table is wider than the window."""
    return f'<span class="stay">{escape(text)}</span>'


def _picture(file: str, said: str) -> str:
    return f'<figure class="wide" tabindex="0"><img src="{file}" alt="{escape(said)}"></figure>'


def _said(figures: Sequence[Figure]) -> str:
    """Say in words what a picture of a series shows."""
    numbers = (
        f"{each.name}: {written(each.ours.p50)}"
        + (f", floor {written(each.floor.p50)}" if each.floor else "")
        + f" {each.unit}"
        + (f", made up of {each.made_up}" if each.parts else "")
        for each in figures
    )
    along = f" along {figures[0].along}" if figures[0].along else ""
    return f"{figures[0].series}{along}, p50: {'; '.join(numbers)}."


def _body(figure: Figure) -> str:
    """Write a figure's rows: ours, its floor, and its notes."""
    label = f"<strong>{escape(figure.name)}</strong> ({escape(figure.unit)})<br>{escape(figure.what)}"
    rows = [_row(label, figure.ours, _ratio(figure), _target(figure))]
    if figure.floor:
        rows.append(_row(f"floor: {escape(figure.floor_what)}", figure.floor, "", "", "soft"))
    rows += (
        f'<tr class="soft"><td class="words" colspan="{2 + len(_HEADINGS)}">{_stay(note)}</td></tr>'
        for note in figure.remarks
    )
    return "<tbody>\n" + "\n".join(rows) + "\n</tbody>"


def _row(label: str, shown: Spread, ratio: str, target: str, kind: str = "") -> str:
    numbers = (shown.p50, shown.p90, shown.p95, shown.p99, shown.max)
    cells = "".join(f"<td>{cell}</td>" for cell in (shown.n, *map(written, numbers), ratio))
    row = f'<tr class="{kind}">' if kind else "<tr>"
    return f'{row}<th scope="row">{label}</th>{cells}<td class="words">{target}</td></tr>'


def _ratio(figure: Figure) -> str:
    if figure.ratio is None:
        return ""
    singles = f" ({min(figure.ratios):.2f} to {max(figure.ratios):.2f})" if figure.ratios else ""
    return f"{figure.ratio:.2f}{singles}"


def _target(figure: Figure) -> str:
    told = []
    if figure.target is not None:
        verdict = '<span class="met">met</span>' if figure.met else '<span class="missed">missed</span>'
        told.append(f"{escape(figure.target)}: {verdict}")
    if figure.faults:
        told.append(f'<span class="missed">{figure.faults} faults</span>')
    return "<br>".join(told) or '<span class="soft">none</span>'
