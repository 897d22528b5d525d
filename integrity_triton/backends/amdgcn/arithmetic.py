"""What the arithmetic instructions compute, over arrays of lanes.

The tables follow the chapter "Instructions" of AMD's instruction set documents: "AMD Instinct MI300"
(CDNA 3), "AMD Instinct CDNA 4", "RDNA 3" and "RDNA 4". A word is an array, or a NumPy scalar, of type uint32;
64-bit values are pairs of words, the lower one first.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Word = Any
"""An array or scalar of NumPy's type uint32."""
Pair = tuple[Word, Word]

u16, u32, u64 = np.uint16, np.uint32, np.uint64
i16, i32, i64 = np.int16, np.int32, np.int64
f32, f64 = np.float32, np.float64


@dataclass(frozen=True)
class Operation:
    """What an instruction computes from its sources, all of which are evaluated before its destination is
    written."""

    sources: str
    """For each source ``w``, a word, or ``d``, 64 bits, which the function takes as two words."""
    function: Callable[..., Any]
    """Returns a word, a pair of words, or booleans: see ``result``."""
    result: str = "w"
    """``w``, ``d`` or, for a comparison, ``m``: a mask of lanes or SCC."""
    scc: Callable[..., Any] | None = None
    """SCC after a scalar instruction, from the result and the sources. None if it is left as it was."""


def join(low: Word, high: Word) -> Any:
    """64-bit values from pairs of words."""
    return low.astype(u64) | (high.astype(u64) << u64(32))


def split(value: Any) -> Pair:
    return value.astype(u32), (value >> u64(32)).astype(u32)


# Single words


def alignbit(a: Word, b: Word, c: Word) -> Word:
    """The lower word of ``{a, b} >> c``."""
    if np.ndim(c) == 0:
        shift = int(c) & 31
        return (a << u32(32 - shift)) | (b >> u32(shift)) if shift else b
    return (join(b, a) >> (c & u32(31)).astype(u64)).astype(u32)


def _selected_byte(a: Word, b: Word, selector: Word) -> Word:
    s = selector & u32(255)
    both = join(b, a)
    byte = (both >> ((s & u32(7)) << u32(3)).astype(u64)).astype(u32) & u32(255)
    sign = (both >> ((s & u32(3)) * u32(16) + u32(15)).astype(u64)).astype(u32) & u32(1)
    return np.where(s < 8, byte, np.where(s < 12, sign * u32(255), np.where(s == 12, u32(0), u32(255))))


def perm(a: Word, b: Word, c: Word) -> Word:
    """V_PERM_B32: each byte of ``c`` selects a byte of ``{a, b}``, a repeated sign, 0 or 255."""
    selectors = int(c) if np.ndim(c) == 0 else 0xFF
    if (
        all((selectors >> 8 * i) & 255 < 8 or (selectors >> 8 * i) & 255 == 12 for i in range(4))
        and np.ndim(c) == 0
    ):
        out: Word = u32(0)
        for i in range(4):
            s = (selectors >> 8 * i) & 255
            if s < 8:
                word, distance = (b, 8 * (i - s)) if s < 4 else (a, 8 * (i - s + 4))
                moved = word << u32(distance) if distance >= 0 else word >> u32(-distance)
                out = out | (moved & u32(255 << 8 * i))
        return out
    out = u32(0)
    for i in range(4):
        out = out | (_selected_byte(a, b, c >> u32(8 * i)).astype(u32) << u32(8 * i))
    return out


def bfe_u32(a: Word, b: Word, c: Word) -> Word:
    return (a >> (b & u32(31))) & ((u32(1) << (c & u32(31))) - u32(1))


def bfe_i32(a: Word, b: Word, c: Word) -> Word:
    """The field ``c`` bits wide from bit ``b``, sign-extended from its highest bit."""
    field = (a.view(i32) >> (b & u32(31)).view(i32)).view(u32) & ((u32(1) << (c & u32(31))) - u32(1))
    top = np.where((c & u32(31)) == 0, u32(0), u32(1) << ((c - u32(1)) & u32(31))).astype(u32)
    return (field ^ top) - top


def by_truth_table(table: int, a: Word, b: Word, c: Word) -> Word:
    """V_BITOP3_B32: each bit of the result is bit ``4 a + 2 b + c`` of the table."""
    out: Word = u32(0)
    for number in range(8):
        if table >> number & 1:
            term = a if number & 4 else ~a
            term = term & (b if number & 2 else ~b)
            out = out | (term & (c if number & 1 else ~c))
    return out


