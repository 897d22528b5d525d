"""Verified loading when something goes wrong: a specific error, nothing handed out, nothing left behind."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import integrity_triton as it
from integrity_triton.models import FileDigests, LoadError, Manifest, ManifestError, load_verified
from integrity_triton.models.loading import host, load, ring
from integrity_triton.models.loading.destination import Destination
from integrity_triton.models.loading.expectations import read_expectations
from integrity_triton.models.loading.plan import Plan
from integrity_triton.models.safetensors_file import MAX_HEADER_SIZE, SafetensorsFile

safetensors = pytest.importorskip("safetensors", reason="absent: safetensors")
pytest.importorskip("safetensors.torch")

COUNT, SIZE = 24, 200_000


@pytest.fixture(params=["narrow", "wide", "ring"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The three ways into memory, one piece after the other, so that what comes last is not yet read."""
    monkeypatch.setattr(host, "PIECE_SIZE", 4096)
    monkeypatch.setattr(host, "_WINDOW_SIZE", 16_384)
    monkeypatch.setattr(host, "_RUN_SIZE", 0)
    monkeypatch.setattr(host, "_LEAST_WIDE", 0 if request.param == "wide" else 1 << 60)
    monkeypatch.setattr(host, "usable_cpus", lambda: 2)
    monkeypatch.setattr(ring, "BUFFER_SIZE", 4096)
    monkeypatch.setattr(ring, "_RUN_SIZE", 0)
    monkeypatch.setattr(ring, "_GROUP_SIZE", SIZE)
    if request.param == "ring":
        monkeypatch.setattr(load, "_on_host", lambda *_: False)
    return request.param


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"t{i:02}": torch.randint(0, 256, (SIZE,), dtype=torch.uint8, generator=generator)
        for i in range(COUNT)
    }
    safetensors.torch.save_file(tensors, path)
    return path


