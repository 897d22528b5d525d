"""Properties that hold for every message, every split and every batch, with examples from Hypothesis."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st

from inputs import message_bytes
from support import (
    device_of,
    hash_batch,
    hash_chunks,
    new,
    on_device,
    oracle,
    rows_as_bytes,
    tensor_message,
    variants,
)


def test_any_bytes(algorithm, backend, check):
    @check(message_bytes(backend), st.sampled_from(variants(algorithm)))
    def _(message, params):
        digest = new(algorithm.name, message, backend=backend, **params).digest()
        assert digest == oracle(algorithm, message, **params)


def test_any_split_of_updates(algorithm, backend, check):
    @check(st.lists(message_bytes(backend), max_size=4))
    def _(pieces):
        hasher = new(algorithm.name, backend=backend)
        for piece in pieces:
            hasher.update(piece)
        assert hasher.digest() == oracle(algorithm, b"".join(pieces))


def test_any_batch_in_any_order(algorithm, backend, check):
    @check(st.lists(message_bytes(backend), max_size=12), st.randoms(use_true_random=False))
    def _(messages, random):
        digests = rows_as_bytes(hash_batch(messages, algorithm.name, backend=backend))
        assert digests == [oracle(algorithm, m) for m in messages]
        order = list(range(len(messages)))
        random.shuffle(order)
        shuffled = hash_batch([messages[i] for i in order], algorithm.name, backend=backend)
        assert rows_as_bytes(shuffled) == [digests[i] for i in order]


def test_any_chunk_size(algorithm, backend, check):
    @check(message_bytes(backend, 1000), st.integers(1, 200))
    def _(message, chunk_size):
        digests = hash_chunks(message, algorithm.name, chunk_size=chunk_size, backend=backend)
        pieces = [message[i : i + chunk_size] for i in range(0, len(message), chunk_size)]
        assert rows_as_bytes(digests) == [oracle(algorithm, p) for p in pieces]


def test_any_misaligned_views(algorithm, backend, check):
    sizes = st.lists(st.tuples(st.integers(0, 31), st.integers(0, 150)), min_size=1, max_size=8)

    @check(sizes, st.binary(min_size=200, max_size=200))
    def _(cuts, data):
        source = on_device(data, backend)
        views = [source[a : a + n] for a, n in cuts]
        digests = hash_batch(views, algorithm.name, backend=backend)
        assert rows_as_bytes(digests) == [oracle(algorithm, data[a : a + n]) for a, n in cuts]


def test_copies_never_meet_again(algorithm, backend, check):
    small = message_bytes(backend, 100)

    @check(small, small, small)
    def _(start, left, right):
        first = new(algorithm.name, start, backend=backend)
        second = first.copy()
        first.update(left)
        second.update(right)
        assert first.digest() == oracle(algorithm, start + left)
        assert second.digest() == oracle(algorithm, start + right)


def test_output_is_one_stream(algorithm, backend, check):
    """A shorter output is a prefix of a longer one, and ``seek`` skips bytes."""
    if not algorithm.xof:
        pytest.skip("not applicable: a fixed digest")

    @check(message_bytes(backend, 80), st.integers(0, 200), st.integers(0, 200))
    def _(message, seek, length):
        hasher = new(algorithm.name, message, backend=backend)
        stream = hasher.digest(400)
        assert hasher.digest(length) == stream[:length]
        if algorithm.seekable:
            assert hasher.digest(length, seek=seek) == stream[seek : seek + length]
        assert stream == oracle(algorithm, message, length=400)


def test_any_tensor(algorithm, backend, check):
    shapes = st.lists(st.integers(0, 4), max_size=4)
    dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])

    @check(shapes, dtypes, st.randoms(use_true_random=False))
    def _(shape, dtype, random):
        generator = torch.Generator().manual_seed(random.randrange(2**31))
        x = torch.randint(0, 2 if dtype is torch.bool else 200, shape, generator=generator).to(dtype)
        dims = list(range(x.dim()))
        random.shuffle(dims)
        x = x.permute(dims).to(device_of(backend))
        (digest,) = rows_as_bytes(hash_batch([x], algorithm.name, backend=backend))
        assert digest == oracle(algorithm, tensor_message(x))
