"""Quotes of Intel TDX: their structure here, and their signatures, certificates and TCB by ``dcap-qvl``.

``dcap-qvl`` (https://github.com/Phala-Network/dcap-qvl, ``pip install "integrity-triton[attestation]"``)
verifies the quote up to the root with the collateral that Intel publishes for it: CRLs, TCB info and the
identity of the quoting enclave. It leaves some bytes of a quote aside: in version 0.7.0 trailing bytes, the
type of the certification data, and everything in the text of the certificates that is no part of a
certificate. Here a quote has to have exactly the structure of "Intel TDX DCAP: Quote Generation Library and
Quote Verification Library", appendix 3 (version 4 and version 5), and nothing else.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ...errors import IntegrityError
from ...strict_json import parse_object
from .certificates import parse_certificates
from .errors import AttestationError

MAX_QUOTE = 64 << 10
"""Bytes. Quotes with certificates in X.509 have about 5000; larger ones are of the CBOR format of DICE."""
MAX_COLLATERAL = 1 << 20

_HEADER_SIZE = 48
_ECDSA_P256 = 2
_TDX = 0x81
_INTEL = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_BODY_SIZES = {2: 584, 3: 648}  # TD report 1.0 and 1.5, by the type of the body in version 5
_SIGNATURE_AND_KEY = 128
_QE_REPORT_CERTIFICATION_DATA, _PCK_CHAIN = 6, 5
_QE_REPORT_AND_SIGNATURE = 448
_REGISTERS = (
    "tee_tcb_svn",
    "mr_seam",
    "mr_signer_seam",
    "seam_attributes",
    "td_attributes",
    "xfam",
    "mr_td",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
    "rt_mr0",
    "rt_mr1",
    "rt_mr2",
    "rt_mr3",
    "report_data",
)
_REGISTERS_15 = ("tee_tcb_svn2", "mr_service_td")


@dataclass(frozen=True)
class VerifiedTdxQuote:
    """A quote that the quoting enclave of an Intel processor has signed."""

    version: int
    fields: Mapping[str, bytes]
    """The fields of the TD report, such as ``mr_td``, ``rt_mr0`` and ``report_data``."""
    tcb_status: str
    """Intel's word for the state of the platform, such as ``UpToDate`` or ``OutOfDate``."""
    advisories: tuple[str, ...]
    """Intel's advisories that concern the platform, such as ``INTEL-SA-00837``."""
    tcb_evaluation: int
    """The number of the TCB evaluation data set of the collateral."""
    platform: Mapping[str, str]
    """What the certificate says of the platform, ``True``, ``False`` or ``Undefined``: ``dynamic_platform``,
    ``cached_keys`` and ``smt_enabled``."""
    root: str
    """The subject of the root."""

    @property
    def debug(self) -> bool:
        """Whether the host may debug the guest, so that nothing in it is secret or safe from change (the
        attributes of the group TUD)."""
        return self.fields["td_attributes"][0] != 0


def check_structure(quote: bytes) -> tuple[int, tuple[x509.Certificate, ...]]:
    """The version of a quote, and its certificates: of the platform, of the authority, and the root.

    Raises AttestationError unless the quote has exactly the structure of version 4 or 5, with an ECDSA
    signature and a chain of three certificates.
    """
    if len(quote) > MAX_QUOTE:
        raise AttestationError(f"the quote has {len(quote)} bytes; at most {MAX_QUOTE} are allowed")
    reader = _Reader(quote)
    version, key_type, tee = struct.unpack("<HHI", reader.take(8, "header"))
    if version not in (4, 5) or tee != _TDX:
        raise AttestationError(
            f"a quote of version {version} and TEE type {tee:#x} is not supported, only TDX of version 4 or 5"
        )
    if key_type != _ECDSA_P256:
        raise AttestationError(f"a quote with a key of type {key_type} is not supported, only 2, ECDSA P-256")
    if any(reader.take(4, "header")):
        raise AttestationError("the quote's header has reserved bytes that are not zero")
    if reader.take(16, "header") != _INTEL:
        raise AttestationError("the quote is of another quoting enclave than Intel's")
    reader.take(_HEADER_SIZE - 28, "header")
    size = _BODY_SIZES[2]
    if version == 5:
        kind, stated = struct.unpack("<HI", reader.take(6, "type of the body"))
        if _BODY_SIZES.get(kind) != stated:
            raise AttestationError(
                f"a quote with a body of type {kind} and {stated} bytes is not supported, "
                "only TD reports 1.0 and 1.5"
            )
        size = stated
    reader.take(size, "TD report")
    signed = _Reader(reader.take(reader.number(4, "size of the signature"), "signature"))
    if any(reader.rest()):
        raise AttestationError("the quote is followed by bytes that are not zero")
    signed.take(_SIGNATURE_AND_KEY, "signature")
    outer = _certification(signed, _QE_REPORT_CERTIFICATION_DATA)
    outer.take(_QE_REPORT_AND_SIGNATURE, "report of the quoting enclave")
    outer.take(outer.number(2, "size of the authentication data"), "authentication data")
    text = _certification(outer, _PCK_CHAIN).rest()
    chain = parse_certificates(text)
    written = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain)
    if text.rstrip(b"\0").rstrip(b"\n") != written.rstrip(b"\n"):
        raise AttestationError("the certificates of the quote are not PEM without anything else")
    if len(chain) != 3:
        raise AttestationError(f"the quote has {len(chain)} certificates, not the chain of three")
    return version, chain


