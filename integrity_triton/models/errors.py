"""The exception for manifests and model files."""

from __future__ import annotations

from ..errors import IntegrityTritonError
from ..strict_json import shown

__all__ = ["ManifestError", "shown"]


class ManifestError(IntegrityTritonError, ValueError):
    """A manifest, or a model from which one is made, is malformed or refused; the message says why."""
