"""What a change of an instruction is, and what the texts of all vendors have in common."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

KINDS = ("operation", "operand", "constant", "mask", "wait", "barrier")
_INTEGER = re.compile(r"-?(0x[0-9a-fA-F]+|\d+)")


@dataclass(frozen=True)
class Change:
    """One instruction that is replaced, or left out."""

    kind: str
    """One of KINDS."""
    block: int
    index: int
    """The number of the instruction in its block."""
    before: str
    after: str
    """The text of the other instruction; empty if it is left out."""
    line: str
    """The line of the kernel's source."""


class Code(Protocol):
    """A parsed kernel whose instructions can be changed."""

    @property
    def entry(self) -> str: ...

    def blocks(self) -> Sequence[Sequence[Any]]:
        """The instructions of each basic block. They have a ``text``."""

    def changes(self, block: int, index: int, draw: random.Random) -> Iterator[tuple[str, str]]:
        """A kind, and a text to replace one instruction with, for each kind of change that it allows."""

    def changed(self, change: Change) -> Any:
        """The program in which one instruction is changed. Raises EmulationError if it cannot run."""

    def unread(self, change: Change) -> bool:
        """Whether nothing reads what the changed instruction, or the other one, writes."""


def other_constants(text: str, draw: random.Random) -> str:
    """Another integer: one more or less, or with another bit."""
    value = int(text, 0)
    other = draw.choice(
        [value + 1, value - 1, value ^ (1 << draw.randrange(max(2, abs(value).bit_length())))]
    )
    return str(other)


def is_integer(text: str) -> bool:
    return _INTEGER.fullmatch(text) is not None


def replaced(items: Sequence[str], at: int, new: str) -> list[str]:
    return [*items[:at], new, *items[at + 1 :]]


def swapped(items: Sequence[str], a: int, b: int) -> list[str]:
    found = list(items)
    found[a], found[b] = found[b], found[a]
    return found


def draw_changes(
    code: Code, executed: Sequence[int], count: int, seed: str, accept: Callable[[Change], bool]
) -> list[Change]:
    """Up to ``count`` changes of instructions in the blocks that were executed: each kind that there is has
    the same chance, and so has each instruction that allows it."""
    draw = random.Random(seed)
    sites: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
    for block in executed:
        for index in range(len(code.blocks()[block])):
            for kind in {kind for kind, _ in code.changes(block, index, random.Random(0))}:
                sites[kind].append((block, index))
    kinds = [kind for kind in KINDS if sites[kind]]
    found: list[Change] = []
    seen: set[tuple[int, int, str]] = set()
    misses = 0
    while kinds and len(found) < count and misses < 40 * count:
        kind = draw.choice(kinds)
        block, index = draw.choice(sites[kind])
        instruction = code.blocks()[block][index]
        texts = [text for other, text in code.changes(block, index, draw) if other == kind]
        text = draw.choice(texts) if texts else instruction.text
        key = (block, index, text)
        change = Change(
            kind, block, index, instruction.text, text, getattr(instruction, "source", "") or instruction.line
        )
        if text == instruction.text or key in seen or not accept(change):
            misses += 1
            continue
        seen.add(key)
        found.append(change)
    return found
