"""Attestation reports of AMD SEV-SNP: their structure, signature, certificates and fields.

The structures are those of the SEV Secure Nested Paging Firmware ABI Specification (AMD publication 56860:
ATTESTATION_REPORT, TCB_VERSION, guest policy, format of an ECDSA P-384 signature), and of the Versioned Chip
Endorsement Key (VCEK) Certificate and KDS Interface Specification (AMD publication 57230: the extensions).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import SignatureAlgorithmOID

from ...errors import IntegrityError
from .certificates import (
    MAX_CERTIFICATES,
    check_authority,
    check_dates,
    issuer_of,
    parse_der,
)
from .errors import AttestationError

REPORT_SIZE = 0x4A0
SIGNED_SIZE = 0x2A0
"""Bytes at the beginning of a report, over which the signature is made."""

_VERSIONS = (2, 3, 4, 5)
_ECDSA_P384_SHA384 = 1
_COMPONENT_SIZE = 72
_SIGNING_KEYS = {0: "VCEK", 1: "VLEK"}
_CHIP_ID_SIZE = 64
_TURIN_HWID_SIZE = 8
_TURIN_FAMILY = 0x1A
_RESERVED_POLICY_BIT = 1 << 17  # has to be 1
_POLICY_BITS = {
    "smt": 16,
    "migrate_ma": 18,
    "debug": 19,
    "single_socket": 20,
    "cxl_allow": 21,
    "mem_aes_256_xts": 22,
    "rapl_dis": 23,
    "ciphertext_hiding_dram": 24,
    "page_swap_disable": 25,
}
_ENTRY_SIZE = 24

_OID = "1.3.6.1.4.1.3704.1."
_PRODUCT = _OID + "2"
_HWID = _OID + "4"
_CSP_ID = _OID + "5"
# The numbers of the parts of a TCB version in a certificate, in publication 57230.
_TCB_OIDS = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
# The byte of each part in a TCB version of a report. Family 1Ah (Turin) has another form.
_TCB_BYTES = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_TURIN_TCB_BYTES = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}


@dataclass(frozen=True)
class SnpReport:
    """The fields of a report, named as in the specification. Nothing is verified."""

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    author_key_en: bool
    mask_chip_key: bool
    signing_key: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid_family: int | None
    """None before version 3, and so are the model and the stepping."""
    cpuid_model: int | None
    cpuid_stepping: int | None
    chip_id: bytes
    committed_tcb: bytes
    current_version: tuple[int, int, int]
    """Major, minor and build of the firmware."""
    committed_version: tuple[int, int, int]
    launch_tcb: bytes
    launch_mit_vector: int
    current_mit_vector: int
    signed: bytes
    r: int
    s: int

    def tcb(self, value: bytes, *, turin: bool) -> dict[str, int]:
        """The parts of one of the TCB versions of this report."""
        places = _TURIN_TCB_BYTES if turin else _TCB_BYTES
        return {name: value[place] for name, place in places.items()}

    def allows(self, name: str) -> bool:
        """Whether the guest's policy has a bit set, for example ``debug``."""
        return bool(self.policy >> _POLICY_BITS[name] & 1)


POLICY_BITS = tuple(_POLICY_BITS)
TCB_PARTS = tuple(_TCB_OIDS)


