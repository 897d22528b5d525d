"""Files at URLs: what is a URL, reading in ranges, changes, and errors that name the URL."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import integrity_triton as it
from integrity_triton import remote_files
from integrity_triton.remote_files import READ_AHEAD, RemoteFile, Url, is_remote, located

fsspec = pytest.importorskip("fsspec", reason="absent: fsspec")

DATA = os.urandom(100_003)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "PIECE_SIZE", 1000)


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture
def file(memory: Any) -> RemoteFile:
    memory.pipe("/bucket/data", DATA)
    return Url("memory://bucket/data").file()


def test_what_is_a_url(tmp_path: Path) -> None:
    for local in ("a", "./s3://a", "C:\\a", "a:b", "://a", Path("s3://a"), "s3:/a"):
        assert located(local) == local and not is_remote(local)
    for url in ("s3://a/b", "HF://a", "memory://a", "abfs+x://a"):
        assert isinstance(located(url), Url) and is_remote(url)
    assert located("file:///a%20b") == "/a b" and located("file://localhost/a") == "/a"
    for odd in ("file://host/a", "file://"):
        with pytest.raises(ValueError, match=r"named by file:///"):
            located(odd)
    with pytest.raises(ValueError, match="a chained URL is not taken"):
        located("simplecache::s3://a")
    with pytest.raises(ValueError, match="a chained URL is not taken"):
        located("zip://a::s3://a")
    path = tmp_path / "a b"
    path.write_bytes(DATA)
    assert it.hash_file(path.as_uri(), "sha256") == hashlib.sha256(DATA).digest()


def test_secrets_are_not_shown() -> None:
    assert str(Url("https://u:secret@h/a?sig=secret")) == "https://***@h/a?..."
    assert str(Url("hf://u/m@main/a")) == "hf://u/m@main/a"
    assert str(Url("hf://m@main/a")) == "hf://m@main/a"
    assert str(Url("https://secret@h/a#secret")) == "https://***@h/a#..."
    for url in (
        "zip://a::https://u:secret@h/a",
        "zip://u:secret@a::https://h/a?secret",
        "file://u:secret@h/a",
    ):
        with pytest.raises(ValueError, match=r"^(zip|file)://") as caught:
            located(url)
        assert "secret" not in str(caught.value)


def test_files_that_are_shown_alike_are_not_one_file(memory: Any) -> None:
    # A store may tell nothing but a size, and then the names alone tell files apart.
    one, other = (RemoteFile(Url(f"memory://m/a?{i}"), 3, ()) for i in "12")
    assert str(one) == str(other) and one.identity != other.identity
    assert one.identity == RemoteFile(one.url, 3, ()).identity
    assert one.identity != RemoteFile(one.url, 4, ()).identity
    assert one.identity != RemoteFile(one.url, 3, (("etag", "1"),)).identity


def test_a_store_that_does_not_tell_a_size(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(memory), "info", lambda self, path, **_: {"name": path, "type": "file"})
    with pytest.raises(OSError, match="the server does not tell the size of the file"):
        Url("memory://bucket/data").file()


@pytest.mark.parametrize("kind", [RuntimeError, FileNotFoundError, PermissionError, ConnectionRefusedError])
@pytest.mark.parametrize("step", ["info", "connect"])
def test_what_a_store_says_has_no_secrets(
    kind: type[Exception], step: str, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "memory://secret%20a@bucket/data?sig=secret"

    def fail(*_args: Any, **_options: Any) -> None:
        raise kind(f"403, url={url!r} and 'secret a'")

    if step == "info":
        monkeypatch.setattr(type(memory), "info", fail)
    else:
        monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(OSError, match=r"memory://\*\*\*@bucket/data\?\.\.\.") as caught:
        it.hash_file(url, "sha256")
    assert "secret" not in str(caught.value) and caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("start", "end"), [(0, None), (0, 0), (7, 7), (0, 1000), (1, 1001), (999, 50_001), (5, 100_003)]
)
def test_ranges(file: RemoteFile, start: int, end: int | None) -> None:
    expected = DATA[start:end]
    assert b"".join(file.pieces(start, end)) == expected
    assert bytes(file.read(start, file.size if end is None else end)) == expected
    assert (
        it.hash_file("memory://bucket/data", "blake3", start=start, end=end) == it.blake3(expected).digest()
    )


def test_views_of_any_sizes(file: RemoteFile) -> None:
    views = [memoryview(bytearray(size)) for size in (3, 0, 1000, 2500, 1)]
    assert file.read_into(views, 77) == 3504
    assert b"".join(views) == DATA[77 : 77 + 3504]
    view = memoryview(bytearray(50))
    assert file.read_into([view], file.size - 20) == 20
    assert view[:20] == DATA[-20:]
    assert file.read_into([view], file.size) == 0


def test_a_stream(file: RemoteFile) -> None:
    with file.stream() as stream:
        assert stream.read(8) == DATA[:8]
        stream.seek(90_000)
        assert stream.read() == DATA[90_000:]


def test_more_than_the_file_has(file: RemoteFile) -> None:
    with pytest.raises(EOFError, match=r"memory://bucket/data: the file ends at byte 100003, 100004 were"):
        it.hash_file("memory://bucket/data", "sha256", end=len(DATA) + 1)


def test_ranges_are_read_in_parallel_and_bounded(file: RemoteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but one of the pieces that may be in memory are asked for before the first one has come."""
    together = threading.Barrier(READ_AHEAD - 1, timeout=60)
    original, asked, taken = RemoteFile._fetch, [], [0]

    def fetch(self: RemoteFile, start: int, end: int) -> bytes:
        asked.append(start)
        assert len(asked) - taken[0] <= READ_AHEAD
        if len(asked) < READ_AHEAD:
            together.wait()
        return original(self, start, end)

    monkeypatch.setattr(RemoteFile, "_fetch", fetch)
    found = b""
    for piece in file.pieces(0, 20_000):
        found += piece
        taken[0] += 1
    assert found == DATA[:20_000]


