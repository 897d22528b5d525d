"""The keys that sign attestations: Ed25519, and ECDSA on the curves of OpenSSF Model Signing."""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ...errors import IntegrityError
from ..signing_keys import (
    has_supported_curve,
    read_private_key,
    read_public_key,
    signature_algorithm,
)

PathLike = str | os.PathLike[str]
PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

_KINDS = "an Ed25519 key, or an elliptic-curve key on P-256, P-384 or P-521"


def load_private_key(path: PathLike, password: str | None = None) -> PrivateKey:
    """Read a private key in PEM. Raises ValueError, which says what the file is, if it is of no use here or
    if the password is wrong, and OSError if the file cannot be read."""
    return checked_private_key(read_private_key(path, password), os.fspath(path))


def load_public_key(path: PathLike) -> PublicKey:
    """Read a public key in PEM. Raises as :func:`load_private_key` does."""
    return checked_public_key(read_public_key(path), os.fspath(path))


def checked_private_key(key: object, where: str = "the signing key") -> PrivateKey:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and has_supported_curve(key):
        return key
    raise ValueError(f"{where}: an attestation is signed with {_KINDS}")


def checked_public_key(key: object, where: str = "the key") -> PublicKey:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and has_supported_curve(key):
        return key
    raise ValueError(f"{where}: an attestation is verified with {_KINDS}")


def fingerprint(key: PublicKey) -> bytes:
    """SHA-256 of the key as a SubjectPublicKeyInfo in DER."""
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, spki)).digest()


def sign(key: PrivateKey, message: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    return key.sign(message, signature_algorithm(key))


def verify(key: PublicKey, signature: bytes, message: bytes) -> None:
    """Raises IntegrityError unless ``key`` signed the message."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, signature_algorithm(key))
    except InvalidSignature:
        raise IntegrityError("the signature of the attestation is not valid for this key") from None
