"""An attestation as a file: the signed statement, and the evidence beside it. ``docs/attestation.md`` defines
the JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...output_files import write_file
from ...strict_json import check_members, parse_object, shown
from ..dsse import IN_TOTO, Envelope, decode_base64, encode_base64, read_envelope, write_envelope
from ..regular_files import read_regular
from .errors import AttestationError
from .statement import MAX_PAYLOAD
from .tsm import MAX_BLOB, PROVIDER, Evidence

MEDIA_TYPE = "application/vnd.integrity-triton.attestation.v1+json"
MAX_SIZE = 8 << 20
"""Bytes of the JSON."""
_MOST_EVIDENCE = 4

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Attestation:
    """A signed statement with evidence. Nothing in it is verified: :func:`verify` does that."""

    envelope: Envelope
    evidence: tuple[Evidence, ...] = ()

    @property
    def payload(self) -> bytes:
        """The statement as JSON, as it was signed."""
        return self.envelope.payload

    def to_json(self) -> str:
        """The attestation as ASCII JSON."""
        members = {
            "mediaType": MEDIA_TYPE,
            "dsseEnvelope": write_envelope(self.envelope),
            "evidence": [_written(evidence) for evidence in self.evidence],
        }
        return json.dumps(members, indent=2) + "\n"

    @classmethod
    def from_json(cls, data: str | bytes) -> Attestation:
        """Raises AttestationError for anything that is not an attestation of this version."""
        if len(data) > MAX_SIZE:
            raise AttestationError(f"not an attestation: larger than {MAX_SIZE} bytes")
        try:
            members = parse_object(data)
            if members.get("mediaType") != MEDIA_TYPE:
                raise AttestationError(f"not an attestation: mediaType must be {MEDIA_TYPE!r}")
            check_members(members, {"mediaType": str, "dsseEnvelope": dict, "evidence": list})
            envelope = read_envelope(members["dsseEnvelope"], IN_TOTO)
            if len(envelope.payload) > MAX_PAYLOAD:
                raise AttestationError(f"the statement has more than {MAX_PAYLOAD} bytes")
            return cls(envelope, _read(members["evidence"]))
        except AttestationError:
            raise
        except ValueError as error:
            raise AttestationError(f"not an attestation: {error}") from None

    def save(self, path: PathLike) -> None:
        """Write the JSON to a file, which is replaced as a whole. Raises OSError."""
        write_file(path, self.to_json().encode("ascii"))

    @classmethod
    def load(cls, path: PathLike) -> Attestation:
        """Raises as ``from_json`` does, and names the file; OSError if it cannot be read."""
        try:
            return cls.from_json(read_regular(path, MAX_SIZE, "an attestation"))
        except AttestationError as error:
            raise AttestationError(f"{os.fspath(path)}: {error}") from None


def _written(evidence: Evidence) -> dict[str, Any]:
    members: dict[str, Any] = {"provider": evidence.provider, "report": encode_base64(evidence.report)}
    if evidence.auxiliary:
        members["auxiliary"] = encode_base64(evidence.auxiliary)
    if evidence.privilege_level is not None:
        members["privilege_level"] = evidence.privilege_level
    return members


def _read(values: Sequence[Any]) -> tuple[Evidence, ...]:
    if len(values) > _MOST_EVIDENCE:
        raise AttestationError(f"an attestation has at most {_MOST_EVIDENCE} pieces of evidence")
    found = []
    for value in values:
        if not isinstance(value, dict):
            raise AttestationError("a piece of evidence must be an object")
        optional: dict[str, type] = {"auxiliary": str, "privilege_level": int}
        given = {name: kind for name, kind in optional.items() if name in value}
        check_members(value, {"provider": str, "report": str, **given})
        if not PROVIDER.fullmatch(value["provider"]):
            raise AttestationError(f"the provider {shown(value['provider'])} must match {PROVIDER.pattern}")
        report = decode_base64(value["report"], "report")
        auxiliary = decode_base64(value.get("auxiliary", ""), "auxiliary")
        if max(len(report), len(auxiliary)) > MAX_BLOB:
            raise AttestationError(f"a piece of evidence has more than {MAX_BLOB} bytes")
        found.append(Evidence(value["provider"], report, auxiliary, value.get("privilege_level")))
    return tuple(found)
