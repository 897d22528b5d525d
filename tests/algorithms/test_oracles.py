"""Compares the oracles in plain Python with libraries and with what the authors of the standards published,
because tests can rely on an oracle only if it is itself tested."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import (
    aes_plain,
    blake2_plain,
    blake3_plain,
    highwayhash_plain,
    keccak_plain,
    md5_plain,
    sha2_plain,
    siphash_plain,
)
from support import has_module, pattern
from vector_files import published

LENGTHS = [0, 1, 7, 8, 71, 72, 73, 103, 104, 105, 135, 136, 137, 143, 144, 145, 167, 168, 169, 336, 500]
# The longest message for oracles in plain Python. Longer messages are left to the tests of the backends.
MOST_BYTES = 17**4 + 41**3

needs_pycryptodome = pytest.mark.skipif(not has_module("Crypto"), reason="pycryptodome is not installed")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("md5", md5_plain),
        ("sha256", sha2_plain.sha256),
        ("sha512", sha2_plain.sha512),
        ("blake2b", blake2_plain.B),
        ("blake2s", blake2_plain.S),
    ],
)
def test_resumable_functions(name, plain):
    for n in [*range(260), 500, 1000]:
        assert plain.finish(0, pattern(n)) == hashlib.new(name, pattern(n)).digest(), n


def test_blake3():
    blake3 = pytest.importorskip("blake3")
    for n in (0, 1, 64, 65, 1024, 1025, 5000):
        for params in ({}, {"key": pattern(32)}, {"derive_key_context": "context"}):
            plain = blake3_plain.blake3(pattern(n), **params)
            rust = blake3.blake3(pattern(n), **params)
            assert plain.digest() == rust.digest()
            assert plain.digest(100, seek=130) == rust.digest(100, seek=130)


@pytest.mark.parametrize("name", ["sha3_224", "sha3_256", "sha3_384", "sha3_512"])
def test_sha3(name):
    for n in LENGTHS:
        plain, library = getattr(keccak_plain, name), getattr(hashlib, name)
        assert plain(pattern(n)).digest() == library(pattern(n)).digest(), n


@pytest.mark.parametrize("name", ["shake_128", "shake_256"])
def test_shake(name):
    for n in LENGTHS:
        plain, library = getattr(keccak_plain, name)(pattern(n)), getattr(hashlib, name)(pattern(n))
        expected = library.digest(500)
        assert plain.digest(500) == expected, n
        assert plain.digest(0) == b""
        assert plain.digest(200, seek=167) == expected[167:367]


def test_an_update_appends():
    hasher = keccak_plain.sha3_256(b"ab")
    twin = hasher.copy()
    hasher.update(b"c")
    assert twin.digest() == hashlib.sha3_256(b"ab").digest()
    assert hasher.hexdigest() == hashlib.sha3_256(b"abc").hexdigest()
    strings = keccak_plain.tuplehash_128((b"a", b"b"))
    strings.update((b"c",))
    assert strings.digest() == keccak_plain.tuplehash_128((b"a", b"b", b"c")).digest()
    assert strings.digest() != keccak_plain.tuplehash_128((b"ab", b"c")).digest()


@needs_pycryptodome
def test_keccak_before_the_standard():
    from Crypto.Hash import keccak

    for bits in (224, 256, 384, 512):
        for n in LENGTHS:
            plain = getattr(keccak_plain, f"keccak_{bits}")(pattern(n)).digest()
            assert plain == keccak.new(data=pattern(n), digest_bits=bits).digest(), (bits, n)


@needs_pycryptodome
@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=700), st.binary(max_size=300), st.binary(max_size=20), st.integers(1, 127))
def test_customizable_functions(data, custom, name, domain):
    from Crypto.Hash import TurboSHAKE128, TurboSHAKE256, cSHAKE128, cSHAKE256

    for bits, cshake, turboshake in ((128, cSHAKE128, TurboSHAKE128), (256, cSHAKE256, TurboSHAKE256)):
        plain = getattr(keccak_plain, f"cshake_{bits}")
        assert plain(data, customization=custom).digest(200) == cshake.new(data, custom).read(200)
        named = plain(data, function_name=name, customization=custom)
        assert named.digest(200) == cshake._new(data, custom, name).read(200)
        plain = getattr(keccak_plain, f"turboshake_{bits}")
        assert plain(data, domain=domain).digest(200) == turboshake.new(domain=domain, data=data).read(200)


@needs_pycryptodome
@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=150), max_size=4), st.binary(max_size=200), st.integers(8, 300))
def test_tuplehash(strings, custom, size):
    from Crypto.Hash import TupleHash128, TupleHash256

    for bits, library in ((128, TupleHash128), (256, TupleHash256)):
        plain = getattr(keccak_plain, f"tuplehash_{bits}")
        expected = library.new(digest_bytes=size, custom=custom).update(*strings).digest()
        assert plain(tuple(strings), customization=custom, digest_size=size).digest() == expected


@needs_pycryptodome
@pytest.mark.parametrize("custom", [0, 1, 41, 255, 256, 8190, 70000])
def test_kt128(custom):
    from Crypto.Hash import KangarooTwelve

    for n in (0, 1, 8190, 8191, 8192, 8193, 16384, 3 * 8192 + 17):
        expected = KangarooTwelve.new(pattern(n), pattern(custom)).read(100)
        assert keccak_plain.kt128(pattern(n), customization=pattern(custom)).digest(100) == expected, n


@pytest.mark.parametrize("name", ["rfc9861", "sp800_185"])
def test_published_samples(name):
    vectors = [v for v in published(name) if v.size <= MOST_BYTES]
    assert len(vectors) == {"rfc9861": 59, "sp800_185": 41}[name]
    for v in vectors:
        make, length = getattr(keccak_plain, v.algorithm), len(v.digest)
        if issubclass(make, keccak_plain._Custom) and "xof" not in v.algorithm:
            assert make(v.message, digest_size=length, **v.parameters).digest() == v.digest, v
        else:
            assert make(v.message, **v.parameters).digest(length, seek=v.skip) == v.digest, v


def test_defaults_are_the_standards_sizes():
    assert len(keccak_plain.tuplehash_128().digest()) == 32
    assert len(keccak_plain.parallelhash_256().digest()) == 64
    with pytest.raises(ValueError, match="0x01 to 0x7F"):
        keccak_plain.turboshake_128(domain=0x80)


def test_siphash():
    vectors = published("siphash")
    assert len(vectors) == 128
    for v in vectors:
        assert siphash_plain.siphash_2_4(v.message, **v.parameters).digest() == v.digest, v
    siphash24 = pytest.importorskip("siphash24")
    key = pattern(16)
    for n in range(70):
        for name, library in (("siphash_2_4", siphash24.siphash24), ("siphash_1_3", siphash24.siphash13)):
            plain = getattr(siphash_plain, name)(pattern(n), key=key)
            assert plain.digest() == library(pattern(n), key=key).digest(), (name, n)


@needs_pycryptodome
@pytest.mark.parametrize("size", [16, 24, 32])
def test_macs_of_aes(size):
    from oracles import aes_library

    for n in (0, 1, 15, 16, 17, 32, 70):
        key, message = pattern(size + n)[n:], pattern(n)
        plain = aes_plain.cmac_aes(message, key=key, digest_size=11).digest()
        assert plain == aes_library.cmac_aes(message, key=key, digest_size=11).digest(), n
        for length in (1, 11, 12, 13, 16, 40):
            iv = pattern(length)
            plain = aes_plain.gmac_aes(message, key=key, iv=iv).digest()
            assert plain == aes_library.gmac_aes(message, key=key, iv=iv).digest(), (n, length)


def test_highwayhash():
    vectors = published("highwayhash")
    assert len(vectors) == 3 * 65
    for v in vectors:
        assert getattr(highwayhash_plain, v.algorithm)(v.message, **v.parameters).digest() == v.digest, v
