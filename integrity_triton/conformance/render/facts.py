"""What the result of a run depends on, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..report import Report


def facts(report: Report) -> Iterator[tuple[str, str]]:
    """Names and values: date, seed, options and environment. A name may come several times."""
    yield "date", f"{report.date}, {report.seconds:.1f} s"
    yield "seed", str(report.seed)
    yield "options", ", ".join(f"{k} {_text(v)}" for k, v in report.options.items() if v) or "none"
    for name, value in report.environment.items():
        if isinstance(value, list):
            for item in value:
                yield name, _text(item)
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