def test_a_stream_that_is_left_reads_no_more(file: RemoteFile) -> None:
    before = threading.active_count()
    pieces = file.pieces()
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_change_is_noticed(file: RemoteFile, memory: Any) -> None:
    assert file.is_unchanged()

    def change(_: int) -> None:
        time.sleep(0.001)
        memory.pipe("/bucket/data", DATA)  # the same bytes, written again

    with pytest.raises(OSError, match="changed while it was being read") as caught:
        it.hash_file("memory://bucket/data", "sha256", progress=change)
    assert caught.value.errno == errno.ESTALE and caught.value.filename == "memory://bucket/data"
    assert not file.is_unchanged()


def test_a_file_that_is_cut(file: RemoteFile, memory: Any) -> None:
    memory.pipe("/bucket/data", DATA[:1500])
    with pytest.raises(OSError, match="the store gave 500 bytes for the range 1000 to 2000"):
        file.read(0, 10_000)
    memory.rm("/bucket/data")
    with pytest.raises(FileNotFoundError):
        file.is_unchanged()


def test_errors_name_the_url(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("memory://nothing", "memory://nothing/here"):
        with pytest.raises(FileNotFoundError, match=url):
            it.hash_file(url, "sha256")
    memory.pipe("/bucket/data", b"abc")
    with pytest.raises(IsADirectoryError, match="memory://bucket"):
        it.hash_file("memory://bucket", "sha256")
    with pytest.raises(ValueError, match="odd://x: fsspec does not take the scheme 'odd'"):
        it.hash_file("odd://x", "sha256")

    def fail(*_args: Any, **_options: Any) -> None:
        raise RuntimeError("no\nroute")

    monkeypatch.setattr(type(memory), "cat_file", fail)
    with pytest.raises(OSError, match="the store failed: no route: 'memory://bucket/data'"):
        it.hash_file("memory://bucket/data", "sha256")


@pytest.mark.parametrize(("module", "named"), [("fsspec", "remote"), ("s3fs", "s3fs")])
def test_what_is_to_be_installed(module: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    if module == "s3fs":
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ImportError, match=rf"^s3://b/x: .*[Ii]nstall.*{named}"):
        it.hash_file("s3://b/x", "sha256")


def test_a_store_that_is_not_for_threads_is_read_by_one(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/bucket/data", DATA)
    monkeypatch.setattr(remote_files, "_CONCURRENT", frozenset())
    file = Url("memory://bucket/data").file()
    inside, original = [0], type(memory).cat_file

    def cat_file(*args: Any, **options: Any) -> Any:
        inside[0] += 1
        assert inside[0] == 1
        try:
            return original(*args, **options)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    assert bytes(file.read(0, file.size)) == DATA


def test_local_files_need_no_fsspec(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    code = (
        "import sys, integrity_triton as it, integrity_triton.models as m\n"
        "import integrity_triton.models.manifest\n"
        f"it.hash_file({str(path)!r}, 'sha256')\n"
        "assert not any(n.partition('.')[0] in ('fsspec', 'asyncio') for n in sys.modules), 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
