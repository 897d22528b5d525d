"""Hashing files and parts of files."""

from __future__ import annotations

import hashlib
import os
import signal
import threading

import pytest

import integrity_triton as it
from integrity_triton import files
from support import pattern


@pytest.fixture
def small_buffers(monkeypatch):
    monkeypatch.setattr(files, "_BUFFER_SIZE", 1000)


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 12345])
def test_whole_files(tmp_path, small_buffers, size):
    path = tmp_path / "file"
    path.write_bytes(pattern(size))
    seen: list[int] = []
    digest = it.hash_file(path, "sha256", progress=seen.append)
    assert digest == hashlib.sha256(pattern(size)).digest()
    assert sum(seen) == size


@pytest.mark.parametrize(("start", "end"), [(0, 0), (0, 1), (5, 5), (1, 1001), (999, 5000), (4999, 5000)])
def test_parts_of_files(tmp_path, small_buffers, start, end):
    path = tmp_path / "file"
    path.write_bytes(pattern(5000))
    digest = it.hash_file(path, "sha256", start=start, end=end)
    assert digest == hashlib.sha256(pattern(5000)[start:end]).digest()
    assert it.hash_file(path, "sha256", start=start) == hashlib.sha256(pattern(5000)[start:]).digest()


def test_a_file_that_ends_too_early(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    for start, end in ((0, 11), (10, 20), (15, 20)):
        with pytest.raises(EOFError, match=f"{end} were expected"):
            it.hash_file(path, "sha256", start=start, end=end)


def test_files_that_say_nothing_of_their_size(tmp_path):
    with open("/proc/cpuinfo", "rb") as file:
        model = file.read()
    assert len(model) > os.stat("/proc/cpuinfo").st_size
    with open("/proc/version", "rb") as file:
        expected = hashlib.sha256(file.read()).digest()
    assert it.hash_file("/proc/version", "sha256") == expected
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(pattern(300_000)))
    writer.start()
    assert it.hash_file(pipe, "sha256") == hashlib.sha256(pattern(300_000)).digest()
    writer.join()


def test_parameters_and_errors(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"data")
    tag = it.blake3(b"data", key=bytes(32)).digest(50)
    assert it.hash_file(path, "blake3", key=bytes(32), length=50) == tag
    with pytest.raises(FileNotFoundError):
        it.hash_file(tmp_path / "nowhere", "sha256")
    with pytest.raises(IsADirectoryError):
        it.hash_file(tmp_path, "sha256")


def test_a_file_that_does_not_wait_is_not_taken_for_its_end(tmp_path):
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.write(writer, b"data")
    with open(writer, "wb"), pytest.raises(BlockingIOError):
        list(files.read_pieces(tmp_path, opener=lambda path, flags: reader))


def test_waiting_for_a_pipe_can_be_interrupted(tmp_path):
    def interrupt(*_: object) -> None:
        raise TimeoutError("enough")

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)
    os.write(writer, b"data")
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(TimeoutError, match="enough"):
            it.hash_file(pipe, "sha256")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.close(writer)
