"""CPUs, and other devices that share the host's memory, through OpenCL.

Triton's Intel backend has compiled the kernels ahead of time to SPIR-V (see ``prebuilt.py``), and the
device's own compiler makes machine code of that. The kernels read messages where they lie, so that the device
must accept raw host pointers, also in tables (fine-grain system SVM). Running them does not need Triton.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...algorithms import Algorithm
from ...errors import BackendUnavailable
from ...launching.launch import Launch, tuned
from ...messages.layout import Messages
from ...messages.tensors import host_memory
from ..base import Probe
from ..triton_backend import TritonBackend
from . import binary_cache, prebuilt, processor
from .cpu_choice import compared, kernels_are_faster
from .in_flight import InFlight

if TYPE_CHECKING:
    import torch

INSTALL = 'pip install "integrity-triton[cpu]"'
_LIBRARY = "libintelocl.so"
_SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")
_SUB_GROUPS = (8, 16, 32)
_LARGEST_WORK_GROUP = 128

_logger = logging.getLogger("integrity_triton")


@contextlib.contextmanager
def _vendors() -> Iterator[None]:
    """Let the OpenCL loader see the runtime that pip installs, besides those of the system.

    The wheel's own registration names a folder that does not exist. If OCL_ICD_VENDORS is set, it decides.
    """
    library = Path(sys.prefix, "lib", _LIBRARY)
    if "OCL_ICD_VENDORS" in os.environ or not library.exists():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="integrity_triton-") as folder:
        if _SYSTEM_VENDORS.is_dir():
            for path in _SYSTEM_VENDORS.glob("*.icd"):
                Path(folder, path.name).write_bytes(path.read_bytes())
        Path(folder, "integrity_triton.icd").write_text(f"{library}\n", "utf-8")
        os.environ["OCL_ICD_VENDORS"] = folder
        try:
            yield
        finally:
            del os.environ["OCL_ICD_VENDORS"]


def _unfit(cl: Any, device: Any) -> str | None:
    """What ``device`` lacks, or None."""
    if not device.available or not device.compiler_available:
        return "it is not available"
    try:
        svm = device.svm_capabilities
        if not svm & cl.device_svm_capabilities.FINE_GRAIN_SYSTEM:
            return "it cannot read host memory in place (fine-grain system SVM)"
        versions = device.il_version
    except (cl.Error, AttributeError):
        return "its driver is older than OpenCL 2.1"
    if not any(f"SPIR-V_1.{minor}" in versions for minor in range(4, 10)):
        return f"it takes {versions or 'no SPIR-V'}, not SPIR-V 1.4"
    sizes = getattr(device, "sub_group_sizes_intel", _SUB_GROUPS)
    for size in _SUB_GROUPS:
        if size not in sizes:
            return f"it has no sub-groups of {size}"
    if device.max_work_group_size < _LARGEST_WORK_GROUP:
        return f"its work-groups hold at most {device.max_work_group_size} items"
    return None


@dataclass(frozen=True)
class _Ready:
    """A kernel built for the device."""

    make: Callable[[], Any]
    """Makes an OpenCL kernel object. Such an object holds its arguments, so each launch takes one that no
    other launch is using. An exception in a launch loses that object, where a lock could stay locked."""
    idle: dict[int, Any]
    """The kernel object that each thread has used last, unless a launch is using it."""
    trailing: tuple[Any, ...]
    lanes: int
    threads: int


class _Runtime:
    """The device, and the kernels built for it. It can be used only in the process that made it."""

    def __init__(self) -> None:
        with _vendors():
            import pyopencl as cl

            platforms = cl.get_platforms()
        self.cl = cl
        found, refused = [], []
        for platform in platforms:
            for device in platform.get_devices():
                reason = _unfit(cl, device)
                if reason is None:
                    found.append(device)
                else:
                    refused.append(f"{device.name.strip()}: {reason}")
        if not found:
            raise BackendUnavailable(
                "no OpenCL device can run the kernels"
                + (f" ({'; '.join(refused)})" if refused else "")
                + f"; {INSTALL} brings one for the CPU"
            )
        # The host's own processor comes first, because its caches hold the data and it is always there.
        found.sort(key=lambda d: not d.type & cl.device_type.CPU)
        self.device = found[0]
        self.label = f"{self.device.name.strip()} ({self.device.platform.name.strip()})"
        self.kernels = processor.kernel_set(bool(self.device.type & cl.device_type.CPU))
        self.context = cl.Context([self.device])
        self.queue = cl.CommandQueue(self.context)
        self.pid = os.getpid()
        self._ready: dict[tuple[Any, ...], _Ready | BackendUnavailable] = {}
        self._making = threading.RLock()  # what is changed meanwhile is global
        self._in_flight = InFlight(self.queue.finish)
        atexit.register(self._end)

    def _end(self) -> None:
        if self.pid == os.getpid():
            self._in_flight.end()

    def execute(self, launch: Launch, options: Mapping[str, int]) -> None:
        """Run a kernel, and return when it is done."""

        def work() -> None:
            ready = self.ready(launch, options)
            programs = -(-launch.lanes // ready.lanes)
            arguments = [_argument(self.cl, value) for value in launch.arguments.values()]
            kernel = ready.idle.pop(threading.get_ident(), None) or ready.make()
            kernel.set_args(*arguments, *ready.trailing)
            done = self.cl.enqueue_nd_range_kernel(
                self.queue, kernel, (programs * ready.threads,), (ready.threads,)
            )
            ready.idle[threading.get_ident()] = kernel
            done.wait()

        try:
            self._in_flight.run(launch, work)
        except self.cl.MemoryError as error:
            raise MemoryError(f"{launch.kernel} on {self.label}: {error}") from error
        except self.cl.Error as error:
            raise BackendUnavailable(f"{launch.kernel} failed on {self.label}: {error}") from error

    def ready(self, launch: Launch, options: Mapping[str, int]) -> _Ready:
        # The arguments' types need no place in the key: a kernel's are always the same.
        key = (launch.kernel, *launch.constants.values(), *options.values())
        ready = self._ready.get(key)
        if ready is None:
            try:
                ready = self._build(prebuilt.Specialization.of(launch, options).name)
            except BackendUnavailable as error:
                ready = error  # building is slow and would fail again
            self._ready[key] = ready
        if isinstance(ready, BackendUnavailable):
            raise ready
        return ready

    def _build(self, name: str) -> _Ready:
        import numpy as np

        artifact = prebuilt.load(name)
        sidecar = artifact.sidecar
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.cl.CompilerWarning)  # it also reports success this way
            program = self._program(artifact)
        trailing = tuple(self.cl.LocalMemory(a["bytes"]) for a in sidecar["trailing_arguments"])
        # Knowing which arguments are integers lets pyopencl set all of them in the time of one.
        integers = [np.int64 if a["type"] == "i64" else None for a in sidecar["arguments"]]

        def make() -> Any:
            with self._making, _invokers_uncached(self.cl):
                kernel = self.cl.Kernel(program, sidecar["entry"])
                kernel.set_scalar_arg_dtypes(integers + [None] * len(trailing))
            return kernel

        return _Ready(make, {}, trailing, sidecar["lanes_per_program"], sidecar["threads_per_program"])

    def _program(self, artifact: prebuilt.Prebuilt) -> Any:
        cl = self.cl
        cached = _cache_name(artifact, self.device)
        binary = binary_cache.read(cached)
        if binary is not None:
            try:
                return cl.Program(self.context, [self.device], [binary]).build()
            except cl.Error as error:
                _logger.info("the device refuses the cached binary %s (%s); it is built again", cached, error)
        try:
            program = cl.Program(self.context, artifact.binary).build()
        except cl.Error as error:
            raise BackendUnavailable(
                f"prebuilt kernel {artifact.name} does not build on {self.label}: {error}"
            ) from error
        binary_cache.write(cached, program.get_info(cl.program_info.BINARIES)[0])
        return program


def _cache_name(artifact: prebuilt.Prebuilt, device: Any) -> str:
    """The name of the binary of an artifact for a device in the cache.

    Devices with one name can have different instructions, such as virtual machines that share a home or move
    from host to host. Intel's runtime accepts a binary with instructions that the processor lacks, and then
    crashes or builds other programs without end.
    """
    key = hashlib.sha256(artifact.binary)
    target = os.environ.get("CL_CONFIG_CPU_TARGET_ARCH", "")  # names the processor for which Intel's builds
    identity = (
        device.platform.name,
        device.name,
        device.version,
        device.driver_version,
        target,
        processor.identity(),
    )
    for part in identity:
        key.update(part.encode() + b"\0")
    return f"{artifact.name}-{key.hexdigest()[:32]}"


@contextlib.contextmanager
def _invokers_uncached(cl: Any) -> Iterator[None]:
    """Keep pyopencl from its cache of invokers while the block runs.

    pyopencl writes Python code that sets a kernel's arguments, and keeps it in a database in the user's
    folder for caches. It fails if it cannot write there, and executes whatever it reads there.
    """
    setting = "_PYOPENCL_NO_CACHE"  # what the environment variable PYOPENCL_NO_CACHE sets
    before = getattr(cl, setting, True)
    with _no_unraisable_errors():
        try:
            import_module("pyopencl.invoker")
        except Exception:  # the database cannot be opened, so nobody in this process can use it
            before = True
    setattr(cl, setting, True)
    try:
        yield
    finally:
        setattr(cl, setting, before)


@contextlib.contextmanager
def _no_unraisable_errors() -> Iterator[None]:
    """Keep quiet about errors in finalizers: a database that could not be opened has one."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = before