def parse_report(data: bytes) -> SnpReport:
    """The fields of a report of version 2 to 5.

    Raises AttestationError unless the report has its exact size, a version and a signature of a kind that is
    known, and zeros in all reserved fields.
    """
    if len(data) != REPORT_SIZE:
        raise AttestationError(f"an SEV-SNP report has {REPORT_SIZE} bytes, not {len(data)}")
    version, guest_svn, policy = struct.unpack_from("<IIQ", data, 0)
    if version not in _VERSIONS:
        raise AttestationError(f"an SEV-SNP report of version {version} is not supported, only 2 to 5")
    vmpl, algorithm = struct.unpack_from("<II", data, 0x30)
    if algorithm != _ECDSA_P384_SHA384:
        raise AttestationError(f"signature algorithm {algorithm} is not supported, only 1, ECDSA P-384")
    if not policy & _RESERVED_POLICY_BIT:
        raise AttestationError("bit 17 of the guest's policy is reserved and has to be 1")
    if policy >> (max(_POLICY_BITS.values()) + 1):
        raise AttestationError("the guest's policy has a reserved bit set")
    flags = struct.unpack_from("<I", data, 0x48)[0]
    if flags >> 5:
        raise AttestationError("the flags of the signing key have a reserved bit set")
    reserved = [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0)]
    if version < 3:
        reserved.append((0x188, 0x18B))
    if version < 5:
        reserved.append((0x1F8, 0x208))
    reserved.append((SIGNED_SIZE + 2 * _COMPONENT_SIZE, REPORT_SIZE))
    for start, end in reserved:
        if any(data[start:end]):
            raise AttestationError(
                f"the bytes {start:#x} to {end:#x} of the report are reserved, and not zero"
            )
    launch_mit, current_mit = struct.unpack_from("<QQ", data, 0x1F8)
    component = SIGNED_SIZE + _COMPONENT_SIZE
    return SnpReport(
        version=version,
        guest_svn=guest_svn,
        policy=policy,
        family_id=data[0x10:0x20],
        image_id=data[0x20:0x30],
        vmpl=vmpl,
        current_tcb=data[0x38:0x40],
        platform_info=struct.unpack_from("<Q", data, 0x40)[0],
        author_key_en=bool(flags & 1),
        mask_chip_key=bool(flags & 2),
        signing_key=flags >> 2 & 7,
        report_data=data[0x50:0x90],
        measurement=data[0x90:0xC0],
        host_data=data[0xC0:0xE0],
        id_key_digest=data[0xE0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id=data[0x140:0x160],
        report_id_ma=data[0x160:0x180],
        reported_tcb=data[0x180:0x188],
        cpuid_family=data[0x188] if version >= 3 else None,
        cpuid_model=data[0x189] if version >= 3 else None,
        cpuid_stepping=data[0x18A] if version >= 3 else None,
        chip_id=data[0x1A0:0x1E0],
        committed_tcb=data[0x1E0:0x1E8],
        current_version=(data[0x1EA], data[0x1E9], data[0x1E8]),
        committed_version=(data[0x1EE], data[0x1ED], data[0x1EC]),
        launch_tcb=data[0x1F0:0x1F8],
        launch_mit_vector=launch_mit,
        current_mit_vector=current_mit,
        signed=data[:SIGNED_SIZE],
        r=int.from_bytes(data[SIGNED_SIZE:component], "little"),
        s=int.from_bytes(data[component : component + _COMPONENT_SIZE], "little"),
    )


def parse_certificate_table(data: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in what the host gives with a report (``auxblob``).

    The table is that of the Guest-Hypervisor Communication Block Standardization (AMD publication 56421,
    section 4.1.8.1): entries of a GUID, an offset and a length, and one of zeros at the end. The GUIDs are
    the host's words for what each certificate is, and are not consulted; entries that are not certificates
    are left out. Raises AttestationError for a table that is malformed.
    """
    places = []
    for start in range(0, (MAX_CERTIFICATES + 1) * _ENTRY_SIZE, _ENTRY_SIZE):
        entry = data[start : start + _ENTRY_SIZE]
        if len(entry) < _ENTRY_SIZE:
            raise AttestationError("the table of certificates has no end")
        if not any(entry):
            break
        offset, length = struct.unpack_from("<II", entry, 16)
        if offset + length > len(data):
            raise AttestationError("the table of certificates names bytes that it does not have")
        places.append((offset, length))
    else:
        raise AttestationError(f"the table of certificates has more than {MAX_CERTIFICATES} entries")
    found = []
    for offset, length in places:
        try:
            found.append(parse_der(data[offset : offset + length]))
        except AttestationError:
            continue
    return tuple(found)


@dataclass(frozen=True)
class VerifiedSnpReport:
    """A report that the firmware of an AMD processor has signed."""

    report: SnpReport
    product: str
    """As the certificate has it, for example ``Milan-B0``."""
    key: str
    """``VCEK``, the key of a chip, or ``VLEK``, the key of a cloud provider."""
    root: str
    """The subject of the root."""
    reported_tcb: Mapping[str, int]
    """The TCB version that the signing key is derived from, by the names of its parts."""
    launch_tcb: Mapping[str, int]
    revocation_checked: bool = False
    """Whether a list of revoked certificates of the root was given."""


def verify_report(
    data: bytes,
    certificates: Iterable[x509.Certificate],
    roots: Iterable[x509.Certificate],
    at: datetime,
    crls: Iterable[x509.CertificateRevocationList] = (),
) -> VerifiedSnpReport:
    """Verify a report up to one of ``roots``, which are the vendor's, at a time in UTC.

    The chain has three certificates: the root (ARK), an intermediate (ASK or ASVK) and the one of the key
    that signed the report (VCEK or VLEK); the last two are taken from ``certificates``, which are not
    trusted. The TCB version and the chip's identity in the last certificate have to be those of the report.

    ``crls`` are lists of the certificates that the root has revoked; without one, revocation is not checked.

    Raises AttestationError for what is malformed or not supported, and IntegrityError for what is wrong.
    """
    report = parse_report(data)
    kind = _SIGNING_KEYS.get(report.signing_key)
    if kind is None:
        raise IntegrityError("the report says that no key of the chip or of a provider signed it")
    given = list(certificates)
    leaf = _signer(report, kind, given)
    intermediate = issuer_of(leaf, given, "intermediate certificate")
    trusted = list(roots)
    root = issuer_of(intermediate, trusted, "root")
    chain = (leaf, intermediate, root)
    for certificate, issuer in ((root, root), (intermediate, root), (leaf, intermediate)):
        _check_issued(certificate, issuer)
    check_authority(root)
    check_authority(intermediate)
    check_dates(chain, at)
    lists = [crl for crl in crls if crl.issuer == root.subject]
    for crl in lists:
        _check_revocation(crl, root, chain, at)
    product, tcb = _check_leaf(leaf, report, kind)
    turin = _is_turin(report, product)
    return VerifiedSnpReport(
        report,
        product,
        kind,
        root.subject.rfc4514_string(),
        tcb,
        report.tcb(report.launch_tcb, turin=turin),
        bool(lists),
    )


def _signer(report: SnpReport, kind: str, certificates: Iterable[x509.Certificate]) -> x509.Certificate:
    """The certificate whose key signed the report, among those that say that they are of this kind."""
    try:
        signature = encode_dss_signature(report.r, report.s)
    except ValueError:
        raise IntegrityError("the signature of the report is malformed") from None
    name = f"SEV-{kind}"
    seen = False
    for certificate in certificates:
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        key = certificate.public_key()
        if [attribute.value for attribute in common] != [name] or not isinstance(
            key, ec.EllipticCurvePublicKey
        ):
            continue
        if not isinstance(key.curve, ec.SECP384R1):
            raise IntegrityError(f"the key of the {kind} certificate is not on the curve P-384")
        seen = True
        try:
            key.verify(signature, report.signed, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature:
            continue
        return certificate
    if not seen:
        raise IntegrityError(
            f"there is no {kind} certificate, which the report needs; if the host gave none with the report, "
            "fetch that of the chip from AMD"
        )
    raise IntegrityError(f"the signature of the report is not valid for the {kind} certificate")


def _check_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Raises IntegrityError unless ``issuer`` signed the certificate with RSA-PSS and SHA-384, and has at
    least 4096 bits."""
    what = f"the certificate of {certificate.subject.rfc4514_string()!r}"
    _check_signed(certificate, certificate.tbs_certificate_bytes, issuer, what)


def _check_revocation(
    crl: x509.CertificateRevocationList,
    root: x509.Certificate,
    chain: Iterable[x509.Certificate],
    at: datetime,
) -> None:
    _check_signed(crl, crl.tbs_certlist_bytes, root, "the list of revoked certificates")
    if at < crl.last_update_utc or crl.next_update_utc is None or at > crl.next_update_utc:
        raise IntegrityError(
            f"the list of revoked certificates is valid from {crl.last_update_utc} to {crl.next_update_utc}"
        )
    for certificate in chain:
        listed = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
        if certificate.issuer == root.subject and listed is not None:
            raise IntegrityError(f"the certificate of {certificate.subject.rfc4514_string()!r} was revoked")


def _check_signed(
    what_is_signed: x509.Certificate | x509.CertificateRevocationList,
    signed: bytes,
    issuer: x509.Certificate,
    what: str,
) -> None:
    key = issuer.public_key()
    sha384 = isinstance(what_is_signed.signature_hash_algorithm, hashes.SHA384)
    if what_is_signed.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS or not sha384:
        raise IntegrityError(f"{what} is not signed with RSA-PSS and SHA-384")
    if not isinstance(key, rsa.RSAPublicKey) or not 4096 <= key.key_size <= 8192:
        raise IntegrityError(f"{what} is not signed with an RSA key of 4096 bits")
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), hashes.SHA384.digest_size)
    try:
        key.verify(what_is_signed.signature, signed, pss, hashes.SHA384())
    except InvalidSignature:
        raise IntegrityError(
            f"the signature of {what} is not valid for {issuer.subject.rfc4514_string()!r}"
        ) from None


