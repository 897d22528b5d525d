"""The registry of algorithms: frozen records, looked up by hashlib's name or an alias.

Another package adds its own through the entry-point group ``integrity_triton.algorithms``: each
entry point loads to an :class:`Algorithm` or an iterable of them.
"""

from __future__ import annotations

import ast
import operator
import threading
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .constructions import (
    AesCmac,
    AesGmac,
    Blake2,
    Blake2Parallel,
    Blake2X,
    Blake3Tree,
    Construction,
    Crc,
    HighwayHash,
    Hmac,
    IteratedHash,
    KangarooTree,
    Kmac,
    Poly1305,
    Poly1305Aes,
    SipHash,
    Sponge,
    SpongeTree,
    TupleSponge,
    XxHash,
)
from .hmac import hmac_over
from .parameter import Parameter, ValuesPerMessage
from .record import Algorithm, Security

__all__ = [
    "AesCmac",
    "AesGmac",
    "Algorithm",
    "Blake2",
    "Blake2Parallel",
    "Blake2X",
    "Blake3Tree",
    "Construction",
    "Crc",
    "HighwayHash",
    "Hmac",
    "IteratedHash",
    "KangarooTree",
    "Kmac",
    "Parameter",
    "Poly1305",
    "Poly1305Aes",
    "Security",
    "SipHash",
    "Sponge",
    "SpongeTree",
    "TupleSponge",
    "ValuesPerMessage",
    "XxHash",
    "all_algorithms",
    "get",
    "load_constant",
    "load_reference",
    "register",
    "without_checksums",
]

ENTRY_POINT_GROUP = "integrity_triton.algorithms"
_BUILTIN_MODULES = (
    "sha2",
    "blake3",
    "sha1",
    "md5",
    "sm3",
    "ripemd160",
    "keccak",
    "blake2",
    "crc",
    "xxhash",
    "siphash",
    "aes",
    "highwayhash",
    "poly1305",
)
_OPERATORS: dict[type[ast.operator], Any] = {
    ast.LShift: operator.lshift,
    ast.BitOr: operator.or_,
    ast.Mult: operator.mul,
    ast.Add: operator.add,
}

_lock = threading.RLock()
_records: dict[str, Algorithm] = {}
_names: dict[str, str] = {}  # every name and alias, lower case, to the record's name
_entry_points_loaded = False


def register(record: Algorithm) -> None:
    """Add a record, and with a hash's the one of HMAC over it.

    Raises ValueError if its name or an alias is taken.
    """
    if not isinstance(record, Algorithm):
        raise TypeError(f"an algorithm is registered as an Algorithm record, not {type(record).__name__}")
    with _lock:
        spellings = (record.name, *record.aliases)
        for spelling in spellings:
            if spelling in _names:
                raise ValueError(f"algorithm name {spelling!r} is taken by {_names[spelling]!r}")
        if len(set(spellings)) != len(spellings):
            raise ValueError(f"algorithm {record.name!r} repeats an alias")
        _records[record.name] = record
        for spelling in spellings:
            _names[spelling] = record.name
        derived = hmac_over(record)
        if derived is not None and derived.name not in _names:
            register(derived)


def _load_entry_points() -> None:
    global _entry_points_loaded
    with _lock:
        if _entry_points_loaded:
            return
        from importlib.metadata import entry_points  # slow: not before a name needs it

        for entry in entry_points(group=ENTRY_POINT_GROUP):
            loaded = entry.load()
            records: Iterable[Algorithm] = (loaded,) if isinstance(loaded, Algorithm) else loaded
            for record in records:
                register(record)
        _entry_points_loaded = True


def get(name: str) -> Algorithm:
    """The record for a name or alias, in any case. Raises ValueError for an unknown one."""
    if not isinstance(name, str):
        raise TypeError(f"an algorithm is named by a str, not {type(name).__name__}")
    key = name.lower()
    if key not in _names:
        _load_entry_points()
    try:
        return _records[_names[key]]
    except KeyError:
        raise ValueError(f"unknown algorithm {name!r} (available: {', '.join(sorted(_records))})") from None


def all_algorithms() -> tuple[Algorithm, ...]:
    """Every record, entry points included, in order of registration."""
    _load_entry_points()
    return tuple(_records.values())


def without_checksums() -> tuple[str, ...]:
    """Names of all hashes and MACs: what may stand where an adversary is to be resisted."""
    return tuple(r.name for r in all_algorithms() if r.security is not Security.CHECKSUM)


def load_reference(reference: str) -> Any:
    """The object that ``"package.module:name"`` names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def syntax(source: bytes) -> ast.Module:
    """A device file's syntax tree. In CPython 3.11 all threads share what the parser counts its depth with,
    so that two that parse at a time may get a SystemError."""
    with _lock:
        return ast.parse(source)


@cache
def load_constant(reference: str) -> Any:
    """The value of a device file's ``NAME = tl.constexpr(...)``, read from the source: the file itself
    imports Triton, which a machine that only runs prebuilt kernels may lack.

    Raises ValueError if there is no such constant of integers.
    """
    module, _, name = reference.partition(":")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"{reference}: there is no source of {module}")
    for node in syntax(Path(spec.origin).read_bytes()).body:
        if (
            isinstance(node, ast.Assign)
            and [t.id for t in node.targets if isinstance(t, ast.Name)] == [name]
            and isinstance(node.value, ast.Call)
            and len(node.value.args) == 1
        ):
            return _value(node.value.args[0], reference)
    raise ValueError(f"{reference} is not a constant")


def _value(node: ast.expr, reference: str) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(_value(element, reference) for element in node.elts)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, reference), _value(node.right, reference))
    raise ValueError(f"{reference} is not made of integers alone")


for _module in _BUILTIN_MODULES:
    for _record in import_module(f"{__name__}.{_module}").RECORDS:
        register(_record)
