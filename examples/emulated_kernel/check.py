"""Runs a user's kernels in an emulator, which needs no GPU, and finds the faults of two of them.

python examples/emulated_kernel/check.py
"""

from __future__ import annotations

import sys

import torch
from row_sums import row_sums, row_sums_without_mask, total_without_atomics

import integrity_triton as it
from integrity_triton.backends.emulation.faults import EmulationError


def main() -> int:
    x = torch.arange(3 * 100, dtype=torch.int32).reshape(3, 100)
    found = torch.zeros(3, dtype=torch.int32)
    with it.emulated("ptx", target="sm_90") as coverage:
        row_sums[(3,)](x, found, 100, BLOCK=128)
    assert torch.equal(found, x.sum(1, dtype=torch.int32))
    for kernel in coverage.kernels():
        executed, blocks = kernel.blocks
        print(f"{kernel.name}: correct, {executed} of {blocks} basic blocks executed")
    for kernel in (row_sums_without_mask, total_without_atomics):
        try:
            with it.emulated("ptx", target="sm_90"):
                kernel[(3,)](x, found, 100, BLOCK=128)
        except EmulationError as error:
            print(f"{kernel.__name__}: {type(error).__name__}: {error}")
        else:
            print(f"{kernel.__name__}: no fault was found")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
