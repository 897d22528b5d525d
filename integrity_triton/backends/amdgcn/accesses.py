"""Instructions that access memory: scalar loads, global memory and buffers, LDS and private memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..emulation.faults import Unmodelled
from ..emulation.memory import UNSIGNED
from . import crosslane
from .arithmetic import join, u32, u64
from .effects import fills_lds, returns
from .machine import Array, Machine, Registers
from .text import M0, Instruction, Operand

if TYPE_CHECKING:
    from .translate import Translator


@dataclass(frozen=True)
class Width:
    """What one access of a lane moves."""

    size: int
    """Bytes of an element."""
    count: int
    signed: bool = False


_WIDTHS = {
    **dict.fromkeys(("ubyte", "u8", "byte", "b8"), Width(1, 1)),
    **dict.fromkeys(("sbyte", "i8"), Width(1, 1, True)),
    **dict.fromkeys(("ushort", "u16", "short", "b16"), Width(2, 1)),
    **dict.fromkeys(("sshort", "i16"), Width(2, 1, True)),
    **dict.fromkeys(("dword", "b32"), Width(4, 1)),
    **dict.fromkeys(("dwordx2", "b64"), Width(4, 2)),
    **dict.fromkeys(("dwordx3", "b96"), Width(4, 3)),
    **dict.fromkeys(("dwordx4", "b128"), Width(4, 4)),
}
_ACCESS = re.compile(
    r"(s_load|global_(load|store|atomic)|buffer_(load|store|atomic)|scratch_(load|store)"
    r"|ds_(read|write|load|store|bpermute))"
)
_ATOMICS = {
    "add": "add",
    "sub": "sub",
    "and": "and",
    "or": "or",
    "xor": "xor",
    "swap": "exch",
    "smin": "min",
    "smax": "max",
    "min": "min",
    "max": "max",
    "umin": "umin",
    "umax": "umax",
}

Address = Callable[[Registers], Any]


def is_access(i: Instruction) -> bool:
    return _ACCESS.match(i.name) is not None


def translate(t: Translator, i: Instruction) -> None:
    """Add the steps of a memory access to a block. Raises Unmodelled."""
    name = i.name
    if name.startswith("s_load"):
        _scalar_load(t, i)
    elif name == "ds_bpermute_b32":
        _bpermute(t, i)
    elif "atomic" in name:
        _atomic(t, i)
    elif name.startswith("ds_"):
        _lds(t, i)
    elif fills_lds(i):
        _load_to_lds(t, i)
    else:
        _vector(t, i)


def _number(i: Instruction, key: str) -> int:
    return int(i.modifiers.get(key, "0"), 0)


def _plain_name(name: str) -> tuple[str, int | None]:
    """A name without its ``d16``, and which half of the register that means."""
    if "_d16_hi" in name:
        return name.replace("_d16_hi", ""), 1
    return name.replace("_d16", ""), 0 if "_d16" in name else None


def _width(name: str) -> Width:
    return _WIDTHS[name.rpartition("_")[2]]


def _put(t: Translator, operand: Operand, half: int | None) -> Callable[[Registers, list[Any]], None]:
    """A function that writes the words of a load."""
    registers = operand.registers
    if half is not None:
        (n,) = registers
        keep, shift = (u32(0xFFFF), u32(16)) if half else (u32(0xFFFF0000), u32(0))
        poison = u32(0xA5A5A5A5)

        def part(r: Registers, words: list[Any]) -> None:
            old = poison if r[n] is None else r[n]
            r[n] = (old & keep) | ((words[0] << shift) & ~keep)

        return part

    def whole(r: Registers, words: list[Any]) -> None:
        for n, word in zip(registers, words, strict=True):
            r[n] = word

    return whole


def _words(data: Array, width: Width) -> list[Any]:
    """Elements ``[count, n]`` as words."""
    if width.size == 4:
        return list(data)
    if width.signed:
        kind = np.int8 if width.size == 1 else np.int16
        return [row.view(kind).astype(np.int32).view(u32) for row in data]
    return [row.astype(u32) for row in data]


def _elements(
    t: Translator, operand: Operand, width: Width, half: int | None
) -> Callable[[Registers], list[Any]]:
    """The values that a store writes, before they are cut to their size."""
    registers = t.words(operand, width.count)
    shift = u32(16 if half else 0)
    return lambda r: [r[n] >> shift for n in registers] if half else [r[n] for n in registers]


# Scalar loads


def _scalar_load(t: Translator, i: Instruction) -> None:
    found = re.fullmatch(r"s_load_(?:dword(?:x(\d+))?|b(\d+))", i.name)
    if found is None:
        raise Unmodelled("this load is not modelled")
    count = int(found[2]) // 32 if found[2] else int(found[1] or 1)
    destination, base, offset = i.operands
    low, high = t.words(base, 2)
    added = t.fetch(offset) if offset.kind == "register" else None
    constant = u64(
        ((offset.number if offset.kind == "immediate" else 0) + _number(i, "offset")) & (2**64 - 1)
    )
    t._forget(destination.number, count)
    first = destination.number

    def run(r: Registers, m: Machine) -> None:
        address = join(np.asarray(r[low]), np.asarray(r[high])) + constant
        if isinstance(added, int):
            address = address + np.asarray(r[added]).astype(u64)
        waves = np.broadcast_to(address, (m.shape[0], 1))[:, 0]
        same = np.ndim(address) == 0
        here = np.arange(m.shape[0]) if m.turn is None else np.flatnonzero(m.turn[:, 0])
        if same:
            here = here[:1]
        data = m.launch.memory.load(waves[here], 4, m.stamp[here], i, count, align=4)
        for k in range(count):
            if same:
                r[first + k] = data[k][0]
            else:
                whole = np.zeros((m.shape[0], 1), u32)
                whole[here, 0] = data[k]
                r[first + k] = whole

    t.steps.append(run)


# Global memory, buffers and private memory


def _global_address(t: Translator, i: Instruction, offset: Operand, base: Operand) -> Address:
    constant = u64(_number(i, "offset") & (2**64 - 1))
    if base.kind == "off":
        low, high = t.words(offset, 2)
        return lambda r: join(r[low], r[high]) + constant
    low, high = t.words(base, 2)
    (n,) = t.words(offset, 1)
    return lambda r: join(r[low], r[high]) + r[n].astype(u64) + constant


def _private_address(t: Translator, i: Instruction, offset: Operand, base: Operand) -> Address:
    parts = [t.words(o, 1)[0] for o in (offset, base) if o.kind != "off"]
    constant = u32(_number(i, "offset") & 0xFFFFFFFF)

    def address(r: Registers) -> Any:
        total: Any = constant
        for n in parts:
            total = total + r[n]
        return total

    return address


@dataclass(frozen=True)
class _Buffer:
    """A buffer's address, which a descriptor of four words bounds ("Buffer Resource Descriptor")."""

    words: list[int]
    offset: int
    scalar: int
    constant: int

    def addresses(self, r: Registers, m: Machine, width: int, what: Instruction) -> tuple[Any, Any]:
        """The address of each lane, and whether the access is within the buffer. Loads outside of it give 0;
        stores have no effect."""
        base_low, base_high, size, _ = (np.asarray(r[n]) for n in self.words)
        strides = base_high >> u32(16)
        if (strides if m.turn is None else strides * m.turn).any():
            raise Unmodelled(f"{what}: a buffer with a stride, or a swizzled one")
        inside = np.asarray(r[self.offset]).astype(u64) + u64(self.constant)
        scalar = np.asarray(r[self.scalar]).astype(u64)
        limit = size.astype(np.int64) - scalar.view(np.int64)
        starts, ends = inside.view(np.int64) < limit, inside.view(np.int64) + width <= limit
        if m.masked(starts != ends).any():
            raise Unmodelled(f"{what}: an access across the end of a buffer")
        return join(base_low, base_high & u32(0xFFFF)) + scalar + inside, ends


