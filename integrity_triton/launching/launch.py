"""A kernel launch, and the tuned configuration of a kernel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Launch:
    """One kernel launch."""

    kernel: str
    """``"module:name"``."""
    lanes: int
    arguments: Mapping[str, Any]
    """Tensors and 64-bit integers, in the kernel's order."""
    constants: Mapping[str, Any]
    """Compile-time arguments. Device functions are given by reference, ``"module:name"``."""
    device: torch.device


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
