"""What an attestation states: an in-toto statement with a predicate of this package.

``docs/attestation.md`` defines the predicate. The statement is parsed only after its signature was verified,
and everything in it is checked even then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from ...strict_json import check_members, parse_hex, parse_object, shown
from ..tensor_hash import TensorHash
from .errors import AttestationError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://integrity_triton/attestation/v1"
"""The name of the predicate with its version. As with OMS's, it is a name and not the address of a page."""

MAX_PAYLOAD = 1 << 20
"""Bytes of a statement."""
LEAST_NONCE, MOST_NONCE = 16, 64
"""Bytes of the verifier's nonce."""

_PREDICATE_BASE = PREDICATE_TYPE.rpartition("/")[0]
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)
_LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_MOST_TOKENS = 64
_LONGEST_WORD = 120  # characters
_SHA256_SIZE = 32


@dataclass(frozen=True)
class ModelRoot:
    """The digest that stands for a model.

    ``kind`` is ``manifest`` for the root of a :class:`~integrity_triton.models.Manifest`, whose hash is
    ``algorithm``, or ``oms`` for the subject of an OpenSSF model signature, which is SHA-256 over the digests
    of its resources.
    """

    kind: str
    algorithm: str
    digest: bytes
    name: str = "model"
    """The name of the model, which only informs."""

    def __post_init__(self) -> None:
        if self.kind not in ("manifest", "oms"):
            raise AttestationError(f"the root of a model is a 'manifest' or an 'oms' one, not {self.kind!r}")
        if self.kind == "oms" and self.algorithm != "sha256":
            raise AttestationError(f"the root of an OMS signature is a sha256, not {shown(self.algorithm)}")
        try:
            hash_ = TensorHash.of(self.algorithm, len(self.digest))
        except ValueError as error:
            raise AttestationError(f"the root of the model: {error}") from None
        if hash_.name != self.algorithm:
            raise AttestationError(f"the root of the model: the algorithm must be spelled {hash_.name!r}")

    def same(self, other: ModelRoot) -> bool:
        """Whether both stand for the same model, whatever it is called."""
        mine, its = (self.kind, self.algorithm, self.digest), (other.kind, other.algorithm, other.digest)
        return mine == its


@dataclass(frozen=True)
class Resident:
    """The weights that the attesting program had in memory and compared with the root."""

    device: str
    tensors: int
    nbytes: int


@dataclass(frozen=True)
class GuardState:
    """What a :class:`~integrity_triton.models.Guard` knew when the statement was made."""

    state: str
    ok: bool
    failed: bool
    passes: int
    period_ms: int | None
    """Milliseconds within which every byte is checked again; None before anything was checked."""
    age_ms: int
    """Milliseconds since the check of the bytes that were checked least recently."""
    tensors: int
    nbytes: int
    signed: bool
    findings: tuple[str, ...] = ()
    """The kinds of the findings, one for each kind."""


@dataclass(frozen=True)
class Statement:
    """What an attestation states."""

    model: ModelRoot
    nonce: bytes
    time: datetime
    """When the statement was made, by the clock of the machine that made it, in UTC, to the second."""
    key: bytes
    """SHA-256 of the signing key's SubjectPublicKeyInfo. It binds the key to the evidence."""
    device: Mapping[str, Any] = field(default_factory=dict)
    """The device report: strings, booleans, integers, lists and objects."""
    resident: Resident | None = None
    guard: GuardState | None = None
    tokens: Mapping[str, bytes] = field(default_factory=dict)
    """SHA-256 of tokens with evidence of other devices, by a label such as ``gpu``."""

    def __post_init__(self) -> None:
        check_nonce(self.nonce)
        if len(self.key) != _SHA256_SIZE:
            raise AttestationError("the fingerprint of the signing key is a SHA-256 of 32 bytes")
        if self.time.tzinfo is None or self.time.utcoffset() != timedelta(0) or self.time.microsecond:
            raise AttestationError("the time of a statement is in UTC, in whole seconds")
        if len(self.tokens) > _MOST_TOKENS:
            raise AttestationError(f"a statement binds at most {_MOST_TOKENS} tokens")
        for label, digest in self.tokens.items():
            if not _LABEL.fullmatch(label):
                raise AttestationError(f"the label {shown(label)} of a token must match {_LABEL.pattern}")
            if len(digest) != _SHA256_SIZE:
                raise AttestationError(f"the token {label!r} is bound by a SHA-256 of 32 bytes")


def check_nonce(nonce: bytes) -> None:
    """Raises AttestationError for a nonce that is too short to be unguessable, or too long."""
    if not LEAST_NONCE <= len(nonce) <= MOST_NONCE:
        raise AttestationError(
            f"a nonce has {LEAST_NONCE} to {MOST_NONCE} random bytes, not {len(nonce)}; "
            "the verifier makes a new one for each attestation"
        )


def to_payload(statement: Statement) -> bytes:
    """The statement as JSON. Raises AttestationError if it would be too large to be read again."""
    model = statement.model
    predicate: dict[str, Any] = {
        "model": {"kind": model.kind, "algorithm": model.algorithm, "root": model.digest.hex()},
        "nonce": statement.nonce.hex(),
        "time": statement.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "key": statement.key.hex(),
        "device": dict(statement.device),
    }
    if (resident := statement.resident) is not None:
        predicate["resident"] = {
            "device": resident.device,
            "tensors": resident.tensors,
            "bytes": resident.nbytes,
        }
    if (guard := statement.guard) is not None:
        predicate["guard"] = {
            "state": guard.state,
            "ok": guard.ok,
            "failed": guard.failed,
            "passes": guard.passes,
            **({} if guard.period_ms is None else {"period_ms": guard.period_ms}),
            "age_ms": guard.age_ms,
            "tensors": guard.tensors,
            "bytes": guard.nbytes,
            "signed": guard.signed,
            "findings": list(guard.findings),
        }
    if statement.tokens:
        predicate["tokens"] = {label: {"sha256": d.hex()} for label, d in sorted(statement.tokens.items())}
    members = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": model.name, "digest": {model.algorithm: model.digest.hex()}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    payload = json.dumps(members, separators=(",", ":")).encode("ascii")
    if len(payload) > MAX_PAYLOAD:
        raise AttestationError(f"the statement takes {len(payload)} bytes; at most {MAX_PAYLOAD} are allowed")
    return payload


