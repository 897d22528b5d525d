"""Chains of certificates that lead to a trusted one verify, and every fault is refused."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

import integrity_triton as it

model_signing = pytest.importorskip("model_signing")

from certificates import DAY, NOW, Issued, issue, key_usage, write  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: E402

from integrity_triton.models import oms, oms_bundle, signing_certificates  # noqa: E402


@pytest.fixture(scope="module")
def root() -> Issued:
    return issue("root", ca=True)


@pytest.fixture(scope="module")
def middle(root) -> Issued:
    return issue("middle", root, ca=True)


@pytest.fixture(scope="module")
def leaf(middle) -> Issued:
    return issue("signer", middle)


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 20)
    (folder / "config.json").write_bytes(b"{}")
    return folder


def sign(model: Path, leaf: Issued, *chain: Issued, **options: object) -> Path:
    """Sign with a certificate, past the checks of the signer: as a signer of another program may."""
    folder = model.parent
    paths = write(folder, leaf=leaf, chain=list(chain))
    signature = folder / "model.sig"
    oms.sign(model, signature, private_key=folder / "leaf.key", **options)
    bundle = json.loads(signature.read_bytes())
    listed = [one.certificate.public_bytes(serialization.Encoding.DER) for one in (leaf, *chain)]
    bundle["verificationMaterial"] = {
        "x509CertificateChain": {
            "certificates": [{"rawBytes": base64.b64encode(data).decode()} for data in listed]
        }
    }
    signature.write_text(json.dumps(bundle))
    assert paths
    return signature


def verify(model: Path, *trusted: Issued, at: datetime | None = None) -> None:
    paths = write(model.parent, trusted=list(trusted))
    oms.verify(model, model.parent / "model.sig", certificate_chain=[paths["trusted"]], at=at)


def test_a_chain_to_a_root(model, root, middle, leaf, tmp_path):
    paths = write(tmp_path, root=root, middle=middle, leaf=leaf)
    for chain in ([paths["middle"]], [paths["middle"], paths["root"]]):
        oms.sign(
            model,
            tmp_path / "model.sig",
            private_key=tmp_path / "leaf.key",
            certificate=paths["leaf"],
            certificate_chain=chain,
        )
        verify(model, root)
        verify(model, middle)  # trust need not reach up to the root
        verify(model, leaf)
        with pytest.raises(
            it.IntegrityError, match=r"is not trusted: (certificate signature failure|unable to get)"
        ):
            verify(model, issue("root", ca=True))
    (model / "config.json").write_bytes(b"[]")
    with pytest.raises(it.IntegrityError, match=r"changed: 'config\.json'"):
        verify(model, root)


def test_a_chain_in_one_file_with_the_certificate(model, root, middle, leaf, tmp_path):
    paths = write(tmp_path, both=[leaf, middle], leaf=leaf)
    oms.sign(model, tmp_path / "model.sig", private_key=tmp_path / "leaf.key", certificate=paths["both"])
    verify(model, root)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_every_curve(model, curve):
    anchor = issue("root", ca=True, key=ec.generate_private_key(curve))
    sign(model, issue("signer", anchor, key=ec.generate_private_key(curve)))
    verify(model, anchor)


def test_a_missing_link(model, root, leaf):
    sign(model, leaf)
    with pytest.raises(it.IntegrityError, match="'CN=signer' is not trusted: unable to get"):
        verify(model, root)


def test_a_chain_that_the_signer_made_up(model, root, tmp_path):
    """All names are right, and the certificates are of the attacker's own making."""
    fake_root = issue("root", ca=True)
    fake = issue("middle", fake_root, ca=True)
    sign(model, issue("signer", fake), fake, fake_root)
    with pytest.raises(it.IntegrityError, match="is not trusted"):
        verify(model, root)


def test_the_bundle_is_signed_by_another_key_than_the_certificate(model, root, middle, leaf):
    signature = sign(model, leaf, middle)
    theirs = json.loads(signature.read_bytes())["verificationMaterial"]
    signature = sign(model, issue("signer", middle), middle)
    bundle = json.loads(signature.read_bytes())
    bundle["verificationMaterial"] = theirs
    signature.write_text(json.dumps(bundle))
    with pytest.raises(it.IntegrityError, match="not valid for this key, which 'CN=signer' has"):
        verify(model, root)


