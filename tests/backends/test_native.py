"""The native backend's own matters: streams of libraries whose objects cannot be copied or continued."""

from __future__ import annotations

import tracemalloc
from random import Random

import pytest

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.backends import registry
from support import oracle, pattern, required

NATIVE = registry.get("native")
IN_PYTHON = 32  # times as slow as the others


def runs(name: str) -> None:
    reason = NATIVE.unsupported(algorithms.get(name))
    if reason is not None:
        pytest.skip(f"absent: {reason}")


@pytest.mark.parametrize("iv_size", [1, 7, 8, 12, 16, 128, 129])
def test_gmac_in_pieces(monkeypatch, iv_size):
    """Of messages around multiples of what the library takes at once."""
    runs("gmac_aes")
    from integrity_triton.backends.native import aes

    monkeypatch.setattr(aes, "_PIECE", 64)
    record, iv, random = algorithms.get("gmac_aes"), pattern(iv_size), Random(iv_size)
    for size in (0, 1, 15, 16, 63, 64, 65, 127, 128, 129, 200, 1000):
        message = pattern(size)
        for key in (pattern(16), pattern(32)):
            hasher, at = it.gmac_aes(key=key, iv=iv, backend="native"), 0
            while at < size:
                step = random.choice([1, 16, 63, 64, 200])
                hasher.update(message[at : at + step])
                at += step
                twin = hasher.copy()
                twin.update(b"other")
            expected = oracle(record, message, key=key, iv=iv)
            assert hasher.digest() == hasher.digest() == expected, size
            assert it.hash_batch([message], "gmac_aes", key=key, iv=iv, backend="native")[0].tolist() == list(
                expected
            )


@pytest.mark.parametrize("name", ["siphash_2_4", "siphash_1_3"])
@pytest.mark.parametrize("digest_size", [8, 16])
def test_siphash_in_pieces(monkeypatch, name, digest_size):
    runs(name)
    from integrity_triton.backends.native import siphash

    monkeypatch.setattr(siphash, "_KEPT", 100)
    key, options = pattern(16), {"digest_size": digest_size}
    message = pattern(333)
    hasher = it.new(name, key=key, backend="native", **options)
    for at in range(0, len(message), 9):
        hasher.update(message[at : at + 9])
        so_far = message[: at + 9]
        assert hasher.digest() == oracle(algorithms.get(name), so_far, key=key, **options)
        if digest_size == 16 or len(so_far) <= 100:
            twin = hasher.copy()
            twin.update(b"other")
            assert twin.digest() == oracle(algorithms.get(name), so_far + b"other", key=key, **options)
        else:
            with pytest.raises(it.BackendUnavailable, match="more than 100 bytes cannot be copied"):
                hasher.copy()


def test_a_stream_does_not_keep_its_message(algorithm):
    """Nor do 64 times as many bytes take much more memory."""
    runs(algorithm.name)
    data = bytes(1 << 16)
    hasher = it.new(algorithm.name, backend="native", **required(algorithm))
    hasher.update(data)
    tracemalloc.start()
    try:
        for _ in range(64):
            hasher.update(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(data)
