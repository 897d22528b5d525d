"""Compares LtHash with a plain oracle and with the answers of two other implementations."""

from __future__ import annotations

import random
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import integrity_triton as it
from integrity_triton import algorithms, lthash
from integrity_triton.lthash import TensorChunks
from support import EXAMPLES, device_of, on_device, oracle, pattern

XOFS = ["blake3", "blake2xb"]


def expand(element: bytes, xof: str, **params) -> list[int]:
    if xof == "blake2xb":
        params["digest_size"] = 2048
    output = oracle(algorithms.get(xof), element, length=2048, **params)
    return list(struct.unpack("<1024H", output))


def plain(elements: list[bytes], xof: str = "blake3", **params) -> bytes:
    lanes = [0] * 1024
    for element in elements:
        lanes = [(a + b) % 65536 for a, b in zip(lanes, expand(element, xof, **params), strict=True)]
    return struct.pack("<1024H", *lanes)


def plain_chunks(name: str, data: bytes, chunk_size: int) -> list[bytes]:
    pieces = [data[i : i + chunk_size] for i in range(0, len(data), chunk_size)] or [b""]
    domain, label = b"integrity_triton lthash chunk", name.encode()
    return [
        struct.pack("<Q", len(domain)) + domain + struct.pack("<Q", len(label)) + label
        + struct.pack("<QQ", i, len(piece)) + oracle(algorithms.get("blake3"), piece)
        for i, piece in enumerate(pieces)
    ]  # fmt: skip


@pytest.fixture
def make(backend):
    def made(xof: str = "blake3", **options) -> it.LtHash:
        if backend == "native" and algorithms.get(xof).native is None:
            pytest.skip(f"not applicable: no CPU library has {xof}")
        return it.LtHash(xof, backend=backend, **options)

    return made


def test_folly(make):
    """folly/crypto/test/LtHashTest.cpp: the elements a, b and hello are added, and b is removed."""
    h = make("blake2xb").add_batch([b"a", b"b", b"hello"]).remove(b"b")
    digest = h.hexdigest()
    assert digest.startswith(
        "353cae6169e519eb9cf80edd2c5b33810276227e77a09030e3ac3b00299c9716c6b592"
        "b262b2b05ad82db539f23fc03baa1ffacc9704fe078219307c02c0f501c810895c19a7"
    )
    assert digest.endswith(
        "cbec0a2dba2e3e3e24e854798e9dc8c09922fadb987e945a765e2f614993f2b5605548"
        "1e3702371d4eb86c872ca65269125be61d86"
    )
    assert h.digest() == plain([b"a", b"hello"], "blake2xb")


def test_solana(make):
    """lattice-hash/src/lt_hash.rs in github.com/anza-xyz/agave."""
    h = make().add(b"hello")
    assert struct.unpack("<4H", h.digest()[:8]) == (0x8FEA, 0x3D16, 0x86B3, 0x9282)
    assert list(h.checksum()) == [
        79, 156, 26, 184, 156, 205, 94, 208, 182, 235, 33, 147, 111, 153, 229, 152, 207, 133,
        75, 109, 182, 198, 119, 61, 11, 81, 41, 70, 24, 87, 100, 85,
    ]  # fmt: skip


