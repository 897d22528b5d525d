"""The conformance suite on an emulated GPU, in runs that can be interrupted:
``python -m bench.emulated_conformance ptx --parts FOLDER --report FILE``

All algorithms take an hour or more on one core if nothing has been compiled yet. So each run of the suite
checks only some algorithms that launch the same kernels, and leaves its report in the folder ``--parts``.
What is there is not run again. Once all runs have been made, their reports are merged and written to each
``--report``, in the formats of ``integrity-triton conformance``. The target is the one that the environment
names.

The status is 0 if everything ran and passed, and 1 otherwise.
"""

from __future__ import annotations

import argparse
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Hashable, Sequence
from pathlib import Path

from integrity_triton import algorithms, conformance
from integrity_triton.backends.registry import get, statuses
from integrity_triton.conformance.render import FORMATS
from integrity_triton.conformance.report import Report
from integrity_triton.conformance.suite import kernels_of, merged

_SEED = 20261129
_MOST = 4
"""A run checks at most so many algorithms."""


def groups(backend: str, wanted: Sequence[str]) -> list[list[str]]:
    """The names of the algorithms that each run checks; all algorithms, if none are ``wanted``."""
    status = {s.name: s for s in statuses()}[backend]
    if not status.available:
        raise SystemExit(f"{backend} is absent: {status.reason}")
    found: dict[Hashable, list[str]] = {}
    chosen = {algorithms.get(name).name for name in wanted}
    for record in algorithms.all_algorithms():
        if chosen and record.name not in chosen:
            continue
        found.setdefault(kernels_of(record, status), []).append(record.name)
    return [names[i : i + _MOST] for names in found.values() for i in range(0, len(names), _MOST)]


def part(folder: Path, backend: str, names: Sequence[str]) -> Path:
    """The file of a run's report."""
    target = get(backend).target().name  # type: ignore[attr-defined]
    return folder / f"{target}-{names[0]}.pickle"


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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("backend", choices=("ptx", "amdgcn"))
    parser.add_argument("--parts", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--report", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--algorithm", action="append", default=[], metavar="NAME", help="check only these")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs are made at once")
    parser.add_argument("--only", nargs="+", metavar="ALGORITHM", help="make the run of these algorithms")
    given = parser.parse_args(arguments)
    given.parts.mkdir(parents=True, exist_ok=True)
    if given.only:
        report = check(given.parts, given.backend, given.only)
        print(report.summary(), *report.problems, sep="\n")
        return 0
    todo: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    runs = groups(given.backend, given.algorithm)
    for names in runs:
        if not part(given.parts, given.backend, names).exists():
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
    missing = [file.stem for file in files if not file.exists()]
    if missing:
        print(f"no report of: {', '.join(missing)}", file=sys.stderr)
        return 1
    report = merged([pickle.loads(file.read_bytes()) for file in files])
    for path in given.report:
        path.write_text(FORMATS[path.suffix[1:]](report), "utf-8")
    print(*report.problems, report.summary(), sep="\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
