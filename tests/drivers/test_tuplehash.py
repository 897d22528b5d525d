"""Hashes of tuples: what a message may be, how the ends of the elements change the digest, and every function
that hashes a tuple."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import integrity_triton as it
from integrity_triton import algorithms
from support import EXAMPLES, device_of, guard, on_device, oracle, pattern, rows_as_bytes

NAMES = [record.name for record in algorithms.all_algorithms() if record.takes_tuples]
MESSAGES = [(), (b"",), (b"", b""), (b"a", b"bc"), (b"ab", b"c"), (pattern(200), b"", pattern(167))]


def expected(name: str, message: tuple[bytes, ...], **params) -> bytes:
    return oracle(algorithms.get(name), message, **params)


@pytest.fixture(autouse=True)
def guarded(request, monkeypatch):
    if "backend" not in request.fixturenames:
        yield
        return
    name = request.getfixturevalue("backend")
    if name == "native":
        pytest.skip("not applicable: no CPU library has it")
    yield from guard(monkeypatch, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch(name, backend):
    for params in ({}, {"customization": b"My Tuple App"}):
        digests = it.hash_batch(MESSAGES, name, backend=backend, **params)
        assert rows_as_bytes(digests) == [expected(name, m, **params) for m in MESSAGES], params


@pytest.mark.parametrize("name", NAMES)
def test_the_digest_depends_on_its_size_or_is_a_prefix(name, backend):
    message = (b"abc", b"d")
    if algorithms.get(name).xof:
        hasher = it.new(name, message, backend=backend)
        assert hasher.digest(500)[:70] == hasher.digest(70) == expected(name, message, length=70)
        return
    digests = [it.new(name, message, digest_size=n, backend=backend).digest() for n in (31, 32, 500)]
    assert digests == [expected(name, message, digest_size=n) for n in (31, 32, 500)]
    assert digests[1][:31] != digests[0]


@pytest.mark.parametrize("name", NAMES)
def test_tensors_and_bytes_are_elements_alike(name, backend):
    weights = torch.arange(60, dtype=torch.float32).reshape(3, 20).to(device_of(backend))
    raw = weights.cpu().numpy().tobytes()
    mixed = [
        (b"weights", weights),
        (weights.t().contiguous().t(),),
        [bytearray(b"x"), weights[1:, 1:]],
    ]
    plain = [
        (b"weights", raw),
        (raw,),
        (b"x", weights[1:, 1:].cpu().contiguous().numpy().tobytes()),
    ]
    digests = it.hash_batch(mixed, name, backend=backend)
    assert rows_as_bytes(digests) == [expected(name, m) for m in plain]


@pytest.mark.parametrize("name", NAMES)
def test_updates_append_elements(name, backend):
    hasher = it.new(name, (b"one",), backend=backend)
    twin = hasher.copy()
    hasher.update([b"", on_device(pattern(300), backend)])
    hasher.update(())
    assert hasher.digest(*_length(name)) == expected(name, (b"one", b"", pattern(300)))
    assert twin.digest(*_length(name)) == expected(name, (b"one",))
    assert it.new(name, backend=backend).digest(*_length(name)) == expected(name, ())


def _length(name: str) -> tuple[int, ...]:
    record = algorithms.get(name)
    return (record.digest_size,) if record.xof else ()


def test_any_tuple(backend):
    @settings(max_examples=EXAMPLES.get(backend, 40), deadline=None)
    @given(st.lists(st.lists(st.binary(max_size=180), max_size=3).map(tuple), min_size=1, max_size=3))
    def check(messages):
        digests = it.hash_batch(messages, "tuplehash_128", backend=backend)
        assert rows_as_bytes(digests) == [expected("tuplehash_128", m) for m in messages]

    check()


@pytest.mark.parametrize("wrong", [b"abc", "abc", 3, None, torch.zeros(3), {b"a"}])
def test_what_is_no_tuple(wrong):
    with pytest.raises(TypeError, match="tuple of byte strings"):
        it.tuplehash_128(wrong)
    with pytest.raises(TypeError, match="tuple of byte strings"):
        it.tuplehash_128().update(wrong)
    with pytest.raises(TypeError, match=r"tuples? of byte strings"):
        it.hash_batch([wrong], "tuplehash_128")


def test_what_has_no_tuples(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    with pytest.raises(TypeError, match="tuples of byte strings"):
        it.hash_batch(torch.zeros((2, 3)), "tuplehash_128")
    with pytest.raises(TypeError, match="must be encoded"):
        it.tuplehash_128(("text",))
    with pytest.raises(ValueError, match="not chunks"):
        it.hash_chunks(torch.zeros(9), "tuplehash_128", chunk_size=3)
    with pytest.raises(ValueError, match="not files"):
        it.hash_file(tmp_path / "file", "tuplehash_128")
    with pytest.raises(ValueError, match="digest_size must be between 1 and"):
        it.tuplehash_128((), digest_size=0)
