"""Bao, against its published vectors, and against the definition of its formats over the nodes of BLAKE3."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from integrity_triton import BackendUnavailable, IntegrityError, algorithms
from integrity_triton.backends import registry
from integrity_triton.trees import bao
from oracles import blake3_plain

blake3 = pytest.importorskip("blake3")

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "data" / "bao" / "test_vectors.json"
BLAKE3 = algorithms.get("blake3")


def content_of(size):
    """The input of the vectors: numbers of four bytes, from 1."""
    return b"".join(i.to_bytes(4, "little") for i in range(1, size // 4 + 2))[:size]


@pytest.fixture(scope="module")
def vectors():
    if not VECTORS.is_file():
        pytest.skip("absent: Bao's published vectors, tests/test_vectors.json of oconnor663/bao")
    return json.loads(VECTORS.read_text("utf-8"))


def flipped(data, at):
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def digest(data):
    return blake3.blake3(data).hexdigest()


@pytest.mark.slow
def test_published_encodings(vectors):
    assert len(vectors["encode"]) == len(vectors["outboard"]) == 13
    for case in vectors["encode"]:
        content = content_of(case["input_len"])
        found = bao.encode(content)
        assert found.root.hex() == case["bao_hash"] == digest(content)
        assert (len(found.data), digest(found.data)) == (case["output_len"], case["encoded_blake3"])
        assert bao.read_range(found.data, found.root) == content
        for at in case["corruptions"]:
            with pytest.raises(IntegrityError):
                bao.read_range(flipped(found.data, at), found.root)
    for case in vectors["outboard"]:
        content = content_of(case["input_len"])
        found = bao.encode_outboard(content)
        assert found.root.hex() == case["bao_hash"]
        assert (len(found.data), digest(found.data)) == (case["output_len"], case["encoded_blake3"])
        assert bao.verify(found.data, found.root, data=content) == len(content)
        for at in case["outboard_corruptions"]:
            with pytest.raises(IntegrityError):
                bao.verify(flipped(found.data, at), found.root, data=content)
        for at in case["input_corruptions"]:
            with pytest.raises(IntegrityError):
                bao.verify(found.data, found.root, data=flipped(content, at))


@pytest.mark.slow
def test_published_seeks(vectors):
    for case in vectors["seek"]:
        content = content_of(case["input_len"])
        found = bao.encode(content)
        for start in case["seek_offsets"]:
            assert bao.read_range(found.data, found.root, start) == content[start:]
            assert bao.read_range(found.data, found.root, start, 10) == content[start : start + 10]


@pytest.mark.slow
def test_published_slices(vectors):
    count = 0
    for case in vectors["slice"]:
        content = content_of(case["input_len"])
        combined, outboard = bao.encode(content), bao.encode_outboard(content)
        for given in case["slices"]:
            where = given["start"], given["len"]
            found = bao.extract_slice(combined.data, *where)
            assert (len(found), digest(found)) == (given["output_len"], given["output_blake3"])
            assert bao.extract_slice(outboard.data, *where, data=content) == found
            assert bao.decode_slice(found, combined.root, *where) == content[where[0] : sum(where)]
            for at in given["corruptions"]:
                with pytest.raises(IntegrityError):
                    bao.decode_slice(flipped(found, at), combined.root, *where)
            count += 1
    assert count > 200


# The format, built recursively from its definition over the plain BLAKE3 of the oracles.


def subtree(data, first, root):
    """The chaining value of a subtree, and its combined and outboard encodings."""
    if len(data) <= 1024:
        return blake3_plain.chunk_value(data, first, root=root), data, b""
    left = 1024 << (((len(data) - 1) // 1024).bit_length() - 1)
    sides = subtree(data[:left], first, False), subtree(data[left:], first + left // 1024, False)
    node = sides[0][0] + sides[1][0]
    value = blake3_plain.parent_value(node, root=root)
    return value, node + sides[0][1] + sides[1][1], node + sides[0][2] + sides[1][2]


SIZES = [0, 1, 1023, 1024, 1025, 2048, 3073, 5000, 8192, 9217]


@pytest.mark.parametrize("size", SIZES)
def test_encodings_are_those_of_the_definition(size, tmp_path):
    content = random.Random(size).randbytes(size)
    root, combined, outboard = subtree(content, 0, True)
    assert root == blake3.blake3(content).digest()
    header = size.to_bytes(8, "little")
    tensor = torch.frombuffer(bytearray(content) or bytearray(1), dtype=torch.uint8)[:size]
    for data in (content, tensor):
        assert bao.encode(data) == bao.Encoding(root, header + combined)
        assert bao.encode_outboard(data) == bao.Encoding(root, header + outboard)
    files = [tmp_path / name for name in ("content", "combined", "outboard")]
    files[0].write_bytes(content)
    seen = []
    assert bao.encode_file(files[0], files[1], progress=seen.append) == root
    assert bao.encode_outboard_file(files[0], files[2]) == root
    assert sum(seen) == size
    assert files[1].read_bytes() == header + combined
    assert files[2].read_bytes() == header + outboard
    assert {p.name for p in tmp_path.iterdir()} == {"content", "combined", "outboard"}
    for start, length in (
        (0, None),
        (0, size),
        (size // 2, 1000),
        (max(size - 1, 0), 1),
        (size, 5),
        (1000, 0),
    ):
        end = size if length is None else start + length
        for given in ({"encoding": files[1]}, {"encoding": files[2], "data": files[0]}):
            assert bao.read_range(**given, root=root, start=start, length=length) == content[start:end]
    assert bao.verify(files[2], root, data=tensor) == size


@pytest.mark.parametrize("level", [1, 2, 3])
def test_groups_do_not_matter(monkeypatch, level, tmp_path):
    """Groups of two to eight chunks, so that small contents have several."""
    monkeypatch.setattr(bao, "_GROUP_LEVEL", level)
    monkeypatch.setattr(bao, "_GROUP", 1 << level)
    made = random.Random(level)
    for size in (1024, 1025, 5000, 8192, 11 * 1024 + 5):
        content = made.randbytes(size)
        root, combined, outboard = subtree(content, 0, True)
        header = size.to_bytes(8, "little")
        assert bao.encode(content) == bao.Encoding(root, header + combined)
        assert bao.encode_outboard(content) == bao.Encoding(root, header + outboard)
        (tmp_path / "content").write_bytes(content)
        assert bao.encode_file(tmp_path / "content", tmp_path / "combined") == root
        assert (tmp_path / "combined").read_bytes() == header + combined
        for _ in range(4):
            start, length = made.randrange(size + 2), made.randrange(size + 2)
            wanted = content[start : start + length]
            assert bao.read_range(header + combined, root, start, length) == wanted
            assert bao.read_range(header + outboard, root, start, length, data=content) == wanted
            part = bao.extract_slice(header + combined, start, length)
            assert bao.decode_slice(part, root, start, length) == wanted


def test_a_backend_gives_the_nodes(backend):
    content = random.Random(1).randbytes(5 * 1024 + 3)
    if registry.get(backend).unsupported(BLAKE3):
        pytest.skip(f"absent: BLAKE3 on {backend}")
    found = bao.encode_outboard(content, backend=backend)
    assert found == bao.encode_outboard(content, backend="native")
    part = bao.extract_slice(found.data, 2000, 10, data=content)
    assert bao.decode_slice(part, found.root, 2000, 10, backend=backend) == content[2000:2010]


def test_nodes_of_large_counters():
    """The number of a chunk has 64 bits, in NumPy and in the kernels, without the data before it."""
    chunk = random.Random(2).randbytes(1024 + 70)
    tensor = torch.frombuffer(bytearray(chunk), dtype=torch.uint8)
    names = [status.name for status in registry.statuses() if status.available and not status.for_tests]
    assert "native" in names
    for first in (0, 1, (1 << 32) - 1, 1 << 32, (1 << 53) - 2):
        wanted = b"".join(
            blake3_plain.chunk_value(chunk[i : i + 1024], first + i // 1024, root=False) for i in (0, 1024)
        )
        for name in names:
            assert registry.get(name).chunk_values(BLAKE3, tensor, first).numpy().tobytes() == wanted, name
    with pytest.raises(BackendUnavailable, match="no nodes of a tree of sha256"):
        registry.get("native").chunk_values(algorithms.get("sha256"), tensor, 0)


# What is not what it seems to be


def small():
    content = random.Random(3).randbytes(5 * 1024 + 77)
    return content, bao.encode(content), bao.encode_outboard(content)


@pytest.mark.slow
def test_every_byte_of_an_encoding_matters():
    content, combined, outboard = small()
    for at in (*range(0, 140, 3), *range(140, len(combined.data), 101), len(combined.data) - 1):
        with pytest.raises(IntegrityError):
            bao.read_range(flipped(combined.data, at), combined.root)
    for at in range(0, len(outboard.data), 5):
        with pytest.raises(IntegrityError):
            bao.verify(flipped(outboard.data, at), outboard.root, data=content)
    for at in range(0, len(content), 101):
        with pytest.raises(IntegrityError, match=rf"chunk {at // 1024} \(bytes"):
            bao.verify(outboard.data, outboard.root, data=flipped(content, at))
    for at in range(32):
        with pytest.raises(IntegrityError, match="the parent of chunks 0 to 5"):
            bao.read_range(combined.data, flipped(combined.root, at))


def test_truncation_at_every_byte():
    content, combined, outboard = small()
    part = bao.extract_slice(combined.data, 1500, 1000)
    for size in range(len(combined.data)):
        with pytest.raises(IntegrityError):
            bao.read_range(combined.data[:size], combined.root, 0, 1)
    for size in range(len(outboard.data)):
        with pytest.raises(IntegrityError):
            bao.read_range(outboard.data[:size], outboard.root, 0, 1, data=content)
    for size in range(len(part)):
        with pytest.raises(IntegrityError):
            bao.decode_slice(part[:size], combined.root, 1500, 1000)
    for longer, call in (
        (combined.data, lambda x: bao.read_range(x, combined.root)),
        (outboard.data, lambda x: bao.verify(x, outboard.root, data=content)),
        (part, lambda x: bao.decode_slice(x, combined.root, 1500, 1000)),
    ):
        call(longer)
        with pytest.raises(IntegrityError, match="and this one"):
            call(longer + b"\0")
    with pytest.raises(IntegrityError, match=f"the content has {len(content) - 1}"):
        bao.verify(outboard.data, outboard.root, data=content[:-1])


@pytest.mark.slow
def test_every_byte_of_a_slice_matters():
    content, combined, _ = small()
    for start, length in ((0, 0), (1500, 1000), (5 * 1024, 500), (1 << 40, 1)):
        part = bao.extract_slice(combined.data, start, length)
        assert bao.decode_slice(part, combined.root, start, length) == content[start : start + length]
        for at in (*range(300), *range(300, len(part), 31), len(part) - 1):
            if at >= len(part):
                continue
            try:
                found = bao.decode_slice(flipped(part, at), combined.root, start, length)
            except IntegrityError:
                continue
            # The length of the content is proved by its last chunk only. What is returned is right.
            assert at < 8, at
            assert start + length < len(content) - 1024
            assert found == content[start : start + length]
        with pytest.raises(IntegrityError):
            bao.decode_slice(part, combined.root, 3000, 3000)


def test_lengths_that_were_made_up():
    """A header can say anything. What it costs to find out does not depend on it."""
    content, combined, outboard = small()
    for length in (0, 1, len(content) - 1, len(content) + 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        header = length.to_bytes(8, "little")
        with pytest.raises(IntegrityError):
            bao.read_range(header + combined.data[8:], combined.root)
        with pytest.raises(IntegrityError):
            bao.verify(header + outboard.data[8:], outboard.root, data=content)
        for size in (1, 1 << 62):
            with pytest.raises(IntegrityError):
                bao.decode_slice(header + combined.data[8:], combined.root, 0, size)
    with pytest.raises(IntegrityError):
        bao.read_range(bytes(8), combined.root)
    assert bao.read_range(bytes(8), blake3.blake3(b"").digest(), 7) == b""


def test_random_slices_end_with_an_error():
    made = random.Random(4)
    root = made.randbytes(32)
    for _ in range(500):
        length = made.choice([0, 1, 1024, 1025, 5000, 1 << 33])
        part = length.to_bytes(8, "little") + made.randbytes(made.choice([0, 64, 1024, 1088, 1152, 2300]))
        with pytest.raises(IntegrityError):
            bao.decode_slice(part, root, made.choice([0, 5, 1024, 1 << 32]), made.choice([0, 1, 1024]))


# Sizes beyond 32 bits


def place(length, first, level, combined):
    """The position of a node in an encoding, walked from the root as the format is defined."""
    chunks, start, at = -(-length // 1024), 0, 8

    def encoded(begin, end):
        size = 64 * (end - begin - 1)
        return size + (min(end * 1024, length) - begin * 1024 if combined else 0)

    end = chunks
    while (start, end) != (first, min(first + (1 << level), chunks)):
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        at += 64
        if first < middle:
            end = middle
        else:
            at += encoded(start, middle)
            start = middle
    return at


@pytest.mark.parametrize("length", [(5 << 30) + 1, (1 << 42) - 1023, 1 << 62])
def test_positions_beyond_32_bits(length):
    shape = bao._Shape(length)
    made = random.Random(5)
    chunks = -(-length // 1024)
    assert shape.chunks == chunks
    for _ in range(200):
        level = made.randrange(shape.top + 1)
        index = made.randrange(shape.count(level))
        if level and not shape.has_children(level, index):
            continue
        for combined in (True, False):
            found = shape.positions(level, np.array([index]), combined)[0]
            assert found == place(length, index << level, level, combined)
    size = 64 * (chunks - 1) + 8
    assert (shape.encoded_size(False), shape.encoded_size(True)) == (size, size + length)
    first, last = bao._chunks_of(shape, length - 3000, 5000)
    assert (first, last) == ((length - 3000) // 1024, chunks - 1)
    indices, positions = bao._slice_layout(shape, first, last)
    parents = sum(map(len, indices[1:]))
    assert bao._slice_size(shape, first, last) == 8 + 64 * parents + length - first * 1024
    assert positions[shape.top][0] == 8


SLOW = """
import os, resource, sys
from integrity_triton.trees import bao
path, outboard = sys.argv[1:]
bao.encode_outboard(bytes(9 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
root = bao.encode_outboard_file(path, outboard)
assert bao.verify(outboard, root, data=path) == os.stat(path).st_size
print(root.hex(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_large_sparse_file_takes_little_memory(tmp_path):
    """300 MB in a process of its own, whose memory grows by less than a third of that."""
    path, size = tmp_path / "sparse", 300_000_001
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(200_000_000)
        file.write(b"in the middle")
    hasher = blake3.blake3()
    hasher.update_mmap(path)
    command = [sys.executable, "-c", SLOW, str(path), str(tmp_path / "outboard")]
    root, grown = subprocess.check_output(command, text=True).split()
    assert root == hasher.hexdigest()
    assert (tmp_path / "outboard").stat().st_size == bao._Shape(size).encoded_size(False)
    assert int(grown) * 1024 < 100_000_000
    part = bao.extract_slice(tmp_path / "outboard", 199_999_990, 40, data=path)
    found = bao.decode_slice(part, bytes.fromhex(root), 199_999_990, 40)
    assert found == bytes(10) + b"in the middle" + bytes(17)


def test_a_failed_encoding_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "content").write_bytes(bytes(5000))
    (tmp_path / "out").write_bytes(b"old")

    def failing(*arguments):
        raise MemoryError

    monkeypatch.setattr(bao, "_encode", failing)
    with pytest.raises(MemoryError):
        bao.encode_file(tmp_path / "content", tmp_path / "out")
    assert {p.name: p.read_bytes()[:3] for p in tmp_path.iterdir()} == {"content": bytes(3), "out": b"old"}
    with pytest.raises(FileNotFoundError, match="absent"):
        bao.encode_file(tmp_path / "content", tmp_path / "absent" / "out")


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x: bao.read_range(x.data, x.root[:31]), ValueError, "32 bytes, not 31"),
        (lambda x: bao.read_range(x.data, x.root.hex()), TypeError, "root must be bytes"),
        (lambda x: bao.read_range(x.data, x.root, -1), ValueError, "start must not be negative"),
        (lambda x: bao.read_range(x.data, x.root, 0, -1), ValueError, "length must not be negative"),
        (lambda x: bao.read_range(x.data, x.root, 0.0), TypeError, "start must be int"),
        (lambda x: bao.decode_slice(x.data, x.root, 0, True), TypeError, "length must be int"),
        (lambda x: bao.extract_slice(x.data, 0, -1), ValueError, "length must not be negative"),
        (lambda x: bao.encode("text" + x.data.hex()), TypeError, "text must be"),
        (lambda x: bao.encode(b"a", backend="no"), ValueError, "unknown backend"),
    ],
)
def test_wrong_use(call, error, says):
    with pytest.raises(error, match=says):
        call(bao.encode(b"abc"))
