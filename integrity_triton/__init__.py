"""Hash and MAC primitives as Triton kernels, run where the data is, and model verification on top.

Importing this package imports neither torch nor triton.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import BackendUnavailable, IntegrityError, IntegrityTritonError, SelfTestError

if TYPE_CHECKING:
    from . import integrations as integrations
    from . import models as models
    from . import ops as ops
    from . import trees as trees
    from .backends.registry import BackendStatus, use_backend
    from .batch import hash_batch, hash_chunks
    from .crc import crc_combine
    from .emulation import emulated
    from .files import hash_file
    from .hashing import Hash, new
    from .kdf import hkdf_batch, pbkdf2_batch
    from .lthash import LtHash
    from .mac import TagMismatch, TensorTags, mac_tensors
    from .merkle import MerkleTree, TreeHead

    algorithms_available: frozenset[str]

    def __getattr__(name: str) -> Callable[..., Hash]: ...


__all__ = [
    "BackendUnavailable",
    "Hash",
    "IntegrityError",
    "IntegrityTritonError",
    "LtHash",
    "MerkleTree",
    "SelfTestError",
    "TagMismatch",
    "TensorTags",
    "TreeHead",
    "__version__",
    "algorithms_available",
    "backends",
    "crc_combine",
    "emulated",
    "hash_batch",
    "hash_chunks",
    "hash_file",
    "hkdf_batch",
    "integrations",
    "mac_tensors",
    "models",
    "new",
    "ops",
    "pbkdf2_batch",
    "trees",
    "use_backend",
]

# The package of this name is imported first; later, its import would replace the function below.
import_module(f"{__name__}.backends")


def backends() -> tuple[BackendStatus, ...]:
    """Every backend: whether it can run here, on which devices, and if not, why."""
    from .backends.registry import statuses

    return statuses()


_LAZY = {
    "Hash": "hashing",
    "LtHash": "lthash",
    "MerkleTree": "merkle",
    "TagMismatch": "mac",
    "TensorTags": "mac",
    "TreeHead": "merkle",
    "crc_combine": "crc",
    "emulated": "emulation",
    "hash_batch": "batch",
    "hash_chunks": "batch",
    "hash_file": "files",
    "hkdf_batch": "kdf",
    "mac_tensors": "mac",
    "new": "hashing",
    "pbkdf2_batch": "kdf",
    "use_backend": "backends.registry",
}
_SUBMODULES = (
    "algorithms",
    "batch",
    "conformance",
    "hashing",
    "integrations",
    "lthash",
    "models",
    "ops",
    "trees",
)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name in _SUBMODULES:
            return import_module(f"{__name__}.{name}")
        if name in _LAZY:
            value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
        else:
            algorithms = import_module(f"{__name__}.algorithms")
            if name == "algorithms_available":
                return frozenset(record.name for record in algorithms.all_algorithms())
            try:
                record = algorithms.get(name)
            except ValueError:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
            if record.name != name:  # new() takes aliases, attributes do not
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}; see {record.name}")
            value = import_module(f"{__name__}.hashing").constructor(record)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        algorithms = import_module(f"{__name__}.algorithms")
        return sorted({*globals(), *__all__, *(record.name for record in algorithms.all_algorithms())})
