"""Prebuilt kernels: found by what a launch asks for, and refused unless they are what was locked.

``artifacts/`` holds for each kernel a binary, compressed, and a JSON sidecar with all that a program
in any language needs to launch it. ``lock.json`` there records for each the digests of both files and
of the device code that it was compiled from. That guards against damage and against stale binaries;
whoever can rewrite the package can rewrite the lock.
"""

from __future__ import annotations

import ast
import hashlib
import json
import lzma
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...algorithms import syntax
from ...errors import BackendUnavailable
from ...launching.launch import Launch

FORMAT = 1
LOCK = "lock.json"
_NAME = re.compile(r"[a-z0-9_]+-[0-9a-f]{16}")


@dataclass(frozen=True)
class Specialization:
    """What a kernel was compiled for."""

    kernel: str
    """``"module:name"``."""
    constants: Mapping[str, Any]
    arguments: tuple[tuple[str, str], ...]
    """The arguments' names and types, in order: ``i64``, or a pointer such as ``*u32``."""
    num_warps: int
    threads_per_warp: int | None
    """None where the target leaves no choice."""

    @classmethod
    def of(cls, launch: Launch, options: Mapping[str, int]) -> Specialization:
        constants = {
            **launch.constants,
            **{k: v for k, v in options.items() if k not in ("num_warps", "threads_per_warp")},
        }
        types = tuple((name, _type_of(value)) for name, value in launch.arguments.items())
        return cls(launch.kernel, constants, types, options["num_warps"], options.get("threads_per_warp"))

    @property
    def name(self) -> str:
        """The artifact's name: the function's, and a digest of all the rest."""
        asked = [self.kernel, dict(self.constants), self.arguments, self.num_warps, self.threads_per_warp]
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return f"{self.kernel.partition(':')[2]}-{digest[:16]}"

    @property
    def references(self) -> tuple[str, ...]:
        """The kernel and the device functions that it was compiled with."""
        return (self.kernel, *(v for v in self.constants.values() if isinstance(v, str)))


def _type_of(value: Any) -> str:
    if isinstance(value, int):
        return "i64"
    return {
        "torch.int8": "*i8",
        "torch.int32": "*i32",
        "torch.int64": "*i64",
        "torch.uint32": "*u32",
        "torch.uint64": "*u64",
        "torch.uint8": "*u8",
    }[str(value.dtype)]


@dataclass(frozen=True)
class Prebuilt:
    """A verified artifact, ready to be handed to a driver."""

    name: str
    binary: bytes
    sidecar: Mapping[str, Any]


def folder() -> Path:
    return Path(str(resources.files("integrity_triton"))) / "artifacts"


def source_digest(references: Iterable[str]) -> str:
    """A digest of the device files that ``references`` live in, and of all that those import."""
    pending = {reference.partition(":")[0] for reference in references}
    found: dict[str, bytes] = {}
    while pending:
        module = pending.pop()
        found[module], imported = _source(module)
        pending |= imported - found.keys()
    digest = hashlib.sha256()
    for module in sorted(found):
        digest.update(f"{module} {len(found[module])}\n".encode() + found[module])
    return digest.hexdigest()


@cache
def _source(module: str) -> tuple[bytes, frozenset[str]]:
    """A device file's text, with line ends of one kind, and the siblings that it imports."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise BackendUnavailable(f"the source of {module} is not installed")
    text = Path(spec.origin).read_bytes().replace(b"\r\n", b"\n")
    package = module.rpartition(".")[0]
    siblings = {
        f"{package}.{node.module}"
        for node in ast.walk(syntax(text))
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
    }
    return text, frozenset(siblings)


@cache
def lock() -> dict[str, Any]:
    """The lock file. Raises BackendUnavailable where there is none, or none of this format."""
    path = folder() / LOCK
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, not {FORMAT}")
        for name, entry in found["artifacts"].items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no artifact's name")
            if not all(isinstance(entry[k], str) for k in ("sources", "sidecar", "binary")):
                raise ValueError("an entry lacks a digest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackendUnavailable(f"the prebuilt kernels cannot be read: {path}: {error}") from error
    return found


@cache
def load(name: str) -> Prebuilt:
    """The artifact ``name``. Raises BackendUnavailable if it is missing, altered or stale."""
    entry = lock()["artifacts"].get(name)
    if entry is None:
        raise BackendUnavailable(f"there is no prebuilt kernel {name}")
    try:
        sidecar_text = (folder() / f"{name}.json").read_bytes()
        packed = (folder() / f"{name}.spv.xz").read_bytes()
    except OSError as error:
        raise BackendUnavailable(f"prebuilt kernel {name} cannot be read: {error}") from error
    if hashlib.sha256(sidecar_text).hexdigest() != entry["sidecar"]:
        raise BackendUnavailable(f"prebuilt kernel {name}: its sidecar is not the one that was locked")
    if hashlib.sha256(packed).hexdigest() != entry["binary"]:
        raise BackendUnavailable(f"prebuilt kernel {name}: its binary is not the one that was locked")
    sidecar = json.loads(sidecar_text)
    references = [sidecar["kernel"], *(v for v in sidecar["constants"].values() if isinstance(v, str))]
    if source_digest(references) != entry["sources"]:
        raise BackendUnavailable(
            f"prebuilt kernel {name} is older than its source; rebuild with python -m integrity_triton.aot"
        )
    return Prebuilt(name, lzma.decompress(packed), sidecar)


def missing(reference: str) -> str | None:
    """Why no kernel serves a device function or kernel, ``"module:name"``; None if all that were
    built for it are in order."""
    try:
        names = [name for name, entry in lock()["artifacts"].items() if reference in entry["references"]]
        for name in names:
            load(name)
    except BackendUnavailable as error:
        return str(error)
    return None if names else f"no prebuilt kernel runs {reference.partition(':')[2]}"
