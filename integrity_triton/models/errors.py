"""The exception for manifests and model files, and how names from them are shown."""

from __future__ import annotations

from ..errors import IntegrityTritonError

_LONGEST_SHOWN = 120


class ManifestError(IntegrityTritonError, ValueError):
    """A manifest, or the model it is to be made from, is malformed or refused; the message says why."""


def shown(name: str) -> str:
    """A name out of untrusted data, quoted for a message: control characters escaped, cut if long."""
    if len(name) > _LONGEST_SHOWN:
        return f"{name[:_LONGEST_SHOWN]!r}... ({len(name)} characters)"
    return repr(name)
