"""Trees with two levels of sponges: batches of messages with and without a tree, and long customization
strings."""

from __future__ import annotations

import random
from functools import lru_cache

import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.drivers import sponge_tree
from integrity_triton.drivers.sponge_tree import _FEW
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
    """If at least 32 messages have the same number of blocks, they are hashed together."""
    messages = [pattern(n) for n in (*range(33), *range(65, 99), 130, 140, 200, 0)]
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


# What follows a message, the customization string and its length, needs no copy if it is less than six bytes.
CUSTOMIZATIONS = (b"", b"a", b"abc", b"abcd", b"abcde", pattern(300), pattern(20000))
BOUNDARIES = (0, 1, *range(8190, 8195), *range(16383, 16386), 65536, 65537)


@pytest.fixture
def with_chunks(backend):
    if backend == "interpreter":
        pytest.skip("absent: a chunk of 8192 bytes takes half a minute in the interpreter")


@lru_cache(2000)
def expected(start: int, n: int, customization: bytes, name: str = "kt128") -> bytes:
    """The digest of ``n`` bytes of the pattern from a byte before its second period on."""
    return oracle(algorithms.get(name), pattern(start + n)[start:], customization=customization)


@pytest.mark.parametrize("count", [_FEW - 1, _FEW, _FEW + 1])
@pytest.mark.parametrize("customization", CUSTOMIZATIONS, ids=len)
def test_few_and_many_messages_of_as_many_chunks(backend, with_chunks, count, customization):
    """If at least 32 messages have the same number of chunks, their roots are laid out together."""
    source = on_device(pattern(251 + 65537), backend)
    # Messages of two lengths can have as many chunks, and messages of one length are different.
    lengths = [*BOUNDARIES, *(8195 + 3 * (i % 2) for i in range(count)), *[16384] * count]
    places = [(i % 251, n) for i, n in enumerate(lengths)]
    random.Random(count).shuffle(places)
    messages = [source[start : start + n] for start, n in places]
    digests = it.hash_batch(messages, "kt128", customization=customization, backend=backend)
    assert rows_as_bytes(digests) == [expected(start, n, customization) for start, n in places]


@pytest.mark.parametrize("length", [8188, 8191, 8192, 8193, 16380, 16383, 16385])
@pytest.mark.parametrize("customization", CUSTOMIZATIONS[:-1], ids=len)
def test_lists_and_rows_of_one_length(backend, with_chunks, length, customization):
    """With its length, a customization string of three bytes goes beyond the chunk behind 16383 bytes."""
    count, stride = _FEW + 1, 16385 + 3
    memory = on_device(pattern(count * stride), backend)
    rows = memory.view(count, stride)[:, :length]
    digests = [expected(i * stride % 251, length, customization) for i in range(count)]
    for messages in (rows, list(rows)):
        found = it.hash_batch(messages, "kt128", customization=customization, backend=backend)
        assert rows_as_bytes(found) == digests


@pytest.mark.parametrize("name", ["kt128", "kt256"])
@pytest.mark.parametrize(("chunk", "last"), [(8192, 8192), (16384, 1), (16384, 8200), (20000, 19999)])
def test_chunks_of_which_the_last_may_be_shorter(backend, with_chunks, name, chunk, last):
    data = on_device(pattern(_FEW * chunk + last), backend)
    found = it.hash_chunks(data, name, chunk_size=chunk, backend=backend)
    digests = [expected(i * chunk % 251, chunk, b"", name) for i in range(_FEW)]
    assert rows_as_bytes(found) == [*digests, expected(_FEW * chunk % 251, last, b"", name)]


@pytest.mark.parametrize("in_rows", [False, True])
def test_roots_in_several_pieces(backend, with_chunks, in_rows, monkeypatch):
    """On a CPU, the roots of some of the messages are laid out at a time."""
    monkeypatch.setattr(sponge_tree, "_NODES_SIZE", 3 * 9000)
    rows = on_device(pattern(33 * 8200), backend).view(torch.int16).view(33, -1)
    found = it.hash_batch(rows if in_rows else list(rows), "kt128", length=200, backend=backend)
    record = algorithms.get("kt128")
    digests = [oracle(record, pattern(33 * 8200)[i * 8200 :][:8200], length=200) for i in range(33)]
    assert rows_as_bytes(found) == digests


def test_output_longer_than_a_block(backend):
    check("parallelhashxof_128", [pattern(100), b""], backend, block_size=64, length=500)
    check("parallelhash_128", [pattern(100), b""], backend, block_size=64, digest_size=500)
