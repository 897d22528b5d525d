"""Each instruction of PTX that the emulator knows, against its definition in NVIDIA's "Parallel Thread
Execution ISA", under the name of the instruction, written here with Python's integers."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from ptx_text import kernel, results, run

from integrity_triton.backends.emulation import scheduler
from integrity_triton.backends.emulation.coverage import Coverage
from integrity_triton.backends.emulation.faults import (
    Deadlock,
    EmulationError,
    MemoryFault,
    Race,
    Uninitialised,
    Unmodelled,
)
from integrity_triton.backends.ptx.parser import SHARED_START

M32, M64 = (1 << 32) - 1, (1 << 64) - 1


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def values(bits: int, count: int) -> list[int]:
    """Edges, and random numbers."""
    edges = [0, 1, 2, 31, 32, 33, 63, 64, (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1]
    generator = random.Random(bits)
    return [
        generator.choice([v & ((1 << bits) - 1) for v in edges] + [generator.getrandbits(bits)] * 5)
        for _ in range(count)
    ]


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def bfe(a: int, pos: int, length: int, bits: int, is_signed: bool) -> int:
    """The pseudocode under ``bfe``."""
    pos, length = pos & 0xFF, length & 0xFF
    a &= (1 << bits) - 1
    msb = bits - 1
    sign = 0 if not is_signed or length == 0 else a >> min(pos + length - 1, msb) & 1
    result = 0
    for i in range(msb + 1):
        result |= (a >> (pos + i) & 1 if i < length and pos + i <= msb else sign) << i
    return result


def bfi(a: int, b: int, pos: int, length: int) -> int:
    """The pseudocode under ``bfi``."""
    pos, length, result = pos & 0xFF, length & 0xFF, b
    for i in range(length):
        if pos + i > 31:
            break
        result = result & ~(1 << (pos + i)) | (a >> i & 1) << (pos + i)
    return result


def prmt(a: int, b: int, c: int) -> int:
    """The table under ``prmt``."""
    source = (b << 32 | a).to_bytes(8, "little")
    found = 0
    for i in range(4):
        selector = c >> (4 * i) & 15
        byte = source[selector & 7]
        if selector & 8:
            byte = 0xFF if byte & 0x80 else 0
        found |= byte << (8 * i)
    return found


PRMT_MODES = {  # the bytes that each value of the two lowest bits selects, from d.b3 to d.b0
    "f4e": ("3210", "4321", "5432", "6543"),
    "b4e": ("5670", "6701", "7012", "0123"),
    "rc8": ("0000", "1111", "2222", "3333"),
    "ecl": ("3210", "3211", "3222", "3333"),
    "ecr": ("0000", "1110", "2210", "3210"),
    "rc16": ("1010", "3232", "1010", "3232"),
}


def prmt_mode(a: int, b: int, c: int, mode: str) -> int:
    """The table of the specialised forms under ``prmt``."""
    source = (b << 32 | a).to_bytes(8, "little")
    return int.from_bytes((source[int(digit)] for digit in PRMT_MODES[mode][c & 3]), "big")


def shf(a: int, b: int, c: int, *, left: bool, wrap: bool) -> int:
    """The definition under ``shf``."""
    n = c & 31 if wrap else min(c, 32)
    return (b << n) & M32 | a >> (32 - n) if left else (b << (32 - n)) & M32 | a >> n


def lop3(a: int, b: int, c: int, table: int) -> int:
    """``lop3``: the table is what the function makes of 0xF0, 0xCC and 0xAA."""
    return sum((table >> (4 * (a >> i & 1) + 2 * (b >> i & 1) + (c >> i & 1)) & 1) << i for i in range(32))


Case = tuple[str, tuple[int, ...], Callable[..., int]]
CASES: list[Case] = [
    ("add.s32 %x, %a, %b;", (32, 32, 32), lambda a, b: a + b),
    ("add.u64 %x, %a, %b;", (64, 64, 64), lambda a, b: a + b),
    ("add.s16 %x, %a, %b;", (16, 16, 16), lambda a, b: a + b),
    ("sub.s32 %x, %a, %b;", (32, 32, 32), lambda a, b: a - b),
    ("mul.lo.u32 %x, %a, %b;", (32, 32, 32), lambda a, b: a * b),
    ("mul.hi.u32 %x, %a, %b;", (32, 32, 32), lambda a, b: a * b >> 32),
    ("mul.hi.s32 %x, %a, %b;", (32, 32, 32), lambda a, b: signed(a, 32) * signed(b, 32) >> 32),
    ("mul.hi.u64 %x, %a, %b;", (64, 64, 64), lambda a, b: a * b >> 64),
    ("mul.hi.s64 %x, %a, %b;", (64, 64, 64), lambda a, b: signed(a, 64) * signed(b, 64) >> 64),
    ("mul.wide.u32 %x, %a, %b;", (64, 32, 32), lambda a, b: a * b),
    ("mul.wide.s32 %x, %a, %b;", (64, 32, 32), lambda a, b: signed(a, 32) * signed(b, 32)),
    ("mul.wide.s16 %x, %a, %b;", (32, 16, 16), lambda a, b: signed(a, 16) * signed(b, 16)),
    ("mad.lo.s32 %x, %a, %b, %c;", (32, 32, 32, 32), lambda a, b, c: a * b + c),
    ("mad.wide.u32 %x, %a, %b, %c;", (64, 32, 32, 64), lambda a, b, c: a * b + c),
    ("mad.hi.u32 %x, %a, %b, %c;", (32, 32, 32, 32), lambda a, b, c: (a * b >> 32) + c),
    (
        "div.s32 %x, %a, %b;",
        (32, 32, 32),
        lambda a, b: quotient(signed(a, 32), signed(b, 32)) if b else M32,
    ),
    ("div.u32 %x, %a, %b;", (32, 32, 32), lambda a, b: a // b if b else M32),
    ("rem.u64 %x, %a, %b;", (64, 64, 64), lambda a, b: a % b if b else a),
    (
        "rem.s32 %x, %a, %b;",
        (32, 32, 32),
        lambda a, b: signed(a, 32) - quotient(signed(a, 32), signed(b, 32)) * signed(b, 32) if b else a,
    ),
    ("abs.s32 %x, %a;", (32, 32), lambda a: abs(signed(a, 32))),
    ("neg.s32 %x, %a;", (32, 32), lambda a: -a),
    ("min.s32 %x, %a, %b;", (32, 32, 32), lambda a, b: min(signed(a, 32), signed(b, 32))),
    ("max.u64 %x, %a, %b;", (64, 64, 64), max),
    ("popc.b32 %x, %a;", (32, 32), lambda a: a.bit_count()),
    ("clz.b64 %x, %a;", (32, 64), lambda a: 64 - a.bit_length()),
    ("brev.b32 %x, %a;", (32, 32), lambda a: int(f"{a:032b}"[::-1], 2)),
    ("bfe.u32 %x, %a, %b, %c;", (32, 32, 32, 32), lambda a, b, c: bfe(a, b, c, 32, False)),
    ("bfe.s32 %x, %a, %b, %c;", (32, 32, 32, 32), lambda a, b, c: bfe(a, b, c, 32, True)),
    ("bfe.s64 %x, %a, %b, %c;", (64, 64, 32, 32), lambda a, b, c: bfe(a, b, c, 64, True)),
    ("bfe.u32 %x, %a, 5, 2;", (32, 32), lambda a: a >> 5 & 3),
    ("bfe.s32 %x, %a, 5, 2;", (32, 32), lambda a: bfe(a, 5, 2, 32, True)),
    ("bfe.s32 %x, %a, 31, 1;", (32, 32), lambda a: bfe(a, 31, 1, 32, True)),
    ("bfe.s32 %x, %a, 30, 5;", (32, 32), lambda a: bfe(a, 30, 5, 32, True)),
    ("bfe.u64 %x, %a, 0, 64;", (64, 64), lambda a: a),
    ("bfe.s64 %x, %a, 40, 0;", (64, 64), lambda a: 0),
    ("bfi.b32 %x, %a, %b, %c, %d;", (32, 32, 32, 32, 32), bfi),
    ("setp.lt.s32 %x, %a, %b;", (1, 32, 32), lambda a, b: signed(a, 32) < signed(b, 32)),
    ("setp.lo.u32 %x, %a, %b;", (1, 32, 32), lambda a, b: a < b),
    ("setp.hs.u64 %x, %a, %b;", (1, 64, 64), lambda a, b: a >= b),
    ("setp.eq.b64 %x, %a, %b;", (1, 64, 64), lambda a, b: a == b),
    ("setp.ge.and.s64 %x, %a, %b, %c;", (1, 64, 64, 1), lambda a, b, c: signed(a, 64) >= signed(b, 64) and c),
    ("selp.b32 %x, %a, %b, %c;", (32, 32, 32, 1), lambda a, b, c: a if c else b),
    ("and.b32 %x, %a, %b;", (32, 32, 32), lambda a, b: a & b),
    ("or.pred %x, %a, %b;", (1, 1, 1), lambda a, b: a | b),
    ("xor.b64 %x, %a, %b;", (64, 64, 64), lambda a, b: a ^ b),
    ("not.b64 %x, %a;", (64, 64), lambda a: ~a),
    ("not.pred %x, %a;", (1, 1), lambda a: not a),
    *[
        (f"lop3.b32 %x, %a, %b, %c, {t};", (32, 32, 32, 32), lambda a, b, c, t=t: lop3(a, b, c, t))
        for t in (0x96, 0xCA, 0xE8, 0x01, 0xFE, 0)
    ],
    *[
        (
            f"shf.{d}.{m}.b32 %x, %a, %b, {n};",
            (32, 32, 32, 32),
            lambda a, b, c, d=d, m=m, n=n: shf(
                a, b, c if n == "%c" else int(n), left=d == "l", wrap=m == "wrap"
            ),
        )
        for d in "lr"
        for m in ("wrap", "clamp")
        for n in ("%c", "7", "0", "32")
    ],
    ("shl.b32 %x, %a, %b;", (32, 32, 32), lambda a, b: a << b if b < 32 else 0),
    ("shl.b64 %x, %a, 40;", (64, 64), lambda a: a << 40),
    ("shr.u64 %x, %a, %b;", (64, 64, 32), lambda a, b: a >> b),
    ("shr.s32 %x, %a, %b;", (32, 32, 32), lambda a, b: signed(a, 32) >> min(b, 31)),
    ("shr.s32 %x, %a, 40;", (32, 32), lambda a: signed(a, 32) >> 31),
    ("prmt.b32 %x, %a, %b, %c;", (32, 32, 32, 32), prmt),
    *[
        (f"prmt.b32 %x, %a, %b, {c};", (32, 32, 32), lambda a, b, c=c: prmt(a, b, c))
        for c in (0x0123, 0x7531, 0x5410, 0xF8A9)
    ],
    *[
        (f"prmt.b32.{mode} %x, %a, %b, %c;", (32, 32, 32, 32), lambda a, b, c, m=mode: prmt_mode(a, b, c, m))
        for mode in PRMT_MODES
    ],
    *[
        (
            f"prmt.b32.{mode} %x, %a, %b, {c};",
            (32, 32, 32),
            lambda a, b, c=c, m=mode: prmt_mode(a, b, c, m),
        )
        for mode in PRMT_MODES
        for c in (0, 1, 2, 7)
    ],
    ("cvt.s64.s32 %x, %a;", (64, 32), lambda a: signed(a, 32)),
    ("cvt.u64.u32 %x, %a;", (64, 32), lambda a: a),
    ("cvt.u16.u32 %x, %a;", (16, 32), lambda a: a),
    ("cvt.s32.s16 %x, %a;", (32, 16), lambda a: signed(a, 16)),
    ("cvt.s32.s8 %x, %a;", (32, 32), lambda a: signed(a, 8)),
    ("cvt.u32.u8 %x, %a;", (32, 32), lambda a: a & 0xFF),
    ("mov.b64 %x, {%a, %b};", (64, 32, 32), lambda a, b: b << 32 | a),
    ("mov.b32 %x, {%a, %b};", (32, 16, 16), lambda a, b: b << 16 | a),
    ("mov.b64 {_, %x}, %a;", (32, 64), lambda a: a >> 32),
    ("@%b mov.b32 %x, %a;", (32, 32, 1), lambda a, b: a if b else 0xA5A5A5A5),  # "Predicated Execution"
]


@pytest.mark.parametrize(("text", "bits", "definition"), CASES, ids=[case[0][:40] for case in CASES])
def test_an_instruction_does_what_its_definition_says(text, bits, definition):
    if text.startswith("@"):
        text = f"mov.b32 %x, {0xA5A5A5A5};\n" + text
    rows = list(zip(*(values(width, 96) for width in bits[1:]), strict=True))
    random.Random(text).shuffle(rows)
    columns = [random.Random(f"{text}{i}").sample(values(w, 96), 96) for i, w in enumerate(bits[1:])]
    rows = list(zip(*columns, strict=True))
    expected = [int(definition(*row)) & ((1 << bits[0]) - 1) for row in rows]
    assert results(text, bits, rows) == expected


def number(value: float) -> int:
    return int.from_bytes(struct.pack("<f", value), "little")


def exactly_rounded(value: Fraction) -> int:
    """The float nearest to a fraction, ties to even."""
    if value == 0:
        return 0
    exponent = -149
    scaled = abs(value) * 2**149
    while scaled >= 1 << 24:
        scaled /= 2
        exponent += 1
    digits = round(scaled)  # Python rounds ties to even
    return number(float(digits) * 2.0**exponent * (1 if value > 0 else -1))


def test_floats_are_rounded_once():
    """``add``, ``mul`` and ``fma`` of ``f32``."""
    generator = random.Random(3)
    found = [struct.unpack("<f", struct.pack("<f", generator.uniform(-4, 4)))[0] for _ in range(288)]
    # Sums that lie so close to the middle of two floats that rounding twice gives the wrong one
    rows = [
        (number(1 + 2**-12), number(1 + 2**-12), number(2**-80)),
        (number(1 + 2**-12), number(1 + 2**-12), number(-(2**-80))),
    ]
    rows += [(number(found[i]), number(found[i + 1]), number(found[i + 2])) for i in range(0, 270, 3)]

    def of(bits: int) -> Fraction:
        return Fraction(struct.unpack("<f", bits.to_bytes(4, "little"))[0])

    expected = [exactly_rounded(of(a) * of(b) + of(c)) for a, b, c in rows]
    assert results("fma.rn.f32 %x, %a, %b, %c;", (32, 32, 32, 32), rows) == expected
    expected = [exactly_rounded(of(a) + of(b)) for a, b, _ in rows]
    assert results("add.f32 %x, %a, %b;", (32, 32, 32), [row[:2] for row in rows]) == expected


@pytest.mark.parametrize(
    ("kind", "bits", "rows"),
    [
        ("u32.f32", 32, {1.75: 1, -3.5: 0, 2.0**40: M32, math.nan: 0}),
        ("s32.f32", 32, {-1.75: M32, 2.0**31: 2**31 - 1, -(2.0**40): 2**31, math.nan: 0}),
        ("u64.f32", 64, {2.0**40: 2**40, -1.0: 0, 2.0**70: M64, math.nan: 2**63}),
        ("s64.f32", 64, {-2.5: M64 - 1, -(2.0**70): 2**63, math.nan: 2**63}),
    ],
)
def test_floats_become_integers(kind, bits, rows):
    """``cvt.rzi``: towards zero, clamped to the range; NaN as under "Integer Notes"."""
    found = results(f"cvt.rzi.{kind} %x, %a;", (bits, 32), [(number(value),) for value in rows])
    assert found == list(rows.values())


def outputs(body: str, count: int, *, threads: int = 32, shared: int = 0, seed: int = 0) -> list[int]:
    """The words that a kernel stores: ``%tid``'s result goes to ``[%d9]``."""
    found = np.full(count, 0xEEEEEEEE, np.uint32)
    body = "mad.lo.u64 %d9, %at, 4, %out; mad.lo.u64 %d8, %at, 4, %in;" + body
    run(kernel(body, threads=threads, shared=shared), np.arange(64, dtype=np.uint32) + 100, found, seed=seed)
    return [int(x) for x in found]