def test_times(model, root, middle):
    """Without a time, now counts. A signature proves no time by itself, so that none is taken from it."""
    cases = [
        (issue("signer", middle, since=NOW - 9 * DAY, until=NOW - DAY), "has expired"),
        (issue("signer", middle, since=NOW + DAY, until=NOW + 9 * DAY), "is not yet valid or"),
        (issue("signer", middle, since=datetime(1950, 1, 1), until=datetime(1950, 1, 2)), "has expired"),
        (
            issue("signer", middle, since=datetime(9999, 1, 1), until=datetime(9999, 12, 31)),
            "is not yet valid or",
        ),
    ]
    for leaf, message in cases:
        sign(model, leaf, middle)
        with pytest.raises(it.IntegrityError, match=f"'CN=signer' is not trusted: certificate {message}"):
            verify(model, root)
    sign(model, cases[0][0], issue("middle", root, ca=True, key=middle.key, since=NOW - 9 * DAY))
    old_root = issue("root", ca=True, key=root.key, since=NOW - 9 * DAY)
    verify(model, old_root, at=NOW - 2 * DAY)
    with pytest.raises(it.IntegrityError, match="has expired"):
        verify(model, old_root, at=NOW)
    with pytest.raises(ValueError, match="needs a time zone"):
        verify(model, root, at=datetime.now())
    for link in ("middle", "root"):
        late = {"since": NOW - 9 * DAY, "until": NOW - DAY}
        anchor = issue("root", ca=True, **(late if link == "root" else {}))
        between = issue("middle", anchor, ca=True, **(late if link == "middle" else {}))
        sign(model, issue("signer", between), between)
        with pytest.raises(it.IntegrityError, match=f"'CN={link}' is not trusted: certificate has expired"):
            verify(model, anchor)


TLS = (ExtendedKeyUsageOID.SERVER_AUTH,)
MANY_PURPOSES = (*TLS, ExtendedKeyUsageOID.CODE_SIGNING)


def test_purposes(model, root, middle):
    for options, message in (
        ({"purposes": ()}, "extended key usage lacks codeSigning"),
        ({"purposes": TLS}, "extended key usage lacks codeSigning"),
        ({"usage": key_usage(agree=True)}, "key usage lacks digitalSignature"),
    ):
        leaf = issue("signer", middle, **options)
        sign(model, leaf, middle)
        with pytest.raises(it.IntegrityError, match=message):
            verify(model, root)
        paths = write(model.parent, leaf=leaf)
        with pytest.raises(ValueError, match=message):  # nobody would trust what would be signed
            oms.sign(
                model,
                model.parent / "new.sig",
                private_key=model.parent / "leaf.key",
                certificate=paths["leaf"],
            )
    for options in ({"usage": None}, {"purposes": MANY_PURPOSES}):
        sign(model, issue("signer", middle, **options), middle)
        verify(model, root)


def test_issuers_that_must_not_issue(model, root):
    cases = [
        (issue("middle", root), "invalid CA certificate"),
        (issue("middle", root, ca=True, usage=key_usage(sign=True)), "invalid CA certificate"),
        (issue("middle", issue("root", ca=True, key=root.key, path_length=0), ca=True), "path length"),
    ]
    for middle, message in cases:
        sign(model, issue("signer", middle), middle)
        anchor = issue("root", ca=True, key=root.key, path_length=0) if "path" in message else root
        with pytest.raises(it.IntegrityError, match=message):
            verify(model, anchor)


def test_issuers_for_other_purposes_than_signing_code(model, root):
    """An authority that may only certify servers must not make signers of models."""
    limit = x509.ExtendedKeyUsage
    servers = issue("servers", root, ca=True, more=(limit(list(TLS)),))
    sign(model, issue("signer", servers), servers)
    with pytest.raises(it.IntegrityError, match="must not issue certificates for signing code"):
        verify(model, root)
    for purposes in (MANY_PURPOSES, (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)):
        both = issue("both", root, ca=True, more=(limit(list(purposes)),))
        sign(model, issue("signer", both), both)
        verify(model, root)


def test_critical_extensions_that_nobody_knows(model, root, middle):
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
    sign(model, issue("signer", middle, more=(strange,)), middle)
    with pytest.raises(it.IntegrityError, match="unhandled critical extension"):
        verify(model, root)


