"""Model weights: manifests of their tensors, and OpenSSF Model Signing (``models.oms``).

Importing this package imports neither torch nor safetensors.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import oms as oms
    from .entry import TensorEntry
    from .errors import ManifestError
    from .file_digests import FileDigest, FileDigests
    from .manifest import Manifest
    from .report import ModelReport, TensorChange

__all__ = [
    "FileDigest",
    "FileDigests",
    "Manifest",
    "ManifestError",
    "ModelReport",
    "TensorChange",
    "TensorEntry",
    "oms",
]

_LAZY = {
    "FileDigest": "file_digests",
    "FileDigests": "file_digests",
    "Manifest": "manifest",
    "ManifestError": "errors",
    "ModelReport": "report",
    "TensorChange": "report",
    "TensorEntry": "entry",
}
_SUBMODULES = ("oms",)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _SUBMODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
