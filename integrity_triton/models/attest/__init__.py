"""Attestation: the root of a model, bound to the machine that has it in memory.

:func:`attest` makes an attestation, with evidence of a confidential virtual machine by :func:`get_evidence`;
:func:`verify` verifies one without a network, and tells what each claim rests on. ``docs/attestation.md``
defines the formats, and says what is proved and what is not.

Needs ``pip install "integrity-triton[attestation]"``.
"""

from __future__ import annotations

try:
    import cryptography as _cryptography  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"attestation needs a package that is missing ({error.name}): "
        "pip install 'integrity-triton[attestation]'"
    ) from error

from . import provenance
from .certificates import load_certificates, load_crl
from .device import device_report
from .document import MEDIA_TYPE, Attestation
from .errors import AttestationError, EvidenceUnavailable
from .keys import load_private_key, load_public_key
from .making import attest, guard_state, root_of
from .policy import Policy, SnpPolicy, TdxPolicy
from .sev_snp import SnpReport, VerifiedSnpReport, parse_report, verify_report
from .statement import PREDICATE_TYPE, GuardState, ModelRoot, Resident, Statement
from .tdx import VerifiedTdxQuote, verify_quote
from .tokens import read_claims, read_token, token_nonce
from .tsm import Evidence, binding, extend_rtmr, get_evidence
from .verifying import AttestationReport, Check, oms_root, verify

__all__ = [
    "MEDIA_TYPE",
    "PREDICATE_TYPE",
    "Attestation",
    "AttestationError",
    "AttestationReport",
    "Check",
    "Evidence",
    "EvidenceUnavailable",
    "GuardState",
    "ModelRoot",
    "Policy",
    "Resident",
    "SnpPolicy",
    "SnpReport",
    "Statement",
    "TdxPolicy",
    "VerifiedSnpReport",
    "VerifiedTdxQuote",
    "attest",
    "binding",
    "device_report",
    "extend_rtmr",
    "get_evidence",
    "guard_state",
    "load_certificates",
    "load_crl",
    "load_private_key",
    "load_public_key",
    "oms_root",
    "parse_report",
    "provenance",
    "read_claims",
    "read_token",
    "root_of",
    "token_nonce",
    "verify",
    "verify_quote",
    "verify_report",
]