def median(a: Any, b: Any, c: Any) -> Any:
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


def reversed_bits(a: Word) -> Word:
    for shift, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
        a = ((a >> u32(shift)) & u32(mask)) | ((a & u32(mask)) << u32(shift))
    return (a >> u32(16)) | (a << u32(16))


def bit_count(a: Any) -> Word:
    # numpy.bitwise_count needs NumPy 2.
    a = a - ((a >> u32(1)) & u32(0x55555555))
    a = (a & u32(0x33333333)) + ((a >> u32(2)) & u32(0x33333333))
    a = (a + (a >> u32(4))) & u32(0x0F0F0F0F)
    return (a * u32(0x01010101)) >> u32(24)


def first_set(a: Word) -> Word:
    """The number of the lowest bit that is set; -1 if there is none."""
    lowest = a & (~a + u32(1))
    return np.where(a == 0, u32(0xFFFFFFFF), bit_count(lowest - u32(1))).astype(u32)


def first_set_64(low: Word, high: Word) -> Word:
    upper = np.where(high == 0, u32(0xFFFFFFFF), first_set(high) + u32(32))
    return np.where(low != 0, first_set(low), upper).astype(u32)


def signed(function: Callable[..., Any]) -> Callable[..., Word]:
    """The function on words as signed integers."""
    return lambda *words: function(*(w.view(i32) for w in words)).view(u32)


def half(function: Callable[..., Any]) -> Callable[..., Word]:
    """The lower 16 bits of a function of words."""
    return lambda *words: function(*words) & u32(0xFFFF)


def _mul_hi_u32(a: Word, b: Word) -> Word:
    return ((a.astype(u64) * b.astype(u64)) >> u64(32)).astype(u32)


def _mul_hi_i32(a: Word, b: Word) -> Word:
    product = a.view(i32).astype(i64) * b.view(i32).astype(i64)
    return (product >> i64(32)).astype(i32).view(u32)


def _low24(a: Word) -> Word:
    return a & u32(0xFFFFFF)


def _signed24(a: Word) -> Word:
    return ((a << u32(8)).view(i32) >> i32(8)).view(u32)


# Floating point, which occurs where integers are divided


def _real(function: Callable[..., Any]) -> Callable[..., Word]:
    return lambda *words: np.asarray(function(*(w.view(f32) for w in words)), f32).view(u32)[()]


