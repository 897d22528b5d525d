"""Checksums: published check values, combination, long messages, streams, and which functions refuse them."""

from __future__ import annotations

import itertools
import random
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import Crc, Security, XxHash
from integrity_triton.algorithms import checksums as cpu_library
from integrity_triton.backends import registry
from integrity_triton.backends.triton_backend import TritonBackend
from integrity_triton.drivers import crc as crc_driver
from integrity_triton.self_tests.admission import VARIABLE
from oracles import checksums, xxhash_plain
from support import (
    device_of,
    guard,
    hash_batch,
    on_device,
    oracle,
    pattern,
    retune,
    rows_as_bytes,
    tensor_message,
)

# The check values of the message "123456789", from the catalogue of parametrised CRC algorithms.
CHECK_VALUES = {"crc32": "cbf43926", "crc32c": "e3069283", "crc64_nvme": "ae8b14860a799888"}
CRCS = [r.name for r in algorithms.all_algorithms() if r.construction.crc_field is not None]
XXHASHES = [r.name for r in algorithms.all_algorithms() if isinstance(r.construction, XxHash)]
SEED = 0x0123_4567_89AB_CDEF


@pytest.fixture(autouse=True)
def guarded(request, monkeypatch):
    if "backend" not in request.fixturenames:
        yield
        return
    yield from guard(monkeypatch, request.getfixturevalue("backend"))


def runs(name: str, backend: str) -> None:
    reason = registry.get(backend).unsupported(algorithms.get(name))
    if reason is not None and backend == "native":
        pytest.skip(f"absent: {name}: {reason}")


def test_every_checksum_is_marked_as_one():
    marked = {r.name for r in algorithms.all_algorithms() if r.security is Security.CHECKSUM}
    assert marked == {*CRCS, *XXHASHES}
    assert not marked & {*algorithms.without_checksums()}


@pytest.mark.parametrize("name", CRCS)
def test_published_check_values(name, backend):
    runs(name, backend)
    assert it.new(name, b"123456789", backend=backend).hexdigest() == CHECK_VALUES[name]
    (digest,) = rows_as_bytes(hash_batch([b"123456789"], name, backend=backend))
    assert digest.hex() == CHECK_VALUES[name]


@pytest.mark.parametrize("name", CRCS)
def test_the_plain_oracles_are_right(name):
    plain, fast = getattr(checksums, f"plain_{name}"), getattr(checksums, name)
    assert plain(b"123456789").digest().hex() == CHECK_VALUES[name]
    assert checksums._Tabled(plain(), b"123456789").digest().hex() == CHECK_VALUES[name]
    for n in (0, 1, 2, 7, 8, 9, 300):
        assert plain(pattern(n)).digest() == fast(pattern(n)).digest()


@pytest.mark.parametrize("name", XXHASHES)
def test_the_plain_xxhash_is_right(name):
    xxhash = pytest.importorskip("xxhash")
    for n in [*range(300), 1023, 1024, 1025, 1088, 1089, 3000]:
        for seed in (0, SEED, (1 << 64) - 1):
            plain = getattr(xxhash_plain, name)(pattern(n), seed=seed)
            assert plain.digest() == getattr(xxhash, name)(pattern(n), seed=seed).digest(), (n, seed)


SPELLINGS = {
    "CRC-32": "crc32",
    "CRC32C": "crc32c",
    "CRC64NVME": "crc64_nvme",
    "crc64-nvme": "crc64_nvme",
    "xxHash64": "xxh64",
    "XXH3-64": "xxh3_64",
    "xxh128": "xxh3_128",
}


@pytest.mark.parametrize(("spelling", "name"), SPELLINGS.items())
def test_other_spellings(spelling, name):
    assert algorithms.get(spelling).name == name


@pytest.mark.parametrize("name", CRCS)
@given(first=st.binary(max_size=200), second=st.binary(max_size=200))
def test_crcs_combine(name, first, second):
    record = algorithms.get(name)
    whole = oracle(record, first + second)
    parts = oracle(record, first), oracle(record, second)
    assert it.crc_combine(name, *parts, len(second)) == whole


def test_combining_over_lengths_that_no_memory_holds():
    one = it.crc32(b"part").digest()
    shifted = it.crc_combine("crc32", one, bytes(4), 1 << 62)
    step = it.crc_combine("crc32", it.crc_combine("crc32", one, bytes(4), 1 << 61), bytes(4), 1 << 61)
    assert shifted == step
    assert it.crc_combine("crc32", one, b"abcd", 0) == bytes(a ^ b for a, b in zip(one, b"abcd", strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sha256", bytes(32), bytes(32), 1), "sha256 is not a CRC; the CRCs are crc32, crc32c, crc64_nvme"),
        (("crc32", bytes(8), bytes(4), 1), "a crc32 digest has 4 bytes"),
        (("crc32", bytes(4), bytes(4), -1), "must not be negative"),
    ],
)
def test_bad_combinations(arguments, message):
    with pytest.raises(ValueError, match=message):
        it.crc_combine(*arguments)


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_seeds_out_of_range(seed):
    with pytest.raises(ValueError, match="seed must be between 0 and 18446744073709551615"):
        it.new("xxh64", seed=seed)
    with pytest.raises(TypeError, match="seed must be int, not str"):
        it.new("xxh64", seed="1")


