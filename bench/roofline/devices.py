"""Published clocks, units and bandwidths of devices, from which rates are predicted.

Every figure here is the vendor's. Clocks are the highest that the vendor names, which a device does not hold
under every load, and bandwidths are those of the memory's pins. So a prediction is what the device cannot
exceed, not what it will reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    name: str
    target: str
    """The architecture for which its kernels are compiled, as in ``counting.TARGETS``."""
    units: int
    """Streaming multiprocessors, compute units or Xe cores."""
    clock: float
    """GHz."""
    bandwidth: float
    """GB/s of its memory, decimal."""
    matrix: float
    """Operations a second of its matrix units on dense 8-bit integers, in units of 10**12; a multiplication
    and an addition are two."""
    results: Mapping[str, int]
    """Results of 32 bits a clock and unit, by pipe. A pipe without an entry does not limit the rate."""
    issued: int | None
    """Instructions of one thread each that a unit issues a clock, on all pipes together."""


# CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions", compute capabilities 8.0, 9.0
# and 10.0: 64 results a clock for additions, shifts and logic, 64 for 32-bit multiply-adds, which run
# elsewhere, and 16 for conversions and special functions. A multiprocessor has four schedulers, each of which
# issues one instruction for 32 threads a clock, and 32 load and store units (white papers of A100 and H100).
_NVIDIA = {"alu": 64, "fma": 64, "special": 16, "memory": 32}
# A compute unit of CDNA 3 has four vector units of 16 lanes (CDNA 3 ISA guide, section 1). One of RDNA 3 has
# two of 32 lanes (RDNA 3 ISA guide, section 2). In both, scalar instructions are issued beside vector
# instructions.
_AMD = {"valu": 64}
# An Xe core has 16 vector engines of 256 bits in Xe-HPG, and 8 of 512 bits in Xe-HPC (Intel, "Introduction to
# the Xe-HPG Architecture", and "Intel Data Center GPU Max Series Technical Overview"). In both, integers run
# on another port than floating-point numbers. Intel publishes no rates of single instructions. The model by
# which its compiler schedules (vISA, LatencyTable.cpp, getOccupancyG12) has one clock for the width of an
# engine, twice that for words of 64 bits, and four times that for "math". They are taken here.
_INTEL = {"int": 128, "float": 128, "long": 128, "math": 32}

DEVICES = (
    # NVIDIA A100 data sheet (80 GB SXM): 108 SMs, 1410 MHz, 2039 GB/s, 624 TOPS.
    Device("A100", "cuda:80", 108, 1.41, 2039, 624, _NVIDIA, 128),
    # NVIDIA H100 data sheet (SXM5): 3.35 TB/s, 1979 TOPS dense. 132 SMs at 1.98 GHz give its 67 TFLOPS of
    # FP32.
    Device("H100", "cuda:90", 132, 1.98, 3350, 1979, _NVIDIA, 128),
    # NVIDIA H200 data sheet (SXM): as H100, with 4.8 TB/s.
    Device("H200", "cuda:90", 132, 1.98, 4800, 1979, _NVIDIA, 128),
    # NVIDIA HGX B200 data sheet: 8 TB/s, 4500 TOPS dense. 148 SMs at 1.965 GHz give 74 TFLOPS of FP32.
    Device("B200", "cuda:100", 148, 1.965, 8000, 4500, _NVIDIA, 128),
    # AMD Instinct MI300X data sheet: 304 CUs, 2100 MHz, 5.3 TB/s, 2614.9 TOPS dense.
    Device("MI300X", "hip:gfx942", 304, 2.1, 5300, 2614.9, _AMD, None),
    # AMD Radeon RX 7900 XTX specifications: 96 CUs, boost of 2500 MHz, 960 GB/s. 123 TOPS are the FP16 rate
    # of the RDNA 3 white paper, which has the same rate for 8-bit integers.
    Device("RX 7900 XTX", "hip:gfx1100", 96, 2.5, 960, 123, _AMD, None),
    # Intel Arc A770 (16 GB) specifications: 32 Xe cores, 2100 MHz, 560 GB/s, 262 TOPS.
    Device("Arc A770", "xpu:acm-g10", 32, 2.1, 560, 262, _INTEL, None),
    # Intel Data Center GPU Max 1550 specifications: 128 Xe cores, at most 1600 MHz, 3276.8 GB/s. Each of 1024
    # matrix engines has 4096 bits, so 1024 operations a clock on 8-bit integers.
    Device("Max 1550", "xpu:pvc", 128, 1.6, 3276.8, 1677.7, _INTEL, None),
)
