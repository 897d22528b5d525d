"""Kernels read only words that hold at least one byte of a message: pages without access lie on both sides of
the messages.

The tests run in the interpreter, with each vector width that the tuning of a backend uses. ``test_opencl.py``
has the same tests for compiled kernels.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm
from integrity_triton.backends import registry
from integrity_triton.backends.interpreter import InterpreterBackend
from integrity_triton.drivers import crc as crc_driver
from integrity_triton.drivers.poly1305 import POLY1305_PARTS, POLY1305_ROWS, Poly1305Driver
from integrity_triton.launching.launch import Launch
from integrity_triton.self_tests.admission import VARIABLE
from support import few_lanes, hash_batch, new, on_device, oracle, pattern, required, retune, rows_as_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="not applicable: mprotect as on Linux")

PAGE = mmap.PAGESIZE


@pytest.fixture(autouse=True)
def _without_self_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches self-tests off. Each test has a process of its own, in which self-tests would take longer than
    the test."""
    monkeypatch.setenv(VARIABLE, "off")


def guarded() -> torch.Tensor:
    """A page with a pattern, between two pages without access, as a uint8 tensor."""
    memory = mmap.mmap(-1, 3 * PAGE)
    page = torch.frombuffer(memory, dtype=torch.uint8, offset=PAGE, count=PAGE)
    page.copy_(torch.frombuffer(bytearray(pattern(PAGE)), dtype=torch.uint8))
    for place in (page.data_ptr() - PAGE, page.data_ptr() + PAGE):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(place), PAGE, 0) == 0
    return page