def _check_leaf(leaf: x509.Certificate, report: SnpReport, kind: str) -> tuple[str, dict[str, int]]:
    """The product and the TCB version of the certificate, which have to be those of the report."""
    values = {extension.oid.dotted_string: extension.value for extension in leaf.extensions}
    raw = {oid: v.value for oid, v in values.items() if isinstance(v, x509.UnrecognizedExtension)}
    product = _ia5_string(raw.get(_PRODUCT), "product name")
    turin = _is_turin(report, product)
    expected = report.tcb(report.reported_tcb, turin=turin)
    stated = {}
    for part in expected:
        stated[part] = _integer(raw.get(_OID + _TCB_OIDS[part]), f"{part} version")
    if stated != expected:
        raise IntegrityError(
            f"the {kind} certificate is for the TCB version {_written(stated)}, "
            f"the report has {_written(expected)}"
        )
    used = {(_TURIN_TCB_BYTES if turin else _TCB_BYTES)[part] for part in expected}
    if any(byte for place, byte in enumerate(report.reported_tcb) if place not in used):
        raise IntegrityError("the TCB version of the report has a reserved byte that is not zero")
    if kind == "VCEK":
        _check_chip(raw.get(_HWID), report, turin)
    elif not raw.get(_CSP_ID):
        raise IntegrityError("the VLEK certificate names no cloud provider")
    return product, stated