@pytest.mark.parametrize("xof", XOFS)
@pytest.mark.parametrize("key", [None, bytes(range(32))])
def test_any_multiset_in_any_order(make, backend, xof, key):
    params = {} if key is None else {"key": key}

    @settings(
        max_examples=EXAMPLES.get(backend, 20) // 3 or 1,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.binary(max_size=100), max_size=6), st.randoms(use_true_random=False))
    def check(elements, shuffle):
        h = make(xof, **params).add_batch(elements)
        assert h.digest() == plain(elements, xof, **params)
        order = list(elements)
        shuffle.shuffle(order)
        other = make(xof, **params)
        for element in order:
            other.add(element)
        assert other == h
        for element in order[1:]:
            other.remove(element)
        assert other.digest() == plain(order[:1], xof, **params)

    check()


def test_nothing(make):
    assert make().digest() == bytes(2048)
    assert make().checksum() == oracle(algorithms.get("blake3"), bytes(2048))
    assert make().add_batch([]) == make()
    assert make().add(b"x").remove(b"x").digest() == bytes(2048)
    assert make().add(b"") != make()
    assert make().remove(b"x").add(b"x") == make()


def test_elements_count_modulo_two_to_the_sixteenth(make):
    one = make().add(b"x")
    many = one
    for _ in range(15):
        many = many + many
    assert many != make()
    assert many + many == make()
    assert one + one != one
    assert many + many + one == one


def test_sums_of_sums(make):
    a, b = make().add_batch([b"1", b"2"]), make().add(b"3")
    before = a.digest()
    assert (a + b).digest() == plain([b"1", b"2", b"3"])
    assert (a + b) - b == a
    assert a - a == make()
    assert make() - b == make().remove(b"3")
    assert a.digest() == before
    twin = a.copy()
    twin.add(b"4")
    assert a.digest() == before
    assert twin.digest() == plain([b"1", b"2", b"4"])
    assert it.LtHash.from_digest(before).add(b"3") == a + b
    for other in (it.LtHash("blake2xb"), it.LtHash(key=bytes(32))):
        assert other != it.LtHash()
        with pytest.raises(ValueError, match="cannot be combined"):
            a + other
        with pytest.raises(ValueError, match="cannot be combined"):
            a - other
    with pytest.raises(TypeError):
        a + b"3"
    with pytest.raises(TypeError, match="unhashable"):
        hash(a)


def test_a_batch_of_tensors_on_the_device(make, backend):
    rows = on_device(pattern(5 * 70), backend).reshape(5, 70)
    h = make().add_batch(rows)
    assert h.digest() == plain([pattern(350)[70 * i : 70 * i + 70] for i in range(5)])
    assert make().add_batch(list(rows)) == h
    assert make().add_batch(iter(rows)) == h


def test_a_large_ragged_batch(make, backend, monkeypatch):
    """The batch is hashed in several pieces, of which the last is smaller."""
    monkeypatch.setattr(lthash, "_MOST_AT_ONCE", 3 if backend == "interpreter" else 100)
    count = 10 if backend == "interpreter" else 1234
    elements = [pattern(i * 37 % 131) + struct.pack("<I", i) for i in range(count)]
    random.Random(0).shuffle(elements)
    h = make().add_batch(elements)
    assert h.digest() == plain(elements)
    assert h.remove_batch(elements[::-1]) == make()


@pytest.mark.parametrize("size", [0, 1, 64, 65, 200])
def test_a_tensors_elements(make, backend, size):
    data = on_device(pattern(size), backend)
    h = make()
    chunks = h.add_tensor("layer.é", data, chunk_size=64)
    assert h.digest() == plain(plain_chunks("layer.é", pattern(size), 64))
    assert (chunks.name, chunks.nbytes, chunks.chunk_size) == ("layer.é", size, 64)
    assert chunks.elements().device.type == device_of(backend).type
    assert h.remove_tensor(chunks) == make()


def test_an_update_is_as_from_scratch(make, backend):
    data = {"a": pattern(300), "b": pattern(64), "c": b""}
    h = make()
    chunks = {n: h.add_tensor(n, on_device(d, backend), chunk_size=100) for n, d in data.items()}
    data["a"] = data["a"][:150] + b"!" + data["a"][151:]
    data["c"] = pattern(10)
    for name in "ac":
        chunks[name] = h.update_tensor(chunks[name], on_device(data[name], backend))
    scratch = make()
    for name in "cba":
        scratch.add_tensor(name, data[name], chunk_size=100)
    assert h == scratch
    assert h.digest() == plain([e for n, d in data.items() for e in plain_chunks(n, d, 100)])
    other = TensorChunks.of("a", on_device(pattern(7), backend), chunk_size=100, backend=backend)
    h.replace_tensor(chunks["a"], other).replace_tensor(other, chunks["a"])
    assert h == scratch


def test_what_changes_the_digest(make, backend):
    """The digest changes if names are swapped, chunks are permuted, or the data are cut or end at another
    byte, since all of these give other elements."""
    data = pattern(256)

    def digest(*tensors: tuple[str, bytes], chunk_size: int = 64) -> bytes:
        h = make()
        for name, content in tensors:
            h.add_tensor(name, on_device(content, backend), chunk_size=chunk_size)
        return h.digest()

    digests = [
        digest(("w", data), ("v", data[:64])),
        digest(("v", data), ("w", data[:64])),
        digest(("w", data[64:128] + data[:64] + data[128:]), ("v", data[:64])),
        digest(("w", data), ("v", data[:64]), chunk_size=128),
        digest(("w", data), ("v", data[:63])),
        digest(("w", data), ("v", data[:64] + b"\0")),
        digest(("w", data), ("v", data[:64]), ("empty", b"")),
        digest(("wv", data), ("", data[:64])),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(("v", data[:64]), ("w", data)) == digests[0]


def test_a_tensors_bytes_are_what_counts(make, backend):
    x = on_device(pattern(96), backend)
    h = make()
    h.add_tensor("x", x.view(torch.float32).reshape(4, 6).t(), chunk_size=32)
    other = make()
    other.add_tensor("x", x.view(torch.int32).reshape(4, 6).t().contiguous().flatten(), chunk_size=32)
    assert h == other


def test_bad_input():
    with pytest.raises(ValueError, match="blake3 or blake2xb, not 'sha256'"):
        it.LtHash("sha256")
    with pytest.raises(ValueError, match="key must be 32 bytes"):
        it.LtHash(key=b"short")
    with pytest.raises(ValueError, match="2048 bytes, not 3"):
        it.LtHash.from_digest(b"abc")
    with pytest.raises(TypeError, match="bytes-like"):
        it.LtHash().add(3)
    with pytest.raises(TypeError, match="a batch is a sequence"):
        it.LtHash().add_batch(b"abc")
    with pytest.raises(TypeError, match="named by a str"):
        it.LtHash().add_tensor(b"x", b"y")
    with pytest.raises(ValueError, match="chunk_size must be positive"):
        it.LtHash().add_tensor("x", b"y", chunk_size=0)
    assert it.LtHash("blake2xb", key=b"") == it.LtHash("blake2xb")
    assert repr(it.LtHash()) == "<LtHash of blake3>"
