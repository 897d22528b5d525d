"""Several processes share the work of the conformance suite. If one of them ends, no result is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from integrity_triton import conformance
from integrity_triton.backends import registry
from integrity_triton.conformance import processes, render, suite
from integrity_triton.conformance.cells import Request, lost_cell
from integrity_triton.conformance.processes import Lost, share


def here() -> bool:
    """Whether this is the process that runs the tests."""
    return multiprocessing.parent_process() is None


def journal(folder: Path):
    """Return a function that works on an item: it notes the time and whether this process runs the tests."""

    def work(item: str):
        began = time.monotonic()
        folder.joinpath(f"began-{item}").touch()
        if here():
            if item.startswith("crash"):
                raise AssertionError("for another process")
            while not folder.joinpath("others").exists():  # so that other processes get items
                time.sleep(0.01)
        elif item.startswith("crash"):
            os._exit(3)
        elif item == "last":
            folder.joinpath("others").touch()
        time.sleep(0.05)
        return item, here(), began, time.monotonic()

    return work


def unable():
    if here():
        return lambda item: (item,)
    raise RuntimeError("not here")


class InterruptedAtCreation:
    """In the process that runs the tests, raise KeyboardInterrupt just before another process exists."""

    def __init__(self, folder: Path) -> None:
        self.pickled = threading.Event()

    def __call__(self):
        assert self.pickled.wait(60)
        raise KeyboardInterrupt

    def __reduce__(self):
        self.pickled.set()
        time.sleep(1)
        return partial, (time.sleep, 600)


class InterruptedAtStart:
    """In the process that runs the tests, raise KeyboardInterrupt while another process is starting."""

    def __init__(self, folder: Path) -> None:
        self.starting = folder / "starting"

    def __call__(self):
        if here():
            assert eventually(self.starting.exists)
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)  # is ignored: the process that runs the tests ends this one
        record_compiler(self.starting)
        time.sleep(600)


def record_compiler(path: Path) -> None:
    """Start a process that ignores interrupts as its parent does, and write its number to ``path``."""
    unfinished = path.with_name("unfinished")
    unfinished.write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    unfinished.rename(path)


def is_gone(path: Path) -> bool:
    """Whether the process whose number ``path`` holds has ended."""
    return _mark(Path("/proc", path.read_text(), "stat")) is None


def eventually(condition):
    """Wait at most two minutes until the condition holds, and return whether it does."""
    end = time.monotonic() + 120
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def leaving_no_process():
    before = multiprocessing.active_children()
    yield
    assert set(multiprocessing.active_children()) <= set(before)  # without waiting


def kept(results):
    return [result[0] for result in results]


def test_items_of_one_key_wait_for_the_first(tmp_path):
    items = [("a", "a0"), ("b", "b0"), ("a", "a1"), ("b", "b1"), ("a", "a2"), ("c", "last")]
    seen = []
    results = share(items, partial(journal, tmp_path), 3, seen.append, pytest.fail)
    assert kept(results) == [item for _, item in items]
    assert sorted(seen) == sorted(results)
    assert {result[1] for result in results} == {True, False}
    times = {item: (began, ended) for item, _, began, ended in results}
    for key in "ab":
        assert all(times[f"{key}0"][1] <= times[f"{key}{i}"][0] for i in (1, 2) if f"{key}{i}" in times)


def test_a_process_that_ends_is_replaced(tmp_path):
    lost = []

    def note(item, reason):
        lost.append((item, str(reason)))
        return (f"lost {item}",)

    items = ["first", "crash", "after", "crash again", "last"]
    results = share([(item, item) for item in items], partial(journal, tmp_path), 2, lambda _: None, note)
    assert kept(results) == ["first", "lost crash", "after", "lost crash again", "last"]
    assert lost == [(item, "the process ended with status 3") for item in ("crash", "crash again")]


def test_what_does_not_start_is_done_without(caplog):
    results = share([(i, i) for i in range(5)], unable, 3, lambda _: time.sleep(0.5), pytest.fail)
    assert results == [(i,) for i in range(5)]
    assert "could not start another process to share the work: the process ended with status 1" in caplog.text


@pytest.mark.parametrize("who", ["this process", "another"])
def test_errors_end_all(tmp_path, who):
    def done(result):
        if result[1] == (who == "this process"):
            raise KeyError("told")

    items = [(i, i) for i in ("first", "last", "more")]
    began = time.monotonic()
    with leaving_no_process(), pytest.raises(KeyError, match="told"):
        share(items, partial(journal, tmp_path), 2, done, pytest.fail)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("start", [InterruptedAtCreation, InterruptedAtStart])
def test_an_interrupt_ends_a_process_that_is_starting(tmp_path, caplog, start):
    with leaving_no_process(), pytest.raises(KeyboardInterrupt):
        share([(0, 0)], start(tmp_path), 2, pytest.fail, pytest.fail)
    assert not caplog.text
    if start is InterruptedAtStart and sys.platform == "linux":
        assert eventually(partial(is_gone, tmp_path / "starting"))


class Stubborn:
    """Work that does not return, ends the process, and prints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self):
        return self.work

    def work(self, item: str):
        if item.startswith("hang"):
            if not here():
                record_compiler(self.folder / "compiler")
            while True:
                time.sleep(0.01)
        if item == "exit":
            sys.exit(0)
        return (item,)


