"""Verified loading under interrupts, without memory, many times, at the same time, and across forks: it gives
the right tensors or an error, and leaves nothing behind."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import threading
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
from support import interrupted_at, interruptible

safetensors = pytest.importorskip("safetensors", reason="absent: safetensors")
pytest.importorskip("safetensors.torch")

FOLDER = str(Path(load.__file__).parent)
linux = pytest.mark.skipif(sys.platform != "linux", reason="absent: /proc")


def saved(path: Path, count: int, size: int, seed: int = 1) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"t{i}": torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator) for i in range(count)
    }
    safetensors.torch.save_file(tensors, path)
    return path


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def wait_for_the_end_of(threads: Callable[[], set[threading.Thread]]) -> None:
    """A thread that was started in the very moment of an interrupt ends by itself."""
    while left := threads():
        for thread in left:
            thread.join()


@pytest.fixture
def quick_collections() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@linux
@pytest.mark.slow
@pytest.mark.usefixtures("quick_collections")
@pytest.mark.parametrize("way", ["narrow", "wide", "ring"])
def test_an_interrupt_at_any_instruction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(host, "_WINDOW_SIZE", 1 << 12)
    monkeypatch.setattr(host, "_RUN_SIZE", 0)
    monkeypatch.setattr(host, "_LEAST_WIDE", 0 if way == "wide" else 1 << 60)
    monkeypatch.setattr(host, "usable_cpus", lambda: 2)
    if way == "ring":
        monkeypatch.setattr(ring, "BUFFER_SIZE", 1 << 12)
        monkeypatch.setattr(ring, "_RUN_SIZE", 0)
        monkeypatch.setattr(load, "_on_host", lambda *_: False)
    alive: list[Any] = []
    original = Destination.host_view

    def watched(self: Destination, name: str) -> memoryview:
        alive.append(weakref.ref(self.tensors[name]))
        return original(self, name)

    monkeypatch.setattr(Destination, "host_view", watched)
    path = saved(tmp_path / "model.safetensors", 2, 6000)
    manifest = Manifest.build(path)
    load_verified(path, against=manifest)
    threads, files = set(threading.enumerate()), descriptors()
    for instruction in itertools.count():
        alive.clear()
        found: list[Any] = []

        def work(found: list[Any] = found) -> None:
            found.append(load_verified(path, against=manifest))

        reached = interrupted_at(instruction, work, FOLDER)
        wait_for_the_end_of(lambda: set(threading.enumerate()) - threads)
        gc.collect()
        assert descriptors() == files, instruction
        if not reached:
            break
        assert not found
        assert all(reference() is None for reference in alive), instruction
    assert instruction > 500
    assert Manifest.build(found[0]) == manifest


STORM = """if True:
    import random, signal, sys, threading, time
    import integrity_triton as it
    from integrity_triton.models import Manifest, load_verified

    random.seed(1)
    inside = False

    def interrupt(*_):
        if inside:
            signal.setitimer(signal.ITIMER_REAL, random.choice([2e-5, 1e-4, 1e-3]))  # another one follows
            raise KeyboardInterrupt

    def loaded():
        global inside
        try:
            inside = True
            found = load_verified(sys.argv[1], against=manifest)
            inside = False
            return found
        finally:
            inside = False

    manifest = Manifest.load(sys.argv[2])
    loaded()
    start = time.perf_counter()
    expected = loaded()
    typical = time.perf_counter() - start
    threads = set(threading.enumerate())
    signal.signal(signal.SIGALRM, interrupt)
    end = time.monotonic() + 3
    whole = cut = 0
    while time.monotonic() < end or not (whole and cut):
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1.5 * typical))
            found = loaded()
        except KeyboardInterrupt:
            inside = False
            cut += 1
        else:
            whole += 1
            assert all(found[name].equal(expected[name]) for name in expected)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for thread in set(threading.enumerate()) - threads:
        thread.join()
    assert all(loaded()[name].equal(expected[name]) for name in expected)
    print("ok")
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize("size", [100_000, 12 << 20])
def test_a_storm_of_interrupts(tmp_path: Path, size: int) -> None:
    """The memory of each tensor is unmapped when it is freed, so that a thread which still wrote to it would
    end the process."""
    path = saved(tmp_path / "model.safetensors", 3, size)
    Manifest.build(path).save(tmp_path / "manifest.json")
    done = subprocess.run(
        interruptible([sys.executable, "-c", STORM, str(path), str(tmp_path / "manifest.json")]),
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


SWEEP = """if True:
    import os, resource, sys, threading
    import torch
    from integrity_triton.models import FileDigests, Manifest, load_verified

    path, against = sys.argv[1:]
    load_verified(path, against=against)
    size = os.path.getsize(path)

    def pages(field):
        return int(open("/proc/self/statm").read().split()[field]) * resource.getpagesize()

    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    before, step, outcomes = pages(1), 1 << 20, []
    for room in range(0, 200 << 20, step):
        resource.setrlimit(resource.RLIMIT_AS, (pages(0) + room, -1))
        try:
            found = load_verified(path, against=against)
            outcome = "loaded"
        except MemoryError:
            outcome = "MemoryError"
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        if outcome == "loaded":
            assert sum(tensor.nbytes for tensor in found.values()) > 0.9 * size
        found = None
        assert threading.active_count() == threads
        assert len(os.listdir("/proc/self/fd")) == files
        outcomes.append(outcome)
    assert pages(1) < before + size, "something is left"
    print(len(outcomes), *sorted(set(outcomes)))
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize("covered", ["tensors", "file"])
def test_every_limit_of_the_address_space(tmp_path: Path, covered: str) -> None:
    path = saved(tmp_path / "model.safetensors", 8, 2 << 20)
    if covered == "tensors":
        Manifest.build(path).save(tmp_path / "against")
    else:
        (tmp_path / "against").write_text(f"{it.hash_file(path, 'sha256').hex()}  {path.name}\n")
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, str(path), str(tmp_path / "against")],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    count, *outcomes = done.stdout.split()
    assert int(count) > 100 and outcomes == ["MemoryError", "loaded"]


@linux
@pytest.mark.slow
def test_many_failing_loads_leave_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", 4, 300_000)
    manifest = Manifest.build(path)
    digests = FileDigests.of({path.name: it.hash_file(path, "sha256")})
    whole = path.read_bytes()
    wrong = whole[:-1] + bytes([whole[-1] ^ 1])
    contents = {
        "another byte": wrong,
        "a cut file": wrong[:-1],
        "a cut header": wrong[:100],
        "no file of this format": b"x" * 5000,
        "an empty file": b"",
    }
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def failing_loads() -> None:
        for content in contents.values():
            path.write_bytes(content)
            for against in (manifest, digests):
                with pytest.raises((LoadError, ManifestError)):
                    load_verified(path, against=against)
        path.write_bytes(whole)
        for odd, error in ((pipe, ManifestError), (tmp_path / "absent", FileNotFoundError)):
            with pytest.raises(error):
                load_verified(odd, against=manifest)
            with pytest.raises(error):
                load_verified(path, against=odd)

    failing_loads()
    gc.collect()
    threads, files = set(threading.enumerate()), descriptors()
    for _ in range(5):
        failing_loads()
    assert set(threading.enumerate()) == threads
    assert descriptors() == files


@pytest.mark.slow
def test_eight_loads_of_one_folder_at_the_same_time(tmp_path: Path) -> None:
    for i in (1, 2):
        shard = saved(tmp_path / f"shard-{i}.safetensors", 6, 700_000, seed=i)
        tensors = safetensors.torch.load_file(shard)
        safetensors.torch.save_file({f"{i}.{name}": t.clone() for name, t in tensors.items()}, shard)
    manifest = Manifest.build(tmp_path)
    digests = {file.name: it.hash_file(file, "sha256") for file in tmp_path.iterdir()}
    wrong = FileDigests.of({**digests, "shard-2.safetensors": bytes(32)})
    together = threading.Barrier(8)

    def loaded(i: int) -> Manifest | LoadError:
        together.wait()
        try:
            against: Any = [manifest, FileDigests.of(digests), wrong][i % 3]
            return Manifest.build(load_verified(tmp_path, against=against))
        except LoadError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for i, result in enumerate(pool.map(loaded, range(8))):
                if i % 3 == 2:
                    assert isinstance(result, LoadError) and str(result.file).endswith("shard-2.safetensors")
                else:
                    assert result == manifest


FORK = """if True:
    import os, sys, warnings
    from integrity_triton.models import Manifest, load_verified

    warnings.simplefilter("ignore")  # Python 3.12 warns of forks while threads run
    path, manifest = sys.argv[1], Manifest.load(sys.argv[2])
    children = []

    def progress(_):
        if not children:
            child = os.fork()
            if not child:
                found = load_verified(path, against=manifest)  # without the threads of its parent
                os._exit(0 if Manifest.build(found, manifest.algorithm) == manifest else 1)
            children.append(child)

    found = load_verified(path, against=manifest, progress=progress)
    assert Manifest.build(found, manifest.algorithm) == manifest
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0]
    print("ok")
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize("size", [100_000, 40 << 20])
@pytest.mark.parametrize("hash_name", ["blake3", "sha256"])
def test_a_fork_during_a_load(tmp_path: Path, size: int, hash_name: str) -> None:
    path = saved(tmp_path / "model.safetensors", 3, size)
    Manifest.build(path, hash_name).save(tmp_path / "manifest.json")
    command = [sys.executable, "-c", FORK, str(path), str(tmp_path / "manifest.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