def verify_quote(
    quote: bytes, collateral: str | bytes, roots: Iterable[x509.Certificate], at: datetime
) -> VerifiedTdxQuote:
    """Verify a quote up to one of ``roots``, which are the vendor's, with its collateral, at a time in UTC.

    ``collateral`` is the JSON of ``dcap-qvl``: nine members, from ``pck_crl_issuer_chain`` to
    ``qe_identity_signature``. It is not trusted; all of it is signed up to the same root.

    Raises AttestationError for what is malformed or not supported, IntegrityError for what is wrong, and
    ImportError without ``dcap-qvl``. The TCB status is told, and not judged.
    """
    try:
        import dcap_qvl
    except ImportError as error:
        raise ImportError(f'{error}; pip install "integrity-triton[attestation]" brings it') from None
    version, chain = check_structure(quote)
    root = chain[-1]
    if root not in list(roots):
        raise IntegrityError(
            f"the chain of the quote ends in {root.subject.rfc4514_string()!r}, "
            "which is none of the roots given"
        )
    parsed = _collateral(dcap_qvl, collateral)
    now = int(at.timestamp())
    if now < 0:
        raise IntegrityError(f"no quote of TDX is from {at}: certificates and collateral are later than 1970")
    verifier = dcap_qvl.QuoteVerifier(root.public_bytes(serialization.Encoding.DER))
    try:
        claims = verifier.verify_with_policy(quote, parsed, now, dcap_qvl.QuotePolicy.claims_only(now))
    except ValueError as error:
        raise IntegrityError(f"the quote is not valid: {_detail(error)}") from None
    return _verified(version, json.loads(claims.to_json()), root)


def _verified(version: int, claims: Mapping[str, Any], root: x509.Certificate) -> VerifiedTdxQuote:
    ((kind, report),) = claims["report"].items()
    if kind not in ("TD10", "TD15"):
        raise AttestationError(f"the quote has a report of the kind {kind}, not that of a trust domain")
    names = _REGISTERS + (_REGISTERS_15 if kind == "TD15" else ())
    body = {**report, **report.get("base", {})}
    pck = claims["platform"]["pck"]
    return VerifiedTdxQuote(
        version,
        {name: bytes.fromhex(body[name]) for name in names},
        claims["tcb"]["status"],
        tuple(claims["tcb"]["advisory_ids"]),
        claims["tcb"]["eval_data_number"],
        {name: str(pck[name]) for name in ("dynamic_platform", "cached_keys", "smt_enabled")},
        root.subject.rfc4514_string(),
    )


def _collateral(dcap_qvl: Any, data: str | bytes) -> Any:
    if len(data) > MAX_COLLATERAL:
        raise AttestationError(f"the collateral has more than {MAX_COLLATERAL} bytes")
    try:
        parse_object(data)
        return dcap_qvl.QuoteCollateralV3.from_json(data if isinstance(data, str) else data.decode("utf-8"))
    except ValueError as error:
        raise AttestationError(f"not the collateral of a quote: {_detail(error)}") from None


def _detail(error: ValueError) -> str:
    return str(error).removeprefix("Verification failed: ")


class _Reader:
    """Takes bytes from the beginning of a structure, and refuses to take more than there are."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int, what: str) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise AttestationError(f"the quote ends in its {what}")
        self._at += size
        return part

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def rest(self) -> bytes:
        return self._data[self._at :]


def _certification(reader: _Reader, expected: int) -> _Reader:
    """Certification data of a type, which has to take up the rest of what it is in."""
    kind = reader.number(2, "certification data")
    if kind != expected:
        raise AttestationError(f"certification data of type {kind} are not supported here, only {expected}")
    size = reader.number(4, "certification data")
    data = reader.rest()
    if len(data) != size:
        raise AttestationError("the certification data have another size than they state")
    return _Reader(data)
