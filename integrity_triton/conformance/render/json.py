"""A report as JSON, for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ..report import Cell, Report


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
            }
            for (backend, kernel), execution in report.executions().items()
        ],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    found = {**asdict(cell), "cases": cell.cases}
    del found["coverage"]  # that of all cells together says more
    return found


def to_json(report: Report) -> str:
    """One JSON document."""
    return json.dumps(to_dict(report), indent=1) + "\n"