def _check_chip(hwid: bytes | None, report: SnpReport, turin: bool) -> None:
    size = _TURIN_HWID_SIZE if turin else _CHIP_ID_SIZE
    if hwid is not None and len(hwid) == size + 2 and hwid[:2] == bytes([4, size]):
        hwid = hwid[
            2:
        ]  # an OCTET STRING, as publication 57230 has it; older certificates have the bare bytes
    if hwid is None or len(hwid) != size:
        raise IntegrityError("the VCEK certificate does not name its chip")
    if report.mask_chip_key:
        raise IntegrityError("the host has masked the identity of the chip, so that it cannot be checked")
    if report.chip_id != hwid.ljust(_CHIP_ID_SIZE, b"\0"):
        raise IntegrityError("the VCEK certificate is that of another chip than the report's")


def _is_turin(report: SnpReport, product: str) -> bool:
    """Whether TCB versions have the form of family 1Ah. The report says so from version 3 on."""
    named = product.startswith("Turin")
    if report.cpuid_family is not None and (report.cpuid_family >= _TURIN_FAMILY) != named:
        raise IntegrityError(
            f"the certificate is for {product!r}, the report is of family {report.cpuid_family:#x}"
        )
    return named


def _integer(value: bytes | None, what: str) -> int:
    """A DER INTEGER of one byte, from 0 to 255."""
    if value is not None and len(value) == 3 and value[:2] == b"\x02\x01" and value[2] < 0x80:
        return value[2]
    if value is not None and len(value) == 4 and value[:3] == b"\x02\x02\x00" and value[3] >= 0x80:
        return value[3]
    raise IntegrityError(f"the certificate of the signing key has no valid {what}")


def _ia5_string(value: bytes | None, what: str) -> str:
    if value is None or len(value) < 3 or value[0] != 0x16 or value[1] != len(value) - 2 or value[1] > 64:
        raise IntegrityError(f"the certificate of the signing key has no valid {what}")
    return value[2:].decode("ascii", "replace")


def _written(tcb: Mapping[str, int]) -> str:
    return ", ".join(f"{part} {number}" for part, number in tcb.items())
