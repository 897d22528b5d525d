"""The conformance suite: every algorithm on every backend and device, in one call.

Needs nothing beyond the package's own dependencies. ``docs/guide/conformance.md`` says what is checked.
"""

from __future__ import annotations

import datetime
import secrets
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import algorithms as registry
from ..algorithms import Algorithm, Hmac
from ..algorithms.known_answers import Answers, load
from ..backends.base import Backend
from ..backends.registry import BackendStatus, get, statuses
from ..backends.triton_backend import TritonBackend
from .checks import EFFORTS, SLOW_EFFORTS, Failure, Subject, Watch, check
from .compilation import Compilation
from .environment import describe
from .processes import share
from .report import ABSENT, COMPILED, FAILED, RAN, Cell, Report

if TYPE_CHECKING:
    import torch

__all__ = ["Cell", "Failure", "Report", "run"]

_REFERENCE = "native"
# Thousands of times slower than the others, and of no use but for tests: runs where it is asked for.
_SLOW = "interpreter"
_SLOW_REASON = "runs only if asked for by name: it is thousands of times slower than the others"
# Another process takes seconds to start, and is worth it only for so many cells.
_CELLS_A_PROCESS = 8


@dataclass(frozen=True)
class _Place:
    """A backend with a device."""

    backend: str
    device: torch.device
    name: str


def run(
    *,
    backends: Sequence[str] = (),
    devices: Sequence[str] = (),
    algorithms: Sequence[str] = (),
    effort: str = "standard",
    seed: int | None = None,
    targets: Sequence[str] = (),
    jobs: int = 1,
    progress: Callable[[Cell], None] | None = None,
) -> Report:
    """Check algorithms (by default all) on backends and devices (by default all that are here).

    ``devices`` are torch's names, as ``"cpu"`` or with a number; ``effort`` is ``"quick"``, ``"standard"``
    or ``"full"``; random data come from ``seed``, by default a fresh one, and from the algorithm's name.
    For ``targets`` of :class:`integrity_triton.aot.compiling.Target`, which need not be here, the kernels are
    compiled and not run. ``progress`` is called with each cell when it is done. Whatever is named and cannot
    run is a problem of the report, and makes it not ``ok``.

    At most ``jobs`` processes share the cells, this one among them; the others are started anew, so that a
    program that asks for more than one must not do so again when its main module is imported. They know the
    algorithms and backends of packages, not those that this process alone has registered. A cell for which
    another process has no result has failed.

    Raises ValueError for an unknown algorithm, backend, target or effort, and for jobs below 1.
    """
    if effort not in EFFORTS:
        raise ValueError(f"unknown effort {effort!r} (known: {', '.join(EFFORTS)})")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    known = {status.name: status for status in statuses()}
    for name in backends:
        if name not in known:
            raise ValueError(f"unknown backend {name!r} (known: {', '.join(known)})")
    named = {record.name: record for record in map(registry.get, algorithms)}
    records = list(named.values()) or list(registry.all_algorithms())
    suite = _Suite(
        backends=tuple(dict.fromkeys(backends)),
        devices=tuple(dict.fromkeys(devices)),
        algorithms=tuple(named),
        effort=effort,
        seed=secrets.randbits(32) if seed is None else seed,
    )
    compilers = [Compilation(name) for name in dict.fromkeys(targets)]
    date, began = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()

    def done(cells: list[Cell]) -> None:
        for cell in cells:
            if progress is not None:
                progress(cell)

    # What is only to be compiled is not an order to run.
    asked = [s for s in known.values() if s.name in backends or not (backends or targets)]
    items = [(_family(record, s), (record.name, s.name)) for s in asked for record in records]
    running = sum(s.available and (s.name != _SLOW or s.name in backends) for s in asked) * len(records)
    shared = share(
        items,
        start=partial(_work, suite, tuple(s.name for s in asked if s.available)),
        jobs=max(1, min(jobs, running // _CELLS_A_PROCESS)),
        done=done,
        lost=suite.lost,
    )
    cells = [cell for found in shared for cell in found]  # in their order, and not as they were done
    for compiling in compilers:
        for record in records:
            cells.append(compiling.cell(record))
            done(cells[-1:])
    return Report(
        cells=tuple(cells),
        problems=tuple(suite.problems(cells)),
        seed=suite.seed,
        date=date.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - began, 3),
        options={
            "effort": effort,
            "backends": list(suite.backends),
            "devices": list(suite.devices),
            "algorithms": list(suite.algorithms),
            "targets": list(targets),
            "jobs": jobs,
        },
        environment=describe(),
    )


def _family(record: Algorithm, status: BackendStatus) -> Hashable:
    """What algorithms that run the same kernels have in common."""
    backend = get(status.name) if status.available else None
    if isinstance(backend, TritonBackend) and backend.unsupported(record) is None:
        return status.name, backend.driver(record).main_kernel()
    return status.name, record.name


def _work(suite: _Suite, available: Sequence[str]) -> Callable[[tuple[str, str]], list[Cell]]:
    """What makes cells of an algorithm on a backend, in this process or in one that it starts, where as many
    backends are to be ``available``."""
    known = {status.name: status for status in statuses()}
    records = {record.name: record for record in registry.all_algorithms()}

    def cells(item: tuple[str, str]) -> list[Cell]:
        algorithm, backend = item
        if algorithm not in records or backend not in known:
            return suite.lost(item, "another process does not know what this one has registered: use one job")
        if backend in available and not known[backend].available:  # a device may be one process's alone
            return suite.lost(item, f"it is absent in another process: {known[backend].reason}")
        return suite.cells(records[algorithm], known[backend])

    return cells


@dataclass(frozen=True)
class _Suite:
    backends: tuple[str, ...]
    devices: tuple[str, ...]
    algorithms: tuple[str, ...]
    effort: str
    seed: int

    def cells(self, record: Algorithm, status: BackendStatus) -> list[Cell]:
        """An algorithm on one backend: a cell a device, or one that says why there is none."""
        asked = status.name in self.backends
        nowhere = Cell(record.name, status.name, "", "", ABSENT)
        if not status.available:
            return [replace(nowhere, reason=status.reason, asked=asked)]
        if status.name == _SLOW and not asked:
            return [replace(nowhere, reason=_SLOW_REASON)]
        backend = get(status.name)
        places = [place for place in _places(backend, status) if self._wanted(place)]
        if not places:
            reason = f"it has no device {' or '.join(self.devices)}"
            return [replace(nowhere, reason=reason, asked=asked)]
        unsupported = backend.unsupported(record)
        if unsupported is not None:
            named = asked and record.name in self.algorithms
            return [replace(nowhere, reason=unsupported, asked=named)]
        return [self._cell(record, backend, place) for place in places]

    def lost(self, item: tuple[str, str], reason: object) -> list[Cell]:
        """For what another process has no results."""
        failure = Failure("all", "all", "results", str(reason))
        return [_failed(Cell(*item, "", "", FAILED, asked=True), failure)]

    def _wanted(self, place: _Place) -> bool:
        return not self.devices or bool({str(place.device), place.device.type} & set(self.devices))

    def _cell(self, record: Algorithm, backend: Backend, place: _Place) -> Cell:
        import numpy as np

        began = time.perf_counter()
        cell = Cell(record.name, place.backend, str(place.device), place.name, FAILED)
        try:
            answers = load(record)
        except (OSError, ImportError, ValueError) as error:
            return _unanswered(cell, f"known answers that cannot be read: {error}")
        if answers is None and not _defined(record):
            return _unanswered(
                cell, "no known answers; docs/reference/known_answers.md says how a package brings them"
            )
        efforts = SLOW_EFFORTS if place.backend == _SLOW else EFFORTS
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
        )

    def problems(self, cells: Sequence[Cell]) -> list[str]:
        """What keeps the run from having passed."""
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


