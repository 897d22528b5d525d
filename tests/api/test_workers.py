"""Threads that run calls for another thread: whenever an interrupt comes, nothing waits for ever, and nothing
goes on."""

from __future__ import annotations

import itertools
import os
import threading
import time
from pathlib import Path

import pytest

import integrity_triton as it
from integrity_triton import files, workers
from integrity_triton.backends import registry
from integrity_triton.workers import Workers
from support import interrupted_at

SOURCE = workers.__file__
PACKAGE = str(Path(SOURCE).parent)
# An interrupt in a method __del__ is printed, and lost.
lost_in_del = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def wait_for(what) -> None:
    for _ in range(2000):
        if what():
            return
        time.sleep(0.005)
    raise AssertionError("nothing happened for 10 s")


@pytest.fixture
def before():
    """How many threads this process has, once those of other tests have ended."""
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("this system does not list threads in /proc")
    # The backend keeps its threads, so they begin before the others are counted.
    rows = it.hash_batch([bytes(1 << 20)] * 8, "sha256", backend="native")
    assert rows.shape == (8, 32)
    wait_for(lambda count=[-1]: count[-1] == threads() or count.append(threads()))
    return threads()


def test_results_in_the_order_of_the_calls(before):
    with Workers(3) as pool:
        assert pool.map(divmod, [(i, 3) for i in range(100)]) == [divmod(i, 3) for i in range(100)]
        assert threads() <= before + 3
        pending = [pool.submit(pow, 2, i) for i in range(20)]
        assert [call.result() for call in pending] == [2**i for i in range(20)]
    wait_for(lambda: threads() == before)


def test_one_call_takes_one_thread(before):
    with Workers(8) as pool:
        for i in range(5):
            assert pool.submit(abs, -i).result() == i
        assert threads() <= before + 2  # a call may be counted for a moment after its result
    wait_for(lambda: threads() == before)


def test_an_exception_of_a_call_is_raised_once_none_runs():
    running = threading.Event()
    begun = []

    def call(i: int) -> None:
        begun.append(i)
        if i == 0:
            running.wait()
            raise KeyError("the first")
        if i == 1:
            running.set()
            time.sleep(0.05)
            begun.append("ended")
        time.sleep(0.005)

    with Workers(2) as pool:
        with pytest.raises(KeyError, match="the first"):
            pool.map(call, [(i,) for i in range(1000)])
        assert "ended" in begun
        assert len(begun) < 1000
        seen = len(begun)
        assert pool.submit(abs, -7).result() == 7
        assert len(begun) == seen


def test_calls_that_have_not_begun_are_dropped_at_the_end(before):
    go_on, begun = threading.Event(), threading.Event()
    calls = []

    def call(i: int) -> None:
        begun.set()
        go_on.wait()
        calls.append(i)

    with Workers(1) as pool:
        for i in range(10):
            pool.submit(call, i)
        begun.wait()
        threading.Timer(0.05, go_on.set).start()
    assert calls == [0]
    wait_for(lambda: threads() == before)


def test_threads_end_when_the_object_is_released(before):
    pool = Workers(2)
    assert pool.map(abs, [(-1,), (-2,)]) == [1, 2]
    assert threads() > before
    del pool
    wait_for(lambda: threads() == before)


def test_without_a_thread_the_call_runs_here(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(workers._thread, "start_new_thread", refuse)
    with Workers(2) as pool:
        assert pool.map(threading.get_ident, [(), ()]) == [threading.get_ident()] * 2
        with pytest.raises(ZeroDivisionError):
            pool.map(divmod, [(1, 0)])


@lost_in_del
@pytest.mark.slow
def test_an_interrupt_at_any_instruction(before):
    """A pool of concurrent.futures does not survive this test, if its instructions are counted."""
    for instruction in itertools.count():
        results = []

        def work(results=results):
            with Workers(2) as pool:
                results.append(pool.submit(abs, -1).result())
                results.extend(pool.map(abs, [(-2,), (-3,), (-4,)]))

        reached = interrupted_at(instruction, work, SOURCE)
        wait_for(lambda: threads() <= before)
        if not reached:
            break
    assert instruction > 200
    assert results == [1, 2, 3, 4]


def test_an_interrupt_leaves_a_pool_that_is_kept_in_order(before):
    """The pool of the backend `native` is not ended by an interrupt."""
    native = registry.get("native")
    kept = native._workers()
    for instruction in itertools.count():
        reached = interrupted_at(instruction, lambda: kept.map(abs, [(-2,), (-3,)]), SOURCE)
        assert kept.map(abs, [(-5,), (-6,), (-7,)]) == [5, 6, 7]
        wait_for(lambda: not kept._pending or all(call._owner for call in kept._pending))
        if not reached:
            break
    assert instruction > 100
    assert kept is native._workers()


@lost_in_del
@pytest.mark.slow
def test_an_interrupt_while_a_file_is_read(tmp_path, monkeypatch, before):
    monkeypatch.setattr(files, "_BUFFER_SIZE", 1 << 12)
    monkeypatch.setattr(files, "_SMALL", 0)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 100)
    descriptors = len(os.listdir("/proc/self/fd"))
    for instruction in itertools.count():
        found = []
        reached = interrupted_at(
            instruction, lambda found=found: found.extend(map(bytes, files.read_pieces(path))), PACKAGE
        )
        wait_for(lambda: threads() <= before)
        assert len(os.listdir("/proc/self/fd")) == descriptors, instruction
        if not reached:
            break
    assert instruction > 500
    assert b"".join(found) == path.read_bytes()
