"""What finishing a tree takes in memory, at its peak: prints the bytes received and the bytes besides."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from distributed_support import Simulated
from integrity_triton.models.distributed import LocalShard, agreement

WIDTH, RANKS = 64, 4


def status(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) << 10


def group(rows: int) -> Simulated:
    width = WIDTH // RANKS
    shards = (torch.ones((rows, width), dtype=torch.bfloat16) for _ in range(RANKS))
    return Simulated(
        [{"x": LocalShard.along(x, 1, i * width, WIDTH)} for i, x in enumerate(shards)], "blake3"
    )


def main(lot_size: int) -> None:
    group(100_000).run()  # libraries are loaded, and a pool of memory is filled
    if lot_size:
        agreement.LOT_SIZE = agreement.LEAST_SECTION = lot_size
        agreement._SHARES = 0.25  # one rank gets everything
    found = group(512 << 10)
    (part,) = found.agreement.rounds
    sent = [member.contributions(part) for member in found.members]
    total = peak = 0
    for rank, member in enumerate(found.members):
        received = [data[rank] for data in sent]
        total += sum(data.numel() for data in received)
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
        member.receive(part, received)
        peak = max(peak, status("VmHWM") - before)
    print(total, peak)


if __name__ == "__main__":
    main(int(sys.argv[1]))
