"""What a run on an emulated backend has to have executed: all of the code of the kernels that it launched,
but for the places in :mod:`.unexecuted`, each of which has a reason."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..backends.emulation.program import Missed
from .report import KernelExecution

_PLACE = re.compile(r"([\w.]+\.py):(\d+)")


@dataclass(frozen=True)
class Unexecuted:
    """A place of a kernel that a run need not execute. What is empty is true of everything."""

    reason: str
    """Why no check executes it, as a sentence."""
    kernel: str = ""
    """The kernel's function."""
    instruction: str = ""
    """What the first instruction of the block, or the matrix product, starts with. A ``*`` stands for any
    text."""
    function: str = ""
    """``file.py:function`` of the source from which the code was compiled, or of a caller of it."""
    source: str = ""
    """A part of the line of source from which the code was compiled, or of that of a call of it."""
    kind: str = "block"
    """``block``, ``rows`` or ``columns``."""
    numbers: range | None = None
    """The rows or columns of a matrix product."""
    backends: tuple[str, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Some of the compile-time constants of the kernel, with their values."""
    share: float = 1.0
    """An entry that would stand for more than this share of the blocks of a kernel stands for none of it,
    since more is left out than its reason says."""

    def covers(
        self, backend: str, kernel: str, missed: Missed, constants: Mapping[str, Any] | None = None
    ) -> bool:
        """Whether something that was not executed is this place. ``kernel`` is the name of a compiled
        kernel, which starts with that of its function, and ``constants`` are its compile-time constants."""
        if any((constants or {}).get(name) != value for name, value in self.constants.items()):
            return False
        if missed.kind != self.kind or (self.kernel and kernel.partition(" ")[0] != self.kernel):
            return False
        if not re.match(".*".join(map(re.escape, self.instruction.split("*"))), missed.what):
            return False
        if self.backends and backend not in self.backends:
            return False
        if self.numbers is not None and not {int(n) for n in missed.number.split(", ")} <= {*self.numbers}:
            return False
        if not (self.function or self.source):
            return True
        return any(
            (not self.function or self.function == function) and self.source in line
            for function, line in places(missed.what)
        )


def places(text: str) -> list[tuple[str, str]]:
    """For each line of the kernels' source that a text names, ``file.py:function`` and the line."""
    found = []
    for file, number in _PLACE.findall(text):
        functions, lines = _source(file)
        if int(number) <= len(lines):
            line = lines[int(number) - 1].strip() if int(number) else ""  # 0 where the compiler does not tell
            found.append((f"{file}:{functions.get(int(number), '')}", line))
    return found


@cache
def _source(file: str) -> tuple[Mapping[int, str], Sequence[str]]:
    """The function of each line of a file of the kernels, and the lines."""
    spec = importlib.util.find_spec("integrity_triton.kernels")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / file
        if path.is_file():
            text = path.read_text("utf-8")
            functions = {
                number: node.name
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.FunctionDef)
                for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
            }
            return functions, text.split("\n")
    return {}, []


def unlisted(
    backend: str, kernel: str, execution: KernelExecution, listed: Sequence[Unexecuted]
) -> list[Missed]:
    """What of a compiled kernel was not executed, though no entry of the list names it."""
    covered: set[Missed] = set()
    for entry in listed:
        found = {gap for gap in execution.missed if entry.covers(backend, kernel, gap, execution.constants)}
        if len(found) <= entry.share * execution.blocks:
            covered |= found
    return [gap for gap in execution.missed if gap not in covered]


def problems(
    executions: Mapping[tuple[str, str], KernelExecution], listed: Sequence[Unexecuted]
) -> Iterator[str]:
    """What of the kernels of a run was never executed, though no entry of the list names it: a sentence for
    each kernel. ``executions`` has a key for each backend and compiled kernel."""
    for (backend, kernel), execution in executions.items():
        left = unlisted(backend, kernel, execution, listed)
        if left:
            yield f"{kernel} on {backend} was not executed in full: {'; '.join(map(str, left))}"
