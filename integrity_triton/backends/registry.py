"""The registry of backends, and the choice among them.

A backend is probed once, when it is first needed, and never at import. Another package adds a backend through
the entry-point group ``integrity_triton.backends``, in which each entry point loads to a :class:`Backend`
subclass.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from ..algorithms import Algorithm
from ..algorithms.package_name import IS_INSTALLED
from ..errors import BackendUnavailable
from ..messages.layout import Messages, Rows
from ..messages.per_message import PerMessage
from ..messages.stream import Stream
from .base import Backend, Probe

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    import torch

ENTRY_POINT_GROUP = "integrity_triton.backends"
ENVIRONMENT_VARIABLE = "INTEGRITY_TRITON_BACKEND"
_BUILTIN = {
    "cuda": "cuda:CudaBackend",
    "hip": "hip:HipBackend",
    "xpu": "xpu:XpuBackend",
    "opencl": "opencl:OpenClBackend",
    "amdgcn": "amdgcn:AmdgcnBackend",
    "interpreter": "interpreter:InterpreterBackend",
    "native": "native:NativeBackend",
    "ptx": "ptx:PtxBackend",
}

_NODES_WORTH_KERNELS = 1 << 20
"""Bytes below which NumPy takes less time than loading and testing kernels."""

_logger = logging.getLogger("integrity_triton")
_lock = threading.RLock()
_backends: dict[str, Backend] = {}
_probes: dict[str, Probe] = {}
_loaded = _loading = False
_requested: str | None = None
_logged: set[tuple[str, ...]] = set()


@dataclass(frozen=True)
class BackendStatus:
    """One line of ``integrity_triton.backends()``."""

    name: str
    available: bool
    reason: str
    devices: tuple[str, ...]
    summary: str
    self_test: str | None = None
    """A description of when its kernels are tested with known answers; None if it runs no kernels."""
    for_tests: bool = False
    """Whether it runs only if it is asked for by name (see :class:`Backend`)."""


def _renew_lock() -> None:
    """In a forked child, which does not have the thread that may have held the lock."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def register(backend: type[Backend]) -> None:
    """Add a backend class. Raises ValueError if its name is taken."""
    if not (isinstance(backend, type) and issubclass(backend, Backend)):
        raise TypeError(f"a backend is registered as a Backend subclass, not {backend!r}")
    with _lock:
        _load_builtin()
        if backend.name in _backends:
            raise ValueError(f"backend name {backend.name!r} is taken")
        _backends[backend.name] = backend()


def _load_builtin() -> None:
    """Load the backends of this package that are not loaded yet: an interrupt may have ended this before."""
    for name, reference in _BUILTIN.items():
        if name not in _backends:
            module, _, class_name = reference.partition(":")
            _backends[name] = getattr(import_module(f"{__package__}.{module}"), class_name)()


def _load() -> None:
    global _loaded, _loading
    with _lock:
        if _loaded or _loading:  # a package that is being loaded may ask for backends
            return
        try:
            _loading = True
            _load_builtin()
            from importlib.metadata import entry_points

            for entry in entry_points(group=ENTRY_POINT_GROUP) if IS_INSTALLED else ():
                _load_entry(entry)
            _loaded = True
        finally:
            _loading = False


def _load_entry(entry: EntryPoint) -> None:
    """Register another package's backend. If that fails, something that says why takes its place."""
    if isinstance(_backends.get(entry.name), _Unloadable):
        return
    try:
        backend = entry.load()
        if type(_backends.get(getattr(backend, "name", ""))) is not backend:
            register(backend)
    except (Exception, SystemExit) as error:
        reason = (
            f"the entry point {entry.name} = {entry.value} cannot be loaded: {type(error).__name__}: {error}"
        )
        _log_once(logging.WARNING, reason)
        name = f"{entry.name} ({entry.value})" if entry.name in _backends else entry.name
        _backends[name] = type("Unloadable", (_Unloadable,), {"name": name, "reason": reason})()


class _Unloadable(Backend):
    """Stands for a backend of another package that could not be loaded."""

    summary = "a backend of another package"
    reason: ClassVar[str]

    def probe(self) -> Probe:
        return Probe(False, self.reason)

    def unsupported(self, algorithm: Algorithm) -> str | None:
        return self.reason

    def is_default(self, algorithm: Algorithm, device_type: str, *, messages: Messages | None) -> bool:
        return False

    def digest_batch(
        self, algorithm: Algorithm, parameters: Mapping[str, Any], messages: Messages, length: int
    ) -> torch.Tensor:
        raise BackendUnavailable(self.reason)

    def stream(
        self, algorithm: Algorithm, parameters: Mapping[str, Any], device: torch.device | None = None
    ) -> Stream:
        raise BackendUnavailable(self.reason)


