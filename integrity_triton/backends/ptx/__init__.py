"""NVIDIA's PTX, as Triton compiles it, executed on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

from ..emulation.backend import EmulatedBackend
from ..emulation.program import Program, Target


def _program(text: str, entry: str) -> Program:
    from .program import PtxProgram

    return PtxProgram.parsed(text, entry)


# Names, compute capabilities, and the most shared memory of a program (CUDA C++ Programming Guide, "Compute
# Capabilities").
_TARGETS = {
    name: Target(name, "cuda", capability, 32, "ptx", "cubin", shared << 10, _program, "cuda")
    for name, capability, shared in (
        ("sm_80", 80, 163),
        ("sm_89", 89, 99),
        ("sm_90", 90, 227),
        ("sm_100", 100, 227),
    )
}


class PtxBackend(EmulatedBackend):
    name = "ptx"
    summary = "NVIDIA GPUs, emulated on the CPU: the PTX that Triton compiles, for checks, not for speed"
    target_variable = "INTEGRITY_TRITON_PTX_TARGET"
    default_target = "sm_90"

    @classmethod
    def targets(cls) -> Mapping[str, Target]:
        return _TARGETS
