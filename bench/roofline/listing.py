"""A disassembly as a graph of basic blocks, and how often each block runs in one turn of a loop.

Nothing here depends on a vendor: ``vendors.py`` turns each line of a listing into a :class:`Line`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property


@dataclass(frozen=True)
class Line:
    """An instruction, or a label in front of one."""

    text: str
    """The instruction without its address and comments, or the name of the label."""
    label: bool = False
    opcode: str = ""
    """The name of the instruction with its modifiers, without a predicate."""
    function: str = ""
    """The function of the source from which the instruction comes. Empty if that is not known."""
    target: str | None = None
    """The label to which a branch goes."""
    falls_through: bool = True
    """Whether the next instruction may follow this one."""


@dataclass
class Block:
    """Instructions that run one after the other, without a branch into or out of them."""

    lines: list[Line] = field(default_factory=list)
    successors: list[int] = field(default_factory=list)

    def share(self, shares: Mapping[str, Fraction]) -> Fraction:
        """The least share of the functions from which the instructions come; 1 for functions without one."""
        known = (shares[line.function] for line in self.lines if line.function in shares)
        return min(known, default=Fraction(1))


@dataclass
class Loop:
    """A natural loop: the blocks from which its header is reached again without leaving through the
    header."""

    header: int
    latches: set[int]
    """The blocks from which the header is entered again."""
    blocks: set[int]
    inner: list[Loop] = field(default_factory=list)

    @property
    def own(self) -> set[int]:
        """The blocks that are in no inner loop."""
        return self.blocks - {block for loop in self.inner for block in loop.blocks}


class Graph:
    """The basic blocks of a function, numbered in the order of the listing."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.blocks: list[Block] = []
        labels: dict[str, int] = {}
        opened = False
        for line in lines:
            if not opened or line.label:
                # Several labels may lie in front of one instruction.
                if not (opened and not self.blocks[-1].lines):
                    self.blocks.append(Block())
                opened = True
            if line.label:
                labels[line.text] = len(self.blocks) - 1
                continue
            self.blocks[-1].lines.append(line)
            if line.target is not None or not line.falls_through:
                opened = False
        for i, block in enumerate(self.blocks):
            last = block.lines[-1] if block.lines else None
            if last is not None and last.target is not None:
                if last.target not in labels:
                    raise ValueError(f"no label {last.target} for the branch {last.text!r}")
                block.successors.append(labels[last.target])
            if (last is None or last.falls_through) and i + 1 < len(self.blocks):
                block.successors.append(i + 1)

    @cached_property
    def dominators(self) -> list[set[int]]:
        """For each block, the blocks that every path from the start to it passes. Blocks that cannot be
        reached are dominated by all."""
        every = set(range(len(self.blocks)))
        found = [every.copy() for _ in self.blocks]
        found[0] = {0}
        before: list[list[int]] = [[] for _ in self.blocks]
        for i, block in enumerate(self.blocks):
            for j in block.successors:
                before[j].append(i)
        changed = True
        while changed:
            changed = False
            for i in range(1, len(self.blocks)):
                new = set.intersection(*(found[j] for j in before[i])) | {i} if before[i] else every
                if new != found[i]:
                    found[i], changed = new, True
        return found

    @cached_property
    def reachable(self) -> set[int]:
        """The blocks to which a path from the start leads."""
        found, left = {0}, [0]
        while left:
            for j in self.blocks[left.pop()].successors:
                if j not in found:
                    found.add(j)
                    left.append(j)
        return found

    @cached_property
    def loops(self) -> list[Loop]:
        """The loops that are in no other loop. They hold the inner ones."""
        before: dict[int, list[int]] = {i: [] for i in self.reachable}
        by_header: dict[int, Loop] = {}
        for i in sorted(self.reachable):
            for j in self.blocks[i].successors:
                before[j].append(i)
                if j in self.dominators[i]:  # a back edge
                    by_header.setdefault(j, Loop(j, set(), {j})).latches.add(i)
        for loop in by_header.values():
            left = [latch for latch in loop.latches if latch != loop.header]
            loop.blocks |= set(left)
            while left:
                for i in before[left.pop()]:
                    if i not in loop.blocks:
                        loop.blocks.add(i)
                        left.append(i)
        outermost: list[Loop] = []
        ordered = sorted(by_header.values(), key=lambda loop: len(loop.blocks))
        for k, loop in enumerate(ordered):
            around = next((other for other in ordered[k + 1 :] if loop.header in other.blocks), None)
            (outermost if around is None else around.inner).append(loop)
        return outermost

    def _always(self, loop: Loop, block: int) -> bool:
        """Whether every turn of the loop runs the block."""
        return all(block in self.dominators[latch] for latch in loop.latches)

    def times(
        self, loop: Loop, shares: Mapping[str, Fraction], turns: Callable[[Loop, Loop], tuple[Fraction, int]]
    ) -> dict[int, Fraction]:
        """How often each block runs in one turn of the loop, apart from blocks that never run.

        A block that a branch may skip counts once, unless it has instructions from functions in ``shares``:
        then it counts as these say. ``turns(outer, inner)`` is the number of turns of an inner loop, and how
        many turns of the source's loop each of them is. Where it is more than one, only the last of these may
        skip what the last turn of the source's loop skips.
        """

        def share(block: int) -> Fraction:
            return Fraction(1) if self._always(loop, block) else self.blocks[block].share(shares)

        found = {i: share(i) for i in loop.own}
        for inner in loop.inner:
            if often := share(inner.header):
                count, together = turns(loop, inner)
                own = {name: max(Fraction(0), 1 - (1 - n) * together) for name, n in shares.items()}
                found |= {i: often * count * n for i, n in self.times(inner, own, turns).items()}
        return {i: n for i, n in found.items() if n}

    def lines(self, blocks: Iterable[int]) -> Sequence[Line]:
        """The instructions of some of the blocks."""
        return [line for i in sorted(blocks) for line in self.blocks[i].lines]
