"""Programs in which all chunks of BLAKE3 are whole do not clear the bytes after the end of a message. Such
programs are mixed with others."""

from __future__ import annotations

import pytest

import integrity_triton as it
from integrity_triton import algorithms
from support import on_device, oracle, pattern, rows_as_bytes

CHUNK = 1024
# The sizes in bytes of messages in one batch. Whole chunks come before, after and between others, and fill a
# program, or more than one.
BATCHES = (
    (CHUNK + 5, CHUNK),
    (CHUNK, CHUNK + 5),
    (2 * CHUNK, 2 * CHUNK, 3, 2 * CHUNK),
    (3 * CHUNK - 3, CHUNK, 5 * CHUNK, 4 * CHUNK + 1),
    (8 * CHUNK, 6 * CHUNK + 7),
    (CHUNK - 1, CHUNK, CHUNK, CHUNK),
    (9 * CHUNK - 2,),
)


pytestmark = pytest.mark.usefixtures("small_tiles")  # a program takes four chunks


@pytest.mark.slow_if(lambda backend, align: backend == "interpreter" and align != 4)
@pytest.mark.parametrize("align", [1, 4, 16])
def test_whole_chunks_beside_others(align, backend):
    blake3 = algorithms.get("blake3")
    data = pattern(24 * CHUNK)
    memory = on_device(data, backend)
    for sizes in BATCHES:
        views, place = [], align
        for size in sizes:
            views.append((place, place + size))
            place += -(-size // align) * align
        messages = [memory[a:b] for a, b in views]
        digests = it.hash_batch(messages, "blake3", backend=backend)
        assert rows_as_bytes(digests) == [oracle(blake3, data[a:b]) for a, b in views], sizes


@pytest.mark.slow_if(lambda backend, size, tail: backend == "interpreter" and (size, tail) != (CHUNK + 5, 6))
@pytest.mark.rotating(3)
@pytest.mark.parametrize("size", [CHUNK, CHUNK + 5, 2 * CHUNK, 3 * CHUNK - 1, 4 * CHUNK])
@pytest.mark.parametrize("tail", [0, 6, CHUNK, CHUNK + 3])
def test_rows_of_whole_chunks_and_a_tail(size, tail, backend):
    blake3 = algorithms.get("blake3")
    data = pattern(3 * size + min(tail, size - 1) + 9)
    whole = len(data) - 9
    digests = it.hash_chunks(on_device(data, backend)[:whole], "blake3", chunk_size=size, backend=backend)
    expected = [oracle(blake3, data[i : min(i + size, whole)]) for i in range(0, whole, size)]
    assert rows_as_bytes(digests) == expected


def test_chunks_that_come_one_by_one(backend):
    """Each piece ends at the end of a chunk, so that a single chunk is a subtree."""
    blake3 = algorithms.get("blake3")
    data, done = pattern(9 * CHUNK), 0
    hasher = it.new("blake3", backend=backend)
    for size in (CHUNK, 1, CHUNK - 1, 2 * CHUNK, CHUNK, 5):
        hasher.update(on_device(data[done : done + size], backend))
        done += size
        assert hasher.digest() == oracle(blake3, data[:done]), done
