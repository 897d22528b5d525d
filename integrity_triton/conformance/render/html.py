"""A report as one HTML page, for people.

The page has no scripts and needs no other file. It is made for a phone, a screen and paper, and has a light
and a dark form.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from ..report import ABSENT, COMPILED, FAILED, RAN, Cell, Report
from .facts import facts

_WIDTH = 3  # so many backends and devices fit beside the algorithms' names
_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #ffffff; --soft: #59636e; --line: #d1d9e0;
  --band: #f6f8fa; --good: #116329; --bad: #b3131b; --bad-back: #ffebe9; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --back: #0d1117; --soft: #9198a1;
  --line: #3d444d; --band: #151b23; --good: #5dd879; --bad: #ff8f87; --bad-back: #3d1513; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; color: var(--text); background: var(--back);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; }
a { color: inherit; }
.verdict { border: 2px solid currentColor; border-radius: .5rem; padding: .6rem .8rem; font-weight: 600; }
.good { color: var(--good); }
.bad { color: var(--bad); font-weight: 600; }
.verdict.bad { background: var(--bad-back); }
.soft { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0;
  border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: var(--band); padding-left: .3rem; }
tbody th, tbody td { padding-left: .3rem; }
tbody th { font-weight: 500; overflow-wrap: anywhere; }
tbody td { white-space: nowrap; }
tbody td.bad { white-space: normal; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .5rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
code { font: .875rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; }
li { margin: .35rem 0; overflow-wrap: anywhere; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .45rem; }
  body { padding: .75rem; } table { font-size: .9rem; line-height: 1.35; } }
@media print { :root { color-scheme: light; --text: #000; --back: #fff; --soft: #444; --line: #999;
  --band: #fff; --good: #000; --bad: #000; --bad-back: #fff; }
  body { max-width: none; padding: 0; font-size: 9.5pt; } thead { display: table-header-group; }
  thead th { position: static; } tr, li { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .wide { overflow: visible; } td.bad { text-decoration: underline; } }
"""


def to_html(report: Report) -> str:
    """One self-contained HTML document."""
    return "\n".join(_page(report)) + "\n"


def _page(report: Report) -> Iterator[str]:
    yield "<!DOCTYPE html>"
    yield '<html lang="en">'
    yield "<head>"
    yield '<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Conformance: {'passed' if report.ok else 'FAILED'}</title>"
    yield f"<style>{_STYLE}</style>"
    yield "</head>"
    yield "<body>"
    yield "<h1>Conformance of integrity-triton</h1>"
    yield f'<p class="verdict {"good" if report.ok else "bad"}">{escape(report.summary())}</p>'
    if report.problems:
        yield "<ul>"
        yield from (f"<li>{escape(problem)}</li>" for problem in report.problems)
        yield "</ul>"
    yield from _matrix(report)
    yield from _failures(report)
    yield from _absences(report)
    yield "<h2>What it depends on</h2>"
    yield "<dl>"
    for name, text in facts(report):
        yield f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>"
    yield "</dl>"
    yield "</body>"
    yield "</html>"


def _matrix(report: Report) -> Iterator[str]:
    if not report.places:
        return
    yield "<h2>Algorithms and backends</h2>"
    yield '<p class="soft">Ran: the number of cases, all of which passed.</p>'
    # In a frame that scrolls, the head of the table does not stay in view. Only a wide table gets one.
    wide = len(report.places) > _WIDTH
    yield '<div class="wide"><table>' if wide else "<div><table>"
    heads = "".join(f'<th scope="col">{escape(place)}</th>' for place in report.places)
    yield f'<thead><tr><th scope="col">algorithm</th>{heads}</tr></thead>'
    yield "<tbody>"
    for algorithm, cells in report.rows():
        yield f'<tr><th scope="row">{escape(algorithm)}</th>{"".join(map(_cell, cells))}</tr>'
    yield "</tbody></table></div>"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return '<td class="soft">-</td>'
    kind = {RAN: "good", FAILED: "bad", ABSENT: "soft", COMPILED: "soft"}[cell.status]
    text = escape(cell.verdict)
    if cell.status == FAILED:
        text = f'<a href="#{_anchor(cell)}">{text}</a>'
    return f'<td class="{kind}">{text}</td>'


def _anchor(cell: Cell) -> str:
    return escape("-".join([cell.algorithm, *cell.place.replace(":", " ").split()]), quote=True)


def _failures(report: Report) -> Iterator[str]:
    failed = [cell for cell in report.cells if cell.status == FAILED]
    if not failed:
        return
    yield "<h2>What failed</h2>"
    for cell in failed:
        yield f'<h3 id="{_anchor(cell)}">{escape(cell.algorithm)} on {escape(cell.place)}</h3>'
        if len(cell.failures) < cell.failed:
            yield f'<p class="soft">The first {len(cell.failures)} of {cell.failed}.</p>'
        yield "<ul>"
        for failure in cell.failures:
            yield (
                f"<li>{escape(failure.check)}: {escape(failure.case)}<br>"
                f"expected <code>{escape(failure.expected)}</code><br>"
                f"found <code>{escape(failure.found)}</code></li>"
            )
        yield "</ul>"


def _absences(report: Report) -> Iterator[str]:
    reasons = list(report.reasons())
    if not (report.absent or reasons):
        return
    yield "<h2>Absent</h2>"
    yield "<ul>"
    for name, reason in report.absent.items():
        yield f"<li><strong>{escape(name)}</strong>: {escape(reason)}</li>"
    for place, reason, names in reasons:
        yield (f"<li><strong>{escape(place)}</strong>, for {escape(', '.join(names))}: {escape(reason)}</li>")
    yield "</ul>"