def test_weak_algorithms_and_other_keys(model, root):
    weak = issue("middle", root, ca=True, key=rsa.generate_private_key(65537, 1024))
    sign(model, issue("signer", weak), weak)
    with pytest.raises(it.IntegrityError, match="an RSA key of 1024 bits, which is too short"):
        verify(model, root)
    strong = issue("middle", root, ca=True, key=rsa.generate_private_key(65537, 2048))
    sign(model, issue("signer", strong), strong)
    verify(model, root)
    odd = issue("middle", root, ca=True, key=ec.generate_private_key(ec.SECP256K1()))
    sign(model, issue("signer", odd), odd)
    with pytest.raises(it.IntegrityError, match="a key on the curve secp256k1"):
        verify(model, root)
    short = issue("signer", root, hash_algorithm=hashes.SHA224())
    sign(model, short)
    with pytest.raises(it.IntegrityError, match="signed with sha224, which is too weak"):
        verify(model, root)
    for key in (rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()):
        other = issue("signer", root, key=key)
        signature = sign(model, issue("signer", root))
        bundle = json.loads(signature.read_bytes())
        raw = base64.b64encode(other.certificate.public_bytes(serialization.Encoding.DER)).decode()
        bundle["verificationMaterial"]["x509CertificateChain"]["certificates"] = [{"rawBytes": raw}]
        signature.write_text(json.dumps(bundle))
        with pytest.raises(it.IntegrityError, match="another key than an elliptic-curve key on P-256"):
            verify(model, root)


def crowd(count: int) -> tuple[list[Issued], Issued]:
    """Two authorities that certified each other, several times, and a signer of one of them."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    first, second = issue("one", ca=True, key=keys[0]), issue("two", ca=True, key=keys[1])
    loop = []
    for _ in range(count):
        loop += [issue("one", second, ca=True, key=keys[0]), issue("two", first, ca=True, key=keys[1])]
    return loop, issue("signer", first)


def test_what_stock_accepts_and_we_refuse(model, root, tmp_path):
    """It takes the first moment of the signer's certificate for the present, and no codeSigning."""
    paths = write(tmp_path, root=root)
    for leaf, message in (
        (issue("signer", root, since=NOW - DAY / 2, until=NOW - DAY / 4), "has expired"),
        (issue("signer", root, purposes=()), "lacks codeSigning"),
    ):
        signature = sign(model, leaf)
        config = model_signing.verifying.Config().use_certificate_verifier(certificate_chain=[paths["root"]])
        config.verify(model, signature)
        with pytest.raises(it.IntegrityError, match=message):
            verify(model, root)


def test_looping_chains_end(model, root):
    """With a search that goes back, 7 certificates of each of two names would take more than 7**7 checks."""
    loop, leaf = crowd(7)
    sign(model, leaf, *loop)
    with pytest.raises(it.IntegrityError, match="is not trusted"):
        verify(model, root)
    own = issue("signer", ca=True, purposes=())
    sign(model, own, own, own)
    with pytest.raises(it.IntegrityError, match="is not trusted: self-signed"):
        verify(model, root)


def test_a_self_signed_certificate_that_is_trusted(model):
    own = issue("signer")
    sign(model, own)
    verify(model, own)


def test_too_many_and_too_large_certificates(model, root, leaf):
    sign(model, leaf, *[leaf] * oms_bundle.MAX_CERTIFICATES)
    with pytest.raises(oms.SignatureFormatError, match="from 1 to 16 certificates, not 17"):
        verify(model, root)
    signature = sign(model, leaf)
    bundle = json.loads(signature.read_bytes())
    chain = bundle["verificationMaterial"]["x509CertificateChain"]
    huge = b"\x30\x84\x7f\xff\xff\xff"  # a sequence that claims 2 GiB
    deep = b"\x30\x80" * 20_000
    for data, message in (
        (huge, "not a certificate in DER"),
        (deep, "not a certificate in DER"),
        (bytes(oms_bundle.MAX_CERTIFICATE_SIZE + 1), "at most 65536 are allowed"),
        (b"", "not a certificate in DER"),
    ):
        chain["certificates"] = [{"rawBytes": base64.b64encode(data).decode()}]
        signature.write_text(json.dumps(bundle))
        with pytest.raises(oms.SignatureFormatError, match=message):
            verify(model, root)
    for value, message in (
        ([], "from 1 to 16 certificates, not 0"),
        ([1], "must be an object"),
        ([{}], "'rawBytes' is missing"),
        ([{"rawBytes": "?"}], "not base64"),
        ("x", "'certificates' is missing"),
    ):
        chain["certificates"] = value
        signature.write_text(json.dumps(bundle))
        with pytest.raises(oms.SignatureFormatError, match=message):
            verify(model, root)


def test_a_bundle_cut_everywhere(model, root, middle, leaf):
    signature = sign(model, leaf, middle)
    whole = signature.read_bytes()
    oms_bundle.parse_bundle(whole)
    for size in range(len(whole)):
        with pytest.raises(oms.SignatureFormatError):
            oms_bundle.parse_bundle(whole[:size])


