"""Counting instructions in the code that the OpenCL runtime makes: the path of a block, and its kinds."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from dataclasses import replace

import pytest

from bench import cpu_instructions
from bench.cpu_instructions import LEAST, TURNS, USUAL, Code, Instruction, parsed
from integrity_triton.backends import registry
from integrity_triton.backends.opencl import prebuilt
from integrity_triton.backends.opencl.prebuilt import Specialization

# A loop over blocks, which loads whole blocks or gathers the last one, with a loop over rounds that prepares
# more words unless it ends. Code for alignment precedes the second loop.
LISTING = """
0000000000000000 <other>:
   0:\tret

0000000000000010 <entry>:
  10:\tmov    %rdi,%rax
  20:\ttest   %rax,%rax
  22:\tjne    30 <entry+0x20>
  24:\tvmovdqu64 (%rax),%zmm0
  28:\tjmp    40 <entry+0x30>
  2c:\tnopl   0x0(%rax)
  30:\tvpgatherdd (%rax,%zmm3,1),%zmm0{%k1}
  40:\tvprold $0x7,%zmm0,%zmm1
  44:\tvpternlogd $0x96,%zmm1,%zmm2,%zmm3
  48:\tvmovdqa64 %zmm1,0x40(%rsp)
  4c:\tje     60 <entry+0x50>
  50:\tvpaddd 0x40(%rsp),%zmm1,%zmm1        # 1a0 <other>
  54:\tjmp    40 <entry+0x30>
  60:\tvpshufb %zmm5,%zmm1,%zmm1
  64:\tdec    %rax
  66:\tjne    20 <entry+0x10>
  70:\tret
"""


def test_the_path_of_a_whole_block():
    code = Code(parsed(LISTING, "entry"))
    path = code.hot(3)
    names = [i.name for i in path]
    rounds = ["vprold", "vpternlogd", "vmovdqa64", "je"]
    prepared = [*rounds, "vpaddd", "jmp"]
    assert names == [
        *("test", "jne", "vmovdqu64", "jmp"),
        *prepared,
        *prepared,
        *rounds,
        *("vpshufb", "dec", "jne"),
    ]
    assert Counter(i.kind for i in path if "mm" in i.operands) == {
        "loads": 1,
        "rotations": 3,
        "ternary logic": 3,
        "spills": 3,
        "additions, operand on the stack": 2,
        "shuffles": 1,
    }


@pytest.mark.parametrize(
    ("name", "operands", "kind"),
    [
        ("vmovdqu64", "%zmm1,%zmm2", "moves"),
        ("vmovdqu64", "0x40(%rsp),%zmm2", "reloads"),
        ("vmovdqu64", "%zmm1,(%rax){%k1}", "stores"),
        ("vpslld", "$0x7,%ymm1,%ymm2", "shifts"),
        ("vpor", "%ymm1,%ymm2,%ymm3", "logic"),
        ("vpsubd", "%ymm1,%ymm2,%ymm3", "additions"),
        ("vinserti128", "$0x1,(%rax),%ymm1,%ymm2", "shuffles"),
        ("vpermt2d", "%zmm1,%zmm2,%zmm3", "shuffles"),
        ("vpgatherqq", "0x0(,%zmm1,1),%zmm6{%k1}", "gathers"),
        ("vpinsrd", "$0x1,(%rax),%xmm1,%xmm1", "gathers"),
        ("vpcmpgtd", "%ymm1,%ymm2,%ymm3", "masks"),
        ("add", "$0x40,%rax", "other"),
    ],
)
def test_kinds(name, operands, kind):
    assert Instruction(0, name, operands).kind == kind


def test_a_function_that_is_missing_is_named():
    with pytest.raises(SystemExit, match="no function nonsense"):
        parsed(LISTING, "nonsense")


def test_the_least_is_that_of_a_usual_kernel():
    assert LEAST.keys() == set(USUAL) and TURNS.keys() <= set(USUAL)
    assert sum(LEAST["md5"]) == 388 and sum(LEAST["sha256"]) == 1624


def test_a_table_shows_what_was_counted():
    count = cpu_instructions.Count(
        "md5", "skx", 32, "32 x 128", 64, {"rotations": 64, "loads": 4}, {"icelake-server": 512.4}
    )
    lines = cpu_instructions.table([count], 3.0).splitlines()
    assert lines[0].startswith("| kernel |") and "GB/s at 3 GHz" in lines[0]
    # Two vectors of 16 lanes have twice the least of one.
    assert "| md5 | skx | 32 x 128 | 776 | 68 | 64 | 512 icelake-server | 0.250 | 11.99 |" in lines[2]
    assert "0.250 cycles a byte, 11.99 GB/s at 3 GHz" in count.summary(3.0)
    half = replace(count, algorithm="sha1", lanes=8)
    assert half.least == sum(LEAST["sha1"])
    wide = replace(count, algorithm="sha512", lanes=16)
    assert wide.least == 2 * sum(LEAST["sha512"])


# A loop over rounds that is passed by if there are none, and a function that ends with a jump back.
GUARDED = """
0000000000000010 <entry>:
  10:\ttest   %rax,%rax
  12:\tvmovdqu64 (%rax),%zmm0
  14:\tje     40 <entry+0x30>
  20:\tvprold $0x7,%zmm0,%zmm1
  24:\tdec    %rbx
  26:\tjne    20 <entry+0x10>
  30:\tjmp    50 <entry+0x40>
  40:\tvpshufb %zmm5,%zmm1,%zmm1
  50:\tvpaddd %zmm5,%zmm1,%zmm1
  54:\tjne    60 <entry+0x50>
  56:\tret
  60:\tvpxord %zmm5,%zmm1,%zmm1
  64:\tjmp    10 <entry>
