"""The elliptic-curve keys of OpenSSF Model Signing, in PEM files."""

from __future__ import annotations

import hashlib
import os
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from .file_kinds import recognise
from .regular_files import read_regular

PathLike = str | os.PathLike[str]

MAX_KEY_SIZE = 64 << 10
"""Bytes in the file of a key."""

_CURVE_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_CURVES = "P-256, P-384 or P-521"
_PEM_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
_KEY_TYPES: tuple[tuple[tuple[type, ...], str], ...] = (
    ((rsa.RSAPublicKey, rsa.RSAPrivateKey), "an RSA key"),
    ((dsa.DSAPublicKey, dsa.DSAPrivateKey), "a DSA key"),
    ((ed25519.Ed25519PublicKey, ed25519.Ed25519PrivateKey), "an Ed25519 key"),
    ((ed448.Ed448PublicKey, ed448.Ed448PrivateKey), "an Ed448 key"),
)


def signature_algorithm(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> ec.ECDSA:
    """ECDSA with the hash that OMS pairs with the key's curve."""
    return ec.ECDSA(curve_hash(key))


def curve_hash(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> hashes.HashAlgorithm:
    """The hash that OMS pairs with the key's curve."""
    return _CURVE_HASHES[key.curve.name]


def key_hint(key: ec.EllipticCurvePublicKey) -> str:
    """The name of a key in a signature: SHA-256 of its PEM form."""
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def has_supported_curve(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> bool:
    return key.curve.name in _CURVE_HASHES


def load_public_key(path: PathLike) -> ec.EllipticCurvePublicKey:
    """Read a public key. Raises ValueError, which says what the file is, if it is of no use here, and
    OSError if it cannot be read."""
    key = read_public_key(path)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not has_supported_curve(key):
        raise ValueError(f"{os.fspath(path)}: {_unsupported(key)}")
    return key


def read_public_key(path: PathLike) -> object:
    """Read a public key of any kind. Raises as :func:`load_public_key` does for anything else."""
    data = read_regular(path, MAX_KEY_SIZE, "a key")
    if foreign := _foreign_public(data):
        raise ValueError(f"{os.fspath(path)}: not a PEM public key but {foreign}")
    try:
        return serialization.load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{os.fspath(path)}: not a PEM public key: {error}") from None


def load_private_key(path: PathLike, password: str | None) -> ec.EllipticCurvePrivateKey:
    """Read a private key. Raises ValueError, which says what the file is, if it is of no use here or if the
    password is wrong, and OSError if the file cannot be read."""
    key = read_private_key(path, password)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not has_supported_curve(key):
        raise ValueError(f"{_unusable(path)}: {_unsupported(key)}")
    return key


def read_private_key(path: PathLike, password: str | None) -> object:
    """Read a private key of any kind. Raises as :func:`load_private_key` does for anything else."""
    data = read_regular(path, MAX_KEY_SIZE, "a key")
    unusable = _unusable(path)
    if foreign := _foreign_private(data):
        raise ValueError(f"{unusable} but {foreign}")
    secret = None if password is None else password.encode()
    try:
        return serialization.load_pem_private_key(data, secret)
    except TypeError:
        missing = "it is encrypted; give its password" if password is None else "it has no password"
        raise ValueError(f"{unusable}: {missing}") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{unusable}: {error}") from None


def _unusable(path: PathLike) -> str:
    return f"{os.fspath(path)}: not a usable elliptic-curve private key"


def _unsupported(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        kind = f"a key on the curve {key.curve.name}"
    else:
        kind = next((kind for types, kind in _KEY_TYPES if isinstance(key, types)), type(key).__name__)
    return f"{kind}; the key must be an elliptic-curve key on {_CURVES}"


def _foreign_public(data: bytes) -> str | None:
    label = _label(data)
    if label.endswith("PRIVATE KEY"):
        return "a private key; a signature is verified with the public key"
    if "CERTIFICATE" in label:
        return "a certificate; extract its key with: openssl x509 -pubkey -noout -in FILE"
    if data.startswith((b"ssh-", b"ecdsa-sha2-", b"sk-ssh-", b"sk-ecdsa-")):
        return "an OpenSSH public key; convert it with: ssh-keygen -e -m PKCS8 -f FILE"
    return _foreign(data, label)


def _foreign_private(data: bytes) -> str | None:
    label = _label(data)
    if label.endswith("PUBLIC KEY") or data.startswith((b"ssh-", b"ecdsa-sha2-")):
        return "a public key; a signature is made with the private key"
    if "CERTIFICATE" in label:
        return "a certificate; a signature is made with the private key"
    if label == "OPENSSH PRIVATE KEY":
        return "an OpenSSH private key; convert a copy of it with: ssh-keygen -p -m PKCS8 -f FILE"
    if label.startswith("ENCRYPTED ") and label != "ENCRYPTED PRIVATE KEY":
        return "a key of cosign or Sigstore, which has an encryption of its own"
    return _foreign(data, label)


def _label(data: bytes) -> str:
    match = _PEM_LABEL.search(data)
    return "" if match is None else match[1].decode("ascii")


def _foreign(data: bytes, label: str) -> str | None:
    if label and not label.startswith("PGP "):
        return None
    if data[:1] == b"\x30" and data[1:2] >= b"\x30":  # an ASN.1 sequence
        return "a key or certificate in DER; convert a key to PEM with: openssl pkey -inform DER"
    kind = recognise(data)
    return None if kind is None else str(kind)
