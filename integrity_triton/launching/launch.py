"""A kernel launch, and the tuned configuration of a kernel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from ..messages.layout import signed

if TYPE_CHECKING:
    import torch


COMPILER_OPTIONS = frozenset({"num_warps", "threads_per_warp", "grf_mode"})
"""The members of a configuration that are options of the compiler and not constants of the kernel.
``grf_mode`` is the number of registers that a hardware thread has, on GPUs that leave the choice to the
program."""

BLOCK_FORMS = ("IN_HALVES", "BY_THREE", "INTERLEAVED")
"""The members of a configuration that choose another form of a block function: the one whose name ends in the
form's name in lower case. It gives the same results with other instructions."""


def form_of(block: str) -> tuple[str, str | None]:
    """A block function's name without the end that names its form, and that form; None if it has none."""
    for form in BLOCK_FORMS:
        end = f"_{form.lower()}"
        if block.endswith(end):
            return block.removesuffix(end), form
    return block, None


class Address(int):
    """An address that a driver gives to a kernel, as an int64 (see
    :func:`~integrity_triton.messages.layout.signed`), with what owns the memory there."""

    owner: Any

    @classmethod
    def owned(cls, address: int, owner: Any) -> Address:
        found = cls(signed(address))
        found.owner = owner
        return found

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Address:
        """The address of a tensor's first element."""
        return cls.owned(tensor.data_ptr(), tensor)


@dataclass(frozen=True)
class Launch:
    """One kernel launch. It keeps all memory alive that its kernel reads or writes."""

    kernel: str
    """``"module:name"``."""
    lanes: int
    arguments: Mapping[str, Any]
    """Tensors and 64-bit integers, in the kernel's order."""
    constants: Mapping[str, Any]
    """Compile-time arguments. Device functions are given by reference, ``"module:name"``."""
    device: torch.device
    memory: tuple[Any, ...] = ()
    """What owns the memory at the addresses in ``arguments``, those in tables included."""


@cache
def _tuning() -> dict[str, dict[str, dict[str, int]]]:
    data: dict[str, dict[str, dict[str, int]]] = json.loads(
        resources.files(__package__).joinpath("tuning.json").read_text("utf-8")
    )
    return data


def tuned(backend: str, kernel: str, block: str | None = None) -> dict[str, int]:
    """A backend's configuration for a kernel, and for the block function with which it is compiled, if it
    takes one. Both are named as in a :class:`Launch`.

    ``backend`` may be followed by a colon and the name of an architecture, or of a kind of architectures.
    What the tuning data say for it then replaces what they say for the backend.
    """
    data = _tuning()
    layers = [data[backend.partition(":")[0]]]
    if ":" in backend:
        layers.append(data.get(backend, {}))
    # A form of a block function, once it is chosen, has the other members of the function's configuration.
    form = None
    if block is not None:
        block, form = form_of(block)
    found: dict[str, int] = {}
    for reference in ("default", kernel, block):
        if reference is not None:
            for layer in layers:
                found.update(layer.get(reference.rpartition(":")[2], {}))
    return found if form is None else {name: n for name, n in found.items() if name not in BLOCK_FORMS}
