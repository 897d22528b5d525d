"""Threads, forks, spawned processes and the end of the interpreter: no crash, and no wrong digest."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.backends import registry
from integrity_triton.workers import Workers
from support import device_of, on_device, oracle, pattern, rows_as_bytes

NAMES = ["sha256", "blake3", "sha3_256", "blake2b", "hmac_sha256", "poly1305", "crc32"]
THREADS = 8


@pytest.fixture
def names(backend):
    if backend == "interpreter":
        return ["blake3"]
    return [n for n in NAMES if registry.get(backend).unsupported(algorithms.get(n)) is None]


def keyed(name: str) -> dict[str, bytes]:
    return {} if algorithms.get(name).keyed != "required" else {"key": pattern(33)[1:]}


def run_interleaved(work: Callable[[int], object], threads: int) -> None:
    """Call ``work`` with the number of each thread, in threads that take turns very often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
    finally:
        sys.setswitchinterval(interval)


def test_threads_interleaved(backend, names):
    """Each thread has its own batches and streams. Their inputs are dropped immediately after the call."""
    rounds = 1 if backend == "interpreter" else 6
    ready = threading.Barrier(THREADS)

    def work(thread: int) -> list[str]:
        wrong = []
        ready.wait()
        for i in range(rounds):
            for name in names[thread % 2 :] + names[: thread % 2]:
                record = algorithms.get(name)
                messages = [bytes([thread, i]) + pattern(n) for n in (0, 5 * thread, 100)]
                tensors = [on_device(m, backend) for m in messages]
                digests = it.hash_batch(tensors, name, backend=backend, **keyed(name))
                del tensors
                hasher = it.new(name, backend=backend, **keyed(name))
                for message in messages:
                    hasher.update(on_device(message, backend))
                found = rows_as_bytes(digests)
                if found != [oracle(record, m, **keyed(name)) for m in messages]:
                    wrong.append(f"batch of {name}")
                if hasher.digest() != oracle(record, b"".join(messages), **keyed(name)):
                    wrong.append(f"stream of {name}")
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(work, range(THREADS)))
    assert results == [[]] * THREADS


def test_one_object_copied_by_many_threads(backend):
    if backend == "interpreter":
        pytest.skip("not applicable: it runs one kernel at a time")
    base = it.new("blake3", on_device(pattern(5000), backend), backend=backend)

    def work(i: int) -> bool:
        twin = base.copy()
        twin.update(bytes([i]) * i)
        return twin.digest() == oracle(algorithms.get("blake3"), pattern(5000) + bytes([i]) * i)

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(work, range(40)))
    assert base.digest() == oracle(algorithms.get("blake3"), pattern(5000))


def test_streams_of_a_device(backend):
    """The data are hashed on four streams of the device in turn, and the digests are read on another
    stream."""
    device = device_of(backend)
    if device.type == "cpu":
        pytest.skip("not applicable: a CPU has no streams")
    module = torch.get_device_module(device)
    streams = [module.Stream() for _ in range(4)]
    consumer, found = module.Stream(), []
    for i in range(40):
        with module.stream(streams[i % 4]):
            data = torch.full((100_000 + i,), i, dtype=torch.uint8, device=device)
            digests = it.hash_chunks(data, "sha256", chunk_size=1000, backend=backend)
            del data
            done = module.Event()
            done.record()
        with module.stream(consumer):
            consumer.wait_event(done)
            digests.record_stream(consumer)
            found.append(digests.clone())
    module.synchronize()
    for i, digests in enumerate(found):
        data = bytes([i]) * (100_000 + i)
        pieces = [data[a : a + 1000] for a in range(0, len(data), 1000)]
        assert rows_as_bytes(digests) == [hashlib.sha256(p).digest() for p in pieces], i


def script(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="absent: no fork here")
def test_a_forked_child_hashes_as_its_parent():
    """The threads of the pool and the OpenCL runtime do not survive a fork. The child still gets right
    digests."""
    done = script(
        """
        import hashlib, os, torch
        import integrity_triton as it
        data = torch.arange(1 << 22, dtype=torch.int64).view(torch.uint8)
        expected = [hashlib.sha256(p.numpy()).hexdigest() for p in data.view(-1, 1 << 16)[:3]]
        def digests():
            return [bytes(r.tolist()).hex() for r in it.hash_batch(data.view(-1, 1 << 16), "sha256")[:3]]
        assert digests() == expected
        child = os.fork()
        if child == 0:
            os._exit(0 if digests() == expected else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert digests() == expected
        print("ok")
        """
    )
    assert done.stdout == "ok\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="absent: no fork here")
def test_blake3_of_one_message_in_a_forked_child(tmp_path):
    """The Rust library's threads are gone, for which it would wait for ever."""
    done = script(
        f"""
        import os, signal, torch
        import integrity_triton as it
        from integrity_triton import models
        path = {str(tmp_path / "model.safetensors")!r}
        data = bytes(range(256)) * 8192
        header = b'{{"w":{{"dtype":"U8","shape":[2097152],"data_offsets":[0,2097152]}}}}'
        with open(path, "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header + data)
        base = it.new("blake3", data, backend="native")
        def digests():
            running = base.copy()
            running.update(data)
            return [
                it.new("blake3", data, backend="native").digest(),
                running.digest(),
                it.hash_file(path, "blake3", backend="native"),
                it.hash_batch([data], "blake3", backend="native").numpy().tobytes(),
                models.Manifest.from_file(path, "blake3", backend="native").to_json(),
            ]
        expected = digests()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if digests() == expected else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        print("ok")
        """
    )
    assert done.stdout == "ok\n", done.stderr


