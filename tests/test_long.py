"""Lengths, offsets and counters beyond 32 bits."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms, backends
from integrity_triton.backends import Ragged
from integrity_triton.backends.drivers.blake3_tree import Blake3TreeDriver
from integrity_triton.backends.drivers.iterated import IteratedDriver
from integrity_triton.backends.triton_host import TritonBackend
from oracles import blake3_plain, sha256_plain
from support import device_of, hash_batch, on_device, oracle, pattern, rows_as_bytes

# Where lengths in bits or bytes have overflowed 32 bits, signed or not.
BOUNDARIES = [1 << 28, 1 << 29, 1 << 31, 1 << 32, 1 << 35, (1 << 61) - 128]


@pytest.fixture
def kernels(backend) -> TritonBackend:
    instance = backends.get(backend)
    if not isinstance(instance, TritonBackend):
        pytest.skip("not applicable: runs no kernels")
    return instance


def test_the_plain_oracles_are_right():
    for n in (0, 55, 56, 64, 1000):
        expected = hashlib.sha256(pattern(n)).digest()
        assert sha256_plain.finish(sha256_plain.IV, 0, pattern(n)) == expected
    blake3 = pytest.importorskip("blake3")
    for n in (0, 1, 64, 65, 1024, 1025, 5000):
        for params in ({}, {"key": pattern(32)}, {"derive_key_context": "context"}):
            plain = blake3_plain.blake3(pattern(n), **params)
            rust = blake3.blake3(pattern(n), **params)
            assert plain.digest() == rust.digest()
            assert plain.digest(100, seek=130) == rust.digest(100, seek=130)


def test_lengths_of_resumed_messages(kernels):
    """The length field takes all 64 bits: a message resumed just before and after each boundary."""
    record = algorithms.get("sha256")
    device = kernels.device_for(None)
    driver = kernels.driver(record)
    assert isinstance(driver, IteratedDriver)
    start = driver.start({}, device)
    for boundary in BOUNDARIES:
        for absorbed in (boundary - 64, boundary):
            tails = [b"", pattern(1), pattern(63), pattern(65)]
            messages = Ragged([on_device(t, kernels.name) for t in tails], device)
            states = driver.iterate(messages, replace(start, prefix=absorbed), final=True)
            digests = driver.output(states, 32, 0)
            expected = [sha256_plain.finish(sha256_plain.IV, absorbed, t) for t in tails]
            assert rows_as_bytes(digests) == expected, absorbed


@pytest.mark.parametrize("counter", [0, 1, (1 << 32) - 2, 1 << 32, (1 << 53) + 4])
def test_chunk_counters(kernels, counter):
    device = kernels.device_for(None)
    driver = kernels.driver(algorithms.get("blake3"))
    assert isinstance(driver, Blake3TreeDriver)
    key, flags = driver.mode({}, device)
    data = pattern(2048)
    value = driver.subtree(on_device(data, kernels.name), key, flags, counter)
    node = blake3_plain._node(blake3_plain.IV, data, counter, 0)
    expected = struct.pack("<8I", *blake3_plain._compress(*node)[:8])
    assert value.view(torch.uint8).cpu().numpy().tobytes() == expected


def test_offsets_past_two_and_four_gib(algorithm, backend):
    """Rows so far apart that their offsets need 33 bits; untouched memory between them costs nothing."""
    stride = (1 << 31) + 64
    data = torch.empty(2 * stride + 100, dtype=torch.uint8, device=device_of(backend))
    rows = data.as_strided((3, 100), (stride, 1))
    for i in range(3):
        rows[i] = on_device(pattern(100 + i)[i:], backend)
    digests = hash_batch(rows, algorithm.name, backend=backend)
    assert rows_as_bytes(digests) == [oracle(algorithm, pattern(100 + i)[i:]) for i in range(3)]
    views = [data[2 * stride : 2 * stride + 100], data[stride : stride + 100]]
    digests = hash_batch(views, algorithm.name, backend=backend)
    assert rows_as_bytes(digests) == [
        oracle(algorithm, pattern(102)[2:]),
        oracle(algorithm, pattern(101)[1:]),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("length", [1 << 29, (1 << 32) - 1, 1 << 32, (1 << 32) + 1])
def test_one_long_message(backend, length):
    if backend == "interpreter":
        pytest.skip("absent: gigabytes take days in the interpreter")
    blake3 = pytest.importorskip("blake3")
    data = torch.zeros(length, dtype=torch.uint8)
    data[::4097] = 7
    expected = blake3.blake3(data.numpy(), max_threads=blake3.blake3.AUTO).digest()
    (digest,) = rows_as_bytes(it.hash_batch([data.to(device_of(backend))], "blake3", backend=backend))
    assert digest == expected


@pytest.mark.parametrize("misalignment", [0, 1])
def test_addresses_of_the_upper_half(misalignment, monkeypatch):
    """Some drivers hand out device addresses of 2**63 and more; they must reach the kernels whole."""
    kernels = backends.get("interpreter")
    assert isinstance(kernels, TritonBackend)
    address = 0xFF00_0000_0020_0000 + misalignment
    monkeypatch.setattr(torch.Tensor, "data_ptr", lambda self: address)
    view = torch.empty(100, dtype=torch.uint8)
    for messages in (Ragged([view], view.device), Ragged([view, view], view.device)):
        layout = kernels.layout(messages, lambda a, n: (a, n))
        found = layout.table[0].item() if layout.has_table else layout.arguments["address"]
        assert found == address - (1 << 64)
        assert layout.align == (1 if misalignment else 16)