@pytest.mark.slow_if(lambda backend, name: backend == "interpreter" and name != "crc32")
@pytest.mark.parametrize("name", CRCS)
def test_crcs_of_long_messages(name, backend, monkeypatch):
    """Messages that are folded. Their lengths are around units and chunks, they are aligned and not aligned,
    and there are batches of each kind."""
    runs(name, backend)
    record = algorithms.get(name)
    lengths = [0, 5, 40_000, 131_072, 131_073, 262_143, 600_001]
    if backend == "interpreter":  # the same launches, on the shortest messages that are folded
        monkeypatch.setattr(crc_driver, "_BLOCKS_WORTH_FOLDING", 0)
        lengths = [0, 5, 4 * record.construction.width * 32 + 3]
    launched = []
    instance = registry.get(backend)
    if isinstance(instance, TritonBackend):
        admit = instance.admit
        monkeypatch.setattr(instance, "admit", lambda a, x, o: (launched.append(x.kernel), admit(a, x, o)))
    for offset in (0, 1):
        messages = [on_device(pattern(n + offset), backend)[offset:] for n in lengths]
        digests = hash_batch(messages, name, backend=backend)
        assert rows_as_bytes(digests) == [oracle(record, tensor_message(m)) for m in messages]
    rows = on_device(pattern(2 * lengths[-1]), backend).reshape(2, -1)
    digests = hash_batch(rows, name, backend=backend)
    assert rows_as_bytes(digests) == [oracle(record, tensor_message(row)) for row in rows]
    hasher = it.new(name, pattern(10), backend=backend)
    hasher.update(messages[-1])
    assert hasher.digest() == oracle(record, pattern(10) + tensor_message(messages[-1]))
    if isinstance(instance, TritonBackend):
        assert launched.count(crc_driver.CRC_FOLD) == 4


@pytest.mark.slow_if(lambda name, align: (name, align) != ("crc32", 1))
@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("name", ["crc32", "crc64_nvme"])
def test_several_chunks_are_folded(name, align, monkeypatch):
    """The fewest possible lanes fold messages of one to four chunks. The first chunk is short or whole, and a
    rest follows the last chunk or not. The batches also have messages that are shorter than a unit."""
    monkeypatch.setenv(VARIABLE, "off")
    monkeypatch.setattr(crc_driver, "_BLOCKS_WORTH_FOLDING", 0)
    retune(monkeypatch, crc_driver.CRC_FOLD, BLOCK_MSGS=2)
    record = algorithms.get(name)
    unit = 4 * record.construction.width * 2
    data = pattern(20 * unit)
    memory = on_device(data, "interpreter")
    sizes = [3, unit, 2 * unit + 1, 4 * unit, 5 * unit, 9 * unit - 1, 0, 13 * unit + 2]
    places = [(align * (i + 1), align * (i + 1) + n) for i, n in enumerate(sizes)]
    digests = hash_batch([memory[a:b] for a, b in places], name, backend="interpreter")
    assert rows_as_bytes(digests) == [oracle(record, data[a:b]) for a, b in places]
    for size in (4 * unit, 5 * unit + 7):
        rows = memory[align : align + 2 * size].view(2, size)
        digests = hash_batch(rows, name, backend="interpreter")
        assert rows_as_bytes(digests) == [oracle(record, row.numpy().tobytes()) for row in rows]
    hasher = it.new(name, data[:unit], backend="interpreter")
    hasher.update(b"")
    hasher.update(memory[unit : 7 * unit + 5])
    assert hasher.digest() == oracle(record, data[: 7 * unit + 5])


@pytest.mark.parametrize("name", CRCS)
def test_powers_of_x(name):
    """The factors that move the remainder of a lane to its place are right for messages of up to 2**64
    bytes."""
    construction = algorithms.get(name).construction
    width, modulus = construction.width, 1 << construction.width | construction.polynomial

    def times_x(a: int) -> int:
        return a << 1 ^ (modulus if a >> (width - 1) else 0)

    def times(a: int, b: int) -> int:
        product = 0
        for k in reversed(range(width)):
            product = times_x(product) ^ (a if b >> k & 1 else 0)
        return product

    table = [
        int(f"{value:0{width}b}"[::-1], 2) for value in crc_driver.powers(width, construction.polynomial, 3)
    ]
    unit = table[0]
    for _ in range(24):
        unit = times_x(unit)
    assert unit == 1  # row 0 begins with x**-24
    base = 2
    for _ in range(3):
        base = times(base, base)
    for k in range(16):
        row = table[16 * k : 16 * k + 16]
        assert all(times(a, base) == b for a, b in itertools.pairwise(row)), k
        assert k == 0 or row[0] == 1
        for _ in range(4):
            base = times(base, base)