@pytest.mark.slow
def test_spawned_children(tmp_path):
    (tmp_path / "children.py").write_text(
        textwrap.dedent(
            """
            import hashlib, multiprocessing
            import integrity_triton as it

            def work(i):
                data = [bytes([i]) * n for n in (0, 10, 5000)]
                found = it.hash_batch(data, "sha256")
                return [bytes(r.tolist()) for r in found] == [hashlib.sha256(d).digest() for d in data]

            if __name__ == "__main__":
                assert work(9)
                with multiprocessing.get_context("spawn").Pool(2) as pool:
                    assert all(pool.map(work, range(4)))
                print("ok")
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "children.py")],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.stdout == "ok\n", done.stderr


@pytest.mark.parametrize("name", ["native", "opencl"])
def test_the_end_of_the_interpreter(name):
    """When the interpreter ends, running hashes that hold keys are in a reference cycle, and a thread still
    runs after the main thread has ended. (It is not a daemon thread: if one is inside torch, Python aborts,
    with or without this package.)"""
    status = {b.name: b for b in registry.statuses()}[name]
    if not status.available:
        pytest.skip(f"absent: {status.reason}")
    done = script(
        f"""
        import hashlib, threading, torch
        import integrity_triton as it
        backend = {name!r}
        names = ("blake3", "blake2b", "hmac_sha256")
        held = [it.new(name, b"x" * 300, key=b"k" * 32, backend=backend) for name in names]
        held.append(held)
        data = torch.zeros((64, 1 << 16), dtype=torch.uint8)
        expected = hashlib.sha256(bytes(1 << 16)).digest()

        def work():
            for _ in range(30):
                digests = it.hash_batch(data, "sha256", backend=backend)
                assert all(bytes(row.tolist()) == expected for row in digests)
            print("ok")

        threading.Thread(target=work).start()
        print(held[0].hexdigest()[:4])
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["ok"], done.stdout + done.stderr
    assert done.stderr == ""


def test_sources_are_parsed_by_threads():
    """The sources are parsed before anything is cached. In CPython 3.11, all threads share a counter of the
    parser."""
    script = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import gc, sys, time\n"
        "from integrity_triton.backends.opencl import prebuilt\n"
        "gc.set_threshold(500)  # so that Python code runs, and threads take turns, in the midst of it\n"
        "gc.callbacks.append(lambda *_: time.sleep(0))\n"
        "sys.setswitchinterval(1e-6)\n"
        "parse = prebuilt._source.__wrapped__\n"
        "names = ['integrity_triton.kernels.' + n for n in ('sha2', 'keccak', 'aes', 'poly1305')] * 4\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    assert len(set(pool.map(parse, names))) == 4\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_interrupted_batch_leaves_nothing_to_the_threads(monkeypatch):
    """Otherwise the threads would hash to the end, and the process could not end before that."""
    native = registry.get("native")
    pool = Workers(1)
    monkeypatch.setattr(native, "_pools", {os.getpid(): pool})
    began, go_on, calls = threading.Event(), threading.Event(), []

    def run(i: int) -> bytes:
        calls.append(i)
        if i == 1:
            began.set()
            go_on.wait()
        if i == 0:
            raise KeyboardInterrupt
        return b""

    threading.Timer(0.05, go_on.set).start()
    with pytest.raises(KeyboardInterrupt):
        native._workers().map(run, [(i,) for i in range(50)])
    assert began.is_set() is (1 in calls)
    assert len(calls) <= 2
    assert pool.submit(int).result() == 0
    assert len(calls) <= 2


@pytest.mark.parametrize("name", ["sha256", "blake3", "poly1305"])
def test_one_object_updated_by_many_threads(backend, name):
    """As with hashlib's objects, no update is lost. The pieces are equal, so their order does not matter."""
    if registry.get(backend).unsupported(algorithms.get(name)) is not None:
        pytest.skip(f"not applicable: {backend} does not run {name}")
    threads, updates, piece = (4, 2, 70) if backend == "interpreter" else (THREADS, 12, 1500)
    hasher = it.new(name, backend=backend, **keyed(name))
    data, ready = on_device(pattern(piece), backend), threading.Barrier(threads)

    def work(_: int) -> None:
        ready.wait()
        for _ in range(updates):
            hasher.update(data)
            hasher.copy().digest()

    run_interleaved(work, threads)
    whole = pattern(piece) * (threads * updates)
    assert hasher.digest() == oracle(algorithms.get(name), whole, **keyed(name))


def test_sums_that_many_threads_add_to():
    sums = it.LtHash(backend="native")

    def work(i: int) -> None:
        for k in range(5):
            sums.add(bytes([i, k]))

    run_interleaved(work, THREADS)
    assert sums == it.LtHash(backend="native").add_batch(
        [bytes([i, k]) for i in range(THREADS) for k in range(5)]
    )


class Interrupted(it.Hash):
    """A hash whose stream is interrupted within an update, or updated again there."""

    def __init__(self, within):
        super().__init__(algorithms.get("sha256"), {}, "native")
        self._stream = self
        self._within = within

    def update(self, view, /):
        if self._whole:
            super().update(view)
        else:
            self._within(self)


@pytest.mark.parametrize("nested", [False, True], ids=["interrupted", "nested"])
def test_an_update_that_is_broken_off_gives_no_digest(nested):
    def within(hasher):
        if nested:  # as the handler of a signal may
            it.Hash.update(hasher, b"more")
        raise KeyboardInterrupt

    hasher = Interrupted(within)
    with pytest.raises(RuntimeError if nested else KeyboardInterrupt):
        hasher.update(b"data")
    for call in (hasher.digest, hasher.copy, hasher.hexdigest, lambda: it.Hash.update(hasher, b"x")):
        with pytest.raises(RuntimeError, match="sha256: an update of this object was broken off"):
            call()
