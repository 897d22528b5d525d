"""Poly1305 in each of its ways: one lane for each message, parts of a message, and rows of a matrix."""

from __future__ import annotations

import os
import random
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import integrity_triton as it
from bench.compile_time import build, compiling_for, cuobjdump, launches, tuning
from integrity_triton import algorithms
from integrity_triton.aot import compiling
from integrity_triton.backends import registry
from integrity_triton.backends.triton_backend import TritonBackend
from integrity_triton.drivers.poly1305 import Key, Poly1305Driver
from integrity_triton.messages.layout import Ragged
from oracles import poly1305_plain
from oracles.poly1305_plain import P, clamp, poly1305, value
from support import device_of, guard, has_module, on_device, pattern, rows_as_bytes

RECORD = algorithms.get("poly1305")
KEY = pattern(96)[64:]
# Values of r at the extremes of the clamp: no bit is set, all bits are set, only the lowest, only the
# highest.
ALL_BITS = clamp(2**128 - 1)
RS = (0, 1, 4 << 32, 1 << 123, ALL_BITS, ALL_BITS - 1)


@pytest.fixture(params=Poly1305Driver.ways)
def way(request, backend, monkeypatch, record_property):
    """A driver whose kernels take only one of their ways."""
    record_property("algorithm", RECORD.name)
    if backend == "native":
        pytest.skip("not applicable: runs no kernels")
    reason = registry.get(backend).unsupported(RECORD)
    if reason is not None:
        pytest.skip(f"absent: {reason}")
    monkeypatch.setattr(Poly1305Driver, "way", request.param)
    yield from ((request.param) for _ in guard(monkeypatch, backend))


@pytest.fixture
def driver(backend, way) -> Poly1305Driver:
    kernels = registry.get(backend)
    assert isinstance(kernels, TritonBackend)
    found = kernels.driver(RECORD)
    assert isinstance(found, Poly1305Driver)
    return found


def key_of(r: int, s: int) -> bytes:
    return r.to_bytes(16, "little") + s.to_bytes(16, "little")


def check(messages: list[bytes], backend: str, key: bytes = KEY, offset: int = 0) -> None:
    views = [on_device(bytes(offset) + m, backend)[offset:] for m in messages]
    tags = rows_as_bytes(it.hash_batch(views, "poly1305", key=key, backend=backend))
    assert [tag.hex() for tag in tags] == [poly1305(m, key=key).digest().hex() for m in messages]


def boundaries(driver: Poly1305Driver) -> list[int]:
    """The sizes in bytes of a row, of an item of all lanes, of a step, and of the smallest part."""
    shape = driver.shape()
    row = 16 << shape.row_bits
    part = max(16 << 8, row << shape.item_bits)
    return sorted({1 << driver.choice()["ROW_BITS"], row, row << shape.item_bits, part})


# No configuration for a processor takes rows, and its compiler takes a minute for their four kernels.
slow_for_rows = pytest.mark.slow_if(lambda way, backend: (way, backend) == ("rows", "opencl"))


@slow_for_rows
@pytest.mark.slow_if(lambda backend, offset: backend == "interpreter" and offset in (4, 8))
@pytest.mark.parametrize("offset", [0, 4, 8, 1])
def test_every_length_around_blocks_and_rows(backend, driver, offset):
    edges = boundaries(driver)
    if backend == "interpreter":
        edges = edges[:3]
    lengths = {0, *range(34), 47, 48, 49}
    for edge in edges:
        lengths |= {edge + n for n in (-17, -16, -15, -8, -1, 0, 1, 7, 8, 9, 15, 16, 17)}
        lengths |= {2 * edge - 1, 2 * edge, 2 * edge + 1, 3 * edge + 5}
    found = sorted(n for n in lengths if n >= 0)
    random.Random(offset).shuffle(found)
    check([pattern(n + 3)[3:] for n in found], backend, offset=offset)


