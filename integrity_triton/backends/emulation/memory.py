"""The memory of an emulated device: the global memory of a launch, exact to the byte, and shared memory.

Global memory is the memory of this process, of which a launch may access what it was given. Every access is
checked for bounds, alignment and races.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .faults import MemoryFault, Race, Uninitialised
from .shadow import Shadow
from .stamps import NOBODY, Array

UNSIGNED: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
"""NumPy's unsigned type of each size in bytes."""
WIDEST_VECTOR = 16
"""Bytes that the widest vector access of a thread has."""
_BASE = 4096
_POISON = 0xA5


class _Everything:
    """The address space of the process, as NumPy takes it."""

    __array_interface__: ClassVar[dict[str, Any]] = {
        "data": (_BASE, False),
        "shape": ((1 << 47) - 2 * _BASE,),
        "typestr": "|u1",
        "version": 3,
    }


@dataclass
class _Ranges:
    """Ranges of addresses, sorted, with a name each. Ranges may overlap unless they are merged."""

    starts: Array
    ends: Array
    names: list[str]

    @classmethod
    def of(cls, pieces: list[tuple[Array, Array, str]]) -> _Ranges:
        """Merge pieces ``(starts, ends, name)`` that overlap. Pieces that only touch stay apart, because an
        access across two allocations is a fault even if they are neighbours."""
        if not pieces:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), [])
        starts = np.concatenate([piece[0] for piece in pieces])
        ends = np.concatenate([piece[1] for piece in pieces])
        owner = np.repeat(np.arange(len(pieces)), [len(piece[0]) for piece in pieces])
        order = np.lexsort((-ends, starts))
        starts, ends, owner = starts[order], ends[order], owner[order]
        reach = np.maximum.accumulate(ends)
        first = np.ones(len(starts), np.bool_)
        first[1:] = starts[1:] >= reach[:-1]
        at = np.flatnonzero(first)
        last = np.append(at[1:], len(starts)) - 1
        return cls(starts[at], reach[last], [pieces[n][2] for n in owner[at]])

    def __len__(self) -> int:
        return len(self.starts)

    def find(self, addresses: Array, width: int) -> tuple[Array, Array]:
        """The range in which each access starts, and whether the access is within it."""
        at = np.searchsorted(self.starts, addresses, "right") - 1
        return at, (at >= 0) & (addresses + width <= self.ends[at])

    def touched(self, addresses: Array, width: int) -> Array:
        """Whether each access has a byte in common with a range."""
        at = np.searchsorted(self.starts, addresses + width, "left") - 1
        return np.asarray((at >= 0) & (addresses < self.ends[at]))


