"""Loads and stores of several words, and shapes of programs, which the tuning of other backends uses. They
run in the interpreter, although its tuning only has single words."""

from __future__ import annotations

import pytest
import torch

from integrity_triton import algorithms
from integrity_triton.drivers.poly1305 import Poly1305Driver
from integrity_triton.launching import launch
from support import guard, hash_batch, oracle, pattern, rows_as_bytes, tensor_message

# With these sizes, messages start at every byte of a word of eight bytes, and end around the ends of words
# and blocks.
SIZES = (0, 1, 3, 7, 8, 9, 15, 16, 17, 33, 63, 64, 65, 127, 128, 129, 135, 136, 137, 200)
CHUNKS = (0, 1, 64, 1023, 1024, 1025, 2048, 2049, 3000)


@pytest.mark.parametrize("aligned", [False, True], ids=["anywhere", "aligned"])
@pytest.mark.parametrize(
    ("name", "sizes", "options", "wide"),
    [
        ("md5", SIZES, {}, 2),
        ("sha1", SIZES[:12], {}, 4),  # the state has five words, and four does not divide five
        ("gmac_aes", SIZES[:10], {}, 4),  # the state has two words
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


@pytest.mark.parametrize("wide", [4], indirect=True)
@pytest.mark.parametrize("name", ["hmac_sha1", "hmac_sha256"])
def test_vectors_of_words_of_states(name, wide):
    """Each message has its own state, of five words (four does not divide five) or of eight words."""
    keys, messages = [pattern(i + 3) for i in range(3)], [pattern(n) for n in (0, 1, 70)]
    tags = rows_as_bytes(hash_batch(messages, name, key=keys, backend="interpreter"))
    record = algorithms.get(name)
    assert tags == [oracle(record, m, key=k) for m, k in zip(messages, keys, strict=True)]


@pytest.mark.parametrize("rows", [False, True], ids=["ragged", "rows"])
@pytest.mark.parametrize(
    ("name", "sizes"), [("md5", (128, 200, 129)), ("sha512", (256, 391, 300)), ("blake3", (2048, 3072))]
)
@pytest.mark.parametrize("wide", [0], indirect=True)
def test_whole_blocks_at_any_address(name, sizes, rows, wide):
    """Blocks that lie whole in every message of a program are loaded without regard to their alignment, and
    most lanes have no message."""
    count, size = len(sizes), min(sizes)
    data = torch.frombuffer(bytearray(pattern(sum(sizes) + 8)), dtype=torch.uint8)
    start = -data.data_ptr() % 8 + 1
    if rows:
        messages = data[start : start + count * size].reshape(count, size)
    else:
        messages = list(data[start : start + sum(sizes)].split(sizes))
    digests = rows_as_bytes(hash_batch(messages, name, backend="interpreter"))
    assert digests == [oracle(algorithms.get(name), tensor_message(m)) for m in messages]


@pytest.fixture
def tuning(request, self_tests_off, monkeypatch):
    """The tuning of another backend, without the options of its compiler."""
    data = launch._tuning()
    own = {
        kernel: {name: value for name, value in found.items() if name.isupper()}
        for kernel, found in data[request.param].items()
    }
    monkeypatch.setattr(launch, "_tuning", lambda: {**data, "interpreter": own})


# The sizes are around a block, the bytes that all lanes take at once, a step, a part, and a row of the
# matrix.
POLY1305 = (0, 1, 17, 127, 136, 512, 520, 1024, 1040, 4097)


@pytest.mark.slow_if(lambda tuning, align: tuning == "cuda" and align != 1)
@pytest.mark.parametrize(
    ("tuning", "way", "align"),
    [
        *(("cuda", "parts", align) for align in (1, 4, 16)),
        *(("opencl", "parts", align) for align in (1, 8)),
        *(("cuda", "rows", align) for align in (1, 4, 16)),
    ],
    indirect=["tuning"],
)
def test_shapes_of_poly1305(tuning, way, align, monkeypatch):
    monkeypatch.setattr(Poly1305Driver, "way", way)
    data = torch.frombuffer(bytearray(pattern(3 * sum(POLY1305))), dtype=torch.uint8)
    start, messages = -data.data_ptr() % 16 + align % 16, []
    for size in POLY1305:
        messages.append(data[start : start + size])
        start += size + -size % 16
    record = algorithms.get("poly1305")
    for _ in guard(monkeypatch, "interpreter"):
        tags = rows_as_bytes(hash_batch(messages, "poly1305", backend="interpreter"))
        assert tags == [oracle(record, tensor_message(m)) for m in messages]
        begin, width = -data.data_ptr() % 16 + align % 16, POLY1305[-1] // 16 * 16 + 16
        rows = data[begin : begin + 2 * width].reshape(2, width)
        tags = rows_as_bytes(hash_batch(rows, "poly1305", backend="interpreter"))
        assert tags == [oracle(record, tensor_message(row)) for row in rows]
