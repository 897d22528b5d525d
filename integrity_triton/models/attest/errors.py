"""The exception for what cannot even be examined; what was examined and is wrong is an IntegrityError."""

from __future__ import annotations

from ...errors import IntegrityTritonError


class AttestationError(IntegrityTritonError, ValueError):
    """An attestation, evidence, certificate or policy is malformed or of a kind that is not supported."""


class EvidenceUnavailable(IntegrityTritonError, RuntimeError):
    """This machine offers no evidence. The message says what is missing, and nothing takes its place."""
