"""``python -m bench.intel_code`` counts the machine code of the kernels for Intel GPUs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench import intel_code

COMPILER = Path(os.environ.get("INTEGRITY_TRITON_XPU_COMPILER") or Path(sys.prefix, "xpu-compiler"))

LISTING = """
L0:
(W)     mov (8|M0)               r8.0<1>:ud    r0.0<1;1,0>:ud                   {Compacted}
(W)     send.dc0 (8|M0)          r1       r127    null:0  0x0            0x022843FD           {A@1,$0}
        dpas.8x8 (8|M0)          r20:d         r20:d             r50:b             r40.0:b          {$1}
L64:
        add3 (16|M0)             r4.0<1>:ud    r2.0<0;0>:ud      r2.1<0;0>:ud      r112.0<0>:ud     {A@1}
(~f1.0) goto (16|M0)                         L128                  L128
        rol (16|M0)              r14.0<1>:ud   r2.0<1;1,0>:ud    r3.0<1;1,0>:ud
L128:
        join (16|M0)                         L144
L144:
        xor (16|M0)   (lt)f1.0   null<1>:d     r96.0<1;1,0>:ud   r5.4<0;1,0>:ud
(W&f0.0) jmpi                                L64
        sync.nop                             null                             {Compacted,A@1}
"""


def test_instructions_are_counted_by_pipe_and_in_loops():
    every, inside = intel_code.count_listing(LISTING)
    loop = {"add": 1, "branch": 3, "shift": 1, "logic": 1}
    assert inside == loop
    assert every == {**loop, "move": 1, "send": 1, "dpas": 1, "other": 1}


def test_spills_are_what_the_compiler_says():
    said = "warning: kernel k  compiled SIMD32 allocated 128 regs and spilled around 750\n"
    assert intel_code.spilled(f"Build succeeded.\n{said}{said}") == 1500
    assert intel_code.spilled("Build succeeded.") == 0


def test_without_the_disassembler_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(intel_code.MissingTool, match=r"iga64 is not installed.*apt-get install libigc-tools"):
        intel_code.disassemble(tmp_path / "k.bin", "pvc")