class OpenClBackend(TritonBackend):
    name = "opencl"
    summary = "CPUs: the kernels compiled ahead of time, through OpenCL"
    device_types = ("cpu",)
    torch_device_type = "cpu"

    def __init__(self) -> None:
        self._runtime: _Runtime | None = None

    def probe(self) -> Probe:
        try:
            self._runtime = _Runtime()
        except ImportError as error:
            return Probe(False, f"{error.name or 'pyopencl'} cannot be imported; {INSTALL}")
        except BackendUnavailable as error:
            return Probe(False, str(error))
        except Exception as error:  # the loader has exceptions of its own
            return Probe(False, f"no OpenCL runtime works here ({error}); {INSTALL}")
        version, kernels = self._runtime.cl.VERSION_TEXT, self._runtime.kernels
        return Probe(True, f"pyopencl {version}, kernels for {kernels}", (self._runtime.label,))

    @cached_property
    def tuned_for(self) -> str:
        """The name under which ``tuning.json`` has the configurations for this machine's processor."""
        return processor.SETS[processor.kernel_set() if self._runtime is None else self._runtime.kernels]

    def tuned(self, kernel: str, block: str | None = None) -> dict[str, int]:
        return tuned(self.tuned_for, kernel, block)

    def driver_versions(self) -> tuple[str, ...]:
        return () if self._runtime is None else (str(self._runtime.device.driver_version),)

    def unsupported(self, algorithm: Algorithm) -> str | None:
        reason = super().unsupported(algorithm)
        if reason is not None:
            return reason
        if self._runtime is not None and self._runtime.pid != os.getpid():
            return "the OpenCL runtime does not survive a fork; start processes with spawn"
        for reference in self.driver(algorithm).references():
            reason = prebuilt.missing(reference)
            if reason is not None:
                return reason
        return None

    def is_default(self, algorithm: Algorithm, device_type: str, *, messages: Messages | None) -> bool:
        return (
            device_type in self.device_types
            and messages is not None
            and kernels_are_faster(self, algorithm, messages)
        )

    def comparison(self, algorithm: Algorithm, device_type: str, *, messages: Messages | None) -> str | None:
        if device_type not in self.device_types or messages is None:
            return None
        return compared(self, algorithm, messages)

    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        runtime = self._runtime
        if runtime is None or runtime.pid != os.getpid():
            raise BackendUnavailable(
                "backend 'opencl' is not set up in this process; start processes with spawn, not fork"
            )
        runtime.execute(launch, options)


def _argument(cl: Any, value: int | torch.Tensor) -> Any:
    if isinstance(value, int):
        return value
    return cl.SVM(host_memory(value))
