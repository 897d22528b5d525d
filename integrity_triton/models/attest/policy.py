"""What a verifier demands of an attestation. ``docs/attestation.md`` defines the JSON."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import IntegrityError
from ...strict_json import StrictJsonError, check_members, parse_hex, parse_object, shown
from ..regular_files import read_regular
from .errors import AttestationError
from .sev_snp import POLICY_BITS, TCB_PARTS, VerifiedSnpReport
from .tdx import VerifiedTdxQuote

FORMAT = "integrity_triton attestation policy"
VERSION = 1
MAX_SIZE = 1 << 20

CHECKS = ("signature", "nonce", "time", "model", "resident", "guard", "evidence", "tokens", "weights")
"""What a policy can require, in the order of the report."""

_ALWAYS = ("signature", "nonce", "time", "model")
_TDX_REGISTERS = dict.fromkeys(
    (
        "mr_td",
        "mr_seam",
        "mr_signer_seam",
        "mr_config_id",
        "mr_owner",
        "mr_owner_config",
        "rt_mr0",
        "rt_mr1",
        "rt_mr2",
        "rt_mr3",
    ),
    48,
)
_TDX_PLATFORM = ("dynamic_platform", "cached_keys", "smt_enabled")
_TDX_STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)
_SNP_FIELDS = {
    "measurement": 48,
    "host_data": 32,
    "id_key_digest": 48,
    "author_key_digest": 48,
    "family_id": 16,
    "image_id": 16,
}

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class TdxPolicy:
    """What a TDX quote has to say."""

    registers: Mapping[str, tuple[bytes, ...]]
    """The values that are allowed, by the name of the register."""
    tcb_status: tuple[str, ...] = ("UpToDate",)
    rejected_advisories: tuple[str, ...] = ()
    minimum_tcb_evaluation: int = 0
    rejected_platform: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.registers.get("mr_td"):
            raise AttestationError("the policy for TDX must say which values of 'mr_td' are allowed")

    def check(self, quote: VerifiedTdxQuote) -> str:
        """What was compared. Raises IntegrityError for what is not allowed."""
        if quote.debug:
            raise IntegrityError("the trust domain may be debugged: nothing in it is safe from its host")
        _check_values(quote.fields, self.registers)
        if quote.tcb_status not in self.tcb_status:
            raise IntegrityError(
                f"the TCB status is {quote.tcb_status}, the policy allows {', '.join(self.tcb_status)}"
            )
        for advisory in quote.advisories:
            if advisory in self.rejected_advisories:
                raise IntegrityError(
                    f"the advisory {advisory} concerns the platform, and the policy rejects it"
                )
        if quote.tcb_evaluation < self.minimum_tcb_evaluation:
            raise IntegrityError(
                f"the collateral is of TCB evaluation {quote.tcb_evaluation}, the policy demands at least "
                f"{self.minimum_tcb_evaluation}"
            )
        for name in self.rejected_platform:
            if quote.platform[name] != "False":
                raise IntegrityError(
                    f"the platform has {name} {quote.platform[name]}, the policy demands False"
                )
        return f"{_named(self.registers)}; TCB {quote.tcb_status}"


@dataclass(frozen=True)
class SnpPolicy:
    """What an SEV-SNP report has to say."""

    values: Mapping[str, tuple[bytes, ...]]
    """The values that are allowed, by the name of the field."""
    guest_policy: Mapping[str, bool] = field(default_factory=dict)
    """The bits that the guest's policy must have. ``debug`` must be false unless it is here."""
    minimum_tcb: Mapping[str, int] = field(default_factory=dict)
    minimum_guest_svn: int = 0
    maximum_vmpl: int = 0
    """The highest privilege level (VMPL) that may have asked for the report; 0 is the most trusted."""
    products: tuple[str, ...] = ()
    """The beginnings of the names of products that are allowed, such as ``Milan``; empty for all."""
    allow_vlek: bool = False
    require_crl: bool = False
    """Whether a list of revoked certificates has to have been given."""

    def __post_init__(self) -> None:
        if not self.values.get("measurement"):
            raise AttestationError(
                "the policy for SEV-SNP must say which values of 'measurement' are allowed"
            )
        if "" in self.products:
            raise AttestationError("the policy for SEV-SNP names '' as a product, with which all names begin")

    def check(self, verified: VerifiedSnpReport) -> str:
        """What was compared. Raises IntegrityError for what is not allowed."""
        report = verified.report
        for name, wanted in {"debug": False, **self.guest_policy}.items():
            if report.allows(name) != wanted:
                raise IntegrityError(f"the guest's policy has {name} {report.allows(name)}, not {wanted}")
        _check_values(vars(report), self.values)
        for which, tcb in (("reported", verified.reported_tcb), ("launch", verified.launch_tcb)):
            for part, least in self.minimum_tcb.items():
                if tcb.get(part, -1) < least:
                    raise IntegrityError(
                        f"the {which} TCB has {part} {tcb.get(part, 'absent')}, "
                        f"the policy demands at least {least}"
                    )
        if report.guest_svn < self.minimum_guest_svn:
            raise IntegrityError(
                f"the guest's security version is {report.guest_svn}, "
                f"the policy demands at least {self.minimum_guest_svn}"
            )
        if report.vmpl > self.maximum_vmpl:
            raise IntegrityError(
                f"the report was asked for at VMPL {report.vmpl}, "
                f"the policy allows at most {self.maximum_vmpl}"
            )
        if self.products and not verified.product.startswith(self.products):
            raise IntegrityError(f"the product is {verified.product}, which the policy does not allow")
        if verified.key == "VLEK" and not self.allow_vlek:
            raise IntegrityError("a cloud provider's key signed the report, which the policy does not allow")
        if self.require_crl and not verified.revocation_checked:
            raise IntegrityError("no list of revoked certificates was given, which the policy demands")
        return f"{_named(self.values)}; TCB {', '.join(f'{p} {n}' for p, n in verified.reported_tcb.items())}"


