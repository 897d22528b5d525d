"""Many short messages under a key, compared with a loop over a library: ``python -m pytest
bench/test_macs.py``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import integrity_triton as it

COUNT, SIZE = 1_000_000, 64
KEY = bytes(range(16))


@pytest.fixture(scope="module")
def messages() -> torch.Tensor:
    return torch.randint(0, 256, (COUNT, SIZE), dtype=torch.uint8)


def measure(benchmark: Any, run: Any, rounds: int) -> Any:
    benchmark.group = f"siphash_2_4, {COUNT} messages of {SIZE} bytes"
    return benchmark.pedantic(run, rounds=rounds, warmup_rounds=1)


@pytest.mark.parametrize("backend", ["opencl"])
def test_hash_batch(benchmark: Any, messages: torch.Tensor, backend: str) -> None:
    status = {s.name: s for s in it.backends()}[backend]
    if not status.available:
        pytest.skip(f"absent: {status.reason}")
    tags = measure(benchmark, lambda: it.hash_batch(messages, "siphash_2_4", key=KEY, backend=backend), 7)
    siphash24 = pytest.importorskip("siphash24")
    for i in (0, COUNT - 1):
        expected = siphash24.siphash24(messages[i].numpy().tobytes(), key=KEY).digest()
        assert tags[i].numpy().tobytes() == expected


def test_loop_over_siphash24(benchmark: Any, messages: torch.Tensor) -> None:
    siphash24 = pytest.importorskip("siphash24").siphash24
    every = [row.tobytes() for row in messages.numpy()]

    def run() -> list[bytes]:
        return [siphash24(message, key=KEY).digest() for message in every]

    measure(benchmark, run, 3)
