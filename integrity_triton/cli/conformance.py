"""The command ``conformance`` runs the conformance suite and writes its reports."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import Seconds, json_option
from .outcome import MISMATCH, OK
from .terminal import Output

if TYPE_CHECKING:
    from ..conformance import Cell

_MOST_JOBS = 8  # each process loads a few hundred MB of libraries


@click.command()
@click.option(
    "--backend", "backends", metavar="NAME", multiple=True, help="Run only on this backend. Repeatable."
)
@click.option(
    "--device", "devices", metavar="NAME", multiple=True, help="Run only on this device. Repeatable."
)
@click.option(
    "--algorithm", "names", metavar="NAME", multiple=True, help="Check only this algorithm. Repeatable."
)
@click.option(
    "--compile",
    "targets",
    metavar="TARGET",
    multiple=True,
    help="Compile for this target, named as for aot, and run only what --backend names. Repeatable.",
)
@click.option("--quick", is_flag=True, help="Check fewer cases, for a first look.")
@click.option("--full", is_flag=True, help="Check many more cases, which takes minutes.")
@click.option(
    "--seed", type=click.IntRange(0, (1 << 64) - 1), help="Seed of the random data.  [default: a new one]"
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Number of processes that share the work.  [default: one per processor, at most 8]",
)
@click.option(
    "--timeout",
    type=Seconds(),
    metavar="SECONDS",
    help="Fail an algorithm that takes longer on a backend.  [default: 1800, or 14400 with --full]",
)
@click.option(
    "--report",
    "reports",
    metavar="FILE",
    multiple=True,
    help="Write a report in the format of the suffix: .json, .md, .html, or .xml for JUnit. Repeatable.",
)
@json_option
def conformance(
    backends: tuple[str, ...],
    devices: tuple[str, ...],
    names: tuple[str, ...],
    targets: tuple[str, ...],
    quick: bool,
    full: bool,
    seed: int | None,
    jobs: int | None,
    timeout: float | None,
    reports: tuple[str, ...],
    as_json: bool,
) -> int:
    """Check every algorithm on every backend and device of this machine.

    The checks cover known answers, layouts in memory, streams, forged tags, and agreement between backends.
    The exit status is 0 if everything that was asked for ran and passed, and 1 otherwise. A backend, device
    or algorithm that is named and absent has not passed.
    """
    from .. import conformance as suite
    from ..backends.native import usable_cpus
    from ..conformance import render
    from ..output_files import check_output_file, write_file

    context = click.get_current_context()
    if quick and full:
        raise click.UsageError("--quick and --full exclude each other", context)
    for path in reports:
        if Path(path).suffix[1:] not in render.FORMATS:
            raise click.UsageError(f"--report {path}: a report is .{', .'.join(render.FORMATS)}", context)
        check_output_file(path)
    output = Output(as_json=as_json)
    chosen = secrets.randbits(32) if seed is None else seed
    output.line(f"seed {chosen}")

    def show(cell: Cell) -> None:
        if cell.status == "absent":
            return
        about = cell.reason if cell.status == "compile-only" else f"{cell.verdict} cases"
        output.line(f"{cell.algorithm} on {cell.place}: {about}")
        for failure in cell.failures:
            output.line(f"  {failure.check}: {failure.case}")
            output.line(f"    expected {failure.expected}")
            output.line(f"    found    {failure.found}")

    report = suite.run(
        backends=backends,
        devices=devices,
        algorithms=names,
        effort="quick" if quick else "full" if full else "standard",
        seed=chosen,
        targets=targets,
        jobs=min(usable_cpus(), _MOST_JOBS) if jobs is None else jobs,
        timeout=timeout,
        progress=show,
    )
    for path in reports:
        write_file(path, render.FORMATS[Path(path).suffix[1:]](report).encode("utf-8"))
    for backend, reason in report.absent.items():
        output.line(f"absent {backend}: {reason}")
    for place, reason, absent in report.reasons():
        output.line(f"absent on {place}: {', '.join(absent)}: {reason}")
    for problem in report.problems:
        output.complain(problem)
    output.line(report.summary())
    output.document(**render.to_dict(report))
    return OK if report.ok else MISMATCH
