"""Certificates for tests: a small public key infrastructure with whatever faults a test asks for."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.timezone.utc)


def key_usage(*, sign: bool = False, certify: bool = False, agree: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(sign, False, False, False, agree, certify, certify, False, False)


@dataclass
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: object
    subject: x509.Name = field(init=False)

    def __post_init__(self) -> None:
        self.subject = self.certificate.subject

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def issue(
    name: str,
    issuer: Issued | None = None,
    *,
    ca: bool = False,
    key: object = None,
    since: datetime.datetime = NOW - DAY,
    until: datetime.datetime = NOW + DAY,
    usage: x509.KeyUsage | str | None = "usual",
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CODE_SIGNING,),
    path_length: int | None = None,
    hash_algorithm: hashes.HashAlgorithm | None = None,
    issuer_name: str | None = None,
    more: tuple[x509.ExtensionType, ...] = (),
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    named = subject if issuer is None else issuer.subject
    if issuer_name is not None:
        named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(named)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if usage == "usual":
        usage = key_usage(certify=True) if ca else key_usage(sign=True)
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    if purposes and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
    for extension in more:
        builder = builder.add_extension(extension, critical=True)
    signer = key if issuer is None else issuer.key
    return Issued(builder.sign(signer, hash_algorithm or hashes.SHA256()), key)


def write(folder: Path, **issued: Issued | list[Issued]) -> dict[str, Path]:
    """Write PEM files: NAME.pem for the certificates, and NAME.key for the key of a single one."""
    paths = {}
    for name, found in issued.items():
        listed = found if isinstance(found, list) else [found]
        paths[name] = folder / f"{name}.pem"
        paths[name].write_bytes(b"".join(one.pem() for one in listed))
        if not isinstance(found, list):
            (folder / f"{name}.key").write_bytes(found.key_pem())
    return paths