def once(action: Callable[[], None]) -> Callable[[int], None]:
    """A function for ``progress`` that acts when it is called for the first time."""
    done: list[bool] = []

    def progress(_: int) -> None:
        if not done:
            done.append(True)
            action()

    return progress


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many of the tensors that were allocated are still in memory."""
    alive: list[Any] = []
    original = Destination.__init__

    def recording(self: Destination, *arguments: Any) -> None:
        original(self, *arguments)
        alive.extend(weakref.ref(tensor) for tensor in self.tensors.values())

    monkeypatch.setattr(Destination, "__init__", recording)

    def count() -> int:
        gc.collect()
        assert alive
        return sum(reference() is not None for reference in alive)

    return count


def set_back(path: Path, status: os.stat_result) -> None:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - SIZE - 5)


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def change_what_was_read(path: Path) -> None:
    status = path.stat()
    time.sleep(0.02)
    with open(path, "r+b") as file:
        start = 8 + struct.unpack("<Q", file.read(8))[0]
        file.seek(start)
        file.write(b"\xff" * 64)
    set_back(path, status)


def change_what_comes(path: Path) -> None:
    status = path.stat()
    time.sleep(0.02)
    with open(path, "r+b") as file:
        file.seek(status.st_size - 1)
        last = file.read(1)[0]
        file.seek(status.st_size - 1)
        file.write(bytes([last ^ 1]))
    set_back(path, status)


def replace(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy(path, other)
    set_back(other, path.stat())
    os.replace(other, path)


def put_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def put_a_file_in_place_of_the_folder(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"")


FAULTS = {
    cut: "was cut",
    grow: "changed",
    change_what_was_read: "changed",
    change_what_comes: "changed",
    replace: "changed|was removed",  # an open file has lost its name
    os.unlink: "was removed",
    put_a_pipe: "was replaced by what is no regular file|was removed",
    put_a_loop: r"became unreadable \(.*\)|was removed",
    put_a_file_in_place_of_the_folder: "was removed",
}


@pytest.mark.parametrize("covered", ["tensors", "file"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_changes_meanwhile(
    path: Path, way: str, fault: Callable[[Path], None], covered: str
) -> None:
    against: Any = Manifest.build(path)
    if covered == "file":
        against = FileDigests.of({path.name: it.hash_file(path, "sha256")})
    with pytest.raises(LoadError, match=rf"{path}: the file ({FAULTS[fault]}) while it was") as caught:
        load_verified(path, against=against, progress=once(lambda: fault(path)))
    assert caught.value.file == str(path)
    start, end = caught.value.range
    assert 0 <= start < end


@pytest.mark.parametrize("fault", [os.unlink, put_a_pipe, put_a_loop])
def test_a_shard_that_changes_before_it_is_opened(tmp_path: Path, fault: Callable[[Path], None]) -> None:
    """The other shard has been read by then, so that the model is half loaded."""
    shards = [tmp_path / f"model-{i}-of-2.safetensors" for i in (1, 2)]
    for i, shard in enumerate(shards):
        safetensors.torch.save_file({f"t{i}": torch.zeros(9)}, shard)
    manifest = Manifest.build(tmp_path)
    plan = Plan.read(tmp_path)
    size = shards[1].stat().st_size
    fault(shards[1])
    with pytest.raises(LoadError, match=rf"{shards[1]}: the file .* while it was being read") as caught:
        load.load_plan(plan, read_expectations(manifest), "cpu", False, None, None)
    assert (caught.value.file, caught.value.range) == (str(shards[1]), (0, size))


def test_too_many_open_files_are_no_change_of_the_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, plan = Manifest.build(path), Plan.read(path)

    def refusing(*arguments: Any, **options: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(OSError, match="Too many open files") as caught:
        load.load_plan(plan, read_expectations(manifest), "cpu", False, None, None)
    assert caught.value.filename == str(path)


def test_a_shard_that_disappears_after_the_folder_was_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in (1, 2):
        safetensors.torch.save_file({f"t{i}": torch.zeros(9)}, tmp_path / f"model-{i}-of-2.safetensors")
    manifest = Manifest.build(tmp_path)
    original = SafetensorsFile.read.__func__

    def read(cls: Any, file: Path, **options: Any) -> SafetensorsFile:
        if file.name == "model-2-of-2.safetensors":
            file.unlink()
        return original(cls, file, **options)

    monkeypatch.setattr(SafetensorsFile, "read", classmethod(read))
    with pytest.raises(LoadError, match="was removed while the model was being read") as caught:
        load_verified(tmp_path, against=manifest)
    assert caught.value.file == str(tmp_path / "model-2-of-2.safetensors")


def test_a_disk_error(
    path: Path, way: str, monkeypatch: pytest.MonkeyPatch, memory: Callable[[], int]
) -> None:
    manifest = Manifest.build(path)
    bad, original = path.stat().st_size - 10_000, os.preadv

    def preadv(descriptor: int, views: Any, offset: int) -> int:
        if offset + sum(map(len, views)) > bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(descriptor, views, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(OSError, match="Input/output error") as caught:
        load_verified(path, against=manifest)
    assert caught.value.filename == str(path) and caught.value.errno == errno.EIO
    assert "reading at byte" in str(caught.value)
    assert memory() == 0


def test_short_reads_are_no_fault(path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, original = Manifest.build(path), os.preadv

    def preadv(descriptor: int, views: Any, offset: int) -> int:
        return original(descriptor, [views[0][: max(1, len(views[0]) // 2)]], offset)

    monkeypatch.setattr(os, "preadv", preadv)
    found = load_verified(path, against=manifest)
    assert Manifest.build(found) == manifest


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/types.h>

struct iovec;

#define SHIM(name)                                                                              \
    ssize_t name(int fd, const struct iovec *iov, int count, off_t offset, int flags) {         \
        ssize_t (*real)(int, const struct iovec *, int, off_t, int) = dlsym(RTLD_NEXT, #name);  \
        if (offset >= atoll(getenv("BAD_FROM"))) { errno = EIO; return -1; }                    \
        return real(fd, iov, count, offset, flags);                                             \
    }
SHIM(preadv2)
SHIM(preadv64v2)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="absent: a C compiler")
@pytest.mark.skipif(sys.platform != "linux", reason="absent: LD_PRELOAD")
def test_a_disk_error_under_the_c_library(path: Path, tmp_path: Path) -> None:
    Manifest.build(path).save(tmp_path / "manifest.json")
    (tmp_path / "shim.c").write_text(SHIM)
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", "shim.so", "shim.c", "-ldl"]
    subprocess.run(command, cwd=tmp_path, check=True)
    code = """
        import sys
        from integrity_triton.models import load_verified
        load_verified(sys.argv[1], against=sys.argv[2])
    """
    environment = {**os.environ, "LD_PRELOAD": str(tmp_path / "shim.so"), "BAD_FROM": str(COUNT * SIZE // 2)}
    command = [sys.executable, "-c", textwrap.dedent(code), str(path), str(tmp_path / "manifest.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "OSError: [Errno 5] Input/output error (reading at byte" in done.stderr
    environment["BAD_FROM"] = str(COUNT * SIZE * 2)
    subprocess.run(command, env=environment, check=True)


@pytest.fixture
def python_handles_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored in the background
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_interrupts")
@pytest.mark.parametrize("how", ["an interrupt", "an error of progress"])
def test_nothing_goes_on_after_an_exception(
    path: Path, way: str, memory: Callable[[], int], how: str
) -> None:
    it.hash_batch([b"a" * 100_000] * 4, "sha256", backend="native")  # that backend keeps its threads
    manifest = Manifest.build(path)
    threads = set(threading.enumerate())
    calls = []

    def progress(_: int) -> None:
        calls.append(1)
        time.sleep(0.002)
        if len(calls) == 3:
            if how == "an interrupt":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                raise RuntimeError("no more")

    with pytest.raises((KeyboardInterrupt, RuntimeError)) as caught:
        load_verified(path, against=manifest, progress=progress)
    assert isinstance(caught.value, KeyboardInterrupt) == (how == "an interrupt")
    assert set(threading.enumerate()) <= threads
    seen = len(calls)
    time.sleep(0.05)
    assert len(calls) == seen < COUNT * SIZE // 16_384
    assert memory() == 0  # although the exception still is


def test_memory_is_free_after_a_mismatch(path: Path, way: str, memory: Callable[[], int]) -> None:
    manifest = Manifest.build(path)
    change_what_comes(path)
    with pytest.raises(LoadError) as caught:
        load_verified(path, against=manifest)
    assert memory() == 0
    assert caught.value.tensor is not None


def test_a_full_device(
    path: Path, way: str, monkeypatch: pytest.MonkeyPatch, memory: Callable[[], int]
) -> None:
    manifest = Manifest.build(path)
    left, original = [5], torch.empty

    def empty(*arguments: Any, **options: Any) -> torch.Tensor:
        if "shape" in sys._getframe(1).f_locals and not left[0]:
            raise torch.OutOfMemoryError("the device is full")
        left[0] -= "shape" in sys._getframe(1).f_locals
        return original(*arguments, **options)

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(
        MemoryError, match=f"tensor 't05' of {SIZE} bytes does not fit on cpu, where {5 * SIZE}"
    ):
        load_verified(path, against=manifest, progress=lambda _: pytest.fail("something was read"))
    left[0] = 1000
    assert Manifest.build(load_verified(path, against=manifest)) == manifest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="absent: a limit of the address space")
def test_a_process_without_enough_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    names = [f"t{i}" for i in range(8)]
    each = 256 << 20
    members = {
        name: {"dtype": "U8", "shape": [each], "data_offsets": [i * each, (i + 1) * each]}
        for i, name in enumerate(names)
    }
    header = json.dumps(members).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 8 * each)  # without blocks on the disk
    entries = [it.models.TensorEntry(name, "U8", (each,), each, bytes(32)) for name in names]
    Manifest("blake3", entries).save(tmp_path / "manifest.json")
    code = """
        import resource, sys, torch
        from integrity_triton.models import Manifest, load_verified
        manifest = Manifest.load(sys.argv[2])
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        # Four tensors fit well. If the last one hardly fitted, malloc would keep it in its heap.
        resource.setrlimit(resource.RLIMIT_AS, (used + (1100 << 20), -1))
        try:
            load_verified(sys.argv[1], against=manifest)
        except MemoryError as error:
            print(error)
            torch.empty(900 << 20, dtype=torch.uint8)  # everything is free again
            print("free")
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path), str(tmp_path / "manifest.json")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert "of 268435456 bytes does not fit on cpu" in printed[0] and "nothing was loaded" in printed[0]
    assert printed[1] == "free"


