"""What emulation finds wrong with a kernel."""

from __future__ import annotations

from ...errors import IntegrityTritonError


class EmulationError(IntegrityTritonError, RuntimeError):
    """A kernel did in emulation what is a fault on a device. The message names the instruction and, where it
    is known, the line of the kernel's source."""


class MemoryFault(EmulationError):
    """An access outside the memory that the launch was given, or one that is not aligned."""


class Race(EmulationError):
    """Two accesses to one place, of which at least one is a store, and which nothing orders."""


class Uninitialised(EmulationError):
    """A read of a register or of shared memory that nothing has written, or that a load or a copy is still to
    fill."""


class Deadlock(EmulationError):
    """Threads that wait for others that never come, or a kernel that does not end."""


class Unmodelled(EmulationError):
    """An instruction, or a form of one, that the emulator does not execute."""
