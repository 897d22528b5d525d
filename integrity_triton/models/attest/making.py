"""Making an attestation: the statement is signed, and the evidence is asked for over what was signed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ...errors import IntegrityError
from ..dsse import IN_TOTO, Envelope, pre_authentication_encoding
from ..manifest import Manifest
from .device import device_report
from .document import Attestation
from .keys import PrivateKey, checked_private_key, fingerprint, sign
from .statement import GuardState, ModelRoot, Resident, Statement, to_payload
from .tsm import Evidence, binding

if TYPE_CHECKING:
    from ..guard import Guard


def attest(
    model: Manifest | ModelRoot,
    *,
    key: PrivateKey,
    nonce: bytes,
    evidence: Callable[[bytes], Evidence] | None = None,
    resident: Resident | None = None,
    guard: Guard | GuardState | None = None,
    tokens: Mapping[str, bytes] | None = None,
    device: Mapping[str, Any] | None = None,
    name: str = "model",
    time: datetime | None = None,
) -> Attestation:
    """State and sign which model this machine has, and get evidence for the statement.

    ``model`` is the manifest of the model or its root, ``key`` an Ed25519 or elliptic-curve private key of
    ``cryptography``, and ``nonce`` the 16 to 64 bytes that the verifier has sent. ``evidence`` gets the 64
    bytes that bind the statement, and returns the evidence: :func:`get_evidence` asks the kernel. None means
    an attestation that rests on the key alone.

    ``resident`` says which weights were found to be the manifest's in memory, ``guard`` what watches them,
    and ``tokens`` holds the SHA-256 of tokens of other devices, by their labels. ``device`` is
    ``device_report()`` by default, ``name`` the name of the model, and ``time`` now.

    Raises AttestationError for a nonce, root or token that cannot be stated; IntegrityError for a guard that
    has failed; EvidenceUnavailable where there is no evidence; ValueError for a key of another kind;
    TypeError for a nonce that is not bytes.
    """
    if not isinstance(nonce, bytes | bytearray | memoryview):  # bytes(32) would be 32 zeros
        raise TypeError(f"a nonce must be bytes, not {type(nonce).__name__}")
    root = model if isinstance(model, ModelRoot) else root_of(model, name)
    signer = checked_private_key(key)
    moment = datetime.now(timezone.utc).replace(microsecond=0) if time is None else time
    statement = Statement(
        model=root,
        nonce=bytes(nonce),
        time=moment,
        key=fingerprint(signer.public_key()),
        device=device_report() if device is None else device,
        resident=resident,
        guard=guard if guard is None or isinstance(guard, GuardState) else guard_state(guard),
        tokens=dict(tokens or {}),
    )
    payload = to_payload(statement)
    signature = sign(signer, pre_authentication_encoding(IN_TOTO, payload))
    envelope = Envelope(IN_TOTO, payload, signature, statement.key.hex())
    found = () if evidence is None else (evidence(binding(statement.nonce, payload)),)
    return Attestation(envelope, found)


def root_of(manifest: Manifest, name: str = "model") -> ModelRoot:
    """The root of a manifest, for a statement."""
    return ModelRoot("manifest", manifest.algorithm, manifest.root, name)


def guard_state(guard: Guard) -> GuardState:
    """What a guard knows now. Raises IntegrityError, which says what was found, if it has failed."""
    guard.raise_for_failure()
    status = guard.status()
    if status.failed:
        raise IntegrityError(f"guard {status.name!r} has failed; nothing is attested")
    return GuardState(
        status.state,
        status.ok,
        status.failed,
        status.passes,
        math.ceil(status.period * 1000) if math.isfinite(status.period) else None,
        math.ceil(status.age * 1000),
        status.tensors,
        status.nbytes,
        status.signed,
        tuple(sorted(status.counts)),
    )
