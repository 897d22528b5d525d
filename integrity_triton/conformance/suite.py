"""Running the suite: every cell that was asked for, shared among processes."""

from __future__ import annotations

import datetime
import secrets
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from .. import algorithms as registry
from ..algorithms import Algorithm
from ..backends.registry import BackendStatus, get, statuses
from ..backends.triton_backend import TritonBackend
from .cells import Request, lost_cell
from .compilation import Compilation
from .environment import describe
from .execution import problems
from .processes import START_TIMEOUT, Lost, share, within
from .report import Cell, Report
from .subject import EFFORTS
from .unexecuted import REVIEWED, UNEXECUTED, together_with

# Runs whose reports are merged may differ in these.
_MACHINE = ("system", "processor")
# Another process takes seconds to start, so it needs at least so many cells.
_CELLS_A_PROCESS = 8


def run(
    *,
    backends: Sequence[str] = (),
    devices: Sequence[str] = (),
    algorithms: Sequence[str] = (),
    effort: str = "standard",
    seed: int | None = None,
    targets: Sequence[str] = (),
    jobs: int = 1,
    timeout: float | None = None,
    progress: Callable[[Cell], None] | None = None,
) -> Report:
    """Check algorithms on backends and devices, by default all algorithms on everything that is here.

    ``devices`` are torch's names, with a number or without, such as ``"cpu"``. ``effort`` is ``"quick"``,
    ``"standard"`` or ``"full"``. Random data depend on ``seed``, by default a new one, and on the algorithm's
    name. ``targets`` are names that :class:`integrity_triton.aot.compiling.Target` parses; their devices need
    not be here, because the kernels are compiled for them and do not run. ``progress`` is called with each
    cell when it is done. Whatever is named and cannot run is a problem of the report, which is then not
    ``ok``.

    At most ``jobs`` processes share the cells, and this process is one of them. The others start with a new
    interpreter, which imports the main module, so a program that asks for several processes must not do so
    again when it is imported. They know the algorithms and backends that packages provide, and not those that
    only this process has registered. A cell for which another process has no result has failed.

    An algorithm on a backend that takes longer than ``timeout`` seconds has failed, and so has one that wants
    to end its process. The default is 1800 seconds, and 4 hours if ``effort`` is ``"full"``. A process that
    takes longer is killed. This process cannot be, so that a call that never returns stays in a thread of its
    own until this process ends.

    Raises ValueError for an unknown algorithm, backend, target or effort, for ``jobs`` below 1 and for a
    ``timeout`` that is not above 0, and TimeoutError if loading the algorithms and backends of other packages
    takes very long.
    """
    if effort not in EFFORTS:
        raise ValueError(f"unknown effort {effort!r} (known: {', '.join(EFFORTS)})")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    limit = EFFORTS[effort].timeout if timeout is None else timeout
    if not 0 < limit <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout must be a number of seconds above 0, not {timeout}")
    try:
        known = within(max(limit, START_TIMEOUT), _load)
    except Lost as error:
        raise TimeoutError(f"the algorithms and backends could not be loaded: {error}") from None
    for name in backends:
        if name not in known:
            raise ValueError(f"unknown backend {name!r} (known: {', '.join(known)})")
    named = {record.name: record for record in map(registry.get, algorithms)}
    records = list(named.values()) or list(registry.all_algorithms())
    request = Request(
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

    # A request that only names targets asks for compiling, and for no run.
    asked = [s for s in known.values() if s.name in backends or not (backends or targets)]
    items = [(kernels_of(record, s), (record.name, s.name)) for s in asked for record in records]
    running = sum(request.obstacle(s) is None for s in asked) * len(records)
    shared = share(
        items,
        start=partial(worker, request, tuple(s.name for s in asked if s.available)),
        jobs=max(1, min(jobs, running // _CELLS_A_PROCESS)),
        done=done,
        lost=_lost,
        limit=limit,
    )
    cells = [cell for found in shared for cell in found]  # in the order of the items
    for compiling in compilers:
        for record in records:
            try:
                cells.append(within(limit, partial(compiling.cell, record)))
            except Lost as error:
                cells.append(compiling.lost(record, error))
            done(cells[-1:])
    report = Report(
        cells=tuple(cells),
        problems=tuple(request.problems(cells)),
        seed=request.seed,
        date=date.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - began, 3),
        options={
            "effort": effort,
            "backends": list(request.backends),
            "devices": list(request.devices),
            "algorithms": list(request.algorithms),
            "targets": list(targets),
            "jobs": jobs,
            "timeout": limit,
        },
        environment=describe(),
    )
    return replace(report, problems=(*report.problems, *_unexecuted(report)))


def merged(reports: Sequence[Report]) -> Report:
    """One report of several runs over different algorithms, as if one run had checked all of them.

    Its problems are found anew: what one run did not execute of a kernel, another one may have. The runs may
    have been made on several machines, all of which the merged report names. Raises ValueError if there is no
    report, if two differ in their effort, seed, backends, devices, targets or in anything else of their
    environment, or if two checked the same algorithm.
    """
    if not reports:
        raise ValueError("there are no reports to merge")
    first, cells = reports[0], [cell for report in reports for cell in report.cells]
    same = ("effort", "backends", "devices", "targets")
    for report in reports:
        for name in same:
            if report.options[name] != first.options[name]:
                raise ValueError(f"the option {name} is {first.options[name]} and {report.options[name]}")
        if report.seed != first.seed:
            raise ValueError(f"the seed is {first.seed} and {report.seed}")
    environment = same_environment([report.environment for report in reports])
    places = [(cell.algorithm, cell.backend, cell.device) for cell in cells]
    twice = sorted({place for place in places if places.count(place) > 1})
    if twice:
        raise ValueError(f"{twice[0][0]} on {twice[0][1]} was checked twice")
    options = first.options
    request = Request(
        tuple(options["backends"]), tuple(options["devices"]), (), options["effort"], first.seed
    )
    order = {record.name: number for number, record in enumerate(registry.all_algorithms())}
    cells.sort(key=lambda cell: order.get(cell.algorithm, len(order)))
    report = Report(
        cells=tuple(cells),
        problems=tuple(request.problems(cells)),
        seed=first.seed,
        date=min(report.date for report in reports),
        seconds=round(sum(report.seconds for report in reports), 3),
        options={
            **options,
            "algorithms": [name for report in reports for name in report.options["algorithms"]],
            "runs": sum(report.options.get("runs", 1) for report in reports),
        },
        environment=environment,
    )
    return replace(report, problems=(*report.problems, *_unexecuted(report)))


def same_environment(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The environment of several runs, with the names of all their machines. Raises ValueError if they differ
    in anything else, such as the versions of packages or the sources of the kernels."""
    found = dict(environments[0])
    for name in dict.fromkeys(name for environment in environments for name in environment):
        values: list[Any] = []
        for environment in environments:
            given = environment.get(name)
            several = given if name in _MACHINE and isinstance(given, list) else [given]
            values += [value for value in several if value not in values]
        if len(values) > 1:
            if name not in _MACHINE:
                raise ValueError(f"{name} of the environment is {' and '.join(map(str, values))}")
            found[name] = values
    return found


def _unexecuted(report: Report) -> list[str]:
    """What the run left out of the kernels of the algorithms that have been gone through."""
    ran = {(cell.device_name, cell.algorithm) for cell in report.cells}

    def is_judged(cell: Cell) -> bool:
        others = together_with(cell.algorithm, cell.device_name)
        reviewed = cell.algorithm in REVIEWED.get(cell.device_name, ())
        return reviewed and all((cell.device_name, other) in ran for other in others)

    cells = tuple(cell for cell in report.cells if is_judged(cell))
    return list(problems(replace(report, cells=cells).executions(), UNEXECUTED))


def _load() -> dict[str, BackendStatus]:
    """The backends by name. This and the algorithms include those of other packages."""
    registry.all_algorithms()
    return {status.name: status for status in statuses()}


def kernels_of(record: Algorithm, status: BackendStatus) -> Hashable:
    """A key that is the same for algorithms that run the same kernels on a backend."""
    backend = get(status.name) if status.available else None
    if isinstance(backend, TritonBackend) and backend.unsupported(record) is None:
        return status.name, backend.driver(record).main_kernel()
    return status.name, record.name


def worker(request: Request, available: Sequence[str]) -> Callable[[tuple[str, str]], list[Cell]]:
    """The function that makes the cells of an algorithm on a backend, in this process or in another.

    ``available`` names the backends that this process has. Another process that lacks one of them has failed.
    """
    known = {status.name: status for status in statuses()}
    records = {record.name: record for record in registry.all_algorithms()}

    def cells(item: tuple[str, str]) -> list[Cell]:
        algorithm, backend = item
        if algorithm not in records or backend not in known:
            return _lost(item, "another process does not know what this one has registered: use one job")
        if backend in available and not known[backend].available:  # only one process can use some devices
            return _lost(item, f"it is absent in another process: {known[backend].reason}")
        try:
            return request.cells(records[algorithm], known[backend])
        except SystemExit as error:
            return _lost(item, f"it wanted to end the process with status {error.code}")

    return cells


def _lost(item: tuple[str, str], reason: object) -> list[Cell]:
    return [lost_cell(*item, reason)]
