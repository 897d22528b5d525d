"""Runs the translated blocks of a kernel: several programs side by side, and what their instructions do
beyond arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..emulation.faults import EmulationError, Race, Unmodelled
from ..emulation.memory import UNSIGNED, SharedMemory
from ..emulation.program import KernelLaunch
from ..emulation.scheduler import Scheduler
from .matrices import accumulator, descriptor_rows, left_fragment, right_fragment
from .parser import SHARED_START
from .registers import Written

if TYPE_CHECKING:
    from .program import PtxProgram

Array = np.ndarray[Any, Any]

WARP, WARP_GROUP = 32, 128
_KINDS = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
_POISON = 0xA5A5A5A5A5A5A5A5
_REDUCTIONS = {
    "add": np.add,
    "xor": np.bitwise_xor,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "min": np.minimum,
    "max": np.maximum,
}


class Run:
    """Some of the programs of a launch, ``programs`` from number ``first`` on."""

    def __init__(self, program: PtxProgram, launch: KernelLaunch, first: int, programs: int) -> None:
        module = program.module
        self._program, self._launch = program, launch
        self._memory = launch.memory
        self.threads, self.lanes = module.threads, module.threads * programs
        self._sizes = dict(module.parameters)
        self._arguments = {
            name: int(value) & ((1 << 8 * size) - 1)
            for (name, size), value in zip(module.parameters, launch.arguments, strict=True)
        }
        self._shape = (self.lanes,)
        lane = np.arange(self.lanes)
        self.program = lane // self.threads
        """The program of each thread, from 0."""
        self.shared = SharedMemory(programs, max(module.static_shared, launch.shared_bytes), SHARED_START)
        self.scheduler = Scheduler(
            programs,
            self.threads,
            WARP,
            seed=launch.seed + first,
            reorder=program.reorder,
            first_program=first,
        )
        self.copies = Copies(self)
        self.written = Written(self)
        self.products = Products(self)
        self._special(lane, first)
        self._proxy = np.ones(len(self.shared.raw), np.bool_)
        """Bytes of shared memory that asynchronous instructions may read, as far as fences are needed."""

    def _special(self, lane: Array, first: int) -> None:
        """Special registers (PTX ISA, "Special Registers")."""
        x, y, _ = self._launch.grid
        number = self.program + first
        self.tid_x = (lane % self.threads).astype(np.uint32)
        self.ctaid_x = (number % x).astype(np.uint32)
        self.ctaid_y = (number // x % y).astype(np.uint32)
        self.ctaid_z = (number // (x * y)).astype(np.uint32)
        self.laneid = (lane % WARP).astype(np.uint32)
        self.tid_y = self.tid_z = self.full(np.uint32(0))
        self.ntid_x, self.ntid_y, self.ntid_z = (self.full(np.uint32(n)) for n in (self.threads, 1, 1))
        self.nctaid_x, self.nctaid_y, self.nctaid_z = (self.full(np.uint32(n)) for n in self._launch.grid)

    def go(self) -> None:
        """Run all threads to their end. Raises EmulationError."""
        widths = self._program.module.widths
        registers: dict[str, Array] = {
            name: np.full(self.lanes, _POISON & ((1 << widths[name]) - 1), _KINDS[widths[name]])
            for name in self._program.crossing
        }
        functions, coverage = self._program.functions, self._launch.coverage

        def step(number: int, mask: Array | None) -> tuple[int, Array | None, int]:
            coverage.block(number)
            found: tuple[int, Array | None, int] = functions[number](self, registers, mask)
            return found

        with np.errstate(all="ignore"):
            self.scheduler.run(step)

    # Lanes

    def full(self, value: Any) -> Array:
        """A value for each thread."""
        return value if value.shape == self._shape else np.full(self.lanes, value)

    def chosen(self, mask: Array | None) -> Array:
        """The numbers of the threads in a mask."""
        return np.arange(self.lanes) if mask is None else np.flatnonzero(mask)

    def stamp(self, lanes: Array) -> Array:
        return np.asarray(self.scheduler.stamp[lanes])

    def together(self, mask: Array | None, width: int, what: Any) -> None:
        """Raise EmulationError unless all threads of each group of ``width`` execute an instruction, or
        none."""
        if mask is not None:
            groups = mask.reshape(-1, width)
            if not (groups.all(1) == groups.any(1)).all():
                raise EmulationError(f"{what}: not all {width} threads execute it together")

    def whole_warps(self, members: Array, mask: Array | None, what: Any) -> None:
        self.together(mask, WARP, what)
        if ((members if mask is None else members[mask]) != 0xFFFFFFFF).any():
            raise Unmodelled(f"{what}: only some threads of a warp take part")

    # Memory

    def parameter(self, name: str, offset: int, size: int) -> Array:
        if offset + size > self._sizes[name]:
            raise Unmodelled(f"{size} bytes at {offset} of parameter {name}")
        value = self._arguments[name] >> (8 * offset) & ((1 << 8 * size) - 1)
        return np.full(self.lanes, value, UNSIGNED[size])

    def _spread(self, found: Array, lanes: Array, mask: Array | None) -> Sequence[Array]:
        """``[count, n]`` of some threads as values of all threads."""
        if mask is None:
            return list(found)
        out = np.zeros((len(found), self.lanes), found.dtype)
        out[:, lanes] = found
        return list(out)

    def load_global(
        self, address: Array, size: int, count: int, mask: Array | None, what: Any
    ) -> Sequence[Array]:
        lanes = self.chosen(mask)
        if not len(lanes):
            return [np.zeros(self.lanes, UNSIGNED[size])] * count
        found = self._memory.load(address[lanes], size, self.stamp(lanes), what, count)
        return self._spread(found, lanes, mask)

    def load_bytes(self, address: Array, size: int, lanes: Array, align: int, what: Any) -> Array:
        """Bytes of global memory for some threads, ``[n, size]``."""
        return self._memory.load_bytes(address, size, self.stamp(lanes), what, align=align)

    def store_global(self, address: Array, values: Sequence[Any], mask: Array | None, what: Any) -> None:
        lanes = self.chosen(mask)
        if len(lanes):
            given = [self.full(value)[lanes] for value in values]
            self._memory.store(address[lanes], given, self.stamp(lanes), what)

    def load_shared(
        self, address: Array, size: int, count: int, mask: Array | None, what: Any, used: int = -1
    ) -> Sequence[Array]:
        lanes = self.chosen(mask)
        if not len(lanes):
            return [np.zeros(self.lanes, UNSIGNED[size])] * count
        kept = np.array([used >> i & 1 for i in range(size * count)], np.bool_) if used >= 0 else None
        found = self.shared.load(
            self.program[lanes], address[lanes], size, self.stamp(lanes), what, count, used=kept
        )
        return self._spread(found, lanes, mask)

    def store_shared(self, address: Array, values: Sequence[Any], mask: Array | None, what: Any) -> None:
        lanes = self.chosen(mask)
        if len(lanes):
            given = [self.full(value)[lanes] for value in values]
            width = given[0].dtype.itemsize * len(given)
            self.shared.store(self.program[lanes], address[lanes], given, self.stamp(lanes), what)
            self.touched(self.shared.index(self.program[lanes], address[lanes], width, what, 1), what)

    def touched(self, places: Array, what: Any) -> None:
        """Note what ordinary stores have written. Raises Race if a product is still reading it."""
        self.products.check(places, what)
        self._proxy[places] = False

    def fence_proxy(self, mask: Array | None) -> None:
        """``fence.proxy.async``: what these warps have written, and what others have written before a barrier
        that both have passed, becomes visible to asynchronous instructions (PTX ISA, "Proxy-preserved Base
        Causality Order")."""
        if self._proxy.all():
            return
        lanes = self.chosen(mask)
        places = np.flatnonzero(~self._proxy)
        writers = self.shared.writers(places)
        own = np.isin(writers >> 28, self.stamp(lanes) >> 28)  # program and warp
        fencing = np.zeros(len(self.scheduler.epoch), np.bool_)
        fencing[self.program[lanes]] = True
        program = places // self.shared.stride
        earlier = fencing[program] & (writers & ((1 << 28) - 1) < self.scheduler.epoch[program])
        self._proxy[places[own | earlier]] = True

    def check_proxy(self, places: Array, what: Any) -> None:
        """Raises Race if an asynchronous instruction reads what no fence made visible to it."""
        if not self._proxy[places].all():
            raise Race(f"{what} reads shared memory, and no fence.proxy.async follows the stores to it")

    def atomic_global(
        self, address: Array, operation: str, values: Sequence[Array], mask: Array | None, what: Any
    ) -> Array:
        lanes = self.chosen(mask)
        given = [value[lanes] for value in values]
        if operation == "cas":
            old = self._memory.compare_swap(address[lanes], given[0], given[1], what)
        else:
            old = self._memory.atomic(operation, address[lanes], given[0], what)
        return self._spread(old[None], lanes, mask)[0]

    def atomic_shared(
        self, address: Array, operation: str, values: Sequence[Array], mask: Array | None, what: Any
    ) -> Array:
        if operation == "cas":
            raise Unmodelled(f"{what}: compare-and-swap in shared memory")
        lanes = self.chosen(mask)
        old = self.shared.atomic(operation, self.program[lanes], address[lanes], values[0][lanes], what)
        return self._spread(old[None], lanes, mask)[0]

    # Synchronisation

    def barrier(self, mask: Array | None, what: Any) -> None:
        self.together(mask, WARP, what)
        self.scheduler.barrier(mask)

    # Warps

    def shuffle(
        self, mode: str, a: Array, b: Array, c: Array, members: Array, mask: Array | None, what: Any
    ) -> tuple[Array, Array]:
        """``shfl.sync``: the values, and whether the lane that was asked for is in range."""
        self.whole_warps(members, mask, what)
        lane = self.laneid.astype(np.int64)
        b, c = b.astype(np.int64) & 31, c.astype(np.int64)
        clamp, segment = c & 31, c >> 8 & 31
        lowest = lane & segment
        limit = lowest | (clamp & ~segment)
        if mode == "up":
            source = lane - b
            good = source >= limit
        else:
            source = {"down": lane + b, "bfly": lane ^ b, "idx": lowest | (b & ~segment)}[mode]
            good = source <= limit
        source = np.where(good, source, lane)
        self.shuffled_from = np.arange(self.lanes) // WARP * WARP + source
        return a[self.shuffled_from], good

    def reduce(self, operation: str, value: Array, members: Array, mask: Array | None, what: Any) -> Array:
        """``redux.sync``."""
        self.whole_warps(members, mask, what)
        found = _REDUCTIONS[operation].reduce(value.reshape(-1, WARP), axis=1, dtype=value.dtype)
        return np.repeat(found, WARP).view(np.uint32)

    def vote(self, mode: str, condition: Array, members: Array, mask: Array | None, what: Any) -> Array:
        """``vote.sync``."""
        self.whole_warps(members, mask, what)
        warps = condition.reshape(-1, WARP)
        if mode == "ballot":
            bits = (warps.astype(np.uint32) << np.arange(WARP, dtype=np.uint32)).sum(1, dtype=np.uint32)
            return np.repeat(bits, WARP)
        return np.repeat(warps.all(1) if mode == "all" else warps.any(1), WARP)

    # Matrices

    def _rows(self, address: Array, count: int, mask: Array | None, what: Any) -> tuple[Array, Array, Array]:
        """The warps that execute a load or a store of ``count`` matrices of 8 rows, the threads that give the
        addresses of the rows, and where the rows' 16 bytes are."""
        self.together(mask, WARP, what)
        warps = np.arange(self.lanes // WARP)
        if mask is not None:
            warps = np.flatnonzero(mask.reshape(-1, WARP)[:, 0])
        lanes = (warps[:, None] * WARP + np.arange(8 * count)).reshape(-1)
        return warps, lanes, self.shared.index(self.program[lanes], address[lanes], 16, what, 16)

    def load_matrix(
        self, address: Array, count: int, transposed: bool, mask: Array | None, what: Any
    ) -> list[Array]:
        """``ldmatrix``: lane t gets elements ``t % 4 * 2`` and the next of row ``t / 4``."""
        warps, lanes, places = self._rows(address, count, mask, what)
        data = self.shared.read(places, self.stamp(lanes), what)
        elements = np.ascontiguousarray(data).view(np.uint16).reshape(len(warps), count, 8, 8)
        if transposed:
            elements = elements.swapaxes(2, 3)
        words = np.ascontiguousarray(elements).reshape(len(warps), count, 64).view(np.uint32)
        out = np.zeros((count, self.lanes // WARP, WARP), np.uint32)
        out[:, warps] = words.swapaxes(0, 1)
        return list(out.reshape(count, self.lanes))

    def store_matrix(
        self, address: Array, values: Sequence[Array], transposed: bool, mask: Array | None, what: Any
    ) -> None:
        """``stmatrix``."""
        warps, lanes, places = self._rows(address, len(values), mask, what)
        words = np.stack([np.ascontiguousarray(v).reshape(-1, WARP)[warps] for v in values], axis=1)
        elements = np.ascontiguousarray(words).view(np.uint16).reshape(len(warps), len(values), 8, 8)
        if transposed:
            elements = elements.swapaxes(2, 3)
        data = np.ascontiguousarray(elements).view(np.uint8).reshape(-1, 16)
        self.shared.write(places, data, self.stamp(lanes), what)
        self.touched(places, what)

    def mma(
        self,
        a: Sequence[Array],
        b: Sequence[Array],
        c: Sequence[Array],
        left_signed: bool,
        right_signed: bool,
        saturate: bool,
        name: str,
        mask: Array | None,
        what: Any,
    ) -> list[Array]:
        """``mma.sync`` of 8-bit integers."""
        self.together(mask, WARP, what)
        product = (left_fragment(a, left_signed) @ right_fragment(b, right_signed)).astype(np.int64)
        here = product if mask is None else product[mask.reshape(-1, WARP)[:, 0]]
        self._launch.coverage.matrix(name, (here != 0).any((0, 2)), (here != 0).any((0, 1)))
        out = []
        for part, addend in zip(accumulator(product, 4), c, strict=True):
            total = part + addend.view(np.int32)
            if saturate:
                total = np.clip(total, -(1 << 31), (1 << 31) - 1)
            out.append(total.astype(np.uint32))
        return out

    def wgmma(
        self,
        d: Sequence[Array],
        a: Sequence[Array] | Array,
        descriptor: Array,
        scale: Array,
        columns: int,
        left_signed: bool,
        right_signed: bool,
        name: str,
        mask: Array | None,
        what: Any,
    ) -> list[Array]:
        """``wgmma.mma_async`` of 8-bit integers, of which A is in registers or in shared memory."""
        self.together(mask, WARP_GROUP, what)
        groups = self.lanes // WARP_GROUP
        here = np.arange(groups) if mask is None else np.flatnonzero(mask.reshape(-1, WARP_GROUP)[:, 0])
        out = [value.copy() for value in d]
        fragments = None
        if isinstance(a, tuple):
            fragments = left_fragment(a, left_signed).reshape(groups, 64, 32)
        for group in here.tolist():
            lanes = slice(WARP_GROUP * group, WARP_GROUP * (group + 1))
            right = self._described(descriptor[lanes], group, columns, right_signed, what)
            if fragments is not None:
                left = fragments[group]
            else:
                assert isinstance(a, np.ndarray)
                left = self._described(a[lanes], group, 64, left_signed, what)
            product = (left @ right.T).astype(np.int64)
            self._launch.coverage.matrix(name, (product != 0).any(1), (product != 0).any(0))
            parts = accumulator(product.reshape(4, 16, columns), len(d))
            for i, part in enumerate(parts):
                old = d[i][lanes] if scale[lanes].all() else np.uint32(0)
                out[i][lanes] = part.astype(np.uint32) + old
            if scale[lanes].any() != scale[lanes].all():
                raise EmulationError(f"{what}: its threads disagree about the addend")
        return out

    def _described(self, descriptor: Array, group: int, rows: int, signed: bool, what: Any) -> Array:
        """A matrix in shared memory, float64 ``[rows, 32]``."""
        if (descriptor != descriptor[0]).any():
            raise EmulationError(f"{what}: its threads have different descriptors")
        at = descriptor_rows(int(descriptor[0]), rows)
        if int(at.min()) < self.shared.start or int(at.max()) >= self.shared.end:
            raise EmulationError(
                f"{what}: the matrix is outside shared memory, from {int(at.min())} to {int(at.max())}"
            )
        places = at + int(self.program[WARP_GROUP * group]) * self.shared.stride
        self.check_proxy(places, what)
        data = None
        for warp in range(4):
            stamp = self.stamp(np.full(rows, WARP_GROUP * group + WARP * warp))
            data = self.shared.read(places, stamp, what)
        assert data is not None
        self.products.reading(group, places)
        return np.ascontiguousarray(data).view(np.int8 if signed else np.uint8).astype(np.float64)


class Copies:
    """``cp.async``: copies from global to shared memory that are under way."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._group = np.zeros(run.lanes, np.int64)
        """How many groups each thread has committed."""
        self._pending: list[tuple[Array, Array, Array, Array]] = []
        """Threads, their groups, places in shared memory, and data."""

    def start(self, to: Array, source: Array, size: int, given: Array, mask: Array | None, what: Any) -> None:
        """Copy ``given`` bytes to each place, which is filled up to ``size`` with zeros. Whoever reads the
        place before the copy was waited for gets an error."""
        run = self._run
        lanes = run.chosen(mask)
        if not len(lanes):
            return
        places = run.shared.index(run.program[lanes], to[lanes], size, what, size)
        given = given[lanes]
        if (given > size).any():
            raise EmulationError(f"{what}: more bytes are to be read than to be copied")
        data = np.zeros((len(lanes), size), np.uint8)
        for count in np.unique(given).tolist():
            rows = np.flatnonzero(given == count)
            if count == size:
                data[rows] = run.load_bytes(source[lanes[rows]], size, lanes[rows], size, what)
            elif count:
                data[rows, :count] = run.load_bytes(source[lanes[rows]], count, lanes[rows], 1, what)
        run.touched(places, what)
        run.shared.expect(places, run.stamp(lanes), what)
        self._pending.append((lanes, self._group[lanes], places, data))

    def commit(self, mask: Array | None) -> None:
        self._group = self._group + (1 if mask is None else mask)

    def wait(self, left: int, mask: Array | None, what: Any) -> None:
        """Wait until at most ``left`` groups of each thread are under way."""
        self._deliver(self._group - left, mask, what)

    def wait_all(self, mask: Array | None, what: Any) -> None:
        self._deliver(self._group + 1, mask, what)

    def _deliver(self, before: Array, mask: Array | None, what: Any) -> None:
        run, still = self._run, []
        for lanes, group, places, data in self._pending:
            ready = group < before[lanes]
            if mask is not None:
                ready = ready & mask[lanes]
            if ready.any():
                run.shared.deliver(places[ready], data[ready], run.stamp(lanes[ready]), what)
            if not ready.all():
                kept = ~ready
                still.append((lanes[kept], group[kept], places[kept], data[kept]))
        self._pending = still


class Products:
    """Products of matrices in shared memory that are under way: until they were waited for, nothing may write
    to the matrices (PTX ISA, "Asynchronous wgmma")."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._committed = np.zeros(max(1, run.lanes // WARP_GROUP), np.int64)
        self._reading: list[tuple[int, int, Array]] = []

    def reading(self, group: int, places: Array) -> None:
        self._reading.append((group, int(self._committed[group]), places))

    def _groups(self, mask: Array | None) -> Array:
        return np.ones(len(self._committed), np.bool_) if mask is None else mask[::WARP_GROUP]

    def commit(self, mask: Array | None) -> None:
        self._committed += self._groups(mask)

    def wait(self, left: int, mask: Array | None) -> None:
        here = self._groups(mask)
        self._reading = [
            entry
            for entry in self._reading
            if not (here[entry[0]] and entry[1] < self._committed[entry[0]] - left)
        ]

    def check(self, places: Array, what: Any) -> None:
        for _, _, read in self._reading:
            if np.isin(places, read).any():
                raise Race(f"{what} writes to a matrix that a product under way is reading")
