"""Any Triton kernel, executed without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backends.emulation.coverage import Coverage

__all__ = ["emulated"]


@contextmanager
def emulated(backend: str = "ptx", *, target: str | None = None, seed: int = 0) -> Iterator[Coverage]:
    """Let every Triton kernel that is launched in the body of a ``with`` run in an emulator on the CPU.

    Kernels take tensors on the CPU; a launch raises ValueError for one on another device. Each launch may
    access exactly the memory of the tensors among its arguments. ``target`` is a name that the backend knows,
    such as ``"sm_90"``; None stands for the target that the backend's environment variable names, or its
    default. ``seed`` determines the order of warps between barriers.

    Yields the coverage of the kernels, by basic block. Raises ValueError for a backend that is no emulator
    and for an unknown target, and BackendUnavailable if the backend cannot run here. A launch raises
    :class:`~integrity_triton.backends.emulation.faults.EmulationError` for what is a fault on a device: an
    access outside its memory, a race, a deadlock, a read of what was never written. The message names the
    instruction and the line of the kernel's source. An instruction that the emulator does not know is refused
    by name.
    """
    from .backends.emulation.backend import EmulatedBackend
    from .backends.registry import get, named

    chosen = named(backend)
    if not isinstance(chosen, EmulatedBackend):
        raise ValueError(f"backend {backend!r} is no emulator: ptx and amdgcn are")
    get(backend)
    driver = chosen.driver_of(target, seed=seed)
    with driver.active():
        yield driver.coverage
