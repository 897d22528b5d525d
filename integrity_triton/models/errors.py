"""The exception for manifests and model files, and how names from them are shown."""

from __future__ import annotations

from ..errors import IntegrityTritonError

_LONGEST_SHOWN = 120


class ManifestError(IntegrityTritonError, ValueError):
    """A manifest, or a model from which one is made, is malformed or refused; the message says why."""


def shown(name: str) -> str:
    """A name from untrusted data, quoted for a message, with control characters escaped and cut if it is
    long."""
    if len(name) > _LONGEST_SHOWN:
        return f"{name[:_LONGEST_SHOWN]!r}... ({len(name)} characters)"
    return repr(name)