def _probe(backend: Backend) -> Probe:
    with _lock:
        if backend.name not in _probes:
            try:
                _probes[backend.name] = backend.probe()
            except (Exception, SystemExit) as error:  # a broken driver must not break the others
                _probes[backend.name] = Probe(False, f"probing failed: {type(error).__name__}: {error}")
        return _probes[backend.name]


def statuses() -> tuple[BackendStatus, ...]:
    """Every registered backend: whether it can run here, on what, and if not, why."""
    _load()
    found = []
    for backend in _backends.values():
        probe = _probe(backend)
        found.append(
            BackendStatus(
                backend.name,
                probe.available,
                probe.reason,
                probe.devices,
                backend.summary,
                backend.self_test(),
                backend.for_tests,
            )
        )
    return tuple(found)


def named(name: str) -> Backend:
    """The backend called ``name``, whether it can run here or not. Raises ValueError for an unknown name."""
    if not isinstance(name, str):
        raise TypeError(f"a backend is named by a str, not {type(name).__name__}")
    _load()
    try:
        return _backends[name]
    except KeyError:
        raise ValueError(f"unknown backend {name!r} (known: {', '.join(_backends)})") from None


def get(name: str) -> Backend:
    """The backend called ``name``, ready to run.

    Raises ValueError for an unknown name and BackendUnavailable, with the reason, for one that
    cannot run here.
    """
    backend = named(name)
    probe = _probe(backend)
    if not probe.available:
        raise BackendUnavailable(f"backend {name!r} is not available: {probe.reason}")
    return backend


class use_backend:
    """Make ``name`` the backend of every call that names none; None restores automatic choice.

    The setting is process-wide and takes effect at once; as a context manager it is undone on exit.
    Raises as :func:`get` does.
    """

    def __init__(self, name: str | None) -> None:
        global _requested
        if name is not None:
            get(name)
        with _lock:
            self._previous = _requested
            _requested = name

    def __enter__(self) -> use_backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _requested
        with _lock:
            _requested = self._previous


def requested(backend: str | None) -> str | None:
    """The backend that is asked for by the call, or else by ``use_backend``, or else by the environment."""
    return backend or _requested or os.environ.get(ENVIRONMENT_VARIABLE) or None


def _log_once(level: int, *message: str) -> None:
    if message not in _logged:
        _logged.add(message)
        _logger.log(level, "%s", " ".join(message))


def select(
    algorithm: Algorithm, device_type: str, *, messages: Messages | None, backend: str | None = None
) -> Backend:
    """The backend for ``algorithm`` over data on ``device_type``. ``messages`` is the batch, or None for one
    message that comes in pieces.

    An explicit request (see :func:`requested`) is honoured or fails with the reason; it never falls back to
    another backend. An automatic choice is logged once, with its reason, under ``integrity_triton``.
    """
    return _choose(algorithm, device_type, messages, backend)[0]


def explain(algorithm: Algorithm, device_type: str, *, messages: Messages | None) -> tuple[Backend, str]:
    """The backend that :func:`select` gives to a call that names none, and the reason in words."""
    chosen, reason = _choose(algorithm, device_type, messages, None)
    if not reason:
        found = [b.comparison(algorithm, device_type, messages=messages) for b in _backends.values()]
        figures = "; ".join(text for text in found if text is not None)
        reason = figures or ("no other takes it" if chosen.name == "native" else "the data is on its device")
    return chosen, reason


