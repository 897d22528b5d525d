"""Hash trees of other projects over files and images: fs-verity, dm-verity and Bao.

Importing this package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import bao as bao
    from . import dm_verity as dm_verity
    from . import fs_verity as fs_verity

__all__ = ["bao", "dm_verity", "fs_verity"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
