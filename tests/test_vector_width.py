"""Loads and stores of several words, which GPUs' tunings ask for, in the interpreter, whose own has none."""

from __future__ import annotations

import pytest
import torch

from integrity_triton import algorithms, backends
from integrity_triton.backends.triton_backend import TritonBackend
from support import hash_batch, oracle, pattern, rows_as_bytes, tensor_message

# At every place within eight bytes, and around the ends of words and blocks.
SIZES = (0, 1, 3, 7, 8, 9, 15, 16, 17, 33, 63, 64, 65, 127, 128, 129, 135, 136, 137, 200)
CHUNKS = (0, 1, 64, 1023, 1024, 1025, 2048, 2049, 3000)


@pytest.fixture
def wide(request, monkeypatch):
    kernels = backends.get("interpreter")
    assert isinstance(kernels, TritonBackend)
    options = type(kernels).options
    monkeypatch.setattr(
        kernels, "options", lambda launch: {**options(kernels, launch), "VECTOR": request.param}
    )


@pytest.mark.parametrize("aligned", [False, True], ids=["anywhere", "aligned"])
@pytest.mark.parametrize(
    ("name", "sizes", "options", "wide"),
    [
        ("md5", SIZES, {}, 2),
        ("sha256", SIZES, {}, 4),
        ("sha3_256", SIZES, {}, 2),
        ("blake3", CHUNKS, {}, 4),
        ("blake3", CHUNKS, {"length": 200}, 4),
    ],
    indirect=["wide"],
)
def test_vectors_of_words(name, sizes, options, aligned, wide):
    data = torch.frombuffer(bytearray(pattern(2 * sum(sizes) + 32 * len(sizes))), dtype=torch.uint8)
    start, messages = -data.data_ptr() % 16, []
    for size in sizes:
        messages.append(data[start : start + size])
        start += size // 16 * 16 + 16 if aligned else size + 1
    digests = hash_batch(messages, name, backend="interpreter", **options)
    record = algorithms.get(name)
    assert rows_as_bytes(digests) == [oracle(record, tensor_message(m), **options) for m in messages]
