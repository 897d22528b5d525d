"""X.509 certificates of signers. Those of a bundle are untrusted; the trusted ones are a verifier's choice.

Chains are built and checked by OpenSSL. What it leaves to its callers is checked here: what the certificate
may be used for, and that no weak algorithm links the chain.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timezone

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from OpenSSL import crypto

from ..errors import IntegrityError
from ..strict_json import shown
from .regular_files import read_regular
from .signing_keys import has_supported_curve

PathLike = str | os.PathLike[str]

MAX_FILE = 4 << 20
"""Bytes of a file of certificates. That of all certificate authorities of Mozilla has less than 300 KiB."""

_LONGEST_CHAIN = 16
_SMALLEST_RSA_KEY = 2048  # bits
_HASHES = {"sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512"}


def load_certificates(paths: Iterable[PathLike]) -> list[x509.Certificate]:
    """The certificates in PEM files, in their order. Raises ValueError, which names the file, if one of them
    has none or one that is malformed, and OSError if it cannot be read."""
    found: list[x509.Certificate] = []
    for path in paths:
        data = read_regular(path, MAX_FILE, "a file of certificates")
        try:
            if b"-----BEGIN CERTIFICATE-----" not in data:
                raise ValueError("there is none in PEM")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of oddities in the lists of certificate authorities
                found += x509.load_pem_x509_certificates(data)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: not a file of certificates: {error}") from None
    return found


def parse_certificate(data: bytes) -> x509.Certificate:
    """A certificate in DER, in which everything that is used here can be parsed. Raises ValueError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            certificate = x509.load_der_x509_certificate(data)
            # These are parsed when they are first asked for, with exceptions of many types.
            _ = certificate.subject, certificate.issuer, certificate.extensions
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            with suppress(UnsupportedAlgorithm):
                certificate.public_key()
    except Exception as error:
        raise ValueError(f"not a certificate in DER: {error}") from None
    return certificate


def signing_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """The key of a signer's certificate. Raises IntegrityError unless it is of a kind that OMS has."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IntegrityError(f"{_name(certificate)} has a key that cannot be used: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not has_supported_curve(key):
        raise IntegrityError(
            f"{_name(certificate)} has another key than an elliptic-curve key on P-256, P-384 or P-521"
        )
    return key


def check_purpose(certificate: x509.Certificate) -> None:
    """Raises IntegrityError unless the certificate is one for signing code.

    It must have codeSigning in its extended key usage, as the conformance suite of the specification demands
    (``certificate-no-code-signing-eku_fail``), and digitalSignature in its key usage if it has one (RFC 5280,
    sections 4.2.1.3 and 4.2.1.12).
    """
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        pass
    else:
        if not usage.digital_signature:
            raise IntegrityError(
                f"{_name(certificate)} must not be used for signatures: its key usage lacks digitalSignature"
            )
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        purposes = x509.ExtendedKeyUsage([])
    if x509.oid.ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        raise IntegrityError(
            f"{_name(certificate)} is not one for signing code: its extended key usage lacks codeSigning"
        )


def check_trusted(
    certificate: x509.Certificate,
    issuers: Sequence[x509.Certificate],
    trusted: Sequence[x509.Certificate],
    at: datetime | None = None,
) -> None:
    """Check that a certificate leads to a trusted one, through ``issuers`` as far as they are needed, and
    that all of the chain is valid at the time ``at``, or now.

    A trusted certificate need not be a root. Raises IntegrityError, which says what is wrong, and ValueError
    if nothing is trusted or ``at`` has no time zone.
    """
    if not trusted:
        raise ValueError("no certificate is trusted: name at least one file of certificates")
    if at is not None and at.tzinfo is None:
        raise ValueError("the time at which the certificates have to be valid needs a time zone")
    store = crypto.X509Store()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for root in trusted:
            store.add_cert(crypto.X509.from_cryptography(root))
        leaf = crypto.X509.from_cryptography(certificate)
        untrusted = [crypto.X509.from_cryptography(issuer) for issuer in issuers]
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    store.set_time(datetime.now(timezone.utc) if at is None else at.astimezone(timezone.utc))
    context = crypto.X509StoreContext(store, leaf, untrusted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chain = [found.to_cryptography() for found in context.get_verified_chain()]
    except crypto.X509StoreContextError as error:
        failing = error.certificate.to_cryptography()
        raise IntegrityError(
            f"{_name(failing)} is not trusted: {error}; it is valid from {failing.not_valid_before_utc} to "
            f"{failing.not_valid_after_utc}"
        ) from None
    if len(chain) > _LONGEST_CHAIN:
        raise IntegrityError(f"the certificate chain is longer than {_LONGEST_CHAIN}")
    for index, link in enumerate(chain):
        anchor = index == len(chain) - 1  # nobody relies on the signature over what is trusted as it is
        if weakness := _weakness(link, signature=not anchor):
            raise IntegrityError(f"{_name(link)} is not trusted: {weakness}")
        if index and not anchor:
            _check_issuer_purpose(link)


def _check_issuer_purpose(certificate: x509.Certificate) -> None:
    """Raises IntegrityError for an issuer whose purposes are limited to others than signing code.

    RFC 5280 leaves open what the extension means for an issuer; OpenSSL takes it as a limit in the purposes
    that it knows, and so do the rules of the CA/Browser Forum.
    """
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    oids = x509.oid.ExtendedKeyUsageOID
    if not {oids.CODE_SIGNING, oids.ANY_EXTENDED_KEY_USAGE}.intersection(purposes):
        raise IntegrityError(
            f"{_name(certificate)} must not issue certificates for signing code: its extended key usage "
            "lacks codeSigning"
        )


def _weakness(certificate: x509.Certificate, *, signature: bool) -> str | None:
    if signature:
        try:
            used = certificate.signature_hash_algorithm
        except UnsupportedAlgorithm:
            return "it is signed with an algorithm that is not known"
        if used is not None and used.name not in _HASHES:  # Ed25519 and Ed448 name none
            return f"it is signed with {used.name}, which is too weak"
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "it has a key of a kind that is not known"
    if isinstance(key, rsa.RSAPublicKey):
        weak = key.key_size < _SMALLEST_RSA_KEY
        return f"it has an RSA key of {key.key_size} bits, which is too short" if weak else None
    if isinstance(key, ec.EllipticCurvePublicKey):
        return None if has_supported_curve(key) else f"it has a key on the curve {key.curve.name}"
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return None
    return "it has a key of a kind that is not accepted"


def _name(certificate: x509.Certificate) -> str:
    """A certificate in a message."""
    return f"the certificate of {shown(certificate.subject.rfc4514_string())}"
