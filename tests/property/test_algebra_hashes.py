"""Laws of hashes: all ways to call a hash give the same function, its output is one stream, and customised
functions and trees are made of the plain functions by which their standards define them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import strategies as st

import integrity_triton as it
from inputs import any_bytes, near, parameters, random_bytes, randoms
from integrity_triton import algorithms
from oracles import blake2_plain
from oracles.blake3_plain import blake3
from oracles.keccak_plain import bytepad, encode_string, left_encode, length_encode, right_encode
from support import hash_batch, hash_chunks, new, on_device, rows_as_bytes

XOFS = [record.name for record in algorithms.all_algorithms() if record.xof]
# The number of bytes of output for algorithms whose output can be read from any byte on: BLAKE3 has a counter
# of 2**64 bytes, and BLAKE2X has 2**32 nodes.
ENDS = {"blake3": 2**64, "blake2xb": 2**32 * 64, "blake2xs": 2**32 * 32}
# SP 800-185, section 3.3: the number of bytes that are absorbed at a time, for 128 and 256 bits of security.
RATES = {128: 168, 256: 136}
# The hashes whose digest depends on the length that was asked for.
BOUND = [
    *(f"{name}_{bits}" for name in ("parallelhash", "tuplehash", "kmac") for bits in RATES),
    *("blake2b", "blake2s", "blake2bp", "blake2sp", "blake2xb", "blake2xs"),
]
both_securities = pytest.mark.parametrize("bits", RATES)
short = any_bytes(400)


def messages_of(name: str) -> st.SearchStrategy:
    return st.lists(short, max_size=4).map(tuple) if algorithms.get(name).takes_tuples else short


def test_every_way_is_one_function(algorithm, backend, check, runs):
    """The function is the same for chunks, for a batch of the slices in any order, for the rows of a tensor,
    for streams with any split, and for their copies."""
    runs(algorithm.name)

    @check(any_bytes(600), st.integers(1, 300), parameters(algorithm), randoms(), share=4)
    def _(data, size, given, rng):
        slices = [data[i : i + size] for i in range(0, len(data), size)]
        digests = rows_as_bytes(hash_chunks(data, algorithm.name, chunk_size=size, backend=backend, **given))
        order = rng.sample(range(len(slices)), len(slices))
        batch = hash_batch([slices[i] for i in order], algorithm.name, backend=backend, **given)
        assert rows_as_bytes(batch) == [digests[i] for i in order]
        whole = len(data) // size
        rows = on_device(data[: whole * size], backend).reshape(whole, size)
        assert rows_as_bytes(hash_batch(rows, algorithm.name, backend=backend, **given)) == digests[:whole]
        for piece, digest in [*zip(slices, digests, strict=True)][-2:]:
            cut = rng.randint(0, len(piece))
            hasher = new(algorithm.name, piece[:cut], backend=backend, **given)
            twin = hasher.copy()
            hasher.update(piece[cut : cut + 1])
            hasher.update(piece[cut + 1 :])
            assert hasher.digest() == digest
            twin.update(piece[cut:])
            assert twin.digest() == digest


@pytest.mark.parametrize("name", XOFS)
def test_an_output_is_the_start_of_every_longer_one(name, backend, check, runs):
    runs(name)
    lengths, given = st.integers(0, 500), parameters(algorithms.get(name), without=("digest_size",))

    @check(messages_of(name), given, lengths, lengths, share=2)
    def _(message, given, n, m):
        hasher = it.new(name, message, backend=backend, **given)
        longer = hasher.digest(n + m)
        assert hasher.digest(n) == longer[:n]
        for length in (n, n + m):
            batch = it.hash_batch([message, message], name, length=length, backend=backend, **given)
            assert rows_as_bytes(batch) == [longer[:length]] * 2


@pytest.mark.parametrize("name", ENDS)
def test_an_output_is_that_of_its_parts(name, backend, check, runs):
    """The output is cut at any byte. Some cuts are where the next bit of a counter of blocks is set, and some
    are just before the end."""
    runs(name, interpreted=name == "blake3")
    end, window = ENDS[name], 300
    powers = st.sampled_from([2**k for k in reversed(range(10, end.bit_length() - 1))])
    cuts = st.integers(0, 1000) | powers | st.integers(end - window, end)
    given = parameters(algorithms.get(name), without=("digest_size",))

    @check(short, given, cuts, st.integers(0, window))
    def _(message, given, cut, before):
        hasher = it.new(name, message, backend=backend, **given)
        start = min(max(cut - before, 0), end - window)
        found = hasher.digest(window, seek=start)
        assert hasher.digest(cut - start, seek=start) + hasher.digest(start + window - cut, seek=cut) == found
        if cut <= 1000:
            assert hasher.digest(start + window)[start:] == found
        assert hasher.digest(0, seek=end) == b""
        with pytest.raises(ValueError, match="seek must be"):
            hasher.digest(1, seek=end)


@pytest.mark.parametrize("name", BOUND)
def test_a_digest_that_knows_its_length_is_no_start_of_a_longer_one(name, backend, check, runs):
    runs(name)
    most = 32 if name in ("blake2s", "blake2sp") else 64
    sizes, given = st.integers(8, most), parameters(algorithms.get(name), without=("digest_size",))

    @check(messages_of(name), given, st.lists(sizes, min_size=2, max_size=2, unique=True), share=4)
    def _(message, given, sizes):
        a, b = (
            it.new(name, message, digest_size=n, backend=backend, **given).digest() for n in sorted(sizes)
        )
        assert a != b[: len(a)]


@pytest.fixture
def cshake(bits, backend, runs):
    """``cSHAKE(X, L, N, S)`` of the backend, with L in bytes."""
    runs(f"cshake_{bits}")

    def function(x: bytes, length: int, n: bytes, s: bytes) -> bytes:
        return it.new(f"cshake_{bits}", x, function_name=n, customization=s, backend=backend).digest(length)

    return function


@pytest.fixture
def custom(bits, backend):
    """The function over cSHAKE with a given name on the backend, in its fixed and its extendable form."""

    def function(name: str, form: str, data, length: int, **given) -> bytes:
        if form == "xof":
            return it.new(f"{name}xof_{bits}", data, backend=backend, **given).digest(length)
        return it.new(f"{name}_{bits}", data, digest_size=length, backend=backend, **given).digest()

    return function


forms = st.sampled_from(["fixed", "xof"])
lengths = st.integers(4, 400)
names = any_bytes(200)


def told(form: str, length: int) -> bytes:
    """The last bytes that are absorbed: the length of the digest in bits, or zero for any length."""
    return right_encode(8 * length if form == "fixed" else 0)


@both_securities
def test_cshake_without_names_is_shake(bits, cshake, backend, check):
    @check(short, lengths)
    def _(x, n):
        assert cshake(x, n, b"", b"") == it.new(f"shake_{bits}", x, backend=backend).digest(n)


@both_securities
def test_kmac_is_cshake_of_key_and_message(bits, cshake, custom, check):
    """SP 800-185, section 4.3."""

    @check(any_bytes(400, 1), short, lengths, names, forms)
    def _(k, x, n, s, form):
        message = bytepad(encode_string(k), RATES[bits]) + x + told(form, n)
        assert custom("kmac", form, x, n, key=k, customization=s) == cshake(message, n, b"KMAC", s)


@both_securities
def test_tuplehash_is_cshake_of_counted_strings(bits, cshake, custom, check):
    """SP 800-185, section 5.3. The digest also depends on where one string ends and the next begins."""

    @check(st.lists(short, max_size=4), lengths, names, forms, st.integers(1, 100))
    def _(x, n, s, form, moved):
        z = b"".join(map(encode_string, x)) + told(form, n)
        digest = custom("tuplehash", form, tuple(x), n, customization=s)
        assert digest == cshake(z, n, b"TupleHash", s)
        if n >= 8:
            assert custom("tuplehash", form, (*x, b""), n, customization=s) != digest
        if n >= 8 and len(x) > 1 and x[1]:
            other = x[0] + x[1][:moved], x[1][moved:], *x[2:]
            assert custom("tuplehash", form, other, n, customization=s) != digest


@both_securities
def test_parallelhash_is_cshake_of_leaves(bits, cshake, custom, backend, check):
    """SP 800-185, section 6.3. B is 8192 bytes unless another size is given."""
    sized = st.tuples(random_bytes(st.integers(0, 1500)), st.integers(1, 400))
    unsized = st.tuples(random_bytes(near(8192, 2 * 8192, 5 * 8192)), st.none())

    @check(sized | unsized, lengths, names, forms, share=2)
    def _(message_and_block, n, s, form):
        x, b = message_and_block
        leaves = it.hash_chunks(x, f"cshake_{bits}", chunk_size=b or 8192, length=bits // 4, backend=backend)
        z = left_encode(b or 8192) + b"".join(rows_as_bytes(leaves))
        z += right_encode(len(leaves)) + told(form, n)
        given = {"customization": s} if b is None else {"customization": s, "block_size": b}
        assert custom("parallelhash", form, x, n, **given) == cshake(z, n, b"ParallelHash", s)


@both_securities
def test_kangarootwelve_is_turboshake_of_leaves(bits, backend, check, runs):
    """RFC 9861, section 3.2."""
    runs(f"kt{bits}", f"turboshake_{bits}", interpreted=bits == 128)

    def turboshake(x: bytes, length: int, domain: int) -> bytes:
        return it.new(f"turboshake_{bits}", x, domain=domain, backend=backend).digest(length)

    chunk = 8192
    messages = customizations = any_bytes(90)
    if backend != "interpreter":
        messages |= random_bytes(near(chunk, 2 * chunk, 3 * chunk, 9 * chunk, by=4))
        customizations |= random_bytes(near(chunk))

    @check(messages, customizations, lengths)
    def _(m, c, n):
        s = m + c + length_encode(len(c))
        if len(s) <= chunk:
            expected = turboshake(s, n, 0x07)
        else:
            leaves = it.hash_chunks(
                s[chunk:],
                f"turboshake_{bits}",
                chunk_size=chunk,
                length=bits // 4,
                domain=0x0B,
                backend=backend,
            )
            node = s[:chunk] + b"\x03" + bytes(7) + b"".join(rows_as_bytes(leaves))
            expected = turboshake(node + length_encode(len(leaves)) + b"\xff\xff", n, 0x06)
        assert it.new(f"kt{bits}", m, customization=c, backend=backend).digest(n) == expected


@pytest.mark.parametrize(
    ("name", "sequential", "word", "leaves"),
    [("blake2bp", hashlib.blake2b, blake2_plain.B, 4), ("blake2sp", hashlib.blake2s, blake2_plain.S, 8)],
)
def test_parallel_blake2_is_a_tree_of_blake2(name, sequential, word, leaves, backend, check, runs):
    """The BLAKE2 paper, section 2.10. The leaves take the blocks of the message in turn. The parameters of
    the root contain the length of the key, but the root absorbs no key, and hashlib cannot express this."""
    runs(name)
    full = sequential().digest_size
    step = sequential().block_size
    messages = random_bytes(st.integers(0, 2000) | near(leaves * step, 3 * leaves * step))

    @check(messages, any_bytes(full))
    def _(message, key):
        tree = {"fanout": leaves, "depth": 2, "inner_size": full}
        blocks = [message[i : i + step] for i in range(0, len(message), step)]
        nodes = b"".join(
            sequential(
                b"".join(blocks[i::leaves]), key=key, node_offset=i, last_node=i == leaves - 1, **tree
            ).digest()
            for i in range(leaves)
        )
        if key:
            root = word.hash(nodes, b"", len(key), last_node=True, digest_size=full, node_depth=1, **tree)
        else:
            root = sequential(nodes, last_node=True, node_depth=1, **tree).digest()
        assert it.new(name, message, key=key, backend=backend).digest() == root


@pytest.mark.parametrize(
    ("name", "sequential", "word", "unknown"),
    [
        ("blake2xb", hashlib.blake2b, blake2_plain.B, 2**32 - 1),
        ("blake2xs", hashlib.blake2s, blake2_plain.S, 2**16 - 1),
    ],
)
def test_extended_blake2_is_blake2_of_its_digest(name, sequential, word, unknown, backend, check, runs):
    """The paper "BLAKE2X", section 2. The digest of the root, whose parameters contain the length of the
    output, is hashed again for each part of the output."""
    runs(name)
    full = sequential().digest_size
    text = any_bytes(full // 4)

    @check(short, any_bytes(full), text, text, st.integers(1, 300), st.booleans(), share=2)
    def _(message, key, salt, person, length, bound):
        told = length if bound else unknown
        own = {"salt": salt, "person": person}
        root = sequential(message, key=key, node_offset=told << 32, **own).digest()
        expected = b""
        for i, start in enumerate(range(0, length, full)):
            size = min(full, length - start) if bound else full
            sizes = {"digest_size": size, "leaf_size": full, "inner_size": full, "xof_length": told}
            expected += word.hash(root, b"", 0, fanout=0, depth=0, node_offset=i, **sizes, **own)[:size]
        given = {"digest_size": length} if bound else {}
        found = it.new(name, message, key=key, backend=backend, **own, **given).digest(length)
        assert found == expected[:length]


def test_blake3_is_its_tree(backend, check, runs):
    """The tree has any number of chunks, the mode is any mode, and the output is read from any byte on."""
    runs("blake3", interpreted=True)
    messages = short
    if backend != "interpreter":
        messages |= random_bytes(near(*(1024 * n for n in (1, 2, 3, 4, 5, 7, 8, 9, 16, 17))))

    @check(
        messages, parameters(algorithms.get("blake3")), st.integers(0, 300), st.integers(0, 2**60), share=2
    )
    def _(message, given, length, seek):
        hasher = it.new("blake3", message, backend=backend, **given)
        plain = blake3(message, **given)
        assert hasher.digest() == plain.digest()
        assert hasher.digest(length, seek=seek) == plain.digest(length, seek=seek)
