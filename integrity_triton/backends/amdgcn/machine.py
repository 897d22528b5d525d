"""The waves that run side by side: their registers, EXEC, LDS and private memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..emulation.faults import MemoryFault, Uninitialised
from ..emulation.memory import UNSIGNED, SharedMemory
from ..emulation.program import KernelLaunch
from .text import REGISTERS, SCALAR, SCC, Program, register_name

u32, u64 = np.uint32, np.uint64
Array = np.ndarray[Any, Any]

MASKS = REGISTERS
"""Where a scalar register, or a pair of them, is kept as a mask of lanes: at ``MASKS + number - SCALAR``."""
POOL = MASKS + 129
"""Where constants and temporaries of translated blocks start."""
POISON = u32(0xA5A5A5A5)
"""What registers hold that nothing has written."""

Registers = list[Any]
"""Values by the register's number: a word is an array that broadcasts to ``[waves, lanes]``, or, of a scalar
register, to ``[waves, 1]``. None is in registers that nothing has written."""


class Machine:
    """Several work-groups, ``first`` the number of the first of them, which run in lockstep as far as they go
    the same way."""

    def __init__(
        self, program: Program, launch: KernelLaunch, first: int, groups: int, pool: list[Any]
    ) -> None:
        self.launch = launch
        self.lanes = program.lanes
        waves = groups * program.waves
        self.shape = (waves, self.lanes)
        self.lane = np.arange(self.lanes)
        self.group = np.arange(waves) // program.waves
        """The group of each wave, counted from the first."""
        self.groups = np.repeat(self.group, self.lanes).reshape(self.shape)
        self.group_number = self.group + first
        self.wave_in_group = np.arange(waves) % program.waves
        self.registers: Registers = [None] * POOL + pool
        self.registers[SCC] = np.False_
        self.exec = np.ones(self.shape, bool)
        self._all_on = True
        self.active: Array | None = None
        """The lanes for which a block runs; None stands for all."""
        self.turn: Array | None = None
        """The waves for which a block runs, ``[waves, 1]``; None stands for all."""
        self.stamp = np.zeros(waves, np.int64)
        self._stamps = (self.stamp, np.zeros(self.shape, np.int64))
        self.unpacked: dict[int, tuple[list[Any], Array]] = {}
        """For scalar registers, words that were packed or unpacked last, and their mask."""
        self.saved: dict[int, Any] = {}
        """What the registers that a block writes held before, while the block does not run for all lanes."""
        self.partial: dict[int, Array] = {}
        """The lanes, or waves, that have written a register, where not all have."""
        shared = max(launch.shared_bytes, program.descriptor.get("group_segment_fixed_size", 0))
        self.shared = SharedMemory(groups, shared)
        self.private_bytes = -(-program.descriptor.get("private_segment_fixed_size", 0) // 16) * 16
        self._private: Array | None = None
        self.copies = Copies(self)

    # EXEC

    def begin(self, waves: Array | None, stamp: Array) -> None:
        """Choose the waves for which the next block runs."""
        self.stamp = stamp
        if waves is None:
            self.turn = None
            self.active = None if self._all_on else self.exec
        else:
            self.turn = waves[:, None]
            self.active = self.exec & self.turn

    def set_exec(self, lanes: Any) -> None:
        lanes = self.full(lanes)
        self.exec = lanes if self.turn is None else np.where(self.turn, lanes, self.exec)
        self._all_on = bool(self.exec.all())

    def some_on(self) -> Any:
        """Whether waves have lanes that are active, ``[waves, 1]`` or one boolean for all."""
        return np.True_ if self._all_on else np.logical_or.reduce(self.exec, axis=1, keepdims=True)

    def full(self, value: Any) -> Array:
        """A value of every lane, ``[waves, lanes]``."""
        if getattr(value, "shape", None) == self.shape:
            return np.asarray(value)
        return np.broadcast_to(value, self.shape)

    def masked(self, lanes: Any) -> Array:
        """A mask of lanes, without those that are not active."""
        return self.full(lanes) if self.active is None else lanes & self.active

    def pack(self, mask: Any) -> list[Array]:
        """A mask as words ``[waves, 1]``, the lower first."""
        bits = np.packbits(self.full(mask), axis=1, bitorder="little").view(u32)
        return [bits[:, k : k + 1] for k in range(bits.shape[1])]

    def unpack(self, register: int, words: list[Any]) -> Array:
        """The mask in scalar registers, of which ``register`` is the first."""
        known = self.unpacked.get(register)
        if known is not None and all(a is b for a, b in zip(known[0], words, strict=True)):
            return known[1]
        mask = self._unpack(words)
        self.unpacked[register] = words, mask
        return mask

    def _unpack(self, words: list[Any]) -> Array:
        columns = [np.broadcast_to(word, (self.shape[0], 1)) for word in words]
        raw = np.ascontiguousarray(np.concatenate(columns, axis=1)).view(np.uint8)
        return np.unpackbits(raw, axis=1, bitorder="little").view(bool)

    # Registers

    def merged(self, register: int) -> Any:
        """A vector register with what the lanes hold that are not active."""
        value = self.registers[register]
        if value is not None and register in self.saved:
            old = self.saved[register]
            return np.where(self._mask(register), value, POISON if old is None else old)
        return POISON if value is None else value

    def whole(self, register: int) -> Array:
        return self.full(self.merged(register))

    def set_whole(self, register: int, value: Any) -> None:
        """Write a vector register in all lanes, whatever EXEC is."""
        self.registers[register] = value
        if register in self.saved:
            old = self.saved[register]
            keep = POISON if old is None else old
            self.saved[register] = value if self.turn is None else np.where(self.turn, value, keep)

    def _mask(self, register: int) -> Array:
        mask = self.active if register < SCALAR else self.turn
        return np.asarray(True if mask is None else mask)

    def save(self, registers: tuple[int, ...]) -> None:
        self.saved = {}
        if self.active is not None:
            values = self.registers
            self.saved = {n: values[n] for n in registers}

    def commit(self, registers: tuple[int, ...], dropped: tuple[int, ...]) -> None:
        """Give the lanes, or waves, for which a block did not run their values back. No later block reads
        what is in ``dropped``, but waves that have yet to come to this block may."""
        if self.active is None:
            if self.partial:
                for n in registers:
                    self.partial.pop(n, None)
            return
        for n in dropped:
            self.registers[n] = self.saved[n]
        for n in registers:
            mask, old = self._mask(n), self.saved[n]
            if mask.ndim == 0:
                self.partial.pop(n, None)
                continue
            if old is None:
                self.partial[n] = mask
                old = POISON
            elif n in self.partial:
                self.partial[n] = self.partial[n] | mask
            self.registers[n] = np.where(mask, self.registers[n], old)
        self.saved = {}

    def check_written(self, register: int, user: object) -> None:
        """Raise Uninitialised if an active lane has not written a register."""
        if self.registers[register] is None:
            raise Uninitialised(f"{user} reads {register_name(register)}, which nothing has written")
        written = self.partial.get(register)
        if written is not None and (self._mask(register) & ~written).any():
            raise Uninitialised(
                f"{user} reads {register_name(register)}, which some of its lanes have not written"
            )

    # Lanes that access memory

    def flat(self, value: Any) -> Array:
        """A value of each active lane, ``[n]``."""
        lanes = self.full(value)
        return lanes.reshape(-1) if self.active is None else lanes[self.active]

    def spread(self, values: Array, lanes: Array | None) -> Array:
        """The reverse of :meth:`flat`; the other lanes hold 0. ``lanes`` are those that have a value."""
        if lanes is None:
            return values.reshape(self.shape)
        whole = np.zeros(self.shape, values.dtype)
        whole[lanes] = values
        return whole

    def stamps(self) -> Array:
        """The stamp of each lane's accesses, ``[waves, lanes]``."""
        if self._stamps[0] is not self.stamp:
            self._stamps = self.stamp, np.repeat(self.stamp, self.lanes).reshape(self.shape)
        return self._stamps[1]

    # Private memory

    def private(self, address: Array, width: int, what: object) -> Array:
        """Where the bytes of accesses to private memory are, int64 ``[n, width]``."""
        offset = address.astype(np.int64)
        if offset.size and int(offset.max()) + width > self.private_bytes:
            raise MemoryFault(f"{what} is outside of the {self.private_bytes} bytes of private memory")
        if self._private is None:
            self._private = np.full(self.shape[0] * self.lanes * self.private_bytes, 0xA5, np.uint8)
        lane = self.flat(np.arange(self.shape[0] * self.lanes).reshape(self.shape))
        return np.asarray((lane * self.private_bytes + offset)[:, None] + np.arange(width))

    def private_load(self, address: Array, size: int, count: int, what: object) -> Array:
        places = self.private(address, size * count, what)
        if self._private is None:
            raise MemoryFault(f"{what}: the kernel has no private memory")
        data = np.ascontiguousarray(self._private[places])
        return np.ascontiguousarray(data.view(UNSIGNED[size]).T)

    def private_store(self, address: Array, values: list[Array], what: object) -> None:
        places = self.private(address, values[0].dtype.itemsize * len(values), what)
        if self._private is None:
            raise MemoryFault(f"{what}: the kernel has no private memory")
        data = np.ascontiguousarray(np.stack(values, axis=1)).view(np.uint8)
        self._private[places] = data