def test_an_unreadable_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for i in (1, 2):
        shard = folder / f"model-0000{i}-of-00002.safetensors"
        safetensors.torch.save_file({f"t{i}": torch.zeros(9)}, shard)
    manifest = Manifest.build(folder)
    original = os.open

    def refusing(path: Any, *arguments: Any, **options: Any) -> int:
        if os.fspath(path) == os.fspath(shard):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return original(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refusing)
        with pytest.raises(PermissionError, match=shard.name):
            load_verified(folder, against=manifest)
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(ManifestError, match=f"{shard.name}: a named pipe, not a regular file"):
        load_verified(folder, against=manifest)
    shard.unlink()
    with pytest.raises(ManifestError, match="number 2 is missing"):
        load_verified(folder, against=manifest)


def written(path: Path, members: dict[str, Any], data: bytes, size: int | None = None) -> Path:
    header = json.dumps(members).encode()
    header += b" " * ((size or 0) - len(header))
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.mark.slow
def test_a_large_header(tmp_path: Path) -> None:
    members = {"t": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}
    path = written(tmp_path / "m.safetensors", members, b"abc", MAX_HEADER_SIZE)
    against = [Manifest.build(path), FileDigests.of({path.name: it.hash_file(path, "blake3")}, "blake3")]
    assert bytes(load_verified(path, against=against)["t"].tolist()) == b"abc"
    written(path, members, b"abc", MAX_HEADER_SIZE + 1)
    with pytest.raises(ManifestError, match="the header claims 100000001 bytes; at most 100000000"):
        load_verified(path, against=against)


