"""Self-tests at first use: before a kernel gives its first result in a process, it has to give known answers
on the device on which it runs.

The tests are of configurations. A configuration is a kernel with its compile-time arguments and its tuning,
on one device, for one algorithm, because each algorithm has its own constants. A test counts for as many
lanes of a program as it used: a launch with more lanes needs a test with more lanes. A configuration that
fails its test is not used again in the process.
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
from .catalogue import Trial, is_long
from .trials import trials

if TYPE_CHECKING:
    import torch

    from ..launching.launcher import Launcher

VARIABLE = "INTEGRITY_TRITON_SELF_TEST"
Configuration = tuple[Any, ...]
# A program of the interpreter is as large as the batch.
_MOST_LANES = 256

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
        # The number of lanes of a program with which each configuration has given known answers.
        self._passed: dict[Configuration, int] = {}
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
        configuration = _configuration(self._launcher, request.algorithm, launch, options)
        lanes = _lanes(launch, options)
        if self._passed.get(configuration, 0) >= lanes:
            return
        if enabled():
            with self._lock:
                self._prove(request, launch, configuration, lanes)
        else:
            _warn()

    def _prove(self, request: Request, launch: Launch, configuration: Configuration, lanes: int) -> None:
        if self._passed.get(configuration, 0) >= lanes:  # another thread has tested it
            return
        if configuration in self._refused:
            raise SelfTestError(self._refused[configuration])
        self._launcher.may_wait(launch.device)
        algorithm = request.algorithm
        key = id(algorithm), launch.device
        try:
            if key not in self._reach:
                self._reach[key] = _Reach(self._launcher, algorithm, launch.device)
            reached, trial = self._reach[key].find(configuration, lanes, launch, request)
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
        if configuration not in self._passed or self._passed[configuration] < reached:
            self._run(trial, algorithm, launch.device)
        if configuration not in self._passed:
            raise SelfTestError(
                f"{algorithm.name} on {self._launcher.name}: a self-test compared no digest of this kernel "
                "with a known answer"
            )
        if reached < lanes:
            # No test of this form reaches more lanes. docs/guide/self_tests.md says where that is so.
            self._passed[configuration] = _MOST_LANES

    def _run(self, trial: Trial, algorithm: Algorithm, device: torch.device) -> None:
        tested: dict[Configuration, int] = {}

        def start(launch: Launch, options: Mapping[str, int]) -> None:
            _count_lanes(tested, _configuration(self._launcher, algorithm, launch, options), launch, options)
            self._launcher.launch(launch, options)

        outcomes = list(trial.run(Run(self._launcher, algorithm, start, trial.way), device))
        for label, expected, found in outcomes:
            digest = found if isinstance(found, bytes) else found.cpu().numpy().tobytes()
            if digest != expected:
                message = (
                    f"{self._launcher.name} on {device} fails its self-test, and the tested kernels are not "
                    f"used in this process: {label}: the digest is {digest.hex()} instead of {expected.hex()}"
                )
                for configuration, lanes in tested.items():
                    if self._passed.get(configuration, 0) < lanes:
                        self._passed.pop(configuration, None)
                        self._refused[configuration] = message
                raise SelfTestError(message)
        if outcomes:
            for configuration, lanes in tested.items():
                self._passed[configuration] = max(lanes, self._passed.get(configuration, 0))


def _lanes(launch: Launch, options: Mapping[str, int]) -> int:
    """The number of different lanes of a program that give results in a launch."""
    return min(launch.lanes, options.get("BLOCK_MSGS", _MOST_LANES), _MOST_LANES)


def _count_lanes(
    most: dict[Configuration, int], configuration: Configuration, launch: Launch, options: Mapping[str, int]
) -> None:
    """Note a launch in ``most``, which has the most lanes with which each configuration was launched."""
    most[configuration] = max(_lanes(launch, options), most.get(configuration, 0))


def _configuration(
    launcher: Launcher, algorithm: Algorithm, launch: Launch, options: Mapping[str, int]
) -> Configuration:
    # Records are not hashable. A record that was tested stays referenced, so no other gets its id.
    return (id(algorithm), *launcher.configuration(launch, options))


class _Reach:
    """Finds the trial that tests a configuration. It looks no further than necessary for each question, and
    remembers what it has found."""

    def __init__(self, launcher: Launcher, algorithm: Algorithm, device: torch.device) -> None:
        self._launcher, self._algorithm, self._device = launcher, algorithm, device
        self.found: dict[Configuration, tuple[int, Trial]] = {}
        self._left = list(trials(algorithm, launcher, device))

    def find(
        self, configuration: Configuration, lanes: int, launch: Launch, request: Request
    ) -> tuple[int, Trial | None]:
        """A trial that launches the configuration with at least ``lanes`` lanes, and the number of lanes. If
        no trial of the same form does, the trial that launches it with the most lanes, as far as the search
        went; 0 and None if no trial launches it."""

        def reached() -> int:
            return self.found.get(configuration, (0, None))[0]

        if reached() < lanes:
            longest = request.longest()
            long = None if longest is None else is_long(self._algorithm, longest)
            unlike = {id(trial): trial.unlike(launch.constants, request, long) for trial in self._left}
            self._left.sort(key=lambda trial: unlike[id(trial)])
        while reached() < lanes and self._left:
            trial = self._left[0]
            if reached() and unlike[id(trial)][0]:
                break
            for launched, count in self._launched(trial).items():
                if launched not in self.found or self.found[launched][0] < count:
                    self.found[launched] = count, trial
            del self._left[0]  # not before, since an interrupt must not lose the trial
        return self.found.get(configuration, (0, None))

    def _launched(self, trial: Trial) -> dict[Configuration, int]:
        launched: dict[Configuration, int] = {}

        def start(launch: Launch, options: Mapping[str, int]) -> None:
            configuration = _configuration(self._launcher, self._algorithm, launch, options)
            _count_lanes(launched, configuration, launch, options)

        for _ in trial.run(Run(self._launcher, self._algorithm, start, trial.way), self._device):
            pass
        return launched
