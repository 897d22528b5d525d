"""Attestations: what is stated and signed, and which claims a verifier finds proved."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import json

import pytest

pytest.importorskip("cryptography", reason="not applicable: the extra 'attestation' is absent")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

import attest_support
import integrity_triton as it
from attest_support import Tdx, stand_in
from integrity_triton import IntegrityError
from integrity_triton.models.attest import (
    Attestation,
    AttestationError,
    Evidence,
    GuardState,
    ModelRoot,
    Policy,
    Resident,
    SnpPolicy,
    TdxPolicy,
    attest,
    load_private_key,
    load_public_key,
    token_nonce,
    verify,
)
from integrity_triton.models.attest import statement as statements
from integrity_triton.models.attest.keys import fingerprint
from integrity_triton.models.attest.tokens import check_claims, read_claims, read_token
from integrity_triton.models.dsse import IN_TOTO, Envelope
from integrity_triton.models.entry import TensorEntry

UTC = datetime.timezone.utc
NOW = datetime.datetime(2026, 11, 29, 12, tzinfo=UTC)
NONCE = bytes(range(32))
ROOT = ModelRoot("manifest", "blake3", b"\5" * 32, "tiny")
GUARD = GuardState("guarding", True, False, 3, 5000, 1200, 2, 100, True)
RESIDENT = Resident("cpu", 2, 100)
KEYS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
}


@pytest.fixture(scope="module")
def key():
    return KEYS["ed25519"]()


@pytest.fixture(scope="module")
def processor():
    return attest_support.processor()


def made(key, **options):
    return attest(ROOT, key=key, **{"nonce": NONCE, "device": {}, "time": NOW, **options})


def checked(attestation, key, **options):
    defaults = {"key": key.public_key(), "nonce": NONCE, "model": ROOT, "at": NOW}
    return verify(attestation, **{**defaults, **options})


def outcomes(report, name):
    return [check.outcome for check in report.checks if check.name == name]


def signed(key, payload, payload_type=IN_TOTO):
    """An envelope, written without the package: the signature is over what DSSE 1.0 defines."""
    kind = payload_type.encode()
    message = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])
    return Attestation(Envelope(payload_type, payload, key.sign(message), ""))


@pytest.mark.parametrize("kind", KEYS)
def test_kinds_of_keys(kind, tmp_path):
    key = KEYS[kind]()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key").write_bytes(pem)
    (tmp_path / "pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    attestation = made(load_private_key(tmp_path / "key"))
    path = tmp_path / "attestation.json"
    attestation.save(path)
    assert Attestation.load(path) == attestation
    report = verify(attestation, key=load_public_key(tmp_path / "pub"), nonce=NONCE, model=ROOT, at=NOW)
    assert report.ok
    assert [check.name for check in report.checks if check.outcome == "proved"] == [
        "signature",
        "nonce",
        "time",
        "model",
    ]
    other = KEYS[kind]()
    wrong = checked(attestation, other)
    assert not wrong.ok and wrong.statement is None
    with pytest.raises(IntegrityError, match="signature"):
        wrong.raise_for_failure()


def test_other_keys_are_refused(tmp_path):
    weak = rsa.generate_private_key(65537, 2048)
    with pytest.raises(ValueError, match="an attestation is signed with an Ed25519 key"):
        made(weak)
    with pytest.raises(ValueError, match="is verified with an Ed25519 key"):
        checked(made(KEYS["p256"]()), weak)
    with pytest.raises(ValueError, match="signed with"):
        made(ec.generate_private_key(ec.SECP256K1()))


def test_what_is_stated_comes_back(key):
    attestation = made(
        key, guard=GUARD, resident=RESIDENT, tokens={"gpu": b"\7" * 32}, device={"a": ["b", 1, True]}
    )
    members = json.loads(attestation.payload)
    assert members["_type"] == "https://in-toto.io/Statement/v1"
    assert members["predicateType"] == "https://integrity_triton/attestation/v1"
    assert members["subject"] == [{"name": "tiny", "digest": {"blake3": "05" * 32}}]
    stated = checked(attestation, key).statement
    assert stated is not None
    assert (stated.guard, stated.resident, stated.tokens) == (GUARD, RESIDENT, {"gpu": b"\7" * 32})
    assert (stated.time, stated.nonce, stated.device) == (NOW, NONCE, {"a": ["b", 1, True]})
    assert stated.key == fingerprint(key.public_key())


def test_the_device_report_is_json(key):
    report = it.models.attest.device_report()
    assert json.loads(json.dumps(report)) == report
    assert "native" in report["backends"]
    assert checked(attest(ROOT, key=key, nonce=NONCE), key, at=None).ok


@pytest.mark.parametrize(
    ("options", "name", "match"),
    [
        ({"nonce": b"\1" * 32}, "nonce", "another nonce"),
        ({"at": NOW + datetime.timedelta(seconds=301)}, "time", "301 s old"),
        ({"at": NOW - datetime.timedelta(seconds=31)}, "time", "31 s in the future"),
        ({"model": ModelRoot("manifest", "blake3", b"\6" * 32)}, "model", "not manifest blake3 0606"),
        ({"model": ModelRoot("manifest", "sha256", b"\5" * 32)}, "model", "not manifest sha256"),
        ({"model": ModelRoot("oms", "sha256", b"\5" * 32)}, "model", "not oms sha256"),
    ],
)
def test_what_is_not_as_expected(key, options, name, match):
    report = checked(made(key), key, **options)
    assert not report.ok
    assert outcomes(report, name) == ["failed"]
    with pytest.raises(IntegrityError, match=match):
        report.raise_for_failure()


def test_time_has_two_limits_that_are_kept(key):
    attestation = made(key)
    for seconds in (300, -30):
        assert checked(attestation, key, at=NOW + datetime.timedelta(seconds=seconds)).ok
    with pytest.raises(AttestationError, match="time zone"):
        checked(attestation, key, at=datetime.datetime(2026, 11, 29))


def test_a_statement_names_its_signing_key(key):
    """A statement that was made for one key, and signed with another, may be that of another machine."""
    other = KEYS["ed25519"]()
    report = checked(signed(other, made(key).payload), other)
    assert not report.ok
    assert "another signing key" in report.problems[0]


def test_every_changed_byte_of_an_envelope_is_refused(key):
    attestation = made(key)
    for at in range(len(attestation.payload)):
        payload = bytearray(attestation.payload)
        payload[at] ^= 1
        changed = Attestation(dataclasses.replace(attestation.envelope, payload=bytes(payload)))
        assert not checked(changed, key).ok
    for at in range(64):
        signature = bytearray(attestation.envelope.signature)
        signature[at] ^= 1
        changed = Attestation(dataclasses.replace(attestation.envelope, signature=bytes(signature)))
        assert not checked(changed, key).ok


def test_documents_that_are_refused(key):
    text = made(key, evidence=lambda data: Evidence("tdx_guest", data)).to_json()
    members = json.loads(text)

    def document(**changes):
        return json.dumps({**members, **changes})

    envelope = members["dsseEnvelope"]
    signature = envelope["signatures"][0]
    evidence = members["evidence"][0]
    bad = {
        "mediaType": document(mediaType="application/json"),
        "unknown field": document(more=1),
        "missing": json.dumps({k: v for k, v in members.items() if k != "evidence"}),
        "payload type": document(dsseEnvelope={**envelope, "payloadType": "text/plain"}),
        "exactly one signature": document(dsseEnvelope={**envelope, "signatures": [signature] * 2}),
        "exactly one": document(dsseEnvelope={**envelope, "signatures": []}),
        "not base64": document(dsseEnvelope={**envelope, "payload": "?"}),
        "the payload is not base64": document(dsseEnvelope={**envelope, "payload": 1}),
        "only spelling": document(dsseEnvelope={**envelope, "payload": "QR=="}),
        "'keyid'": document(dsseEnvelope={**envelope, "signatures": [{**signature, "keyid": 1}]}),
        "must be an object": document(evidence=[1]),
        "at most 4": document(evidence=[evidence] * 5),
        "report is not base64": document(evidence=[{**evidence, "report": "\u00e9"}]),
        "unknown field 'x'": document(evidence=[{**evidence, "x": 1}]),
        "occurs twice": text.replace('"mediaType"', '"evidence": [], "mediaType"', 1),
        "nested too deeply": '{"a":' * 100_000,
        "UTF-8": b"\xff",
        "not JSON": text[:-5],
        "object was expected": "[]",
        "64 bits": '{"mediaType": 99999999999999999999999}',
    }
    for match, data in bad.items():
        with pytest.raises(AttestationError, match=match):
            Attestation.from_json(data)
    with pytest.raises(AttestationError, match="larger than"):
        Attestation.from_json(" " * (9 << 20))
    for size in range(len(text) - 2):
        with pytest.raises(AttestationError):
            Attestation.from_json(text[:size])


def test_statements_that_are_refused(key):
    members = json.loads(made(key, guard=GUARD, resident=RESIDENT, tokens={"gpu": b"\7" * 32}).payload)
    predicate = members["predicate"]

    def stated(**changes):
        return {**members, "predicate": {**predicate, **changes}}

    def without(name):
        return {**members, "predicate": {k: v for k, v in predicate.items() if k != name}}

    bad = [
        ("_type", {**members, "_type": "https://in-toto.io/Statement/v0.1"}),
        ("another version", {**members, "predicateType": "https://integrity_triton/attestation/v2"}),
        ("predicateType must be", {**members, "predicateType": "https://slsa.dev/provenance/v1"}),
        ("predicateType must be", {**members, "predicateType": 1}),
        ("exactly one subject", {**members, "subject": []}),
        ("exactly one subject", {**members, "subject": members["subject"] * 2}),
        ("not the root", {**members, "subject": [{"name": "x", "digest": {"blake3": "06" * 32}}]}),
        ("unknown field", {**members, "more": 1}),
        ("unknown field 'more'", stated(more=1)),
        ("not a time", stated(time="2026-11-29 12:00:00")),
        ("not a time", stated(time="2026-02-30T12:00:00Z")),
        ("not a time", stated(time="2026-11-29T12:00:00Z\n")),
        ("16 to 64", stated(nonce="00" * 15)),
        ("16 to 64", stated(nonce="00" * 65)),
        ("lower-case", stated(nonce="AA" * 16)),
        ("32 bytes", stated(key="00" * 31)),
        ("must not be negative", stated(resident={"device": "cpu", "tensors": -1, "bytes": 1})),
        ("must be a boolean", stated(guard={**predicate["guard"], "ok": 1})),
        ("names of their kinds", stated(guard={**predicate["guard"], "findings": [1]})),
        ("must match", stated(tokens={"A B": {"sha256": "00" * 32}})),
        ("32 bytes", stated(tokens={"gpu": {"sha256": "00"}})),
        ("must be an object", stated(tokens={"gpu": 1})),
        ("at most 64", stated(tokens={f"t{i}": {"sha256": "00" * 32} for i in range(65)})),
        ("'manifest' or an 'oms'", stated(model={**predicate["model"], "kind": "tree"})),
        ("root of the model", stated(model={**predicate["model"], "algorithm": "md5"})),
        ("fractional|not an integer", stated(device={"a": 1.5})),
        *((f"{name}' is missing", without(name)) for name in ("model", "nonce", "time", "key", "device")),
    ]
    for match, value in bad:
        payload = json.dumps(value).encode()
        with pytest.raises(AttestationError, match=match):
            checked(signed(key, payload), key)
    with pytest.raises(AttestationError, match="occurs twice"):
        checked(signed(key, made(key).payload.replace(b'"nonce"', b'"nonce":"00","nonce"')), key)
    with pytest.raises(AttestationError, match="at most"):
        checked(signed(key, b" " * (1 << 20) + b"{}"), key)
    # A signature over another payload type is none over a statement.
    assert not checked(signed(key, made(key).payload, "text/plain"), key).ok


def test_what_cannot_be_stated(key):
    with pytest.raises(AttestationError, match="16 to 64"):
        made(key, nonce=b"short")
    with pytest.raises(AttestationError, match="whole seconds"):
        made(key, time=NOW.replace(microsecond=1))
    with pytest.raises(AttestationError, match="in UTC"):
        made(key, time=NOW.replace(tzinfo=None))
    with pytest.raises(AttestationError, match="root of the model"):
        ModelRoot("manifest", "sha256", b"short")
    with pytest.raises(AttestationError, match="spelled 'sha256'"):
        ModelRoot("manifest", "SHA-256", b"\0" * 32)
    with pytest.raises(AttestationError, match="at most"):
        made(key, device={"a": "x" * (1 << 20)})


def test_the_root_of_a_manifest(key):
    entries = [TensorEntry("w", "F32", (1,), 4, hashlib.sha384(b"data").digest())]
    manifest = it.models.Manifest("sha384", entries)
    attestation = attest(manifest, key=key, nonce=NONCE, device={}, time=NOW)
    assert checked(attestation, key, model=manifest).ok
    assert len(json.loads(attestation.payload)["predicate"]["model"]["root"]) == 96


def test_weights_on_a_device_are_compared_here_and_now(key):
    torch = pytest.importorskip("torch")
    weights = {"w": torch.arange(64.0)}
    manifest = it.models.Manifest.build(weights)
    attestation = attest(manifest, key=key, nonce=NONCE, device={}, time=NOW)
    policy = dataclasses.replace(Policy(), require=Policy().require | {"weights"})
    assert checked(attestation, key, model=manifest, policy=policy, weights=weights).ok
    weights["w"][3] += 1
    report = checked(attestation, key, model=manifest, policy=policy, weights=weights)
    assert outcomes(report, "weights") == ["failed"] and "'w'" in report.problems[0]
    assert not checked(attestation, key, model=manifest, policy=policy).ok
    assert not checked(attestation, key, model=it.models.attest.root_of(manifest), weights=weights).ok


def test_the_guard(key):
    torch = pytest.importorskip("torch")
    weights = {"w": torch.arange(64.0)}
    with it.models.Guard(weights, budget=1.0) as guard:
        guard.check()
        stated = checked(made(key, guard=guard), key).statement
        assert stated is not None and stated.guard is not None
        assert (stated.guard.ok, stated.guard.nbytes, stated.guard.findings) == (True, 256, ())
    flipped = it.models.Guard(weights, start=False)
    weights["w"][0] = 7
    assert flipped.check()
    with pytest.raises(IntegrityError, match="has failed"):
        made(key, guard=flipped)
    flipped.close()
    policy = Policy(require=Policy().require | {"guard"}, guard_max_age=1)
    for guard, match in (
        (GUARD, "unchecked for 1 s"),
        (dataclasses.replace(GUARD, ok=False), "not in order"),
        (dataclasses.replace(GUARD, failed=True, findings=("content",)), "not in order: content"),
        (None, "says nothing"),
    ):
        with pytest.raises(IntegrityError, match=match):
            checked(made(key, guard=guard), key, policy=policy).raise_for_failure()


def snp_policy(**changes):
    measurement = stand_in().MEASUREMENT.hex()
    members = {
        "format": "integrity_triton attestation policy",
        "version": 1,
        "require": ["signature", "nonce", "time", "model", "evidence"],
        "sev_snp": {"values": {"measurement": [measurement]}},
        **changes,
    }
    return Policy.from_json(json.dumps(members))


def test_evidence_of_sev_snp(key, processor):
    attestation = made(key, evidence=processor.get_evidence, resident=RESIDENT)
    assert Attestation.from_json(attestation.to_json()) == attestation
    report = checked(attestation, key, policy=snp_policy(), roots=[processor.root])
    assert report.ok, report.problems
    assert outcomes(report, "evidence") == ["proved"] * 3
    resident = next(check for check in report.checks if check.name == "resident")
    assert "in the measured guest" in resident.by

    # Without a root nothing of the evidence counts, and what is required is missing.
    rootless = checked(attestation, key, policy=snp_policy())
    assert outcomes(rootless, "evidence") == ["not checked"] and not rootless.ok
    # Evidence that is given and wrong fails, even if it is not required.
    other = made(key, evidence=lambda _: processor.get_evidence(bytes(64)))
    wrong = checked(other, key, roots=[processor.root])
    assert "another statement or nonce" in wrong.problems[0]
    # Without a policy for it, evidence is no proof of the guest.
    lenient = checked(attestation, key, roots=[processor.root])
    assert outcomes(lenient, "evidence") == ["proved", "proved", "not checked"]
    assert "measured" not in next(check for check in lenient.checks if check.name == "resident").by
    none = checked(made(key), key, policy=snp_policy(), roots=[processor.root])
    assert none.problems == ("evidence: required, and there is none",)


def test_evidence_that_was_moved_is_refused(key, processor):
    """The evidence of one statement beside another that the same key signed."""
    first = made(key, evidence=processor.get_evidence)
    second = made(key, time=NOW + datetime.timedelta(seconds=1))
    moved = Attestation(second.envelope, first.evidence)
    report = checked(moved, key, policy=snp_policy(), roots=[processor.root])
    assert "another statement" in report.problems[0]
    bad = Attestation(first.envelope, (*first.evidence, Evidence("sev_guest", b"short")))
    assert not checked(bad, key, policy=snp_policy(), roots=[processor.root]).ok
    odd = Attestation(first.envelope, (Evidence("arm_cca", b"x"),))
    report = checked(odd, key, policy=snp_policy(), roots=[processor.root])
    assert "'arm_cca' is not supported" in report.problems[0]


def test_evidence_of_tdx(key):
    pytest.importorskip("dcap_qvl", reason="not applicable: the extra 'attestation' is absent")
    platform = Tdx()
    attestation = made(key, evidence=lambda data: Evidence("tdx_guest", platform.quote(data)))
    policy = Policy.from_json(
        json.dumps(
            {
                "format": "integrity_triton attestation policy",
                "version": 1,
                "require": ["signature", "nonce", "time", "model", "evidence"],
                "tdx": {"registers": {"mr_td": ["11" * 48], "rt_mr2": ["22" * 48]}},
            }
        )
    )
    options = {"policy": policy, "roots": [platform.root]}
    assert checked(attestation, key, collateral=platform.collateral(), **options).ok
    assert "needs its collateral" in checked(attestation, key, **options).problems[0]
    late = checked(attestation, key, collateral=platform.collateral(status="OutOfDate"), **options)
    assert "TCB status is OutOfDate" in late.problems[0]
    only_snp = checked(
        attestation, key, collateral=platform.collateral(), **{**options, "policy": snp_policy()}
    )
    assert not only_snp.ok


def test_policies_that_are_refused():
    good = {
        "format": "integrity_triton attestation policy",
        "version": 1,
        "require": ["signature", "nonce", "time", "model"],
    }
    assert Policy.from_json(json.dumps(good)) == Policy()
    tdx = {"registers": {"mr_td": ["11" * 48]}}
    snp = {"values": {"measurement": ["11" * 48]}}
    bad = [
        ("'format' must be", {"format": "x"}),
        ("version 2 is not known", {"version": 2}),
        ("version True is not known", {"version": True}),
        ("must require 'nonce'", {"require": ["signature", "time", "model"]}),
        ("'evidense' in 'require' is not known", {"require": [*good["require"], "evidense"]}),
        ("must have 'tdx' or 'sev_snp'", {"require": [*good["require"], "evidence"]}),
        ("which claims", {"require": [*good["require"], "tokens"]}),
        ("unknown field", {"more": 1}),
        ("must be an integer", {"max_age_seconds": "1"}),
        ("must not be negative", {"max_age_seconds": -1}),
        ("which values of 'mr_td'", {"tdx": {"registers": {}}}),
        ("unknown name 'mrtd'", {"tdx": {"registers": {"mrtd": []}}}),
        ("48 bytes", {"tdx": {"registers": {"mr_td": ["11"]}}}),
        ("48 bytes", {"tdx": {"registers": {"mr_td": []}}}),
        ("list of strings", {"tdx": {"registers": {"mr_td": "11" * 48}}}),
        ("'Fine' in 'tcb_status'", {"tdx": {**tdx, "tcb_status": ["Fine"]}}),
        ("'Revoked' in 'tcb_status'", {"tdx": {**tdx, "tcb_status": ["Revoked"]}}),
        ("unknown field 'allow_debug'", {"tdx": {**tdx, "allow_debug": True}}),
        ("which values of 'measurement'", {"sev_snp": {"values": {}}}),
        ("unknown field 'debugging'", {"sev_snp": {**snp, "guest_policy": {"debugging": True}}}),
        ("must be a boolean", {"sev_snp": {**snp, "guest_policy": {"debug": 0}}}),
        ("unknown field 'psp'", {"sev_snp": {**snp, "minimum_tcb": {"psp": 1}}}),
        ("object with claims", {"tokens": {"gpu": {}}}),
        ("text, a number or a boolean", {"tokens": {"gpu": {"a": []}}}),
    ]
    for match, changes in bad:
        with pytest.raises(AttestationError, match=match):
            Policy.from_json(json.dumps({**good, **changes}))
    for text in ("", "[]", '{"a":' * 100_000, b"\xff", '{"format":1,"format":1}'):
        with pytest.raises(AttestationError):
            Policy.from_json(text)


def test_tokens(key, tmp_path):
    token, claims = tmp_path / "token", tmp_path / "claims.json"
    token.write_bytes(b"opaque evidence of a GPU")
    stated = {"x-nvidia-overall-att-result": True, "eat_nonce": token_nonce(NONCE).hex(), "exp": 1.5}
    claims.write_text(json.dumps(stated))
    digest = read_token(token)
    assert digest == hashlib.sha256(token.read_bytes()).digest()
    attestation = made(key, tokens={"nvidia-gpu": digest})
    wanted = {"nvidia-gpu": {"x-nvidia-overall-att-result": True}}
    policy = Policy(require=Policy().require | {"tokens"}, tokens=wanted)
    given = {"nvidia-gpu": (digest, read_claims(claims))}
    assert checked(attestation, key, policy=policy, tokens=given).ok

    def problem(**options):
        defaults = {"policy": policy, "tokens": given}
        return checked(options.pop("attestation", attestation), key, **{**defaults, **options}).problems[0]

    assert "were not given" in problem(tokens={})
    assert "not the one that the statement binds" in problem(
        tokens={"nvidia-gpu": (b"\0" * 32, given["nvidia-gpu"][1])}
    )
    assert "binds no token" in problem(attestation=made(key))
    for change, match in (
        ({"x-nvidia-overall-att-result": False}, "is 'False', not True"),
        ({"x-nvidia-overall-att-result": 1}, "is '1', not True"),
        ({"eat_nonce": "00"}, "'eat_nonce'"),
        ({"eat_nonce": None}, "'eat_nonce'"),
    ):
        assert match in problem(tokens={"nvidia-gpu": (digest, {**stated, **change})})
    with pytest.raises(IntegrityError, match="lack"):
        check_claims({}, {"a": 1}, None)
    unnamed = checked(attestation, key, tokens=given)
    assert outcomes(unnamed, "tokens") == ["not checked"]

    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    with pytest.raises(AttestationError, match="no token"):
        read_token(empty)
    body = base64.urlsafe_b64encode(b'{"alg":"ES384"}').rstrip(b"=")
    claims.write_bytes(body + b".e30.AAAA")
    with pytest.raises(AttestationError, match="a signed JWT"):
        read_claims(claims)
    claims.write_bytes(b"[]")
    with pytest.raises(AttestationError, match=r"claims\.json"):
        read_claims(claims)


def test_a_report_says_everything(key, processor):
    report = checked(made(key), key, policy=snp_policy(), roots=[processor.root])
    document = json.loads(json.dumps(report.to_dict()))
    assert document["ok"] is False
    assert {check["name"] for check in document["checks"]} >= {"signature", "evidence", "resident", "guard"}
    assert [c["required"] for c in document["checks"] if c["name"] == "evidence"] == [True]


def test_payloads_are_the_same_for_the_same_statement(key):
    first, second = made(key), made(key)
    assert first.payload == second.payload
    again = statements.from_payload(first.payload)
    assert statements.to_payload(again) == first.payload


@pytest.mark.parametrize(
    ("resident", "match"),
    [
        (Resident("cpu", 0, 0), "were 0 bytes in 0 tensors"),
        (Resident("cpu", 1, 256), "were 256 bytes in 1 tensors; the model has 512 in 2"),
        (Resident("cpu", 2, 511), "were 511 bytes"),
    ],
)
def test_a_part_of_the_model_in_memory_is_not_the_model(key, resident, match):
    entries = [TensorEntry(name, "F32", (64,), 256, bytes(32)) for name in "ab"]
    manifest = it.models.Manifest("sha256", entries)
    policy = Policy(require=Policy().require | {"resident"})
    whole = attest(manifest, key=key, nonce=NONCE, device={}, time=NOW, resident=Resident("cpu", 2, 512))
    assert checked(whole, key, model=manifest, policy=policy).ok
    part = attest(manifest, key=key, nonce=NONCE, device={}, time=NOW, resident=resident)
    report = checked(part, key, model=manifest, policy=policy)
    assert outcomes(report, "resident") == ["failed"]
    assert match in report.problems[0]


def test_nothing_in_memory_and_nothing_guarded_prove_nothing(key):
    policy = Policy(require=Policy().require | {"resident", "guard"})
    for guard in (dataclasses.replace(GUARD, passes=0), dataclasses.replace(GUARD, tensors=0, nbytes=0)):
        report = checked(made(key, resident=Resident("cpu", 0, 0), guard=guard), key, policy=policy)
        assert outcomes(report, "resident") == outcomes(report, "guard") == ["failed"]


@pytest.mark.parametrize("text", ["cpu\nevidence  proved", "\x1b[2J", "\u202e", "\ud800", "", "x" * 121])
def test_words_that_would_forge_lines_of_a_report_are_refused(key, text):
    for options in (
        {"resident": Resident(text, 2, 100)},
        {"guard": dataclasses.replace(GUARD, state=text)},
        {"guard": dataclasses.replace(GUARD, findings=(text,))},
    ):
        with pytest.raises(AttestationError, match="can be printed"):
            checked(made(key, **options), key)
    odd = made(key, evidence=lambda data: Evidence(text, data)).to_json()
    with pytest.raises(AttestationError, match="provider"):
        Attestation.from_json(odd)


def test_policies_in_python_are_as_strict_as_files(key):
    for require in (frozenset(), Policy().require | {"evidense"}, frozenset({"evidence"})):
        with pytest.raises(AttestationError, match="require"):
            Policy(require=require)
    with pytest.raises(AttestationError, match="mr_td"):
        TdxPolicy({"rt_mr0": (bytes(48),)})
    for values in ({}, {"measurement": ()}):
        with pytest.raises(AttestationError, match="measurement"):
            SnpPolicy(values)
    with pytest.raises(AttestationError, match="product"):
        SnpPolicy({"measurement": (bytes(48),)}, products=("",))


def test_demands_that_an_attestation_could_leave_out_are_refused():
    good = {
        "format": "integrity_triton attestation policy",
        "version": 1,
        "require": ["signature", "nonce", "time", "model"],
    }
    for extra in (
        {"tdx": {"registers": {"mr_td": ["11" * 48]}}},
        {"sev_snp": {"values": {"measurement": ["11" * 48]}}},
        {"guard_max_age_seconds": 1},
    ):
        with pytest.raises(AttestationError, match="must require"):
            Policy.from_json(json.dumps({**good, **extra}))


def test_a_nonce_is_bytes(key):
    for nonce in (32, "a" * 32, None):  # bytes(32) would be a nonce of zeros
        with pytest.raises(TypeError, match="must be bytes"):
            made(key, nonce=nonce)