def _choose(
    algorithm: Algorithm, device_type: str, messages: Messages | None, backend: str | None
) -> tuple[Backend, str]:
    """See :func:`select`. The reason is empty if the backends' own ``is_default`` decided."""
    name = requested(backend)
    if name is not None:
        chosen = get(name)
        reason = chosen.unsupported(algorithm)
        if reason is not None:
            raise BackendUnavailable(f"backend {name!r} cannot run {algorithm.name}: {reason}")
        return chosen, f"{'use_backend' if _requested else ENVIRONMENT_VARIABLE} asks for it"
    _load()
    fallback_reasons = []
    for candidate in _backends.values():
        if candidate.name == "native":
            continue
        try:
            if not candidate.is_default(algorithm, device_type, messages=messages):
                continue
            reason = candidate.unsupported(algorithm)
        except Exception as error:
            if candidate.name in _BUILTIN:
                raise
            reason = (
                f"{type(error).__name__}: {error}"  # another package's fault ends no call that works without
            )
        if reason is None:
            probe = _probe(candidate)
            if probe.available:
                _log_once(logging.INFO, f"{algorithm.name} on {device_type} data runs on {candidate.name}")
                return candidate, ""
            reason = probe.reason
        fallback_reasons.append(f"{candidate.name}: {reason}")
    native = get("native")
    reason = native.unsupported(algorithm)
    if reason is not None:
        return _without_library(algorithm, device_type, f"native: {reason}")
    if fallback_reasons:
        why = "; ".join(fallback_reasons)
        _log_once(
            logging.WARNING,
            f"{algorithm.name} on {device_type} data falls back to native, which copies it to the host",
            f"({why})",
        )
        return native, why
    if device_type == "cpu":
        return native, ""
    why = (
        "one sequential message has no parallelism for a device" if messages is None else "no other takes it"
    )
    _log_once(logging.INFO, f"{algorithm.name} on {device_type} data runs on native: {why}")
    return native, why


def _without_library(algorithm: Algorithm, device_type: str, reason: str) -> tuple[Backend, str]:
    """A backend that runs the kernels, preferably one that reads the data in place, and why native does
    not."""
    reasons = [reason]
    candidates = [b for b in _backends.values() if b.name != "native" and not b.for_tests]
    for candidate in sorted(candidates, key=lambda b: device_type not in b.device_types):
        found = candidate.unsupported(algorithm)
        probe = _probe(candidate)
        if found is None and probe.available:
            _log_once(logging.INFO, f"{algorithm.name} runs on {candidate.name} ({reason})")
            return candidate, reason
        reasons.append(f"{candidate.name}: {probe.reason if not probe.available else found}")
    raise BackendUnavailable(
        f'nothing here can run {algorithm.name}; pip install "integrity-triton[cpu]" brings kernels for the '
        f"CPU ({'; '.join(reasons)})"
    )


def dispatch(
    algorithm: Algorithm,
    parameters: Mapping[str, Any],
    messages: Messages,
    length: int,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """Digests of all messages, uint8 ``[n, length]``, from the backend that :func:`select` gives.

    If a backend that was chosen automatically cannot run after all, or lacks memory, the native backend takes
    its place, which is logged once. A backend that was asked for raises instead.
    """
    chosen = select(algorithm, messages.device.type, messages=messages, backend=backend)
    try:
        return chosen.digest_batch(algorithm, parameters, messages, length)
    except (BackendUnavailable, MemoryError) as error:
        native = get("native")
        if requested(backend) is not None or chosen is native or native.unsupported(algorithm):
            raise
        _log_once(
            logging.WARNING,
            f"{algorithm.name} on {messages.device.type} data falls back to native",
            f"({chosen.name}: {error})",
        )
        return native.digest_batch(algorithm, parameters, messages, length)


def select_nodes(
    algorithm: Algorithm, device_type: str, nbytes: int, *, backend: str | None = None
) -> Backend:
    """The backend for the nodes of a tree hash over ``nbytes`` of data on ``device_type``.

    No CPU library gives them. For little data, and where nothing runs the kernels, native has them in NumPy.
    """
    chosen = select(algorithm, device_type, messages=None, backend=backend)
    if requested(backend) is None and chosen.name == "native" and nbytes >= _NODES_WORTH_KERNELS:
        with suppress(BackendUnavailable):
            return _without_library(algorithm, device_type, "native: no CPU library gives nodes of its tree")[
                0
            ]
    return chosen


def dispatch_pbkdf2(
    algorithm: Algorithm,
    passwords: PerMessage,
    salts: bytes | PerMessage,
    iterations: int,
    length: int,
    device: torch.device,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """PBKDF2 on the backend that :func:`select` gives for messages as long as the data hashed in all
    rounds."""
    import torch

    lanes = len(passwords) * -(-length // algorithm.digest_size)
    hashed = 2 * algorithm.block_size * iterations
    work = Rows(torch.empty(0, dtype=torch.uint8, device=device), 0, lanes, hashed, hashed, lanes * hashed)
    chosen = select(algorithm, device.type, messages=work, backend=backend)
    return chosen.pbkdf2(algorithm, passwords, salts, iterations, length, device)
