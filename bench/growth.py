"""Whether streams take time in proportion to their length: ``python -m bench.growth [ALGORITHM]...``

For each algorithm that the native backend runs, this feeds streams of 1 MiB and of 8 MiB in pieces of 4 KiB,
and prints both times in milliseconds and the factor between them. The factor is 8 for linear time and 64 for
quadratic time. The exit status is 1 if a factor is above 24. A time is the shortest of three.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm
from integrity_triton.backends.registry import get

_PIECE = bytes(4096)
_SHORT, _FACTOR = 256, 8  # pieces
_MOST = 24
_REPEATED = 3


def seconds(record: Algorithm, pieces: int) -> float:
    """The shortest time of a stream of so many pieces, with the digest."""
    best = float("inf")
    for _ in range(_REPEATED):
        hasher = it.new(record.name, backend="native", **record.trial_parameters())
        begin = time.perf_counter()
        for _ in range(pieces):
            hasher.update(_PIECE)
        hasher.digest(None if record.digest_size or not record.xof else 32)
        best = min(best, time.perf_counter() - begin)
    return best


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.growth")
    parser.add_argument("algorithm", nargs="*")
    asked = parser.parse_args(arguments).algorithm
    records = [algorithms.get(name) for name in asked] or list(algorithms.all_algorithms())
    steep = False
    for record in records:
        reason = get("native").unsupported(record)
        if record.takes_tuples or reason is not None:
            print(f"{record.name:<20} absent: {reason or 'its messages are tuples'}")
            continue
        seconds(record, 1)  # imports and tables
        short, long = (seconds(record, pieces) for pieces in (_SHORT, _SHORT * _FACTOR))
        steep |= long / short > _MOST
        print(f"{record.name:<20} {1000 * short:9.2f} {1000 * long:9.2f}  x {long / short:.1f}")
    return int(steep)


if __name__ == "__main__":
    sys.exit(main())
