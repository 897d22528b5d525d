"""The roofline counts what a listing executes, and what is committed is what the kernels compile to."""

from __future__ import annotations

import json
import os
import shutil
import sys
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest

from bench.compile_time import cuobjdump
from bench.intel_code import DISASSEMBLER, MissingTool, offline_compiler_version
from bench.roofline import intel, minimum, report
from bench.roofline.counting import TARGETS, Count, CountError, count, hot_turn, is_launched, rate
from bench.roofline.devices import DEVICES
from bench.roofline.families import FAMILIES
from bench.roofline.listing import Graph
from bench.roofline.vendors import KERNELS, MULTIPROCESSORS, VENDORS, vendor_of
from integrity_triton.aot import compiling

BY_NAME = {family.name: family for family in FAMILIES}
COMPILER = Path(os.environ.get("INTEGRITY_TRITON_XPU_COMPILER") or Path(sys.prefix, "xpu-compiler"))


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


# The same for Intel, with a masked load that lanes may skip. Two turns of the rounds have become one.
XE = """
L0:
/* [0000]  */ (W)     mov (16|M0)              r127.0<1>:ud  0x0:ud
/* [0010]  */         send.ugm (1|M0)          r1       r127    null:0  0xFF000000            0x6228E500           {A@1,$0} // wr:1+0, rd:2; load.ugm.d32x32t.a32.ca.ca.bti[255]
L32:
/* [0020]  */ (f0.1)  goto (16|M0)                         L64                  L64
/* [0030]  */         send.ugm (16|M0)         r7       r2      null:0  0x0            0x04403580           {I@1,$5} // wr:2+0, rd:4; load.ugm.d32x4.a64.ca.ca
L64:
/* [0040]  */         join (16|M0)                         L208
/* [0048]  */ (W&~f1.1) jmpi                               L96
/* [0050]  */         sel (16|M0)   (lt)f0.0   r4.0<1>:d    r8.0<1;1,0>:d     0:w
L96:
/* [0060]  */         send.ugm (1|M0)          r9       r127    null:0  0x0            0x0           {$6} // wr:1+0, rd:1; load.ugm.d32x8t.a64
/* [0070]  */         bfn.(s0^(s1&s2)) (16|M0)   r4.0<1>:ud   r5.0<1;0>:ud      r6.0<1;0>:ud     r7.0<1>:ud       {I@7}
/* [0078]  */         add (16|M0)              r4.0<1>:q     r4.0<1;1,0>:q     -r8.0<1;1,0>:q   {Compacted,I@1}
/* [0080]  */         bfn.(s0^(s1&s2)) (16|M0)   r4.0<1>:ud   r5.0<1;0>:ud      r6.0<1;0>:ud     r7.0<1>:ud
/* [0088]  */ (W&f2.0) jmpi                                L176
/* [0090]  */         rol (16|M0)              r4.0<1>:ud   r5.0<1;0>:ud      0x3:uw
L176:
/* [00B0]  */ (W&f3.0) jmpi                                L96
/* [00C0]  */ (~f2.1) goto.b (16|M0)                       L208                  L32
L208:
/* [00D0]  */         send.gtwy (1|M0)         null     r112    null:0  0x0            0x02000010           {EOT} // wr:1+0, rd:0; end of thread
"""  # noqa: E501
XE_LINES = f"""
File name                            Line number    Starting address    View    Stmt
batch.py                                     {line_of("hash_messages")}                   0               x
batch.py                                     {line_of("_load_vectors")}                0x30               x
batch.py                                     {line_of("hash_messages")}                0x40               x
batch.py                                     {line_of("end_block")}                0x50
sm3.py                                       {line_of("sm3_compress", "sm3.py")}                0x60
sm3.py                                       {line_of("_rounds", "sm3.py")}                0x70
sm3.py                                       {line_of("_expand", "sm3.py")}                0x90
batch.py                                     {line_of("hash_messages")}                0xb0
batch.py                                     {line_of("hash_messages")}               0xd0               x
"""


def turn_of(listing: str, target: str, **facts):
    rules = vendor_of(target)
    graph = Graph(rules.lines(listing, "hash"))
    return hot_turn(graph, rules, **{"reads": "_load_vectors", "expected": Fraction(16), **facts})


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


