"""Runs the checks of a cell and counts their results."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..backends.base import Backend
from ..backends.emulation.backend import EmulatedBackend
from ..backends.triton_backend import TritonBackend
from .checks import CHECKS
from .kernels import every_kernel, full_programs, remaining_code
from .report import Failure
from .subject import Subject

_SHOWN = 20


@dataclass
class Tally:
    """The results of all checks of a cell."""

    counts: dict[str, int] = field(default_factory=dict)
    """The number of cases of each check."""
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    """The first failures, in full."""
    launches: int = 0

    def fail(self, check: str, case: str, expected: bytes | str, found: bytes | str) -> None:
        self.failed += 1
        if len(self.failures) < _SHOWN:
            texts = [x if isinstance(x, str) else x.hex() for x in (expected, found)]
            self.failures.append(Failure(check, case, *texts))


def check(subject: Subject, backend: Backend) -> Tally:
    """Run all checks that apply to the algorithm."""
    tally = Tally()
    checks = CHECKS
    if isinstance(backend, EmulatedBackend):
        checks = {
            **CHECKS,
            "every kernel": every_kernel,
            "full programs": full_programs,
            "remaining code": remaining_code,
        }
    for name, run in checks.items():
        watch = subject.watch
        before, cases = watch.launches, 0
        try:
            with watch():
                for case in run(subject):
                    cases += 1
                    if not case.good:
                        tally.fail(name, case.label, case.expected, case.found)
        except (Exception, SystemExit) as error:  # whatever stops a check is a failure of the check
            tally.fail(name, f"after {cases} cases", "a result", f"{type(error).__name__}: {error}")
        if cases:
            tally.counts[name] = cases
            if isinstance(backend, TritonBackend) and watch.launches == before:
                tally.fail(name, "all", "kernels launched", "digests, but no kernel was launched")
        if watch.strangers:
            names = ", ".join(sorted(watch.strangers))
            tally.fail(name, "all", f"work done by {subject.backend}", f"work handed to {names}")
            watch.strangers.clear()
    tally.launches = subject.watch.launches
    return tally
