"""Cells: an algorithm on a backend is checked on each of its devices, or the cell says why nothing ran."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .. import algorithms
from ..algorithms import Algorithm
from ..algorithms.known_answers import load
from ..backends.base import Backend
from ..backends.emulation.backend import EmulatedBackend
from ..backends.registry import BackendStatus, get, statuses
from .report import ABSENT, COMPILED, FAILED, RAN, Cell, Failure, KernelExecution
from .subject import EFFORTS, SLOW_EFFORTS, Subject
from .tally import check
from .watch import Watch

if TYPE_CHECKING:
    import torch

_REFERENCE = "native"
_SLOW_REASON = "runs only if asked for by name: it is thousands of times slower than the others"


@dataclass(frozen=True)
class Place:
    """A backend with one of its devices."""

    backend: str
    device: torch.device
    name: str


@dataclass(frozen=True)
class Request:
    """What a run was asked for. An empty tuple names nothing in particular and stands for all."""

    backends: tuple[str, ...]
    devices: tuple[str, ...]
    algorithms: tuple[str, ...]
    effort: str
    seed: int

    def obstacle(self, status: BackendStatus) -> str | None:
        """Why a backend runs nothing in this run; None if it does."""
        if not status.available:
            return status.reason
        if status.for_tests and status.name not in self.backends:
            return _SLOW_REASON
        return None

    def cells(self, record: Algorithm, status: BackendStatus) -> list[Cell]:
        """An algorithm on one backend: a cell for each device, or one that says why there is none."""
        asked = status.name in self.backends
        nowhere = Cell(record.name, status.name, "", "", ABSENT)
        obstacle = self.obstacle(status)
        if obstacle is not None:
            return [replace(nowhere, reason=obstacle, asked=asked)]
        backend = get(status.name)
        places = [place for place in _places(backend, status) if self._wants(place)]
        if not places:
            reason = f"it has no device {' or '.join(self.devices)}"
            return [replace(nowhere, reason=reason, asked=asked)]
        unsupported = backend.unsupported(record)
        if unsupported is not None:
            named = asked and record.name in self.algorithms
            return [replace(nowhere, reason=unsupported, asked=named)]
        return [self._cell(record, backend, place) for place in places]

    def _wants(self, place: Place) -> bool:
        return not self.devices or bool({str(place.device), place.device.type} & set(self.devices))

    def _cell(self, record: Algorithm, backend: Backend, place: Place) -> Cell:
        import numpy as np

        began = time.perf_counter()
        cell = Cell(record.name, place.backend, str(place.device), place.name, FAILED)
        try:
            answers = load(record)
        except (OSError, ImportError, ValueError) as error:
            return _without_answers(cell, f"known answers that cannot be read: {error}")
        if answers is None and not _has_definition(record):
            return _without_answers(
                cell, "no known answers; docs/reference/known_answers.md says how a package brings them"
            )
        efforts = SLOW_EFFORTS if backend.for_tests else EFFORTS
        others = [get(s.name) for s in statuses() if s.available and s.name != place.backend]
        subject = Subject(
            record=record,
            backend=place.backend,
            device=place.device,
            effort=efforts[self.effort],
            known=answers,
            random=np.random.default_rng([self.seed, *record.name.encode()]),
            partner=_partner(record, place.backend),
            watch=Watch(backend, others),
        )
        coverage = backend.coverage if isinstance(backend, EmulatedBackend) else None
        if coverage is not None:
            coverage.take()
        tally = check(subject, backend)
        return replace(
            cell,
            status=FAILED if tally.failed else RAN,
            checks=tally.counts,
            failed=tally.failed,
            failures=tuple(tally.failures),
            launches=tally.launches,
            seconds=round(time.perf_counter() - began, 3),
            asked=place.backend in self.backends or record.name in self.algorithms,
            coverage={
                kernel.name: KernelExecution.of(kernel)
                for kernel in (() if coverage is None else coverage.take())
            },
        )

    def problems(self, cells: Sequence[Cell]) -> list[str]:
        """What keeps the run from having passed: failures, and what was asked for and did not run."""
        found = [
            f"{cell.algorithm} failed on {cell.place}: {cell.verdict}"
            for cell in cells
            if cell.status == FAILED
        ]
        ran = [cell for cell in cells if cell.status in (RAN, FAILED)]
        compiled = any(cell.status == COMPILED for cell in cells)
        for name in self.backends:
            mine = [cell for cell in cells if cell.backend == name]
            if not any(cell.backend == name for cell in ran):
                first, *others = dict.fromkeys(cell.reason for cell in mine)
                also = f" (and {len(others)} other reasons)" if others else ""
                found.append(f"backend {name} was asked for and is absent: {first}{also}")
            else:
                found += [
                    f"{cell.algorithm} on {name} was asked for and is absent: {cell.reason}"
                    for cell in mine
                    if cell.status == ABSENT and cell.algorithm in self.algorithms
                ]
        for name in self.algorithms:
            if not (self.backends or compiled) and not any(cell.algorithm == name for cell in ran):
                found.append(f"{name} was asked for, and no backend here runs it")
        for name in self.devices:
            if not any(name in (cell.device, cell.device.partition(":")[0]) for cell in ran):
                found.append(f"device {name} was asked for, and nothing ran on it")
        if not (ran or compiled or found):
            found.append("nothing ran")
        return found


def lost_cell(algorithm: str, backend: str, reason: object) -> Cell:
    """The cell of an algorithm for which another process has no result: it has failed."""
    failure = Failure("all", "all", "results", str(reason))
    return _failed(Cell(algorithm, backend, "", "", FAILED, asked=True), failure)


def _without_answers(cell: Cell, reason: str) -> Cell:
    return _failed(cell, Failure("known answers", "all", "known answers", reason))


def _failed(cell: Cell, failure: Failure) -> Cell:
    return replace(cell, reason=failure.found, failed=1, failures=(failure,))


def _has_definition(record: Algorithm) -> bool:
    """Whether the algorithm is an HMAC over a hash with known answers: its definition then checks it."""
    hash_name = record.construction.hmac_of
    return hash_name is not None and load(algorithms.get(hash_name)) is not None


def _places(backend: Backend, status: BackendStatus) -> list[Place]:
    import torch

    kind: Any = getattr(backend, "torch_device_type", "cpu")
    if kind == "cpu":
        return [Place(backend.name, torch.device("cpu"), "; ".join(status.devices))]
    return [
        Place(backend.name, torch.device(kind, i), name.partition(" ")[2] or name)
        for i, name in enumerate(status.devices)
    ]


def _partner(record: Algorithm, backend: str) -> str | None:
    """The backend whose digests have to be the same: the CPU libraries, or, if they lack the algorithm,
    another backend that runs kernels.

    The CPU libraries themselves have no partner: a difference from another backend shows in that one's cell.
    """
    if backend == _REFERENCE:
        return None
    names = [s.name for s in statuses() if s.available and s.name != backend and not s.for_tests]
    for name in sorted(names, key=lambda name: name != _REFERENCE):
        if get(name).unsupported(record) is None:
            return name
    return None