def from_payload(payload: bytes) -> Statement:
    """The statement in a payload. Raises AttestationError unless all of it is as the page defines it."""
    if len(payload) > MAX_PAYLOAD:
        raise AttestationError(f"the statement has {len(payload)} bytes; at most {MAX_PAYLOAD} are allowed")
    try:
        return _statement(parse_object(payload))
    except AttestationError:
        raise
    except ValueError as error:
        raise AttestationError(f"the signed statement: {error}") from None


def _statement(members: Mapping[str, Any]) -> Statement:
    if members.get("_type") != STATEMENT_TYPE:
        raise AttestationError(f"the signed statement: _type must be {STATEMENT_TYPE!r}")
    kind = members.get("predicateType")
    if kind != PREDICATE_TYPE:
        if isinstance(kind, str) and kind.startswith(f"{_PREDICATE_BASE}/v"):
            raise AttestationError(
                f"the attestation is of another version, {shown(kind)}; this program reads {PREDICATE_TYPE!r}"
            )
        raise AttestationError(f"the signed statement: predicateType must be {PREDICATE_TYPE!r}")
    check_members(members, {"_type": str, "subject": list, "predicateType": str, "predicate": dict})
    predicate = members["predicate"]
    optional = {"resident": dict, "guard": dict, "tokens": dict}
    check_members(
        predicate,
        {
            "model": dict,
            "nonce": str,
            "time": str,
            "key": str,
            "device": dict,
            **{name: kind for name, kind in optional.items() if name in predicate},
        },
    )
    check_members(predicate["model"], {"kind": str, "algorithm": str, "root": str})
    root = predicate["model"]
    model = ModelRoot(
        root["kind"], root["algorithm"], parse_hex(root["root"], "root"), _subject(members["subject"], root)
    )
    return Statement(
        model,
        parse_hex(predicate["nonce"], "nonce"),
        parse_time(predicate["time"]),
        parse_hex(predicate["key"], "key"),
        predicate["device"],
        _resident(predicate["resident"]) if "resident" in predicate else None,
        _guard(predicate["guard"]) if "guard" in predicate else None,
        _tokens(predicate.get("tokens", {})),
    )


def parse_time(text: str) -> datetime:
    """A time such as ``2026-11-29T15:00:00Z``. Raises AttestationError for any other form."""
    if _TIME.fullmatch(text):
        try:
            return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        except ValueError:
            pass
    raise AttestationError(f"{shown(text)} is not a time such as 2026-11-29T15:00:00Z")


def _subject(subjects: Sequence[Any], root: Mapping[str, Any]) -> str:
    if len(subjects) != 1 or not isinstance(subjects[0], dict):
        raise AttestationError("the signed statement must have exactly one subject")
    check_members(subjects[0], {"name": str, "digest": dict})
    if subjects[0]["digest"] != {root["algorithm"]: root["root"]}:
        raise AttestationError("the digest of the statement's subject is not the root of the model")
    name: str = subjects[0]["name"]
    return name


def _resident(members: Mapping[str, Any]) -> Resident:
    check_members(members, {"device": str, "tensors": int, "bytes": int})
    _check_words(members["device"])
    _check_counts(members, "tensors", "bytes")
    return Resident(members["device"], members["tensors"], members["bytes"])


def _guard(members: Mapping[str, Any]) -> GuardState:
    fields: dict[str, type] = {
        "state": str,
        "ok": bool,
        "failed": bool,
        "passes": int,
        "age_ms": int,
        "tensors": int,
        "bytes": int,
        "signed": bool,
        "findings": list,
    }
    if "period_ms" in members:
        fields["period_ms"] = int
    check_members(members, fields)
    _check_counts(members, *(name for name, kind in fields.items() if kind is int))
    if not all(isinstance(kind, str) for kind in members["findings"]):
        raise AttestationError("the findings of the guard must be the names of their kinds")
    _check_words(members["state"], *members["findings"])
    return GuardState(
        members["state"],
        members["ok"],
        members["failed"],
        members["passes"],
        members.get("period_ms"),
        members["age_ms"],
        members["tensors"],
        members["bytes"],
        members["signed"],
        tuple(members["findings"]),
    )


def _tokens(members: Mapping[str, Any]) -> dict[str, bytes]:
    found = {}
    for label, token in members.items():
        if not isinstance(token, dict):
            raise AttestationError(f"the token {shown(label)} must be an object")
        check_members(token, {"sha256": str})
        found[label] = parse_hex(token["sha256"], "sha256")
    return found


def _check_words(*words: str) -> None:
    """Raises AttestationError for what would look like more than one line, or fill it, in a report."""
    for word in words:
        if not word.isprintable() or not 1 <= len(word) <= _LONGEST_WORD:
            raise AttestationError(
                f"{shown(word)} in the statement must be 1 to {_LONGEST_WORD} characters that can be printed"
            )


def _check_counts(members: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if members[name] < 0:
            raise AttestationError(f"the field {name!r} must not be negative")