def _buffer(t: Translator, i: Instruction, operands: tuple[Operand, ...]) -> _Buffer:
    offset, descriptor, scalar = operands
    if "offen" not in i.modifiers and offset.kind != "off":
        raise Unmodelled("this form of a buffer's address is not modelled")
    place = t.words(offset, 1)[0] if "offen" in i.modifiers else t.constant(0)
    return _Buffer(t.words(descriptor, 4), place, t.words(scalar, 1)[0], _number(i, "offset"))


class _Lanes:
    """The lanes for which an access is made."""

    def __init__(self, m: Machine, inside: Any = None) -> None:
        lanes = m.active
        if inside is not None:
            inside = m.full(inside)
            if not inside.all():
                lanes = inside if lanes is None else lanes & inside
        self.mask, self._full = lanes, m.full
        self.none = lanes is not None and not lanes.any()

    def flat(self, value: Any) -> Array:
        whole = self._full(value)
        return whole.reshape(-1) if self.mask is None else whole[self.mask]


def _vector(t: Translator, i: Instruction) -> None:
    name, half = _plain_name(i.name)
    width = _width(name)
    loads = "_load" in name
    buffer: _Buffer | None = None
    address: Address | None = None
    if name.startswith("buffer"):
        data, *rest = i.operands
        buffer = _buffer(t, i, tuple(rest))
    else:
        data, offset, base = i.operands if loads else (i.operands[1], i.operands[0], i.operands[2])
        make = _private_address if name.startswith("scratch") else _global_address
        address = make(t, i, offset, base)
    private, total = name.startswith("scratch"), width.size * width.count
    put = _put(t, data, half) if loads else None
    values = None if loads else _elements(t, data, width, half)
    kind = UNSIGNED[width.size]

    def run(r: Registers, m: Machine) -> None:
        inside = None
        if buffer is not None:
            places, inside = buffer.addresses(r, m, total, i)
        else:
            assert address is not None
            places = address(r)
        lanes = _Lanes(m, inside)
        if values is not None:
            if lanes.none:
                return
            at, parts = lanes.flat(places), [lanes.flat(v).astype(kind) for v in values(r)]
            if private:
                m.private_store(at, parts, i)
            else:
                m.launch.memory.store(at, parts, lanes.flat(m.stamps()), i, align=min(width.size, 4))
            return
        assert put is not None
        if lanes.none:
            put(r, [u32(0)] * width.count)
            return
        at = lanes.flat(places)
        if private:
            data = m.private_load(at, width.size, width.count, i)
        else:
            data = m.launch.memory.load(
                at, width.size, lanes.flat(m.stamps()), i, width.count, align=min(width.size, 4)
            )
        put(r, [m.spread(word, lanes.mask) for word in _words(data, width)])

    t.steps.append(run)


