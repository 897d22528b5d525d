"""Trees with two levels of sponges: batches of messages with and without a tree, and long customization
strings."""

from __future__ import annotations

import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms
from support import guard, on_device, oracle, pattern, rows_as_bytes


@pytest.fixture(autouse=True)
def guarded(backend, monkeypatch):
    if backend == "native":
        pytest.skip("not applicable: no CPU library has it")
    yield from guard(monkeypatch, backend)


def check(name: str, messages: list[bytes], backend: str, **params) -> None:
    record = algorithms.get(name)
    digests = it.hash_batch(messages, name, backend=backend, **params)
    assert rows_as_bytes(digests) == [oracle(record, m, **params) for m in messages]


def test_few_and_many_messages_of_as_many_blocks(backend):
    """If at least 16 messages have the same number of blocks, they are hashed together."""
    messages = [pattern(n) for n in (*range(17), *range(64, 84), 130, 140, 200, 0)]
    check("parallelhash_128", messages[::-1], backend, block_size=64)


@pytest.mark.parametrize("columns", [0, 1, 100, 160])
def test_rows(backend, columns):
    rows = on_device(pattern(5 * 160), backend).reshape(5, 160)[:, :columns]
    digests = it.hash_batch(rows, "parallelhash_256", block_size=80, backend=backend)
    record = algorithms.get("parallelhash_256")
    expected = [oracle(record, pattern(800)[160 * i :][:columns], block_size=80) for i in range(5)]
    assert rows_as_bytes(digests) == expected


def test_messages_with_a_tree_among_ones_without(backend):
    if backend == "interpreter":
        pytest.skip("absent: a chunk of 8192 bytes takes half a minute in the interpreter")
    source = on_device(pattern(30000), backend)
    lengths = (0, 5, 8190, 8191, 8192, 100, 16384, 24577, 1)
    messages = [source[3 : 3 + n] for n in lengths]
    for customization in (b"", b"abcd", b"abcde", pattern(300), pattern(20000)):
        digests = it.hash_batch(messages, "kt256", customization=customization, backend=backend)
        expected = [
            oracle(algorithms.get("kt256"), pattern(30000)[3 : 3 + n], customization=customization)
            for n in lengths
        ]
        assert rows_as_bytes(digests) == expected, len(customization)
        hasher = it.new("kt256", customization=customization, backend=backend)
        for piece in torch.split(source[:24577], 5000):
            hasher.update(piece)
        assert hasher.digest() == oracle(algorithms.get("kt256"), pattern(24577), customization=customization)


def test_output_longer_than_a_block(backend):
    check("parallelhashxof_128", [pattern(100), b""], backend, block_size=64, length=500)
    check("parallelhash_128", [pattern(100), b""], backend, block_size=64, digest_size=500)
