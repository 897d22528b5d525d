"""What a run of the suite found. :mod:`.render` turns it into files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..backends.emulation.program import Missed

if TYPE_CHECKING:
    from ..backends.emulation.coverage import KernelCoverage

__all__ = ["ABSENT", "COMPILED", "FAILED", "RAN", "Cell", "Failure", "KernelExecution", "Report"]

RAN, FAILED, ABSENT, COMPILED = "ran", "failed", "absent", "compile-only"
_STATUSES = (RAN, FAILED, ABSENT, COMPILED)


@dataclass(frozen=True)
class Failure:
    """One case whose result was not the expected one."""

    check: str
    case: str
    expected: str
    """In hexadecimal, or in words."""
    found: str
    """In hexadecimal, or in words."""


@dataclass(frozen=True)
class KernelExecution:
    """What was executed of a compiled kernel."""

    blocks: int
    """The number of basic blocks."""
    missed: tuple[Missed, ...]
    """The blocks, and rows and columns of matrix products, that were never executed."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """The compile-time constants of the kernel."""

    @classmethod
    def of(cls, kernel: KernelCoverage) -> KernelExecution:
        return cls(kernel.blocks[1], kernel.gaps(), kernel.constants)


@dataclass(frozen=True)
class Cell:
    """The result of one algorithm on one backend and device."""

    algorithm: str
    backend: str
    """The backend's name; where kernels were only compiled, the target."""
    device: str
    """torch's name of the device; empty where nothing ran on a device."""
    device_name: str
    """The vendor's name of the device."""
    status: str
    """``ran`` (and all cases passed), ``failed``, ``absent`` or ``compile-only``."""
    reason: str = ""
    """Why the status is ``absent``, or a remark on another status."""
    checks: Mapping[str, int] = field(default_factory=dict)
    """The number of cases of each check."""
    failed: int = 0
    """The number of failures."""
    failures: tuple[Failure, ...] = ()
    """The first failures, in full."""
    launches: int = 0
    """The number of kernels launched."""
    seconds: float = 0.0
    asked: bool = False
    """Whether this backend, or this algorithm on it, was asked for by name."""
    coverage: Mapping[str, KernelExecution] = field(default_factory=dict)
    """On an emulated backend, what was executed of each kernel, by the name of its compiled form."""

    @property
    def cases(self) -> int:
        """The number of cases of all checks."""
        return sum(self.checks.values())

    @property
    def verdict(self) -> str:
        """The result in a few words."""
        if self.status == RAN:
            return f"ran {self.cases}"
        if self.status == FAILED:
            return f"FAILED {self.failed} of {max(self.failed, self.cases)}"
        return self.status

    @property
    def place(self) -> str:
        """The backend, followed by the device where the backend may have several."""
        return f"{self.backend} {self.device}" if self.device not in ("", "cpu") else self.backend

    @property
    def is_failure(self) -> bool:
        """Whether the cell keeps the run from passing: it failed, or it was asked for and is absent."""
        return self.status == FAILED or (self.status == ABSENT and self.asked)


@dataclass(frozen=True)
class Report:
    """The result of :func:`integrity_triton.conformance.run`."""

    cells: tuple[Cell, ...]
    problems: tuple[str, ...]
    """What failed, and what was asked for and did not run. Empty if the run passed."""
    seed: int
    date: str
    """When the run began: UTC, in the format of ISO 8601."""
    seconds: float
    options: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for ran and passed."""
        return not self.problems

    @property
    def places(self) -> tuple[str, ...]:
        """The backends and devices for which anything ran or was compiled, in order."""
        return tuple(dict.fromkeys(cell.place for cell in self.cells if cell.status != ABSENT))

    @property
    def absent(self) -> dict[str, str]:
        """The backends on which nothing ran, each with the reason."""
        ran = {cell.backend for cell in self.cells if cell.status != ABSENT}
        return {cell.backend: cell.reason for cell in self.cells if cell.backend not in ran}

    def rows(self) -> Iterator[tuple[str, list[Cell | None]]]:
        """For each algorithm, its cells in the order of :attr:`places`."""
        table: dict[str, dict[str, Cell]] = {}
        for cell in self.cells:
            table.setdefault(cell.algorithm, {})[cell.place] = cell
        for algorithm, cells in table.items():
            # The cell of a backend that cannot run the algorithm names no device.
            yield algorithm, [cells.get(place) or cells.get(place.split(" ")[0]) for place in self.places]

    def reasons(self) -> Iterator[tuple[str, str, list[str]]]:
        """Backend, reason and algorithms, where a backend ran some algorithms and others are absent."""
        found: dict[tuple[str, str], list[str]] = {}
        for cell in self.cells:
            if cell.status == ABSENT and cell.backend not in self.absent:
                found.setdefault((cell.place, cell.reason), []).append(cell.algorithm)
        for (place, reason), names in found.items():
            yield place, reason, names

    def executions(self) -> dict[tuple[str, str], KernelExecution]:
        """What all cells together executed of each kernel, by backend and name."""
        found: dict[tuple[str, str], KernelExecution] = {}
        for cell in self.cells:
            for name, execution in cell.coverage.items():
                before = found.get((cell.backend, name), execution)
                missed = tuple(what for what in execution.missed if what in before.missed)
                found[cell.backend, name] = replace(execution, missed=missed)
        return found

    def counts(self) -> dict[str, int]:
        """The number of cells of each status."""
        return {status: sum(cell.status == status for cell in self.cells) for status in _STATUSES}

    def summary(self) -> str:
        """The result in one line."""
        if not self.places:
            why: dict[str, list[str]] = {}
            for backend, reason in self.absent.items():
                why.setdefault(reason, []).append(backend)
            reasons = "; ".join(f"{reason} ({', '.join(backends)})" for reason, backends in why.items())
            return f"nothing ran, so nothing was checked: {reasons or 'nothing was asked for'}"
        found = self.counts()
        cases = sum(cell.cases for cell in self.cells)
        words = ", ".join(f"{n} {status}" for status, n in found.items() if n)
        return (
            f"{'passed' if self.ok else 'FAILED'}: {cases} cases; cells: {words or 'none'}; seed {self.seed}"
        )
