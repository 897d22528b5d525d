"""The roofline counts what a listing executes, and what is committed is what the kernels compile to."""

from __future__ import annotations

import json
from fractions import Fraction
from functools import cache

import pytest

from bench.compile_time import cuobjdump
from bench.roofline import minimum, report
from bench.roofline.counting import TARGETS, Count, CountError, count, hot_turn, rate
from bench.roofline.devices import DEVICES
from bench.roofline.families import FAMILIES
from bench.roofline.listing import Graph
from bench.roofline.vendors import KERNELS, MULTIPROCESSORS, VENDORS

BY_NAME = {family.name: family for family in FAMILIES}


def line_of(function: str, file: str = "batch.py") -> int:
    """A line of a device function."""
    lines = (KERNELS / file).read_text("utf-8").splitlines()
    return next(i for i, text in enumerate(lines, 1) if text.startswith(f"def {function}("))


# A loop over blocks of 16 bytes, whose rounds lie in an inner loop; the first turn of it was taken out. A
# branch skips the padding. Behind it is a loop that loads nothing.
SASS = f"""
\t.section\t.text.other,"ax",@progbits
        /*0000*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
\t.section\t.text.hash,"ax",@progbits
\t.sectioninfo\t@"SHI_REGISTERS=40"
hash:
.text.hash:
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/               @P0 EXIT ;
.L_x_2:
\t//## File "/anywhere/kernels/batch.py", line {line_of("_load_vectors")}
        /*0020*/              @!P1 LDG.E.128 R4, desc[UR4][R2.64] ;
\t//## File "/anywhere/kernels/batch.py", line {line_of("hash_messages")}
        /*0030*/              @!P2 BRA `(.L_x_0) ;
\t//## File "/anywhere/kernels/batch.py", line {line_of("end_block")}
        /*0040*/                   SEL R4, R4, RZ, P1 ;
        /*0050*/                   SEL R5, R5, RZ, P1 ;
.L_x_0:
\t//## File "/anywhere/kernels/sm3.py", line {line_of("_rounds", "sm3.py")}
        /*0060*/                   LOP3.LUT R6, R4, R5, R6, 0x96, !PT ;
        /*0070*/                   IMAD.IADD R7, R6, 0x1, R7 ;
.L_x_1:
        /*0080*/                   LOP3.LUT R6, R4, R5, R6, 0x96, !PT ;
        /*0090*/                   IMAD.IADD R7, R6, 0x1, R7 ;
\t//## File "/anywhere/kernels/sm3.py", line {line_of("sm3_compress", "sm3.py")}
        /*00a0*/                   LDG.E R8, desc[UR4][R10.64] ;
        /*00b0*/                   UIADD3 UR6, UR6, 0x1, URZ ;
        /*00c0*/              @!P3 CALL.REL.NOINC `(.L_x_3) ;
        /*00d0*/                   BRA `(.L_x_1) ;
.L_x_3:
        /*00e0*/               @P4 BRA P5, `(.L_x_2) ;
.L_x_4:
        /*00f0*/                   IADD3 R1, R1, 0x1, RZ ;
        /*0100*/               @P4 BRA `(.L_x_4) ;
        /*0110*/                   EXIT ;
.L_x_5:
        /*0120*/                   BRA `(.L_x_5);
"""

# The same for AMD, with rounds whose last turn skips a part, and with a branch over the masked load.
GCN = f"""
hash:
\t.loc\t1 {line_of("hash_messages")} 0 ; batch.py:{line_of("hash_messages")}:0
\ts_load_dwordx2 s[2:3], s[0:1], 0x0
\ts_branch .LBB0_2
.LBB0_1:                                ;   in Loop: Header=BB0_2 Depth=1
\ts_cmp_lg_u32 s4, s5
\ts_cbranch_scc0 .LBB0_6
.LBB0_2:                                ; =>This Loop Header: Depth=1
\ts_and_saveexec_b64 s[2:3], vcc
\ts_cbranch_execz .LBB0_3
; %bb.1:                                ;   in Loop: Header=BB0_2 Depth=1
\t.loc\t1 {line_of("_load_vectors")} 8 is_stmt 0 ; batch.py:{line_of("_load_vectors")}:8 @[ batch.py:300:1 ]
\tglobal_load_dwordx4 v[4:7], v[26:27], off
.LBB0_3:
\ts_branch .LBB0_5
.LBB0_4:                                ;   in Loop: Header=BB0_5 Depth=2
\ts_cmp_lg_u32 s6, 4
\ts_cbranch_scc0 .LBB0_1
.LBB0_5:                                ;   Parent Loop BB0_2 Depth=1
\t.loc\t2 {line_of("_rounds", "sm3.py")} 8 ; sm3.py:{line_of("_rounds", "sm3.py")}:8
\tv_xor_b32_e32 v1, v2, v3
\tv_mad_u64_u32 v[2:3], s[0:1], v4, v5, 0
\ts_cbranch_scc1 .LBB0_4
; %bb.2:
\t.loc\t2 {line_of("_expand", "sm3.py")} 8 ; sm3.py:{line_of("_expand", "sm3.py")}:8
\tv_alignbit_b32 v1, v2, v2, 9
\ts_branch .LBB0_4
.LBB0_6:
\ts_endpgm
.Lfunc_end0:
\tv_not_an_instruction_of_it v0
"""


