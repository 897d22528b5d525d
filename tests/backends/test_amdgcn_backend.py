"""Digests by the code that Triton compiles for AMD GPUs, and the faults of a user's kernel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.aot.compiling import Target
from integrity_triton.backends import registry
from integrity_triton.backends.emulation.backend import EmulatedBackend
from integrity_triton.backends.emulation.faults import EmulationError
from integrity_triton.drivers.poly1305 import Poly1305Driver
from integrity_triton.launching import launch
from integrity_triton.self_tests.admission import VARIABLE
from support import oracle, pattern, required, rows_as_bytes

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TARGETS = ("gfx942", "gfx950", "gfx1100", "gfx1201")
FAMILIES = (
    "sha256", "sha512", "sha1", "md5", "sm3", "sha3_256", "blake2b", "blake2s", "blake3", "crc32c",
    "crc64_nvme", "siphash_2_4", "gmac_aes", "cmac_aes", "poly1305",
)  # fmt: skip
LENGTHS = (0, 1, 3, 15, 16, 17, 63, 64, 65, 200)


@pytest.fixture
def amdgcn(monkeypatch: pytest.MonkeyPatch) -> type[EmulatedBackend]:
    """The class of the backend. Self-tests are off, since each of them takes longer than a test."""
    monkeypatch.setenv(VARIABLE, "off")
    return type(registry.get("amdgcn"))


def _digests_are_right(name: str, monkeypatch: pytest.MonkeyPatch, target: str, backend: type) -> None:
    monkeypatch.setenv("INTEGRITY_TRITON_AMDGCN_TARGET", target)
    monkeypatch.setitem(registry._backends, "amdgcn", backend())
    record = algorithms.get(name)
    messages = [pattern(n) for n in LENGTHS]
    found = it.hash_batch(messages, name, backend="amdgcn", **required(record))
    assert rows_as_bytes(found) == [oracle(record, m, **required(record)) for m in messages]


def test_it_is_listed_as_emulated() -> None:
    status = {s.name: s for s in it.backends()}["amdgcn"]
    assert status.for_tests and "emulated" in status.reason and "emulated" in status.summary
    assert status.devices == ("emulated gfx942",)
    with pytest.raises(ValueError, match=r"a target must be one of gfx942, .*gfx1201, not 'gfx900'"):
        registry.get("amdgcn").driver_of("gfx900")


@pytest.mark.parametrize("target", TARGETS)
def test_configurations_are_those_of_the_device(target: str, monkeypatch) -> None:
    """A program has a lane for each thread of its waves, as on a device (see test_hip.py)."""
    monkeypatch.setenv("INTEGRITY_TRITON_AMDGCN_TARGET", target)
    backend = type(registry.get("amdgcn"))()
    real = Target.parse(f"hip:{target}")
    assert backend.targets()[target].warp_size == real.threads_per_warp
    for kernel in launch._tuning()["hip"]:
        for block in (None, *launch._tuning()["hip"]):
            assert backend.tuned(kernel, block) == launch.tuned(real.tuning, kernel, block)


def test_digests_are_those_of_the_algorithm(amdgcn, monkeypatch) -> None:
    _digests_are_right("crc32c", monkeypatch, "gfx942", amdgcn)


@pytest.mark.slow
@pytest.mark.rotating(8)
@pytest.mark.parametrize(
    ("name", "target"),
    [(name, target) for name in FAMILIES for target in ("gfx942", "gfx1100")]
    + [(name, target) for name in ("sha256", "siphash_2_4") for target in ("gfx950", "gfx1201")],
)
def test_digests_on_all_targets(name: str, target: str, amdgcn, monkeypatch) -> None:
    _digests_are_right(name, monkeypatch, target, amdgcn)


@pytest.mark.slow
@pytest.mark.rotating(2)
@pytest.mark.parametrize("target", TARGETS)
def test_matrix_units_multiply(target: str, amdgcn, monkeypatch) -> None:
    """Rows of Poly1305 that fill the tile of a matrix product: each row and column of it is used."""
    monkeypatch.setenv("INTEGRITY_TRITON_AMDGCN_TARGET", target)
    backend = amdgcn()
    monkeypatch.setitem(registry._backends, "amdgcn", backend)
    monkeypatch.setattr(Poly1305Driver, "way", "rows")
    messages = torch.frombuffer(bytearray(pattern(128 * 2048)), dtype=torch.uint8).view(128, 2048)
    key = bytes(range(32))
    found = it.hash_batch(messages, "poly1305", key=key, backend="amdgcn")
    assert torch.equal(found, it.hash_batch(messages, "poly1305", key=key, backend="native"))
    (kernel,) = (kernel for kernel in backend.coverage.kernels() if kernel.matrices)
    missed = [m.partition(" of ") for m in kernel.missed() if m.startswith(("rows", "columns"))]
    side = 32 if target in ("gfx942", "gfx950") else 16
    unused = {name for what, _, name in missed if what == f"rows {', '.join(map(str, range(side)))}"}
    assert len(unused) < len(kernel.matrices)  # those in a part of the kernel that was not executed
    # A number modulo 2^130 - 5 has 17 digits of 8 bits, and the product of these devices has 32 rows.
    digits = {f"rows {', '.join(map(str, range(17, 32)))}"} if side == 32 else set()
    assert {what for what, _, name in missed if name not in unused} == digits


@pytest.mark.parametrize("target", ["gfx942", "gfx1100"])
def test_a_users_kernel_is_checked(target: str) -> None:
    sys.path.insert(0, str(EXAMPLES / "emulated_kernel"))
    try:
        from row_sums import row_sums, row_sums_without_mask, total_without_atomics
    finally:
        sys.path.pop(0)
    x = torch.arange(300, dtype=torch.int32).reshape(3, 100)
    found = torch.zeros(3, dtype=torch.int32)
    with it.emulated("amdgcn", target=target) as coverage:
        row_sums[(3,)](x, found, 100, BLOCK=128)
    assert torch.equal(found, x.sum(1, dtype=torch.int32))
    (kernel,) = coverage.kernels()
    assert kernel.name.startswith("row_sums") and kernel.missed() == ()
    lines = (EXAMPLES / "emulated_kernel" / "row_sums.py").read_text("utf-8").split("\n")
    for faulty, error, text in (
        (row_sums_without_mask, "MemoryFault", "values = tl.load(x + row * columns + at)  # reads"),
        (total_without_atomics, "Race", "tl.store(out, before"),
    ):
        (number,) = [n for n, line in enumerate(lines, 1) if text in line]
        expected = pytest.raises(EmulationError, match=rf"\.py:{number}\b")
        with expected as caught, it.emulated("amdgcn", target=target):
            faulty[(3,)](x, found, 100, BLOCK=128)
        assert type(caught.value).__name__ == error
