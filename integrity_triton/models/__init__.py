"""Model weights: manifests of their tensors, OpenSSF Model Signing (``models.oms``), one root for every
sharding (``models.distributed``), and attestation (``models.attest``).

Importing this package imports neither torch nor safetensors.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import attest as attest
    from . import distributed as distributed
    from . import oci as oci
    from . import oms as oms
    from .entry import TensorEntry
    from .errors import ManifestError
    from .file_digests import FileDigest, FileDigests
    from .guard import Finding, Guard, GuardStatus, GuardWarning
    from .loading import LoadError, Signed, TensorDigests, load_file, load_verified, safe_open
    from .manifest import Manifest
    from .report import ModelReport, TensorChange

__all__ = [
    "FileDigest",
    "FileDigests",
    "Finding",
    "Guard",
    "GuardStatus",
    "GuardWarning",
    "LoadError",
    "Manifest",
    "ManifestError",
    "ModelReport",
    "Signed",
    "TensorChange",
    "TensorDigests",
    "TensorEntry",
    "attest",
    "distributed",
    "load_file",
    "load_verified",
    "oci",
    "oms",
    "safe_open",
]

_LAZY = {
    "FileDigest": "file_digests",
    "FileDigests": "file_digests",
    "Finding": "guard",
    "Guard": "guard",
    "GuardStatus": "guard",
    "GuardWarning": "guard",
    "LoadError": "loading",
    "Manifest": "manifest",
    "ManifestError": "errors",
    "ModelReport": "report",
    "Signed": "loading",
    "TensorChange": "report",
    "TensorDigests": "loading",
    "TensorEntry": "entry",
    "load_file": "loading",
    "load_verified": "loading",
    "safe_open": "loading",
}
_SUBMODULES = ("attest", "distributed", "oci", "oms")

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
