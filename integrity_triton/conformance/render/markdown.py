"""A report as Markdown, for an issue or a page of a repository."""

from __future__ import annotations

from ..execution import unlisted
from ..report import FAILED, Report
from ..unexecuted import REVIEWED, UNEXECUTED
from .facts import facts


def to_markdown(report: Report) -> str:
    """One Markdown document."""
    lines = ["# Conformance of integrity-triton", "", report.summary() + ".", ""]
    lines += [f"- **problem**: {_escape(problem)}" for problem in report.problems]
    lines += [""] if report.problems else []
    lines += [f"- {name}: {_escape(text)}" for name, text in facts(report)]
    if report.places:
        lines += ["", "## Algorithms and backends", ""]
        lines += [f"| algorithm | {' | '.join(report.places)} |", "| --- |" + " --- |" * len(report.places)]
        for algorithm, cells in report.rows():
            texts = ["-" if cell is None else cell.verdict for cell in cells]
            lines.append(f"| {algorithm} | {' | '.join(texts)} |")
    if report.absent:
        lines += ["", "## Absent backends", ""]
        lines += [f"- {name}: {_escape(reason)}" for name, reason in report.absent.items()]
    reasons = list(report.reasons())
    if reasons:
        lines += ["", "## Absent algorithms", ""]
        lines += [f"- {place}: {_escape(why)}: {', '.join(names)}" for place, why, names in reasons]
    executions = report.executions()
    if executions:
        lines += [
            "",
            "## Executed code",
            "",
            _judged(report),
            "",
            "| backend | kernel | blocks | not executed | without a reason |",
            "| --- | --- | --- | --- | --- |",
        ]
        for (backend, kernel), execution in executions.items():
            missed = _escape("; ".join(map(str, execution.missed))) or "-"
            left = len(unlisted(backend, kernel, execution, UNEXECUTED)) or "-"
            lines.append(f"| {backend} | {kernel} | {execution.blocks} | {missed} | {left} |")
    for cell in report.cells:
        if cell.status != FAILED:
            continue
        lines += ["", f"## {cell.algorithm} on {cell.place}", ""]
        for failure in cell.failures:
            lines += [
                f"- {_escape(failure.check)}: {_escape(failure.case)}",
                f"  - expected `{_escape(failure.expected)}`",
                f"  - found `{_escape(failure.found)}`",
            ]
    return "\n".join(lines) + "\n"


def _judged(report: Report) -> str:
    """What the table of executed code decides."""
    devices = dict.fromkeys(cell.device_name for cell in report.cells if cell.coverage)
    judged = ", ".join(
        f"{len(REVIEWED[name])} algorithms on {name}" if name in REVIEWED else f"none on {name}"
        for name in devices
    )
    return (
        "The file `conformance/unexecuted.py` has reasons why no launch executes a place. A place without "
        f"one fails the run if an algorithm is reviewed on its device: {judged}."
    )


def _escape(text: str) -> str:
    """``text`` on one line, without what Markdown would take for markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
