"""What a call costs in addition to the hashing, and what a process's first call costs: ``python -m pytest
bench``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import integrity_triton as it

COUNT, SIZE = 16, 100


@pytest.fixture(autouse=True)
def _opencl() -> None:
    status = {s.name: s for s in it.backends()}["opencl"]
    if not status.available:
        pytest.skip(f"absent: {status.reason}")


MESSAGES = {
    "rows": torch.zeros((COUNT, SIZE), dtype=torch.uint8),
    "tensors": [torch.zeros(SIZE, dtype=torch.uint8) for _ in range(COUNT)],
    "bytes": [bytes(SIZE)] * COUNT,
}


@pytest.mark.benchmark(group="one call on opencl, 16 messages of 100 bytes")
@pytest.mark.parametrize("algorithm", ["sha256", "blake3"])
@pytest.mark.parametrize("kind", MESSAGES)
def test_call(benchmark: Any, kind: str, algorithm: str) -> None:
    benchmark(it.hash_batch, MESSAGES[kind], algorithm, backend="opencl")


FIRST_CALL = """
import time
import torch
import integrity_triton as it
messages = torch.zeros((16, 64), dtype=torch.uint8)
start = time.perf_counter()
it.hash_batch(messages, "{}", backend="opencl")
print(time.perf_counter() - start)
"""


@pytest.mark.benchmark(group="first call of a process on opencl, torch imported before (first_call_seconds)")
@pytest.mark.parametrize("algorithm", ["sha256", "blake3"])
@pytest.mark.parametrize("binary", ["cached", "built"])
def test_first_call(benchmark: Any, tmp_path: Path, binary: str, algorithm: str) -> None:
    taken: list[float] = []

    def run() -> None:
        cache = tmp_path / (str(len(taken)) if binary == "built" else "kept")
        done = subprocess.run(
            [sys.executable, "-c", FIRST_CALL.format(algorithm)],
            env={**os.environ, "XDG_CACHE_HOME": str(cache)},
            capture_output=True,
            text=True,
            check=True,
        )
        taken.append(float(done.stdout))

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.extra_info["first_call_seconds"] = sorted(taken[1:])[2]
