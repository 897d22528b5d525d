"""An imagined TDX platform with a root of its own, and where published samples lie.

Everything that Intel signs for a quote is made here: the certificate of the platform with its SGX extension,
CRLs, TCB info, the identity of the quoting enclave, and the quote. Nothing of the package is used.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import json
import struct
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID, ObjectIdentifier

REPOSITORY = Path(__file__).resolve().parents[2]
DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM
BEGIN, END = datetime.datetime(2026, 1, 1), datetime.datetime(2040, 1, 1)


def samples(folder: str) -> Path:
    """Where published samples are, which are no part of the repository."""
    for parent in REPOSITORY.parents:
        if (found := parent / "shared" / "data" / folder).is_dir():
            return found
    pytest.skip(f"absent: shared/data/{folder} beside the repository")


@cache
def processor() -> Any:
    """An imagined SEV-SNP processor, whose keys take a second to make."""
    return stand_in().StandIn()


def stand_in() -> ModuleType:
    """The example's imagined SEV-SNP processor."""
    if "attested_stand_in" not in sys.modules:
        path = REPOSITORY / "examples" / "attested_serving" / "stand_in.py"
        spec = importlib.util.spec_from_file_location("attested_stand_in", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["attested_stand_in"] = module
        spec.loader.exec_module(module)
    return sys.modules["attested_stand_in"]


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    size = (len(body).bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + len(body).to_bytes(size, "big") + body


def _oid(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    out = bytearray([40 * first + second])
    for number in rest:
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(number & 0x7F | 0x80)
        out += bytes(reversed(digits))
    return der(6, bytes(out))


SGX = "1.2.840.113741.1.13.1"
FMSPC = bytes.fromhex("50806f000000")
CPU_SVN = bytes([5] * 16)
PCE_SVN = 13


def sgx_extension() -> bytes:
    """The extension of a platform's certificate ("SGX PCK Certificate and CRL Profile", section 1.3.5)."""

    def pair(number: str, value: bytes) -> bytes:
        return der(0x30, _oid(f"{SGX}.{number}"), value)

    def integer(value: int) -> bytes:
        return der(2, bytes([value]))

    tcb = b"".join(pair(f"2.{i + 1}", integer(CPU_SVN[i])) for i in range(16))
    tcb += pair("2.17", integer(PCE_SVN)) + pair("2.18", der(4, CPU_SVN))
    flags = b"".join(pair(f"7.{i}", der(1, b"\0")) for i in (1, 2, 3))
    return der(
        0x30,
        pair("1", der(4, bytes(16))),
        pair("2", der(0x30, tcb)),
        pair("3", der(4, bytes(2))),
        pair("4", der(4, FMSPC)),
        pair("5", der(10, b"\1")),
        pair("6", der(4, bytes(16))),
        pair("7", der(0x30, flags)),
    )


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def raw_public(key: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


class Tdx:
    """The keys and certificates of an imagined platform."""

    def __init__(self, common: str = "Intel SGX Root CA") -> None:
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(5)]
        self.root_key, self.ca_key, self.tcb_key, self.pck_key, self.attestation_key = keys
        self.root = self.certify(common, self.root_key, common, self.root_key, authority=True)
        self.ca = self.certify(
            "Intel SGX PCK Platform CA", self.ca_key, common, self.root_key, authority=True
        )
        self.tcb = self.certify("Intel SGX TCB Signing", self.tcb_key, common, self.root_key)
        self.pck = self.certify(
            "Intel SGX PCK Certificate", self.pck_key, "Intel SGX PCK Platform CA", self.ca_key, sgx=True
        )

    def certify(
        self,
        common: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: str,
        signer: ec.EllipticCurvePrivateKey,
        *,
        authority: bool = False,
        sgx: bool = False,
    ) -> x509.Certificate:
        def name(text: str) -> x509.Name:
            parts = {
                NameOID.COMMON_NAME: text,
                NameOID.ORGANIZATION_NAME: "Intel Corporation",
                NameOID.COUNTRY_NAME: "US",
            }
            return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts.items()])

        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        builder = x509.CertificateBuilder(
            name(issuer), name(common), key.public_key(), x509.random_serial_number(), BEGIN, END
        )
        place = x509.UniformResourceIdentifier("https://example.com/crl")
        points = [x509.DistributionPoint([place], None, None, None)]
        for extension, critical in (
            (x509.BasicConstraints(ca=authority, path_length=None), True),
            (
                x509.KeyUsage(
                    digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **usage
                ),
                True,
            ),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.CRLDistributionPoints(points), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        if sgx:
            extension = x509.UnrecognizedExtension(ObjectIdentifier(SGX), sgx_extension())
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(signer, hashes.SHA256())

    def crl(
        self, issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey, *revoked: x509.Certificate
    ) -> bytes:
        builder = x509.CertificateRevocationListBuilder(issuer.subject, BEGIN, END)
        for certificate in revoked:
            entry = x509.RevokedCertificateBuilder(certificate.serial_number, BEGIN)
            builder = builder.add_revoked_certificate(entry.build())
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
        return builder.sign(key, hashes.SHA256()).public_bytes(DER)

    def collateral(
        self,
        *,
        status: str = "UpToDate",
        advisories: tuple[str, ...] = (),
        issued: str = "2026-06-01T00:00:00Z",
        update: str = "2027-06-01T00:00:00Z",
        revoked: tuple[x509.Certificate, ...] = (),
        fmspc: bytes = FMSPC,
    ) -> str:
        """What Intel publishes for a quote, in the form of ``dcap-qvl``."""
        level = {
            "tcb": {
                "sgxtcbcomponents": [{"svn": svn} for svn in CPU_SVN],
                "pcesvn": PCE_SVN,
                "tdxtcbcomponents": [{"svn": 3}] + [{"svn": 0}] * 15,
            },
            "tcbDate": "2026-01-01T00:00:00Z",
            "tcbStatus": status,
            "advisoryIDs": list(advisories),
        }
        tcb_info = json.dumps(
            {
                "id": "TDX",
                "version": 3,
                "issueDate": issued,
                "nextUpdate": update,
                "fmspc": fmspc.hex().upper(),
                "pceId": "0000",
                "tcbType": 0,
                "tcbEvaluationDataNumber": 17,
                "tdxModule": {
                    "mrsigner": "00" * 48,
                    "attributes": "00" * 8,
                    "attributesMask": "FF" * 8,
                },
                "tdxModuleIdentities": [],
                "tcbLevels": [level],
            },
            separators=(",", ":"),
        )
        identity = json.dumps(
            {
                "id": "TD_QE",
                "version": 2,
                "issueDate": issued,
                "nextUpdate": update,
                "tcbEvaluationDataNumber": 17,
                "miscselect": "00000000",
                "miscselectMask": "FFFFFFFF",
                "attributes": "11000000000000000000000000000000",
                "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
                "mrsigner": "AB" * 32,
                "isvprodid": 2,
                "tcbLevels": [
                    {"tcb": {"isvsvn": 4}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"}
                ],
            },
            separators=(",", ":"),
        )
        chain = (self.tcb.public_bytes(PEM) + self.root.public_bytes(PEM)).decode()
        return json.dumps(
            {
                "pck_crl_issuer_chain": (self.ca.public_bytes(PEM) + self.root.public_bytes(PEM)).decode(),
                "root_ca_crl": self.crl(self.root, self.root_key).hex(),
                "pck_crl": self.crl(self.ca, self.ca_key, *revoked).hex(),
                "tcb_info_issuer_chain": chain,
                "tcb_info": tcb_info,
                "tcb_info_signature": raw_signature(self.tcb_key, tcb_info.encode()).hex(),
                "qe_identity_issuer_chain": chain,
                "qe_identity": identity,
                "qe_identity_signature": raw_signature(self.tcb_key, identity.encode()).hex(),
            }
        )

    def quote(
        self, data: bytes, *, version: int = 4, changes: dict[int, bytes] | None = None, repeat: int = 1
    ) -> bytes:
        """A quote over 64 bytes. ``changes`` maps offsets in the TD report to bytes that are put there. The
        chain has the platform's certificate ``repeat`` times."""
        header = struct.pack("<HHI", version, 2, 0x81) + bytes(4)
        header += bytes.fromhex("939a7233f79c4ca9940a0db3957f0607") + bytes(20)
        body = bytearray(584)
        body[0:16] = bytes([3] + [0] * 15)
        body[120:128] = bytes.fromhex("0000001000000000")
        body[136:184] = b"\x11" * 48
        for i in range(4):
            body[328 + 48 * i : 376 + 48 * i] = bytes([0x20 + i]) * 48
        body[520:584] = data
        for place, value in (changes or {}).items():
            body[place : place + len(value)] = value
        signed = header + (struct.pack("<HI", 2, 584) if version == 5 else b"") + bytes(body)
        public = raw_public(self.attestation_key)
        auth = bytes(range(32))
        enclave = bytearray(384)
        enclave[0:16] = CPU_SVN
        enclave[48:64] = bytes.fromhex("11000000000000000000000000000000")
        enclave[128:160] = b"\xab" * 32
        struct.pack_into("<HH", enclave, 256, 2, 6)
        enclave[320:352] = hashlib.sha256(public + auth).digest()
        chain = b"".join(c.public_bytes(PEM) for c in (*[self.pck] * repeat, self.ca, self.root)) + b"\0"
        inner = bytes(enclave) + raw_signature(self.pck_key, bytes(enclave))
        inner += struct.pack("<H", len(auth)) + auth + struct.pack("<HI", 5, len(chain)) + chain
        signature = raw_signature(self.attestation_key, signed) + public
        signature += struct.pack("<HI", 6, len(inner)) + inner
        return signed + struct.pack("<I", len(signature)) + signature
