"""Kernels read no word that holds no byte of a message: pages without access lie on both sides of messages.

In the interpreter, with each of the vector widths that backends' tunings ask for; ``test_opencl.py`` has the
same of compiled kernels.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import signal
import sys
import traceback
from collections.abc import Callable

import pytest
import torch

from integrity_triton import algorithms, backends
from integrity_triton.backends.drivers import crc as crc_driver
from integrity_triton.backends.drivers.poly1305 import Poly1305Driver
from integrity_triton.backends.self_test import VARIABLE
from support import hash_batch, oracle, pattern, rows_as_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="not applicable: mprotect as on Linux")

PAGE = mmap.PAGESIZE


@pytest.fixture(autouse=True)
def _without_self_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a process of its own, in which they would cost more than what is tested."""
    monkeypatch.setenv(VARIABLE, "off")


def guarded() -> torch.Tensor:
    """A page of a pattern between two without access, uint8."""
    memory = mmap.mmap(-1, 3 * PAGE)
    page = torch.frombuffer(memory, dtype=torch.uint8, offset=PAGE, count=PAGE)
    page.copy_(torch.frombuffer(bytearray(pattern(PAGE)), dtype=torch.uint8))
    for place in (page.data_ptr() - PAGE, page.data_ptr() + PAGE):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(place), PAGE, 0) == 0
    return page


def scratch(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What a backend allocates, ending where a page without access starts."""
    size = torch.empty(shape, dtype=dtype, device="meta").nbytes
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    room = -(-size // PAGE) * PAGE
    memory = torch.frombuffer(mmap.mmap(-1, room + PAGE), dtype=torch.uint8)
    end = memory.data_ptr() + room
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), PAGE, 0) == 0
    return memory[room - size : room].view(dtype).view(shape)


def status_of(work: Callable[[], None]) -> int:
    """The exit status of a process that does ``work``, or the signal that ended it, negative."""
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
        faulthandler.disable()  # what is meant to fail would fill the run's output with its stack
        ctypes.string_at(page.data_ptr() + place, 1)

    assert status_of(lambda: read(0)) == status_of(lambda: read(PAGE - 1)) == 0
    for place in (-1, PAGE):
        assert status_of(lambda place=place: read(place)) == -signal.SIGSEGV


def hashed(name: str, align: int, sizes: list[int]) -> None:
    """Messages that end where a page does, and some that start there; then rows up to the end."""
    page, record = guarded(), algorithms.get(name)
    kernels = backends.get("interpreter")
    kernels.empty = scratch  # type: ignore[attr-defined]
    chosen = [n for n in sizes if n % align == 0]
    views = [page[PAGE - n :] for n in chosen] + [page[:n] for n in (0, 1, 3, *sizes[-3:])]
    found = rows_as_bytes(hash_batch(views, name, backend="interpreter"))
    assert found == [oracle(record, view.numpy().tobytes()) for view in views]
    width = chosen[-1]
    for rows in (page[-width:].reshape(1, width), page[-2 * width :].reshape(2, width)):
        found = rows_as_bytes(hash_batch(rows, name, backend="interpreter"))
        assert found == [oracle(record, row.numpy().tobytes()) for row in rows]


@pytest.mark.parametrize("align", [1, 4, 8, 16])
@pytest.mark.parametrize(
    ("name", "wide"),
    [
        ("md5", 1),
        ("md5", 2),
        ("md5", 4),
        ("sha3_256", 2),
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
    sizes = [*range(1, 34), *range(block - 8, block + 18), 2 * block - 4, 2 * block, 240, 256]
    assert status_of(lambda: hashed(name, align, sizes)) == 0


@pytest.mark.parametrize("wide", [4], indirect=True)
def test_nothing_is_read_beyond_a_tree(wide):
    assert status_of(lambda: hashed("blake3", 1, [1, 1000, 1025, 2000, 2048])) == 0


@pytest.mark.parametrize("align", [1, 4, 16])
@pytest.mark.parametrize("wide", [2], indirect=True)
@pytest.mark.parametrize("way", Poly1305Driver.ways)
def test_nothing_is_read_beyond_by_any_way_of_poly1305(way, align, wide, monkeypatch):
    monkeypatch.setattr(Poly1305Driver, "way", way)
    sizes = [*range(1, 34), *range(248, 274), 512, 528]
    assert status_of(lambda: hashed("poly1305", align, sizes)) == 0


@pytest.mark.parametrize("start", [0, 1, 4])
def test_nothing_is_read_beyond_by_folding(start, monkeypatch):
    monkeypatch.setattr(crc_driver, "_BLOCKS_WORTH_FOLDING", 0)

    def work() -> None:
        page, record = guarded(), algorithms.get("crc32")
        (found,) = rows_as_bytes(hash_batch([page[start:]], "crc32", backend="interpreter"))
        assert found == oracle(record, page[start:].numpy().tobytes())

    assert status_of(work) == 0
