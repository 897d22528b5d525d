"""The two sets of kernels of the opencl backend: which one a processor gets, and the digests of both."""

from __future__ import annotations

import random

import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.aot import compiling
from integrity_triton.backends import opencl, registry
from integrity_triton.backends.opencl import cpu_choice, processor
from integrity_triton.launching import launch
from support import guard, hash_batch, oracle, pattern, rows_as_bytes

AVX2 = "fpu sse4_2 avx2 sha_ni"
AVX512 = f"{AVX2} avx512f avx512dq avx512cd avx512bw avx512vl"
OTHER_SET = sorted(launch._tuning()["opencl:avx512"])


def _facts(monkeypatch, tmp_path, text: str | None) -> None:
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(processor, "_CPU_INFO", file)
    processor._described.cache_clear()


@pytest.fixture(autouse=True)
def described_anew():
    yield
    processor._described.cache_clear()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (AVX2, "avx2"),
        (AVX512, "avx512"),
        (AVX512.replace(" avx512bw", ""), "avx2"),
        (AVX512.replace("avx512f", "avx512fp16"), "avx2"),
    ],
)
def test_the_instructions_choose_the_set(monkeypatch, tmp_path, flags, expected):
    _facts(
        monkeypatch, tmp_path, f"processor\t: 0\nmodel name\t: A: B\nflags\t\t: {flags}\n\nflags\t: none\n"
    )
    monkeypatch.delenv(processor.VARIABLE, raising=False)
    assert processor.kernel_set() == expected
    assert processor.kernel_set(on_cpu=False) == "avx2"
    assert cpu_choice.instructions() == expected.upper()
    assert f"flags: {flags}" in processor.identity()
    assert opencl.OpenClBackend().tuned_for == processor.SETS[expected]


@pytest.mark.parametrize(
    "text", [None, "Features\t: fp asimd sha2\n"], ids=["no file", "another architecture"]
)
def test_where_the_system_does_not_tell_torch_is_asked(monkeypatch, tmp_path, text):
    _facts(monkeypatch, tmp_path, text)
    monkeypatch.delenv(processor.VARIABLE, raising=False)
    for capability, expected in (("AVX512", "avx512"), ("AVX2", "avx2"), ("DEFAULT", "avx2")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda said=capability: said)
        assert processor.kernel_set() == expected
    assert ("sha2" if text else "DEFAULT") in processor.identity()


@pytest.mark.parametrize("name", processor.SETS)
def test_the_environment_names_the_set(monkeypatch, tmp_path, name):
    _facts(monkeypatch, tmp_path, f"flags\t: {AVX512 if name == 'avx2' else AVX2}\n")
    monkeypatch.setenv(processor.VARIABLE, name)
    assert processor.kernel_set() == processor.kernel_set(on_cpu=False) == name


def _probe() -> tuple[opencl.OpenClBackend, object]:
    backend = opencl.OpenClBackend()
    return backend, backend.probe()


@pytest.fixture
def available():
    status = {s.name: s for s in it.backends()}["opencl"]
    if not status.available:
        pytest.skip(f"absent: {status.reason}")


def test_a_set_that_does_not_exist_is_refused(available, monkeypatch):
    monkeypatch.setenv(processor.VARIABLE, "sse")
    _, probe = _probe()
    assert not probe.available
    assert f"{processor.VARIABLE} is 'sse'; it may be avx2 or avx512" in probe.reason


@pytest.mark.parametrize("name", processor.SETS)
def test_devices_say_which_set_is_in_use(available, monkeypatch, name):
    monkeypatch.setenv(processor.VARIABLE, name)
    backend, probe = _probe()
    assert probe.reason.endswith(f", kernels for {name}")
    assert backend.tuned_for == processor.SETS[name]


def test_the_sets_differ_only_where_a_kernel_is_named():
    """``compiling.prebuilt_specializations`` lists the launches of the other set for these alone."""
    names = {
        reference.partition(":")[2]
        for record in algorithms.all_algorithms()
        if record.construction.hmac_of is None
        for reference in _references(record)
    }
    assert OTHER_SET and set(OTHER_SET) <= names


def _references(record: algorithms.Algorithm) -> list[str]:
    backend = registry.get("opencl")
    return [] if backend_refuses(record) else list(backend.driver(record).references())


def backend_refuses(record: algorithms.Algorithm) -> bool:
    from integrity_triton.drivers import driver_class

    try:
        driver_class(record)
    except TypeError:
        return True
    return False


def test_every_other_kernel_has_another_configuration():
    for name in OTHER_SET:
        assert launch.tuned("opencl:avx512", f"x:{name}") != launch.tuned("opencl", f"x:{name}"), name


def test_both_sets_have_a_target():
    tunings = {compiling.Target.parse(name).tuning for name in compiling.PORTABLE}
    assert tunings == set(processor.SETS.values())


def _one_of_each() -> list[str]:
    """For each kernel that differs, the first algorithm that is compiled with it."""
    found = {}
    for record in algorithms.all_algorithms():
        if record.construction.hmac_of is None and not record.takes_tuples:
            for reference in _references(record):
                name = reference.partition(":")[2]
                if name in OTHER_SET:
                    found.setdefault(name, record.name)
    return sorted(set(found.values()))


@pytest.fixture
def other_set(available, monkeypatch):
    backend = registry.get("opencl")
    now = backend.tuned_for
    other = next(name for name in processor.SETS.values() if name != now)
    monkeypatch.setitem(backend.__dict__, "tuned_for", other)
    yield from guard(monkeypatch, "opencl")


@pytest.mark.slow
@pytest.mark.parametrize("name", _one_of_each())
def test_the_set_for_other_processors_gives_the_same_digests(other_set, name):
    """Lengths around blocks, vectors of lanes that are not full, every alignment, rows and tables. (What the
    self-tests compare before the first digest comes in addition.)"""
    record = algorithms.get(name)
    size = record.block_size
    lengths = [0, 1, size - 1, size, size + 1, 3 * size, 5 * size + 7, 1024, 1025, 5000]
    many = [lengths[i % len(lengths)] for i in range(150)]
    random.Random(1).shuffle(many)
    text = pattern(1 << 16)
    memory = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    places = [37 * i % 1000 for i in range(len(many))]
    digests = hash_batch(
        [memory[p : p + n] for p, n in zip(places, many, strict=True)], name, backend="opencl"
    )
    expected = [oracle(record, text[p : p + n]) for p, n in zip(places, many, strict=True)]
    assert rows_as_bytes(digests) == expected
    for columns in (size, 3 * size + 5, 2048):
        rows = memory[1 : 1 + 20 * columns].view(20, columns)
        digests = hash_batch(rows, name, backend="opencl")
        assert rows_as_bytes(digests) == [oracle(record, bytes(row.tolist())) for row in rows], columns
