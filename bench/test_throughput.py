"""CPU throughput beside the libraries that people use today, in one run: ``python -m pytest bench``.

Absolute times of shared machines mean little; compare the medians of one group.
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
TOTAL = 64 << 20


@pytest.fixture(scope="module")
def data() -> torch.Tensor:
    return torch.randint(0, 256, (TOTAL // MESSAGE, MESSAGE), dtype=torch.uint8)


@pytest.mark.benchmark(group="sha256, 64 KiB messages")
def test_hash_batch(benchmark: Any, data: torch.Tensor) -> None:
    digests = benchmark(it.hash_batch, data, "sha256")
    assert digests[0].numpy().tobytes() == hashlib.sha256(data[0].numpy().tobytes()).digest()


@pytest.mark.benchmark(group="sha256, 64 KiB messages")
def test_hashlib_in_a_thread_pool(benchmark: Any, data: torch.Tensor) -> None:
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


@pytest.mark.benchmark(group="blake3, one message")
def test_one_message(benchmark: Any, data: torch.Tensor) -> None:
    benchmark(lambda: it.blake3(data).digest())


@pytest.mark.benchmark(group="blake3, one message")
def test_rust_blake3_on_all_threads(benchmark: Any, data: torch.Tensor) -> None:
    blake3 = pytest.importorskip("blake3")
    flat = data.numpy().reshape(-1)
    benchmark(lambda: blake3.blake3(flat, max_threads=blake3.blake3.AUTO).digest())
