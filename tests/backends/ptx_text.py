"""Kernels of a few PTX instructions, and their execution in the emulator, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from integrity_triton.backends.emulation.coverage import Coverage
from integrity_triton.backends.emulation.memory import GlobalMemory
from integrity_triton.backends.emulation.program import KernelLaunch
from integrity_triton.backends.ptx.program import PtxProgram

Array = np.ndarray[Any, Any]


def kernel(body: str, *, threads: int = 32, shared: int = 0) -> PtxProgram:
    """A kernel ``k`` of ``body``, with parameters ``in`` and ``out``, pointers that are in ``%in`` and
    ``%out`` at its start; ``%tid`` is the thread's number and ``%at`` the same, as 64 bits."""
    memory = f".shared .align 16 .b8 smem[{shared}];" if shared else ""
    return PtxProgram.parsed(
        f"""
.version 8.7
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out)
.reqntid {threads}
{{
    {memory}
    .reg .pred %p<10>; .reg .b16 %h<10>; .reg .b32 %r<80>; .reg .b64 %d<20>;
    .reg .b32 %tid; .reg .b64 %at; .reg .b64 %in; .reg .b64 %out;
    ld.param.u64 %in, [in];
    ld.param.u64 %out, [out];
    mov.u32 %tid, %tid.x;
    cvt.u64.u32 %at, %tid;
    {body}
    ret;
}}
""",
        "k",
    )


def run(
    program: PtxProgram,
    inputs: Array,
    outputs: Array,
    *,
    grid: int = 1,
    seed: int = 0,
    coverage: Coverage | None = None,
) -> None:
    """Launch a kernel over arrays, which are the only memory that it may access."""
    memory = GlobalMemory()
    memory.register(inputs.ctypes.data, inputs.nbytes, "in")
    memory.register(outputs.ctypes.data, outputs.nbytes, "out")
    program.run(
        KernelLaunch(
            grid=(grid, 1, 1),
            arguments=[inputs.ctypes.data, outputs.ctypes.data],
            warps=program.module.threads // 32,
            shared_bytes=0,
            memory=memory,
            coverage=(coverage or Coverage()).kernel("k", program.blocks, program.matrices),
            seed=seed,
            lanes_at_once=256,
        )
    )
    memory.finish()


def results(instruction: str, bits: tuple[int, ...], rows: list[tuple[int, ...]]) -> list[int]:
    """What an instruction makes of operands: one row for each thread. ``bits`` are the widths of the result
    and of the operands, which are called ``%x`` and ``%a``, ``%b``, ``%c``, ``%d``. A width of 1 is a
    predicate."""
    count = len(rows)
    inputs = np.array([[*row, *[0] * (4 - len(row))] for row in rows], np.uint64)
    lines = ["mad.lo.u64 %d1, %at, 32, %in;", "mad.lo.u64 %d2, %at, 8, %out;"]
    lines += [f".reg .{_kind(width)} %{name};" for name, width in zip("xabcd", bits, strict=False)]
    for i, (name, width) in enumerate(zip("abcd", bits[1:], strict=False)):
        lines.append(f"ld.global.b64 %d3, [%d1 + {8 * i}];")
        lines.append(f"setp.ne.b64 %{name}, %d3, 0;" if width == 1 else f"cvt.u{width}.u64 %{name}, %d3;")
    lines.append(instruction)
    lines.append("selp.b64 %d4, 1, 0, %x;" if bits[0] == 1 else f"cvt.u64.u{bits[0]} %d4, %x;")
    lines.append("st.global.b64 [%d2], %d4;")
    outputs = np.full(count, 0xEEEE, np.uint64)
    guard = ["setp.ge.u32 %p9, %tid, " + str(count) + ";", "@%p9 bra END;"]
    threads = -(-count // 32) * 32
    run(kernel("\n".join([*guard, *lines, "END:"]), threads=threads), inputs, outputs)
    return [int(x) for x in outputs]


def _kind(width: int) -> str:
    return "pred" if width == 1 else f"b{width}"
