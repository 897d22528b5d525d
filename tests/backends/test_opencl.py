"""What concerns only the opencl backend: finding a device, its faults, its cache, threads and forks."""

from __future__ import annotations

import hashlib
import multiprocessing
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.backends import opencl, registry
from integrity_triton.backends.opencl import binary_cache, cpu_choice, processor
from integrity_triton.backends.registry import get as get_backend
from integrity_triton.messages.from_caller import batch_messages, chunk_messages
from support import rows_as_bytes

SHA256 = algorithms.get("sha256")


@pytest.fixture
def runtime():
    status = {s.name: s for s in it.backends()}["opencl"]
    if not status.available:
        pytest.skip(f"absent: {status.reason}")
    return get_backend("opencl")._runtime


def test_without_pyopencl_the_reason_is_a_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    probe = opencl.OpenClBackend().probe()
    assert not probe.available
    assert 'pip install "integrity-triton[cpu]"' in probe.reason


def test_a_broken_runtime_is_reported(runtime, monkeypatch):
    def broken():
        raise runtime.cl.LogicError("clGetPlatformIDs failed: PLATFORM_NOT_FOUND_KHR")

    monkeypatch.setattr(runtime.cl, "get_platforms", broken)
    probe = opencl.OpenClBackend().probe()
    assert not probe.available
    assert "PLATFORM_NOT_FOUND" in probe.reason
    assert "pip install" in probe.reason


class FakeDevice(types.SimpleNamespace):
    def __init__(self, runtime, **changes):
        real = runtime.device
        facts = {
            "name": "A device",
            "available": True,
            "compiler_available": True,
            "svm_capabilities": real.svm_capabilities,
            "il_version": "SPIR-V_1.2 SPIR-V_1.4 ",
            "sub_group_sizes_intel": [8, 16, 32],
            "max_work_group_size": 8192,
        }
        super().__init__(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"available": False}, "not available"),
        ({"svm_capabilities": 1}, "fine-grain system SVM"),
        ({"il_version": "SPIR-V_1.2"}, "takes SPIR-V_1.2, not SPIR-V 1.4"),
        ({"il_version": ""}, "takes no SPIR-V"),
        ({"sub_group_sizes_intel": [8, 32]}, "no sub-groups of 16"),
        ({"sub_group_sizes_intel": [8, 16]}, "no sub-groups of 32"),
        ({"max_work_group_size": 64}, "at most 64"),
    ],
)
def test_a_device_that_lacks_something_is_refused(runtime, changes, reason):
    found = opencl._unfit(runtime.cl, FakeDevice(runtime, **changes))
    assert found is None if reason is None else reason in found


def test_no_fit_device_names_each_ones_lack(runtime, monkeypatch):
    platform = types.SimpleNamespace(get_devices=lambda: [FakeDevice(runtime, il_version="")])
    monkeypatch.setattr(runtime.cl, "get_platforms", lambda: [platform])
    probe = opencl.OpenClBackend().probe()
    assert not probe.available
    assert "A device: it takes no SPIR-V" in probe.reason


def test_triton_is_not_needed(runtime):
    code = """if True:
        import sys
        sys.modules["triton"] = None
        import integrity_triton as it
        for name in ("sha256", "blake3"):
            print(it.hash_batch([b"abc"], name, backend="opencl").numpy().tobytes().hex())
        print(it.new("blake3", bytes(5000), key=bytes(32), backend="opencl").hexdigest(99))"""
    lines = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert lines[0] == hashlib.sha256(b"abc").hexdigest()
    assert lines[1] == it.new("blake3", b"abc", backend="native").hexdigest()
    assert lines[2] == it.new("blake3", bytes(5000), key=bytes(32), backend="native").hexdigest(99)