def _load_to_lds(t: Translator, i: Instruction) -> None:
    """A load of whole words to LDS (ISA of CDNA 3 and 4, "Memory Buffer Load to LDS"). A lane's data go to
    the byte M0 + the instruction's offset + the lane's number in its wave * the bytes that each lane loads.
    The offset is part of the address in global memory as well. A lane outside of a buffer gets zeros."""
    name = i.name.replace("_load_lds_", "_load_")
    width = _width(name)
    if width.size != 4 or width.count == 2:
        raise Unmodelled("a load of this width to LDS is not modelled")
    if t.lanes != 64:
        raise Unmodelled("loads to LDS are modelled for CDNA only")
    buffer: _Buffer | None = None
    address: Address | None = None
    if name.startswith("buffer"):
        buffer = _buffer(t, i, i.operands)
    else:
        address = _global_address(t, i, *i.operands)
    total, offset, base = 4 * width.count, _number(i, "offset"), t.word(M0)

    def run(r: Registers, m: Machine) -> None:
        inside = None
        if buffer is not None:
            source, inside = buffer.addresses(r, m, total, i)
        else:
            assert address is not None
            source = address(r)
        every, lanes = _Lanes(m), _Lanes(m, inside)
        if every.none:
            return
        data = np.zeros((*m.shape, total), np.uint8)
        if not lanes.none:
            loaded = m.launch.memory.load_bytes(lanes.flat(source), total, lanes.flat(m.stamps()), i, align=4)
            data[... if lanes.mask is None else lanes.mask] = (
                loaded.reshape(data.shape) if lanes.mask is None else loaded
            )
        place = np.asarray(r[base]).astype(np.int64) + offset + m.lane * total
        places = m.shared.index(every.flat(m.groups), every.flat(place), total, i, 4)
        waves = every.flat(np.arange(m.shape[0])[:, None])
        chosen = data.reshape(-1, total) if every.mask is None else data[every.mask]
        m.copies.start(waves, places, chosen, every.flat(m.stamps()), i)

    t.steps.append(run)


