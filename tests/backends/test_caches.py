"""No call needs a cache: the folder may be read-only, full, or writable for others."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from integrity_triton.backends import triton_cache
from integrity_triton.backends.opencl import binary_cache
from support import has_module

NAME = "kernel-0123456789abcdef-00"
BINARY = b"machine code"
needs_opencl = pytest.mark.skipif(not has_module("pyopencl"), reason="absent: pyopencl is not installed")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of the cache, with one binary."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "base"))
    binary_cache.write(NAME, BINARY)
    assert binary_cache.read(NAME) == BINARY
    return tmp_path / "base" / "integrity_triton" / "opencl"


def test_a_binary_is_stored_once_and_alone(cache):
    binary_cache.write(NAME, BINARY)
    assert [path.name for path in cache.iterdir()] == [NAME]
    assert binary_cache.read("another") is None
    assert (cache / NAME).stat().st_mode & 0o777 == 0o600
    for folder in (cache, cache.parent):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
@pytest.mark.parametrize("which", ["the folder", "its parent", "the file"])
def test_what_others_may_write_is_not_executed(cache, which, mode):
    path = {"the folder": cache, "its parent": cache.parent, "the file": cache / NAME}[which]
    path.chmod(mode)
    assert binary_cache.read(NAME) is None
    if which != "the file":
        binary_cache.write("another", BINARY)
        assert not (cache / "another").exists()


@pytest.mark.parametrize("which", ["the folder", "its parent", "the file"])
def test_what_belongs_to_another_user_is_not_executed(cache, which, monkeypatch):
    path = {"the folder": cache, "its parent": cache.parent, "the file": cache / NAME}[which]
    try:
        os.chown(path, 12345, -1)
    except PermissionError:  # only root can give files away; otherwise, the test becomes another user
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert binary_cache.read(NAME) is None


@pytest.mark.parametrize("which", ["the folder", "its parent", "the file"])
def test_links_are_not_followed(cache, which, tmp_path):
    path = {"the folder": cache, "its parent": cache.parent, "the file": cache / NAME}[which]
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert binary_cache.read(NAME) is None
    binary_cache.write(NAME, b"other code")
    if which == "the file":  # the link is replaced, and its target stays
        assert not path.is_symlink()
        assert hashlib.sha256(BINARY).digest() + BINARY == elsewhere.read_bytes()
    else:
        assert path.is_symlink()
        assert b"other code" not in b"".join(p.read_bytes() for p in elsewhere.rglob("*") if p.is_file())


def test_the_folder_for_caches_itself_may_be_a_link(cache, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("base")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))
    assert binary_cache.read(NAME) == BINARY


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="not applicable: no named pipes")
def test_a_pipe_or_a_folder_in_the_place_of_a_binary_is_not_read(cache):
    (cache / NAME).unlink()
    os.mkfifo(cache / NAME, 0o600)
    assert binary_cache.read(NAME) is None  # without waiting for a writer
    (cache / NAME).unlink()
    (cache / NAME).mkdir(mode=0o700)
    assert binary_cache.read(NAME) is None
    binary_cache.write(NAME, BINARY)  # a folder cannot be replaced
    assert [path.name for path in cache.iterdir()] == [NAME]


@pytest.mark.parametrize("data", [b"", b"short", bytes(32) + BINARY, hashlib.sha256(b"").digest() + b"x"])
def test_a_damaged_binary_is_not_read(cache, data):
    (cache / NAME).write_bytes(data)
    assert binary_cache.read(NAME) is None


def test_an_endless_file_is_not_held_in_memory(cache, monkeypatch):
    monkeypatch.setattr(binary_cache, "_LARGEST", 16)
    binary_cache.write(NAME, bytes(1000))
    assert binary_cache.read(NAME) is None


@pytest.mark.parametrize("given", ["cache", "./cache", "../cache", ""])
def test_a_relative_folder_is_ignored(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    binary_cache.write(NAME, BINARY)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert binary_cache.base() == tmp_path / "home" / ".cache"
    assert binary_cache.read(NAME) == BINARY


def test_without_a_home_there_is_no_cache(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    binary_cache.write(NAME, BINARY)
    assert binary_cache.read(NAME) is None


def test_a_full_disk_leaves_nothing_behind(cache, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    binary_cache.write("another", BINARY)
    assert [path.name for path in cache.iterdir()] == [NAME]


WITHOUT_A_HOME = """
import sys
import integrity_triton as it
from integrity_triton import cli

rows = it.hash_batch([b"abc", b"d"], "sha256", backend="opencl")
assert bytes(rows[0].tolist()) == it.sha256(b"abc", backend="native").digest()
sys.exit(cli.main(["hash", "sha256", "--backend", "opencl", "/dev/null"]))
"""


@needs_opencl
def test_pyopencl_runs_without_its_cache(tmp_path):
    """The home is a file instead of a folder, so that not even root can write into it."""
    (tmp_path / "home").write_bytes(b"")
    environment = {k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "PYOPENCL_NO_CACHE")}
    environment |= {"HOME": str(tmp_path / "home"), "INTEGRITY_TRITON_SELF_TEST": "off"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_HOME], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("  /dev/null\n")
    assert done.stderr.count("\n") == 1  # the line says that self-tests are off


@pytest.fixture
def triton_folder(tmp_path, monkeypatch):
    """The folder of Triton's cache cannot exist, because it would be inside a file."""
    pytest.importorskip("triton")
    (tmp_path / "file").write_bytes(b"")
    used = [str(tmp_path / "file" / "cache")]
    monkeypatch.setattr(triton_cache, "_is_checked", False)
    monkeypatch.setattr(triton_cache, "_folder", lambda: used[-1])
    monkeypatch.setattr(triton_cache, "_use", used.append)
    monkeypatch.delenv("TRITON_CACHE_MANAGER", raising=False)
    return used


def test_triton_gets_another_cache_if_its_own_cannot_be_written(triton_folder, caplog):
    launched = []
    for _ in range(2):
        triton_cache.launch_with_cache(lambda: launched.append(triton_folder[-1]))
    assert len(triton_folder) == 2
    assert launched == [triton_folder[1]] * 2
    assert os.path.isdir(triton_folder[1])
    (record,) = caplog.records
    assert triton_folder[0] in record.getMessage()


def test_triton_gets_another_cache_when_its_own_is_full(triton_folder, tmp_path):
    triton_folder[:] = [str(tmp_path / "cache")]
    launched = []

    def launch():
        if len(triton_folder) == 1:
            (tmp_path / "cache").rmdir()
            (tmp_path / "cache").write_bytes(b"")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        launched.append(triton_folder[-1])

    triton_cache.launch_with_cache(launch)
    assert launched == triton_folder[1:]


def test_an_error_that_the_cache_does_not_explain_is_raised(triton_folder, tmp_path):
    triton_folder[:] = [str(tmp_path)]

    def launch():
        raise FileNotFoundError("ptxas")

    with pytest.raises(FileNotFoundError, match="ptxas"):
        triton_cache.launch_with_cache(launch)
    assert triton_folder == [str(tmp_path)]


def test_triton_is_asked_for_its_folder_and_told_another(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from triton.runtime.cache import FileCacheManager

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "own"))
    assert triton_cache._folder() == str(tmp_path / "own")
    try:
        triton_cache._use(str(tmp_path / "other"))
        assert triton_cache._folder() == str(tmp_path / "other")
        assert FileCacheManager("key").cache_dir == str(tmp_path / "other" / "key")
    finally:
        if "triton.knobs" in sys.modules:
            # This also restores the environment, which setting the folder has changed.
            del sys.modules["triton.knobs"].cache.dir
