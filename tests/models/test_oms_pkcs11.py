"""Keys in PKCS #11 tokens: URIs, and signatures by Debian's SoftHSM that both packages verify."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import integrity_triton as it

model_signing = pytest.importorskip("model_signing")

from certificates import issue, write  # noqa: E402
from cryptography.hazmat.primitives import serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

from integrity_triton.models import oms, signing_pkcs11  # noqa: E402
from integrity_triton.models.signing_pkcs11 import TokenKey, parse_uri  # noqa: E402

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "1234"
CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
URI = f"pkcs11:token=models;object={{}}?module-path={LIBRARY}"


def test_uris():
    uri = parse_uri("pkcs11:token=a%20b;object=k%C3%A9y;id=%00%ff;type=private?module-name=x&pin-value=1%261")
    assert uri.text == {
        "token": "a b",
        "object": "kéy",
        "type": "private",
        "module-name": "x",
        "pin-value": "1&1",
    }
    assert uri.id == b"\x00\xff"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "begins with 'pkcs11:'"),
        ("http://x", "begins with 'pkcs11:'"),
        ("pkcs11:", "must name the key by object"),
        ("pkcs11:object=a;object=b", "has object twice"),
        ("pkcs11:colour=red;object=a", "not known: 'colour'"),
        ("pkcs11:object", "not known: 'object'"),
        ("pkcs11:object=a;pin-value=1", "not known: 'pin-value'"),
        ("pkcs11:object=a?pin-value=1&pin-source=/x", "must not have both"),
        ("pkcs11:object=a%", "must be percent-encoded"),
        ("pkcs11:object=a b", "must be percent-encoded"),
        ("pkcs11:object=%ff", "must be UTF-8"),
        ("pkcs11:object=a;type=cert", "must name a private key"),
        ("pkcs11:object=a;slot-id=x", "slot-id in the PKCS #11 URI must be a number"),
        ("pkcs11:object=a?module-path=x.so", "must be an absolute path"),
        ("pkcs11:object=" + "a" * 5000, "at most 4096 characters"),
    ],
)
def test_malformed_uris(uri, message):
    with pytest.raises(ValueError, match=message):
        parse_uri(uri)


def test_uris_cut_everywhere():
    whole = "pkcs11:token=a%20b;object=k;id=%00?module-name=x&pin-value=secret"
    messages = []
    for size in range(len(whole)):
        try:
            parse_uri(whole[:size])
        except ValueError as error:
            messages.append(str(error))
    assert messages
    assert "secret" not in " ".join(messages)


def test_points():
    assert signing_pkcs11._octets(b"\x04\x01x") == b"x"
    assert signing_pkcs11._octets(b"\x04\x81\x80" + bytes(128)) == bytes(128)
    for data in (
        b"",
        b"\x04",
        b"\x04\x02x",
        b"\x04\x83\x00\x00\x01x",
        b"\x03\x01x",
        b"\x04\x80",
        b"\x04\x01xx",
    ):
        with pytest.raises(ValueError, match="its point"):
            signing_pkcs11._octets(data)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ec.EllipticCurvePrivateKey]:
    """The keys in a token of SoftHSM, by their labels."""
    pytest.importorskip("PyKCS11", reason="absent: PyKCS11 (the extra pkcs11)")
    if not LIBRARY.is_file() or shutil.which("softhsm2-util") is None:
        pytest.skip(f"absent: SoftHSM ({LIBRARY}; Debian's package softhsm2)")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")  # the library reads it when it is loaded

    def tool(*arguments: str) -> None:
        subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True)

    tool("--init-token", "--free", "--label", "models", "--so-pin", PIN, "--pin", PIN)
    keys = {}
    for number, (label, curve) in enumerate(CURVES.items()):
        keys[label] = ec.generate_private_key(curve)
        pem = keys[label].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "key.pem").write_bytes(pem)
        identifier = f"{number + 1:02x}"
        tool(
            *("--import", str(folder / "key.pem"), "--token", "models", "--label", label),
            *("--id", identifier, "--pin", PIN),
        )
    return keys


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"weights")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("label", CURVES)
def test_a_token_signs(token, model, tmp_path, label):
    public, signature = tmp_path / "key.pub", tmp_path / "model.sig"
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(token[label].public_key().public_bytes(serialization.Encoding.PEM, spki))
    oms.sign(model, signature, pkcs11_uri=URI.format(label), password=PIN)
    oms.verify(model, signature, public_key=public)
    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public).verify(model, signature)
    uri = f"{URI.format(label)}&pin-value={PIN}"
    model_signing.signing.Config().use_pkcs11_signer(pkcs11_uri=uri).sign(model, signature)
    oms.verify(model, signature, public_key=public)
    (model / "weights.bin").write_bytes(b"weightz")
    with pytest.raises(it.IntegrityError, match="changed"):
        oms.verify(model, signature, public_key=public)


@pytest.mark.slow
def test_a_token_with_a_certificate(token, model, tmp_path):
    root = issue("root", ca=True)
    paths = write(tmp_path, root=root, leaf=issue("signer", root, key=token["p256"]))
    (tmp_path / "pin").write_text(f"{PIN}\n")
    uri = f"pkcs11:token=models;id=%01?module-name=softhsm2&pin-source=file:{tmp_path}/pin"
    oms.sign(model, tmp_path / "model.sig", pkcs11_uri=uri, certificate=paths["leaf"])
    oms.verify(model, tmp_path / "model.sig", certificate_chain=[paths["root"]])
    with pytest.raises(ValueError, match="belongs to another key"):
        oms.sign(
            model,
            tmp_path / "model.sig",
            pkcs11_uri=URI.format("p384"),
            password=PIN,
            certificate=paths["leaf"],
        )


@pytest.mark.slow
def test_tokens_and_keys_that_are_not_there(token, tmp_path):
    for uri, pin, message in (
        (URI.format("absent"), PIN, "must name an elliptic-curve public key; there is no such one"),
        (URI.format("p256").replace("models", "other"), PIN, "must name a token; there is no such one"),
        (URI.format("p256"), "wrong", "the PKCS #11 token refuses: .*PIN"),
        ("pkcs11:object=p256", PIN, "must name the token's library"),
        ("pkcs11:object=p256?module-name=absent", PIN, "no PKCS #11 library 'absent'"),
        ("pkcs11:object=p256?module-name=..%2Fx", PIN, "must be a name, not the path"),
        ("pkcs11:object=p256?module-path=/nowhere.so", PIN, "nowhere.so: not a PKCS #11 library"),
    ):
        with pytest.raises(ValueError, match=message):
            TokenKey(uri, pin)
    with pytest.raises(ValueError, match=r"private key \(no PIN was given\); there is no such one"):
        TokenKey(URI.format("p256")).sign(b"x")
