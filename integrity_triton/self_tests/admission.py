"""Self-tests at first use: before a kernel gives its first result in a process, it has to give known answers
on the device on which it runs.

The tests are of configurations. A configuration is a kernel with its compile-time arguments and its tuning,
on one device, for one algorithm, because each algorithm has its own constants. A configuration that fails its
test is not used again in the process.
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
    """Whether the environment leaves the self-tests on. Raises ValueError if the variable is neither "on" nor
    "off"."""
    value = os.environ.get(VARIABLE) or "on"
    if value not in ("on", "off"):
        raise ValueError(f"{VARIABLE} must be on or off, not {value!r}")
    return value == "on"


@cache
def _warn() -> None:
    _logger.warning("self-tests are %s", described())


def described() -> str:
    """A description of the setting. Raises ValueError as :func:`enabled` does."""
    return "at first use" if enabled() else f"OFF because of {VARIABLE}: kernels run untested"


class SelfTests:
    """Keeps the configurations of a backend that have given known answers in this process, and those that
    have failed, and tests each new one."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._passed: set[Configuration] = set()
        self._refused: dict[Configuration, str] = {}
        self._reach: dict[tuple[int, torch.device], _Reach] = {}
        self._renew_lock()
        if hasattr(os, "register_at_fork"):
            # A child process has only the thread that forked. That thread was not in a test, but another one
            # may have held the lock.
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()

    def admit(self, request: Request, launch: Launch, options: Mapping[str, int]) -> None:
        """Test the configuration of a launch, which follows this call, unless it has been tested before.

        Raises SelfTestError if the configuration fails the test or has failed it before, or if the algorithm
        has no known answers. Raises BackendUnavailable if no known answer of the algorithm leads to a launch
        of the configuration.
        """
        # Records are not hashable. A record that was tested stays referenced, so no other gets its id.
        configuration = (id(request.algorithm), *self._launcher.configuration(launch, options))
        if configuration in self._passed:
            return
        if enabled():
            with self._lock:
                self._prove(request, launch, configuration)
        else:
            _warn()

    def _prove(self, request: Request, launch: Launch, configuration: Configuration) -> None:
        if configuration in self._passed:  # another thread has tested it
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
                    f"{algorithm.name} has no known answers to test kernels with; "
                    "`answers` in its record must name them"
                )
            # This is no sign of a fault. If the caller did not name this backend, another may be used.
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
                    f"{self._launcher.name} on {device} fails its self-test, and the tested kernels are not "
                    f"used in this process: {label}: the digest is {digest.hex()} instead of {expected.hex()}"
                )
                self._refused.update(dict.fromkeys(tested - self._passed, message))
                raise SelfTestError(message)
        if outcomes:
            self._passed |= tested


class _Reach:
    """Finds the trial that tests a configuration. It looks no further than necessary for each question, and
    remembers what it has found."""

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
            trial = self._left[0]
            for launched in self._launched(trial):
                self.found.setdefault(launched, trial)
            del self._left[0]  # not before, since an interrupt must not lose the trial
        return self.found.get(configuration)

    def _launched(self, trial: Trial) -> set[Configuration]:
        launched: set[Configuration] = set()

        def start(launch: Launch, options: Mapping[str, int]) -> None:
            launched.add((id(self._algorithm), *self._launcher.configuration(launch, options)))

        for _ in trial.run(Run(self._launcher, self._algorithm, start, trial.way), self._device):
            pass
        return launched
