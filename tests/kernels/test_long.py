"""Lengths, offsets and counters beyond 32 bits."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import IteratedHash, load_reference
from integrity_triton.backends import registry
from integrity_triton.backends.triton_backend import TritonBackend
from integrity_triton.drivers.blake2 import Blake2ParallelDriver
from integrity_triton.drivers.blake3_tree import Blake3TreeDriver
from integrity_triton.drivers.iterated import ChainingDriver, by_length
from integrity_triton.messages.layout import Ragged
from integrity_triton.self_tests.admission import VARIABLE
from oracles import aes_plain, blake2_plain, blake3_plain, md5_plain, sha2_plain
from support import device_of, hash_batch, on_device, oracle, pattern, required, rows_as_bytes

# Lengths in bits or bytes at which signed or unsigned counters of 32 bits overflow.
BOUNDARIES = (1 << 28, 1 << 29, 1 << 31, 1 << 32, 1 << 35, (1 << 61) - 128)


@pytest.fixture
def kernels(backend) -> TritonBackend:
    instance = registry.get(backend)
    if not isinstance(instance, TritonBackend):
        pytest.skip("not applicable: runs no kernels")
    return instance


@dataclass(frozen=True)
class Resumable:
    """A plain implementation that can claim to have absorbed any number of bytes."""

    finish: Callable[[int, bytes], bytes]
    boundaries: tuple[int, ...] = BOUNDARIES
    empty_tail: bool = True
    """Whether a message may end at the end of an absorbed block."""


# One algorithm for each padding that contains a length. If the block function counts the length instead,
# there is one algorithm for each word size.
RESUMABLE = {
    "sha256": Resumable(sha2_plain.sha256.finish),
    "md5": Resumable(md5_plain.finish, (*BOUNDARIES, 1 << 62)),
    "sha512": Resumable(sha2_plain.sha512.finish, (*BOUNDARIES, 1 << 61, 1 << 62)),
    "blake2b": Resumable(blake2_plain.B.finish, (*BOUNDARIES, 1 << 62), empty_tail=False),
    "blake2s": Resumable(blake2_plain.S.finish, (*BOUNDARIES, 1 << 62), empty_tail=False),
    "gmac_aes": Resumable(aes_plain.Gmac(**required(algorithms.get("gmac_aes"))).finish),
}
WITHOUT_LENGTH = {"pad_sponge", "pad_one_bit"}


def padding(record: algorithms.Algorithm) -> str | None:
    construction = record.construction
    return construction.pad.partition(":")[2] if isinstance(construction, IteratedHash) else None


def test_every_padding_has_a_resumable_oracle():
    records = algorithms.all_algorithms()
    covered = WITHOUT_LENGTH | {padding(record) for record in records if record.name in RESUMABLE}
    assert {padding(record) for record in records} - {None} <= covered


@pytest.mark.parametrize("name", [name for name in RESUMABLE if name in it.algorithms_available])
def test_lengths_of_resumed_messages(name, kernels):
    """The length field uses all of its bits: messages are resumed just before and just after each
    boundary."""
    record, plain = algorithms.get(name), RESUMABLE[name]
    device = kernels.device_for(None)
    driver = kernels.driver(record)
    assert isinstance(driver, ChainingDriver)
    start = driver.start(required(record), device)
    block = record.block_size
    tails = [pattern(n) for n in (0, 1, block - 1, block + 1) if n or plain.empty_tail]
    # The interpreter takes a second for each batch.
    boundaries = plain.boundaries[1::2] if kernels.name == "interpreter" else plain.boundaries
    for boundary in boundaries:
        for absorbed in (boundary - block, boundary):
            messages = Ragged([on_device(t, kernels.name) for t in tails], device)
            states = driver.iterate(messages, replace(start, prefix=absorbed), final=True)
            digests = driver.output(states, record.digest_size, 0)
            expected = [plain.finish(absorbed, t) for t in tails]
            assert rows_as_bytes(digests) == expected, absorbed


@pytest.mark.parametrize(
    "name", ["md5", "sha512", "sha3_256", "blake2b", "gmac_aes", "siphash_2_4", "highwayhash_256"]
)
def test_several_messages_resumed(name, kernels, monkeypatch):
    """Each message is resumed from a different state. No known answer tests this, since no algorithm launches
    all of these kernels in this way."""
    if kernels.name == "opencl":
        pytest.skip("not applicable: kernels are prebuilt for what algorithms ask for")
    monkeypatch.setenv(VARIABLE, "off")
    record = algorithms.get(name)
    device = kernels.device_for(None)
    driver = kernels.driver(record)
    assert isinstance(driver, ChainingDriver)
    heads = [pattern(n * driver.block_size + n)[n:] for n in (2, 1, 3, 2)]
    start = driver.finish(driver.start(required(record), device), record.digest_size)
    states = driver.iterate(Ragged([on_device(h, kernels.name) for h in heads], device), start, final=False)
    for size in {len(head) for head in heads}:  # equally long ones share a batch
        found = [i for i, head in enumerate(heads) if len(head) == size]
        tails = [pattern(driver.block_size + 7 * i + 1) for i in found]
        behind = replace(start, state=states[found], prefix=start.prefix + size)
        ends = driver.iterate(Ragged([on_device(t, kernels.name) for t in tails], device), behind, final=True)
        assert rows_as_bytes(driver.output(ends, record.digest_size, 0)) == [
            oracle(record, heads[i] + tail) for i, tail in zip(found, tails, strict=True)
        ]


@pytest.mark.parametrize("name", [n for n in ("blake2bp", "blake2sp") if n in it.algorithms_available])
def test_lengths_of_resumed_leaves(name, kernels):
    """The same as above for the leaves of a tree. The last leaf is told that it is the last."""
    device = kernels.device_for(None)
    driver = kernels.driver(algorithms.get(name))
    assert isinstance(driver, Blake2ParallelDriver)
    plain = {"blake2bp": blake2_plain.B, "blake2sp": blake2_plain.S}[name]
    leaves, start = driver.construction.leaves, driver.leaf_start({}, device)
    tails = [pattern(i + 1) for i in range(leaves)]
    node = {"fanout": leaves, "depth": 2, "inner_size": 8 * plain.bytes, "digest_size": 8 * plain.bytes}
    for absorbed in (1 << 31, (1 << 32) - driver.block_size, 1 << 32, 1 << 62):
        messages = Ragged([on_device(t, kernels.name) for t in tails], device)
        states = driver.leaf.iterate(messages, replace(start, prefix=absorbed), final=True)
        assert rows_as_bytes(states[:, :8].contiguous().view(torch.uint8)) == [
            plain.hash(t, b"", 0, i == leaves - 1, absorbed, node_offset=i, **node)
            for i, t in enumerate(tails)
        ]


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
    """The rows are so far apart that their offsets need 33 bits. The memory between them is never touched, so
    it costs nothing."""
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


LONG = [1 << 29, (1 << 32) - 1, 1 << 32, (1 << 32) + 1]


@pytest.fixture(scope="module")
def long_data() -> torch.Tensor:
    data = torch.zeros(max(LONG), dtype=torch.uint8)
    data[::4097] = 7
    data[-1] = 9
    return data


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "name",
    [n for n in ("sha256", "md5", "sha512", "blake2b", "sha3_256", "blake3") if n in it.algorithms_available],
)
def test_long_messages(name, backend, request):
    """There is one algorithm for each padding. All lengths are in one batch, since each message is the work
    of one lane."""
    if backend == "interpreter":
        pytest.skip("absent: gigabytes take days in the interpreter")
    record = algorithms.get(name)
    reason = registry.get(backend).unsupported(record)
    if reason is not None:
        pytest.skip(f"absent: {reason}")
    long_data = request.getfixturevalue("long_data")  # only made if the backend is available
    hasher, done, expected = load_reference(record.oracle)(), 0, []
    for length in LONG:
        hasher.update(long_data[done:length].numpy())
        expected.append(hasher.digest())
        done = length
    data = long_data.to(device_of(backend))
    digests = it.hash_batch([data[:length] for length in LONG], name, backend=backend)
    assert rows_as_bytes(digests) == expected


@pytest.mark.parametrize("misalignment", [0, 1])
def test_addresses_of_the_upper_half(misalignment, monkeypatch):
    """Some drivers hand out device addresses of 2**63 and more. Kernels must get every bit of these
    addresses."""
    kernels = registry.get("interpreter")
    assert isinstance(kernels, TritonBackend)
    address = 0xFF00_0000_0020_0000 + misalignment
    monkeypatch.setattr(torch.Tensor, "data_ptr", lambda self: address)
    view = torch.empty(100, dtype=torch.uint8)
    host = kernels.driver(algorithms.get("sha256")).host
    for messages in (Ragged([view], view.device), Ragged([view, view], view.device)):
        places = messages.places()
        placement = host.placement(places, by_length(places))
        table, arguments = placement.table, placement.arguments
        found = table[0, 0].item() if placement.has_table else arguments["address"]
        assert found == address - (1 << 64)
        assert placement.align == (1 if misalignment else 16)
