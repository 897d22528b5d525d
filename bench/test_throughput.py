"""CPU throughput beside the libraries that people use today, in one run: ``python -m pytest bench``.

Absolute times of shared machines mean little: the summary gives, for each group, how many times as fast
as the library each of ours was, by medians.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import integrity_triton as it

MESSAGE = 64 << 10
TOTAL = 256 << 20


@pytest.fixture(scope="module")
def data() -> torch.Tensor:
    return torch.randint(0, 256, (TOTAL // MESSAGE, MESSAGE), dtype=torch.uint8)


@pytest.fixture(params=["automatic", "opencl"])
def backend(request: pytest.FixtureRequest) -> str | None:
    """None leaves the choice to the package."""
    if request.param == "automatic":
        return None
    status = {s.name: s for s in it.backends()}[request.param]
    if not status.available:
        pytest.skip(f"absent: {status.reason}")
    return status.name


@pytest.mark.benchmark(group="sha256, 256 MiB of 64 KiB messages")
def test_hash_batch(benchmark: Any, data: torch.Tensor, backend: str | None) -> None:
    digests = benchmark(it.hash_batch, data, "sha256", backend=backend)
    assert digests[0].numpy().tobytes() == hashlib.sha256(data[0].numpy().tobytes()).digest()


@pytest.mark.benchmark(group="sha256, 256 MiB of 64 KiB messages")
def test_library_hashlib_in_a_thread_pool(benchmark: Any, data: torch.Tensor) -> None:
    rows = data.numpy()
    threads = os.cpu_count() or 1
    edges = [len(rows) * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:

        def run() -> None:
            def part(first: int, last: int) -> None:
                for i in range(first, last):
                    hashlib.sha256(rows[i]).digest()

            for done in [pool.submit(part, a, b) for a, b in itertools.pairwise(edges)]:
                done.result()

        benchmark(run)


@pytest.mark.benchmark(group="blake3, one message of 256 MiB")
def test_one_message(benchmark: Any, data: torch.Tensor, backend: str | None) -> None:
    message = data.reshape(-1)
    benchmark(lambda: it.hash_batch([message], "blake3", backend=backend))


@pytest.mark.benchmark(group="blake3, one message of 256 MiB")
def test_library_rust_blake3_on_all_threads(benchmark: Any, data: torch.Tensor) -> None:
    blake3 = pytest.importorskip("blake3")
    flat = data.numpy().reshape(-1)
    benchmark(lambda: blake3.blake3(flat, max_threads=blake3.blake3.AUTO).digest())