@dataclass(frozen=True)
class Policy:
    """What a verifier demands. Without a file: a signature over a fresh statement about the right model."""

    require: frozenset[str] = frozenset(_ALWAYS)
    """The checks, of ``CHECKS``, that have to succeed."""
    max_age: int = 300
    """Seconds that a statement may be old."""
    max_ahead: int = 30
    """Seconds by which the clock of the attesting machine may be ahead."""
    guard_max_age: int | None = None
    """Seconds for which bytes of the weights may have been unchecked by the guard."""
    tdx: TdxPolicy | None = None
    sev_snp: SnpPolicy | None = None
    tokens: Mapping[str, Mapping[str, str | int | bool]] = field(default_factory=dict)
    """The claims that each token's verdict has to have, by the token's label."""

    def __post_init__(self) -> None:
        _check_required(self.require)

    @classmethod
    def from_json(cls, data: str | bytes) -> Policy:
        """Raises AttestationError for anything that is not a policy of this version."""
        try:
            return _policy(parse_object(data))
        except AttestationError:
            raise
        except ValueError as error:
            raise AttestationError(f"not a policy for attestations: {error}") from None

    @classmethod
    def load(cls, path: PathLike) -> Policy:
        """Raises as :meth:`from_json` does, and names the file; OSError if it cannot be read."""
        try:
            return cls.from_json(read_regular(path, MAX_SIZE, "a policy"))
        except AttestationError as error:
            raise AttestationError(f"{os.fspath(path)}: {error}") from None


def _policy(members: Mapping[str, Any]) -> Policy:
    if members.get("format") != FORMAT:
        raise AttestationError(f"not a policy for attestations: the field 'format' must be {FORMAT!r}")
    if members.get("version") != VERSION or type(members["version"]) is not int:
        raise AttestationError(f"a policy of version {members.get('version')!r} is not known, only {VERSION}")
    _check_optional(
        members,
        {"format": str, "version": int, "require": list},
        {
            "max_age_seconds": int,
            "max_ahead_seconds": int,
            "guard_max_age_seconds": int,
            "tdx": dict,
            "sev_snp": dict,
            "tokens": dict,
        },
    )
    names = _strings(members["require"], "require", CHECKS)
    policy = Policy(
        frozenset(names),
        _count(members, "max_age_seconds", 300),
        _count(members, "max_ahead_seconds", 30),
        _count(members, "guard_max_age_seconds", 0) if "guard_max_age_seconds" in members else None,
        _tdx(members["tdx"]) if "tdx" in members else None,
        _snp(members["sev_snp"]) if "sev_snp" in members else None,
        _token_claims(members.get("tokens", {})),
    )
    if "evidence" in names and policy.tdx is None and policy.sev_snp is None:
        raise AttestationError(
            "a policy that requires 'evidence' must have 'tdx' or 'sev_snp', with a measurement"
        )
    for name, needs in (("tdx", "evidence"), ("sev_snp", "evidence"), ("guard_max_age_seconds", "guard")):
        if name in members and needs not in names:  # an attestation without any of it would pass
            raise AttestationError(f"a policy with {name!r} must require {needs!r}")
    if "tokens" in names and not policy.tokens:
        raise AttestationError("a policy that requires 'tokens' must say which claims their verdicts need")
    return policy