def _unanswered(cell: Cell, reason: str) -> Cell:
    return _failed(cell, Failure("known answers", "all", "known answers", reason))


def _failed(cell: Cell, failure: Failure) -> Cell:
    return replace(cell, reason=failure.found, failed=1, failures=(failure,))


def _defined(record: Algorithm) -> bool:
    """Whether an algorithm without answers is checked by its definition over one that has them."""
    if not isinstance(record.construction, Hmac):
        return False
    under: Answers | None = load(registry.get(record.construction.hash))
    return under is not None


def _places(backend: Backend, status: BackendStatus) -> list[_Place]:
    import torch

    kind: Any = getattr(backend, "torch_device_type", "cpu")
    if kind == "cpu":
        return [_Place(backend.name, torch.device("cpu"), "; ".join(status.devices))]
    return [
        _Place(backend.name, torch.device(kind, i), name.partition(" ")[2] or name)
        for i, name in enumerate(status.devices)
    ]


def _partner(record: Algorithm, backend: str) -> str | None:
    """The backend whose digests are to agree: the CPU libraries', else another one that runs kernels. The
    libraries have none: where they differ from another backend, its cell tells."""
    if backend == _REFERENCE:
        return None
    names = [s.name for s in statuses() if s.available and s.name not in (backend, _SLOW)]
    for name in sorted(names, key=lambda name: name != _REFERENCE):
        if get(name).unsupported(record) is None:
            return name
    return None
