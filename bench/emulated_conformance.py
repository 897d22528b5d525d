"""The conformance suite on an emulated GPU, in runs that can be interrupted:
``python -m bench.emulated_conformance ptx --parts FOLDER --report FILE``

All algorithms take an hour or more on one core if nothing has been compiled yet. So each run of the suite
checks only some algorithms that launch the same kernels, and leaves its report in the folder ``--parts``.
What is there is not run again. Once all runs have been made, their reports are merged and written to each
``--report``, in the formats of ``integrity-triton conformance``. The target is the one that the environment
names.

``--begin FILE`` takes a report in JSON to begin with: what ran in it is only run again if the folder has a
report of it, or if ``--algorithm`` names it. It is refused if it comes from other sources of the kernels or
from other versions of packages. Only the kernels are compared; whether the drivers, the known answers or the
emulator have changed since, ``git log`` says. With ``--partial``, nothing runs, and what is there is merged.

The status is 0 if everything ran and passed, and 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

from integrity_triton import algorithms, conformance
from integrity_triton.backends.registry import get, statuses
from integrity_triton.conformance.environment import describe
from integrity_triton.conformance.render import FORMATS, from_dict
from integrity_triton.conformance.report import RAN, Report
from integrity_triton.conformance.suite import kernels_of, merged, same_environment

_SEED = 20261129
_MOST = 4
"""A run checks at most so many algorithms."""


def groups(
    backend: str, wanted: Sequence[str], without: Sequence[str] = (), most: int = _MOST
) -> list[list[str]]:
    """The names of the algorithms that each run checks, ``most`` at most; all algorithms but those of
    ``without``, if none are ``wanted``."""
    status = {s.name: s for s in statuses()}[backend]
    if not status.available:
        raise SystemExit(f"{backend} is absent: {status.reason}")
    found: dict[Hashable, list[str]] = {}
    chosen = {algorithms.get(name).name for name in wanted}
    for record in algorithms.all_algorithms():
        if record.name not in chosen if chosen else record.name in without:
            continue
        found.setdefault(kernels_of(record, status), []).append(record.name)
    return [names[i : i + most] for names in found.values() for i in range(0, len(names), most)]


def target_of(backend: str) -> str:
    """The target that the environment names."""
    return str(get(backend).target().name)  # type: ignore[attr-defined]


def part(folder: Path, backend: str, names: Sequence[str]) -> Path:
    """The file of a run's report."""
    return folder / f"{target_of(backend)}-{names[0]}.pickle"


def check(folder: Path, backend: str, names: Sequence[str]) -> Report:
    """Make one run, and keep its report."""
    report = conformance.run(
        backends=[backend], algorithms=names, effort="quick", seed=_SEED, timeout=4 * 3600.0
    )
    file = part(folder, backend, names)
    made = file.with_suffix(".unfinished")
    made.write_bytes(pickle.dumps(report))
    made.replace(file)
    return report


def begun(file: Path, backend: str, more: bool) -> Report:
    """A report to begin with. Raises ValueError if it is of another target, or if ``more`` runs are to be
    made and would not continue it."""
    report = from_dict(json.loads(file.read_text("utf-8")))
    if more:
        same_environment([report.environment, describe()])
    target = target_of(backend)
    if {cell.device_name for cell in report.cells} != {f"emulated {target}"}:
        raise ValueError(f"{file} is not a report of an emulated {target}")
    return report


def without(report: Report, names: Sequence[str]) -> Report:
    """A report of those algorithms that ran, but for ``names``."""
    cells = tuple(cell for cell in report.cells if cell.status == RAN and cell.algorithm not in names)
    kept = [cell.algorithm for cell in cells]
    return replace(report, cells=cells, options={**report.options, "algorithms": kept})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("backend", choices=("ptx", "amdgcn"))
    parser.add_argument("--parts", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--report", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--algorithm", action="append", default=[], metavar="NAME", help="check only these")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs are made at once")
    parser.add_argument("--most", type=int, default=_MOST, help="how many algorithms a run checks at most")
    parser.add_argument("--begin", type=Path, metavar="FILE", help="a report in JSON that is continued")
    parser.add_argument(
        "--partial", action="store_true", help="make no runs, and write the reports of those that were made"
    )
    parser.add_argument("--only", nargs="+", metavar="ALGORITHM", help="make the run of these algorithms")
    given = parser.parse_args(arguments)
    given.parts.mkdir(parents=True, exist_ok=True)
    if given.only:
        report = check(given.parts, given.backend, given.only)
        print(report.summary(), *report.problems, sep="\n")
        return 0
    todo: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    begin = begun(given.begin, given.backend, not given.partial) if given.begin else None
    ran = [cell.algorithm for cell in begin.cells if cell.status == RAN] if begin else []
    runs = groups(given.backend, given.algorithm, ran, given.most)
    for names in runs:
        if not (given.partial or part(given.parts, given.backend, names).exists()):
            todo.put(names)

    def work() -> None:
        while True:
            try:
                names = todo.get_nowait()
            except queue.Empty:
                return
            command = [sys.executable, "-m", "bench.emulated_conformance", given.backend]
            command += ["--parts", str(given.parts), "--only", *names]
            made = subprocess.run(command, check=False, capture_output=True, text=True)
            print(" ".join(names), (made.stdout if not made.returncode else made.stderr).strip(), flush=True)

    workers = [threading.Thread(target=work) for _ in range(given.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    files = [part(given.parts, given.backend, names) for names in runs]
    if begin or given.partial:  # these may hold algorithms of other runs
        others = given.parts.glob(f"{target_of(given.backend)}-*.pickle")
        files += sorted(file for file in others if file not in files)
    missing = [file.stem for file in files if not file.exists()]
    if missing and not given.partial:
        print(f"no report of: {', '.join(missing)}", file=sys.stderr)
        return 1
    reports = [pickle.loads(file.read_bytes()) for file in files if file.exists()]
    if begin:
        names = [cell.algorithm for report in reports for cell in report.cells]
        reports.insert(0, without(begin, names))
    report = merged(reports)
    for path in given.report:
        path.write_text(FORMATS[path.suffix[1:]](report), "utf-8")
    print(*report.problems, report.summary(), sep="\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
