"""Who signs a model, and whom a verifier trusts: keys, and keys with certificates.

Section 4.1 of the specification of OpenSSF Model Signing 1.0 has three signing methods. Sigstore's, the
third, is in ``oms_sigstore.py``, and keys in a PKCS #11 token are in ``signing_pkcs11.py``.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ..errors import IntegrityError
from ..strict_json import shown
from .oms_bundle import Bundle, SignatureFormatError, certificate_chain
from .signing_certificates import (
    check_purpose,
    check_trusted,
    parse_certificate,
    signing_key,
)
from .signing_keys import key_hint, signature_algorithm

__all__ = ["CertificateSigner", "CertificateVerifier", "FileKey", "KeySigner", "KeyVerifier", "PrivateKey"]


class PrivateKey(Protocol):
    """A private key, wherever it is."""

    def public_key(self) -> ec.EllipticCurvePublicKey: ...

    def sign(self, message: bytes) -> bytes:
        """The signature of a message: ECDSA with the hash that OMS pairs with the curve, in DER."""


@dataclass(frozen=True)
class FileKey:
    """A private key in the memory of this process."""

    key: ec.EllipticCurvePrivateKey

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self.key.public_key()

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message, signature_algorithm(self.key))


@dataclass(frozen=True)
class KeySigner:
    """The signing method "key": a bundle has the hint of the public key."""

    key: PrivateKey

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message)

    def material(self) -> dict[str, Any]:
        return {"publicKey": {"hint": key_hint(self.key.public_key())}, "tlogEntries": []}


class CertificateSigner:
    """The signing method "certificate": a bundle has the certificate of the key and those of its issuers.

    Raises ValueError if the certificate is not one of the key, or is not one for signing code.
    """

    def __init__(
        self, key: PrivateKey, certificate: x509.Certificate, issuers: Sequence[x509.Certificate]
    ) -> None:
        try:
            certified = signing_key(certificate)
            check_purpose(certificate)
        except IntegrityError as error:
            raise ValueError(str(error)) from None
        if certified != key.public_key():
            raise ValueError("the signing certificate belongs to another key than the private key")
        self._key = key
        self._chain = [certificate, *issuers]

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)

    def material(self) -> dict[str, Any]:
        chain = (certificate.public_bytes(serialization.Encoding.DER) for certificate in self._chain)
        listed = [{"rawBytes": base64.b64encode(data).decode("ascii")} for data in chain]
        return {"x509CertificateChain": {"certificates": listed}, "tlogEntries": []}


@dataclass(frozen=True)
class KeyVerifier:
    """Trusts one public key. Which key a bundle names is only a hint: it explains a failure."""

    key: ec.EllipticCurvePublicKey

    def verify(self, bundle: Bundle) -> None:
        if bundle.method != "key":
            raise SignatureFormatError(
                f"signed with {_WITH[bundle.method]}, not with a key; {_INSTEAD[bundle.method]}"
            )
        try:
            _check_signature(self.key, bundle)
        except IntegrityError:
            hint = bundle.material["publicKey"].get("hint")
            if hint and hint != key_hint(self.key):
                raise IntegrityError("the model was signed with another key") from None
            raise


@dataclass(frozen=True)
class CertificateVerifier:
    """Trusts the certificates that ``trusted`` certificates lead to.

    All certificates of the chain have to be valid at the time ``at``, and now if that is None. A bundle says
    nothing about the time of signing that its signer could not have made up.
    """

    trusted: Sequence[x509.Certificate]
    at: datetime | None = None

    def verify(self, bundle: Bundle) -> None:
        if bundle.method != "certificate":
            raise SignatureFormatError(
                f"signed with {_WITH[bundle.method]}, not with a certificate; {_INSTEAD[bundle.method]}"
            )
        try:
            chain = [parse_certificate(data) for data in certificate_chain(bundle)]
        except SignatureFormatError:
            raise
        except ValueError as error:
            raise SignatureFormatError(f"the certificate chain: {error}") from None
        check_trusted(chain[0], chain[1:], self.trusted, self.at)
        check_purpose(chain[0])
        try:
            _check_signature(signing_key(chain[0]), bundle)
        except IntegrityError as error:
            raise IntegrityError(f"{error}, which {shown(chain[0].subject.rfc4514_string())} has") from None


_WITH = {"key": "a key", "certificate": "a certificate", "sigstore": "Sigstore"}
_INSTEAD = {
    "key": "verify it with the public key, public_key (--key)",
    "certificate": "verify it with trusted certificates, certificate_chain (--certificate-chain)",
    "sigstore": "verify it with Sigstore's trusted root and the signer's identity, trusted_root "
    "(--trusted-root), identity (--identity) and identity_provider (--identity-provider)",
}


def _check_signature(key: ec.EllipticCurvePublicKey, bundle: Bundle) -> None:
    try:
        key.verify(bundle.signature, bundle.message, signature_algorithm(key))
    except InvalidSignature:
        raise IntegrityError("the signature is not valid for this key") from None
