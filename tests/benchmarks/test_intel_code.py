"""``python -m bench.intel_code`` counts the machine code of the kernels for Intel GPUs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from bench import intel_code
from integrity_triton import algorithms
from integrity_triton.aot import compiling
from integrity_triton.backends.opencl import prebuilt
from integrity_triton.launching.launch import form_of, tuned

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


@pytest.fixture(scope="module")
def results():
    return json.loads(intel_code.RESULTS.read_text("utf-8"))


def has_the_form_of(kernel, target):
    """Whether the target's tuning chooses the form of the kernel's block function."""
    name, block = [*kernel.split("/"), ""][:2]
    block, form = form_of(block)
    return form is None or bool(tuned(target, name, block).get(form))


@pytest.mark.parametrize("name", intel_code.TARGETS)
def test_the_committed_counts_are_those_of_the_tuning(results, name):
    """Whoever changes a configuration counts again, and no kernel spills on either architecture."""
    assert results["label"] == "counted in compiled code, not measured"
    kernels = {archive.replace("-", "/") for archive in prebuilt.lock()["archives"]}
    kernels = {kernel for kernel in kernels if has_the_form_of(kernel, name)}
    if not tuned(name, "poly1305")["ROW_BITS"]:
        kernels -= {"poly1305_rows", "poly1305_matrix", "poly1305_offsets"}
    counted = {kernel: on[name] for kernel, on in results["kernels"].items() if name in on}
    assert counted.keys() == kernels
    for kernel, code in counted.items():
        options = tuned(name, *kernel.split("/")[:2])
        assert code["grf_mode"] == options["grf_mode"], kernel
        assert code["num_warps"] == options["num_warps"], kernel
        assert code["threads_per_warp"] == options["threads_per_warp"], kernel
        assert code["lanes_per_program"] == options["BLOCK_MSGS"], kernel
        assert code["spilled"] == 0, kernel


def test_matrix_units_multiply_where_the_compiler_can_use_them(results):
    rows = results["kernels"]["poly1305_rows"]
    assert rows["xpu:pvc"]["instructions"]["dpas"] > 0
    assert rows["xpu:pvc"]["in_loops"]["dpas"] > 0


@pytest.mark.slow
def test_a_kernel_is_counted_as_it_is_committed(results):
    if not (COMPILER / "triton" / "__init__.py").exists():
        pytest.skip(f"absent: no {compiling.INTEL_COMPILER} in {COMPILER}")
    for tool in (compiling.OFFLINE_COMPILER, intel_code.DISASSEMBLER):
        if shutil.which(tool) is None:
            pytest.skip(f"absent: {tool} is not installed")
    if results["compilers"] != [compiling.INTEL_COMPILER, intel_code.offline_compiler_version()]:
        pytest.skip("absent: the compilers whose code was counted")
    target = compiling.Target.parse("xpu:pvc")
    (one,) = intel_code.counted_kernels(target, [algorithms.get("xxh64")])
    (code,) = intel_code.count([one], target, COMPILER)
    assert asdict(code) == results["kernels"][intel_code.kernel_name(one)][target.name]