def test_the_environment_is_left_as_it_was(runtime):
    code = """if True:
        import os
        before = dict(os.environ)
        import integrity_triton as it
        it.hash_batch([b"abc"], "sha256", backend="opencl")
        assert dict(os.environ) == before"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_data_is_read_in_place(runtime):
    data = bytearray(100_000)
    tensor = torch.frombuffer(data, dtype=torch.uint8)
    before = it.hash_batch([data, tensor], "sha256", backend="opencl")
    data[50_000] = 1
    after = it.hash_batch([data, tensor], "sha256", backend="opencl")
    assert rows_as_bytes(before) == [hashlib.sha256(bytes(100_000)).digest()] * 2
    assert rows_as_bytes(after) == [hashlib.sha256(data).digest()] * 2


def test_threads_share_a_kernel(runtime):
    def run(seed: int) -> bool:
        messages = [bytes([seed, i]) * (100 + 7 * i) for i in range(50)]
        expected = [hashlib.sha256(m).digest() for m in messages]
        return all(
            rows_as_bytes(it.hash_batch(messages, "sha256", backend="opencl")) == expected for _ in range(20)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(8)))


def _in_child(queue) -> None:
    try:
        digests = it.hash_batch([bytes(4096)] * 4096, "sha256")
        automatic = digests[9].numpy().tobytes() == hashlib.sha256(bytes(4096)).digest()
        it.hash_batch([b"abc"], "sha256", backend="opencl")
    except it.BackendUnavailable as error:
        queue.put((automatic, str(error)))
    else:
        queue.put((automatic, ""))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes(runtime, method):
    it.hash_batch([b"abc"], "sha256", backend="opencl")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    automatic, error = queue.get(timeout=100)
    child.join(timeout=100)
    assert automatic
    assert ("does not survive a fork" in error) == (method == "fork")


@pytest.fixture
def cache(runtime, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "integrity_triton" / "opencl"


def _fresh_digest() -> bytes:
    backend = opencl.OpenClBackend()
    assert backend.probe().available
    digests = backend.digest_batch(SHA256, {}, batch_messages([b"abc", b"d"]), 32)
    return rows_as_bytes(digests)[0]


def test_binaries_are_cached_and_damaged_ones_replaced(cache, runtime, monkeypatch):
    monkeypatch.setattr(runtime.cl, "_PYOPENCL_NO_CACHE", False)
    expected = hashlib.sha256(b"abc").digest()
    assert _fresh_digest() == expected
    (path,) = cache.iterdir()
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert binary_cache.read(path.name) is None
    assert _fresh_digest() == expected
    assert binary_cache.read(path.name) is not None
    path.write_bytes(hashlib.sha256(b"no program").digest() + b"no program")
    assert _fresh_digest() == expected
    assert not runtime.cl._PYOPENCL_NO_CACHE  # kernels that the user compiles use it as well


def test_a_processor_with_other_instructions_has_binaries_of_its_own(cache, runtime, monkeypatch):
    """Two machines may share a home, and a virtual machine may move to another host."""
    _fresh_digest()
    monkeypatch.setattr(processor, "identity", lambda: "another")
    _fresh_digest()
    assert len(list(cache.iterdir())) == 2


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="not applicable: there is no /proc/cpuinfo")
def test_what_identifies_a_processor():
    assert len(processor.identity().splitlines()) > 2
    assert "MHz" not in processor.identity()


def test_a_binary_that_others_can_write_is_not_taken(cache):
    _fresh_digest()
    (path,) = cache.iterdir()
    assert binary_cache.read(path.name) is not None
    path.chmod(0o666)
    assert binary_cache.read(path.name) is None


def test_a_cache_that_cannot_be_written_costs_no_digest(runtime, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert _fresh_digest() == hashlib.sha256(b"abc").digest()


@pytest.mark.parametrize(
    ("kind", "text"), [("MemoryError", "OUT_OF_HOST_MEMORY"), ("RuntimeError", "OUT_OF_RESOURCES")]
)
def test_a_failing_launch_is_named(runtime, monkeypatch, kind, text):
    def failing(*arguments):
        raise getattr(runtime.cl, kind)(f"clEnqueueNDRangeKernel failed: {text}")

    monkeypatch.setattr(runtime.cl, "enqueue_nd_range_kernel", failing)
    expected = MemoryError if kind == "MemoryError" else it.BackendUnavailable
    with pytest.raises(expected, match=text):
        it.hash_batch([b"abc"], "sha256", backend="opencl")


@pytest.mark.parametrize("kind", ["MemoryError", "RuntimeError"])
def test_a_failing_launch_that_nobody_asked_for_falls_back(runtime, monkeypatch, caplog, kind):
    def failing(*arguments):
        raise getattr(runtime.cl, kind)("clEnqueueNDRangeKernel failed: OUT_OF_RESOURCES")

    monkeypatch.delenv("INTEGRITY_TRITON_BACKEND", raising=False)
    monkeypatch.setattr(registry, "_logged", set())
    monkeypatch.setattr(runtime.cl, "enqueue_nd_range_kernel", failing)
    messages = torch.zeros((4096, 4096), dtype=torch.uint8)
    with caplog.at_level("WARNING", "integrity_triton"):
        for _ in range(2):
            digests = it.hash_batch(messages, "sha256")
            assert rows_as_bytes(digests[:1]) == [hashlib.sha256(bytes(4096)).digest()]
    (record,) = caplog.records
    assert "falls back to native" in record.getMessage()
    assert "OUT_OF_RESOURCES" in record.getMessage()


def test_a_kernel_that_does_not_build_is_named_and_not_tried_again(cache, runtime, monkeypatch):
    backend = opencl.OpenClBackend()
    assert backend.probe().available
    builds = []

    def failing(*arguments):
        builds.append(arguments)
        raise runtime.cl.RuntimeError("clBuildProgram failed: BUILD_PROGRAM_FAILURE")

    monkeypatch.setattr(runtime.cl, "Program", failing)
    for _ in range(2):
        with pytest.raises(it.BackendUnavailable, match=r"does not build on .*BUILD_PROGRAM_FAILURE"):
            backend.digest_batch(SHA256, {}, batch_messages([b"abc"]), 32)
    assert len(builds) == 1


def test_the_choice_follows_the_figures(monkeypatch):
    figures = {
        "opencl_bytes_per_second": 2e9,
        "native_bytes_per_second": 1e9,
        "opencl_call": 1e-4,
        "native_message": 1e-6,
    }
    monkeypatch.setattr(
        cpu_choice, "_figures", lambda: {"algorithms": {"sha256": figures, "blake3": figures}}
    )
    monkeypatch.setattr(cpu_choice, "_threads", lambda: 4)
    data = torch.zeros(1 << 22, dtype=torch.uint8)

    def faster(messages, name="sha256"):
        return cpu_choice.kernels_are_faster(registry.get("opencl"), algorithms.get(name), messages)

    assert faster(chunk_messages(data, 4096))  # many messages
    assert not faster(chunk_messages(data, data.numel()))  # one long one
    assert not faster(batch_messages([b"abc"]))  # one short one
    assert faster(batch_messages([b"a"] * 1000))  # many short ones
    assert not faster(batch_messages([data, *[b"a"] * 1000]))  # one message is much longer than the others
    large = torch.zeros(1 << 26, dtype=torch.uint8)
    assert faster(chunk_messages(large, large.numel()), "blake3")  # a tree has many lanes
    assert not faster(chunk_messages(data, data.numel()), "blake3")  # each level of the tree needs a launch
    assert not cpu_choice.kernels_are_faster(
        registry.get("opencl"), algorithms.get("sha224"), chunk_messages(data, 64)
    )  # no figures
    assert not faster(batch_messages([]))


def test_one_message_is_estimated_with_the_rate_of_a_thread_alone(monkeypatch):
    figures = {
        "opencl_bytes_per_second": 3e9,
        "native_bytes_per_second": 5e9,  # two threads share what memory delivers
        "native_alone_bytes_per_second": 9e9,
        "opencl_call": 1e-4,
        "native_message": 1e-7,
    }
    monkeypatch.setattr(cpu_choice, "_figures", lambda: {"algorithms": {"crc32c": figures}})
    monkeypatch.setattr(cpu_choice, "_threads", lambda: 2)
    record, size = algorithms.get("crc32c"), 1 << 26
    one = chunk_messages(torch.zeros(size, dtype=torch.uint8), size)
    kernels, native = cpu_choice.estimates(registry.get("opencl"), record, one)
    assert native == pytest.approx(1e-7 + size / 9e9)
    assert native < kernels
    many = chunk_messages(torch.zeros(size, dtype=torch.uint8), size // 64)
    _, native = cpu_choice.estimates(registry.get("opencl"), record, many)
    assert native == pytest.approx(64e-7 + size / 2 / 5e9)
    del figures["native_alone_bytes_per_second"]  # figures of an earlier version
    assert cpu_choice.estimates(registry.get("opencl"), record, one)[1] == pytest.approx(1e-7 + size / 5e9)


def test_a_level_of_a_tree_takes_less_than_a_call(monkeypatch):
    figures = {
        "opencl_bytes_per_second": 3e9,
        "native_bytes_per_second": 3e9,
        "opencl_call": 1e-4,
        "opencl_level": 1e-5,
        "native_message": 1e-6,
    }
    monkeypatch.setattr(cpu_choice, "_figures", lambda: {"algorithms": {"blake3": figures}})
    monkeypatch.setattr(cpu_choice, "_threads", lambda: 2)
    messages = chunk_messages(torch.zeros(1 << 22, dtype=torch.uint8), 1 << 16)  # 64 trees of 6 levels

    def kernels():
        return cpu_choice.estimates(registry.get("opencl"), algorithms.get("blake3"), messages)[0]

    assert kernels() == pytest.approx(1e-4 + 6 * 1e-5 + (1 << 22) / 2 / 3e9)
    del figures["opencl_level"]  # figures of an earlier version
    assert kernels() == pytest.approx(1e-4 + 6 * 1e-4 + (1 << 22) / 2 / 3e9)


@pytest.mark.parametrize("name", ["sha256", "hmac_sha256", "blake3", "poly1305", "crc32c", "sha224"])
def test_the_quick_choice_for_one_message_is_that_of_the_estimates(runtime, name):
    opencl, record = registry.get("opencl"), algorithms.get(name)
    quick = 0
    for size in (0, 1, 1000, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 26):
        data = torch.empty(size, dtype=torch.uint8)
        for messages in (batch_messages([data]), batch_messages(data.view(1, size))):
            found = cpu_choice.estimates(opencl, record, messages)
            expected = found is not None and found[0] < found[1]
            assert cpu_choice.kernels_are_faster(opencl, record, messages) == expected, size
            quick += cpu_choice._is_soon_done(record, messages)
    assert bool(quick) == (found is not None)


def test_an_automatic_batch_runs_on_opencl_and_one_message_on_native(runtime, monkeypatch):
    from integrity_triton.backends.registry import select

    monkeypatch.delenv("INTEGRITY_TRITON_BACKEND", raising=False)
    many = chunk_messages(torch.zeros(1 << 24, dtype=torch.uint8), 4096)
    one = chunk_messages(torch.zeros(1 << 24, dtype=torch.uint8), 1 << 24)
    assert select(SHA256, "cpu", messages=many).name == "opencl"
    assert select(SHA256, "cpu", messages=one).name == "native"
    assert select(SHA256, "cpu", messages=None).name == "native"


GUARDED = """if True:
    import ctypes, hashlib, mmap, sys
    import torch
    import integrity_triton as it
    page = 16 * mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory[:page] = bytes(i % 251 for i in range(page))
    # No access to the second page from here on.
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(base + page), page, 0) == 0
    beyond = int(sys.argv[1])
    names = sys.argv[2:]
    for name in {"sha256", "blake3", "sha3_512", "sha3_256", "shake_128"} & {*names}:
        length = 32 if name == "shake_128" else None
        for size in [*range(1, 140), 1023, 1024, 1025, 2048, 3001]:
            message = torch.frombuffer(memory, dtype=torch.uint8, offset=page - size, count=size + beyond)
            digest = it.hash_batch([message], name, length=length, backend="opencl").numpy().tobytes()
            expected = it.new(name, memory[page - size : page], backend="native").digest(length)
            assert digest == expected, (name, size)
    from integrity_triton.drivers.poly1305 import Poly1305Driver
    key = bytes(range(32))
    for way in Poly1305Driver.ways if "poly1305" in names else ():
        Poly1305Driver.way = way
        for size in [*range(1, 66), 127, 128, 1000, 1023, 1024, 1025, 1032, 2047, 2048, 2049, 4097, 10000]:
            message = torch.frombuffer(memory, dtype=torch.uint8, offset=page - size, count=size + beyond)
            digest = it.hash_batch([message], "poly1305", key=key, backend="opencl").numpy().tobytes()
            expected = it.new("poly1305", memory[page - size : page], key=key, backend="native").digest()
            assert digest == expected, (way, size)
    for name in {"crc32", "crc64_nvme", "xxh64", "xxh3_128"} & {*names}:
        for size in [*range(1, 260, 3), 1023, 1024, 1089, 4097, 40001, 65001, 65003]:
            message = torch.frombuffer(memory, dtype=torch.uint8, offset=page - size, count=size)
            copy = bytes(memory[page - size : page])
            found, expected = (it.hash_batch([m], name, backend="opencl") for m in (message, copy))
            assert found.equal(expected), (name, size)
    print("read no byte beyond")"""


@pytest.mark.skipif(sys.platform != "linux", reason="not applicable: mprotect is called as on Linux")
@pytest.mark.parametrize(
    "names",
    [
        ("sha256", "blake3"),
        pytest.param(("sha3_512", "sha3_256", "shake_128"), marks=pytest.mark.slow),
        pytest.param(("poly1305",), marks=pytest.mark.slow),
        pytest.param(("crc32", "crc64_nvme", "xxh64", "xxh3_128"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_nothing_is_read_beyond_a_message(runtime, names):
    """A message ends where a page without access starts, at every alignment."""

    def run(beyond: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", GUARDED, str(beyond), *names]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good = run(0)
    assert good.returncode == 0, good.stderr
    assert "read no byte beyond" in good.stdout
    if "sha256" in names:
        assert run(1).returncode < 0  # the process is killed, so the page is indeed guarded
