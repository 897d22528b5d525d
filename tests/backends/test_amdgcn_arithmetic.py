"""The arithmetic of AMD's instructions, against AMD's own definitions and examples worked out by hand."""

from __future__ import annotations

import random
import re
import struct
from fractions import Fraction
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from integrity_triton.backends.amdgcn.arithmetic import (
    COMPARISONS,
    SCALAR,
    VECTOR,
    Operation,
    add_with_carry,
    by_truth_table,
    fused,
    multiply_add,
    subtract_with_borrow,
)
from oracles import amd_pseudocode
from oracles.amd_pseudocode import NotEvaluated

u32 = np.uint32
FAMILIES = {"cdna": "CDNA 3 and 4", "rdna3": "RDNA 3", "rdna4": "RDNA 4"}
EDGES = (0, 1, 2, 31, 32, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
# Not expressions: rounding, and a function that selects bytes. The examples below stand for these.
NOT_EVALUATED = re.compile(
    r"[sv]_(cvt(?!_f32_[ui]32)|trunc|mul_f32|add_f32|sub_f32|fma|rcp|perm|fmamk|fmaak)"
)


def _definitions(family: str) -> dict[str, str]:
    try:
        module = import_module(f"tinygrad.runtime.autogen.amd.{family}.str_pcode")
    except ImportError:
        pytest.skip("absent: tinygrad, which carries AMD's pseudocode, is not installed")
    return {re.sub(r"_e(32|64)$", "", key.name.lower()): text for key, text in module.PCODE.items()}


def _draw(generator: random.Random, bits: int) -> int:
    if bits == 64:
        return _draw(generator, 32) | _draw(generator, 32) << 32
    return generator.choice([generator.choice(EDGES), generator.getrandbits(32), generator.getrandbits(6)])


def _ours(operation: Operation, sources: list[int]) -> tuple[int, Any]:
    words: list[Any] = []
    for source, kind in zip(sources, operation.sources, strict=True):
        words += [u32(source & 0xFFFFFFFF)] + ([u32(source >> 32)] if kind == "d" else [])
    with np.errstate(all="ignore"):
        # As arrays of lanes and as scalars: several functions treat the two differently.
        result = operation.function(*words)
        lanes = operation.function(*(np.array([[word]], u32) for word in words))
        scc = None
        if operation.scc is not None:
            scc = bool(operation.scc(*(result if operation.result == "d" else (result,)), *words))
    pair = operation.result == "d"
    number = int(result[0]) | int(result[1]) << 32 if pair else int(result)
    first = [np.ravel(lane)[0] for lane in lanes] if pair else [np.ravel(lanes)[0]]
    assert number == sum(int(word) << 32 * k for k, word in enumerate(first))
    return number, scc


@pytest.mark.parametrize("family", FAMILIES)
def test_amds_pseudocode_gives_the_same(family: str) -> None:
    definitions = _definitions(family)
    compared, generator = set(), random.Random(family)
    for name, operation in {**VECTOR, **SCALAR}.items():
        if name not in definitions or NOT_EVALUATED.match(name):
            continue
        for _ in range(16):
            sources = [_draw(generator, 64 if kind == "d" else 32) for kind in operation.sources]
            if name.startswith("s_bfe"):
                # The width of a field is that of the register at most.
                sources[1] &= ~0x7F0000
                sources[1] |= generator.randrange(0, int(name[-2:])) << 16
            named = {
                f"S{k}": amd_pseudocode.value(source, 64 if kind == "d" else 32)
                for k, (source, kind) in enumerate(zip(sources, operation.sources, strict=True))
            }
            after = amd_pseudocode.evaluate(definitions[name], named)
            ours, scc = _ours(operation, sources)
            assert ours == after["D0"].bits, (name, [hex(s) for s in sources])
            if scc is not None:
                assert scc == bool(after["SCC"].bits), (name, [hex(s) for s in sources])
            else:
                assert "SCC" not in after or name.startswith("s_bcnt"), name
        compared.add(name)
    assert len(compared) > 70


@pytest.mark.parametrize("family", FAMILIES)
def test_amds_pseudocode_compares_the_same(family: str) -> None:
    definitions, generator = _definitions(family), random.Random(family)
    compared = 0
    for key, operation in COMPARISONS.items():
        text = definitions.get(f"v_cmp_{key}")
        if text is None or key.endswith("f32"):
            continue
        found = re.search(r"= (S0[^;\n]*)", text)
        assert found is not None, text
        for _ in range(16):
            sources = [_draw(generator, 64 if kind == "d" else 32) for kind in operation.sources]
            if generator.random() < 0.3:
                sources[1] = sources[0]
            names = {f"S{k}": amd_pseudocode.value(s, 64) for k, s in enumerate(sources)}
            after = amd_pseudocode.evaluate(f"D0 = {found[1]}", names)
            assert _ours(operation, sources)[0] == after["D0"].bits, (key, sources)
        compared += 1
    assert compared > 20


def test_the_evaluator_refuses_what_it_does_not_have() -> None:
    with pytest.raises(NotEvaluated):
        amd_pseudocode.evaluate("D0.f32 = fma(S0.f32, S1.f32, S2.f32)", {})


EXAMPLES = [
    # V_PERM_B32: byte 0 to 3 are of the second source, 4 to 7 of the first; 8 to 11 repeat signs; 12 is 0.
    ("v_perm_b32", (0x77665544, 0x33221100, 0x00010203), 0x00112233),
    ("v_perm_b32", (0x77665544, 0x33221100, 0x07060504), 0x77665544),
    ("v_perm_b32", (0x77665544, 0x80221100, 0x0C0D0908), 0x00FFFF00),
    ("v_perm_b32", (0x80665544, 0x33229900, 0x0B0A090C), 0xFF000000),
    ("v_alignbit_b32", (0x00000001, 0x80000000, 31), 0x00000003),
    ("v_alignbit_b32", (0xAAAAAAAA, 0x55555555, 32), 0x55555555),
    ("v_alignbyte_b32", (0x44332211, 0x88776655, 1), 0x11887766),
    ("v_bfe_i32", (0x00000080, 0, 8), 0xFFFFFF80),
    ("v_bfe_i32", (0x80000000, 28, 8), 0xFFFFFFF8),
    ("v_bfe_u32", (0x80000000, 28, 8), 0x00000008),
    ("v_med3_i32", (5, 0xFFFFFFFF, 3), 3),
    ("v_med3_u32", (5, 0xFFFFFFFF, 3), 5),
    ("v_mul_u32_u24", (0xFF000002, 0xFF000003), 6),
    ("v_mul_hi_u32", (0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFE),
    ("v_mul_hi_i32", (0xFFFFFFFF, 0x7FFFFFFF), 0xFFFFFFFF),
    ("v_ffbl_b32", (0,), 0xFFFFFFFF),
    ("v_ffbl_b32", (0x80,), 7),
    ("v_cvt_u32_f32", (0x4F800000,), 0xFFFFFFFF),
    ("v_cvt_u32_f32", (0xBF800000,), 0),
    ("v_cvt_u32_f32", (0x40700000,), 3),
    ("v_cvt_f32_u32", (0xFFFFFFFF,), 0x4F800000),
    ("v_rcp_f32", (0x40800000,), 0x3E800000),
    ("v_lshl_add_u64", (0xFFFFFFFFFFFFFFFF, 1, 3), 1),
    ("v_ashrrev_i64", (63, 0x8000000000000000), 0xFFFFFFFFFFFFFFFF),
    ("s_bfe_u32", (0xFFFFFFFF, 0x00080004), 0xFF),
    ("s_bfe_i64", (0x80, 0x00080000), 0xFFFFFFFFFFFFFF80),
    ("s_bfm_b64", (4, 60), 0xF000000000000000),
    ("s_pack_ll_b32_b16", (0x12345678, 0x9ABCDEF0), 0xDEF05678),
    ("s_sext_i32_i8", (0x180,), 0xFFFFFF80),
]


@pytest.mark.parametrize(("name", "sources", "wanted"), EXAMPLES)
def test_examples(name: str, sources: tuple[int, ...], wanted: int) -> None:
    operation = VECTOR.get(name) or SCALAR[name]
    assert _ours(operation, list(sources))[0] == wanted


def test_selectors_that_differ_between_lanes() -> None:
    generator = random.Random(1)
    for _ in range(100):
        a, b = generator.getrandbits(32), generator.getrandbits(32)
        c = sum(generator.randrange(16) << 8 * k for k in range(4))
        alike = VECTOR["v_perm_b32"].function(u32(a), u32(b), u32(c))
        lanes = VECTOR["v_perm_b32"].function(*(np.array([[x, x]], u32) for x in (a, b, c)))
        assert (lanes == alike).all(), (hex(a), hex(b), hex(c))


def test_operations_by_a_truth_table() -> None:
    """Bit 4 a + 2 b + c of the table (CDNA 4 ISA, V_BITOP3_B32): with all combinations of bits in each byte,
    the result repeats the table."""
    a, b, c = 0xF0F0F0F0, 0xCCCCCCCC, 0xAAAAAAAA
    for table in range(256):
        assert int(by_truth_table(table, u32(a), u32(b), u32(c))) == table * 0x01010101


def test_carries() -> None:
    for a in EDGES:
        for b in EDGES:
            for carry in (False, True):
                total, out = add_with_carry(np.array(a, u32), np.array(b, u32), np.array(carry))
                assert (int(total), bool(out)) == ((a + b + carry) & 0xFFFFFFFF, a + b + carry > 0xFFFFFFFF)
                rest, out = subtract_with_borrow(np.array(a, u32), np.array(b, u32), np.array(carry))
                assert (int(rest), bool(out)) == ((a - b - carry) & 0xFFFFFFFF, a - b - carry < 0)


def test_multiply_add() -> None:
    for a in EDGES:
        for c in (0, 1, 0xFFFFFFFF00000000, 0xFFFFFFFFFFFFFFFF):
            low, high, carry = multiply_add(
                *(np.array(x, u32) for x in (a, 0xFFFFFFFF, c & 0xFFFFFFFF, c >> 32))
            )
            exact = a * 0xFFFFFFFF + c
            assert int(low) | int(high) << 32 == exact & (1 << 64) - 1
            assert bool(carry) == (exact >> 64 > 0)


def test_a_fused_product_is_rounded_once() -> None:
    generator = random.Random(2)
    for _ in range(200):
        a, b = (np.float32(generator.uniform(-4, 4)) for _ in range(2))
        c = np.float32(-float(a) * float(b) * (1 + generator.choice([0, 2**-24, 2**-30])))
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        near = np.float32(float(exact)) if exact else np.float32(0)
        candidates = [near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9))]
        best = min(abs(Fraction(float(x)) - exact) for x in candidates)
        assert abs(Fraction(float(fused(a, b, c))) - exact) == best
    assert struct.pack("<f", float(fused(np.float32(3), np.float32(5), np.float32(1)))) == struct.pack(
        "<f", 16.0
    )
