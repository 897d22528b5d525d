"""What the core and the emulator of a vendor's code exchange: parsed programs and their launches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .coverage import KernelCoverage
    from .memory import GlobalMemory


@dataclass(frozen=True)
class Block:
    """A basic block of a program."""

    line: str
    """``file:line`` of its first instruction in the kernel's source; empty if the text does not tell."""
    text: str
    """Its first instruction."""

    def __str__(self) -> str:
        return f"{self.text} at {self.line}" if self.line else self.text


@dataclass(frozen=True)
class Missed:
    """A part of a kernel that was never executed."""

    kind: str
    """``block``, ``rows`` or ``columns``."""
    number: str
    """The number of the block, or the numbers of rows or columns of a matrix product."""
    what: str
    """The first instruction of the block, or the matrix product, with the lines of the source from which it
    was compiled."""

    def __str__(self) -> str:
        return f"{self.kind} {self.number}{':' if self.kind == 'block' else ' of'} {self.what}"


@dataclass(frozen=True)
class KernelLaunch:
    """One launch of a program."""

    grid: tuple[int, int, int]
    arguments: Sequence[int]
    """The values of the parameters in their order, pointers as addresses."""
    warps: int
    shared_bytes: int
    memory: GlobalMemory
    coverage: KernelCoverage
    seed: int
    """Determines the order of warps between barriers."""
    lanes_at_once: int
    """About how many threads run side by side, as a matter of speed."""


class Program(Protocol):
    """One kernel, parsed and ready to run."""

    @property
    def entry(self) -> str: ...

    @property
    def parameters(self) -> int:
        """How many parameters the text declares. Those beyond the kernel's own are pointers to scratch
        memory, which are zero."""

    @property
    def blocks(self) -> Sequence[Block]: ...

    @property
    def matrices(self) -> Mapping[str, tuple[int, int]]:
        """The rows and columns of the accumulator of each matrix product, by the instruction's name."""

    def run(self, launch: KernelLaunch) -> None:
        """Execute the whole grid. Raises EmulationError."""


@dataclass(frozen=True)
class Target:
    """A kind of device whose code is emulated."""

    name: str
    backend: str
    """``backend``, ``architecture`` and ``warp_size`` are those of Triton's ``GPUTarget``."""
    architecture: int | str
    warp_size: int
    text: str
    """The stage of Triton's compiler whose result is executed, such as ``"ptx"``."""
    binary: str
    """The stage after it, which is left out, such as ``"cubin"``."""
    shared_limit: int
    """The most bytes of shared memory of a program."""
    program: Callable[[str, str], Program]
    """Parses a text and the name of its entry. Raises Unmodelled."""
    tuning: str
    """The name under which ``tuning.json`` has the configurations of a device of this kind."""
