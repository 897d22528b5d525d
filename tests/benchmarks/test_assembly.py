"""The benchmark beside Intel's assembly: its arguments, and how it calls the library. Nothing is timed."""

from __future__ import annotations

import ctypes
import hashlib
import json
from pathlib import Path

import pytest
import torch

import integrity_triton as it
from bench import assembly

LANES = 4


class Library:
    """Functions with the interface of isa-l_crypto. A job waits until there are as many as lanes, or for a
    flush."""

    def __init__(self, name: str = "sha256", turn: int = 1, lost: int = 0, status: int = 0) -> None:
        self.waiting: list[tuple[int, bytes]] = []
        self.manager = 0  # the one that is in use

        def give(out):
            if not self.waiting:
                out._obj.value = None
                return
            job, digest = self.waiting.pop(0)
            words = [digest[i : i + turn][::-1] for i in range(0, len(digest), turn)]
            ctypes.memmove(job + 64, b"".join(words), len(digest))
            out._obj.value = job

        def init(manager):
            assert manager % 64 == 0
            self.manager = manager
            self.waiting.clear()
            return 0

        def submit(manager, job, out, address, size, flags):
            assert (manager, job % 64, flags) == (self.manager, 0, 3)
            self.waiting.append((job, hashlib.new(name, ctypes.string_at(address, size)).digest()))
            out._obj.value = None
            if len(self.waiting) == LANES:
                give(out)
            return status

        def flush(manager, out):
            del self.waiting[: lost and 1]
            give(out)
            return 0

        for step in (init, submit, flush):
            setattr(self, f"isal_{name}_ctx_mgr_{step.__name__}", step)


@pytest.mark.parametrize("count", [1, LANES, 11])
def test_all_jobs_are_finished_and_give_their_digests(count: int) -> None:
    rows = torch.randint(0, 256, (count, 77), dtype=torch.uint8)
    expected = [hashlib.sha256(row.numpy()).digest() for row in rows]
    addresses = [row.data_ptr() for row in rows]
    for turn in (1, 4):  # a digest of bytes, and of words in the other order
        jobs = assembly.Jobs(Library(turn=turn), "sha256", addresses, 77)
        for _ in range(2):  # managers and jobs can be used again
            jobs.run()
        assert assembly.differing(jobs.digests(32), expected, 4) == 0
    expected[-1] = bytes(32)
    assert assembly.differing(jobs.digests(32), expected, 4) == 1
    assert assembly.differing(jobs.digests(32), expected, 8) == count


@pytest.mark.parametrize(
    ("fault", "text"), [({"lost": 1}, "finished . of 3 jobs, status 0"), ({"status": 2001}, "status 2001")]
)
def test_a_job_that_is_lost_or_refused_is_an_error(fault: dict[str, int], text: str) -> None:
    rows = torch.zeros(3, 5, dtype=torch.uint8)
    jobs = assembly.Jobs(Library(**fault), "sha256", [row.data_ptr() for row in rows], 5)
    with pytest.raises(RuntimeError, match=text):
        jobs.run()


def has_opencl() -> bool:
    return any(status.name == "opencl" and status.available for status in it.backends())


def test_results_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not has_opencl():
        pytest.skip("absent: the backend opencl")
    monkeypatch.setattr(assembly, "load", lambda path: Library(turn=4))
    monkeypatch.setattr(assembly, "version", lambda library: "a test")
    monkeypatch.setattr(assembly, "usable_cpus", lambda: 1)  # the library above has one manager
    path = tmp_path / "found.json"
    arguments = ["sha256", "--size", "300000", "--mib", "1", "--runs", "1", "--out", str(path)]
    assert assembly.main(arguments) == 0
    (result,) = json.loads(path.read_text("utf-8"))["rates"]
    assert (result["key"], result["messages"]) == (["sha256", 300000, 1], 3)
    assert result["isa-l_crypto"] == "a test"
    ratio = result["opencl GB/s"] / result["assembly GB/s"]
    assert result["opencl / assembly"] == pytest.approx(ratio)
    assert capsys.readouterr().out.splitlines()[-1] == assembly.shown(result)
    monkeypatch.setattr(assembly, "load", lambda path: Library(turn=2))  # an order of bytes that no word has
    with pytest.raises(SystemExit, match="3 of 3 digests of assembly differ for sha256"):
        assembly.main(arguments[:7])


def test_a_line_of_the_table() -> None:
    result = {
        "key": ["sm3", 4096, 2],
        "assembly GB/s": 4.0,
        "opencl GB/s": 3.0,
        "hashlib GB/s": None,
        "opencl / assembly": 0.75,
        "calls / assembly": 0.0213,
    }
    line = " ".join(assembly.shown(result).split())
    assert line == "sm3 4.000 3.000 absent 0.75 calls at most 2.1% of the assembly"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["blake3"], "the library does not hash with blake3; choose from sha256, "),
        (["--size", "0"], "--size has to be 1 to"),
        (["--size", str(2 << 20), "--mib", "1"], "at most --mib"),
        (["--size", str(1 << 32), "--mib", "4096"], "--size has to be 1 to"),
        (["--runs", "0"], "--runs at least 1"),
    ],
)
def test_wrong_arguments(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        assembly.main(arguments)
    assert error.value.code == 2
    assert text in capsys.readouterr().err


def test_it_says_how_to_get_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(SystemExit, match=r"not installed: isa-l_crypto 2\.25 or later .*--library"):
        assembly.main([])
    with pytest.raises(SystemExit, match=r"could not be loaded .*: isa-l_crypto 2\.25"):
        assembly.main(["--library", str(tmp_path / "none.so")])
    with pytest.raises(SystemExit, match=r"no isal_crypto_get_version_str: isa-l_crypto 2\.25"):
        assembly.version(object())
