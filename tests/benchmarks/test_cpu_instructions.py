"""Counting instructions in the code that the OpenCL runtime makes: the path of a block, and its kinds."""

from __future__ import annotations

from collections import Counter

import pytest

from bench import cpu_instructions
from bench.cpu_instructions import LEAST, TURNS, USUAL, Code, Instruction, parsed

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
        "md5", "skx", 16, 64, {"rotations": 64, "loads": 4}, {"icelake-server": 100.4}
    )
    lines = cpu_instructions.table([count]).splitlines()
    assert lines[0].startswith("| kernel |") and "| md5 | skx | 16 | 388 | 68 |" in lines[2]