class GlobalMemory:
    """The global memory that one launch may access."""

    def __init__(self) -> None:
        whole = np.asarray(_Everything())
        self._views = {size: whole.view(kind) for size, kind in UNSIGNED.items()}
        self._pieces: dict[bool, list[tuple[Array, Array, str]]] = {False: [], True: []}
        self._ranges: dict[bool, _Ranges] = {}
        self._shadows: dict[int, Shadow] = {}
        self._reads: dict[int, list[tuple[Array, int, Array, Any]]] = {}
        self._lent: list[tuple[Array, tuple[Array, Array, str]]] = []

    # What is accessible

    def register(self, address: int, size: int, name: str, *, vectors: bool = False) -> None:
        """Give the launch ``size`` bytes at an address. With ``vectors`` they are a message: it may only be
        read, but in aligned vectors of up to 16 bytes that hold at least one byte of it."""
        self.register_many(np.array([address], np.int64), np.array([size], np.int64), name, vectors=vectors)

    def register_many(self, addresses: Array, sizes: Array, name: str, *, vectors: bool = False) -> None:
        """Give the launch memory at many addresses, int64 ``[n]``. Raises RuntimeError after an access of a
        launch that has not been finished: what is known of accesses belongs to the ranges as they were."""
        some = sizes > 0
        if some.any():
            if self._reads or self._shadows:
                raise RuntimeError(f"{name} cannot be registered during a launch")
            starts = addresses[some].astype(np.int64)
            self._pieces[vectors].append((starts, starts + sizes[some], name))
            self._ranges.clear()

    def lend(self, array: Array, name: str) -> int:
        """Give one launch the memory of an array, which is kept until :meth:`finish`. Returns its address."""
        self.register(array.ctypes.data, array.nbytes, name)
        if array.nbytes:
            self._lent.append((array, self._pieces[False][-1]))
        return int(array.ctypes.data)

    def _take_back(self) -> None:
        pieces = [piece for _, piece in self._lent]
        if pieces:
            self._pieces[False] = [p for p in self._pieces[False] if not any(p is piece for piece in pieces)]
            self._ranges.clear()
            self._lent.clear()

    def _found(self, vectors: bool) -> _Ranges:
        if vectors not in self._ranges:
            self._ranges[vectors] = _Ranges.of(self._pieces[vectors])
        return self._ranges[vectors]

    # Accesses

    def load(
        self,
        addresses: Array,
        size: int,
        stamp: Array,
        what: Any,
        count: int = 1,
        *,
        align: int | None = None,
    ) -> Array:
        """Load ``count`` consecutive elements of ``size`` bytes at each of ``n`` addresses, uint64.

        Returns unsigned integers ``[count, n]``. The whole access has to be aligned to ``align`` bytes, or
        else to its own size. Raises MemoryFault or Race."""
        at = self._checked(addresses, size * count, stamp, what, align)
        if align is not None and align < size:
            data = self._views[1][at[:, None] - _BASE + np.arange(size * count)]
            return np.ascontiguousarray(np.ascontiguousarray(data).view(UNSIGNED[size]).T)
        index = (at - _BASE) >> (size.bit_length() - 1)
        view = self._views[size]
        return np.stack([view[index + i] for i in range(count)])

    def load_bytes(self, addresses: Array, size: int, stamp: Array, what: Any, *, align: int = 1) -> Array:
        """Load ``size`` bytes at each of ``n`` addresses: uint8 ``[n, size]``."""
        at = self._checked(addresses, size, stamp, what, align)
        return np.asarray(self._views[1][at[:, None] - _BASE + np.arange(size)])

    def store(
        self,
        addresses: Array,
        values: Sequence[Array],
        stamp: Array,
        what: Any,
        *,
        align: int | None = None,
    ) -> None:
        """Store consecutive elements, ``[n]`` each and of one unsigned type, at each of ``n`` addresses.

        Raises MemoryFault or Race."""
        if not addresses.size:
            return
        kind = values[0].dtype
        size = kind.itemsize
        width = size * len(values)
        at = self._writable(addresses, width, what, align)
        data = np.stack([np.broadcast_to(v, at.shape) for v in values], axis=1)
        data = np.ascontiguousarray(data).view(np.uint8)
        index = at[:, None] - _BASE + np.arange(width)
        changed = self._views[1][index] != data
        for shadow, start, chosen in self._shadowed(at):
            shadow.stored(index[chosen] + (_BASE - start), stamp[chosen], changed[chosen], what)
        self._views[1][index] = data
        _check_same(self._views[1][index], data, what)

    def atomic(self, operation: str, addresses: Array, values: Array, what: Any) -> Array:
        """Apply an atomic operation (``add sub and or xor min max umin umax exch``) at each address, one
        after the other. Returns the values before, of the type of ``values``, which is unsigned."""
        size = values.dtype.itemsize
        at = self._writable(addresses, size, what, None)
        return self._in_turn(at, size, what, lambda old, i: combined(operation, old, values[i]))

    def compare_swap(self, addresses: Array, expected: Array, new: Array, what: Any) -> Array:
        """Replace ``expected`` by ``new`` at each address, one after the other. Returns the values before."""
        size = new.dtype.itemsize
        at = self._writable(addresses, size, what, None)
        return self._in_turn(at, size, what, lambda old, i: np.where(old == expected[i], new[i], old))

    def _in_turn(self, at: Array, size: int, what: Any, change: Any) -> Array:
        old = in_turn(self._views[size], (at - _BASE) >> (size.bit_length() - 1), change)
        bytes_ = at[:, None] + np.arange(size)
        for shadow, start, chosen in self._shadowed(at):
            shadow.atomic(bytes_[chosen] - start, what)
        return old

    def finish(self) -> None:
        """Raise Race if a load of this launch has read what an unordered access wrote later. It is called
        when a launch has ended. What was lent is taken back."""
        reads_of, shadows = self._reads, self._shadows
        self._reads, self._shadows = {}, {}
        try:
            self._check_reads(reads_of, shadows)
        finally:
            self._take_back()

    def _check_reads(
        self, reads_of: dict[int, list[tuple[Array, int, Array, Any]]], shadows: dict[int, Shadow]
    ) -> None:
        for number, reads in reads_of.items():
            shadow = shadows.get(number)
            if shadow is None:
                continue
            start = int(self._found(False).starts[number])
            for at, width, stamp, what in reads:
                places = at[:, None] - start + np.arange(width)
                shadow.check_load(places, np.broadcast_to(stamp[:, None], places.shape), what)

    # Checks

    def _aligned(self, addresses: Array, align: int, what: Any) -> Array:
        at = addresses.view(np.int64) if addresses.dtype == np.uint64 else addresses.astype(np.int64)
        if align > 1:
            bad = (at & (align - 1)) != 0
            if bad.any():
                raise MemoryFault(
                    f"{what}: {int(bad.sum())} accesses are not aligned to {align} bytes, "
                    f"the first at {int(addresses[bad][0]):#x}"
                )
        return at

    def _checked(self, addresses: Array, width: int, stamp: Array, what: Any, align: int | None) -> Array:
        """The addresses as int64, if a load of ``width`` bytes may read them."""
        at = self._aligned(addresses, width if align is None else align, what)
        exact = self._found(False)
        inside = np.zeros(len(at), np.bool_)
        number = np.zeros(len(at), np.int64)
        if len(exact):
            number, inside = exact.find(at, width)
        if not inside.all():
            messages = self._found(True)
            rest = at[~inside]
            good = _readable(messages, rest, width, width if align is None else align)
            if not good.all():
                raise self._outside("reads", rest[~good], width, what)
        if inside.any():
            self._note_reads(at, width, stamp, number, inside, what)
        return at

    def _note_reads(
        self, at: Array, width: int, stamp: Array, number: Array, inside: Array, what: Any
    ) -> None:
        for n in np.unique(number[inside]).tolist():
            chosen = inside & (number == n)
            where, by = at[chosen], stamp[chosen]
            shadow = self._shadows.get(n)
            if shadow is not None:
                places = where[:, None] - int(self._found(False).starts[n]) + np.arange(width)
                shadow.check_load(places, np.broadcast_to(by[:, None], places.shape), what)
            self._reads.setdefault(n, []).append((where, width, by, what))

    def _writable(self, addresses: Array, width: int, what: Any, align: int | None) -> Array:
        """The addresses as int64, if a store of ``width`` bytes may write to them."""
        at = self._aligned(addresses, width if align is None else align, what)
        exact = self._found(False)
        inside = exact.find(at, width)[1] if len(exact) else np.zeros(len(at), np.bool_)
        if not inside.all():
            raise self._outside("writes to", at[~inside], width, what)
        return at

    def _shadowed(self, at: Array) -> Iterator[tuple[Shadow, int, Array]]:
        """The shadow and the start of each range that accesses hit, and which accesses these are."""
        exact = self._found(False)
        number = np.searchsorted(exact.starts, at, "right") - 1
        for n in np.unique(number).tolist():
            start = int(exact.starts[n])
            if n not in self._shadows:
                self._shadows[n] = Shadow(int(exact.ends[n]) - start)
            yield self._shadows[n], start, number == n

    def _outside(self, verb: str, bad: Array, width: int, what: Any) -> MemoryFault:
        first = int(bad[0])
        near = ""
        distances = []
        for vectors in (False, True):
            ranges = self._found(vectors)
            for start, end, name in zip(ranges.starts, ranges.ends, ranges.names, strict=True):
                if start <= first < end:
                    if verb == "reads" or not vectors:
                        distances.append((0, f"which crosses the end of {name} ({end - start} bytes)"))
                    else:
                        distances.append((0, f"which is in {name}, a message, which is only read"))
                elif first >= end:
                    distances.append((first - end, f"{first - end} bytes after the end of {name}"))
                else:
                    distances.append((start - first, f"{start - first} bytes before {name}"))
        if distances:
            near = f", {min(distances)[1]}"
        threads = "1 thread" if len(bad) == 1 else f"{len(bad)} threads"
        return MemoryFault(
            f"{what} {verb} {width} bytes outside the memory of the launch, in {threads}, "
            f"the first at {first & (1 << 64) - 1:#x}{near}"
        )