@slow_for_rows
def test_rows_of_a_tensor_and_one_message(backend, driver):
    edge = boundaries(driver)[0]
    for size in (1, 100, edge, edge + 24):
        data = pattern(5 * size + 1)
        rows = on_device(data, backend)[: 5 * size].reshape(5, size)
        tags = rows_as_bytes(it.hash_batch(rows, "poly1305", key=KEY, backend=backend))
        assert tags == [poly1305(data[i * size :][:size], key=KEY).digest() for i in range(5)]
        chunks = it.hash_chunks(
            on_device(data, backend), "poly1305", chunk_size=size, key=KEY, backend=backend
        )
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        assert rows_as_bytes(chunks) == [poly1305(p, key=KEY).digest() for p in pieces]
        check([data], backend)


@slow_for_rows
@pytest.mark.slow_if(
    lambda backend, way, align: backend == "interpreter" and (align != 1 or way == "messages")
)
@pytest.mark.parametrize("align", [1, 4, 16])
def test_several_programs(backend, driver, align, small_tiles):
    """In the interpreter, a program has few lanes. Some programs have only whole rows, some have none, and
    some have both."""
    row = boundaries(driver)[0]
    part = boundaries(driver)[-1]
    sizes = [4 * row, 0, 1, row, 4 * row, 2 * row + 5, 700, row - 3, 5 * row - 1]
    sizes += [part, 2 * part + 21] if driver.way != "messages" else []
    data = pattern(align + sum(sizes) + 16 * len(sizes))
    memory, views, place = on_device(data, backend), [], align
    for size in sizes:
        views.append((place, place + size))
        place += -(-size // align) * align
    for count in (len(sizes), 1):
        keys = [pattern(32 + i)[i:] for i in range(count)]
        tags = it.hash_batch(
            [memory[a:b] for a, b in views], "poly1305", key=keys if count > 1 else KEY, backend=backend
        )
        expected = [
            poly1305(data[a:b], key=keys[i] if count > 1 else KEY).digest() for i, (a, b) in enumerate(views)
        ]
        assert rows_as_bytes(tags) == expected
    rows = memory[align : align + 5 * 4 * row].view(5, 4 * row)
    tags = it.hash_batch(rows, "poly1305", key=KEY, backend=backend)
    assert rows_as_bytes(tags) == [poly1305(r.cpu().numpy().tobytes(), key=KEY).digest() for r in rows]
    if driver.way != "messages":  # the last chunk has fewer parts
        tags = it.hash_chunks(
            memory[: 2 * part + 80], "poly1305", chunk_size=part + 32, key=KEY, backend=backend
        )
        chunks = data[: part + 32], data[part + 32 : 2 * part + 64], data[2 * part + 64 : 2 * part + 80]
        assert rows_as_bytes(tags) == [poly1305(chunk, key=KEY).digest() for chunk in chunks]


@slow_for_rows
def test_a_key_a_message(backend, driver):
    lengths = (0, 1, 16, 100, *(n + 3 for n in boundaries(driver)[:2]))
    keys = [pattern(32 + i)[i:] for i in range(len(lengths))]
    messages = [pattern(n) for n in lengths]
    tags = it.hash_batch(messages, "poly1305", key=keys, backend=backend)
    expected = [poly1305(m, key=k).digest() for m, k in zip(messages, keys, strict=True)]
    assert rows_as_bytes(tags) == expected


def landing_on(target: int, r: int, before: bytes) -> bytes | None:
    """``before``, which consists of whole blocks, followed by a last block with which the accumulator is
    ``target`` modulo p. None if there is no such block."""
    block = (target * pow(r, -1, P) - value(r, before)) % P - 2**128
    return before + block.to_bytes(16, "little") if 0 <= block < 2**128 else None


TARGETS_OF_SUMS = (
    *(P - n for n in range(1, 6)),
    *range(6),
    *(2**128 + n for n in range(-6, 7)),
    2**129,
    2**130 - 6,
)


@slow_for_rows
@pytest.mark.slow_if(lambda way, backend: (way, backend) == ("parts", "interpreter"))
def test_accumulators_at_the_ends(backend, driver):
    """The accumulator is around p - 1, p (which is 0), p + 1 (which is 1), 2**130 - 1 (which is 4) and
    2**128. These values decide what the last reduction and the sum with s do. The sum with s carries or does
    not."""
    edge, rng = boundaries(driver)[0], random.Random(8)
    for r in (1, 4 << 32, clamp(int.from_bytes(KEY[:16], "little"))):
        messages = []
        for length in (0, 16, edge):
            for target in TARGETS_OF_SUMS:
                # If the last block would not be a number of 128 bits, other blocks before it are tried.
                for _ in range(60):
                    message = landing_on(target, r, rng.randbytes(length))
                    if message is not None:
                        messages.append(message)
                        assert value(r, message) == target % P
                        break
        # If r is 1, one or a few blocks reach only some of the sums.
        assert len(messages) >= (8 if r == 1 else 2 * len(TARGETS_OF_SUMS))
        for s in (0, 1, 5, 2**128 - 1):
            check(messages, backend, key_of(r, s))


@slow_for_rows
def test_sums_that_are_not_reduced_before_their_end(backend, driver):
    """With r = 1, the blocks are only added up. The sums are p - 1, p, p + 1, 2**130 - 1 and others, before
    any reduction."""
    totals = [P - 1, P, P + 1, 2**130 - 1, 2**130, 2**130 + 1, 2 * P - 1, 2 * P, 2 * P + 1, 2**131 + 2**128]
    messages = []
    for total in totals:
        for blocks in (3, 4, 5, 8):
            rest = total - blocks * 2**128
            if 0 <= rest <= blocks * (2**128 - 1):
                share = [min(2**128 - 1, rest // blocks)] * (blocks - 1)
                last = rest - sum(share)
                if last < 2**128:
                    messages.append(b"".join(n.to_bytes(16, "little") for n in (*share, last)))
                    assert value(1, messages[-1]) == total % P
    assert len(messages) >= len(totals)
    check(messages, backend, key_of(1, 3))


@slow_for_rows
def test_limbs_that_carry_all_the_way(backend, driver):
    """Sums of limbs in the form in which parts leave them. Each limb has a value at which its carry
    changes."""
    if driver.way != "messages":
        pytest.skip("not applicable: the last step is that of all ways")
    limb = 2**26
    ends = (0, 1, 4, 5, 6, limb - 6, limb - 5, limb - 4, limb - 2, limb - 1, limb, limb + 1, 2**52 - 1, 2**60)
    numbers = [[(P - 1 + n >> 26 * i) % limb for i in range(5)] for n in range(-3, 8)]
    # A carry out of the highest limb makes the lowest limb carry, and this makes the second limb carry.
    numbers += [
        [limb - n, limb - 1, limb - 1, limb - 1, limb - 1 + m] for n in range(1, 8) for m in (0, 1, 2)
    ]
    numbers += [[limb - n, limb - 1, 0, 0, m * limb] for n in range(1, 8) for m in (1, 2)]
    # After one carry, the second limb is too large, and the lowest limb becomes too large with the next
    # carry.
    numbers += [
        [(limb - n - 5 * m) % limb, limb - 1, limb - 1, limb - 1, m * limb + limb - 1]
        for n in range(1, 8)
        for m in (1, 3, 2**20, 2**35)
    ]
    rng = random.Random(9)
    numbers += [rng.choices(ends, k=5) for _ in range(400)]
    device = device_of(backend)
    values = torch.tensor(numbers, dtype=torch.int64).t().contiguous().to(device).view(torch.uint64)
    words = driver.keys(KEY, device).view(-1)
    tags = driver.finish(values, Key(words, 1, 8), driver.zeros(device), words[4:], 0).view(torch.uint8)
    s = int.from_bytes(KEY[16:], "little")
    totals = [sum(x << 26 * i for i, x in enumerate(number)) for number in numbers]
    assert rows_as_bytes(tags) == [((t % P + s) % 2**128).to_bytes(16, "little") for t in totals]


@slow_for_rows
@pytest.mark.slow_if(lambda backend, r: backend == "interpreter" and r != ALL_BITS)
@pytest.mark.parametrize("r", RS)
def test_extremes(backend, driver, r):
    """All bytes are 0xff, or all are 0, at lengths around each boundary. r is at an extreme of its clamp, and
    the bits of the key that the clamp clears are set."""
    edges = boundaries(driver)[: 2 if backend == "interpreter" else None]
    lengths = [n + d for n in (16, *edges) for d in (-1, 0, 1)] + [0]
    key = (r | (2**128 - 1 & ~ALL_BITS)).to_bytes(16, "little") + b"\xff" * 16
    for byte in (b"\xff", b"\x00"):
        check([byte * n for n in lengths], backend, key)


@slow_for_rows
def test_split_updates(backend, driver):
    edge = boundaries(driver)[0]
    cuts = [0, 0, 1, 15, 16, 17, 48, edge, edge + 16, 2 * edge + 47, 3 * edge + 47, 3 * edge + 47]
    message = pattern(cuts[-1])
    hasher = it.new("poly1305", key=KEY, backend=backend)
    copies = []
    for a, b in pairwise(cuts):
        hasher.update(on_device(message[a:b], backend))
        copies.append((b, hasher.copy()))
    for length, hasher in copies:
        assert hasher.digest() == poly1305(message[:length], key=KEY).digest(), length
    copies[3][1].update(b"another end")
    assert copies[3][1].digest() == poly1305(message[:16] + b"another end", key=KEY).digest()


@pytest.mark.slow_if(lambda backend: backend == "opencl")  # see slow_for_rows
def test_ragged_batches_by_all_ways_at_once(backend, monkeypatch, record_property):
    record_property("algorithm", RECORD.name)
    kernels = registry.get(backend)
    if not isinstance(kernels, TritonBackend) or kernels.unsupported(RECORD):
        pytest.skip("not applicable: runs no kernels")
    choice = {**kernels.driver(RECORD).choice(), "PARTS_FROM": 300, "ROWS_FROM": 900}
    monkeypatch.setattr(Poly1305Driver, "choice", lambda self: choice)
    lengths = [1000, 5, 299, 300, 899, 0, 900, 16, 2000, 301]
    check([pattern(n) for n in lengths], backend)
    keys = [pattern(32 + i)[i:] for i in range(len(lengths))]
    tags = it.hash_batch([pattern(n) for n in lengths], "poly1305", key=keys, backend=backend)
    assert rows_as_bytes(tags) == [
        poly1305(pattern(n), key=k).digest() for n, k in zip(lengths, keys, strict=True)
    ]


@slow_for_rows
@pytest.mark.parametrize("blocks", [(1 << 28) - 1, 1 << 28, (1 << 32) + 1, (1 << 40) + 5, (1 << 59) - 1])
def test_numbers_of_blocks_beyond_32_bits(backend, driver, blocks):
    """The value of what came before a message is multiplied by r**blocks, as if that many blocks had
    followed."""
    if driver.way != "messages":
        pytest.skip("not applicable: the last step is that of all ways")
    device = device_of(backend)
    words = driver.keys(KEY, device).view(-1)
    key = Key(words, 1, 8)
    r = clamp(int.from_bytes(KEY[:16], "little"))
    start = driver.extend(driver.zeros(device), on_device(pattern(32), backend), key)
    values = driver.values(Ragged([on_device(pattern(16), backend)], device), key)
    tag = driver.finish(values, key, start, words[4:], 0, blocks)
    total = value(r, pattern(32)) * pow(r, blocks, P) + value(r, pattern(16))
    expected = (total % P + int.from_bytes(KEY[16:], "little")) % 2**128
    assert tag.cpu().numpy().tobytes() == expected.to_bytes(16, "little")


@slow_for_rows
def test_pads_of_each_message(backend, driver):
    """All messages have the same r, and each has its own s. The tags of the chunks of a tensor are computed
    in this way."""
    device = device_of(backend)
    messages = [pattern(n) for n in (0, 7, 64, 700)]
    pads = pattern(64)
    key = Key(on_device(KEY[:16], backend).view(torch.uint32), 1, 4)
    views = Ragged([on_device(m, backend) for m in messages], device)
    tags = driver.tags(views, key, on_device(pads, backend).view(torch.uint32), 4)
    expected = [poly1305(m, key=KEY[:16] + pads[16 * i :][:16]).digest() for i, m in enumerate(messages)]
    assert rows_as_bytes(tags) == expected


def test_the_library_in_pieces():
    poly1305_library = pytest.importorskip("integrity_triton.backends.native.poly1305")
    record = algorithms.get("poly1305")
    if registry.get("native").unsupported(record):
        pytest.skip("absent: cryptography is not installed")
    rng = random.Random(5)
    for r in (*RS, clamp(rng.getrandbits(128))):
        key = key_of(r, rng.getrandbits(128))
        hasher, message = poly1305_library.poly1305(key=key), b""
        for size in (0, 1, 15, 16, 17, 160, 4099, 32):
            piece = rng.randbytes(size) if size != 160 else b"\xff" * 160
            hasher.update(piece)
            message += piece
            twin = hasher.copy()
            assert hasher.digest() == poly1305(message, key=key).digest()
            assert hasher.digest_of(message) == hasher.digest()
            twin.update(b"x")
        assert hasher.digest() == poly1305(message, key=key).digest()


def test_the_oracle_against_libraries():
    rng = random.Random(6)
    cases = [(rng.randbytes(n), rng.randbytes(32)) for n in (0, 1, 15, 16, 17, 33, 1000)]
    cases += [(b"\xff" * n, b"\xff" * 32) for n in (16, 64, 65)]
    checked = 0
    for message, key in cases:
        tag = poly1305_plain.poly1305(message, key=key).digest()
        if has_module("cryptography"):
            from cryptography.hazmat.primitives.poly1305 import Poly1305

            assert Poly1305.generate_tag(key, message) == tag
            checked += 1
        if has_module("Crypto"):
            from Crypto.Hash.Poly1305 import Poly1305_MAC

            assert Poly1305_MAC(key[:16], key[16:], message).digest() == tag
            checked += 1
    if not checked:
        pytest.skip("absent: neither cryptography nor pycryptodome is installed")


# The instructions that multiply matrices of int8 in the machine code of each generation (PTX ISA: mma, wgmma,
# tcgen05).
MATRIX_UNITS = {"cuda:80": r"\bIMMA\b", "cuda:90": r"\bIGMMA\b", "cuda:100": r"\bUTC\w*MMA\b"}


@pytest.mark.slow
@pytest.mark.parametrize("target", MATRIX_UNITS)
def test_matrix_units_of_nvidia_multiply(target, tmp_path):
    asked = launches(tuning(target), ("rows", "ragged"), records=[RECORD])[RECORD.name]
    rows = [(launch, options) for launch, options in asked if launch.kernel.endswith(":poly1305_rows")]
    assert len(rows) >= 2
    for i, (launch, options) in enumerate(rows):
        with compiling_for(target, tmp_path / str(i)):
            done = build(launch, options)
        sass = cuobjdump("-sass", done.binary)
        if sass is None:
            pytest.skip("absent: Triton brings no cuobjdump")
        assert re.search(MATRIX_UNITS[target], sass), done.kernel
        assert not done.spilled


@pytest.mark.slow
@pytest.mark.parametrize("target", ["hip:gfx942", "hip:gfx1100"])
def test_matrix_units_of_amd_multiply(target, tmp_path):
    asked = launches(tuning(target), ("rows",), records=[RECORD])[RECORD.name]
    for launch, options in asked:
        if launch.kernel.endswith(":poly1305_rows"):
            with compiling_for(target, tmp_path):
                done = build(launch, options)
            assert re.search(r"v_(mfma|wmma)_i32_\w*i\w*8", done.compiled.asm["amdgcn"])
            break
    else:
        pytest.fail("no kernel for rows")


@pytest.mark.slow
def test_matrix_units_of_intel_multiply(tmp_path):
    """The SPIR-V that is compiled for a device with matrix units uses them; the SPIR-V for a device without
    them does not."""
    compiler = Path(os.environ.get("INTEGRITY_TRITON_XPU_COMPILER") or Path(sys.prefix, "xpu-compiler"))
    if not (compiler / "triton" / "__init__.py").exists():
        pytest.skip(f"absent: no {compiling.INTEL_COMPILER} in {compiler}")
    target = compiling.Target.parse("xpu")
    wanted = [w for w in compiling.specializations([RECORD]).values() if w.kernel.endswith(":poly1305_rows")]
    assert wanted
    for matrix in (True, False):
        output = tmp_path / str(matrix)
        compiling.compile_all(wanted[:1], target, [output], compiler=compiler, matrix=matrix)
        calls = re.findall(rb"i8_i8_matrix_mad_k32", output.with_name(f"{matrix}.spv").read_bytes())
        assert bool(calls) == matrix
