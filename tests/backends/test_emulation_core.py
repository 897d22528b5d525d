"""What the emulators of all vendors share: memory, races, the order of threads, coverage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from integrity_triton.backends.emulation import scheduler as scheduler_module
from integrity_triton.backends.emulation.coverage import Coverage
from integrity_triton.backends.emulation.faults import Deadlock, MemoryFault, Race, Uninitialised
from integrity_triton.backends.emulation.memory import GlobalMemory, SharedMemory, combined, in_turn
from integrity_triton.backends.emulation.program import Block, Missed
from integrity_triton.backends.emulation.scheduler import DONE, Scheduler
from integrity_triton.backends.emulation.stamps import of_several, stamps, unordered
from integrity_triton.conformance.render.json import to_dict
from integrity_triton.conformance.report import RAN, Cell, KernelExecution, Report

DATA = np.zeros(64, np.uint8)
START = DATA.ctypes.data


def at(*offsets: int) -> np.ndarray:
    return np.array([START + offset for offset in offsets], np.uint64)


def who(*triples: tuple[int, int, int]) -> np.ndarray:
    return stamps(*(np.array(column) for column in zip(*triples, strict=True)))


def memory() -> GlobalMemory:
    found = GlobalMemory()
    found.register(START, 64, "data")
    return found


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 0), (0, 0, 5), False),  # one warp
        ((0, 0, 0), (0, 1, 0), True),
        ((0, 0, 0), (0, 1, 1), False),  # a barrier lies between
        ((0, 0, 0), (1, 0, 1), True),  # no barrier orders programs
    ],
)
def test_what_barriers_order(one, other, expected):
    assert unordered(who(one), who(other)).tolist() == [expected]
    assert unordered(who(other), who(one)).tolist() == [expected]
    assert unordered(of_several(who(one)), who(one)).all()


def test_ranges_that_only_touch_stay_apart():
    found = GlobalMemory()
    found.register(START, 16, "first")
    found.register(START + 16, 16, "second")
    found.register(START + 20, 4, "part of it")
    found.load(at(8, 24), 8, who((0, 0, 0), (0, 0, 0)), "a load")
    found.register(START + 100, 0, "nothing")
    with pytest.raises(MemoryFault, match="crosses the end of first"):
        found.load(at(14), 4, who((0, 0, 0)), "a load", align=2)
    with pytest.raises(MemoryFault, match="36 bytes after the end of"):
        found.load(at(68), 4, who((0, 0, 0)), "a load")


def test_which_vectors_of_a_message_are_read():
    """A message from byte 5 to byte 27. Byte 0 is aligned to 16 bytes."""
    whole = np.zeros(64, np.uint8)
    base = -(-whole.ctypes.data // 16) * 16 - START
    found = GlobalMemory()
    found.register(START + base + 5, 22, "the message", vectors=True)

    def reads(*offsets: int, align: int | None = None, count: int = 2) -> None:
        places = at(*(base + offset for offset in offsets))
        found.load(places, 4, who(*[(0, 0, 0)] * len(offsets)), "a load", count, align=align)

    reads(0, 8, 16, 24)  # aligned vectors with a byte of it
    reads(0, 16, count=4)
    # Two words that a compiler has merged, beside a vector that is aligned: each word has a byte of it.
    reads(4, 8, 12, 20, align=4)
    reads(4, 12, count=4, align=4)
    for bad in (28, -4, 32):  # the first word, the second one or none has a byte of it
        with pytest.raises(MemoryFault, match="outside the memory"):
            reads(8, bad, align=4)
    with pytest.raises(MemoryFault, match="in 1 thread,"):
        reads(16, 20, count=4, align=4)
    with pytest.raises(MemoryFault, match="outside the memory"):
        found.load_bytes(at(base + 3), 4, who((0, 0, 0)), "a load of bytes")


def test_lent_memory_goes_when_the_launch_has_ended():
    array = np.arange(4, dtype=np.uint32)
    found = memory()
    place = np.array([found.lend(array, "arguments")], np.uint64)
    assert found.load(place, 4, who((0, 0, 0)), "a load", 4)[:, 0].tolist() == [0, 1, 2, 3]
    found.load(at(0), 4, who((0, 0, 0)), "the load")
    found.finish()
    with pytest.raises(MemoryFault):
        found.load(place, 4, who((0, 0, 0)), "a load")
    found.load(at(0), 4, who((0, 0, 0)), "a load")


@pytest.mark.parametrize("address", [START - 4096, START + 4096], ids=["before", "behind"])
def test_races_belong_to_their_range(address):
    """Memory that is registered during a launch would give the ranges other numbers, and a race would be
    looked for in another range, or be forgotten."""
    found = memory()
    found.register(START + 1024, 64, "other data")
    found.load(at(0), 4, who((0, 0, 0)), "the load")
    found.store(at(0), [np.array([21], np.uint32)], who((1, 0, 0)), "the store")
    for vectors in (False, True):
        with pytest.raises(RuntimeError, match="more data cannot be registered during a launch"):
            found.register(address, 8, "more data", vectors=vectors)
    with pytest.raises(RuntimeError, match="arguments cannot be registered during a launch"):
        found.lend(np.zeros(4, np.uint32), "arguments")
    with pytest.raises(Race, match="the load reads what the store writes"):
        found.finish()
    found.register(address, 8, "more data")


def test_a_reader_and_a_later_writer_race():
    found = memory()
    found.load(at(0), 4, who((0, 0, 0)), "the load")
    found.store(at(0), [np.array([7], np.uint32)], who((1, 0, 0)), "the store")
    with pytest.raises(Race, match="the load reads what the store writes"):
        found.finish()
    found.finish()  # the next launch starts anew
    found.load(at(0), 4, who((0, 0, 0)), "the load")
    found.store(at(0), [np.array([8], np.uint32)], who((0, 1, 1)), "the store")
    found.finish()


def test_atomic_operations_are_in_turn():
    found = memory()
    DATA[:] = 0
    places = at(0, 0, 0, 4)
    ones = np.ones(4, np.uint32)
    assert sorted(found.atomic("add", places, ones, "an add").tolist()) == [0, 0, 1, 2]
    assert found.compare_swap(at(0, 0), ones[:2] * 3, ones[:2] * 9, "a swap").tolist() == [3, 9]
    minimum = found.atomic("min", at(0), np.array([0xFFFFFFFF], np.uint32), "a min")
    assert minimum.tolist() == [9] and DATA[:4].tolist() == [255] * 4
    assert found.atomic("umin", at(0), np.array([5], np.uint32), "a min").tolist() == [0xFFFFFFFF]
    with pytest.raises(MemoryFault, match="not aligned to 4"):
        found.atomic("add", at(2), ones[:1], "an add")


def test_shared_memory_belongs_to_its_program():
    shared = SharedMemory(2, 32)
    programs, offsets = np.array([0, 1]), np.array([0, 0])
    shared.store(programs, offsets, [np.array([1, 2], np.uint32)], who((5, 0, 0), (6, 0, 0)), "a store")
    found = shared.load(programs, offsets, 4, who((5, 1, 1), (6, 1, 1)), "a load")
    assert found.tolist() == [[1, 2]]
    with pytest.raises(Uninitialised, match="a load reads shared memory that nothing has written"):
        shared.load(programs, offsets + 4, 4, who((5, 1, 1), (6, 1, 1)), "a load")
    used = np.array([True] * 4 + [False] * 4)
    shared.load(programs, offsets, 4, who((5, 1, 1), (6, 1, 1)), "a load", 2, used=used)
    with pytest.raises(MemoryFault, match="outside the 32 bytes"):
        shared.load(programs, offsets + 32, 4, who((5, 1, 1), (6, 1, 1)), "a load")
    shared.store(programs, offsets, [np.array([3, 4], np.uint32)], who((5, 2, 2), (6, 2, 2)), "a store")
    with pytest.raises(Race, match="a load reads what a store writes"):
        shared.load(programs, offsets, 4, who((5, 3, 2), (6, 3, 2)), "a load")


def test_two_readers_and_a_writer_race():
    shared = SharedMemory(1, 32)
    zero = np.zeros(1, np.int64)
    shared.store(zero, zero, [np.array([1], np.uint32)], who((0, 0, 0)), "a store")
    for warp in (0, 1):
        shared.load(zero, zero, 4, who((0, warp, 1)), "a load")
    with pytest.raises(Race, match="another store writes what a load reads"):
        shared.store(zero, zero, [np.array([2], np.uint32)], who((0, 1, 1)), "another store")


def trace(reorder: int, seed: int, body: Callable[[Scheduler, int], tuple]) -> list[tuple[int, list[int]]]:
    scheduler = Scheduler(1, 128, 32, seed=seed, reorder=reorder)
    found = []

    def step(number, mask):
        warps = range(4) if mask is None else sorted(set(np.flatnonzero(mask) // 32))
        found.append((number, [int(w) for w in warps]))
        if number == 0:
            scheduler.barrier(mask)
        return body(scheduler, number)

    scheduler.run(step)
    return found


def test_a_seed_orders_warps_between_barriers():
    plain = trace(0, 0, lambda _, number: (number + 1 if number < 2 else DONE, None, 0))
    assert plain == [(n, [0, 1, 2, 3]) for n in range(3)]
    orders = set()
    for seed in range(8):
        found = trace(32, seed, lambda _, number: (number + 1 if number < 2 else DONE, None, 0))
        orders.add(str(found))
        assert {n: sorted(w for m, ws in found if m == n for w in ws) for n in range(3)} == {
            n: [0, 1, 2, 3] for n in range(3)
        }
        numbers = [n for n, _ in found]
        assert max(i for i, n in enumerate(numbers) if n == 0) < min(
            i for i, n in enumerate(numbers) if n > 0
        )
    assert len(orders) > 4


def test_threads_that_never_end_are_a_deadlock(monkeypatch):
    scheduler = Scheduler(1, 64, 32)
    half = np.arange(64) < 32

    def step(number, mask):
        if number == 1:
            scheduler.barrier(mask)
            return 1, None, 0
        return 1, half, DONE

    monkeypatch.setattr(scheduler_module, "LIMIT", 100)
    with pytest.raises(Deadlock, match="has not ended"):
        scheduler.run(step)


@pytest.mark.parametrize("operation", ["add", "sub", "xor", "min", "umax", "exch"])
def test_changes_of_one_place_are_made_one_after_the_other(operation):
    random = np.random.default_rng(7)
    values = random.integers(0, 1 << 32, 60, np.uint32)
    memory = random.integers(0, 1 << 32, 9, np.uint32)
    places, expected = random.integers(0, 9, 60), memory.copy()
    before = []
    for place, value in zip(places, values, strict=True):
        before.append(expected[place])
        expected[place] = combined(operation, expected[place : place + 1], np.array([value]))[0]
    found = in_turn(memory, places, lambda old, i: combined(operation, old, values[i]))
    assert found.tolist() == before
    assert (memory == expected).all()
    assert len(in_turn(memory, places[:0], lambda old, i: old)) == 0


def test_coverage_tells_what_was_missed():
    coverage = Coverage()
    blocks = [Block("k.py:3", "add"), Block("", "bra")]
    kernel = coverage.kernel("k", blocks, {"mma": (2, 3)})
    kernel.block(0)
    kernel.matrix("mma", np.array([True, False]), np.ones(3, np.bool_))
    assert kernel.blocks == (1, 2)
    assert kernel.missed() == ("block 1: bra", "rows 1 of mma")
    assert coverage.take() == (kernel,) and coverage.kernels() == ()


def test_a_report_names_code_that_no_cell_executed():
    a, b = Missed("block", "1", "a"), Missed("block", "2", "b")

    def cell(*missed: Missed) -> Cell:
        execution = KernelExecution(3, missed, {"FINAL": True})
        return Cell("sha256", "ptx", "cpu", "", RAN, coverage={"k 12": execution})

    report = Report((cell(a, b), cell(b)), (), 0, "", 0.0, {}, {})
    assert to_dict(report)["executed"] == [
        {
            "backend": "ptx",
            "kernel": "k 12",
            "constants": {"FINAL": True},
            "blocks": 3,
            "missed": ["block 2: b"],
            "algorithms": ["sha256"],
        }
    ]


def test_a_kernels_coverage_has_the_constants_of_its_launch():
    coverage = Coverage()
    coverage.constants = {"FINAL": True}
    kernel = coverage.kernel("k", [], {})
    coverage.constants = {"FINAL": False}
    assert coverage.kernel("l", [], {}).constants == {"FINAL": False}
    assert coverage.kernel("k", [], {}) is coverage.latest is kernel
    assert kernel.constants == {"FINAL": True}