def test_overlapping_tables(tmp_path: Path) -> None:
    one = {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}
    path = written(tmp_path / "m.safetensors", {"a": one}, b"abcde")
    with pytest.raises(ManifestError, match="2 bytes follow the last tensor"):
        load_verified(path, against=FileDigests.of({path.name: it.hash_file(path, "sha256")}))
    for begin, fault in ((2, "overlaps"), (4, "leaves a hole")):
        other = {"dtype": "U8", "shape": [2], "data_offsets": [begin, begin + 2]}
        written(path, {"a": one, "b": other}, b"abcdef"[: begin + 2])
        with pytest.raises(ManifestError, match=f"tensor 'b' {fault}"):
            load_verified(path, against=FileDigests.of({path.name: it.hash_file(path, "sha256")}))


@pytest.mark.parametrize("name", ["line\nfeed", "\x1b[31m", "\u202e", "a" * 1000, "", "\x00"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    path = written(
        tmp_path / "m.safetensors", {name: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"a"
    )
    manifest = Manifest.build(path)
    assert list(load_verified(path, against=manifest)) == [name]
    path.write_bytes(path.read_bytes()[:-1] + b"b")
    with pytest.raises(LoadError) as caught:
        load_verified(path, against=manifest)
    assert caught.value.tensor == name
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("raw", [b'"\xff\xfe"', b'"\\ud800"', b'"\xed\xa0\x80"'])
def test_names_that_are_no_text(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "m.safetensors"
    header = b"{" + raw + b':{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"a")
    with pytest.raises(ManifestError, match=r"UTF-8|surrogate"):
        load_verified(path, against=FileDigests.of({path.name: it.hash_file(path, "sha256")}))


@pytest.mark.slow
def test_a_hundred_thousand_tensors(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    count = 100_000
    members = {
        f"layer.{i}.weight": {"dtype": "I32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i in range(count)
    }
    written(path, members, torch.arange(count, dtype=torch.int32).numpy().tobytes())
    manifest = Manifest.build(path)
    for against in (manifest, FileDigests.of({path.name: it.hash_file(path, "sha256")})):
        found = load_verified(path, against=against)
        assert len(found) == count
        assert all(int(found[f"layer.{i}.weight"]) == i for i in range(0, count, 997))
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x77")
    with pytest.raises(LoadError) as caught:
        load_verified(path, against=manifest)
    assert caught.value.tensor == f"layer.{count - 1}.weight" and len(caught.value.mismatches) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="absent: /proc")
@pytest.mark.parametrize("covered", ["tensors", "file", "kernels"])
def test_memory_above_the_models_own_size(tmp_path: Path, covered: str) -> None:
    path = tmp_path / "model.safetensors"
    generator = torch.Generator().manual_seed(3)
    part = torch.randint(0, 256, (128 << 20,), dtype=torch.uint8, generator=generator)
    safetensors.torch.save_file({f"t{i}": part + i for i in range(8)}, path)
    if covered == "file":
        (tmp_path / "against").write_text(f"{it.hash_file(path, 'sha256').hex()}  {path.name}\n")
    else:
        Manifest.build(path).save(tmp_path / "against")
    code = """
        import resource, sys, torch
        import integrity_triton as it
        backend = sys.argv[3] or None
        it.hash_batch([torch.zeros(1 << 20)], "blake3", backend=backend)
        def now(field):
            lines = open("/proc/self/status").read().splitlines()
            return int(next(line.split()[1] for line in lines if line.startswith(field))) * 1024
        before = now("VmRSS")
        found = it.models.load_verified(sys.argv[1], against=sys.argv[2], backend=backend)
        print(now("VmHWM") - before - sum(t.nbytes for t in found.values()))
    """
    backend = "opencl" if covered == "kernels" else ""
    command = [sys.executable, "-c", textwrap.dedent(code), str(path), str(tmp_path / "against"), backend]
    above = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    bound = ring.MOST_BUFFERS * ring.BUFFER_SIZE if covered == "kernels" else 0
    assert above < bound + (24 << 20)  # imports, threads and partly used huge pages


@pytest.mark.parametrize("shape", [[0, 10**19 - 1], [0, 1 << 62, 1 << 62], [1 << 62, 0, 1 << 62, 4]])
def test_shapes_that_torch_cannot_hold(tmp_path: Path, shape: list[int], way: str) -> None:
    path = tmp_path / "model.safetensors"
    header = json.dumps({"x": {"dtype": "U8", "shape": shape, "data_offsets": [0, 0]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    digests = FileDigests.of({path.name: it.hash_file(path, "sha256")})
    with pytest.raises(ManifestError, match="tensor 'x': torch cannot hold its shape"):
        load_verified(path, against=digests)


@pytest.mark.parametrize("covered", ["tensors", "file"])
def test_a_default_device_has_no_effect(path: Path, way: str, covered: str) -> None:
    manifest = Manifest.build(path)
    digests = FileDigests.of({path.name: it.hash_file(path, "sha256")})
    with torch.device("meta"):
        found = load_verified(path, against=manifest if covered == "tensors" else digests)
    assert Manifest.build(found) == manifest


def test_modes_whose_tensors_have_no_memory(path: Path, way: str) -> None:
    fake = pytest.importorskip("torch._subclasses.fake_tensor").FakeTensorMode
    with fake(), pytest.raises(ValueError, match="of the class FakeTensor here"):
        load_verified(path, against=Manifest("blake3", []))


def test_copies_are_in_the_stream_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    streams: dict[int, str] = {threading.get_ident(): "the caller's"}
    here = threading.get_ident
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda _: streams.get(here(), "the default"))
    monkeypatch.setattr(torch.accelerator, "set_stream", lambda stream: streams.update({here(): stream}))
    enter = ring.in_stream_of_caller(torch.device("cuda"))
    with ThreadPoolExecutor(1, initializer=enter) as pool:
        found = pool.submit(lambda: torch.accelerator.current_stream(None)).result()
    assert found == "the caller's"


def test_the_frames_of_an_exception_that_the_caller_handles_are_kept(path: Path, way: str) -> None:
    def fail() -> None:
        kept = "kept"
        raise KeyError(kept)

    manifest = Manifest.build(path)
    change_what_comes(path)
    with pytest.raises(KeyError) as caught:
        fail()
    try:
        raise caught.value
    except KeyError as error:
        with pytest.raises(LoadError):
            load_verified(path, against=manifest)
        frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    assert any(names.get("kept") == "kept" for names in frames)


def test_a_named_pipe_is_not_waited_for(path: Path, tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("absent: named pipes")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ManifestError, match="a named pipe, not a regular file; against takes"):
        load_verified(path, against=tmp_path / "pipe")
