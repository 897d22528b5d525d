"""A driver for Triton whose device is an emulator.

Triton's JIT launches through it as on a device. So the specialisation of arguments, the options and the
grid are the JIT's own, and what is executed is what would be launched on a device. Only the last stage of
the compiler, which makes a binary of the text that is executed here, is left out.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..interpreter.language import language_lock
from .coverage import Coverage
from .faults import EmulationError, Unmodelled
from .memory import GlobalMemory
from .program import KernelLaunch, Program, Target

_FLOATS = {"fp16": "<e", "fp32": "<f", "fp64": "<d"}


class EmulatedDriver:
    """The driver of one target. Its attributes that have no docstring are those that Triton asks a driver
    for."""

    def __init__(
        self, target: Target, coverage: Coverage, *, lanes_at_once: int = 4096, seed: int = 0
    ) -> None:
        self.target = target
        self.coverage = coverage
        self.lanes_at_once = lanes_at_once
        self.seed = seed
        self.memory: GlobalMemory | None = None
        """The memory of the launch under way; None if tensors among its arguments are all that it may
        access."""
        self.utils = self
        self._programs: dict[tuple[str, bytes], Program] = {}

    # What Triton asks for

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget(self.target.backend, self.target.architecture, self.target.warp_size)

    def get_current_device(self) -> str:
        return f"emulated {self.target.name}"  # the key of the JIT's cache of kernels

    def set_current_device(self, device: Any) -> None:
        pass

    def get_current_stream(self, device: Any) -> int:
        return 0

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise Unmodelled("an emulator has no speed to measure; launch the kernel without an autotuner")

    def get_device_properties(self, device: Any) -> dict[str, Any]:
        return {
            "max_shared_mem": self.target.shared_limit,
            "multiprocessor_count": 1,
            "warpSize": self.target.warp_size,
        }

    def load_binary(self, name: str, text: bytes, shared: int, device: Any) -> tuple[Any, ...]:
        # Triton unloads a module through the driver that is active then; there is none to unload. So it takes
        # the kernel for one that is not loaded, and asks for it again at each launch.
        if (name, text) not in self._programs:
            self._programs[name, text] = self.target.program(text.decode(), name)
        return None, self._programs[name, text], 0, 0, 1024

    def launcher_cls(self, source: Any, metadata: Any) -> _Launcher:
        return _Launcher(source, metadata)

    # Use

    @contextmanager
    def active(self, memory: GlobalMemory | None = None) -> Iterator[None]:
        """Let Triton launch through this driver in the body of a ``with``. Other threads wait."""
        from triton import knobs
        from triton.runtime import driver

        with language_lock:
            before, hook = dict(vars(driver)), knobs.runtime.add_stages_inspection_hook
            own = self.memory
            driver.set_active(self)
            knobs.runtime.add_stages_inspection_hook = self._inspect
            self.memory = memory
            try:
                with _own_cache():
                    yield
            finally:
                self.memory = own
                knobs.runtime.add_stages_inspection_hook = hook
                vars(driver).clear()
                vars(driver).update(before)

    def _inspect(self, *given: Any) -> Any:
        """Triton's hook: without arguments it gives keys for caches; otherwise it changes the stages."""
        if not given:
            return "-text", f"{self.target.binary} is text"
        stages = given[1]
        stages[self.target.binary] = lambda text, _metadata: text.encode()
        return None


@contextmanager
def _own_cache() -> Iterator[None]:
    """Keep text out of the cache of binaries. The cache's key tells them apart where it contains what the
    hook gives; the key of Triton 3.6 does not, so its cache is a folder within the usual one."""
    from triton import knobs
    from triton.compiler.compiler import compile as compiler

    if "add_stages_inspection_hook" in compiler.__code__.co_names:
        yield
        return
    with knobs.cache.scope():
        knobs.cache.dir = os.path.join(str(knobs.cache.dir), "emulated")
        yield


class _Launcher:
    """Launches one compiled kernel through the driver that is active. Triton keeps it for all drivers of one
    target."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self._signature = list(source.signature.items())
        self._metadata = metadata
        if getattr(metadata, "num_ctas", 1) != 1:
            raise Unmodelled(f"{metadata.name}: clusters of programs (num_ctas) are not emulated")

    def __call__(
        self,
        x: int,
        y: int,
        z: int,
        stream: Any,
        program: Program,
        packed: Any,
        launch_metadata: Any,
        enter: Any,
        leave: Any,
        *arguments: Any,
    ) -> None:
        from triton.runtime import driver

        active: EmulatedDriver = driver.active
        memory = active.memory
        exact = memory is not None
        if memory is None:
            memory = GlobalMemory()
        values = self._values(arguments, None if exact else memory)
        scratch = self._scratch(x * y * z, memory)
        count = program.parameters
        if len(values) > count:
            raise EmulationError(f"{program.entry} takes {count} parameters, not {len(values)}")
        trailing = [0 if scratch is None else scratch.ctypes.data, 0]
        values += (trailing + [0] * count)[: count - len(values)]
        program.run(
            KernelLaunch(
                grid=(x, y, z),
                arguments=values,
                warps=self._metadata.num_warps,
                shared_bytes=self._metadata.shared,
                memory=memory,
                coverage=active.coverage.kernel(
                    f"{self._metadata.name} {self._metadata.hash[:12]}", program.blocks, program.matrices
                ),
                seed=active.seed,
                lanes_at_once=active.lanes_at_once,
            )
        )
        memory.finish()

    def _values(self, arguments: Sequence[Any], memory: GlobalMemory | None) -> list[int]:
        """The arguments that the compiled kernel takes, as integers. Tensors are registered with
        ``memory``."""
        values = []
        for (name, kind), argument in zip(self._signature, arguments, strict=True):
            if kind == "constexpr":
                continue
            if not isinstance(kind, str):
                raise Unmodelled(f"argument {name}: tuples of arguments are not emulated")
            if kind.startswith("*") and not kind.startswith("*k"):
                if hasattr(argument, "data_ptr"):
                    if argument.device.type != "cpu":  # another device's address means nothing here
                        raise ValueError(
                            f"argument {name} is on {argument.device}: an emulated kernel takes tensors on "
                            "the CPU"
                        )
                    if memory is not None:
                        memory.register(argument.data_ptr(), _extent(argument), f"argument {name}")
                    values.append(argument.data_ptr())
                else:
                    values.append(int(argument or 0))
            elif kind in _FLOATS:
                values.append(int.from_bytes(struct.pack(_FLOATS[kind], argument), "little"))
            elif kind == "bf16":
                values.append(int.from_bytes(struct.pack("<f", argument), "little") >> 16)
            elif kind[0] in "iu" and kind[1:].isdecimal():
                values.append(int(argument) & ((1 << int(kind[1:])) - 1))
            else:
                raise Unmodelled(f"argument {name}: arguments of type {kind} are not emulated")
        return values

    def _scratch(self, programs: int, memory: GlobalMemory) -> np.ndarray[Any, Any] | None:
        """The global scratch memory that the kernel asks for."""
        size = getattr(self._metadata, "global_scratch_size", 0) * programs
        if not size:
            return None
        scratch = np.full(size, 0xA5, np.uint8)
        memory.lend(scratch, "scratch memory")
        return scratch


def _extent(tensor: Any) -> int:
    """The number of bytes from the first element of a tensor to the end of its last one."""
    if tensor.numel() == 0:
        return 0
    steps = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int((steps + 1) * tensor.element_size())