def _atomic(t: Translator, i: Instruction) -> None:
    name = i.name
    found = re.fullmatch(r"(global|buffer)_atomic_(\w+?)(_x2|_[uib]32|_[uib]64)?", name)
    if found is None:
        raise Unmodelled("this atomic operation is not modelled")
    space, operation, suffix = found.groups()
    wide = suffix is not None and suffix.endswith(("x2", "64"))
    old = returns(i)
    buffer: _Buffer | None = None
    address: Address | None = None
    target: Operand | None = None
    if space == "buffer":
        data, *rest = i.operands
        buffer = _buffer(t, i, tuple(rest))
        target = data if old else None
    else:
        operands = i.operands[1:] if old else i.operands
        target = i.operands[0] if old else None
        offset, data, base = operands
        address = _global_address(t, i, offset, base)
    swap = operation == "cmpswap"
    if swap and wide:
        raise Unmodelled("a compare-and-swap of 64 bits is not modelled")
    if not swap and operation not in _ATOMICS:
        raise Unmodelled("this atomic operation is not modelled")
    registers = t.words(data, 2 if wide or swap else 1)

    def run(r: Registers, m: Machine) -> None:
        inside = None
        if buffer is not None:
            places, inside = buffer.addresses(r, m, 8 if wide else 4, i)
        else:
            assert address is not None
            places = address(r)
        lanes = _Lanes(m, inside)
        if lanes.none:
            return
        at, words = lanes.flat(places), [lanes.flat(r[n]) for n in registers]
        memory = m.launch.memory
        if swap:
            before = memory.compare_swap(at, words[1], words[0], i)
        else:
            value = join(*words) if wide else words[0]
            before = memory.atomic(_ATOMICS[operation], at, np.ascontiguousarray(value), i)
        if target is not None:
            parts = [before.astype(u32), (before >> u64(32)).astype(u32)] if wide else [before]
            for n, part in zip(target.registers, parts, strict=False):
                r[n] = m.spread(part, lanes.mask)

    t.steps.append(run)


# LDS


def _lds(t: Translator, i: Instruction) -> None:
    name, half = _plain_name(i.name)
    width = _width(name)
    loads = name.startswith(("ds_read", "ds_load"))
    unit = width.size * width.count
    if re.match(r"ds_(read2|write2|load_2addr|store_2addr)", name):
        distance = unit * (64 if "st64" in name or "stride64" in name else 1)
        offsets = [distance * _number(i, key) for key in ("offset0", "offset1")]
    else:
        offsets = [_number(i, "offset")]
    (place,) = t.words(i.operands[1 if loads else 0], 1)
    put = _put(t, i.operands[0], half) if loads else None
    stored = [] if loads else [_elements(t, o, width, half) for o in i.operands[1:]]
    kind = UNSIGNED[width.size]
    # "Unaligned access": a pair of words may be aligned to 4 bytes with ds_read2, and with the others to 8.
    align = min(unit, 8) if width.count > 1 else width.size

    def run(r: Registers, m: Machine) -> None:
        lanes = _Lanes(m)
        if lanes.none:
            if put is not None:
                put(r, [u32(0)] * width.count * len(offsets))
            return
        base, group = lanes.flat(r[place]).astype(np.int64), lanes.flat(m.groups)
        stamp = lanes.flat(m.stamps())
        if put is None:
            for offset, values in zip(offsets, stored, strict=True):
                parts = [lanes.flat(v).astype(kind) for v in values(r)]
                m.shared.store(group, base + offset, parts, stamp, i, align=align)
            return
        words: list[Any] = []
        for offset in offsets:
            data = m.shared.load(group, base + offset, width.size, stamp, i, width.count, align=align)
            words += [m.spread(word, lanes.mask) for word in _words(data, width)]
        put(r, words)

    t.steps.append(run)


def _bpermute(t: Translator, i: Instruction) -> None:
    destination, address, data = i.operands
    (at,), (n,) = t.words(address, 1), t.words(data, 1)
    target, offset = destination.number, _number(i, "offset")
    t.steps.append(lambda r, m: r.__setitem__(target, crosslane.bpermute(m, r[at], r[n], offset)))