class Copies:
    """Loads from global memory to LDS that are under way. They arrive in the order in which they were
    started, among the other accesses that ``vmcnt`` counts, when their wave has waited for them; until then
    nobody may access their places."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._started = np.zeros(machine.shape[0], np.int64)
        """How many accesses each wave has started that ``vmcnt`` counts."""
        self._pending: list[tuple[Array, Array, Array, Array]] = []
        """The waves of lanes, the numbers of their accesses, places in LDS, and data."""

    def count(self) -> None:
        """The waves whose turn it is start an access."""
        turn = self._machine.turn
        self._started = self._started + (1 if turn is None else turn[:, 0])

    def start(self, waves: Array, places: Array, data: Array, stamp: Array, what: object) -> None:
        """Lanes, of these waves, start to load ``data`` to ``places``, uint8 and int64 ``[n, width]``."""
        self._machine.shared.expect(places, stamp, what)
        self._pending.append((waves, self._started[waves], places, data))

    def wait(self, left: int, what: object) -> None:
        """The waves whose turn it is wait until at most ``left`` accesses are under way."""
        machine, still = self._machine, []
        for waves, numbers, places, data in self._pending:
            ready = numbers < self._started[waves] - left
            if machine.turn is not None:
                ready &= machine.turn[waves, 0]
            if ready.any():
                stamp = machine.stamp[waves[ready]]
                machine.shared.deliver(places[ready], data[ready], stamp, what)
            if not ready.all():
                kept = ~ready
                still.append((waves[kept], numbers[kept], places[kept], data[kept]))
        self._pending = still


def start(program: Program, machine: Machine, segment: Array) -> tuple[int, ...]:
    """Give the registers the values that the dispatcher gives them. ``segment`` holds the arguments as words.
    Returns the registers into which arguments are preloaded."""
    r, given = machine.registers, program.descriptor
    at = SCALAR
    for name, size in (
        ("private_segment_buffer", 4),
        ("dispatch_ptr", 2),
        ("queue_ptr", 2),
        ("kernarg_segment_ptr", 2),
        ("dispatch_id", 2),
        ("flat_scratch_init", 2),
        ("private_segment_size", 1),
    ):
        if given.get(f"user_sgpr_{name}"):
            if name == "kernarg_segment_ptr":
                address = segment.ctypes.data
                r[at], r[at + 1] = u32(address & 0xFFFFFFFF), u32(address >> 32)
            at += size
    first = given.get("user_sgpr_kernarg_preload_offset", 0)
    preloaded = tuple(range(at, at + program.preloaded))
    for k, register in enumerate(preloaded):
        r[register] = segment[first + k]
    gx, gy, _ = machine.launch.grid
    number = machine.group_number
    ids = [(part.astype(u32))[:, None] for part in (number % gx, number // gx % gy, number // (gx * gy))]
    if program.group_ids_in_ttmp:
        r[SCALAR + 108 + 9] = ids[0]
        r[SCALAR + 108 + 8] = (machine.wave_in_group.astype(u32) << u32(25))[:, None]
        r[SCALAR + 108 + 7] = ids[1] | (ids[2] << u32(16))
    else:
        at = SCALAR + given["user_sgpr_count"]
        for axis, value in zip("xyz", ids, strict=True):
            if given.get(f"system_sgpr_workgroup_id_{axis}"):
                r[at] = value
                at += 1
    r[0] = (machine.wave_in_group[:, None] * machine.lanes + machine.lane).astype(u32)
    return preloaded