@pytest.mark.parametrize(
    ("mode", "b", "c", "source"),
    [
        ("up", 4, 0, lambda t: t - 4 if t >= 4 else t),
        ("down", 3, 31, lambda t: t + 3 if t + 3 <= 31 else t),
        ("bfly", 5, 31, lambda t: t ^ 5),
        ("idx", 7, 31, lambda t: 7),
        ("down", 1, (24 << 8) | 31, lambda t: t + 1 if t % 8 != 7 else t),
        ("idx", 2, (16 << 8) | 31, lambda t: t // 16 * 16 + 2),
    ],
)
def test_shuffles(mode, b, c, source):
    """The pseudocode under ``shfl.sync``."""
    found = outputs(f"shfl.sync.{mode}.b32 %r1, %tid, {b}, {c}, -1; st.global.b32 [%d9], %r1;", 32)
    assert found == [source(t) for t in range(32)]


def test_reductions_and_votes_of_a_warp():
    """``redux.sync`` and ``vote.sync``."""
    found = outputs("redux.sync.add.s32 %r1, %tid, -1; st.global.b32 [%d9], %r1;", 32)
    assert found == [sum(range(32))] * 32
    body = "setp.gt.u32 %p1, %tid, 20; vote.sync.ballot.b32 %r1, %p1, -1; st.global.b32 [%d9], %r1;"
    assert outputs(body, 32) == [sum(1 << t for t in range(21, 32))] * 32


def test_branches_rejoin():
    body = """
    setp.lt.u32 %p1, %tid, 10; mov.u32 %r1, 0;
    @%p1 bra LOOP; bra AFTER;
    LOOP: add.u32 %r1, %r1, 1; setp.lt.u32 %p2, %r1, %tid; @%p2 bra LOOP;
    AFTER: redux.sync.add.s32 %r2, %r1, -1; st.global.b32 [%d9], %r2;
    """
    assert outputs(body, 32) == [1 + sum(range(1, 10))] * 32


def test_atomic_operations():
    """``atom`` and ``red``."""
    body = "mov.u32 %r1, 3; atom.global.gpu.relaxed.add.u32 %r2, [%out + 128], %r1; st.global.b32 [%d9], %r2;"
    found = np.zeros(33, np.uint32)
    run(kernel("mad.lo.u64 %d9, %at, 4, %out;" + body), np.zeros(1, np.uint32), found)
    assert sorted(int(x) for x in found[:32]) == list(range(0, 96, 3)) and found[32] == 96


# Memory and synchronisation

EXCHANGE = """
mov.u32 %r1, smem; mad.lo.u32 %r2, %tid, 4, %r1; st.shared.b32 [%r2], %tid;
{barrier}
xor.b32 %r3, %tid, 32; mad.lo.u32 %r4, %r3, 4, %r1; ld.shared.b32 %r5, [%r4]; st.global.b32 [%d9], %r5;
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_barrier_orders_warps(seed):
    body = EXCHANGE.format(barrier="bar.sync 0;")
    assert outputs(body, 64, threads=64, shared=256, seed=seed) == [t ^ 32 for t in range(64)]


def test_a_missing_barrier_is_found():
    with pytest.raises((Race, Uninitialised), match="shared"):
        outputs(EXCHANGE.format(barrier=""), 64, threads=64, shared=256)


def test_shared_memory_that_nothing_wrote_is_not_read():
    body = "mov.u32 %r1, smem; ld.shared.b32 %r2, [%r1]; st.global.b32 [%d9], %r2;"
    with pytest.raises(Uninitialised, match=r"ld\.shared"):
        outputs(body, 32, shared=64)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("ld.global.b32 %r1, [%in + 256];", MemoryFault, "0 bytes after the end of in"),
        ("ld.global.b32 %r1, [%in + -4];", MemoryFault, "4 bytes before in"),
        ("ld.global.b64 %d1, [%in + 4];", MemoryFault, "not aligned to 8"),
        ("ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%in + 248];", MemoryFault, "not aligned to 16"),
        ("st.global.b32 [%out], %tid;", Race, "different values in one place"),
        ("st.global.b32 [%out + 4096], %tid;", MemoryFault, "outside the memory"),
        ("mov.u32 %r1, smem; st.shared.b32 [%r1 + 64], %r1;", MemoryFault, "shared memory"),
        ("mov.u32 %r1, 0; st.shared.b32 [%r1], %r1;", MemoryFault, "shared memory, which start at 1024"),
        ("setp.lt.u32 %p1, %tid, 5; @%p1 bra A; bar.sync 0; A:", EmulationError, "together"),
        (
            "setp.lt.u32 %p1, %tid, 5; @%p1 bra A; shfl.sync.idx.b32 %r1, %tid, 0, 31, -1; A:",
            EmulationError,
            "shfl",
        ),
        ("A: bra A;", Deadlock, "has not ended"),
    ],
)
def test_faults_are_found(body, error, message, monkeypatch):
    monkeypatch.setattr(scheduler, "LIMIT", 1000)
    with pytest.raises(error, match=message):
        outputs(body, 32, shared=64)


@pytest.mark.parametrize(
    "text",
    [
        "tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r1}, [%r2];",
        "mbarrier.init.shared::cta.b64 [%r1], 1;",
        "cp.async.bulk.commit_group;",
        "ld.b32 %r1, [%in];",
        "shfl.sync.idx.b32 %r1, %tid, 0, 31, 1;",
        "add.sat.s32 %r1, %r1, %r1;",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r1,%r2,%r3,%r4}, {%r1,%r2,%r3,%r4}, {%r1,%r2}, "
        "{%r1,%r2,%r3,%r4};",
    ],
)
def test_what_is_not_modelled_is_refused_by_name(text):
    with pytest.raises(Unmodelled, match=text.split(" ")[0].split(".")[0]):
        outputs(text, 32)


COPY = """
mov.u32 %r1, smem; mad.lo.u32 %r2, %tid, 4, %r1;
cp.async.ca.shared.global [%r2], [%d8], 4, {given};
cp.async.commit_group;
{wait}
ld.shared.b32 %r5, [%r2]; st.global.b32 [%d9], %r5;
"""


def test_an_asynchronous_copy_arrives_when_it_was_waited_for():
    """``cp.async``."""
    body = COPY.format(wait="cp.async.wait_group 0;", given="%r9")
    assert outputs("mov.u32 %r9, 4;" + body, 32, shared=128) == list(range(100, 132))
    short = outputs("mov.u32 %r9, 0;" + body, 32, shared=128)
    assert short == [0] * 32
    for wait in ("", "cp.async.wait_group 1;"):
        with pytest.raises(Uninitialised, match="asynchronous copy"):
            outputs("mov.u32 %r9, 4;" + COPY.format(wait=wait, given="%r9"), 32, shared=128)


def test_another_warp_sees_a_copy_after_a_barrier_only():
    body = """
    mov.u32 %r1, smem; mad.lo.u32 %r2, %tid, 4, %r1;
    cp.async.ca.shared.global [%r2], [%d8], 4; cp.async.wait_all; {barrier}
    xor.b32 %r3, %tid, 32; mad.lo.u32 %r4, %r3, 4, %r1; ld.shared.b32 %r5, [%r4]; st.global.b32 [%d9], %r5;
    """
    found = outputs(body.format(barrier="bar.sync 0;"), 64, threads=64, shared=256)
    assert found == [100 + (t ^ 32) for t in range(64)]
    with pytest.raises((Race, Uninitialised)):
        outputs(body.format(barrier=""), 64, threads=64, shared=256)


def test_programs_race_in_global_memory():
    body = """mad.lo.u64 %d9, %at, 4, %out; ld.global.b32 %r1, [%d9];
    mov.u32 %r2, %ctaid.x; st.global.b32 [%d9], %r2;"""
    with pytest.raises(Race, match=r"st\.global|ld\.global"):
        run(kernel(body), np.zeros(1, np.uint32), np.zeros(32, np.uint32), grid=2)


# Matrices


def test_mma_multiplies_matrices():
    """The fragments are laid out in registers as "Matrix Fragments for mma.m16n8k16" and "mma.m16n8k32" say.
    Elements are found by the formulas for rows and columns there."""
    random_bytes = np.random.default_rng(1)
    a = random_bytes.integers(-128, 128, (16, 32)).astype(np.int8)
    b = random_bytes.integers(-128, 128, (32, 8)).astype(np.int8)
    c = random_bytes.integers(-1000, 1000, (16, 8)).astype(np.int32)
    words = np.zeros((32, 10), np.uint32)
    for lane in range(32):
        group, within = lane >> 2, lane % 4
        a_bytes, b_bytes = [0] * 16, [0] * 8
        for i in range(16):
            row = group if i < 4 or 8 <= i < 12 else group + 8
            column = within * 4 + (i & 3) + (16 if i >= 8 else 0)
            a_bytes[i] = int(a[row, column]) & 255
        for i in range(8):
            row = within * 4 + (i & 3) + (16 if i >= 4 else 0)
            b_bytes[i] = int(b[row, group]) & 255
        words[lane, :4] = np.frombuffer(bytes(a_bytes), np.uint32)
        words[lane, 4:6] = np.frombuffer(bytes(b_bytes), np.uint32)
        for i in range(4):
            words[lane, 6 + i] = np.uint32(int(c[group + (8 if i >= 2 else 0), within * 2 + (i & 1)]) & M32)
    loads = " ".join(f"ld.global.b32 %r{10 + i}, [%d8 + {4 * i}];" for i in range(10))
    stores = " ".join(f"st.global.b32 [%d9 + {4 * i}], %r{30 + i};" for i in range(4))
    text = f"""mad.lo.u64 %d8, %at, 40, %in; mad.lo.u64 %d9, %at, 16, %out; {loads}
    mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32 {{%r30,%r31,%r32,%r33}},
      {{%r10,%r11,%r12,%r13}}, {{%r14,%r15}}, {{%r16,%r17,%r18,%r19}};
    {stores}"""
    found = np.zeros((32, 4), np.uint32)
    coverage = Coverage()
    run(kernel(text), words, found, coverage=coverage)
    expected = a.astype(np.int64) @ b.astype(np.int64) + c
    for lane in range(32):
        for i in range(4):
            row, column = (lane >> 2) + (8 if i >= 2 else 0), lane % 4 * 2 + (i & 1)
            assert int(found[lane, i].view(np.int32)) == expected[row, column]
    (covered,) = coverage.kernels()
    assert covered.missed() == ()


def test_a_matrix_with_empty_rows_is_not_covered():
    text = """mov.u32 %r1, 0; setp.lt.u32 %p1, %tid, 4; @%p1 mov.u32 %r1, 0x01010101;
    mov.u32 %r2, 0; mov.u32 %r3, 0x01010101;
    mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r30,%r31,%r32,%r33}, {%r1,%r2,%r2,%r2}, {%r3,%r3},
    {%r2,%r2,%r2,%r2};"""
    coverage = Coverage()
    run(kernel(text), np.zeros(1, np.uint32), np.zeros(1, np.uint32), coverage=coverage)
    (missed,) = coverage.kernels()[0].missed()
    assert missed.startswith("rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 of mma.sync")


def test_matrices_in_shared_memory():
    """``ldmatrix`` gives thread t elements 2 (t mod 4) and the next of row t / 4."""
    body = """mov.u32 %r1, smem; mad.lo.u32 %r2, %tid, 4, %r1; st.shared.b32 [%r2], %tid; bar.warp.sync -1;
    and.b32 %r3, %tid, 7; mad.lo.u32 %r4, %r3, 16, %r1;
    ldmatrix.sync.aligned.m8n8.x1{t}.shared.b16 {{%r5}}, [%r4];
    st.global.b32 [%d9], %r5;"""
    assert outputs(body.format(t=""), 32, shared=128) == list(range(32))
    halves = np.arange(32, dtype=np.uint32).view(np.uint16).reshape(8, 8)
    expected = np.ascontiguousarray(halves.T).view(np.uint32).reshape(-1)
    assert outputs(body.format(t=".trans"), 32, shared=128) == expected.tolist()


def wgmma(
    *,
    fence: str = "wgmma.fence.sync.aligned;",
    wait: str = "wgmma.wait_group.sync.aligned 0;",
    proxy: str = "fence.proxy.async;",
    late_proxy: str = "",
) -> str:
    """A product of 64 x 32 ones with 8 rows of 32 bytes in shared memory, which are swizzled by 32 bytes."""
    return f"""
    mov.u32 %r1, smem; setp.lt.u32 %p1, %tid, 64; mad.lo.u32 %r2, %tid, 4, %r1; mov.u32 %r3, 0x01010101;
    @%p1 st.shared.b32 [%r2], %r3; {proxy} bar.sync 0; {late_proxy}
    mov.u32 %r10, 0; mov.u32 %r11, 0; mov.u32 %r12, 0; mov.u32 %r13, 0;
    mov.b64 %d1, {(3 << 62) | (16 << 32) | SHARED_START >> 4}; mov.pred %p2, 0; {fence}
    wgmma.mma_async.sync.aligned.m64n8k32.s32.s8.s8 {{%r10,%r11,%r12,%r13}}, {{%r3,%r3,%r3,%r3}}, %d1, %p2;
    wgmma.commit_group.sync.aligned; {wait}
    st.global.b32 [%d9], %r10;"""


def test_products_of_four_warps():
    """``wgmma.mma_async``."""
    assert outputs(wgmma(), 128, threads=128, shared=256) == [32] * 128


@pytest.mark.parametrize("seed", range(8))
def test_a_fence_covers_what_a_barrier_ordered_before_it(seed):
    """Triton has each group of warps fence after the barrier what all have stored before it. The groups come
    to the fence in any order."""
    body = wgmma(proxy="", late_proxy="fence.proxy.async;").replace("%tid, 64;", "%tid, 999;")
    body = body.replace("{%r3,%r3,%r3,%r3}, %d1", "{%r3,%r3,%r3,%r3}, %d5").replace(
        "mov.pred", f"mov.b64 %d5, {(3 << 62) | (16 << 32) | (SHARED_START + 512) >> 4}; mov.pred"
    )
    assert outputs(body, 256, threads=256, shared=1024, seed=seed) == [32] * 256


@pytest.mark.parametrize(
    ("left_out", "message"),
    [("fence", "no wgmma.fence"), ("wait", "no wgmma.wait_group"), ("proxy", r"no fence\.proxy\.async")],
)
def test_what_orders_a_product_is_needed(left_out, message):
    with pytest.raises(Race, match=message):
        outputs(wgmma(**{left_out: ""}), 128, threads=128, shared=256)


STORE = "st.global.b32 [%d9], "
HALF = "setp.lt.u32 %p1, %tid, 16;"


@pytest.mark.parametrize(
    ("body", "register", "who"),
    [
        (f"{STORE} %r1;", "%r1", "nothing has"),
        ("st.global.b32 [%d1], %tid;", "%d1", "nothing has"),
        ("@%p1 mov.u32 %r1, 7;", "%p1", "nothing has"),
        ("@%p1 bra A; A:", "%p1", "nothing has"),
        ("redux.sync.add.s32 %r2, %r1, -1;", "%r1", "nothing has"),
        ("shfl.sync.bfly.b32 %r2, %tid, %r1, 31, -1;", "%r1", "nothing has"),
        (f"{HALF} @%p1 mov.u32 %r1, 7; {STORE} %r1;", "%r1", "some of its threads have not"),
        (f"{HALF} @%p1 bra A; mov.u32 %r1, 7; A: {STORE} %r1;", "%r1", "some of its threads have not"),
        (f"{HALF} @%p1 ld.global.b32 %r1, [%in]; {STORE} %r1;", "%r1", "some of its threads have not"),
        # What is computed from it was not written either.
        (f"add.u32 %r2, %r1, 1; {STORE} %r2;", "%r2", "nothing has"),
        (f"mov.b32 %r2, %r1; mov.b32 %r3, %r2; {STORE} %r3;", "%r3", "nothing has"),
        (f"mov.b64 %d1, {{%tid, %r1}}; mov.b64 {{%r2, %r3}}, %d1; {STORE} %r3;", "%r3", "nothing has"),
        (f"prmt.b32 %r3, %tid, %r1, 0x3214; {STORE} %r3;", "%r3", "nothing has"),
        (f"prmt.b32.f4e %r3, %tid, %r1, 1; {STORE} %r3;", "%r3", "nothing has"),
        (f"lop3.b32 %r3, %tid, %r1, %tid, 0x96; {STORE} %r3;", "%r3", "nothing has"),
        ("setp.eq.u32 %p2, %r1, 0; @%p2 bra A; A:", "%p2", "nothing has"),
        ("mad.lo.u64 %d1, %d2, 4, %out; st.global.b32 [%d1], %tid;", "%d1", "nothing has"),
        (f"{HALF} selp.b32 %r2, %tid, %r1, %p1; {STORE} %r2;", "%r2", "some of its threads have not"),
        (f"{HALF} selp.b32 %r2, %tid, 0, %p3; {STORE} %r2;", "%r2", "nothing has"),
        (
            f"{HALF} @%p1 mov.u32 %r1, 7; shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1; @%p1 {STORE} %r2;",
            "%r2",
            "some of its threads have not",
        ),
        # A loop whose first iteration reads what its last instruction writes.
        (
            f"mov.u32 %r2, 0; L: add.u32 %r2, %r2, 1; {STORE} %r1; mov.u32 %r1, 1;"
            " setp.lt.u32 %p1, %r2, 3; @%p1 bra L;",
            "%r1",
            "nothing has",
        ),
    ],
)
def test_a_register_that_was_not_written_is_not_read(body, register, who):
    with pytest.raises(Uninitialised, match=rf"reads {register}, which {who}"):
        outputs(body, 32)


def test_the_line_of_the_source_is_named():
    body = ".loc 7 42 1\nst.global.b32 [%out], %r1;"  # line 42 of file 7, which has no name here
    with pytest.raises(Uninitialised, match=r"'st.global.b32 \[%out\], %r1' at 7:42 reads %r1"):
        run(kernel(body), np.zeros(1, np.uint32), np.zeros(1, np.uint32))


@pytest.mark.parametrize(
    "body",
    [
        # The same predicate guards what writes a register and what reads it.
        f"{HALF} @%p1 mov.u32 %r1, 7; @%p1 {STORE} %r1;",
        f"{HALF} @%p1 mov.u32 %r1, 7; @!%p1 mov.u32 %r1, 7; {STORE} %r1;",
        f"{HALF} @%p1 bra A; mov.u32 %r1, 7; bra B; A: mov.u32 %r1, 8; B: {STORE} %r1;",
        # Anything may be computed that nobody uses, and of operands whose value does not count.
        "mov.b32 %r2, %r1; mov.b64 %d1, {%tid, %r2}; mov.b64 {%r3, %r4}, %d1; add.u32 %r5, %r3, %r4;",
        f"prmt.b32 %r3, %tid, %r1, 0x3210; {STORE} %r3;",
        f"prmt.b32 %r3, %r1, %tid, 0x7654; {STORE} %r3;",
        f"prmt.b32.f4e %r3, %tid, %r1, 4; {STORE} %r3;",
        f"lop3.b32 %r3, %tid, %r1, %tid, 0x0F; {STORE} %r3;",
        f"lop3.b32 %r3, %tid, %tid, %r1, 0xC0; {STORE} %r3;",
        f"{HALF} @%p1 mov.u32 %r1, 7; add.u32 %r2, %r1, %tid; @%p1 {STORE} %r2;",
        f"{HALF} @%p1 mov.u32 %r1, 7; selp.b32 %r2, %r1, 0, %p1; {STORE} %r2;",
        f"{HALF} @%p1 mov.u32 %r1, 7; mov.u32 %r3, 16; @%p1 mov.u32 %r3, 0;"
        f" shfl.sync.bfly.b32 %r2, %r1, %r3, 31, -1; {STORE} %r2;",
    ],
)
def test_registers_that_were_written_or_do_not_count(body):
    outputs(body, 32)
