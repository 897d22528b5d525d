"""Self-tests at first use: before a kernel gives its first result in a process, it has to give known answers
on the device where it is to run.

What is tested is a configuration: a kernel with its compile-time arguments and tuning, on one device, for one
algorithm, which has constants of its own. One that fails is out of use for the rest of the process.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm
from ..drivers.run import Run
from ..errors import BackendUnavailable, SelfTestError
from ..launching.launch import Launch
from ..launching.request import Request
from .trials import Trial, is_long, trials

if TYPE_CHECKING:
    import torch

    from ..launching.launcher import Launcher

VARIABLE = "INTEGRITY_TRITON_SELF_TEST"
Configuration = tuple[Any, ...]

_logger = logging.getLogger("integrity_triton")


def enabled() -> bool:
    """Whether the environment leaves the self-tests on. Raises ValueError where it says neither."""
    value = os.environ.get(VARIABLE) or "on"
    if value not in ("on", "off"):
        raise ValueError(f"{VARIABLE} is on or off, not {value!r}")
    return value == "on"


@cache
def _warn() -> None:
    _logger.warning("self-tests are %s", described())


def described() -> str:
    """The setting, in words. Raises as :func:`enabled` does."""
    return "at first use" if enabled() else f"OFF, by {VARIABLE}: kernels run untested"


class SelfTests:
    """Which configurations of a backend have given known answers in this process."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._passed: set[Configuration] = set()
        self._refused: dict[Configuration, str] = {}
        self._reach: dict[tuple[int, torch.device], _Reach] = {}
        self._renew_lock()
        if hasattr(os, "register_at_fork"):
            # A child has only the thread that forked, which was not in a test.
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()

    def admit(self, request: Request, launch: Launch, options: Mapping[str, int]) -> None:
        """Before a launch: test its configuration if that has not been done. Raises SelfTestError where it
        failed, now or earlier, or its algorithm has no known answers, and BackendUnavailable where none of
        these reaches it."""
        # Records are not hashable; that one is not freed whose number is known here.
        configuration = (id(request.algorithm), *self._launcher.configuration(launch, options))
        if configuration in self._passed:
            return
        if enabled():
            with self._lock:
                self._prove(request, launch, configuration)
        else:
            _warn()

    def _prove(self, request: Request, launch: Launch, configuration: Configuration) -> None:
        if configuration in self._passed:  # by another thread
            return
        if configuration in self._refused:
            raise SelfTestError(self._refused[configuration])
        self._launcher.may_wait(launch.device)
        algorithm = request.algorithm
        key = id(algorithm), launch.device
        try:
            if key not in self._reach:
                self._reach[key] = _Reach(self._launcher, algorithm, launch.device)
            trial = self._reach[key].find(configuration, launch, request)
        except (ValueError, OSError, ImportError) as error:
            raise SelfTestError(f"{algorithm.name}: {error}") from error
        if trial is None:
            if not self._reach[key].found:
                raise SelfTestError(
                    f"{algorithm.name} has no known answers to test kernels with: its record's `answers`"
                )
            # No sign of a fault: where nobody asked for this backend, another may serve.
            raise BackendUnavailable(
                f"no known answer of {algorithm.name} tests {launch.kernel} with these "
                f"constants on {self._launcher.name}: {dict(launch.constants)}"
            )
        self._run(trial, algorithm, launch.device)
        if configuration not in self._passed:
            raise SelfTestError(
                f"{algorithm.name} on {self._launcher.name}: a self-test compared no digest of this kernel "
                "with a known answer"
            )

    def _run(self, trial: Trial, algorithm: Algorithm, device: torch.device) -> None:
        tested: set[Configuration] = set()

        def start(launch: Launch, options: Mapping[str, int]) -> None:
            tested.add((id(algorithm), *self._launcher.configuration(launch, options)))
            self._launcher.launch(launch, options)

        outcomes = list(trial.run(Run(self._launcher, algorithm, start, trial.way), device))
        for label, expected, found in outcomes:
            digest = found if isinstance(found, bytes) else found.cpu().numpy().tobytes()
            if digest != expected:
                message = (
                    f"{self._launcher.name} on {device} fails its self-test and gives no such result in this "
                    f"process: {label}: {digest.hex()}, not {expected.hex()}"
                )
                self._refused.update(dict.fromkeys(tested - self._passed, message))
                raise SelfTestError(message)
        if outcomes:
            self._passed |= tested


class _Reach:
    """Which trial tests which configurations, found out as far as it is asked for."""

    def __init__(self, launcher: Launcher, algorithm: Algorithm, device: torch.device) -> None:
        self._launcher, self._algorithm, self._device = launcher, algorithm, device
        self.found: dict[Configuration, Trial] = {}
        self._left = list(trials(algorithm, launcher, device))

    def find(self, configuration: Configuration, launch: Launch, request: Request) -> Trial | None:
        if configuration not in self.found:
            longest = request.longest()
            long = None if longest is None else is_long(self._algorithm, longest)
            self._left.sort(key=lambda trial: trial.unlike(launch.constants, request, long))
        while configuration not in self.found and self._left:
            trial = self._left.pop(0)
            for launched in self._launched(trial):
                self.found.setdefault(launched, trial)
        return self.found.get(configuration)

    def _launched(self, trial: Trial) -> set[Configuration]:
        launched: set[Configuration] = set()

        def start(launch: Launch, options: Mapping[str, int]) -> None:
            launched.add((id(self._algorithm), *self._launcher.configuration(launch, options)))

        for _ in trial.run(Run(self._launcher, self._algorithm, start, trial.way), self._device):
            pass
        return launched
