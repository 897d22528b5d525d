"""What the processor is, and which of the two sets of kernels it gets.

Both sets run on every processor and give the same digests. With AVX-512 a processor has twice as many vector
registers, each twice as wide, so that it can keep more words at a time, and work on some while it waits for
others. Without, such kernels keep most of their words in memory.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ...errors import BackendUnavailable

VARIABLE = "INTEGRITY_TRITON_OPENCL_KERNELS"
"""The environment variable that names the set of kernels, whatever the processor is."""
SETS: Mapping[str, str] = {"avx2": "opencl", "avx512": "opencl:avx512"}
"""The sets, with the names of their configurations in ``tuning.json``."""
_CPU_INFO = Path("/proc/cpuinfo")
# What Intel's runtime needs of a processor to build for its architecture skx.
_NEEDED = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})


@cache
def _described() -> dict[str, str]:
    """What the system says of the first processor; empty if it says nothing."""
    try:
        first = _CPU_INFO.read_text("utf-8", "replace").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _capability() -> str:
    """What torch found by asking the processor itself (CPUID)."""
    import torch

    return torch.backends.cpu.get_cpu_capability()


def identity() -> str:
    """The processor's model and instructions, as far as the system tells them."""
    found = _described()
    if not found:
        return f"{platform.processor()} {_capability()}"
    telling = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")
    return "\n".join(f"{name}: {found[name]}" for name in telling if name in found)


def has_avx512() -> bool:
    found = _described()
    if "flags" not in found:
        return _capability() == "AVX512"
    return set(found["flags"].split()) >= _NEEDED


def kernel_set(on_cpu: bool = True) -> str:
    """One of ``SETS``: the one that the environment names, else the one for this processor, or the one for
    processors without AVX-512 if the device is not a processor. Raises BackendUnavailable if the environment
    names another."""
    given = os.environ.get(VARIABLE, "")
    if not given:
        return "avx512" if on_cpu and has_avx512() else "avx2"
    if given not in SETS:
        raise BackendUnavailable(f"{VARIABLE} is {given!r}; it may be {' or '.join(SETS)}")
    return given
