"""The check that only an emulated backend gets: every kernel that it may launch for an algorithm is launched.

Unlike the other checks, it uses the catalogue of the self-tests, which leads to every configuration of the
kernels: what is to be executed in full has to be launched first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..backends.emulation.backend import EmulatedBackend
from ..backends.emulation.coverage import KernelCoverage
from ..backends.registry import get
from ..drivers.run import Run
from ..launching.launch import Launch
from ..self_tests.trials import trials
from .execution import unlisted
from .report import KernelExecution
from .subject import Case, Subject
from .unexecuted import UNEXECUTED


def every_kernel(subject: Subject) -> Iterator[Case]:
    """The known-answer tests that launch something which nothing before them has launched, or a kernel of
    which they may execute what nothing before them has executed."""
    backend = get(subject.backend)
    if not isinstance(backend, EmulatedBackend):
        return
    found: set[tuple[Any, ...]] = set()

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
        if found <= launched.keys() and not any(_left(backend.name, kernel) for kernel in kernels):
            continue
        for label, expected, digest in trial.run(
            Run(backend, subject.record, start, trial.way), subject.device
        ):
            given = digest if isinstance(digest, bytes) else digest.cpu().numpy().tobytes()
            yield Case(f"{trial.label}, {label}", expected, given)


def _left(backend: str, kernel: KernelCoverage) -> bool:
    """Whether a part of a kernel that has to be executed has not been."""
    return bool(unlisted(backend, kernel.name, KernelExecution.of(kernel), UNEXECUTED))
