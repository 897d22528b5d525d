"""The registry of algorithms holds frozen records. They are looked up by hashlib's name or by an alias.

Another package adds its own records through the entry-point group ``integrity_triton.algorithms``: each
entry point loads an :class:`Algorithm` or an iterable of them.
"""

from __future__ import annotations

import ast
import logging
import operator
import os
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
from .package_name import IS_INSTALLED, module_here
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

_logger = logging.getLogger("integrity_triton")
_lock = threading.RLock()
_records: dict[str, Algorithm] = {}
_names: dict[str, str] = {}  # maps every name and alias, in lower case, to the record's name
_entry_points_loaded = False
_unloadable: dict[str, str] = {}  # entry points of other packages, and why they cannot be loaded


def _renew_lock() -> None:
    """In a forked child, which does not have the thread that may have held the lock."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def register(record: Algorithm) -> None:
    """Add a record. If HMAC is defined over its hash, the record of that HMAC is added too.

    Raises TypeError for anything but an :class:`Algorithm`, and ValueError if the name or an alias is already
    taken or an alias is repeated.
    """
    if not isinstance(record, Algorithm):
        raise TypeError(
            f"an algorithm must be registered as an Algorithm record, not as {type(record).__name__}"
        )
    with _lock:
        derived = hmac_over(record)
        added = [record] if derived is None or derived.name in _names else [record, derived]
        names: dict[str, str] = {}
        for new in added:
            for spelling in (new.name, *new.aliases):
                if spelling in _names:
                    raise ValueError(f"algorithm name {spelling!r} is taken by {_names[spelling]!r}")
                if spelling in names:
                    raise ValueError(f"algorithm {new.name!r} repeats an alias")
                names[spelling] = new.name
        # An interrupt must not leave a half of this: a record counts once its names are here, all at once.
        _records.update((new.name, new) for new in added)
        _names.update(names)


def _load_entry_points() -> None:
    global _entry_points_loaded
    with _lock:
        if _entry_points_loaded:
            return
        from importlib.metadata import entry_points  # This import is slow, and only unknown names need it.

        for entry in entry_points(group=ENTRY_POINT_GROUP) if IS_INSTALLED else ():
            label = f"the entry point {entry.name} = {entry.value}"
            if label in _unloadable:
                continue
            try:
                loaded = entry.load()
                records: Iterable[Algorithm] = (loaded,) if isinstance(loaded, Algorithm) else loaded
                for record in records:
                    name = getattr(record, "name", None)
                    if name not in _names or _records.get(name) is not record:  # as after an interrupted try
                        register(record)
            except (Exception, SystemExit) as error:  # a package that is broken must not break the others
                _unloadable[label] = f"{type(error).__name__}: {error}"
                _logger.warning("%s cannot be loaded: %s", label, _unloadable[label])
        _entry_points_loaded = True


def get(name: str) -> Algorithm:
    """Return the record for a name or an alias; upper and lower case are not distinguished.

    Raises TypeError for a name that is not a str, and ValueError for an unknown name.
    """
    if not isinstance(name, str):
        raise TypeError(f"an algorithm is named by a str, not {type(name).__name__}")
    key = name.lower()
    if key not in _names:
        _load_entry_points()
    try:
        return _records[_names[key]]
    except KeyError:
        broken = "".join(f"; {point} cannot be loaded: {why}" for point, why in _unloadable.items())
        raise ValueError(
            f"unknown algorithm {name!r}{_suggestion(key)} (available: {', '.join(sorted(_records))}){broken}"
        ) from None


def _suggestion(key: str) -> str:
    """A question about the algorithm that an unknown name is most similar to, if it is similar to any."""
    from difflib import get_close_matches  # Only errors need it.

    spellings = get_close_matches(key.replace("_", "-"), _names, n=3, cutoff=0.7)
    found = dict.fromkeys(repr(_names[spelling]) for spelling in spellings)
    return f": did you mean {' or '.join(found)}?" if found else ""


def all_algorithms() -> tuple[Algorithm, ...]:
    """Return all records in the order of their registration, including those of entry points."""
    _load_entry_points()
    return tuple(_records.values())


def without_checksums() -> tuple[str, ...]:
    """Return the names of all hashes and MACs. Checksums are left out: they do not resist an adversary."""
    return tuple(r.name for r in all_algorithms() if r.security is not Security.CHECKSUM)


def load_reference(reference: str) -> Any:
    """Import and return the object that a reference ``"package.module:name"`` names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module_here(module)), name)


def syntax(source: bytes) -> ast.Module:
    """Return the syntax tree of a device file. Only one thread parses at a time: in CPython 3.11 all threads
    share the parser's recursion counter, so that parsing in two threads may raise a SystemError."""
    with _lock:
        return ast.parse(source)


@cache
def load_constant(reference: str) -> Any:
    """Return the value of a device file's ``NAME = tl.constexpr(...)``. It is read from the source, because
    the file imports Triton, which may be missing on a machine that only runs prebuilt kernels.

    Raises ValueError if the file has no such constant, or if the constant is not made of integers.
    """
    module, _, name = reference.partition(":")
    spec = find_spec(module_here(module))
    if spec is None or spec.origin is None:
        raise ValueError(f"{reference}: the source of {module} was not found")
    for node in syntax(Path(spec.origin).read_bytes()).body:
        if (
            isinstance(node, ast.Assign)
            and [t.id for t in node.targets if isinstance(t, ast.Name)] == [name]
            and isinstance(node.value, ast.Call)
            and len(node.value.args) == 1
        ):
            return _value(node.value.args[0], reference)
    raise ValueError(f"{reference} does not name a constant")


def _value(node: ast.expr, reference: str) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(_value(element, reference) for element in node.elts)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, reference), _value(node.right, reference))
    raise ValueError(f"{reference} contains something other than integers")


for _module in _BUILTIN_MODULES:
    for _record in import_module(f"{__name__}.{_module}").RECORDS:
        register(_record)