def _readable(messages: _Ranges, at: Array, width: int, align: int) -> Array:
    """Whether each load may read messages: an aligned vector that holds at least one byte of one. A vector
    that is only aligned to a part of its width is loads of such parts, which a compiler has merged: each
    part is to hold a byte of a message. In parts of single bytes, it is to lie within one message."""
    if not len(messages):
        return np.zeros(len(at), np.bool_)
    if align == 1:
        split = messages.find(at, width)[1]
    else:
        split = np.ones(len(at), np.bool_)
        for part in range(0, width, align):
            split &= messages.touched(at + part, align)
    if width > WIDEST_VECTOR or width & (width - 1):
        return split
    aligned = (at & (width - 1)) == 0
    return np.where(aligned, messages.touched(at, width), split)


def in_turn(view: Array, places: Array, change: Any) -> Array:
    """Change what is at places of an array, one after the other, and return what was there before each
    change. ``change`` gets what is there and the numbers of the changes, arrays, and returns new values."""
    old = np.zeros(len(places), view.dtype)
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(first)
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    # Changes in different places may be made together: first the first ones in each place, then the second.
    by_turn = order[np.argsort(turn, kind="stable")]
    begin = 0
    for end in np.cumsum(np.bincount(turn)).tolist():
        together = by_turn[begin:end]
        old[together] = view[places[together]]
        view[places[together]] = change(old[together], together)
        begin = end
    return old


