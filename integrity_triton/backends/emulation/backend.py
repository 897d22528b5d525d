"""What the backends have in common that execute the kernels' compiled code in an emulator, on the CPU.

Nothing here imports NumPy before it is needed, because all backends are loaded to choose one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from ...algorithms import Algorithm, load_reference
from ...launching.launch import Launch, tuned
from ...launching.launcher import TrialSize
from ...messages.layout import Addressed, Messages, Ragged, Rows
from ..base import Probe
from ..triton_backend import TritonBackend
from ..triton_cache import launch_with_cache
from .program import Target

if TYPE_CHECKING:
    import torch

    from .coverage import Coverage
    from .driver import EmulatedDriver
    from .memory import GlobalMemory

_POISON = 0xA5


class EmulatedBackend(TritonBackend):
    """A subclass names its targets, and the one that is taken if the environment does not name another."""

    for_tests = True
    device_types = ("cpu",)
    torch_device_type = "cpu"
    trial_size = TrialSize(messages=2, lanes=257, volume=540_000, blocks=16)

    target_variable: ClassVar[str]
    """The environment variable that names the target."""
    default_target: ClassVar[str]

    @classmethod
    def targets(cls) -> Mapping[str, Target]:
        """The targets that this backend emulates, by name."""
        raise NotImplementedError

    def target(self, name: str | None = None) -> Target:
        """The target called ``name``, or else the one that the environment names, or the default. Raises
        ValueError if it is not among :meth:`targets`."""
        given = name or os.environ.get(self.target_variable) or self.default_target
        try:
            return self.targets()[given]
        except KeyError:
            source = "a target" if name else self.target_variable
            raise ValueError(f"{source} must be one of {', '.join(self.targets())}, not {given!r}") from None

    def driver_of(self, target: str | None = None, *, seed: int = 0) -> EmulatedDriver:
        """A driver for Triton with a coverage of its own. Raises ValueError as :meth:`target` does."""
        from .coverage import Coverage
        from .driver import EmulatedDriver

        return EmulatedDriver(self.target(target), Coverage(), seed=seed)

    @cached_property
    def _driver(self) -> EmulatedDriver:
        return self.driver_of()

    @property
    def coverage(self) -> Coverage:
        """The coverage of all kernels that this backend has launched, unless it was taken."""
        return self._driver.coverage

    def probe(self) -> Probe:
        try:
            import torch  # noqa: F401
            import triton
        except ImportError as error:
            return Probe(False, f"{error.name} cannot be imported; pip install {error.name}")
        reason = _missing()
        if reason is not None:
            return Probe(False, reason)
        from triton.runtime.jit import JITFunction

        if not isinstance(load_reference("integrity_triton.kernels.bits:bswap32"), JITFunction):
            return Probe(False, "TRITON_INTERPRET is set; unset it, since nothing is compiled with it")
        try:
            name = self.target().name
        except ValueError as error:
            return Probe(False, str(error))
        return Probe(True, f"emulated on the CPU, Triton {triton.__version__}", (f"emulated {name}",))

    def tuned(self, kernel: str, block: str | None = None) -> dict[str, int]:
        return tuned(self._driver.target.tuning, kernel, block)

    def is_default(self, algorithm: Algorithm, device_type: str, *, messages: Messages | None) -> bool:
        return False

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Memory that is full of one byte, so that a digest made of what was never written is wrong."""
        made = super().empty(shape, dtype, device)
        if made.numel():
            import torch

            made.view(-1).view(torch.uint8).fill_(_POISON)
        return made

    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        kernel = load_reference(launch.kernel)
        constants = {
            name: load_reference(value) if isinstance(value, str) else value
            for name, value in launch.constants.items()
        }
        programs = -(-launch.lanes // options["BLOCK_MSGS"])
        self.coverage.constants = launch.constants
        with self._driver.active(_memory(launch)):
            launch_with_cache(lambda: kernel[(programs,)](**launch.arguments, **constants, **options))


def _memory(launch: Launch) -> GlobalMemory:
    """Exactly the memory that the launch was given."""
    from .memory import GlobalMemory

    memory = GlobalMemory()
    for name, value in launch.arguments.items():
        if hasattr(value, "data_ptr"):
            memory.register(value.data_ptr(), value.numel() * value.element_size(), f"argument {name}")
    block = launch.constants.get("BLOCK_BYTES", 0)
    for owner in launch.memory:
        _register(memory, owner, block, launch.arguments.get("step", block))
    return memory


def _register(memory: GlobalMemory, owner: Any, block: int, step: int) -> None:
    """Register what owns the memory at an address in the arguments of a launch. If the blocks of a message
    are ``step`` bytes apart, it owns these blocks, and not what lies between them."""
    if isinstance(owner, Rows | Ragged):
        owner = owner.addressed()
    if isinstance(owner, Addressed):
        if step > block > 0:
            owner = _blocks(owner, block, step)
        memory.register_many(owner.addresses, owner.lengths, "the messages", vectors=True)
    elif hasattr(owner, "data_ptr"):
        memory.register(owner.data_ptr(), owner.numel() * owner.element_size(), "memory at an address")
    else:
        raise TypeError(f"the memory of a launch is owned by a {type(owner).__name__}")


def _blocks(places: Addressed, block: int, step: int) -> Addressed:
    """The blocks of messages whose blocks are ``step`` bytes apart, each as a message of its own."""
    import numpy as np

    counts = -(-places.lengths // block)
    index = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return replace(
        places,
        addresses=np.repeat(places.addresses, counts) + step * index,
        lengths=np.minimum(np.repeat(places.lengths, counts) - block * index, block),
    )


def _missing() -> str | None:
    """What the installed Triton lacks to be emulated, or None."""
    try:
        from triton import knobs
    except ImportError as error:
        return f"Triton 3.5 or later is needed ({error}); pip install --upgrade triton"
    if not hasattr(knobs.runtime, "add_stages_inspection_hook"):
        return "this Triton cannot end compilation before the last stage; pip install --upgrade triton"
    return None
