"""Processes that share the conformance suite's work: nothing is lost, whatever becomes of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from integrity_triton import conformance
from integrity_triton.backends import registry
from integrity_triton.conformance.processes import Lost, share


def here() -> bool:
    """Whether this is the process of the tests."""
    return multiprocessing.parent_process() is None


def journal(folder: Path):
    """Works on an item by writing down when, and by whom."""

    def work(item: str):
        began = time.monotonic()
        folder.joinpath(f"began-{item}").touch()
        if here():
            if item.startswith("crash"):
                raise AssertionError("for another process")
            while not folder.joinpath("others").exists():  # so that others have something to do
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
    assert "does not start: the process ended with status 1" in caplog.text


@pytest.mark.parametrize("who", ["this process", "another"])
def test_errors_end_all(tmp_path, who):
    def done(result):
        if result[1] == (who == "this process"):
            raise KeyError("told")

    items = [(i, i) for i in ("first", "last", "more")]
    began = time.monotonic()
    with pytest.raises(KeyError, match="told"):
        share(items, partial(journal, tmp_path), 2, done, pytest.fail)
    assert time.monotonic() - began < 60


def cells(jobs: int, progress=None):
    report = conformance.run(backends=["native"], effort="quick", seed=7, jobs=jobs, progress=progress)
    assert report.ok, report.to_markdown()
    assert report.options["jobs"] == jobs
    return [replace(cell, seconds=0.0) for cell in report.cells]


def test_the_same_cells_however_many_share_them():
    seen = []
    shared = cells(3, seen.append)
    assert shared == cells(1)
    assert sorted(cell.algorithm for cell in seen) == sorted(cell.algorithm for cell in shared)


def test_what_another_process_does_not_know_has_failed():
    suite = conformance._Suite((), (), (), "quick", 1)
    work = conformance._work(suite, ["native"])
    for item in (("sha256", "registered elsewhere"), ("registered elsewhere", "native")):
        (cell,) = work(item)
        assert (cell.algorithm, cell.backend, cell.status) == (*item, "failed")
        assert "use one job" in cell.reason
        assert suite.problems([cell])
    (cell,) = suite.lost(("sha256", "native"), Lost("the process ended with status -11"))
    assert cell.verdict == "FAILED 1 of 1"
    assert cell.failures[0].found == "the process ended with status -11"


def test_a_backend_that_another_process_lacks_has_failed(monkeypatch):
    """Where a device takes one process alone, the run must not pass without it."""
    suite = conformance._Suite(("native",), (), (), "quick", 1)
    gone = [replace(s, available=False, reason="in use") for s in registry.statuses() if s.name == "native"]
    monkeypatch.setattr(conformance, "statuses", lambda: tuple(gone))
    (cell,) = conformance._work(suite, ["native"])(("sha256", "native"))
    assert (cell.status, cell.reason) == ("failed", "it is absent in another process: in use")
    (cell,) = conformance._work(suite, [])(("sha256", "native"))
    assert (cell.status, cell.reason) == ("absent", "in use")


def test_jobs_are_at_least_one():
    with pytest.raises(ValueError, match="jobs must be at least 1, not 0"):
        conformance.run(jobs=0)


def test_the_module_is_not_run_again_by_the_processes_that_it_starts():
    command = [sys.executable, "-m", "integrity_triton", "conformance", "--quick", "--backend", "native"]
    done = subprocess.run([*command, "--jobs", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "does not start" not in done.stderr
    assert done.stdout.count("seed") == 2  # at the beginning and the end


@pytest.mark.skipif(sys.platform != "linux", reason="not applicable: process groups, and /proc")
def test_an_interrupt_from_the_keyboard_ends_all():
    command = [sys.executable, "-m", "integrity_triton", "conformance", "--full", "--backend", "native"]
    running = subprocess.Popen(
        [*command, "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        for _ in range(8):  # lines: the other process is at work by then, or starting
            assert running.stdout.readline()
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode not in (0, 1), out
    assert "passed" not in out
    assert "Traceback" not in err
    members = [path for path in Path("/proc").glob("[0-9]*/stat") if _group(path) == running.pid]
    assert not members


def _group(path: Path) -> int | None:
    with suppress(OSError):
        state, _, group, *_ = path.read_text().rpartition(")")[2].split()
        return None if state == "Z" else int(group)
    return None
