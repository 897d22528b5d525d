"""A software stand-in for a processor with AMD SEV-SNP. It proves nothing: its keys are made here.

It makes a root, certificates and reports of the form that the hardware has, so that the whole chain can be
run on any machine. Whoever trusts its root trusts whoever ran this program.
"""

from __future__ import annotations

import datetime
import struct

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID, ObjectIdentifier

import integrity_triton as it

NAME = "SOFTWARE STAND-IN, PROVES NOTHING"
MEASUREMENT = b"stand-in".ljust(48, b".")
TCB = {"3.1": 3, "3.2": 0, "3.3": 8, "3.8": 115}
CHIP = b"stand-in chip".ljust(64, b"\xff")
PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)


def name(common: str) -> x509.Name:
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, NAME)
    return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def authority(
    subject: x509.Name,
    key: rsa.RSAPrivateKey,
    issuer: x509.Name,
    signer: rsa.RSAPrivateKey,
    begin: datetime.datetime,
    end: datetime.datetime,
) -> x509.Certificate:
    """The certificate of an authority."""
    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), 1000, begin, end)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
    return builder.sign(signer, hashes.SHA384(), rsa_padding=PSS)


def der_integer(value: int) -> bytes:
    return b"\x02\x01" + bytes([value]) if value < 128 else b"\x02\x02\x00" + bytes([value])


class StandIn:
    """The keys of an imagined processor, and its firmware."""

    def __init__(
        self,
        begin: datetime.datetime = datetime.datetime(2026, 1, 1),
        end: datetime.datetime = datetime.datetime(2040, 1, 1),
    ) -> None:
        self.begin, self.end = begin, end
        self.root_key = rsa.generate_private_key(65537, 4096)
        self.intermediate_key = rsa.generate_private_key(65537, 4096)
        self.chip_key = ec.generate_private_key(ec.SECP384R1())
        root, intermediate = name("ARK-STAND-IN"), name("SEV-STAND-IN")
        self.root = authority(root, self.root_key, root, self.root_key, begin, end)
        self.intermediate = authority(intermediate, self.intermediate_key, root, self.root_key, begin, end)
        self.chip = self.certify_chip()

    def certify_chip(
        self,
        *,
        common: str = "SEV-VCEK",
        tcb: dict[str, int] = TCB,
        hwid: bytes | None = CHIP,
        product: str = "Milan-B0",
        begin: datetime.datetime | None = None,
        end: datetime.datetime | None = None,
        extra: dict[str, bytes] | None = None,
        public_key: ec.EllipticCurvePublicKey | None = None,
    ) -> x509.Certificate:
        """The certificate of the key that signs reports, with the extensions of AMD publication 57230."""
        issuer = self.intermediate.subject
        key = public_key or self.chip_key.public_key()
        dates = begin or self.begin, end or self.end
        builder = x509.CertificateBuilder(issuer, name(common), key, 1001, *dates)
        values = {"1": der_integer(1), "2": b"\x16" + bytes([len(product)]) + product.encode()}
        values |= {part: der_integer(number) for part, number in tcb.items()}
        if hwid is not None:
            values["4"] = hwid
        for place, value in {**values, **(extra or {})}.items():
            oid = ObjectIdentifier(f"1.3.6.1.4.1.3704.1.{place}")
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        return builder.sign(self.intermediate_key, hashes.SHA384(), rsa_padding=PSS)

    def report(self, data: bytes, *, version: int = 2, changes: dict[int, bytes] | None = None) -> bytes:
        """A signed report over 64 bytes (ATTESTATION_REPORT in AMD publication 56860).

        ``changes`` maps offsets to bytes that are put there before the report is signed.
        """
        report = bytearray(1184)
        struct.pack_into("<IIQ", report, 0, version, 1, 1 << 17 | 1 << 16)  # the policy: SMT is allowed
        struct.pack_into("<I", report, 0x34, 1)  # the signature is ECDSA P-384 with SHA-384
        report[0x50:0x90] = data
        report[0x90:0xC0] = MEASUREMENT
        tcb = bytes([TCB["3.1"], TCB["3.2"], 0, 0, 0, 0, TCB["3.3"], TCB["3.8"]])
        for place in (0x38, 0x180, 0x1E0, 0x1F0):
            report[place : place + 8] = tcb
        if version >= 3:
            report[0x188:0x18B] = bytes([0x19, 1, 1])
        report[0x1A0:0x1E0] = CHIP
        for place, value in (changes or {}).items():
            report[place : place + len(value)] = value
        return self.sign(report)

    def sign(self, report: bytearray) -> bytes:
        signature = self.chip_key.sign(bytes(report[:0x2A0]), ec.ECDSA(hashes.SHA384()))
        r, s = decode_dss_signature(signature)
        report[0x2A0:0x2E8] = r.to_bytes(72, "little")
        report[0x2E8:0x330] = s.to_bytes(72, "little")
        return bytes(report)

    def certificate_table(self) -> bytes:
        """What a host gives with a report (AMD publication 56421, section 4.1.8.1)."""
        certificates = [self.chip, self.intermediate]
        bodies = [c.public_bytes(serialization.Encoding.DER) for c in certificates]
        offset, entries = 24 * (len(bodies) + 1), b""
        for number, body in enumerate(bodies, 1):
            entries += bytes([number]) * 16 + struct.pack("<II", offset, len(body))
            offset += len(body)
        return entries + bytes(24) + b"".join(bodies)

    def get_evidence(self, data: bytes) -> it.models.attest.Evidence:
        """In place of ``it.models.attest.get_evidence``."""
        return it.models.attest.Evidence("sev_guest", self.report(data), self.certificate_table())
