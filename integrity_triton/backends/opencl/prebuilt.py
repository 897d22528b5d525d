"""Prebuilt kernels: found by what a launch needs, and refused unless they are what the lock file says.

``artifacts/`` holds one archive, a ``.tar.xz`` file, for each kernel and the device functions that it is
compiled with. For each variant of the kernel the archive has a SPIR-V binary and a JSON sidecar, which tells
a program in any language how to launch it. ``lock.json`` records the SHA-256 digests of each archive, of the
binaries and sidecars in it, and of the device code that they were compiled from. This detects damage and
stale binaries. It is no protection against an attacker who can change the package, because that attacker
can change the lock file as well.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import lzma
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...algorithms import syntax
from ...algorithms.package_name import IMPORTED_AS, module_here
from ...errors import BackendUnavailable
from ...launching.launch import COMPILER_OPTIONS, Launch

FORMAT = 2
"""The format of the lock file and of the archives."""
LOCK = "lock.json"
_ARCHIVE = re.compile(r"[a-z0-9_]+(-[a-z0-9_]+)*")
_ARTIFACT = re.compile(r"[a-z0-9_]+-[0-9a-f]{16}")
_REFERENCE = re.compile(r"integrity_triton\.kernels\.[a-z0-9_]+:[a-z0-9_]+")


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
    grf_mode: int | None = None
    """The number of registers of a hardware thread of an Intel GPU. With None, the driver chooses it."""

    @classmethod
    def of(cls, launch: Launch, options: Mapping[str, int]) -> Specialization:
        constants = {**launch.constants, **{k: v for k, v in options.items() if k not in COMPILER_OPTIONS}}
        types = tuple((name, _type_of(value)) for name, value in launch.arguments.items())
        chosen = (options.get(name) for name in ("threads_per_warp", "grf_mode"))
        return cls(launch.kernel, constants, types, options["num_warps"], *chosen)

    @property
    def name(self) -> str:
        """The artifact's name: the kernel's name, and a digest of all fields."""
        fields = [self.kernel, dict(self.constants), self.arguments, self.num_warps, self.threads_per_warp]
        if self.grf_mode is not None:
            fields.append(self.grf_mode)
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
        return f"{self.kernel.partition(':')[2]}-{digest[:16]}"

    @property
    def archive(self) -> str:
        """The name of the archive that holds the artifact: the names of all ``references``."""
        return "-".join(reference.partition(":")[2] for reference in self.references)

    @property
    def references(self) -> tuple[str, ...]:
        """The kernel and the device functions that it was compiled with, each as ``"module:name"``."""
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
    return Path(str(resources.files(IMPORTED_AS))) / "artifacts"


def file_name(archive: str) -> str:
    """The name of an archive's file in ``folder()``."""
    return f"{archive}.tar.xz"


def source_digest(references: Iterable[str]) -> str:
    """A digest of the device files that define ``references``, and of all siblings that these import."""
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
    """A device file's text, with every line end as ``\\n``, and the names of the siblings that it imports."""
    spec = find_spec(module_here(module))
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
    """The lock file. Raises BackendUnavailable if it is missing, malformed or of another format."""
    path = folder() / LOCK
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, not {FORMAT}")
        for archive, entry in found["archives"].items():
            if not _ARCHIVE.fullmatch(archive):
                raise ValueError(f"{archive!r} is not the name of an archive")
            if not all(_REFERENCE.fullmatch(reference) for reference in entry["references"]):
                raise ValueError(f"{archive}: a reference does not name a device function of this package")
            digests = [entry["sources"], entry["archive"]]
            for name, artifact in entry["artifacts"].items():
                if not _ARTIFACT.fullmatch(name):
                    raise ValueError(f"{name!r} is not the name of an artifact")
                digests += artifact["binary"], artifact["sidecar"]
            if not all(isinstance(digest, str) for digest in digests):
                raise ValueError(f"{archive}: a digest is not a string")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason: object = error
        if isinstance(error, KeyError):
            reason = f"an object has no member {error}"
        elif isinstance(error, TypeError | AttributeError):
            reason = f"a member has the wrong type: {error}"
        raise BackendUnavailable(f"the prebuilt kernels cannot be read: {path}: {reason}") from error
    return found


def load(name: str) -> Prebuilt:
    """The artifact ``name``. Raises BackendUnavailable if its archive is missing, altered or stale."""
    for archive, entry in lock()["archives"].items():
        if name in entry["artifacts"]:
            return unpacked(archive)[name]
    raise BackendUnavailable(f"there is no prebuilt kernel {name}")


@cache
def unpacked(archive: str) -> dict[str, Prebuilt]:
    """The artifacts of an archive that the lock file names.

    All variants of a kernel are unpacked at once: ``missing`` verifies them all in any case, and they take a
    third of the space, and less time, when they are compressed together. Nothing is unpacked before the
    archive's own digest is found to be right.

    Raises BackendUnavailable if the archive is missing, altered or stale.
    """
    entry = lock()["archives"][archive]
    try:
        packed = (folder() / file_name(archive)).read_bytes()
    except OSError as error:
        raise BackendUnavailable(f"the prebuilt kernels {archive} cannot be read: {error}") from error
    if hashlib.sha256(packed).hexdigest() != entry["archive"]:
        raise BackendUnavailable(f"the prebuilt kernels {archive} are not those that were locked")
    if source_digest(entry["references"]) != entry["sources"]:
        raise BackendUnavailable(
            f"the prebuilt kernels {archive} are older than their source; "
            "rebuild with python -m integrity_triton.aot"
        )
    members = unpack(packed)
    artifacts = {}
    for name, digests in entry["artifacts"].items():
        for member, kind in ((f"{name}.spv", "binary"), (f"{name}.json", "sidecar")):
            if member not in members or hashlib.sha256(members[member]).hexdigest() != digests[kind]:
                raise BackendUnavailable(f"prebuilt kernel {name}: its {kind} is not the one that was locked")
        artifacts[name] = Prebuilt(name, members[f"{name}.spv"], json.loads(members[f"{name}.json"]))
    return artifacts


def unpack(packed: bytes) -> dict[str, bytes]:
    """The members of an archive by name. They are looked up and never written to files."""
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(packed)), mode="r:") as archive:
        files = [(member.name, archive.extractfile(member)) for member in archive]
        return {name: file.read() for name, file in files if file is not None}


def missing(reference: str) -> str | None:
    """Why the prebuilt kernels do not serve ``reference``, a device function or kernel as ``"module:name"``;
    None if there are some and all of them are in order."""
    try:
        found = [name for name, entry in lock()["archives"].items() if reference in entry["references"]]
        for archive in found:
            unpacked(archive)
    except BackendUnavailable as error:
        return str(error)
    return None if found else f"no prebuilt kernel runs {reference.partition(':')[2]}"
