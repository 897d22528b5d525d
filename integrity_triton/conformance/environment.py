"""What the result of a run depends on: versions, devices and digests of the kernels."""

from __future__ import annotations

import hashlib
import platform
import re
import ssl
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from .._version import __version__
from ..algorithms import all_algorithms
from ..backends.base import Backend
from ..backends.opencl import prebuilt
from ..backends.registry import get, statuses
from ..self_tests import admission as self_test

_KNOWN = sys.stdlib_module_names | {__name__.partition(".")[0]}
_KERNELS = "integrity_triton.kernels"


def describe() -> dict[str, Any]:
    """The facts of a report, by their names."""
    found: dict[str, Any] = {
        "package": f"integrity-triton {__version__}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
    }
    for name in _libraries():
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    found["openssl"] = ssl.OPENSSL_VERSION
    for status in statuses():
        if status.available:
            found[f"backend {status.name}"] = "; ".join(
                (status.reason, *_devices(get(status.name), status.devices))
            )
    found["self-tests"] = self_test.described()
    found["kernel sources"] = f"sha256 {kernel_sources()}"
    found["prebuilt kernels"] = prebuilt_kernels()
    return found


def _libraries() -> list[str]:
    """The names of the packages that this one requires, those of the extra ``cpu``, and the CPU libraries
    that the algorithms' records name."""
    names = []
    with suppress(metadata.PackageNotFoundError):
        for requirement in metadata.requires("integrity-triton") or ():
            extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", requirement)
            if extra is None or extra[1] == "cpu":
                names += re.findall(r"\A[\w.-]+", requirement)
    tops = [r.native.partition(":")[0].partition(".")[0] for r in all_algorithms() if r.native is not None]
    return list(dict.fromkeys([*names, *(top for top in tops if top not in _KNOWN)]))


def _devices(backend: Backend, names: tuple[str, ...]) -> Iterator[str]:
    """The devices' names, each with the version of its driver if that is known."""
    versions = backend.driver_versions()
    for i, name in enumerate(names):
        yield f"{name}, driver {versions[i]}" if i < len(versions) else name


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "not known"


def kernel_sources() -> str:
    """A digest of the package's device files, which are the source that a JIT compiles."""
    files = sorted(
        path.name.removesuffix(".py")
        for path in resources.files(_KERNELS).iterdir()
        if path.name.endswith(".py") and path.name != "__init__.py"
    )
    return prebuilt.source_digest(f"{_KERNELS}.{name}:" for name in files)


def prebuilt_kernels() -> str:
    """The digest of the lock file, which in turn holds the digests of all prebuilt kernels."""
    path = prebuilt.folder() / prebuilt.LOCK
    try:
        text = path.read_bytes()
        count = sum(len(entry["artifacts"]) for entry in prebuilt.lock()["archives"].values())
    except Exception as error:  # the package also runs without them
        return f"none: {error}"
    return f"{count} kernels, {prebuilt.LOCK} sha256 {hashlib.sha256(text).hexdigest()}"