def test_bundles_that_are_deep_or_have_wrong_types(model, root, leaf):
    signature = sign(model, leaf)
    members = json.loads(signature.read_bytes())
    material = members["verificationMaterial"]
    for value in (None, 1, 1.5, "x", [], [[]], {}, True):
        for where in ("mediaType", "verificationMaterial", "dsseEnvelope"):
            with pytest.raises(oms.SignatureFormatError):
                oms_bundle.parse_bundle(json.dumps({**members, where: value}).encode())
        changed = {**members, "verificationMaterial": {**material, "x509CertificateChain": value}}
        signature.write_text(json.dumps(changed))
        with pytest.raises(oms.SignatureFormatError):
            verify(model, root)
    for entries in (None, 1, "x", [], {}):
        bare = {**members, "verificationMaterial": {"certificate": {}, "tlogEntries": entries}}
        with pytest.raises(oms.SignatureFormatError, match="tlogEntries"):
            oms_bundle.parse_bundle(json.dumps(bare).encode())
    deep = '{"verificationMaterial":' * 50_000
    for text in (deep, "[" * 100_000, json.dumps(members)[:-1] + ',"x":' + "[" * 100_000):
        signature.write_text(text)
        with pytest.raises(oms.SignatureFormatError):
            verify(model, root)


def test_certificates_cut_and_flipped_everywhere(leaf):
    """Any bytes are a certificate, or an error that says that they are none."""
    data = leaf.certificate.public_bytes(serialization.Encoding.DER)
    for size in range(len(data)):
        with pytest.raises(ValueError, match="not a certificate in DER"):
            signing_certificates.parse_certificate(data[:size])
    taken = 0
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        try:
            certificate = signing_certificates.parse_certificate(bytes(changed))
            signing_certificates.signing_key(certificate)
            signing_certificates.check_purpose(certificate)
        except (ValueError, it.IntegrityError):
            continue
        taken += 1
        if certificate != leaf.certificate:
            with pytest.raises(it.IntegrityError):
                signing_certificates.check_trusted(certificate, [], [issue("root", ca=True).certificate])
    assert taken  # for example, with another serial number


def test_what_a_caller_may_give(model, leaf, middle, tmp_path):
    paths = write(tmp_path, leaf=leaf, middle=middle)
    oms.generate_key(tmp_path / "k.pem", tmp_path / "k.pub")
    key, signature = tmp_path / "leaf.key", tmp_path / "s"
    for options, message in (
        ({}, "needs one key"),
        ({"private_key": key, "pkcs11_uri": "pkcs11:object=x"}, "needs one key"),
        ({"private_key": key, "certificate_chain": [paths["middle"]]}, "needs the certificate of the key"),
        ({"private_key": tmp_path / "k.pem", "certificate": paths["leaf"]}, "belongs to another key"),
        ({"private_key": key, "certificate": key}, "not a file of certificates: there is none in PEM"),
    ):
        with pytest.raises(ValueError, match=message):
            oms.sign(model, signature, **options)
    sign(model, leaf)
    public = tmp_path / "k.pub"
    for options, message in (
        ({}, "verified with one of"),
        ({"public_key": public, "certificate_chain": [paths["leaf"]]}, "verified with one of"),
        ({"public_key": public, "at": datetime.now(timezone.utc)}, "time of validity is for certificates"),
        ({"public_key": public, "identity": "x"}, "identity is for Sigstore"),
        ({"trusted_root": public}, "signer's identity"),
        ({"certificate_chain": [public]}, "not a file of certificates"),
    ):
        with pytest.raises(ValueError, match=message):
            oms.verify(model, tmp_path / "model.sig", **options)
    with pytest.raises(oms.SignatureFormatError, match="signed with a certificate, not with a key"):
        oms.verify(model, tmp_path / "model.sig", public_key=public)
    oms.sign(model, tmp_path / "model.sig", private_key=tmp_path / "k.pem")
    with pytest.raises(oms.SignatureFormatError, match="signed with a key, not with a certificate"):
        verify(model, leaf)


def test_trusted_roots_of_sigstore_that_are_none(model, tmp_path):
    pytest.importorskip("sigstore")
    oms.generate_key(tmp_path / "k.pem", tmp_path / "k.pub")
    oms.sign(model, tmp_path / "model.sig", private_key=tmp_path / "k.pem")
    path = tmp_path / "root.json"
    kind = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
    for text, message in (
        ("", "not a trusted root"),
        ("[" * 100_000, "not a trusted root"),
        ("{}", "its mediaType is 'None'"),
        (json.dumps({"mediaType": kind, "tlogs": 1}), "not a trusted root"),
        (json.dumps({"mediaType": kind + "9"}), "not a trusted root"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            oms.verify(model, tmp_path / "model.sig", trusted_root=path, identity="a", identity_provider="b")