"""


def test_a_jump_at_the_end_of_a_function_and_rounds_that_could_be_passed_by():
    code = Code(parsed(GUARDED, "entry"))
    assert {loop.header for loop in code.loops} == {0x10, 0x20}
    names = [i.name for i in code.hot(3)]
    assert names.count("vprold") == 3 and "vpshufb" not in names
    assert names[-2:] == ["vpxord", "jmp"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vpaddd 0x40(%rsp),%zmm1,%zmm1", "movq 0x40(%rsp),%mm0\nvpaddd %zmm1,%zmm1,%zmm1"),
        ("vpaddd 0x40(%rsp){1to16},%zmm1,%zmm2", "movq 0x40(%rsp),%mm0\nvpaddd %zmm1,%zmm1,%zmm2"),
        ("vpxor (%rax,%rdx,4),%ymm1,%ymm2", "movq (%rax,%rdx,4),%mm0\nvpxor %ymm1,%ymm1,%ymm2"),
        (
            "vpternlogd $0x96,0x40(%rsp),%zmm1,%zmm2",
            "movq 0x40(%rsp),%mm0\nvpternlogd $0x96,%zmm1,%zmm1,%zmm2",
        ),
        ("vpaddd %zmm1,%zmm2,%zmm3", "vpaddd %zmm1,%zmm2,%zmm3"),
        ("vmovdqu64 0x40(%rsp),%zmm1", "vmovdqu64 0x40(%rsp),%zmm1"),
        # A processor inserts from memory without the unit that it needs for registers.
        ("vinserti128 $0x1,(%rax),%ymm1,%ymm2", "vinserti128 $0x1,(%rax),%ymm1,%ymm2"),
        ("add 0x40(%rsp),%rax", "add 0x40(%rsp),%rax"),
    ],
)
def test_operands_in_memory_are_loaded_apart(text, expected):
    assert cpu_instructions.unfolded(text) == expected


def test_shapes_of_a_kernel():
    wanted = Specialization("m:k", {"BLOCK_MSGS": 64, "VECTOR": 0}, (), 4, 16)
    found = cpu_instructions.shapes(wanted, [8, 32], [1, 2])
    assert [(w.threads_per_warp, w.constants["BLOCK_MSGS"]) for w in found] == [
        (8, 32),
        (8, 64),
        (32, 128),
        (32, 256),
    ]
    assert all(w.constants["VECTOR"] == 0 and w.num_warps == 4 for w in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sha256", "sha512"])
def test_the_path_of_a_block_has_the_rotations_of_the_standard(name):
    """The loop over rounds is counted as often as it turns, and the rounds after it as well."""
    if shutil.which("objdump") is None:
        pytest.skip("absent: no objdump")
    status = {s.name: s for s in registry.statuses()}["opencl"]
    if not status.available:
        pytest.skip(f"absent: {status.reason}")
    artifact = prebuilt.load(cpu_instructions.main_kernel(name, "xpu:avx512").name)
    assert artifact.sidecar["constants"]["BLOCK"].endswith("_interleaved")
    assert cpu_instructions.count(name, artifact, "skx").kinds["rotations"] == LEAST[name].rotations


@pytest.mark.parametrize(
    ("prints", "expected"),
    [
        ("echo 'Total Cycles:      44'", 11.0),
        ("echo \"'znver4' is not a recognized processor for this target\" >&2; exit 1", None),
        ("echo \"'znver4' is not a recognized processor for this target\" >&2", None),
    ],
)
def test_a_tool_that_is_older_than_a_processor_predicts_nothing(prints, expected, tmp_path, monkeypatch):
    tool = tmp_path / cpu_instructions._TOOLS[0]
    tool.write_text(f"#!/bin/sh\ncat > /dev/null\n{prints}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(cpu_instructions.shutil, "which", lambda name: str(tool))
    assert cpu_instructions.predicted([Instruction(0, "ret", "")], "znver4") == expected


def test_a_tool_that_fails_is_reported(tmp_path, monkeypatch):
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\ncat > /dev/null\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setattr(cpu_instructions.shutil, "which", lambda name: str(tool))
    with pytest.raises(subprocess.CalledProcessError):
        cpu_instructions.predicted([Instruction(0, "ret", "")], "znver4")
