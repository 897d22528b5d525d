"""Dead Simple Signing Envelope (DSSE) 1.0: what is signed, and the envelope as JSON.

https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md defines the encoding, and ``envelope.md``
beside it the JSON.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from ..strict_json import StrictJsonError

IN_TOTO = "application/vnd.in-toto+json"
"""The payload type of in-toto statements."""


@dataclass(frozen=True)
class Envelope:
    """A payload with its one signature. Nothing in it is verified."""

    payload_type: str
    payload: bytes
    signature: bytes
    key_id: str
    """A hint which key signed. It is not signed itself."""


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes that a signature covers."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def write_envelope(envelope: Envelope) -> dict[str, Any]:
    """The members of an envelope, for ``json.dumps``."""
    signature = {"sig": encode_base64(envelope.signature), "keyid": envelope.key_id}
    return {
        "payload": encode_base64(envelope.payload),
        "payloadType": envelope.payload_type,
        "signatures": [signature],
    }


def read_envelope(members: dict[str, Any], payload_type: str) -> Envelope:
    """The envelope in an object of JSON. Raises StrictJsonError unless it has exactly one signature, and a
    payload of the type that is expected. As DSSE demands, fields that it does not define are ignored."""
    if members.get("payloadType") != payload_type:
        raise StrictJsonError(f"the envelope's payload type must be {payload_type}")
    signatures = members.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise StrictJsonError("the envelope must have exactly one signature")
    key_id = signatures[0].get("keyid", "")
    if not isinstance(key_id, str):
        raise StrictJsonError("the 'keyid' of the envelope's signature must be text")
    payload = decode_base64(members.get("payload"), "payload")
    return Envelope(payload_type, payload, decode_base64(signatures[0].get("sig"), "signature"), key_id)


def encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: Any, what: str) -> bytes:
    """The bytes of ``text``, which is the only spelling that :func:`encode_base64` has for them. ``what``
    names the field. Raises StrictJsonError for anything else."""
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, binascii.Error, ValueError):
        raise StrictJsonError(f"the {what} is not base64") from None
    if encode_base64(data) != text:
        raise StrictJsonError(f"the {what} is not base64 in its only spelling")
    return data
