"""Which code of shipped kernels a run on an emulated backend did not execute, and why that may be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources

from .report import Report

_PLACE = re.compile(r" at (\w+\.py):(\d+)")


@cache
def _reasons() -> dict[tuple[str, str], str]:
    """Why code needs no execution, by the kernel and the source of the line from which it was compiled."""
    text = resources.files(__package__).joinpath("unexecuted.json").read_text("utf-8")
    return {(entry["kernel"], entry["line"]): entry["reason"] for entry in json.loads(text)}


@cache
def _lines(name: str) -> list[str]:
    source = resources.files("integrity_triton.kernels").joinpath(name)
    return source.read_text("utf-8").split("\n") if source.is_file() else []


def _line(missed: str) -> str:
    """The source of the line that a description of code names; empty if it is not one of this package."""
    found = _PLACE.search(missed)
    if found is None:
        return ""
    lines, number = _lines(found[1]), int(found[2])
    return lines[number - 1].strip() if number <= len(lines) else ""


def unexecuted(report: Report) -> Iterator[str]:
    """Code of kernels that no cell of a report executed, unless the list has a reason for it."""
    for (backend, name), execution in report.executions().items():
        kernel = name.partition(" ")[0]
        for missed in execution.missed:
            if (kernel, _line(missed)) not in _reasons():
                yield f"{backend}: {name} was run, but not {missed}"