def fused(a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` of binary32 rounded once: the sum in binary64 is rounded to odd before it is rounded."""
    product, addend = a.astype(f64) * b.astype(f64), c.astype(f64)
    total = np.atleast_1d(product + addend)
    rest = total - product
    error = np.broadcast_to((product - (total - rest)) + (addend - rest), total.shape)
    bits = total.view(i64)
    outwards = (error > 0) == (total > 0)
    inexact_even = (error != 0) & ((bits & 1) == 0) & np.isfinite(total)
    odd = np.where(inexact_even, np.where(outwards, bits + 1, bits - 1), bits).view(f64)
    return odd.astype(f32).reshape(np.broadcast_shapes(np.shape(a), np.shape(b), np.shape(c)))


def _to_u32(a: Word) -> Word:
    value = np.nan_to_num(np.trunc(a.view(f32).astype(f64)), nan=0.0, posinf=2.0**32, neginf=0.0)
    return np.clip(value, 0, 2.0**32 - 1).astype(u32)


# Pairs of words


def _add64(a0: Word, a1: Word, b0: Word, b1: Word) -> Pair:
    low = a0 + b0
    return low, a1 + b1 + (low < a0)


def shift_left_64(low: Word, high: Word, shift: Word) -> Pair:
    if np.ndim(shift) == 0:
        s = int(shift) & 63
        if s == 0:
            return low, high
        if s >= 32:
            return u32(0), low << u32(s - 32)
        return low << u32(s), (high << u32(s)) | (low >> u32(32 - s))
    return split(join(low, high) << (shift & u32(63)).astype(u64))


def shift_right_64(low: Word, high: Word, shift: Word) -> Pair:
    if np.ndim(shift) == 0:
        s = int(shift) & 63
        if s == 0:
            return low, high
        if s >= 32:
            return high >> u32(s - 32), u32(0)
        return (low >> u32(s)) | (high << u32(32 - s)), high >> u32(s)
    return split(join(low, high) >> (shift & u32(63)).astype(u64))


def shift_right_signed_64(low: Word, high: Word, shift: Word) -> Pair:
    return split((join(low, high).view(i64) >> (shift & u32(63)).astype(i64)).view(u64))


def multiply_add(a: Word, b: Word, c0: Word, c1: Word) -> tuple[Word, Word, Any]:
    """V_MAD_U64_U32, with its carry."""
    product, addend = a.astype(u64) * b.astype(u64), join(c0, c1)
    total = product + addend
    return (*split(total), total < addend)


def _vector() -> dict[str, Operation]:
    w: dict[str, tuple[str, Callable[..., Any]]] = {
        "v_mov_b32": ("w", lambda a: a),
        "v_not_b32": ("w", operator.invert),
        "v_and_b32": ("ww", operator.and_),
        "v_or_b32": ("ww", operator.or_),
        "v_xor_b32": ("ww", operator.xor),
        "v_xnor_b32": ("ww", lambda a, b: ~(a ^ b)),
        "v_add_u32": ("ww", operator.add),
        "v_sub_u32": ("ww", operator.sub),
        "v_subrev_u32": ("ww", lambda a, b: b - a),
        "v_add3_u32": ("www", lambda a, b, c: a + b + c),
        "v_xad_u32": ("www", lambda a, b, c: (a ^ b) + c),
        "v_xor3_b32": ("www", lambda a, b, c: a ^ b ^ c),
        "v_or3_b32": ("www", lambda a, b, c: a | b | c),
        "v_and_or_b32": ("www", lambda a, b, c: (a & b) | c),
        "v_lshl_add_u32": ("www", lambda a, b, c: (a << (b & u32(31))) + c),
        "v_add_lshl_u32": ("www", lambda a, b, c: (a + b) << (c & u32(31))),
        "v_lshl_or_b32": ("www", lambda a, b, c: (a << (b & u32(31))) | c),
        "v_lshlrev_b32": ("ww", lambda a, b: b << (a & u32(31))),
        "v_lshrrev_b32": ("ww", lambda a, b: b >> (a & u32(31))),
        "v_ashrrev_i32": ("ww", lambda a, b: (b.view(i32) >> (a & u32(31)).view(i32)).view(u32)),
        "v_bfi_b32": ("www", lambda a, b, c: (a & b) | (~a & c)),
        "v_bfe_u32": ("www", bfe_u32),
        "v_bfe_i32": ("www", bfe_i32),
        "v_alignbit_b32": ("www", alignbit),
        "v_alignbyte_b32": ("www", lambda a, b, c: alignbit(a, b, (c & u32(3)) << u32(3))),
        "v_perm_b32": ("www", perm),
        "v_mul_lo_u32": ("ww", operator.mul),
        "v_mul_hi_u32": ("ww", _mul_hi_u32),
        "v_mul_hi_i32": ("ww", _mul_hi_i32),
        "v_mul_u32_u24": ("ww", lambda a, b: _low24(a) * _low24(b)),
        "v_mul_i32_i24": ("ww", lambda a, b: _signed24(a) * _signed24(b)),
        "v_mad_u32_u24": ("www", lambda a, b, c: _low24(a) * _low24(b) + c),
        "v_min_u32": ("ww", np.minimum),
        "v_max_u32": ("ww", np.maximum),
        "v_min_i32": ("ww", signed(np.minimum)),
        "v_max_i32": ("ww", signed(np.maximum)),
        "v_med3_u32": ("www", median),
        "v_med3_i32": ("www", signed(median)),
        "v_bfrev_b32": ("w", reversed_bits),
        "v_bcnt_u32_b32": ("ww", lambda a, b: bit_count(a) + b),
        "v_ffbl_b32": ("w", first_set),
        "v_cvt_f32_u32": ("w", lambda a: a.astype(f32).view(u32)),
        "v_cvt_f32_i32": ("w", lambda a: a.view(i32).astype(f32).view(u32)),
        "v_cvt_u32_f32": ("w", _to_u32),
        "v_trunc_f32": ("w", _real(np.trunc)),
        "v_mul_f32": ("ww", _real(operator.mul)),
        "v_add_f32": ("ww", _real(operator.add)),
        "v_sub_f32": ("ww", _real(operator.sub)),
        "v_fma_f32": ("www", _real(fused)),
        # Rounded to nearest. The documents allow an error of one unit in the last place, so a device may give
        # one of two results; division corrects either.
        "v_rcp_f32": ("w", _real(lambda a: f32(1) / a)),
        "v_accvgpr_read_b32": ("w", lambda a: a),
        # 16 bits. Where the result is written, it is decided what happens to the upper half of the register.
        "v_add_u16": ("ww", half(operator.add)),
        "v_sub_u16": ("ww", half(operator.sub)),
        "v_mul_lo_u16": ("ww", half(operator.mul)),
        "v_lshlrev_b16": ("ww", half(lambda a, b: b << (a & u32(15)))),
        "v_lshrrev_b16": ("ww", lambda a, b: (b & u32(0xFFFF)) >> (a & u32(15))),
        "v_and_b16": ("ww", half(operator.and_)),
        "v_or_b16": ("ww", half(operator.or_)),
        "v_xor_b16": ("ww", half(operator.xor)),
        "v_not_b16": ("w", half(operator.invert)),
        "v_mov_b16": ("w", half(lambda a: a)),
    }
    table = {name: Operation(sources, function) for name, (sources, function) in w.items()}
    table.update(
        {
            "v_mov_b64": Operation("d", lambda a0, a1: (a0, a1), "d"),
            "v_lshlrev_b64": Operation("wd", lambda s, b0, b1: shift_left_64(b0, b1, s), "d"),
            "v_lshrrev_b64": Operation("wd", lambda s, b0, b1: shift_right_64(b0, b1, s), "d"),
            "v_ashrrev_i64": Operation("wd", lambda s, b0, b1: shift_right_signed_64(b0, b1, s), "d"),
            "v_lshl_add_u64": Operation(
                "dwd", lambda a0, a1, s, c0, c1: _add64(*shift_left_64(a0, a1, s & u32(7)), c0, c1), "d"
            ),
        }
    )
    for new, old in {
        "v_add_nc_u32": "v_add_u32",
        "v_sub_nc_u32": "v_sub_u32",
        "v_subrev_nc_u32": "v_subrev_u32",
        "v_add_nc_u16": "v_add_u16",
        "v_sub_nc_u16": "v_sub_u16",
        "v_ctz_i32_b32": "v_ffbl_b32",
        "v_rcp_iflag_f32": "v_rcp_f32",
        "v_fmamk_f32": "v_fma_f32",
        "v_fmaak_f32": "v_fma_f32",
        "v_accvgpr_write_b32": "v_accvgpr_read_b32",
        "v_accvgpr_mov_b32": "v_accvgpr_read_b32",
    }.items():
        table[new] = table[old]
    return table


_RELATIONS = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lg": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def _compare(relation: Callable[[Any, Any], Any], kind: Any) -> Operation:
    size = np.dtype(kind).itemsize
    if size == 8:
        return Operation(
            "dd", lambda a0, a1, b0, b1: relation(join(a0, a1).view(kind), join(b0, b1).view(kind)), "m"
        )
    if size == 2:
        return Operation("ww", lambda a, b: relation(a.astype(u16).view(kind), b.astype(u16).view(kind)), "m")
    return Operation("ww", lambda a, b: relation(a.view(kind), b.view(kind)), "m")


_KINDS = {"u16": u16, "i16": i16, "u32": u32, "i32": i32, "u64": u64, "i64": i64, "f32": f32}
COMPARISONS = {
    f"{name}_{kind}": _compare(relation, dtype)
    for name, relation in _RELATIONS.items()
    for kind, dtype in _KINDS.items()
}
"""Comparisons by what follows ``v_cmp_`` or ``s_cmp_``."""

VECTOR = _vector()
_CLAMPED = {
    "add": Operation("ww", lambda a, b: a + np.minimum(b, ~a)),
    "sub": Operation("ww", lambda a, b: a - np.minimum(a, b)),
    "subrev": Operation("ww", lambda a, b: b - np.minimum(a, b)),
}
CLAMPED = {f"v_{name}_{middle}u32": it for name, it in _CLAMPED.items() for middle in ("", "nc_")}
"""With CLAMP, a sum or difference that has no representation becomes the nearest number that has one ("AMD
Instinct MI300 Instruction Set Architecture", VOP3: CLAMP)."""


# Scalar instructions


def _not_zero(result: Any, *_: Any) -> Any:
    return result != 0


def _not_zero_64(low: Word, high: Word, *_: Any) -> Any:
    return (low | high) != 0


def _overflow_add(result: Word, a: Word, b: Word) -> Any:
    return ((~(a ^ b) & (a ^ result)) >> u32(31)) != 0


def _overflow_sub(result: Word, a: Word, b: Word) -> Any:
    return (((a ^ b) & (a ^ result)) >> u32(31)) != 0


def _field(a0: Word, a1: Word, control: Word, bits: int, extend: bool) -> Pair:
    """S_BFE: the offset is in the lowest bits of ``control``, the width in bits 16 to 22."""
    at, width = (control & u32(bits - 1)).astype(u64), ((control >> u32(16)) & u32(127)).astype(u64)
    value = join(a0, a1)
    value = (value.view(i64) >> at.view(i64)).view(u64) if extend else value >> at
    mask = np.where(width >= 64, ~u64(0), (u64(1) << np.minimum(width, u64(63))) - u64(1))
    value = value & mask
    if extend:
        top = np.where(width == 0, u64(0), u64(1) << (np.clip(width, u64(1), u64(64)) - u64(1)))
        value = (value ^ top) - top
    return split(np.asarray(value, u64)[()])


def _on_pairs(function: Callable[[Word, Word], Word]) -> Callable[..., Pair]:
    return lambda a0, a1, b0, b1: (function(a0, b0), function(a1, b1))


def _scalar() -> dict[str, Operation]:
    table: dict[str, Operation] = {}
    for name, function in {
        "and": operator.and_,
        "or": operator.or_,
        "xor": operator.xor,
        "andn2": lambda a, b: a & ~b,
        "orn2": lambda a, b: a | ~b,
        "nand": lambda a, b: ~(a & b),
        "nor": lambda a, b: ~(a | b),
        "xnor": lambda a, b: ~(a ^ b),
    }.items():
        table[f"s_{name}_b32"] = Operation("ww", function, "w", _not_zero)
        table[f"s_{name}_b64"] = Operation("dd", _on_pairs(function), "d", _not_zero_64)
    table.update(
        {
            "s_mov_b32": Operation("w", lambda a: a),
            "s_mov_b64": Operation("d", lambda a0, a1: (a0, a1), "d"),
            "s_not_b32": Operation("w", operator.invert, "w", _not_zero),
            "s_not_b64": Operation("d", lambda a0, a1: (~a0, ~a1), "d", _not_zero_64),
            "s_lshl_b32": Operation("ww", lambda a, b: a << (b & u32(31)), "w", _not_zero),
            "s_lshr_b32": Operation("ww", lambda a, b: a >> (b & u32(31)), "w", _not_zero),
            "s_ashr_i32": Operation(
                "ww", lambda a, b: (a.view(i32) >> (b & u32(31)).view(i32)).view(u32), "w", _not_zero
            ),
            "s_lshl_b64": Operation("dw", shift_left_64, "d", _not_zero_64),
            "s_lshr_b64": Operation("dw", shift_right_64, "d", _not_zero_64),
            "s_ashr_i64": Operation("dw", shift_right_signed_64, "d", _not_zero_64),
            "s_add_u32": Operation("ww", operator.add, "w", lambda r, a, b: r < a),
            "s_sub_u32": Operation("ww", operator.sub, "w", lambda r, a, b: a < b),
            "s_add_i32": Operation("ww", operator.add, "w", _overflow_add),
            "s_sub_i32": Operation("ww", operator.sub, "w", _overflow_sub),
            "s_mul_i32": Operation("ww", operator.mul),
            "s_mul_hi_u32": Operation("ww", _mul_hi_u32),
            "s_mul_hi_i32": Operation("ww", _mul_hi_i32),
            "s_min_u32": Operation("ww", np.minimum, "w", lambda r, a, b: a < b),
            "s_max_u32": Operation("ww", np.maximum, "w", lambda r, a, b: a >= b),
            "s_min_i32": Operation("ww", signed(np.minimum), "w", lambda r, a, b: a.view(i32) < b.view(i32)),
            "s_max_i32": Operation("ww", signed(np.maximum), "w", lambda r, a, b: a.view(i32) >= b.view(i32)),
            "s_sext_i32_i16": Operation("w", lambda a: a.astype(u16).view(i16).astype(i32).view(u32)),
            "s_sext_i32_i8": Operation("w", lambda a: a.astype(np.uint8).view(np.int8).astype(i32).view(u32)),
            "s_pack_ll_b32_b16": Operation("ww", lambda a, b: (a & u32(0xFFFF)) | (b << u32(16))),
            "s_brev_b32": Operation("w", reversed_bits),
            "s_brev_b64": Operation("d", lambda a0, a1: (reversed_bits(a1), reversed_bits(a0)), "d"),
            "s_ff1_i32_b32": Operation("w", first_set),
            "s_ff1_i32_b64": Operation("d", first_set_64),
            "s_bcnt1_i32_b32": Operation("w", bit_count, "w", _not_zero),
            "s_bcnt1_i32_b64": Operation("d", lambda a0, a1: bit_count(a0) + bit_count(a1), "w", _not_zero),
            "s_bfm_b32": Operation("ww", lambda a, b: ((u32(1) << (a & u32(31))) - u32(1)) << (b & u32(31))),
            "s_bfm_b64": Operation(
                "ww",
                lambda a, b: split(
                    ((u64(1) << (a & u32(63)).astype(u64)) - u64(1)) << (b & u32(63)).astype(u64)
                ),
                "d",
            ),
            "s_bfe_u32": Operation("ww", lambda a, b: _field(a, u32(0), b, 32, False)[0], "w", _not_zero),
            "s_bfe_i32": Operation(
                "ww",
                lambda a, b: _field(a, (a.view(i32) >> i32(31)).view(u32), b, 32, True)[0],
                "w",
                _not_zero,
            ),
            "s_bfe_u64": Operation("dw", lambda a0, a1, b: _field(a0, a1, b, 64, False), "d", _not_zero_64),
            "s_bfe_i64": Operation("dw", lambda a0, a1, b: _field(a0, a1, b, 64, True), "d", _not_zero_64),
            "s_mul_u64": Operation("dd", lambda a0, a1, b0, b1: split(join(a0, a1) * join(b0, b1)), "d"),
            "s_cvt_f32_u32": Operation("w", lambda a: a.astype(f32).view(u32)),
            "s_cvt_u32_f32": Operation("w", _to_u32),
            "s_trunc_f32": Operation("w", _real(np.trunc)),
            "s_mul_f32": Operation("ww", _real(operator.mul)),
            "s_add_nc_u64": Operation("dd", _add64, "d"),
            "s_sub_nc_u64": Operation("dd", lambda a0, a1, b0, b1: split(join(a0, a1) - join(b0, b1)), "d"),
        }
    )
    for shift in (1, 2, 3, 4):
        table[f"s_lshl{shift}_add_u32"] = Operation(
            "ww",
            lambda a, b, s=shift: (a << u32(s)) + b,
            "w",
            lambda r, a, b, s=shift: (((a.astype(u64) << u64(s)) + b) >> u64(32)) != 0,
        )
    for new, old in {
        "s_add_co_u32": "s_add_u32",
        "s_sub_co_u32": "s_sub_u32",
        "s_add_co_i32": "s_add_i32",
        "s_sub_co_i32": "s_sub_i32",
        "s_ctz_i32_b32": "s_ff1_i32_b32",
        "s_ctz_i32_b64": "s_ff1_i32_b64",
    }.items():
        table[new] = table[old]
    for bits in (32, 64):
        for new, old in (("and_not1", "andn2"), ("or_not1", "orn2")):
            table[f"s_{new}_b{bits}"] = table[f"s_{old}_b{bits}"]
    return table


SCALAR = _scalar()


def add_with_carry(a: Word, b: Word, carry: Any) -> tuple[Word, Any]:
    """The sum and the carry out of it; ``carry`` is boolean."""
    partial = a + b
    total = partial + carry
    return total, (partial < a) | (total < partial)


def subtract_with_borrow(a: Word, b: Word, borrow: Any) -> tuple[Word, Any]:
    """The difference and the borrow out of it; ``borrow`` is boolean."""
    partial = a - b
    return partial - borrow, (a < b) | ((partial == 0) & borrow)
