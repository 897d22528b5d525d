"""The digests that other projects define, bit-identical to theirs, computed where the data is; and what plugs
this package into those projects.

Each project has a module: ``integrity_triton.integrations.vllm``, for example. None of them imports the
project whose definition it follows, except a module that plugs into that project's own interfaces.
Importing this package imports neither torch nor any of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__: list[str] = []

_MODULES: tuple[str, ...] = (
    "diffusers",
    "formats",
    "huggingface",
    "megatron",
    "sglang",
    "slime",
    "tensorizer",
    "torch_hash",
    "vllm",
)
"""The names of the projects' modules, which are imported when they are first used."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