def turn_of(listing: str, vendor: str, **facts):
    graph = Graph(VENDORS[vendor].lines(listing, "hash"))
    return hot_turn(graph, vendor, **{"reads": "_load_vectors", "expected": Fraction(16), **facts})


def test_a_listing_of_nvidia():
    shares = {"end_block": Fraction(0)}
    turn = turn_of(SASS, "cuda", rounds=("_rounds", 4), shares=shares)
    assert turn.opcodes == {
        "LDG.E.128": 1,
        "BRA": 1 + 3 + 1,
        "LOP3.LUT": 1 + 3,
        "IMAD.IADD": 1 + 3,
        "LDG.E": 3,
        "UIADD3": 3,
        "CALL.REL.NOINC": 3,
    }
    assert (turn.read, turn.other, turn.turns) == ({16: 1}, 12, 1)
    # Without the list of rare functions, the padding counts.
    assert turn_of(SASS, "cuda", rounds=("_rounds", 4)).opcodes["SEL"] == 2
    # Two turns of the source's loop are one of the compiler's if there are loads for both.
    assert turn_of(SASS, "cuda", rounds=("_rounds", 4), shares=shares, expected=Fraction(8)).turns == 2


def test_a_listing_of_amd():
    turn = turn_of(GCN, "hip", rounds=("_rounds", 4), shares={"_expand": Fraction(3, 4)})
    assert turn.opcodes == {
        "s_cmp_lg_u32": 1 + 4,
        "s_cbranch_scc0": 1 + 4,
        "s_and_saveexec_b64": 1,
        "s_cbranch_execz": 1,
        "global_load_dwordx4": 1,
        "s_branch": 1 + 3,
        "v_xor_b32_e32": 4,
        "v_mad_u64_u32": 4,
        "s_cbranch_scc1": 4,
        "v_alignbit_b32": 3,
    }
    assert (turn.read, turn.other, turn.turns) == ({16: 1}, 0, 1)


def test_what_does_not_fit_the_family_is_an_error():
    with pytest.raises(CountError, match="no loop loads 17 bytes"):
        turn_of(GCN, "hip", rounds=("_rounds", 4), expected=Fraction(17))
    with pytest.raises(CountError, match="nobody says how often"):
        turn_of(SASS, "cuda")
    with pytest.raises(CountError, match="nothing of _sub_bytes"):
        turn_of(SASS, "cuda", rounds=("_sub_bytes", 10))
    with pytest.raises(ValueError, match=r"no label \.LBB0_1 for the branch"):
        turn_of(GCN.replace(".LBB0_1:", ".LBB0_9:"), "hip")


@pytest.mark.parametrize(
    ("vendor", "opcode", "pipe", "weight", "loaded"),
    [
        ("cuda", "LOP3.LUT", "alu", 1, 0),
        ("cuda", "IMAD.IADD", "fma", 1, 0),
        ("cuda", "IMAD.WIDE.U32", "fma", 2, 0),
        ("cuda", "UIADD3.X", "uniform", 1, 0),
        ("cuda", "LDG.E.U8", "memory", 1, 1),
        ("cuda", "LDGSTS.E.BYPASS.128", "memory", 1, 16),
        ("cuda", "IGMMA.64x32x32.S8.S8", "matrix", 1, 0),
        ("cuda", "UTCIMMA", "matrix", 1, 0),
        ("cuda", "BAR.SYNC.DEFER_BLOCKING", "control", 1, 0),
        ("hip", "v_alignbit_b32", "valu", 1, 0),
        ("hip", "v_mul_lo_u32", "valu", 4, 0),
        ("hip", "v_mfma_i32_32x32x16_i8", "matrix", 1, 0),
        ("hip", "s_add_u32", "salu", 1, 0),
        ("hip", "s_waitcnt", "control", 1, 0),
        ("hip", "ds_read_b64", "memory", 1, 0),
        ("hip", "global_load_ubyte", "memory", 1, 1),
        ("hip", "buffer_load_dword", "memory", 1, 4),
        ("hip", "global_load_b128", "memory", 1, 16),
    ],
)
def test_instructions(vendor, opcode, pipe, weight, loaded):
    rules = VENDORS[vendor]
    assert (rules.pipe(opcode), rules.weight(opcode), rules.loaded(opcode)) == (pipe, weight, loaded)


