"""What verified loading costs beside loading into memory of its own, on the CPU, from the page cache.

    python -m bench.loading [--size BYTES] [--rounds N] [--model FILE]... [--fresh]

A figure is the time of ``{k: v.clone() for k, v in load_file(path).items()}`` divided by that of the row: 1
is as fast as that, and more is faster. ``load plus hash`` is the clone and the same digests of its result.
The figures are those of the medians over the rounds. The loads take turns, and the file is read before.

With ``--fresh``, each load is the first one of a process of its own, as when a server starts: its memory
comes from the system, page by page. Without it, a load gets the memory that the load before has freed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import integrity_triton as it
from bench.environment import machine
from integrity_triton.models import FileDigests, Manifest, TensorDigests, load_verified

CLONE = "a clone"
CASES = tuple(
    f"{algorithm}, {scope}"
    for scope in ("a tensor", "the file")
    for algorithm in ("blake3", "xxh3_128", "sha256")
)


def synthetic(path: Path, size: int) -> None:
    """A model of ``size`` bytes: 7/8 in parts of 8 MiB, and one large."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randint(0, 256, (8 << 20,), dtype=torch.uint8, generator=generator)
    count = max(1, size * 7 // 8 // matrix.numel())
    tensors = {f"layers.{i}.weight": matrix + i % 251 for i in range(count)}
    tensors["embedding.weight"] = matrix.repeat(size // 8 // matrix.numel() + 1)[: size // 8].clone()
    save_file(tensors, path)


def own(path: Path) -> dict[str, torch.Tensor]:
    """The model in memory of its own, not verified."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def own_and_digests(path: Path, algorithm: str) -> object:
    tensors = own(path)
    return tensors, it.hash_batch(list(tensors.values()), algorithm)


def own_and_file(path: Path, algorithm: str) -> object:
    return own(path), it.hash_file(path, algorithm)


def loads(path: Path, case: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """The verified load, and the load plus the same hash."""
    algorithm, _, scope = case.partition(", ")
    if scope == "the file":
        digests = FileDigests.of({path.name: it.hash_file(path, algorithm)}, algorithm, checksums=True)
        return partial(load_verified, path, against=digests), partial(own_and_file, path, algorithm)
    separate = partial(own_and_digests, path, algorithm)
    if algorithm != "xxh3_128":
        return partial(load_verified, path, against=Manifest.build(path, algorithm)), separate
    of = {name: it.new(algorithm, tensor).digest() for name, tensor in load_file(path).items()}
    return partial(load_verified, path, against=TensorDigests(algorithm, of, checksums=True)), separate


def seconds(load: Callable[[], object]) -> float:
    start = time.perf_counter()
    kept = load()
    end = time.perf_counter()
    del kept
    return end - start


def in_a_fresh_process(path: Path, case: str, separate: bool) -> float:
    command = [sys.executable, "-m", "bench.loading", "--once", case, "--model", str(path)]
    printed = subprocess.check_output([*command, *(["--separate"] if separate else [])], text=True)
    return float(printed.split()[-1])


def once(path: Path, case: str, separate: bool) -> None:
    if case == CLONE:
        print(seconds(partial(own, path)))
    else:
        print(seconds(loads(path, case)[separate]))


def measure(path: Path, rounds: int, fresh: bool) -> None:
    taken: dict[str, tuple[list[float], list[float]]] = {case: ([], []) for case in CASES}
    base: list[float] = []
    prepared = {} if fresh else {case: loads(path, case) for case in CASES}
    own(path)
    for _ in range(rounds):
        if fresh:
            base.append(in_a_fresh_process(path, CLONE, False))
        for case in CASES:
            if not fresh:
                base.append(seconds(partial(own, path)))
            for separate in (False, True):
                took = (
                    in_a_fresh_process(path, case, separate) if fresh else seconds(prepared[case][separate])
                )
                taken[case][separate].append(took)
    clone = statistics.median(base)
    kind = "the first load of a process" if fresh else "memory is used again"
    print(f"\n{path.stat().st_size / 1e6:.0f} MB, {kind}; a clone takes {clone * 1e3:.0f} ms\n")
    print("| hash of | verified | load plus hash |\n| --- | ---: | ---: |")
    for case, both in taken.items():
        verified, apart = map(statistics.median, both)
        print(f"| {case} | {clone / verified:.2f} | {clone / apart:.2f} |")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="What verified loading costs on the CPU.")
    parser.add_argument("--size", type=int, default=1 << 30, help="bytes of the synthetic model; 0 for none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, action="append", default=[], help="measure this file too")
    parser.add_argument("--fresh", action="store_true", help="each load in a process of its own")
    parser.add_argument("--once", metavar="CASE", help=argparse.SUPPRESS)
    parser.add_argument("--separate", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once is not None:
        once(arguments.model[0], arguments.once, arguments.separate)
        return
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    for model in arguments.model:
        measure(model, arguments.rounds, arguments.fresh)
    if arguments.size:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.safetensors")
            synthetic(path, arguments.size)
            measure(path, arguments.rounds, arguments.fresh)


if __name__ == "__main__":
    main()
