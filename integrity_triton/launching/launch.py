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
    takes one. Both are named as in a :class:`Launch`."""
    data = _tuning()[backend]
    found = dict(data["default"])
    for reference in (kernel, block):
        if reference is not None:
            found.update(data.get(reference.partition(":")[2], {}))
    return found
