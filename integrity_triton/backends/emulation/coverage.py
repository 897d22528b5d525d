"""Which basic blocks of kernels have been executed, and which rows and columns of their matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .program import Missed

if TYPE_CHECKING:
    from .program import Block

Array = np.ndarray[Any, Any]


class KernelCoverage:
    """The coverage of one compiled kernel, over all of its launches."""

    def __init__(
        self,
        name: str,
        blocks: Sequence[Block],
        matrices: Mapping[str, tuple[int, int]],
        constants: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.constants = constants or {}
        self._blocks = blocks
        self._executed = np.zeros(len(blocks), np.bool_)
        self._rows = {key: np.zeros(rows, np.bool_) for key, (rows, _) in matrices.items()}
        self._columns = {key: np.zeros(columns, np.bool_) for key, (_, columns) in matrices.items()}

    def block(self, number: int, active: bool = True) -> None:
        """Note that a basic block was executed. It does not count if it was executed for no thread
        (``active``)."""
        if active:
            self._executed[number] = True

    def matrix(self, name: str, rows: Array, columns: Array) -> None:
        """Note which rows and columns of a matrix product, without its addend, were not all zero."""
        self._rows[name] |= rows
        self._columns[name] |= columns

    @property
    def matrices(self) -> tuple[str, ...]:
        """The names of its matrix products."""
        return tuple(self._rows)

    @property
    def blocks(self) -> tuple[int, int]:
        """How many basic blocks were executed, and how many there are."""
        return int(self._executed.sum()), len(self._blocks)

    def gaps(self) -> tuple[Missed, ...]:
        """The basic blocks, rows and columns that were never executed. Of a matrix product that was not
        executed at all, all rows and columns are missing."""
        found = [
            Missed("block", str(n), str(self._blocks[n])) for n in np.flatnonzero(~self._executed).tolist()
        ]
        for name in self._rows:
            for kind, seen in (("rows", self._rows[name]), ("columns", self._columns[name])):
                if not seen.all():
                    found.append(Missed(kind, ", ".join(map(str, np.flatnonzero(~seen))), name))
        return tuple(found)

    def missed(self) -> tuple[str, ...]:
        """The same, in words."""
        return tuple(map(str, self.gaps()))


class Coverage:
    """The coverage of all kernels that a backend has launched in this process."""

    def __init__(self) -> None:
        self._kernels: dict[str, KernelCoverage] = {}
        self.latest: KernelCoverage | None = None
        """That of the kernel that was launched last."""
        self.constants: Mapping[str, Any] = {}
        """The compile-time constants of the kernel that is launched next, if they are known."""

    def kernel(
        self, name: str, blocks: Sequence[Block], matrices: Mapping[str, tuple[int, int]]
    ) -> KernelCoverage:
        """The coverage of the compiled kernel called ``name``."""
        if name not in self._kernels:
            self._kernels[name] = KernelCoverage(name, blocks, matrices, self.constants)
        self.latest = self._kernels[name]
        return self.latest

    def kernels(self) -> tuple[KernelCoverage, ...]:
        return tuple(self._kernels.values())

    def take(self) -> tuple[KernelCoverage, ...]:
        """The coverage of what was launched since this was called last."""
        taken, self._kernels = self.kernels(), {}
        return taken
