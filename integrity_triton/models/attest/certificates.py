"""X.509 certificates: those that come with evidence are untrusted, and roots are what a verifier chose."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ...errors import IntegrityError
from ..regular_files import read_regular
from .errors import AttestationError

MAX_CERTIFICATE = 16 << 10
"""Bytes of one certificate in DER. Those of the vendors have less than 2 KiB."""
MAX_CERTIFICATES = 16
"""How many certificates one piece of evidence may bring."""
MAX_FILE = 256 << 10

PathLike = str | os.PathLike[str]

_PEM_BEGIN = b"-----BEGIN CERTIFICATE-----"


def load_certificates(path: PathLike) -> tuple[x509.Certificate, ...]:
    """The certificates in a file: one in DER, or some in PEM. Raises AttestationError, which names the file,
    and OSError if it cannot be read."""
    try:
        return parse_certificates(read_regular(path, MAX_FILE, "a file of certificates"))
    except AttestationError as error:
        raise AttestationError(f"{os.fspath(path)}: {error}") from None


def parse_certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in ``data``: one in DER, or some in PEM. Raises AttestationError for anything else."""
    if _PEM_BEGIN not in data:
        return (parse_der(data),)
    if data.count(_PEM_BEGIN) > MAX_CERTIFICATES:
        raise AttestationError(f"more than {MAX_CERTIFICATES} certificates")
    with _without_warnings():
        try:
            found = x509.load_pem_x509_certificates(data)
        except Exception as error:  # InvalidVersion, for example, is no ValueError
            raise AttestationError(f"not certificates in PEM: {error}") from None
    return tuple(parse_der(certificate.public_bytes(serialization.Encoding.DER)) for certificate in found)


def parse_der(data: bytes) -> x509.Certificate:
    """A certificate with everything in it parsed. Raises AttestationError if anything is malformed."""
    if len(data) > MAX_CERTIFICATE:
        raise AttestationError(f"a certificate has {len(data)} bytes; at most {MAX_CERTIFICATE} are allowed")
    with _without_warnings():
        try:
            certificate = x509.load_der_x509_certificate(data)
            # These are parsed when they are first asked for, and a verification must not stumble over them.
            _ = certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key()
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            _ = certificate.signature_hash_algorithm, certificate.signature_algorithm_parameters
        except Exception as error:  # the library's errors for malformed extensions and keys are of many types
            raise AttestationError(f"not a certificate: {error}") from None
    # The signature does not cover the algorithm that is named beside it, which therefore has to be the one
    # that it does cover (RFC 5280, section 4.1.1.2).
    signed = certificate.tbs_certificate_bytes
    rest = data[data.index(signed) + len(signed) :]
    if rest[1] >= 0x80 or rest[: 2 + rest[1]] not in signed:
        raise AttestationError("not a certificate: it names two different algorithms of its signature")
    if not data.endswith(b"\0" + certificate.signature):
        raise AttestationError("not a certificate: its signature does not have whole bytes")
    return certificate


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without warnings about what is parsed, such as the serial number 0 of AMD's VCEK certificates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load_crl(path: PathLike) -> x509.CertificateRevocationList:
    """The list of revoked certificates in a file, in DER or PEM. Raises as :func:`load_certificates` does."""
    try:
        return parse_crl(read_regular(path, MAX_FILE, "a list of revoked certificates"))
    except AttestationError as error:
        raise AttestationError(f"{os.fspath(path)}: {error}") from None


def parse_crl(data: bytes) -> x509.CertificateRevocationList:
    """A list of revoked certificates, in DER or PEM. Raises AttestationError for anything else."""
    with _without_warnings():
        try:
            pem = b"-----BEGIN X509 CRL-----" in data
            crl = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
            _ = crl.issuer, crl.last_update_utc, crl.next_update_utc, crl.signature_hash_algorithm
            for revoked in crl:
                _ = revoked.serial_number
        except Exception as error:  # as for certificates
            raise AttestationError(f"not a list of revoked certificates: {error}") from None
    return crl


def issuer_of(
    certificate: x509.Certificate, candidates: Iterable[x509.Certificate], what: str
) -> x509.Certificate:
    """The candidate that is named as the issuer. Its signature is not checked.

    Raises IntegrityError unless there is exactly one; equal certificates count once.
    """
    found = {c for c in candidates if c.subject == certificate.issuer}
    if len(found) != 1:
        number = "several candidates for" if found else "no"
        raise IntegrityError(
            f"{number} {what} with the name {certificate.issuer.rfc4514_string()!r}, which must have issued "
            f"{certificate.subject.rfc4514_string()!r}"
        )
    return found.pop()


def check_dates(chain: Sequence[x509.Certificate], at: datetime) -> None:
    """Raises IntegrityError for a certificate that is not valid at the time ``at``, in UTC."""
    for certificate in chain:
        name = certificate.subject.rfc4514_string()
        if at < certificate.not_valid_before_utc:
            raise IntegrityError(
                f"the certificate of {name!r} is valid from {certificate.not_valid_before_utc}"
            )
        if at > certificate.not_valid_after_utc:
            raise IntegrityError(f"the certificate of {name!r} expired on {certificate.not_valid_after_utc}")


def check_authority(certificate: x509.Certificate) -> None:
    """Raises IntegrityError unless the certificate may sign others."""
    name = certificate.subject.rfc4514_string()
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise IntegrityError(f"the certificate of {name!r} is not that of an authority") from None
    if not constraints.ca or not usage.key_cert_sign:
        raise IntegrityError(f"the certificate of {name!r} may not sign certificates")
