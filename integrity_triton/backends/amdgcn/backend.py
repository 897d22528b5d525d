"""The backend ``amdgcn``."""

from __future__ import annotations

from collections.abc import Mapping

from ..emulation.backend import EmulatedBackend
from ..emulation.program import Program, Target
from ..hip import wavefront_tuning

ARCHITECTURES = {"gfx942": 64, "gfx950": 64, "gfx1100": 32, "gfx1201": 32}
"""The lanes of a wave of each architecture that is emulated."""


def _program(assembly: str, entry: str) -> Program:
    from .kernel import AmdProgram

    return AmdProgram.parsed(assembly, entry)


class AmdgcnBackend(EmulatedBackend):
    """Executes the assembly that Triton's compiler writes for AMD GPUs."""

    name = "amdgcn"
    summary = "AMD GPUs, emulated on the CPU: the assembly that Triton compiles, for checks, not for speed"
    target_variable = "INTEGRITY_TRITON_AMDGCN_TARGET"
    default_target = "gfx942"

    @classmethod
    def targets(cls) -> Mapping[str, Target]:
        return {
            name: Target(
                name, "hip", name, lanes, "amdgcn", "hsaco", 65536, _program, wavefront_tuning(lanes)
            )
            for name, lanes in ARCHITECTURES.items()
        }