@pytest.mark.parametrize(
    ("target", "registers", "warps", "shared", "occupancy"),
    [
        # NVIDIA's occupancy calculator
        ("cuda:90", 32, 4, 0, 1.0),
        ("cuda:90", 64, 4, 0, 0.5),
        ("cuda:90", 65, 4, 0, 28 / 64),
        ("cuda:90", 255, 8, 0, 8 / 64),
        ("cuda:80", 32, 4, 40 << 10, 16 / 64),
        # The comment "Occupancy" in LLVM's listings, in waves of one vector unit
        ("hip:gfx942", 127, 8, 0, 4 / 8),
        ("hip:gfx942", 170, 4, 0, 2 / 8),
        ("hip:gfx1100", 256, 4, 0, 5 / 16),
        ("hip:gfx1100", 96, 4, 0, 1.0),
    ],
)
def test_occupancy(target, registers, warps, shared, occupancy):
    assert MULTIPROCESSORS[target].occupancy(registers, warps, shared) == occupancy


def test_the_operations_of_a_block():
    # SHA-256: 6 * 64 + 6 * 48 rotations and shifts, 4 * 64 + 2 * 48 Boolean functions, as many additions and
    # eight more, and 16 rearrangements.
    assert minimum.OPERATIONS["sha256"][0] == 672 + 352 + 360 + 16
    # BLAKE3: 7 * 8 * 4 rotations, additions and xors, and eight more xors.
    assert minimum.OPERATIONS["blake3"][0] == 3 * 224 + 8
    assert set(minimum.OPERATIONS) <= {family.algorithm for family in FAMILIES}


def test_a_rate():
    (h100,) = (device for device in DEVICES if device.name == "H100")
    facts = {"matrix": 0.0, "ratio": None, "registers": 32, "spilled": 0, "occupancy": 1.0, "loaded": 1.0}
    slow = Count(pipes={"alu": 16.0, "fma": 4.0}, times={"alu": 16.0, "fma": 8.0}, lines=(1, 1), **facts)
    assert rate(slow, h100) == (pytest.approx(132 * 1.98 * 64 / 16), "alu")
    fast = Count(pipes={"alu": 1.0, "fma": 1.0}, times={"alu": 1.0, "fma": 1.0}, lines=(1, 1), **facts)
    assert rate(fast, h100) == (3350, "memory")


@cache
def committed() -> dict[str, dict[str, Count]]:
    return report.from_json(report.RESULTS.read_text("utf-8"))


def test_everything_is_counted():
    assert {name: tuple(by_target) for name, by_target in committed().items()} == {
        family.name: TARGETS for family in FAMILIES
    }
    data = json.loads(report.RESULTS.read_text("utf-8"))
    assert data["label"] == "counted, not measured"
    assert all(
        set(entry["rates"]) == {device.name for device in DEVICES} for entry in data["families"].values()
    )
    assert report.to_json(committed()).replace(data["triton"], "") == report.RESULTS.read_text(
        "utf-8"
    ).replace(data["triton"], "")


def test_the_page_has_the_tables_of_the_results():
    text = report.PAGE.read_text("utf-8")
    assert report.page(text, committed()) == text, "python -m bench.roofline --write"


def cases():
    for target in TARGETS:
        for name, family in BY_NAME.items():
            marks = []
            if (target, name) not in (("cuda:90", "siphash_2_4"), ("hip:gfx942", "siphash_2_4")):
                often = target in ("cuda:90", "hip:gfx942") and family.algorithm in minimum.OPERATIONS
                marks = [pytest.mark.slow if often else pytest.mark.exhaustive, pytest.mark.rotating(3)]
            yield pytest.param(target, name, id=f"{target}-{name}", marks=marks)


@pytest.mark.parametrize(("target", "name"), list(cases()))
def test_no_kernel_gets_slower_by_count(target, name):
    if target.startswith("cuda") and cuobjdump("--version", b"") is None:
        pytest.skip("this Triton does not contain NVIDIA's disassemblers")
    old, new = committed()[name][target], count(BY_NAME[name], target)
    advice = f"python -m bench.roofline {name} --target {target} --write, if this is intended"
    assert (new.ratio is None) == (old.ratio is None)
    if new.ratio is not None and old.ratio is not None:
        assert new.ratio <= old.ratio + 1e-4, advice
    assert sum(new.times.values()) <= sum(old.times.values()) + 1e-3, advice
    assert new.spilled <= old.spilled, advice
    assert new.occupancy >= old.occupancy - 1e-4, advice