def _check_required(names: Collection[str]) -> None:
    if unknown := sorted(set(names).difference(CHECKS)):
        raise AttestationError(
            f"{shown(unknown[0])} in 'require' is not known; known are {', '.join(CHECKS)}"
        )
    for name in _ALWAYS:
        if name not in names:
            raise AttestationError(f"a policy must require {name!r}; it has to list {', '.join(_ALWAYS)}")


def _tdx(members: Mapping[str, Any]) -> TdxPolicy:
    _check_optional(
        members,
        {"registers": dict},
        {
            "tcb_status": list,
            "rejected_advisories": list,
            "minimum_tcb_evaluation": int,
            "rejected_platform": list,
        },
    )
    return TdxPolicy(
        _values(members["registers"], _TDX_REGISTERS, "registers"),
        _strings(members.get("tcb_status", ["UpToDate"]), "tcb_status", _TDX_STATUSES),
        _strings(members.get("rejected_advisories", []), "rejected_advisories"),
        _count(members, "minimum_tcb_evaluation", 0),
        _strings(members.get("rejected_platform", []), "rejected_platform", _TDX_PLATFORM),
    )


def _snp(members: Mapping[str, Any]) -> SnpPolicy:
    _check_optional(
        members,
        {"values": dict},
        {
            "guest_policy": dict,
            "minimum_tcb": dict,
            "minimum_guest_svn": int,
            "maximum_vmpl": int,
            "products": list,
            "allow_vlek": bool,
            "require_crl": bool,
        },
    )
    values = _values(members["values"], _SNP_FIELDS, "values")
    bits = members.get("guest_policy", {})
    _check_optional(bits, {}, dict.fromkeys(POLICY_BITS, bool))
    tcb = members.get("minimum_tcb", {})
    _check_optional(tcb, {}, dict.fromkeys(TCB_PARTS, int))
    return SnpPolicy(
        values,
        dict(bits),
        {part: _count(tcb, part, 0) for part in tcb},
        _count(members, "minimum_guest_svn", 0),
        _count(members, "maximum_vmpl", 0),
        _strings(members.get("products", []), "products"),
        members.get("allow_vlek", False),
        members.get("require_crl", False),
    )


def _token_claims(members: Mapping[str, Any]) -> dict[str, dict[str, str | int | bool]]:
    for label, claims in members.items():
        if not isinstance(claims, dict) or not claims:
            raise AttestationError(f"the policy for the token {shown(label)} must be an object with claims")
        for name, value in claims.items():
            if type(value) not in (str, int, bool):
                raise AttestationError(
                    f"the claim {shown(name)} of a policy must be text, a number or a boolean"
                )
    return dict(members)


def _values(members: Mapping[str, Any], sizes: Mapping[str, int], what: str) -> dict[str, tuple[bytes, ...]]:
    found = {}
    for name, values in members.items():
        if name not in sizes:
            raise StrictJsonError(f"unknown name {shown(name)} in {what!r}; known are {', '.join(sizes)}")
        allowed = tuple(parse_hex(text, name) for text in _strings(values, name))
        if not allowed or any(len(value) != sizes[name] for value in allowed):
            raise StrictJsonError(f"{name!r} must list values of {sizes[name]} bytes in hexadecimal")
        found[name] = allowed
    return found


def _strings(values: Any, what: str, known: tuple[str, ...] | None = None) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise StrictJsonError(f"{what!r} must be a list of strings")
    for value in values:
        if known is not None and value not in known:
            raise StrictJsonError(f"{shown(value)} in {what!r} is not known; known are {', '.join(known)}")
    return tuple(values)


def _count(members: Mapping[str, Any], name: str, default: int) -> int:
    value: int = members.get(name, default)
    if value < 0:
        raise StrictJsonError(f"the field {name!r} must not be negative")
    return value


def _check_optional(
    members: Mapping[str, Any], needed: Mapping[str, type], optional: Mapping[str, type]
) -> None:
    check_members(members, {**needed, **{name: k for name, k in optional.items() if name in members}})


def _check_values(found: Mapping[str, Any], allowed: Mapping[str, tuple[bytes, ...]]) -> None:
    for name, values in allowed.items():
        if found[name] not in values:
            raise IntegrityError(f"{name} is {found[name].hex()}, which the policy does not allow")


def _named(values: Mapping[str, Any]) -> str:
    return f"{', '.join(values)} as the policy allows"