@pytest.mark.parametrize("name", XXHASHES)
@pytest.mark.parametrize("seed", [0, SEED])
def test_xxhash_of_every_length(name, seed, backend):
    record = algorithms.get(name)
    lengths = [*range(270), *range(1000, 1100), 2047, 2048, 2049, 5000]
    if backend == "interpreter":
        lengths = [*range(34), *range(60, 260, 9), *range(64, 256, 32), 63, 65, 240, 241, 1024, 1025, 1100]
    random.Random(1).shuffle(lengths)
    digests = hash_batch([pattern(n) for n in lengths], name, seed=seed, backend=backend)
    assert rows_as_bytes(digests) == [oracle(record, pattern(n), seed=seed) for n in lengths]
    # All messages of a batch of rows are of the same kind, and have exactly one of these lengths.
    for n in (1, 3, 4, 6, 8, 9, 12, 16, 17, 100, 128, 129, 200, 240, 241, 500) if seed else ():
        rows = on_device(pattern(2 * n), backend).reshape(2, n)
        digests = hash_batch(rows, name, seed=seed, backend=backend)
        assert rows_as_bytes(digests) == [oracle(record, tensor_message(row), seed=seed) for row in rows]


@pytest.mark.slow_if(lambda backend, name: backend == "interpreter" and name != "xxh3_64")
@pytest.mark.parametrize("name", XXHASHES)
def test_xxhash_streams_across_their_blocks(name, backend):
    record, message = algorithms.get(name), b""
    hasher = it.new(name, seed=SEED, backend=backend)
    for n in (3, 30, 200, 8, 783, 1, 63, 1, 2000, 5):
        piece = pattern(len(message) + n)[len(message) :]
        hasher.update(piece)
        message += piece
        assert hasher.digest() == oracle(record, message, seed=SEED), len(message)
    twin = hasher.copy()
    twin.update(b"x" * 1500)
    assert twin.digest() == oracle(record, message + b"x" * 1500, seed=SEED)
    assert hasher.digest() == oracle(record, message, seed=SEED)


def test_a_stream_of_a_checksum_holds_little(backend):
    instance = registry.get(backend)
    if not isinstance(instance, TritonBackend):
        pytest.skip("not applicable: the library's own")
    stream = instance.stream(algorithms.get("xxh3_64"), {})
    for _ in range(5):
        stream.update(memoryview(pattern(3000)))
        assert stream._pending.data.numel() <= 1024 + 64


@pytest.mark.exhaustive
@pytest.mark.parametrize("length", [1 << 29, (1 << 32) - 1, 1 << 32, (1 << 32) + 1])
def test_one_long_crc(backend, length):
    if backend == "interpreter":
        pytest.skip("absent: gigabytes take days in the interpreter")
    data = torch.zeros(length, dtype=torch.uint8)
    data[::4097] = 7
    (digest,) = rows_as_bytes(it.hash_batch([data.to(device_of(backend))], "crc32", backend=backend))
    assert digest == zlib.crc32(data.numpy()).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 16, "polynomial": 0x1021}, "of 32 or 64 bits"),
        ({"width": 32, "polynomial": 1 << 32 | 1}, "of 32 or 64 bits"),
        ({"width": 32, "polynomial": 6}, "constant term"),
    ],
)
def test_constructions_that_are_no_crc(arguments, message):
    with pytest.raises(ValueError, match=message):
        Crc(**arguments)


def test_the_library_of_crc32c_takes_any_buffer_in_pieces_or_in_place(monkeypatch):
    library = pytest.importorskip("google_crc32c", reason="absent: google_crc32c")
    data = pattern(1000)
    passed = []

    class Library:
        @staticmethod
        def extend(value, chunk):
            passed.append(chunk)
            return library.extend(value, chunk)

    monkeypatch.setattr(cpu_library, "import_module", lambda name: Library)
    monkeypatch.setattr(cpu_library, "_PIECE_SIZE", 300)
    array = np.frombuffer(data, np.uint8)
    in_place = {"bytes": data, "a view of bytes": memoryview(data), "an array": array}
    copied = {
        "a part of bytes": memoryview(b"12" + data)[2:],
        "a bytearray": bytearray(data),
        "a view of a bytearray": memoryview(bytearray(data)),
        "wide items": memoryview(array.view(np.uint32)),
    }
    for label, x in {**in_place, **copied}.items():
        passed.clear()
        assert cpu_library._google_crc32c(x, 5) == library.extend(5, data), label
        sizes = [len(chunk) if isinstance(chunk, bytes) else chunk.nbytes for chunk in passed]
        assert sizes == ([1000] if label in in_place else [300, 300, 300, 100]), label
        assert label not in in_place or isinstance(passed[0], type(x)) or passed[0] is data


def test_the_library_of_crc32c_is_looked_for_once(monkeypatch):
    real, asked = cpu_library.import_module, []

    def import_module(name):
        asked.append(name)
        return real(name)

    cpu_library._crc32c.cache_clear()
    monkeypatch.setattr(cpu_library, "import_module", import_module)
    for _ in range(3):
        assert cpu_library.crc32c(b"123456789").hexdigest() == CHECK_VALUES["crc32c"]
    assert asked.count("crc32c") == 1
    cpu_library._crc32c.cache_clear()