def combined(operation: str, old: Array, value: Array) -> Array:
    """The results of an atomic operation on unsigned NumPy integers of one type."""
    with np.errstate(over="ignore"):
        match operation:
            case "add":
                return np.asarray(old + value)
            case "sub":
                return np.asarray(old - value)
            case "and":
                return np.asarray(old & value)
            case "or":
                return np.asarray(old | value)
            case "xor":
                return np.asarray(old ^ value)
            case "umin":
                return np.minimum(old, value)
            case "umax":
                return np.maximum(old, value)
            case "exch":
                return value
            case "min" | "max":
                choose = np.minimum if operation == "min" else np.maximum
                kind = np.dtype(old.dtype.str.replace("u", "i"))
                return np.asarray(choose(old.view(kind), value.view(kind)).view(old.dtype))
    raise ValueError(f"unknown atomic operation {operation!r}")


def _check_same(found: Array, data: Array, what: Any) -> None:
    if not np.array_equal(found, data):
        raise Race(f"{what}: threads store different values in one place at once")


class SharedMemory:
    """The shared memory of several programs that run side by side. Each has ``size`` bytes from the address
    ``start`` on, which nothing has written at first."""

    def __init__(self, programs: int, size: int, start: int = 0) -> None:
        self.start, self.end = start, start + size
        self.stride = -(-max(self.end, WIDEST_VECTOR) // 1024) * 1024
        """The distance of the memories of two programs in :attr:`raw`."""
        self.raw = np.full(programs * self.stride, _POISON, np.uint8)
        self.in_flight = np.zeros(len(self.raw), np.bool_)
        """Bytes to which an asynchronous copy is under way."""
        self._shadow = Shadow(len(self.raw))

    def index(self, program: Array, offset: Array, width: int, what: Any, align: int) -> Array:
        """Where the bytes of accesses are in :attr:`raw`: int64 ``[n, width]``. ``program`` and ``offset``
        are int64 ``[n]``. Raises MemoryFault."""
        offset = offset.astype(np.int64)
        bad = (offset < self.start) | (offset + width > self.end)
        if bad.any():
            raise MemoryFault(
                f"{what}: {int(bad.sum())} accesses of {width} bytes are outside the {self.end - self.start} "
                f"bytes of shared memory, which start at {self.start}; the first is at {int(offset[bad][0])}"
            )
        bad = (offset & (align - 1)) != 0
        if bad.any():
            raise MemoryFault(
                f"{what}: {int(bad.sum())} accesses to shared memory are not aligned to {align} bytes, "
                f"the first at {int(offset[bad][0])}"
            )
        return np.asarray((program * self.stride + offset)[:, None] + np.arange(width))

    def read(self, places: Array, stamp: Array, what: Any, used: Array | None = None) -> Array:
        """The bytes at ``places``, ``[n, width]``. ``used`` ``[width]`` says which of them the program uses;
        None stands for all. Raises Uninitialised or Race."""
        checked = places if used is None else places[:, used]
        if self.in_flight[checked].any():
            raise Uninitialised(f"{what} reads shared memory to which an asynchronous copy is under way")
        if (self._shadow.writer[checked] == NOBODY).any():
            raise Uninitialised(f"{what} reads shared memory that nothing has written")
        self._shadow.loaded(checked, stamp, what)
        return np.asarray(self.raw[places])

    def writers(self, places: Array) -> Array:
        """The stamps of those that wrote last to ``places``."""
        return np.asarray(self._shadow.writer[places])

    def write(self, places: Array, data: Array, stamp: Array, what: Any) -> None:
        """Write bytes ``[n, width]``. Raises Race."""
        if self.in_flight[places].any():
            raise Race(f"{what} writes to shared memory to which an asynchronous copy is under way")
        self._shadow.stored(places, stamp, self.raw[places] != data, what)
        self.raw[places] = data
        _check_same(self.raw[places], data, what)

    def load(
        self,
        program: Array,
        offset: Array,
        size: int,
        stamp: Array,
        what: Any,
        count: int = 1,
        *,
        align: int | None = None,
        used: Array | None = None,
    ) -> Array:
        """Load ``count`` consecutive elements of ``size`` bytes at each offset: unsigned ``[count, n]``."""
        width = size * count
        places = self.index(program, offset, width, what, width if align is None else align)
        data = self.read(places, stamp, what, used)
        return np.ascontiguousarray(np.ascontiguousarray(data).view(UNSIGNED[size]).T)

    def store(
        self,
        program: Array,
        offset: Array,
        values: Sequence[Array],
        stamp: Array,
        what: Any,
        *,
        align: int | None = None,
    ) -> None:
        """Store consecutive elements, ``[n]`` each and of one unsigned type, at each offset."""
        if not offset.size:
            return
        width = values[0].dtype.itemsize * len(values)
        places = self.index(program, offset, width, what, width if align is None else align)
        data = np.stack([np.broadcast_to(v, offset.shape) for v in values], axis=1)
        self.write(places, np.ascontiguousarray(data).view(np.uint8), stamp, what)

    def atomic(self, operation: str, program: Array, offset: Array, values: Array, what: Any) -> Array:
        """As :meth:`GlobalMemory.atomic`."""
        size = values.dtype.itemsize
        places = self.index(program, offset, size, what, size)
        if (self._shadow.writer[places] == NOBODY).any():
            raise Uninitialised(f"{what} changes shared memory that nothing has written")
        view = self.raw.view(values.dtype)
        old = in_turn(view, places[:, 0] // size, lambda old, i: combined(operation, old, values[i]))
        self._shadow.atomic(places, what)
        return old

    def expect(self, places: Array, stamp: Array, what: Any) -> None:
        """An asynchronous copy to these bytes starts: until it is delivered, nothing may access them."""
        changed = np.ones(places.shape, np.bool_)
        self._shadow.stored(places, stamp, changed, what)
        self.raw[places] = _POISON
        self.in_flight[places] = True

    def deliver(self, places: Array, data: Array, stamp: Array, what: Any) -> None:
        """Write what an asynchronous copy brought to bytes that were in flight."""
        self.in_flight[places] = False
        self.write(places, data, stamp, what)
