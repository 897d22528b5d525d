"""Laws of checksums and sums: CRCs are polynomials over GF(2), and an LtHash is a sum in a group."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

import integrity_triton as it
from inputs import any_bytes, random_bytes, randoms
from support import on_device, rows_as_bytes

# The width in bits, and the CRC of every message that is followed by its own CRC, lowest byte first. This
# is the residue in the catalogue of parametrised CRC algorithms, with all bits inverted.
CRCS = {
    "crc32": (32, 0xDEBB20E3 ^ 0xFFFFFFFF),
    "crc32c": (32, 0xB798B438 ^ 0xFFFFFFFF),
    "crc64_nvme": (64, 0xF310303B2B6F6E42 ^ 0xFFFFFFFFFFFFFFFF),
}
XOFS = ["blake3", "blake2xb"]
# In the interpreter, a batch of CRCs takes a second, and so does the expansion of an element.
INTERPRETED = {
    "test_crcs_are_affine",
    "test_crcs_of_parts_combine",
    "test_additions_and_removals_in_any_order_cancel",
}


def xor(*strings: bytes) -> bytes:
    return bytes(np.bitwise_xor.reduce([np.frombuffer(s, np.uint8) for s in strings]))


@pytest.fixture(params=CRCS)
def name(request, runs):
    runs(request.param, interpreted=request.param == "crc32" and request.node.originalname in INTERPRETED)
    return request.param


@pytest.fixture
def crcs(name, backend):
    """The CRCs of several messages, in one batch."""

    def of(*messages: bytes) -> list[bytes]:
        views = [on_device(message, backend) for message in messages]
        return rows_as_bytes(it.hash_batch(views, name, backend=backend))

    return of


@pytest.fixture
def length(backend):
    """Lengths up to those from which the kernels fold a message."""
    return st.integers(0, 70) if backend == "interpreter" else st.integers(0, 300) | st.integers(0, 300_000)


def test_crcs_are_affine(crcs, length, check):
    """For messages of equal lengths: the CRC of the sum of three messages is the sum of their CRCs. The CRC
    of the sum of two messages is the sum of their CRCs and of the CRC of as many zeros."""

    @check(length, randoms(), share=2)
    def _(n, rng):
        a, b, c = (rng.randbytes(n) for _ in range(3))
        of_a, of_b, of_c, of_abc, of_ab, of_zeros = crcs(a, b, c, xor(a, b, c), xor(a, b), bytes(n))
        assert xor(of_a, of_b, of_c) == of_abc
        assert xor(of_a, of_b, of_zeros) == of_ab


def test_crcs_of_parts_combine(name, crcs, length, check):
    """The whole is cut anywhere into three parts, and the parts are joined in any order. An empty part
    changes nothing."""

    @check(st.lists(length, min_size=3, max_size=3), randoms(), share=2)
    def _(lengths, rng):
        a, b, c = (rng.randbytes(n) for n in lengths)
        of_a, of_b, of_c, whole, none = crcs(a, b, c, a + b + c, b"")

        def combine(first, second, n):
            return it.crc_combine(name, first, second, n)

        left = combine(combine(of_a, of_b, len(b)), of_c, len(c))
        assert left == combine(of_a, combine(of_b, of_c, len(c)), len(b) + len(c)) == whole
        assert combine(none, whole, sum(lengths)) == combine(whole, none, 0) == whole


def test_combination_is_associative_where_no_memory_reaches(name, check):
    size = CRCS[name][0] // 8
    digest, count = st.binary(min_size=size, max_size=size), st.integers(0, 2**64)

    @check(digest, digest, digest, count, count)
    def _(a, b, c, of_b, of_c):
        left = it.crc_combine(name, it.crc_combine(name, a, b, of_b), c, of_c)
        assert left == it.crc_combine(name, a, it.crc_combine(name, b, c, of_c), of_b + of_c)


def test_a_crc_after_its_message_leaves_the_residue(name, crcs, length, check):
    width, residue = CRCS[name]

    @check(random_bytes(length), share=2)
    def _(message):
        (own,) = crcs(message)
        assert crcs(message + own[::-1]) == [residue.to_bytes(width // 8, "big")]


def test_a_change_moves_a_crc_by_the_same_wherever_it_is_made(crcs, length, check):
    """If two messages are changed by the same bytes in the same place, their CRCs change by the same
    value."""

    @check(length, any_bytes(30, 1), randoms(), share=2)
    def _(n, change, rng):
        a, b = rng.randbytes(n), rng.randbytes(n)
        start = rng.randint(0, n)
        change = change[: n - start]
        change = bytes(start) + change + bytes(n - start - len(change))
        before_a, before_b, after_a, after_b = crcs(a, b, xor(a, change), xor(b, change))
        assert xor(before_a, after_a) == xor(before_b, after_b)


@pytest.fixture(params=XOFS)
def make(request, backend, runs):
    runs(request.param, interpreted=request.param == "blake3" and request.node.originalname in INTERPRETED)
    return lambda **options: it.LtHash(request.param, backend=backend, **options)


def lanes(h: it.LtHash) -> np.ndarray:
    return np.frombuffer(h.digest(), "<u2").astype(np.int64)


def multisets(backend):
    if backend == "interpreter":
        return st.lists(st.binary(max_size=30), max_size=1)
    return st.lists(any_bytes(200), max_size=5)


def test_lthashes_are_a_commutative_group(make, backend, check):
    keys = st.sampled_from([None, bytes(range(32))])

    @check(multisets(backend), multisets(backend), multisets(backend), keys)
    def _(a, b, c, key):
        sums = of_a, of_b, of_c = [make(key=key).add_batch(elements) for elements in (a, b, c)]
        zero = make(key=key)
        assert of_a + of_b == of_b + of_a
        assert (of_a + of_b) + of_c == of_a + (of_b + of_c) == make(key=key).add_batch(a + b + c)
        assert of_a + zero == of_a
        assert of_a - of_a == zero
        assert (of_a + of_b) - of_b == of_a
        assert of_a - of_b == zero - (of_b - of_a)
        total = sum(map(lanes, sums)) % 2**16
        assert (lanes(of_a + of_b + of_c) == total).all()


def test_additions_and_removals_in_any_order_cancel(make, backend, check):
    @check(multisets(backend), multisets(backend), randoms(), share=2)
    def _(stay, go, rng):
        steps = [("add", e) for e in stay + go] + [("remove", e) for e in go]
        rng.shuffle(steps)
        h = make()
        for step, element in steps:
            getattr(h, step)(element)
        assert h == make().add_batch(stay)
        h.remove_batch(stay)
        assert h.digest() == bytes(2048)


def test_tensors_in_any_order_and_updated_are_as_from_scratch(make, backend, check):
    contents = any_bytes(150)
    models = st.dictionaries(st.text(max_size=8), st.tuples(contents, contents), max_size=3)
    chunk_sizes = st.sampled_from([32, 64, 200])

    @check(models, chunk_sizes, randoms(), share=2)
    def _(model, chunk_size, rng):
        def built(version, names):
            h = make()
            chunks = {
                n: h.add_tensor(n, on_device(model[n][version], backend), chunk_size=chunk_size)
                for n in names
            }
            return h, chunks

        order = list(model)
        rng.shuffle(order)
        h, chunks = built(0, model)
        assert h == built(0, order)[0]
        for name in order:
            h.update_tensor(chunks[name], on_device(model[name][1], backend))
        assert h == built(1, model)[0]
        for name in order:
            h.remove_tensor(built(1, model)[1][name])
        assert h == make()


def test_a_sum_goes_on_from_its_digest(make, backend, check):
    @check(multisets(backend), multisets(backend), share=2)
    def _(a, b):
        whole = make().add_batch(a + b)
        stored = make().add_batch(a)
        again = it.LtHash.from_digest(stored.digest(), stored.xof, backend=backend)
        copy = again.copy()
        assert again.add_batch(b) == whole
        assert copy == stored