def test_neither_an_exit_nor_a_call_that_never_returns_ends_the_work(tmp_path):
    items = ["first", "hang", "exit", "hang again", "last"]
    before = threading.active_count()
    results = share(
        [("key", item) for item in items],
        Stubborn(tmp_path),
        1,
        lambda _: None,
        lambda item, reason: (item, str(reason)),
        limit=0.2,
    )
    late = "it took longer than 0.2 seconds"
    assert results == [
        ("first",),
        ("hang", late),
        ("exit", "it wanted to end the process with status 0"),
        ("hang again", late),
        ("last",),
    ]
    assert eventually(lambda: threading.active_count() <= before)  # Python code can be ended


@pytest.mark.skipif(sys.platform != "linux", reason="not applicable: /proc")
def test_a_process_that_takes_too_long_is_killed_with_its_compilers(tmp_path):
    child = processes._Child(Stubborn(tmp_path), 0.5)
    child.wait_until_ready()
    assert child.work("first") == ("first",)
    with pytest.raises(Lost, match=r"longer than 0\.5 seconds, and its process was killed"):
        child.work("hang")
    assert not child._process.is_alive()
    assert eventually(partial(is_gone, tmp_path / "compiler"))


KILLED = """
import functools, os, signal, sys, time
from integrity_triton.conformance.processes import _Child

if __name__ == "__main__":
    child = _Child(functools.partial(functools.partial, time.sleep), None)
    child.wait_until_ready()
    print(child._process.pid, flush=True)
    child._connection.send(600)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="not applicable: /proc")
def test_no_process_outlives_the_one_that_started_it(tmp_path):
    script, number = tmp_path / "script.py", tmp_path / "number"
    script.write_text(KILLED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    number.write_text(done.stdout.strip())
    assert eventually(partial(is_gone, number))


def test_a_call_that_never_returns_can_be_left():
    with pytest.raises(Lost, match=r"longer than 0\.1 seconds"):
        processes.within(0.1, partial(time.sleep, 1))
    with pytest.raises(Lost, match="status 3"):
        processes.within(10, partial(sys.exit, 3))
    with pytest.raises(ZeroDivisionError):
        processes.within(10, lambda: 1 / 0)
    assert processes.within(10, lambda: "result") == "result"


def cells(jobs: int, progress=None):
    report = conformance.run(backends=["native"], effort="quick", seed=7, jobs=jobs, progress=progress)
    assert report.ok, render.to_markdown(report)
    assert report.options["jobs"] == jobs
    return [replace(cell, seconds=0.0) for cell in report.cells]


@pytest.mark.slow
def test_the_same_cells_however_many_share_them():
    seen = []
    shared = cells(3, seen.append)
    assert shared == cells(1)
    assert sorted(cell.algorithm for cell in seen) == sorted(cell.algorithm for cell in shared)


def test_what_another_process_does_not_know_has_failed():
    request = Request((), (), (), "quick", 1)
    work = suite.worker(request, ["native"])
    for item in (("sha256", "registered elsewhere"), ("registered elsewhere", "native")):
        (cell,) = work(item)
        assert (cell.algorithm, cell.backend, cell.status) == (*item, "failed")
        assert "use one job" in cell.reason
        assert request.problems([cell])
    cell = lost_cell("sha256", "native", Lost("the process ended with status -11"))
    assert cell.verdict == "FAILED 1 of 1"
    assert cell.failures[0].found == "the process ended with status -11"


def test_a_backend_that_another_process_lacks_has_failed(monkeypatch):
    """If a device admits only one process, the run must not pass without it."""
    request = Request(("native",), (), (), "quick", 1)
    gone = [replace(s, available=False, reason="in use") for s in registry.statuses() if s.name == "native"]
    monkeypatch.setattr(suite, "statuses", lambda: tuple(gone))
    (cell,) = suite.worker(request, ["native"])(("sha256", "native"))
    assert (cell.status, cell.reason) == ("failed", "it is absent in another process: in use")
    (cell,) = suite.worker(request, [])(("sha256", "native"))
    assert (cell.status, cell.reason) == ("absent", "in use")


def test_jobs_are_at_least_one():
    with pytest.raises(ValueError, match="jobs must be at least 1, not 0"):
        conformance.run(jobs=0)


@pytest.mark.slow
def test_the_module_is_not_run_again_by_the_processes_that_it_starts():
    command = [sys.executable, "-m", "integrity_triton", "conformance", "--quick", "--backend", "native"]
    done = subprocess.run([*command, "--jobs", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "could not start" not in done.stderr
    assert done.stdout.count("seed") == 2  # one at the beginning and one at the end


@pytest.mark.skipif(sys.platform != "linux", reason="not applicable: process groups, and /proc")
@pytest.mark.parametrize("other", ["at work", "starting"])
def test_an_interrupt_from_the_keyboard_ends_all(tmp_path, other):
    # This imports torch, and the processes that the other tests start import this module.
    from support import interruptible

    mark = f"INTEGRITY_TRITON_TEST={tmp_path}"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "INTEGRITY_TRITON_TEST": str(tmp_path)}
    if other == "starting":  # Python imports this module before any other, and the import does not end
        tmp_path.joinpath("sitecustomize.py").write_text(_SLOW_TO_START)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tmp_path), os.getenv("PYTHONPATH")]))
    command = [sys.executable, "-m", "integrity_triton", "conformance", "--full", "--backend", "native"]
    running = subprocess.Popen(
        interruptible([*command, "--jobs", "2"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )
    try:
        if other == "starting":
            assert eventually(tmp_path.joinpath("starting").exists)
            os.kill(int(tmp_path.joinpath("starting").read_text()), signal.SIGINT)
            time.sleep(0.5)  # time to write a traceback, which it could not write after it has been killed
        else:
            for _ in range(8):  # lines: the other process is at work by then, unless it starts slowly
                assert running.stdout.readline()
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=60)
        # The resource tracker of multiprocessing ends a moment later than the process that started it.
        assert eventually(lambda: not _marked(mark)), _marked(mark)
    finally:
        for number in _marked(mark):
            os.kill(number, signal.SIGKILL)
    assert running.returncode not in (0, 1), out
    assert "passed" not in out
    assert "Traceback" not in err
    assert "could not start" not in err


_SLOW_TO_START = """
import os, pathlib, sys, time

if "--multiprocessing-fork" in sys.orig_argv:
    begun = pathlib.Path(__file__).with_name("begun")
    begun.write_text(str(os.getpid()))
    begun.rename(begun.with_name("starting"))
    time.sleep(600)
"""


def _marked(mark: str) -> list[int]:
    """The processes that run and have ``mark`` in their environment, whatever their group is."""
    stats = Path("/proc").glob("[0-9]*/stat")
    return [int(path.parent.name) for path in stats if mark.encode() in (_mark(path) or b"").split(b"\0")]


def _mark(stat: Path) -> bytes | None:
    """The environment of the process with this file; None if it has ended."""
    with suppress(OSError):
        if stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
            return stat.with_name("environ").read_bytes()
    return None
