"""The published bundles of the OMS specification 1.0: the valid ones parse and verify as far as what they
bring along allows, and each invalid one is refused with an error of its own."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

import integrity_triton as it

pytest.importorskip("model_signing")

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from integrity_triton.models import oms, oms_bundle
from integrity_triton.models.oms_signers import CertificateVerifier, KeyVerifier

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data" / "oms-1.0"
IDENTITY = "stefanb@us.ibm.com"
PROVIDER = "https://sigstore.verify.ibm.com/oauth2"


def read(name: str) -> bytes:
    path = PUBLISHED / name
    if not PUBLISHED.is_dir():
        pytest.skip(f"absent: the published bundles of the specification ({PUBLISHED})")
    return path.read_bytes()


@pytest.fixture(scope="module")
def trusted_root() -> Path:
    """The trusted root of Sigstore's public instance, as the package sigstore comes with it."""
    sigstore = pytest.importorskip("sigstore")
    store = Path(sigstore.__file__).parent / "_store"
    (found,) = store.glob("*tuf-repo-cdn.sigstore.dev/trusted_root.json")
    return found


@pytest.fixture
def key_file(tmp_path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    path = tmp_path / "key.pub"
    path.write_bytes(
        key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return path


@pytest.mark.parametrize("method", ["key", "certificate", "sigstore"])
def test_valid_bundles_state_what_they_sign(method):
    bundle = oms_bundle.parse_bundle(read(f"valid/{method}.bundle.json"))
    assert bundle.method == method
    statement = oms_bundle.parse_statement(bundle.payload)
    assert (statement.method, statement.algorithm, statement.allow_symlinks) == ("files", "sha256", False)
    assert list(statement.files) == ["signme-1", "signme-2"]
    assert set(oms_bundle.GIT_PATHS) <= set(statement.ignore_paths)
    assert "ignore-me" in statement.ignore_paths
    members = json.loads(bundle.payload)
    assert statement.root == members["subject"][0]["digest"]["sha256"]


def test_the_valid_key_bundle_has_another_key(key_file):
    read("valid/key.bundle.json")
    with pytest.raises(it.IntegrityError, match="signed with another key"):
        oms.read_signature(PUBLISHED / "valid/key.bundle.json", KeyVerifier(oms.load_public_key(key_file)))


def chain() -> list[x509.Certificate]:
    bundle = oms_bundle.parse_bundle(read("valid/certificate.bundle.json"))
    return [x509.load_der_x509_certificate(data) for data in oms_bundle.certificate_chain(bundle)]


def test_the_valid_certificate_bundle_verifies_under_its_own_intermediate_certificate():
    """The root is not in the bundle, so that its issuer has to be trusted in place of it."""
    _, issuer = chain()
    path = PUBLISHED / "valid/certificate.bundle.json"
    valid = issuer.not_valid_before_utc, issuer.not_valid_after_utc
    statement = oms.read_signature(path, CertificateVerifier([issuer], valid[0]))
    assert list(statement.files) == ["signme-1", "signme-2"]
    oms.read_signature(path, CertificateVerifier([issuer], valid[1]))
    with pytest.raises(it.IntegrityError, match="not trusted: certificate has expired"):
        oms.read_signature(path, CertificateVerifier([issuer], valid[1].replace(year=2036)))
    with pytest.raises(it.IntegrityError, match="not trusted: certificate is not yet valid"):
        oms.read_signature(path, CertificateVerifier([issuer], valid[0].replace(year=2024)))


def test_the_valid_sigstore_bundle_verifies(trusted_root):
    from integrity_triton.models.oms_sigstore import SigstoreVerifier

    read("valid/sigstore.bundle.json")
    path = PUBLISHED / "valid/sigstore.bundle.json"
    statement = oms.read_signature(path, SigstoreVerifier(trusted_root, IDENTITY, PROVIDER))
    assert list(statement.files) == ["signme-1", "signme-2"]
    for identity, provider in (("somebody@else.org", PROVIDER), (IDENTITY, "https://elsewhere.org")):
        with pytest.raises(it.IntegrityError, match=r"Sigstore signature is not trusted: .*(SAN|OIDCIssuer)"):
            oms.read_signature(path, SigstoreVerifier(trusted_root, identity, provider))


def test_the_sigstore_bundle_under_another_root(trusted_root):
    from integrity_triton.models.oms_sigstore import SigstoreVerifier

    read("valid/sigstore.bundle.json")
    staging = trusted_root.parents[1] / "https%3A%2F%2Ftuf-repo-cdn.sigstage.dev" / "trusted_root.json"
    with pytest.raises(it.IntegrityError, match="Sigstore signature is not trusted"):
        oms.read_signature(
            PUBLISHED / "valid/sigstore.bundle.json", SigstoreVerifier(staging, IDENTITY, PROVIDER)
        )


def leaves(value: object, path: tuple[object, ...] = ()):
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, member in items:
            yield from leaves(member, (*path, key))
    else:
        yield path, value


def test_every_part_of_the_sigstore_bundle_matters(tmp_path, trusted_root):
    """One character of each text is changed. What verifies nevertheless is what sigstore need not check:
    the inclusion proof is verified in place of the promise, and timestamps only support the log's time."""
    from integrity_triton.models.oms_sigstore import SigstoreVerifier

    original = json.loads(read("valid/sigstore.bundle.json"))
    verifier = SigstoreVerifier(trusted_root, IDENTITY, PROVIDER)
    path, refused = tmp_path / "changed.sig", set()
    for where, value in leaves(original):
        if not isinstance(value, str):
            continue
        changed = json.loads(json.dumps(original))
        parent = changed
        for key in where[:-1]:
            parent = parent[key]
        middle = len(value) // 2
        other = "B" if value[middle] != "B" else "C"
        if value.isdecimal():
            other = "1" if value[middle] != "1" else "2"
        parent[where[-1]] = value[:middle] + other + value[middle + 1 :]
        path.write_text(json.dumps(changed))
        try:
            oms.read_signature(path, verifier)
        except (it.IntegrityError, oms.SignatureFormatError):
            refused.add(".".join(map(str, where)))
    entry = "verificationMaterial.tlogEntries.0"
    assert {
        "mediaType",
        "verificationMaterial.certificate.rawBytes",
        f"{entry}.canonicalizedBody",
        f"{entry}.integratedTime",
        f"{entry}.inclusionProof.rootHash",
        f"{entry}.inclusionProof.hashes.0",
        "dsseEnvelope.payload",
        "dsseEnvelope.payloadType",
        "dsseEnvelope.signatures.0.sig",
    } <= refused


INVALID = [
    ("invalid/empty", "an empty file"),
    ("invalid/missing-envelope", "'dsseEnvelope' is missing"),
    ("invalid/missing-tlog-entries", "'tlogEntries' is missing"),
    ("invalid/missing-verification-material", "'verificationMaterial' is missing"),
]


@pytest.mark.parametrize(("name", "message"), INVALID, ids=[name for name, _ in INVALID])
def test_invalid_bundles_are_refused(key_file, tmp_path, name, message):
    read(f"{name}.bundle.json")
    with pytest.raises(oms.SignatureFormatError, match=message):
        oms.verify(tmp_path, PUBLISHED / f"{name}.bundle.json", public_key=key_file)


def test_all_published_bundles_are_tested():
    read("valid/key.bundle.json")
    found = {str(p.relative_to(PUBLISHED)) for p in PUBLISHED.rglob("*.json")}
    valid = {f"valid/{method}.bundle.json" for method in ("key", "certificate", "sigstore")}
    invalid = {f"{name}.bundle.json" for name, _ in INVALID}
    assert found == valid | invalid | {"invalid-payload/wrong-predicate.bundle.json"}


def test_the_invalid_payload_is_refused(key_file, tmp_path):
    """Its signature is not valid for its payload either. What is in it is refused on its own as well."""
    bundle = oms_bundle.parse_bundle(read("invalid-payload/wrong-predicate.bundle.json"))
    with pytest.raises(oms.SignatureFormatError, match="predicateType is 'https://example"):
        oms_bundle.parse_statement(bundle.payload)
    with pytest.raises(it.IntegrityError, match="signed with another key"):
        oms.verify(tmp_path, PUBLISHED / "invalid-payload/wrong-predicate.bundle.json", public_key=key_file)


def test_older_bundles(key_file, tmp_path):
    """Before 1.1.0, bundles had the key in ``rawBytes`` in place of its hint, and null for ``keyid``
    (section 11.1)."""
    model, private = tmp_path / "model", tmp_path / "own.pem"
    model.mkdir()
    (model / "weights.bin").write_bytes(b"weights")
    oms.generate_key(private, tmp_path / "own.pub")
    oms.sign(model, tmp_path / "model.sig", private_key=private)
    bundle = json.loads((tmp_path / "model.sig").read_bytes())
    raw = base64.b64encode((tmp_path / "own.pub").read_bytes()).decode()
    material = {"publicKey": {"rawBytes": raw, "keyDetails": "PKIX_ECDSA_P256_SHA_256"}}
    for keyid in ("", None, "absent"):
        bundle["verificationMaterial"] = material
        bundle["dsseEnvelope"]["signatures"][0]["keyid"] = keyid
        if keyid == "absent":
            del bundle["dsseEnvelope"]["signatures"][0]["keyid"]
        (tmp_path / "old.sig").write_text(json.dumps(bundle))
        oms.verify(model, tmp_path / "old.sig", public_key=tmp_path / "own.pub")
        with pytest.raises(it.IntegrityError, match="not valid for this key"):
            oms.verify(model, tmp_path / "old.sig", public_key=key_file)


def test_sigstore_signed_another_type_of_payload(trusted_root, monkeypatch):
    """The library reads ``payload_type`` as well as ``payloadType``, and might have verified another type."""
    from integrity_triton.models.oms_sigstore import SigstoreVerifier

    read("valid/sigstore.bundle.json")
    verifier = SigstoreVerifier(trusted_root, IDENTITY, PROVIDER)
    real = verifier._verifier.verify_dsse
    monkeypatch.setattr(
        verifier._verifier, "verify_dsse", lambda *given: ("text/plain", real(*given)[1]), raising=True
    )
    with pytest.raises(it.IntegrityError, match="'text/plain', not application"):
        oms.read_signature(PUBLISHED / "valid/sigstore.bundle.json", verifier)
