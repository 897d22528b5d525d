"""Cells of devices that need not be here: their kernels are compiled, and nothing runs."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from ..algorithms import Algorithm
from ..aot.compiling import Target
from ..aot.export import export, variants
from ..errors import IntegrityTritonError
from .report import ABSENT, COMPILED, FAILED, Cell, Failure


class Compilation:
    """Compiles for one target. A kernel that several algorithms share is compiled once."""

    def __init__(self, target: str) -> None:
        """``target`` is a name such as ``"cuda:90"``. Raises ValueError if it names no target."""
        self._target = Target.parse(target)
        self._compiled: dict[str, str] = {}

    def cell(self, record: Algorithm) -> Cell:
        """Compile all kernels of an algorithm."""
        began = time.perf_counter()
        cell = self._blank(record)
        try:
            wanted = variants(record, self._target)
        except ValueError as error:
            return replace(cell, status=ABSENT, reason=str(error), asked=False)
        new = {name: asked for name, asked in wanted.items() if name not in self._compiled}
        try:
            with tempfile.TemporaryDirectory() as folder:
                for one in export(new, self._target, Path(folder)) if new else ():
                    self._compiled[one.name] = one.sidecar["compiler"]
        except IntegrityTritonError as error:
            return self.lost(record, error)
        compilers = dict.fromkeys(self._compiled[name] for name in wanted)
        return replace(
            cell,
            reason=f"{len(wanted)} kernels compiled with {', '.join(compilers)}; nothing ran",
            seconds=round(time.perf_counter() - began, 3),
        )

    def lost(self, record: Algorithm, reason: object) -> Cell:
        """The cell of an algorithm whose kernels could not be compiled."""
        failure = Failure("compiling", "all kernels", "binaries", str(reason))
        return replace(self._blank(record), status=FAILED, failed=1, failures=(failure,))

    def _blank(self, record: Algorithm) -> Cell:
        return Cell(record.name, f"{self._target.name} (compile-only)", "", "", COMPILED, asked=True)