def scratch(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A replacement for the allocator of a backend. The memory ends where a page without access starts. The
    bytes before the memory have a value that does not occur as a length or a number."""
    size = torch.empty(shape, dtype=dtype, device="meta").nbytes
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    room = -(-size // PAGE) * PAGE
    memory = torch.frombuffer(mmap.mmap(-1, room + PAGE), dtype=torch.uint8)
    end = memory.data_ptr() + room
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), PAGE, 0) == 0
    memory[: room - size] = 0x7F
    return memory[room - size : room].view(dtype).view(shape)


def status_of(work: Callable[[], None]) -> int:
    """The exit status of a process that does ``work``, or the negative number of the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_the_pages_are_guarded():
    page = guarded()

    def read(place: int) -> None:
        faulthandler.disable()  # a stack trace of the intended crash would fill the output of the run
        ctypes.string_at(page.data_ptr() + place, 1)

    assert status_of(lambda: read(0)) == status_of(lambda: read(PAGE - 1)) == 0
    for place in (-1, PAGE):
        assert status_of(lambda place=place: read(place)) == -signal.SIGSEGV


def hashed(name: str, align: int, sizes: list[int]) -> None:
    """Hash messages that end at the end of a page, some messages that start at its start, and then rows up to
    its end."""
    page, record = guarded(), algorithms.get(name)
    kernels = registry.get("interpreter")
    kernels.empty = scratch  # type: ignore[attr-defined]
    chosen = [n for n in sizes if n % align == 0]
    views = [page[PAGE - n :] for n in chosen] + [page[:n] for n in (0, 1, 3, *sizes[-3:])]
    found = rows_as_bytes(hash_batch(views, name, backend="interpreter"))
    assert found == [oracle(record, view.numpy().tobytes()) for view in views]
    whole = [page[PAGE - n :] for n in chosen[-2:]]  # these have whole blocks in common
    found = rows_as_bytes(hash_batch(whole, name, backend="interpreter"))
    assert found == [oracle(record, view.numpy().tobytes()) for view in whole]
    width = chosen[-1]
    for rows in (page[-width:].reshape(1, width), page[-2 * width :].reshape(2, width)):
        found = rows_as_bytes(hash_batch(rows, name, backend="interpreter"))
        assert found == [oracle(record, row.numpy().tobytes()) for row in rows]


@pytest.mark.slow_if(lambda align, wide: (align, wide) != (1, 1))
@pytest.mark.rotating(3)
@pytest.mark.parametrize("align", [1, 4, 8, 16])
@pytest.mark.parametrize(
    ("name", "wide"),
    [
        ("md5", 0),
        ("md5", 1),
        ("md5", 2),
        ("md5", 4),
        ("sha3_256", 2),
        ("sha512", 0),
        ("blake3", 1),
        ("xxh64", 1),
        ("xxh3_128", 1),
        ("siphash_2_4", 2),
        ("highwayhash_64", 2),
        ("crc32", 1),
    ],
    indirect=["wide"],
)
def test_nothing_is_read_beyond_a_message(name, align, wide):
    block = min(algorithms.get(name).block_size, 64)
    sizes = [*range(1, 34), *range(block - 8, block + 18), 2 * block - 4, 2 * block, 137, 201, 240, 256, 257]
    assert status_of(lambda: hashed(name, align, sizes)) == 0


@pytest.mark.parametrize("wide", [0, 4], indirect=True)
def test_nothing_is_read_beyond_a_tree(wide):
    assert status_of(lambda: hashed("blake3", 1, [1, 1000, 1025, 2000, 2048])) == 0


def fence(kernels: InterpreterBackend) -> None:
    """Replace every tensor that a kernel gets by a copy that ends where a page without access starts. A
    program takes four messages."""
    launch = kernels.launch

    def fenced(asked: Launch, options: Mapping[str, int]) -> None:
        tensors = {n: v for n, v in asked.arguments.items() if isinstance(v, torch.Tensor) and v.numel()}
        copies = {n: scratch(tuple(v.shape), v.dtype, v.device).copy_(v) for n, v in tensors.items()}
        launch(replace(asked, arguments={**asked.arguments, **copies}), options)
        for name, tensor in tensors.items():
            if not torch.equal(tensor.view(torch.uint8), copies[name].view(torch.uint8)):
                tensor.copy_(copies[name])

    kernels.launch = fenced  # type: ignore[method-assign]
    kernels.options = few_lanes(kernels.options)  # type: ignore[method-assign]


def within_arguments(record: Algorithm) -> None:
    """Hash six messages, which two programs take: as a ragged batch, with a long output, with a key for each
    message, as rows, and as a stream."""
    kernels = registry.get("interpreter")
    assert isinstance(kernels, InterpreterBackend)
    fence(kernels)
    given, count = required(record), 6
    sizes = (0, 1, 31, 70, 2500 if record.parallel else 131, 2 * record.block_size)
    data = pattern(3000)
    messages = [data[3 * i : 3 * i + n] for i, n in enumerate(sizes)]
    memory = on_device(data, "interpreter")
    views = [memory[3 * i : 3 * i + n] for i, n in enumerate(sizes)]
    usual = None if record.digest_size else 32
    for length in (usual, 2 * record.block_size + 5) if record.xof else (usual,):
        sized = {} if length is None else {"length": length}
        found = it.hash_batch(views, record.name, backend="interpreter", **given, **sized)
        assert rows_as_bytes(found) == [oracle(record, m, length=length) for m in messages]
    per_message = [p.name for p in record.parameters if p.per_message and p.name in given]
    if per_message:
        keys = {name: [bytes([i, *given[name][1:]]) for i in range(count)] for name in per_message}
        found = hash_batch(views, record.name, backend="interpreter", **keys)
        assert rows_as_bytes(found) == [
            oracle(record, m, **{name: keys[name][i] for name in per_message}) for i, m in enumerate(messages)
        ]
    rows = on_device(pattern(count * 40), "interpreter").view(count, 40)
    found = hash_batch(rows, record.name, backend="interpreter")
    assert rows_as_bytes(found) == [oracle(record, row.numpy().tobytes()) for row in rows]
    hasher = new(record.name, backend="interpreter")
    for message in messages[-3:]:
        hasher.update(message)
    assert hasher.digest() == oracle(record, b"".join(messages[-3:]))


GIVEN = (
    *("md5", "sha512", "sha3_256", "shake_256", "kt128", "blake2b", "blake2sp", "blake2xs", "blake3"),
    *("crc32", "crc64_nvme", "xxh64", "xxh3_128", "siphash_2_4", "highwayhash_64", "highwayhash_256"),
    *("hmac_sha256", "cmac_aes", "gmac_aes", "poly1305", "poly1305_aes", "kmac_128"),
)


FEW = ("md5", "siphash_2_4", "hmac_sha256", "poly1305", "blake3")
VECTORS = ("md5", "sha512", "blake3", "siphash_2_4", "highwayhash_64", "gmac_aes")


@pytest.mark.quick_if(lambda name, wide: wide == 1 and name in FEW[:4])
@pytest.mark.slow_if(lambda name, wide: wide == 4 or name not in FEW)
@pytest.mark.rotating(3)
@pytest.mark.parametrize(
    ("name", "wide"), [(n, 1) for n in GIVEN] + [(n, 4) for n in VECTORS], indirect=["wide"]
)
def test_nothing_is_read_beyond_what_a_kernel_is_given(name, wide):
    """States, keys, tables, constants and results end where a page without access starts."""
    assert status_of(lambda: within_arguments(algorithms.get(name))) == 0


@pytest.mark.slow_if(lambda align, words: (align, words) != (1, 2))
@pytest.mark.rotating(3)
@pytest.mark.parametrize("align", [1, 4, 16])
@pytest.mark.parametrize("wide", [2], indirect=True)
@pytest.mark.parametrize(("way", "words"), [*((way, 2) for way in Poly1305Driver.ways), ("parts", 4)])
def test_nothing_is_read_beyond_by_any_way_of_poly1305(way, words, align, wide, monkeypatch):
    """The parts are read half a block at a time, and a whole block at a time."""
    monkeypatch.setattr(Poly1305Driver, "way", way)
    retune(monkeypatch, POLY1305_PARTS, WORDS=words)
    sizes = [*range(1, 34), *range(248, 274), 512, 528]
    assert status_of(lambda: hashed("poly1305", align, sizes)) == 0


@pytest.mark.parametrize("place", ["end", "start"])
def test_nothing_is_read_beyond_a_message_next_to_one_that_begins_within_a_word(place, monkeypatch):
    """All rows of a program of Poly1305 are whole, and some of them begin with a word. They and others are
    loaded in one way, and only the others need a word more."""
    monkeypatch.setattr(Poly1305Driver, "way", "rows")
    retune(monkeypatch, POLY1305_ROWS, BLOCK_MSGS=2)
    record, size = algorithms.get("poly1305"), 1024  # four rows

    def work() -> None:
        page = guarded()
        views = [page[-size:] if place == "end" else page[:size], page[size + 1 : 2 * size + 1]]
        found = rows_as_bytes(hash_batch(views, "poly1305", backend="interpreter"))
        assert found == [oracle(record, view.numpy().tobytes()) for view in views]

    assert status_of(work) == 0


@pytest.mark.slow_if(lambda start: start != 1)
@pytest.mark.parametrize("start", [0, 1, 4])
def test_nothing_is_read_beyond_by_folding(start, monkeypatch):
    """Two lanes fold messages that reach up to the end of the page: one message by itself, and next to a
    message that starts at any byte."""
    monkeypatch.setattr(crc_driver, "_BLOCKS_WORTH_FOLDING", 0)
    retune(monkeypatch, crc_driver.CRC_FOLD, BLOCK_MSGS=2)

    def work() -> None:
        page, record = guarded(), algorithms.get("crc32")
        messages = [page[-1024 - start :], page[-1023:], page[-256:]]
        for views in (messages[:1], messages):
            found = rows_as_bytes(hash_batch(views, "crc32", backend="interpreter"))
            assert found == [oracle(record, view.numpy().tobytes()) for view in views]

    assert status_of(work) == 0
