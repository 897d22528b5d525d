"""BLAKE2 beyond what every algorithm is tested for: its parameters, and a key with nothing after it."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import integrity_triton as it
from integrity_triton import algorithms
from support import EXAMPLES, on_device, pattern, rows_as_bytes

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
    # OverflowError is hashlib's word for a value too large for the C type.
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
    """With nothing after it the key's block is the last one, beside messages for which it is not."""
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
