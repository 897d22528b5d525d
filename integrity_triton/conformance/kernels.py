"""The check that only an emulated backend gets: every kernel that it may launch for an algorithm is launched.

Unlike the other checks, it uses the catalogue of the self-tests, which leads to every configuration of the
kernels: what is to be executed in full has to be launched first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..backends.emulation.backend import EmulatedBackend
from ..backends.emulation.coverage import KernelCoverage
from ..backends.emulation.program import Missed
from ..backends.registry import get
from ..drivers.run import Run
from ..launching.launch import Launch
from ..self_tests.trials import trials
from .execution import unlisted
from .report import KernelExecution
from .subject import Case, Subject
from .unexecuted import UNEXECUTED

# So many tests of one kind are carried out for a kernel without executing more of it.
_TRIES = 3


def every_kernel(subject: Subject) -> Iterator[Case]:
    """The known-answer tests that launch something which nothing before them has launched, or a kernel of
    which they may execute what nothing before them has executed. A kernel of which several tests in turn have
    executed nothing new is given up: no test reaches the rest of its code, which the report names."""
    backend = get(subject.backend)
    if not isinstance(backend, EmulatedBackend):
        return
    found: set[tuple[Any, ...]] = set()
    in_vain: dict[tuple[str, str], int] = {}

    def note(launch: Launch, options: Mapping[str, int]) -> None:
        found.add(backend.configuration(launch, options))

    def start(launch: Launch, options: Mapping[str, int]) -> None:
        subject.watch.launches += 1
        backend.launch(launch, options)

    for trial in trials(subject.record, backend, subject.device):
        found.clear()
        for _ in trial.run(Run(backend, subject.record, note, trial.way), subject.device):
            pass
        launched = subject.watch.configurations
        kernels = [kernel for one in found for kernel in launched.get(one, {}).values()]
        before = {
            kernel.name: missed
            for kernel in kernels
            if in_vain.get((kernel.name, trial.label), 0) < _TRIES
            and (missed := _missed(backend.name, kernel))
        }
        if found <= launched.keys() and not before:
            continue
        for label, expected, digest in trial.run(
            Run(backend, subject.record, start, trial.way), subject.device
        ):
            given = digest if isinstance(digest, bytes) else digest.cpu().numpy().tobytes()
            yield Case(f"{trial.label}, {label}", expected, given)
        for kernel in kernels:
            if kernel.name in before:
                same = _missed(backend.name, kernel) == before[kernel.name]
                kind = kernel.name, trial.label
                in_vain[kind] = in_vain.get(kind, 0) + 1 if same else 0


def _missed(backend: str, kernel: KernelCoverage) -> list[Missed]:
    """What has to be executed of a kernel and has not been."""
    return unlisted(backend, kernel.name, KernelExecution.of(kernel), UNEXECUTED)
