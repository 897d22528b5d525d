"""Evidence of other devices, such as GPUs, which this package does not verify itself.

A token is opaque here: the statement binds its SHA-256. Its own verifier, which the relying party runs, gives
a verdict as a file of claims, and the claims are compared with a policy. ``docs/attestation.md`` says what
that proves.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from ...errors import IntegrityError
from ...strict_json import parse_object, shown
from ..regular_files import read_regular
from .errors import AttestationError

MAX_TOKEN = 16 << 20
MAX_CLAIMS = 1 << 20

_NONCE_DOMAIN = b"integrity_triton attestation token v1"
_JWT_PARTS = 3

PathLike = str | os.PathLike[str]
_Scalar = str | int | bool


def token_nonce(nonce: bytes) -> bytes:
    """The 32 bytes that the verifier of a GPU takes as its nonce: SHA-256 over a domain and the nonce of the
    attestation, each after its length as 8 bytes, little-endian."""
    parts = (_NONCE_DOMAIN, nonce)
    return hashlib.sha256(b"".join(len(p).to_bytes(8, "little") + p for p in parts)).digest()


def read_token(path: PathLike) -> bytes:
    """SHA-256 of a file with a token. Raises ValueError for a file that is empty or too large."""
    data = read_regular(path, MAX_TOKEN, "a token")
    if not data:
        raise AttestationError(f"{os.fspath(path)}: an empty file is no token")
    return hashlib.sha256(data).digest()


def read_claims(path: PathLike) -> dict[str, Any]:
    """The claims of a verdict, which are an object of JSON.

    Raises AttestationError for anything else, and for a JWT that is still signed: its signature is for the
    verifier of the token to check.
    """
    data = read_regular(path, MAX_CLAIMS, "a file of claims")
    parts = data.strip().split(b".")
    if len(parts) == _JWT_PARTS and parts[0].startswith(b"eyJ"):
        raise AttestationError(
            f"{os.fspath(path)}: a signed JWT; verify it with the verifier that made it, and give the claims "
            "that this shows"
        )
    try:
        return parse_object(data, floats=True)
    except ValueError as error:
        raise AttestationError(f"{os.fspath(path)}: {error}") from None


def check_claims(claims: Mapping[str, Any], expected: Mapping[str, _Scalar], nonce: bytes | None) -> str:
    """What the claims were found to say. Raises IntegrityError for a claim that is absent or differs, and, if
    the nonce of the attestation is given, unless ``eat_nonce`` is the token's nonce in hexadecimal."""
    for name, value in expected.items():
        if name not in claims:
            raise IntegrityError(f"the claims lack {shown(name)}")
        if type(claims[name]) is not type(value) or claims[name] != value:
            raise IntegrityError(f"the claim {shown(name)} is {shown(str(claims[name]))}, not {value!r}")
    if nonce is not None:
        stated = claims.get("eat_nonce")
        if not isinstance(stated, str) or stated.lower() != token_nonce(nonce).hex():
            raise IntegrityError("the claim 'eat_nonce' is not the nonce that belongs to this attestation")
    return f"{len(expected)} claims as the policy demands"
