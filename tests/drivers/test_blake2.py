"""What BLAKE2 has beyond other algorithms: its parameters, and a key that no message follows."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import integrity_triton as it
from integrity_triton import algorithms
from oracles import blake2_plain
from support import EXAMPLES, on_device, oracle, pattern, rows_as_bytes

# The inputs of the official vectors count up from 0.
COUNT = bytes(range(256))
# Vectors of BLAKE2bp and BLAKE2sp (testvectors/blake2bp-test.txt and blake2sp-test.txt in
# github.com/BLAKE2/BLAKE2), of BLAKE2Xb (blake2b/blake2b_test.go in golang.org/x/crypto), and of BLAKE2Xs (a
# vector as tests in other languages have it). A row has the algorithm, the number of bytes of input, the
# number of bytes of the key, the parameters, and the output.
KNOWN = [
    (
        "blake2bp", 0, 64, {},
        "9d9461073e4eb640a255357b839f394b838c6ff57c9b686a3f76107c1066728f"
        "3c9956bd785cbc3bf79dc2ab578c5a0c063b9d9c405848de1dbe821cd05c940a",
    ),
    (
        "blake2bp", 1, 64, {},
        "ff8e90a37b94623932c59f7559f26035029c376732cb14d41602001cbb73adb7"
        "9293a2dbda5f60703025144d158e2735529596251c73c0345ca6fccb1fb1e97e",
    ),
    (
        "blake2bp", 255, 64, {},
        "96fbcbb60bd313b8845033e5bc058a38027438572d7e7957f3684f6268aadd3a"
        "d08d21767ed6878685331ba98571487e12470aad669326716e46667f69f8d7e8",
    ),
    ("blake2sp", 0, 32, {}, "715cb13895aeb678f6124160bff21465b30f4f6874193fc851b4621043f09cc6"),
    ("blake2sp", 1, 32, {}, "40578ffa52bf51ae1866f4284d3a157fc1bcd36ac13cbdcb0377e4d0cd0b6603"),
    ("blake2sp", 255, 32, {}, "0c8a36597d7461c63a94732821c941856c668376606c86a52de0ee4104c615db"),
    (
        "blake2xb", 256, 64, {},
        "3dbba8516da76bf7330055c66ea36cf1005e92714262b24d9710f51d9e126406"
        "e1bcd6497059f9331f1091c3634b695428d475ed432f987040575520a1c29f5e",
    ),
    (
        "blake2xb", 256, 64, {"digest_size": 67},
        "c138077ee4ed3d7ffa85ba851dfdf6e9843fc1dc00889d117237bfaad9aa7571"
        "92f73556b959f98e6d24886ce48869f2a01a48c371785f12b6484eb2078f08c22066e1",
    ),
    (
        "blake2xb", 256, 64, {"digest_size": 98},
        "71f1554d2d49bb7bd9e62e71fa049fb54a2c097032f61ebda669b3e1d4593962e47fc62a0ab5d85706aebd6a2f9a192c"
        "88aa1ee2f6a46710cf4af6d3c25b7e68ad5c3db23ac009c8f13625ff85dc8e50a9a1b2682d3329330b973ec8cbb7bb73"
        "b2bd",
    ),
    (
        "blake2xs", 256, 32, {},
        "2a9a6977d915a2c4dd07dbcafe1918bf1682e56d9c8e567ecd19bfd7cd935288"
        "33c764d12b34a5e2a219c9fd463dab45e972c5574d73f45de5b2e23af72530d8",
    ),
]  # fmt: skip
HASHES = {"blake2b": hashlib.blake2b, "blake2s": hashlib.blake2s}


def parameters(name: str) -> st.SearchStrategy[dict]:
    record = algorithms.get(name)
    strategies = {}
    for parameter in record.parameters:
        if parameter.type is bytes:
            strategies[parameter.name] = st.binary(max_size=parameter.max_size)
        elif parameter.type is int:
            strategies[parameter.name] = st.integers(parameter.minimum, parameter.maximum)
        else:
            strategies[parameter.name] = st.booleans()
    return st.fixed_dictionaries({}, optional=strategies)


@pytest.mark.parametrize("name", HASHES)
def test_any_parameters_as_in_hashlib(name, backend):
    @settings(max_examples=EXAMPLES.get(backend, 100), deadline=None, suppress_health_check=list(HealthCheck))
    @given(parameters(name), st.lists(st.binary(max_size=200), min_size=1, max_size=4))
    def check(given_parameters, messages):
        expected = [HASHES[name](m, **given_parameters).digest() for m in messages]
        digests = it.hash_batch(messages, name, backend=backend, **given_parameters)
        assert rows_as_bytes(digests) == expected
        hasher = it.new(name, messages[0], backend=backend, **given_parameters)
        assert hasher.digest() == expected[0]
        assert hasher.digest_size == len(expected[0])

    check()


@pytest.mark.parametrize("name", HASHES)
@pytest.mark.parametrize(
    "wrong",
    [
        {"digest_size": 0},
        {"digest_size": 65},
        {"digest_size": 4.0},
        {"key": bytes(65)},
        {"key": "text"},
        {"salt": bytes(17)},
        {"person": bytes(17)},
        {"fanout": -1},
        {"fanout": 256},
        {"depth": 0},
        {"depth": 256},
        {"leaf_size": -1},
        {"leaf_size": 1 << 32},
        {"node_offset": -1},
        {"node_offset": 1 << 64},
        {"node_depth": 256},
        {"inner_size": 65},
        {"depth": "1"},
    ],
)
def test_what_hashlib_refuses_is_refused_alike(name, wrong):
    with pytest.raises((ValueError, TypeError, OverflowError)) as theirs:
        HASHES[name](b"", **wrong)
    # hashlib raises OverflowError if a value is too large for the C type.
    kind = TypeError if theirs.type is TypeError else ValueError
    (parameter,) = wrong
    with pytest.raises(kind, match=parameter):
        it.new(name, b"", **wrong)


def test_a_node_offset_of_blake2s_has_48_bits():
    assert it.blake2s(b"", node_offset=(1 << 48) - 1).digest() == (
        hashlib.blake2s(b"", node_offset=(1 << 48) - 1).digest()
    )
    with pytest.raises(ValueError, match="node_offset"):
        it.blake2s(b"", node_offset=1 << 48)


@pytest.mark.parametrize("name", HASHES)
def test_empty_messages_under_a_key(name, backend):
    """If nothing follows the key, its block is the last one. The batch also has messages for which it is not
    the last one."""
    block = algorithms.get(name).block_size
    for lengths in ([0], [0, 0, 0], [0, 1, 0, block, 2 * block + 1, 0]):
        messages = [pattern(n) for n in lengths]
        for key in (b"", b"k", pattern(block // 2)):
            expected = [HASHES[name](m, key=key).digest() for m in messages]
            digests = it.hash_batch([on_device(m, backend) for m in messages], name, key=key, backend=backend)
            assert rows_as_bytes(digests) == expected, (lengths, key)
    rows = on_device(b"", backend).reshape(3, 0)
    digests = it.hash_batch(rows, name, key=b"k", backend=backend)
    assert rows_as_bytes(digests) == [HASHES[name](key=b"k").digest()] * 3


@pytest.mark.parametrize("name", HASHES)
def test_a_keyed_stream_in_pieces(name, backend):
    block = algorithms.get(name).block_size
    message = pattern(2 * block + 1)
    hasher = it.new(name, key=b"key", backend=backend)
    for a, b in itertools.pairwise([0, 0, 1, block, 2 * block, len(message)]):
        hasher.update(message[a:b])
        assert hasher.digest() == HASHES[name](message[:b], key=b"key").digest(), b


@pytest.mark.parametrize("name", HASHES)
def test_a_key_of_no_bytes_is_no_key(name, backend):
    assert it.new(name, b"x", key=b"", backend=backend).digest() == HASHES[name](b"x").digest()


@pytest.mark.parametrize("name", HASHES)
def test_the_plain_oracle_is_right(name):
    tree = {"fanout": 3, "depth": 9, "leaf_size": 77, "node_offset": 123456789, "node_depth": 5}
    tree |= {"inner_size": 11, "last_node": True}
    for n in (0, 1, 64, 65, 128, 129, 300):
        for params in ({}, {"key": b"key", "salt": b"salt", "person": b"person", "digest_size": 20, **tree}):
            plain = getattr(blake2_plain, name)(pattern(n), **params)
            assert plain.digest() == HASHES[name](pattern(n), **params).digest()


@pytest.mark.parametrize(("name", "size", "key_size", "params", "expected"), KNOWN)
def test_known_answers(name, size, key_size, params, expected, backend):
    record = algorithms.get(name)
    if backend == "native":
        pytest.skip("not applicable: no CPU library has it")
    message, key = COUNT[:size], COUNT[:key_size]
    length = {"length": len(expected) // 2} if record.xof else {}
    assert oracle(record, message, key=key, **length, **params).hex() == expected
    digests = it.hash_batch([message, b"other"], name, key=key, backend=backend, **length, **params)
    assert rows_as_bytes(digests)[0].hex() == expected


@pytest.mark.slow_if(lambda backend: backend == "interpreter")
@pytest.mark.parametrize("name", ["blake2bp", "blake2sp"])
def test_leaves_with_nothing_under_a_key(name, backend):
    """If a leaf gets no part of the message, the key's block is its last one. Other leaves and messages get
    more."""
    if backend == "native":
        pytest.skip("not applicable: no CPU library has it")
    record = algorithms.get(name)
    block, stripe = algorithms.get(record.construction.node).block_size, record.block_size
    lengths = [0, 1, block, block + 1, stripe - block, stripe, stripe + 1, 2 * stripe - block + 1, 0]
    for params in ({"key": b"k"}, {"key": b"key", "digest_size": 17}, {"digest_size": 1}):
        expected = [oracle(record, pattern(n), **params) for n in lengths]
        messages = [on_device(pattern(n), backend) for n in lengths]
        assert rows_as_bytes(it.hash_batch(messages, name, backend=backend, **params)) == expected
        for n, digest in zip(lengths, expected, strict=True):
            hasher = it.new(name, backend=backend, **params)
            for start in range(0, n, block - 1):
                hasher.update(pattern(n)[start : min(n, start + block - 1)])
            assert hasher.digest() == digest, n


@pytest.mark.parametrize("name", ["blake2xb", "blake2xs"])
def test_bound_output(name, backend):
    """Outputs of different bound lengths have nothing in common, and each ends at its bound."""
    if backend == "native":
        pytest.skip("not applicable: no CPU library has it")
    record = algorithms.get(name)
    full = record.digest_size
    seen = set()
    for size in (1, full, full + 1, 2 * full, 5 * full + 3):
        hasher = it.new(name, b"message", digest_size=size, backend=backend)
        expected = oracle(record, b"message", digest_size=size)
        assert hasher.digest_size == len(hasher.digest()) == size
        assert hasher.digest() == expected
        assert hasher.digest(size - 1, seek=1) == expected[1:]
        assert rows_as_bytes(it.hash_batch([b"message"], name, digest_size=size, backend=backend)) == [
            expected
        ]
        with pytest.raises(ValueError, match=f"has {size} bytes of output, not {size + 1}"):
            hasher.digest(size + 1)
        with pytest.raises(ValueError, match="seek must be between"):
            hasher.digest(1, seek=size)
        seen.add(expected[:8])
    assert len(seen) == 5
    unbound = it.new(name, b"message", backend=backend)
    assert unbound.digest(8) not in seen
    end = record.output_limit
    assert unbound.digest(5, seek=end - 5) == oracle(record, b"message", length=5, seek=end - 5)
    with pytest.raises(ValueError, match="seek must be between"):
        unbound.digest(5, seek=end - 4)
    for size in (0, 1 << 32):
        with pytest.raises(ValueError, match="digest_size"):
            it.new(name, digest_size=size)


@pytest.mark.parametrize("name", ["blake2xb", "blake2xs"])
def test_parameters_of_bound_output(name, backend):
    if backend == "native":
        pytest.skip("not applicable: no CPU library has it")
    record = algorithms.get(name)
    params = {"key": b"key", "salt": b"salt", "person": b"person", "digest_size": 70}
    messages = [b"", pattern(200)]
    digests = it.hash_batch(messages, name, backend=backend, **params)
    assert rows_as_bytes(digests) == [oracle(record, m, **params) for m in messages]