def test_a_listing_of_intel():
    shares = {"end_block": Fraction(0), "_expand": Fraction(3, 4)}
    listing = intel.with_lines(XE, XE_LINES)
    turn = turn_of(listing, "xpu:pvc", rounds=("_rounds", 4), constants=16, shares=shares)
    # Four turns of the source are two. The last one skips the last part, so half of these two do.
    assert turn.opcodes == {
        "goto 16": 2,
        "send 16 load.ugm.d32x4.a64.ca.ca": 1,
        "join 16": 1,
        "jmpi 1": 1 + 2 + 2,
        "send 1 load.ugm.d32x8t.a64": 2,
        "bfn 16 ud": 4,
        "add 16 q": 2,
        "rol 16 ud": Fraction(1, 2) * 2,
    }
    assert (turn.read, turn.other, turn.turns) == ({16: 1}, 0, 1)
    # If each turn of the source loads all of it, the turns are not two.
    turn = turn_of(listing, "xpu:pvc", rounds=("_rounds", 4), constants=32, shares=shares)
    assert (turn.opcodes["bfn 16 ud"], turn.opcodes["rol 16 ud"]) == (8, Fraction(3, 4) * 4)
    with pytest.raises(ValueError, match="no rule for"):
        turn_of(XE.replace("rol (16|M0)", "call (16|M0)"), "xpu:pvc")


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
        ("xpu:pvc", "bfn 16 ud", "int", 1, 0),
        ("xpu:pvc", "add 16 q", "long", 2, 0),
        ("xpu:acm-g10", "add 16 d", "int", 2, 0),
        ("xpu:acm-g10", "mov 1 uw", "int", 1, 0),
        ("xpu:pvc", "mov 16 f", "float", 1, 0),
        ("xpu:pvc", "math 16 f", "math", 1, 0),
        ("xpu:pvc", "dpas 16 d", "dpas", 1, 0),
        ("xpu:pvc", "sync 1 ud", "control", 1, 0),
        ("xpu:pvc", "goto 16", "control", 1, 0),
        ("xpu:pvc", "send 16 load.ugm.d64.a64", "send", 1, 8),
        ("xpu:pvc", "send 16 load.ugm.d8u32.a64", "send", 1, 1),
        ("xpu:acm-g10", "send 8 load.ugm.d32x4.a32.ca.ca.bti[2]", "send", 1, 16),
        ("xpu:acm-g10", "send 8 load.ugm.d32x8t.a64.ca.ca", "send", 1, 0),
        ("xpu:pvc", "send 16 load.slm.d32x4.a32", "send", 1, 0),
        ("xpu:pvc", "send 16 store.ugm.d32x4.a64", "send", 1, 0),
    ],
)
def test_instructions(vendor, opcode, pipe, weight, loaded):
    rules = VENDORS[vendor]
    assert rules is vendor_of(vendor if ":" in vendor else f"{vendor}:90")
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
        # Intel's GPU Occupancy Calculator
        ("xpu:pvc", 128, 4, 0, 1.0),
        ("xpu:pvc", 256, 8, 0, 0.5),
        ("xpu:acm-g10", 128, 16, 64 << 10, 32 / 128),
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


def test_a_missing_reader_is_named(monkeypatch):
    monkeypatch.setattr(intel, "READER", "readelf-of-another-name")
    with pytest.raises(MissingTool, match="is not installed; on Debian and Ubuntu: apt-get install binutils"):
        intel.build(None, {}, "xpu:pvc", COMPILER)


def test_a_rate():
    (h100,) = (device for device in DEVICES if device.name == "H100")
    facts = {"matrix": 0.0, "ratio": None, "registers": 32, "spilled": 0, "spills": 0.0}
    facts |= {"occupancy": 1.0, "loaded": 1.0}
    slow = Count(pipes={"alu": 16.0, "fma": 4.0}, times={"alu": 16.0, "fma": 8.0}, lines=(1, 1), **facts)
    assert rate(slow, h100) == (pytest.approx(132 * 1.98 * 64 / 16), "alu")
    fast = Count(pipes={"alu": 1.0, "fma": 1.0}, times={"alu": 1.0, "fma": 1.0}, lines=(1, 1), **facts)
    assert rate(fast, h100) == (3350, "memory")


