"""What verified loading costs beside loading into memory of its own, on the CPU, from the page cache.

    python -m bench.loading [--size BYTES] [--rounds N] [--model FILE]

A figure is the time of ``{k: v.clone() for k, v in load_file(path).items()}`` divided by that of the row,
measured one after the other; the median over the rounds. 1 is as fast as that, and more is faster.
``load plus hash`` is the clone and the same digests of its result. The file is read before the first round.
"""

from __future__ import annotations

import argparse
import statistics
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

Load = Callable[[], object]


def synthetic(path: Path, size: int) -> None:
    """A model of matrices as in a language model of ``size`` bytes: 7/8 in parts of 8 MiB, and one large."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randint(0, 256, (4 << 20,), dtype=torch.uint8, generator=generator).repeat(2)
    count = max(1, size * 7 // 8 // matrix.numel())
    tensors = {f"layers.{i}.weight": matrix + i % 251 for i in range(count)}
    tensors["embedding.weight"] = matrix.repeat(size // 8 // matrix.numel() + 1)[: size // 8].clone()
    save_file(tensors, path)


def own(path: Path) -> dict[str, torch.Tensor]:
    """The model in memory of its own, not verified."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def loads(path: Path) -> dict[str, tuple[Load, Load]]:
    """By name: the verified load, and the load plus the same hash."""
    found: dict[str, tuple[Load, Load]] = {}
    for algorithm in ("blake3", "sha256"):
        found[f"{algorithm}, a tensor"] = (
            partial(load_verified, path, against=Manifest.build(path, algorithm)),
            partial(own_and_digests, path, algorithm),
        )
    digests = {name: it.new("xxh3_128", tensor).digest() for name, tensor in load_file(path).items()}
    found["xxh3_128, a tensor"] = (
        partial(load_verified, path, against=TensorDigests("xxh3_128", digests, checksums=True)),
        partial(own_and_digests, path, "xxh3_128"),
    )
    for algorithm in ("blake3", "sha256"):
        digest = FileDigests.of({path.name: it.hash_file(path, algorithm)}, algorithm)
        found[f"{algorithm}, the file"] = (
            partial(load_verified, path, against=digest),
            partial(own_and_file, path, algorithm),
        )
    return found


def own_and_digests(path: Path, algorithm: str) -> object:
    tensors = own(path)
    return tensors, it.hash_batch(list(tensors.values()), algorithm)


def own_and_file(path: Path, algorithm: str) -> object:
    return own(path), it.hash_file(path, algorithm)


def seconds(load: Load) -> float:
    start = time.perf_counter()
    kept = load()
    end = time.perf_counter()
    del kept
    return end - start


def measure(path: Path, rounds: int) -> None:
    found = loads(path)
    ratios: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in found}
    own(path)
    base = []
    for _ in range(rounds):
        for name, (verified_load, separate_load) in found.items():
            base.append(seconds(partial(own, path)))
            ratios[name][0].append(base[-1] / seconds(verified_load))
            ratios[name][1].append(base[-1] / seconds(separate_load))
    size = path.stat().st_size
    count = len(load_file(path))
    print(f"\n{size / 1e6:.0f} MB in {count} tensors; a clone takes {statistics.median(base) * 1e3:.0f} ms\n")
    print("| hash | verified | load plus hash |\n| --- | ---: | ---: |")
    for name, (verified_ratios, separate_ratios) in ratios.items():
        verified, separate = map(statistics.median, (verified_ratios, separate_ratios))
        print(f"| {name} | {verified:.2f} | {separate:.2f} |")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="What verified loading costs on the CPU.")
    parser.add_argument("--size", type=int, default=1 << 30, help="bytes of the synthetic model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, action="append", default=[], help="measure this file too")
    arguments = parser.parse_args()
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    for model in arguments.model:
        measure(model, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        synthetic(path, arguments.size)
        measure(path, arguments.rounds)


if __name__ == "__main__":
    main()
