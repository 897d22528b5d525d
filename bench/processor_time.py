"""GB for each second of processor time that the kernels take on a CPU: ``python -m bench.processor_time
[ALGORITHM]... [--messages N] [--size BYTES] [--start BYTES] [--list]``.

Processor time counts all threads. Other work on the machine changes it less than it changes elapsed time. The
calls of the algorithms take turns, and the best call of each counts. ``--start`` lets the messages begin so
many bytes after a multiple of 64; ``--list`` gives a list of tensors instead of the rows of one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch

import integrity_triton as it
from integrity_triton import algorithms

USUAL = ("md5", "sha1", "sha256", "sha512", "sm3", "blake3", "blake2b", "blake2s", "ripemd160", "sha3_256")
LENGTH = 32  # bytes of an extendable output


def call(name: str, messages: torch.Tensor | list[torch.Tensor]) -> Callable[[], object]:
    length = None if algorithms.get(name).digest_size else LENGTH
    return lambda: it.hash_batch(messages, name, length=length, backend="opencl")


def fastest(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """The least processor time of each call, in seconds. ``seconds`` is the time for all of them."""
    best = [float("inf")] * len(calls)
    for one in calls:
        one()  # builds the kernel
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, one in enumerate(calls):
            begin = time.process_time()
            one()
            best[i] = min(best[i], time.process_time() - begin)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.processor_time")
    parser.add_argument("algorithms", nargs="*", metavar="ALGORITHM", help=f"default: {' '.join(USUAL)}")
    parser.add_argument("--messages", type=int, default=1024)
    parser.add_argument("--size", type=int, default=32 << 10, help="bytes of each; default: 32 KiB")
    parser.add_argument("--start", type=int, default=0, help="bytes before the first message")
    parser.add_argument("--list", action="store_true", help="a list of tensors")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each algorithm; default: 3")
    options = parser.parse_args()
    names = options.algorithms or list(USUAL)
    total = options.messages * options.size
    memory = torch.randint(0, 256, (total + options.start + 64,), dtype=torch.uint8)
    begin = -memory.data_ptr() % 64 + options.start
    rows = memory[begin : begin + total].view(options.messages, options.size)
    messages = list(rows) if options.list else rows
    best = fastest([call(name, messages) for name in names], options.seconds * len(names))
    for name, seconds in zip(names, best, strict=True):
        print(f"{name} {total / seconds / 1e9:.3f} GB for each second of processor time")


if __name__ == "__main__":
    main()