@cache
def committed() -> dict[str, dict[str, Count]]:
    return report.from_json(report.RESULTS.read_text("utf-8"))


def test_everything_is_counted():
    assert {name: tuple(by_target) for name, by_target in committed().items()} == {
        family.name: tuple(target for target in TARGETS if is_launched(family, target)) for family in FAMILIES
    }
    data = json.loads(report.RESULTS.read_text("utf-8"))
    assert data["label"] == "counted, not measured"
    for name, entry in data["families"].items():
        launched = {d.name for d in DEVICES if is_launched(BY_NAME[name], d.target)}
        assert set(entry["rates"]) == launched
    text = report.RESULTS.read_text("utf-8")
    assert report.to_json(committed(), report.versions(text)) == text
    assert set(report.versions(text)) == {"triton", "intel"}


def test_no_kernel_spills_in_its_hot_loop():
    """But for one, of which the page tells more: in each block it takes two numbers from four lanes of a
    vector register."""
    spilling = {
        (name, target)
        for name, by_target in committed().items()
        for target, counted in by_target.items()
        if counted.spilled or counted.spills
    }
    assert spilling == {("sha3_256", "hip:gfx942")}
    assert committed()["sha3_256"]["hip:gfx942"].spilled == 0
    assert committed()["sha3_256"]["hip:gfx942"].spills == pytest.approx(4 / 136, abs=1e-4)


def test_the_kernels_of_sm_90_are_near_the_minimum():
    ratios = {name: by_target["cuda:90"].ratio for name, by_target in committed().items()}
    assert {name for name, ratio in ratios.items() if ratio is not None and ratio > 1.10} == set()


def test_the_page_has_the_tables_of_the_results():
    text = report.PAGE.read_text("utf-8")
    assert report.page(text, committed()) == text, "python -m bench.roofline --write"


def cases():
    for target in TARGETS:
        for name, family in BY_NAME.items():
            marks = []
            if not is_launched(family, target):
                continue
            if (target, name) not in (("cuda:90", "siphash_2_4"), ("hip:gfx942", "siphash_2_4")):
                often = target in ("cuda:90", "hip:gfx942") and family.algorithm in minimum.OPERATIONS
                often |= (target, name) == ("xpu:pvc", "siphash_2_4")
                marks = [pytest.mark.slow if often else pytest.mark.exhaustive, pytest.mark.rotating(3)]
            yield pytest.param(target, name, id=f"{target}-{name}", marks=marks)


@pytest.mark.parametrize(("target", "name"), list(cases()))
def test_no_kernel_gets_slower_by_count(target, name):
    if target.startswith("cuda") and cuobjdump("--version", b"") is None:
        pytest.skip("this Triton does not contain NVIDIA's disassemblers")
    if target.startswith("xpu"):
        if not (COMPILER / "triton" / "__init__.py").exists():
            pytest.skip(f"absent: no {compiling.INTEL_COMPILER} in {COMPILER}")
        for tool in (compiling.OFFLINE_COMPILER, DISASSEMBLER, intel.READER):
            if shutil.which(tool) is None:
                pytest.skip(f"absent: {tool} is not installed")
        counted_with = report.versions(report.RESULTS.read_text("utf-8"))["intel"]
        if counted_with != [compiling.INTEL_COMPILER, offline_compiler_version()]:
            pytest.skip("absent: the compilers whose code was counted")
    old, new = committed()[name][target], count(BY_NAME[name], target, COMPILER)
    advice = f"python -m bench.roofline {name} --target {target} --write, if this is intended"
    assert (new.ratio is None) == (old.ratio is None)
    if new.ratio is not None and old.ratio is not None:
        assert new.ratio <= old.ratio + 1e-4, advice
    assert sum(new.times.values()) <= sum(old.times.values()) + 1e-3, advice
    assert new.spilled <= old.spilled, advice
    assert new.spills <= (old.spills or 0) + 1e-4, advice
    assert new.occupancy >= old.occupancy - 1e-4, advice
