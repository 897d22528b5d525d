"""What the emulated backends have Triton compile is what the device backends would have it compile.

Every launch of the self-tests is made twice, and both times the compiler is asked for nothing: once by an
emulated backend, and once by the backend of the real device, through Triton's own backend for it and with the
target that Triton's own driver reports. Type, constants, divisibility by 16 and options have to be the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from integrity_triton import algorithms
from integrity_triton.backends import registry
from integrity_triton.backends.cuda import CudaBackend
from integrity_triton.backends.emulation.backend import EmulatedBackend
from integrity_triton.backends.emulation.driver import EmulatedDriver
from integrity_triton.backends.hip import HipBackend
from integrity_triton.backends.jit import JitBackend
from integrity_triton.self_tests.catalogue import launches

FAMILIES = ("crc32c", "siphash_2_4")
CAPABILITIES = {"sm_80": (8, 0), "sm_89": (8, 9), "sm_90": (9, 0), "sm_100": (10, 0)}
WAVEFRONTS = {"gfx942": 64, "gfx950": 64, "gfx1100": 32, "gfx1201": 32}
Asked = dict[str, Any]


class RealDriver:
    """A device's driver without the device: Triton's driver tells the target of what the device says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.utils = SimpleNamespace(
            get_device_properties=lambda _: {"arch": f"{name}:sramecc+:xnack-", "warpSize": WAVEFRONTS[name]}
        )

    def get_current_device(self) -> str:
        return f"real {self.name}"

    def get_device_capability(self, device: str) -> tuple[int, int]:
        return CAPABILITIES[self.name]

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> Any:
        if self.name in CAPABILITIES:
            from triton.backends.nvidia.driver import CudaDriver

            return CudaDriver.get_current_target(self)
        from triton.backends.amd.driver import HIPDriver

        return HIPDriver.get_current_target(self)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """What the JIT asks its compiler for. Nothing is compiled, and nothing launched."""
    from triton.runtime.jit import JITFunction

    found: list[Asked] = []

    def compiles(
        self: Any,
        key: str,
        signature: Any,
        device: Any,
        constants: Any,
        options: Any,
        attributes: Any,
        warmup: bool,
    ) -> None:
        _, _, target, *_ = self.device_caches[device]
        found.append(
            {
                "kernel": self.__name__,
                "target": target,
                "signature": signature,
                "constants": constants,
                # The hook that ends the compilation early adds an empty list.
                "attributes": {place: value for place, value in attributes.items() if value},
                "options": vars(options),
            }
        )

    monkeypatch.setattr(JITFunction, "_do_compile", compiles)
    return found


@contextlib.contextmanager
def on_real_device(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[JitBackend]:
    from triton.runtime import driver

    with monkeypatch.context() as patch:
        patch.setattr(
            torch, "get_device_module", lambda _: SimpleNamespace(device=lambda _: contextlib.nullcontext())
        )
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(
            torch.cuda, "get_device_properties", lambda _: SimpleNamespace(warp_size=WAVEFRONTS.get(name, 32))
        )
        before = dict(vars(driver))
        driver.set_active(RealDriver(name))
        try:
            yield CudaBackend() if name in CAPABILITIES else HipBackend()
        finally:
            vars(driver).clear()
            vars(driver).update(before)


def _compare(names: list[str], target: str, asked: list[Asked], monkeypatch: pytest.MonkeyPatch) -> int:
    emulated = type(registry.get("ptx" if target in CAPABILITIES else "amdgcn"))()
    assert isinstance(emulated, EmulatedBackend)
    monkeypatch.setenv(emulated.target_variable, target)
    # The kernels that other tests have compiled belong to another device.
    monkeypatch.setattr(EmulatedDriver, "get_current_device", lambda self: f"asked {target}")
    tuning = emulated.targets()[target].tuning
    made = [launch for name in names for launch, _ in launches(algorithms.get(name), tuning)]
    for launch in made:
        emulated.launch(launch, emulated.options(launch))
    executed = list(asked)
    asked.clear()
    with on_real_device(target, monkeypatch) as real:
        for launch in made:
            real.launch(launch, real.options(launch))
    assert len(executed) == len(asked) == len(made)
    for one, other in zip(executed, asked, strict=True):
        assert one == other
    return len(made)


@pytest.mark.parametrize("target", ["sm_90", "gfx942", "gfx1100"])
def test_what_is_executed_is_what_would_be_launched(target, asked, monkeypatch):
    assert _compare(list(FAMILIES), target, asked, monkeypatch) > 5
    attributes = [given for one in asked for given in one["attributes"].values()]
    divisible = [["tt.divisibility", 16] in given for given in attributes]
    assert any(divisible) and {one["options"]["num_warps"] for one in asked} > {4}
    # Triton's backend for AMD also tells tensors below 2 GiB apart.
    small = [["tt.pointer_range", 32] in given for given in attributes]
    assert any(small) == (target in WAVEFRONTS)


@pytest.mark.slow
@pytest.mark.rotating(4)
@pytest.mark.parametrize("target", [*CAPABILITIES, *WAVEFRONTS])
def test_it_is_so_for_every_algorithm(target, asked, monkeypatch):
    names = [record.name for record in algorithms.all_algorithms()]
    assert _compare(names, target, asked, monkeypatch) > 300
