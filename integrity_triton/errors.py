"""Exceptions that callers are meant to catch."""

from __future__ import annotations


class IntegrityTritonError(Exception):
    """Base of the exceptions that only this package raises."""


class IntegrityError(IntegrityTritonError):
    """Data, a tag or a signature is not what it was claimed to be."""


class SelfTestError(IntegrityTritonError, RuntimeError):
    """A kernel failed its known-answer test on a device, or has no such test, so it gives no results in this
    process."""


class BackendUnavailable(IntegrityTritonError, RuntimeError):
    """A backend that is needed, or was asked for by name, cannot run here; the message says why."""
