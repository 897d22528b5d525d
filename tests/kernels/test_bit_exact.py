"""Compares every algorithm on every backend with its oracle, at many lengths and in all layouts, alignments
and modes."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from integrity_triton.algorithms import Algorithm
from integrity_triton.backends import registry
from support import (
    device_of,
    edge_lengths,
    first_of,
    guard,
    hash_batch,
    hash_chunks,
    kernel_family,
    new,
    on_device,
    oracle,
    pattern,
    rows_as_bytes,
    size_of,
    tensor_message,
    variants,
)

OUTPUTS = [(0, 0), (1, 0), (32, 0), (64, 0), (131, 0), (400, 0), (10, 1), (70, 63), (5, 2**40 + 3)]
DTYPES = [
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


@pytest.fixture(autouse=True)
def guarded(request, monkeypatch):
    if "backend" not in request.fixturenames:
        yield
        return
    yield from guard(monkeypatch, request.getfixturevalue("backend"))


def _quick(algorithm: Algorithm, backend: str) -> bool:
    """Whether the test belongs to the quick tier: it runs one algorithm of each family of kernels, but not on
    opencl if the prebuilt kernels of the algorithm are out of date, and not those that take the interpreter
    seconds."""
    if backend == "interpreter" and algorithm.name in ("kt128", "parallelhash_128", "crc64_nvme"):
        return False
    if algorithm.construction.hmac_of is not None or first_of(algorithm, kernel_family) is not algorithm:
        return False
    available = {status.name for status in registry.statuses() if status.available}
    here = backend in {"interpreter", "opencl"} & available
    return here and registry.get(backend).unsupported(algorithm) is None


# A mark decorates any function that it is called with, except a lambda.
@pytest.mark.quick_if(lambda algorithm, backend: _quick(algorithm, backend))  # noqa: PLW0108
def test_edge_lengths_in_one_ragged_batch(algorithm, backend):
    lengths = edge_lengths(algorithm, backend)
    random.Random(0).shuffle(lengths)
    messages = [on_device(pattern(n), backend) for n in lengths]
    digests = hash_batch(messages, algorithm.name, backend=backend)
    assert digests.dtype is torch.uint8
    assert digests.device.type == device_of(backend).type
    assert digests.is_contiguous()
    assert rows_as_bytes(digests) == [oracle(algorithm, pattern(n)) for n in lengths]


def test_modes_in_a_batch(algorithm, backend):
    messages = [pattern(n) for n in (0, 1, algorithm.block_size, 3 * algorithm.block_size + 5)]
    for params in variants(algorithm):
        digests = hash_batch(messages, algorithm.name, backend=backend, **params)
        assert rows_as_bytes(digests) == [oracle(algorithm, m, **params) for m in messages], params


def test_one_message(algorithm, backend):
    chunk = 1024 if algorithm.parallel else algorithm.block_size
    for length in (0, 1, chunk, 2 * chunk, 5 * chunk + 7):
        message = on_device(pattern(length), backend)
        (digest,) = rows_as_bytes(hash_batch([message], algorithm.name, backend=backend))
        assert digest == oracle(algorithm, pattern(length)), length


@pytest.mark.parametrize("columns", [0, 1, 55, 64, 200])
def test_equal_rows(algorithm, backend, columns):
    rows = on_device(pattern(7 * max(columns, 1)), backend)[: 7 * columns].reshape(7, columns)
    digests = hash_batch(rows, algorithm.name, backend=backend)
    assert rows_as_bytes(digests) == [oracle(algorithm, tensor_message(row)) for row in rows]


def test_rows_of_whole_and_of_partial_chunks(algorithm, backend):
    if algorithm.construction.leaf_size is None:
        pytest.skip("not applicable: only trees have chunks")
    for columns in (1024, 2048, 2500):
        rows = on_device(pattern(3 * columns), backend).reshape(3, columns)
        digests = hash_batch(rows, algorithm.name, backend=backend)
        assert rows_as_bytes(digests) == [oracle(algorithm, tensor_message(row)) for row in rows], columns


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x[:, 1:131], id="misaligned by 1"),
        pytest.param(lambda x: x[1:, 4:72], id="word-aligned, odd stride"),
        pytest.param(lambda x: x[::2, 3:], id="every other row"),
        pytest.param(lambda x: x[:, ::2], id="strided columns"),
        pytest.param(lambda x: x.t()[:5], id="transposed"),
        pytest.param(lambda x: x[:1].expand(4, -1), id="expanded"),
        pytest.param(lambda x: x.flatten().as_strided((5, 100), (10, 1)), id="overlapping"),
    ],
)
def test_rows_of_any_strides(algorithm, backend, view):
    rows = view(on_device(pattern(6 * 143), backend).reshape(6, 143))
    digests = hash_batch(rows, algorithm.name, backend=backend)
    assert rows_as_bytes(digests) == [oracle(algorithm, tensor_message(row)) for row in rows]


def test_every_alignment_in_one_batch(algorithm, backend):
    source = on_device(pattern(700), backend)
    views = [source[offset : offset + n] for offset in range(17) for n in (1, 3, 4, 63, 66)]
    digests = hash_batch(views, algorithm.name, backend=backend)
    assert rows_as_bytes(digests) == [oracle(algorithm, tensor_message(v)) for v in views]


def test_bytes_around_a_message_do_not_matter(algorithm, backend):
    """A kernel reads whole words. The bytes of these words that lie outside the message must not change the
    digest."""
    for offset in range(4):
        for n in (1, 2, 3, 5, 61):
            buffer = torch.full((n + 16,), 0xFF, dtype=torch.uint8)
            buffer[offset + 4 : offset + 4 + n] = torch.tensor(list(pattern(n)), dtype=torch.uint8)
            view = buffer.to(device_of(backend))[offset + 4 : offset + 4 + n]
            (digest,) = rows_as_bytes(hash_batch([view], algorithm.name, backend=backend))
            assert digest == oracle(algorithm, pattern(n)), (offset, n)
        if backend == "interpreter" and offset == 1:
            break  # misaligned and aligned have been seen; the others differ in data alone


@pytest.mark.parametrize("chunk_size", [1, 64, 100, 1000])
def test_chunks(algorithm, backend, chunk_size):
    data = pattern(3 * chunk_size + chunk_size // 2 + 1)
    pieces = [data[i : i + chunk_size] for i in range(0, len(data), chunk_size)]
    digests = hash_chunks(on_device(data, backend), algorithm.name, chunk_size=chunk_size, backend=backend)
    assert rows_as_bytes(digests) == [oracle(algorithm, piece) for piece in pieces]


def test_no_messages(algorithm, backend):
    assert hash_batch([], algorithm.name, backend=backend).shape == (0, size_of(algorithm))
    none = torch.empty((0, 9), device=device_of(backend))
    assert hash_batch(none, algorithm.name, backend=backend).shape == (0, size_of(algorithm))
    digests = hash_chunks(none, algorithm.name, chunk_size=5, backend=backend)
    assert digests.shape == (0, size_of(algorithm))


def test_a_batch_equals_its_messages_one_by_one_in_any_order(algorithm, backend):
    messages = [pattern(n)[::-1] for n in (70, 0, 3, 70, 64)]
    together = rows_as_bytes(hash_batch(messages, algorithm.name, backend=backend))
    reversed_ = rows_as_bytes(hash_batch(messages[::-1], algorithm.name, backend=backend))
    assert reversed_ == together[::-1]
    singles = [new(algorithm.name, m, backend=backend).digest() for m in messages]
    assert singles == together


def test_out(algorithm, backend):
    data = on_device(pattern(40), backend).reshape(4, 10)
    out = torch.zeros((4, 2 * size_of(algorithm)), dtype=torch.uint8, device=data.device)[:, ::2]
    result = hash_batch(data, algorithm.name, out=out, backend=backend)
    assert result is out
    assert rows_as_bytes(out) == [oracle(algorithm, tensor_message(row)) for row in data]


def test_every_dtype(algorithm, backend):
    raw = on_device(pattern(96), backend)
    raw[:] = torch.where(raw > 1, raw % 120, raw)
    messages = [
        (raw.reshape(6, 16) % 2).to(torch.bool) if dtype is torch.bool else raw.view(dtype).reshape(2, -1)
        for dtype in DTYPES
    ]
    messages += [raw.view(torch.float32)[3], raw.view(torch.int64).reshape(3, 2, 2)]  # 0-D, 3-D
    digests = hash_batch(messages, algorithm.name, backend=backend)
    assert rows_as_bytes(digests) == [oracle(algorithm, tensor_message(m)) for m in messages]


def test_tensors_that_are_not_contiguous(algorithm, backend):
    x = on_device(pattern(2 * 3 * 4 * 5), backend).reshape(2, 3, 4, 5)
    messages = [
        x.permute(3, 1, 0, 2),
        x.contiguous(memory_format=torch.channels_last),
        x[:, 1],
        x[..., ::2],
        x[0, 0, 0, :1].expand(70),
    ]
    if device_of(backend).type == "cpu":
        z = x.view(torch.int8).to(torch.float32).reshape(-1, 2).contiguous()
        z = torch.view_as_complex(z)
        messages += [z.conj(), z.conj().imag]
    digests = hash_batch(messages, algorithm.name, backend=backend)
    assert rows_as_bytes(digests) == [oracle(algorithm, tensor_message(m)) for m in messages]


def test_parameters_that_require_grad(algorithm, backend):
    weight = torch.nn.Parameter(torch.arange(30, dtype=torch.float32, device=device_of(backend)))
    (digest,) = rows_as_bytes(hash_batch([weight], algorithm.name, backend=backend))
    assert digest == oracle(algorithm, tensor_message(weight))


def test_the_data_is_read_only(algorithm, backend):
    data = on_device(pattern(333), backend)
    before = data.clone()
    hash_batch([data[1:], data[:100]], algorithm.name, backend=backend)
    hash_chunks(data, algorithm.name, chunk_size=64, backend=backend)
    assert torch.equal(data, before)


def test_updates_in_pieces(algorithm, backend):
    block = 1024 if algorithm.parallel else algorithm.block_size
    message = pattern(3 * block + 10)
    cuts = [0, 0, 1, 5, block - 1, block, block + 1, 3 * block, len(message)]
    hasher = new(algorithm.name, backend=backend)
    for a, b in itertools.pairwise(cuts):
        piece = message[a:b]
        hasher.update(on_device(piece, backend) if a % 2 else bytearray(piece))
        if b in (5, block, len(message)):
            assert hasher.digest() == oracle(algorithm, message[:b]), b
    assert hasher.digest() == hasher.digest()
    assert hasher.hexdigest() == hasher.digest().hex()


def test_a_stream_keeps_no_view_of_its_input(algorithm, backend):
    data = on_device(pattern(algorithm.block_size + 10), backend)
    buffer = bytearray(pattern(7))
    hasher = new(algorithm.name, data, backend=backend)
    hasher.update(buffer)
    data.zero_()
    buffer[:] = bytes(7)
    assert hasher.digest() == oracle(algorithm, pattern(algorithm.block_size + 10) + pattern(7))


def test_copies_are_independent(algorithm, backend):
    first = new(algorithm.name, b"abc", backend=backend)
    second = first.copy()
    first.update(b"d")
    second.update(b"e" * algorithm.block_size)
    assert first.digest() == oracle(algorithm, b"abcd")
    assert second.digest() == oracle(algorithm, b"abc" + b"e" * algorithm.block_size)
    assert first.copy().digest() == first.digest()


def test_modes_of_a_stream(algorithm, backend):
    message = pattern(algorithm.block_size + 3)
    for params in variants(algorithm):
        hasher = new(algorithm.name, message, backend=backend, **params)
        assert hasher.digest() == oracle(algorithm, message, **params), params


def test_extendable_output(algorithm, backend):
    if not algorithm.xof:
        pytest.skip("not applicable: a fixed digest")
    slow = backend == "interpreter" and algorithm.construction.leaf_size is None
    for message in (b"", pattern(100), pattern(200 if slow else 1025)):
        hasher = new(algorithm.name, message, backend=backend)
        for length, seek in OUTPUTS:
            if seek and not algorithm.seekable:
                continue
            if seek + length > algorithm.output_limit:
                with pytest.raises(ValueError, match="seek must be between"):
                    hasher.digest(length, seek=seek)
                continue
            expected = oracle(algorithm, message, length=length, seek=seek)
            assert hasher.digest(length, seek=seek) == expected, (len(message), length, seek)
    messages = [b"", pattern(65), pattern(200 if slow else 3000)]
    for length in (0, 1, 33, 129):
        digests = hash_batch(messages, algorithm.name, length=length, backend=backend)
        assert rows_as_bytes(digests) == [oracle(algorithm, m, length=length) for m in messages]


def test_many_more_messages_than_one_program_takes(algorithm, backend, small_tiles):
    """With small tiles, every path runs several programs, of which the last is not full."""
    count = 11 if backend == "interpreter" else 1000
    messages = [pattern(i * 37 % 131) for i in range(count)]
    digests = hash_batch(messages, algorithm.name, backend=backend)
    assert rows_as_bytes(digests) == [oracle(algorithm, m) for m in messages]
    rows = on_device(pattern(count * 20), backend).reshape(count, 20)
    digests = hash_batch(rows, algorithm.name, backend=backend)
    assert rows_as_bytes(digests) == [oracle(algorithm, tensor_message(row)) for row in rows]


def test_shorter_and_shorter_neighbours(algorithm, backend):
    """The messages have all lengths up to more than a block, and the longest comes last. So a kernel that
    took the number of a message or of a lane for its length would give a wrong digest."""
    messages = [pattern(n) for n in range(algorithm.block_size + 20)]
    digests = hash_batch(messages, algorithm.name, backend=backend)
    assert rows_as_bytes(digests) == [oracle(algorithm, m) for m in messages]


def test_many_long_outputs(algorithm, backend, small_tiles):
    """Each output has several blocks, and there are more messages than one program takes."""
    if not algorithm.xof:
        pytest.skip("not applicable: a fixed digest")
    messages = [pattern(i) for i in range(6 if backend == "interpreter" else 300)]
    length = 2 * algorithm.block_size + 5
    digests = hash_batch(messages, algorithm.name, length=length, backend=backend)
    assert rows_as_bytes(digests) == [oracle(algorithm, m, length=length) for m in messages]


def test_the_guard_notices_a_write_beside_the_output(monkeypatch):
    for offset in (-1, 32):
        guarded = guard(monkeypatch, "interpreter")
        memory = next(guarded)
        out = memory.empty((32,), torch.uint8, torch.device("cpu"))
        assert set(out.tolist()) == {0xA5}
        memory.buffers[0][256 + offset] ^= 1
        with pytest.raises(AssertionError, match="outside its output"):
            next(guarded)
