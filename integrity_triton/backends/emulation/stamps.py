"""Stamps say which warp of which program made an access, and between which barriers, in one integer."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_PROGRAM, _WARP = 36, 28
_EPOCH_MASK = (1 << _WARP) - 1

NOBODY = -1
"""The stamp of a place that has not been accessed."""
ATOMIC = -2
"""The stamp of a place that was last written by an atomic operation."""
MOST_WARPS = 255
"""The most warps of a program. The number that follows stands for several warps."""


def stamps(program: Array | int, warp: Array | int, epoch: Array | int) -> Array:
    """int64 stamps. ``epoch`` is the number of barriers that the program has passed."""
    parts = (np.asarray(part, np.int64) for part in (program, warp, epoch))
    first, second, third = parts
    return np.asarray(first << _PROGRAM | second << _WARP | third)


def unordered(one: Array, other: Array) -> Array:
    """Whether no barrier orders accesses with these stamps, neither of which is negative: whether their
    programs differ, or their warps differ in the same epoch."""
    different = one ^ other
    same_epoch = (different & _EPOCH_MASK) == 0
    return np.asarray(((different >> _PROGRAM) != 0) | (((different >> _WARP) != 0) & same_epoch))


def programs(stamp: Array) -> Array:
    """The numbers of the programs."""
    return np.asarray(stamp >> _PROGRAM)


def of_several(stamp: Array) -> Array:
    """The stamp of several warps that made accesses in the same epoch of the same program."""
    return np.asarray(stamp | (MOST_WARPS << _WARP))
