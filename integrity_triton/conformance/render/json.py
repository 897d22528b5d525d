"""A report as JSON, for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ...backends.emulation.program import Missed
from ..report import Cell, Failure, KernelExecution, Report


def to_dict(report: Report) -> dict[str, Any]:
    """The report as strings, numbers, lists and dicts that ``json.dumps`` takes."""
    return {
        "format": 1,
        "ok": report.ok,
        "problems": list(report.problems),
        "seed": report.seed,
        "date": report.date,
        "seconds": report.seconds,
        "options": dict(report.options),
        "environment": dict(report.environment),
        "counts": report.counts(),
        "cells": [_cell(cell) for cell in report.cells],
        "executed": [
            {
                "backend": backend,
                "kernel": kernel,
                "constants": dict(execution.constants),
                "blocks": execution.blocks,
                "missed": list(map(str, execution.missed)),
                "algorithms": list(
                    dict.fromkeys(
                        cell.algorithm
                        for cell in report.cells
                        if cell.backend == backend and kernel in cell.coverage
                    )
                ),
            }
            for (backend, kernel), execution in report.executions().items()
        ],
    }


def from_dict(data: Mapping[str, Any]) -> Report:
    """The report from which :func:`to_dict` made ``data``. What was executed of a kernel is known of all
    cells together: each cell that launched it has executed all of that. A report of an earlier version does
    not say which cells these are, and the first cell of the backend stands for them.

    Raises ValueError for another format, and KeyError or TypeError for what is not a report.
    """
    if data["format"] != 1:
        raise ValueError(f"format {data['format']} of a report is not known")
    first = {cell["backend"]: cell["algorithm"] for cell in reversed(data["cells"])}
    coverage: dict[tuple[str, str], dict[str, KernelExecution]] = {}
    for entry in data["executed"]:
        backend = entry["backend"]
        missed = tuple(map(_missed, entry["missed"]))
        for algorithm in entry.get("algorithms", [first[backend]]):
            coverage.setdefault((backend, algorithm), {})[entry["kernel"]] = KernelExecution(
                entry["blocks"], missed, entry["constants"]
            )
    cells = []
    for found in data["cells"]:
        cell = {name: value for name, value in found.items() if name != "cases"}
        cell["failures"] = tuple(Failure(**failure) for failure in cell["failures"])
        cells.append(Cell(**cell, coverage=coverage.get((cell["backend"], cell["algorithm"]), {})))
    return Report(
        tuple(cells),
        tuple(data["problems"]),
        **{name: data[name] for name in ("seed", "date", "seconds", "options", "environment")},
    )


def _missed(text: str) -> Missed:
    kind, _, rest = text.partition(" ")
    number, _, what = rest.partition(": " if kind == "block" else " of ")
    return Missed(kind, number, what)


def _cell(cell: Cell) -> dict[str, Any]:
    found = {**asdict(cell), "cases": cell.cases}
    del found["coverage"]  # that of all cells together says more
    return found


def to_json(report: Report) -> str:
    """One JSON document."""
    return json.dumps(to_dict(report), indent=1) + "\n"
