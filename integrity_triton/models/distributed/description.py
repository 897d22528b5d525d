"""What a rank says of the tensors that it holds, as the bytes that the others read.

All ranks of a mesh describe a DTensor alike, so that there are few different descriptions in a group however
many ranks it has; each of these is sent once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...strict_json import parse_object
from ..dtypes import DTYPE_BITS, LARGEST_SIZE
from ..entry import check_name
from .errors import DistributedError
from .held import Held
from .layout import Layout
from .placements import REPLICATE, OnMesh


@dataclass(frozen=True)
class Described:
    """A tensor in the description of some ranks."""

    dtype: str
    shape: tuple[int, ...]
    memory_shape: tuple[int, ...]
    layout: Layout | OnMesh

    def at(self, rank: int) -> Layout:
        """What a rank holds, to which this description applies."""
        if isinstance(self.layout, OnMesh):
            return self.layout.layout(rank, self.memory_shape)
        return self.layout


def describe(held: Mapping[str, Held]) -> bytes:
    """The description of what a rank holds. Equal ones have equal bytes."""
    layouts: dict[Any, int] = {}
    kinds: dict[tuple[str, tuple[int, ...], int], list[str]] = {}
    for name in sorted(held):
        x = held[name]
        whole = x.layout == Layout.whole(x.memory_shape)
        number = -1 if whole else layouts.setdefault(x.layout, len(layouts))
        kinds.setdefault((x.dtype, x.shape, number), []).append(name)
    spelled = [
        {"mesh": layout.mesh, "ranks": layout.ranks, "rules": layout.rules}
        if isinstance(layout, OnMesh)
        else {"runs": layout.runs}
        for layout in layouts
    ]
    tensors = [[*kind, names] for kind, names in kinds.items()]
    return json.dumps({"tensors": tensors, "layouts": spelled}, separators=(",", ":")).encode("ascii")


def parse(data: bytes) -> dict[str, Described]:
    """What :func:`describe` wrote, by the names of the tensors. Tensors that are described alike share it.

    The other ranks run the same version of this package, and are trusted as far as an error of theirs is
    noticed. Raises DistributedError for anything else.
    """
    try:
        members = parse_object(data)
        layouts = members["layouts"]
        found: dict[str, Described] = {}
        for dtype, shape, number, names in members["tensors"]:
            sizes = tuple(shape)
            if dtype not in DTYPE_BITS or not all(0 <= size <= LARGEST_SIZE for size in sizes):
                raise ValueError(f"dtype {dtype}, shape {shape}")
            memory = (*sizes[:-1], sizes[-1] // 2) if dtype == "F4" else sizes
            described = Described(dtype, sizes, memory, _layout(layouts, number, memory))
            for name in names:
                check_name(name)
                found[name] = described
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise DistributedError(f"a rank sent a description that cannot be read: {error}") from None
    return found


def _layout(layouts: list[Any], number: int, shape: tuple[int, ...]) -> Layout | OnMesh:
    if number < 0:
        return Layout.whole(shape)
    stated = layouts[number]
    if "runs" in stated:
        return Layout.of(shape, stated["runs"])
    rules = tuple((dim, factor) for dim, factor in stated["rules"])
    mesh, ranks = tuple(stated["mesh"]), tuple(stated["ranks"])
    numbers = (*mesh, *ranks, *(number for rule in rules for number in rule))
    if not (
        all(type(number) is int for number in numbers)
        and min(mesh, default=1) > 0
        and math.prod(mesh) == len(ranks)
        and len(rules) == len(mesh)
        and all(rule == REPLICATE or (0 <= rule[0] < len(shape) and rule[1] > 0) for rule in rules)
    ):
        raise ValueError(f"the mesh {stated}")
    return OnMesh(mesh, ranks, rules)
