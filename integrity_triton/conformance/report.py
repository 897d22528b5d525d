"""What a run of the suite found, and its forms: JSON, Markdown, JUnit's XML; ``page.py`` has the
HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from xml.etree import ElementTree

from .checks import Failure

__all__ = ["ABSENT", "COMPILED", "FAILED", "RAN", "Cell", "Report"]

RAN, FAILED, ABSENT, COMPILED = "ran", "failed", "absent", "compile-only"
_STATUSES = (RAN, FAILED, ABSENT, COMPILED)


@dataclass(frozen=True)
class Cell:
    """One algorithm on one backend and device."""

    algorithm: str
    backend: str
    device: str
    """torch's name of the device; for what is compiled only, the target; empty where there is none."""
    device_name: str
    status: str
    """``ran`` (and all cases passed), ``failed``, ``absent`` or ``compile-only``."""
    reason: str = ""
    """Why it is absent; or what else there is to know."""
    checks: Mapping[str, int] = field(default_factory=dict)
    """Cases of each check."""
    failed: int = 0
    failures: tuple[Failure, ...] = ()
    """The first ones; ``failed`` counts all."""
    launches: int = 0
    """Of kernels."""
    seconds: float = 0.0
    asked: bool = False
    """Whether this backend, or this algorithm on it, was asked for by name."""

    @property
    def cases(self) -> int:
        return sum(self.checks.values())

    @property
    def verdict(self) -> str:
        """The cell in a few words."""
        if self.status == RAN:
            return f"ran {self.cases}"
        if self.status == FAILED:
            return f"FAILED {self.failed} of {max(self.failed, self.cases)}"
        return self.status

    @property
    def place(self) -> str:
        """The backend, and its device where there may be several."""
        return f"{self.backend} {self.device}" if self.device not in ("", "cpu") else self.backend


