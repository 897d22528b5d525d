"""The device report of an attestation: what the package knows of the machine that it runs on."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib import metadata
from typing import Any

from ..._version import __version__
from ...backends.registry import get, statuses

_LIBRARIES = ("torch", "triton", "numpy", "safetensors", "blake3", "cryptography")


def device_report() -> dict[str, Any]:
    """Versions, and each backend with its devices and their drivers, as strings, lists and dicts.

    These are the words of the program that makes the report. Evidence of the hardware is something else.
    """
    backends = {}
    for status in statuses():
        if not status.available or status.for_tests:
            continue
        drivers = get(status.name).driver_versions()
        backends[status.name] = [
            {"name": name, **({"driver": drivers[i]} if i < len(drivers) else {})}
            for i, name in enumerate(status.devices)
        ]
    libraries = {}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            libraries[name] = metadata.version(name)
    return {
        "package": f"integrity-triton {__version__}",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libraries": libraries,
        "backends": backends,
    }
