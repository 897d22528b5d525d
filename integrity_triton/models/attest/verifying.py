"""Verifying an attestation: which of its claims are proved, and by what."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from cryptography import x509

from ...errors import IntegrityError
from ..dsse import IN_TOTO, pre_authentication_encoding
from ..manifest import Manifest
from .document import Attestation
from .errors import AttestationError
from .keys import PublicKey, checked_public_key, fingerprint
from .keys import verify as verify_signature
from .making import root_of
from .policy import CHECKS, Policy
from .sev_snp import VerifiedSnpReport, parse_certificate_table, verify_report
from .statement import ModelRoot, Statement, check_nonce, from_payload
from .tdx import VerifiedTdxQuote, verify_quote
from .tokens import check_claims
from .tsm import Evidence, binding

Outcome = Literal["proved", "failed", "not checked"]


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    """The check, of ``policy.CHECKS``, that this line belongs to."""
    outcome: Outcome
    claim: str
    """What was proved, or why it was not."""
    by: str
    """What the proof rests on."""


@dataclass(frozen=True)
class AttestationReport:
    """What was proved by what. Everything that failed is in it, and everything that was not checked."""

    checks: tuple[Check, ...]
    required: frozenset[str]
    statement: Statement | None
    """What was stated; None if its signature is not valid."""

    @property
    def ok(self) -> bool:
        """Whether all that the policy requires is proved, and nothing failed."""
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """What failed, and what is required and was not proved."""
        found = [f"{c.name}: {c.claim}" for c in self.checks if c.outcome == "failed"]
        for name in CHECKS:
            if name not in self.required:
                continue
            mine = [check for check in self.checks if check.name == name]
            if not mine:
                found.append(f"{name}: required, and nothing was given to check it with")
            found += [f"{name}: required, and {c.claim}" for c in mine if c.outcome == "not checked"]
        return tuple(found)

    def raise_for_failure(self) -> None:
        """Raise IntegrityError, which names every problem, unless all that is required is proved."""
        if not self.ok:
            raise IntegrityError("the attestation does not hold: " + "; ".join(self.problems))

    def to_dict(self) -> dict[str, Any]:
        """The report as strings, booleans, lists and dicts, for ``json.dumps``."""
        return {
            "ok": self.ok,
            "checks": [{**vars(check), "required": check.name in self.required} for check in self.checks],
            "problems": list(self.problems),
        }


def verify(
    attestation: Attestation,
    *,
    key: PublicKey,
    nonce: bytes,
    model: Manifest | ModelRoot,
    policy: Policy | None = None,
    at: datetime | None = None,
    roots: Iterable[x509.Certificate] = (),
    certificates: Iterable[x509.Certificate] = (),
    collateral: str | bytes | None = None,
    crls: Iterable[x509.CertificateRevocationList] = (),
    tokens: Mapping[str, tuple[bytes, Mapping[str, Any]]] | None = None,
    weights: Any = None,
) -> AttestationReport:
    """Verify an attestation without a network, and tell what each claim rests on.

    ``key`` is the public key that the verifier expects, ``nonce`` the bytes that it has sent, and ``model``
    the manifest, or its root, that the machine must have. ``at`` is the time in UTC at which everything has
    to be valid, now by default. ``roots`` are the vendors' root certificates; ``certificates`` are further
    ones that the evidence may need, ``collateral`` is what a TDX quote needs, and ``crls`` list what the root
    of an SEV-SNP report has revoked. None of them is trusted.
    ``tokens`` maps labels to the SHA-256 of a token and the claims of its verdict. ``weights``, if given, are
    compared with the manifest, as :meth:`integrity_triton.models.Manifest.verify` does it, here and now.

    Raises AttestationError for a signed statement that is malformed or of another version, and for a nonce
    that is no nonce. All else is in the report, of which ``raise_for_failure`` makes an error.
    """
    check_nonce(nonce)
    demands = Policy() if policy is None else policy
    moment = datetime.now(timezone.utc) if at is None else at
    if moment.tzinfo is None:
        raise AttestationError("the time of a verification must have a time zone")
    public = checked_public_key(key)
    name = "the signing key"
    try:
        verify_signature(
            public, attestation.envelope.signature, pre_authentication_encoding(IN_TOTO, attestation.payload)
        )
    except IntegrityError as error:
        return AttestationReport(
            (Check("signature", "failed", str(error), name), *_unread(demands)), demands.require, None
        )
    statement = from_payload(attestation.payload)
    found = _Findings(f"the word of {name}")
    found.add("signature", lambda: _signature(statement, public), name)
    found.add("nonce", lambda: _nonce(statement, nonce), f"{name}, the verifier's nonce")
    found.add("time", lambda: _time(statement, moment, demands), f"{name}, the clocks of both machines")
    found.add("model", lambda: _model(statement, model), f"{name}, the verifier's manifest")
    evidence_holds = _check_evidence(
        found, attestation, nonce, demands, moment, list(roots), list(certificates), collateral, list(crls)
    )
    if evidence_holds:
        found.word = f"the word of {name} in the measured guest"
    found.add_stated("resident", statement.resident is not None, lambda: _resident(statement, model))
    found.add_stated("guard", statement.guard is not None, lambda: _guard(statement, demands))
    _check_tokens(found, statement, nonce, demands, dict(tokens or {}))
    if weights is not None:
        found.add("weights", lambda: _weights(model, weights), "the hashes of the weights, computed here")
    ordered = sorted(found.checks, key=lambda check: CHECKS.index(check.name))
    return AttestationReport(tuple(ordered), demands.require, statement)


class _Findings:
    """Collects the lines of a report; what raises an error has failed."""

    def __init__(self, word: str) -> None:
        self.checks: list[Check] = []
        self.word = word

    def add(self, name: str, check: Callable[[], str], by: str) -> bool:
        try:
            claim = check()
        except (IntegrityError, ValueError, TypeError, OSError, ImportError) as error:
            self.checks.append(Check(name, "failed", str(error), by))
            return False
        self.checks.append(Check(name, "proved", claim, by))
        return True

    def add_stated(self, name: str, stated: bool, check: Callable[[], str]) -> None:
        if stated:
            self.add(name, check, self.word)
        else:
            self.leave(name, "the statement says nothing about it")

    def leave(self, name: str, reason: str) -> None:
        self.checks.append(Check(name, "not checked", reason, "nothing"))


def _unread(policy: Policy) -> list[Check]:
    names = [name for name in CHECKS[1:] if name in policy.require]
    return [
        Check(name, "not checked", "the statement is not read, since its signature is not valid", "nothing")
        for name in names
    ]


def _signature(statement: Statement, key: PublicKey) -> str:
    if not hmac.compare_digest(statement.key, fingerprint(key)):
        raise IntegrityError("the statement was made for another signing key")
    return "the statement was signed with the expected key, and names it"


def _nonce(statement: Statement, nonce: bytes) -> str:
    if not hmac.compare_digest(statement.nonce, nonce):
        raise IntegrityError("the statement has another nonce: it was made for another request")
    return "the statement answers this request"


def _time(statement: Statement, at: datetime, policy: Policy) -> str:
    age = (at - statement.time).total_seconds()
    if age < -policy.max_ahead:
        raise IntegrityError(
            f"the statement is from {-age:.0f} s in the future; at most {policy.max_ahead} s may be"
        )
    if age > policy.max_age:
        raise IntegrityError(f"the statement is {age:.0f} s old; at most {policy.max_age} s are allowed")
    return f"the statement is at most {policy.max_age} s old"


def _model(statement: Statement, model: Manifest | ModelRoot) -> str:
    expected = model if isinstance(model, ModelRoot) else root_of(model)
    if not statement.model.same(expected):
        raise IntegrityError(
            f"the statement is about the {statement.model.kind} root {statement.model.algorithm} "
            f"{statement.model.digest.hex()}, not {expected.kind} {expected.algorithm} "
            f"{expected.digest.hex()}"
        )
    return f"{expected.kind} root {expected.algorithm} {expected.digest.hex()[:16]}"


def _resident(statement: Statement, model: Manifest | ModelRoot) -> str:
    resident = statement.resident
    assert resident is not None
    entries = model.entries if isinstance(model, Manifest) else ()
    tensors, nbytes = max(len(entries), 1), sum(entry.nbytes for entry in entries)
    if resident.tensors < tensors or resident.nbytes < nbytes:  # names of one tensor may count several times
        raise IntegrityError(
            f"the weights in memory were {resident.nbytes} bytes in {resident.tensors} tensors; the model "
            f"has {nbytes} in {tensors}"
            if entries
            else "no weights were in memory"
        )
    return f"{resident.nbytes} bytes in {resident.tensors} tensors on {resident.device} had the root"


def _guard(statement: Statement, policy: Policy) -> str:
    guard = statement.guard
    assert guard is not None
    if guard.failed or not guard.ok:
        kinds = f": {', '.join(guard.findings)}" if guard.findings else ""
        raise IntegrityError(f"the guard is {guard.state} and not in order{kinds}")
    if not guard.passes or not guard.tensors:
        raise IntegrityError("the guard had not checked the whole model before the statement was made")
    if policy.guard_max_age is not None and guard.age_ms > policy.guard_max_age * 1000:
        raise IntegrityError(
            f"bytes were unchecked for {guard.age_ms / 1000:.0f} s; "
            f"at most {policy.guard_max_age} s are allowed"
        )
    return (
        f"no change in {guard.nbytes} bytes, passes: {guard.passes}, "
        f"every byte checked within {-(-guard.age_ms // 1000)} s"
    )


def _weights(model: Manifest | ModelRoot, weights: Any) -> str:
    if not isinstance(model, Manifest):
        raise IntegrityError("weights are compared with a manifest, and only a root was given")
    report = model.verify(weights)
    report.raise_for_mismatch()
    return str(report)


def _check_evidence(
    found: _Findings,
    attestation: Attestation,
    nonce: bytes,
    policy: Policy,
    at: datetime,
    roots: list[x509.Certificate],
    certificates: list[x509.Certificate],
    collateral: str | bytes | None,
    crls: list[x509.CertificateRevocationList],
) -> bool:
    """Whether there is evidence, and all of it holds, with a policy for what it measured."""
    if not attestation.evidence:
        found.leave("evidence", "there is none")
        return False
    holds = True
    expected = binding(nonce, attestation.payload)
    for evidence in attestation.evidence:
        if not roots:
            found.leave("evidence", f"{evidence.provider}: no root of the vendor was given")
            holds = False
            continue
        verified: list[VerifiedTdxQuote | VerifiedSnpReport] = []
        by = f"{evidence.provider}, the vendor's root"

        def check_chain(evidence: Evidence = evidence, verified: list[Any] = verified) -> str:
            verified.append(_verified(evidence, roots, certificates, collateral, crls, at))
            return f"the processor signed the report, up to {verified[0].root}"

        if not found.add("evidence", check_chain, by):
            holds = False
            continue

        def check_binding(verified: list[Any] = verified) -> str:
            if not hmac.compare_digest(_report_data(verified[0]), expected):
                raise IntegrityError("the report was made for another statement or nonce")
            return "the report is about this statement and this nonce"

        holds = found.add("evidence", check_binding, by) and holds
        demands: Any = policy.tdx if isinstance(verified[0], VerifiedTdxQuote) else policy.sev_snp
        if demands is None:
            found.leave("evidence", f"{evidence.provider}: the policy does not say which guest is allowed")
            holds = False
        else:

            def check_policy(verified: list[Any] = verified, demands: Any = demands) -> str:
                claim: str = demands.check(verified[0])
                return claim

            holds = found.add("evidence", check_policy, f"{by}, the policy") and holds
    return holds


def _verified(
    evidence: Evidence,
    roots: list[x509.Certificate],
    certificates: list[x509.Certificate],
    collateral: str | bytes | None,
    crls: list[x509.CertificateRevocationList],
    at: datetime,
) -> VerifiedTdxQuote | VerifiedSnpReport:
    if evidence.provider == "tdx_guest":
        if collateral is None:
            raise AttestationError("a TDX quote needs its collateral, and none was given")
        return verify_quote(evidence.report, collateral, roots, at)
    if evidence.provider == "sev_guest":
        brought = parse_certificate_table(evidence.auxiliary) if evidence.auxiliary else ()
        return verify_report(evidence.report, [*certificates, *brought], roots, at, crls)
    raise AttestationError(f"evidence of the kind {evidence.provider!r} is not supported")


def _report_data(verified: VerifiedTdxQuote | VerifiedSnpReport) -> bytes:
    if isinstance(verified, VerifiedTdxQuote):
        return verified.fields["report_data"]
    return verified.report.report_data


def _check_tokens(
    found: _Findings,
    statement: Statement,
    nonce: bytes,
    policy: Policy,
    given: dict[str, tuple[bytes, Mapping[str, Any]]],
) -> None:
    for label in sorted({*statement.tokens, *policy.tokens, *given}):

        def check(label: str = label) -> str:
            if label not in statement.tokens:
                raise IntegrityError(f"the statement binds no token {label!r}")
            digest, claims = given[label]
            if not hmac.compare_digest(digest, statement.tokens[label]):
                raise IntegrityError(f"the token {label!r} is not the one that the statement binds")
            return f"{label}: {check_claims(claims, policy.tokens[label], nonce)}"

        if label not in given and label in statement.tokens:
            found.leave("tokens", f"{label}: the token and the verdict of its verifier were not given")
        elif label not in policy.tokens and label in statement.tokens:
            found.leave("tokens", f"{label}: the policy does not say which claims it needs")
        else:
            found.add("tokens", check, f"{found.word}, the verdict of the token's own verifier")


def oms_root(signature: str | os.PathLike[str], public_key: str | os.PathLike[str]) -> ModelRoot:
    """The root of an OpenSSF model signature, once it was verified with a public key in PEM.

    Raises IntegrityError if the key did not sign it, ValueError for what is malformed, and OSError.
    """
    from ..oms import read_signature
    from ..oms_signers import KeyVerifier
    from ..signing_keys import load_public_key

    listed = read_signature(signature, KeyVerifier(load_public_key(public_key)))
    root = hashlib.sha256(b"".join(map(bytes.fromhex, listed.digests.values()))).digest()
    return ModelRoot("oms", "sha256", root)