@dataclass(frozen=True)
class Report:
    """The outcome of :func:`integrity_triton.conformance.run`."""

    cells: tuple[Cell, ...]
    problems: tuple[str, ...]
    """What was asked for and is not there, and what failed: empty if all is well."""
    seed: int
    date: str
    """Of the start, UTC, ISO 8601."""
    seconds: float
    options: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for ran and passed."""
        return not self.problems

    @property
    def places(self) -> tuple[str, ...]:
        """Backends with devices on which anything ran or was compiled, in order."""
        return tuple(dict.fromkeys(cell.place for cell in self.cells if cell.status != ABSENT))

    @property
    def absent(self) -> dict[str, str]:
        """Backends on which nothing ran, each with the reason."""
        ran = {cell.backend for cell in self.cells if cell.status != ABSENT}
        return {cell.backend: cell.reason for cell in self.cells if cell.backend not in ran}

    def rows(self) -> Iterator[tuple[str, list[Cell | None]]]:
        """For each algorithm, its cells in the order of :attr:`places`."""
        table: dict[str, dict[str, Cell]] = {}
        for cell in self.cells:
            table.setdefault(cell.algorithm, {})[cell.place] = cell
        for algorithm, cells in table.items():
            # A cell of a backend without the algorithm knows no device.
            yield algorithm, [cells.get(place) or cells.get(place.split(" ")[0]) for place in self.places]

    def counts(self) -> dict[str, int]:
        """How many cells have each status."""
        return {status: sum(cell.status == status for cell in self.cells) for status in _STATUSES}

    def summary(self) -> str:
        """One line."""
        found = self.counts()
        cases = sum(cell.cases for cell in self.cells)
        words = ", ".join(f"{n} {status}" for status, n in found.items() if n)
        return (
            f"{'passed' if self.ok else 'FAILED'}: {cases} cases; cells: {words or 'none'}; seed {self.seed}"
        )

    def to_dict(self) -> dict[str, Any]:
        cells = [{**asdict(cell), "cases": cell.cases} for cell in self.cells]
        return {
            "format": 1,
            "ok": self.ok,
            "problems": list(self.problems),
            "seed": self.seed,
            "date": self.date,
            "seconds": self.seconds,
            "options": dict(self.options),
            "environment": dict(self.environment),
            "counts": self.counts(),
            "cells": cells,
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def to_markdown(self) -> str:
        lines = ["# Conformance of integrity-triton", "", self.summary() + ".", ""]
        lines += [f"- **problem**: {_md(problem)}" for problem in self.problems]
        lines += [""] if self.problems else []
        lines += [f"- {name}: {_md(text)}" for name, text in self.facts()]
        if self.places:
            lines += ["", "## Algorithms and backends", ""]
            lines += [f"| algorithm | {' | '.join(self.places)} |", "| --- |" + " --- |" * len(self.places)]
            for algorithm, cells in self.rows():
                texts = ["-" if cell is None else cell.verdict for cell in cells]
                lines.append(f"| {algorithm} | {' | '.join(texts)} |")
        if self.absent:
            lines += ["", "## Absent backends", ""]
            lines += [f"- {name}: {_md(reason)}" for name, reason in self.absent.items()]
        reasons = list(self.reasons())
        if reasons:
            lines += ["", "## Absent algorithms", ""]
            lines += [f"- {place}: {_md(why)}: {', '.join(names)}" for place, why, names in reasons]
        failed = [cell for cell in self.cells if cell.status == FAILED]
        for cell in failed:
            lines += ["", f"## {cell.algorithm} on {cell.place}", ""]
            for failure in cell.failures:
                lines += [
                    f"- {_md(failure.check)}: {_md(failure.case)}",
                    f"  - expected `{_md(failure.expected)}`",
                    f"  - found `{_md(failure.found)}`",
                ]
        return "\n".join(lines) + "\n"

    def to_html(self) -> str:
        """One self-contained page."""
        from .page import to_html

        return to_html(self)

    def reasons(self) -> Iterator[tuple[str, str, list[str]]]:
        """Backend, reason and algorithms, for backends that run others."""
        found: dict[tuple[str, str], list[str]] = {}
        for cell in self.cells:
            if cell.status == ABSENT and cell.backend not in self.absent:
                found.setdefault((cell.place, cell.reason), []).append(cell.algorithm)
        for (place, reason), names in found.items():
            yield place, reason, names

    def facts(self) -> Iterator[tuple[str, str]]:
        """What the run depends on, in words."""
        yield "date", f"{self.date}, {self.seconds:.1f} s"
        yield "seed", str(self.seed)
        yield "options", ", ".join(f"{k} {_text(v)}" for k, v in self.options.items() if v) or "none"
        for name, value in self.environment.items():
            if isinstance(value, list):
                for item in value:
                    yield name, _text(item)
            else:
                yield name, _text(value)

    def to_xml(self) -> str:
        """JUnit's XML: a suite a backend and device, a case an algorithm."""
        root = ElementTree.Element("testsuites", name="integrity-triton conformance")
        names = dict.fromkeys(cell.place for cell in self.cells)
        for name in names:
            cells = [cell for cell in self.cells if cell.place == name]
            suite = ElementTree.SubElement(
                root,
                "testsuite",
                name=name,
                tests=str(len(cells)),
                failures=str(sum(_is_failure(cell) for cell in cells)),
                errors="0",
                skipped=str(sum(cell.status == ABSENT and not cell.asked for cell in cells)),
                time=f"{sum(cell.seconds for cell in cells):.3f}",
                timestamp=self.date,
            )
            properties = ElementTree.SubElement(suite, "properties")
            for fact, text in self.facts():
                ElementTree.SubElement(properties, "property", name=fact, value=_xml(text))
            for cell in cells:
                self._add_case(suite, cell)
        self._add_problems(root)
        ElementTree.indent(root)
        return ElementTree.tostring(root, "unicode", xml_declaration=True) + "\n"

    def _add_problems(self, root: ElementTree.Element) -> None:
        """What is wrong beside the cells, such as that there are none."""
        told = {cell.algorithm for cell in self.cells if _is_failure(cell)}
        if not self.problems or told:
            return
        suite = ElementTree.SubElement(
            root, "testsuite", name="run", tests="1", failures="1", errors="0", skipped="0", time="0"
        )
        case = ElementTree.SubElement(suite, "testcase", classname="run", name="run", time="0")
        text = _xml("; ".join(self.problems))
        ElementTree.SubElement(case, "failure", message=text).text = text

    @staticmethod
    def _add_case(suite: ElementTree.Element, cell: Cell) -> None:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=cell.place.replace(" ", "."),
            name=cell.algorithm,
            time=f"{cell.seconds:.3f}",
        )
        if cell.status == ABSENT and not cell.asked:
            ElementTree.SubElement(case, "skipped", message=_xml(f"absent: {cell.reason}"))
        elif cell.status == ABSENT:
            ElementTree.SubElement(case, "failure", message=_xml(f"absent: {cell.reason}"))
        elif cell.status == FAILED:
            failure = ElementTree.SubElement(case, "failure", message=cell.verdict)
            failure.text = _xml(
                "\n".join(
                    f"{f.check}: {f.case}\n  expected {f.expected}\n  found {f.found}" for f in cell.failures
                )
            )
        elif cell.status == COMPILED:
            ElementTree.SubElement(case, "skipped", message=_xml(f"compile-only: {cell.reason}"))
        else:
            out = ElementTree.SubElement(case, "system-out")
            out.text = _xml(", ".join(f"{name}: {count}" for name, count in cell.checks.items()))


def _is_failure(cell: Cell) -> bool:
    return cell.status == FAILED or (cell.status == ABSENT and cell.asked)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _md(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")


def _xml(text: str) -> str:
    """Without what XML 1.0 has no way to write."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
