"""The commands ``attest`` and ``verify-attestation``, with a stand-in for the processor."""

from __future__ import annotations

import datetime
import hashlib
import json
import struct
import sys
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("cryptography", reason="not applicable: the extra 'attestation' is absent")
pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import attest_support
import integrity_triton as it
from attest_support import DER, PEM, stand_in
from integrity_triton import cli
from support import has_module

NONCE = bytes(range(32)).hex()


@pytest.fixture(scope="module")
def processor():
    return attest_support.processor()


@pytest.fixture
def run(tmp_path, monkeypatch, capsysbinary):
    monkeypatch.chdir(tmp_path)
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    Path("model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"data")

    def run(*arguments):
        capsysbinary.readouterr()
        status = cli.main(list(map(str, arguments)))
        captured = capsysbinary.readouterr()
        return status, captured.out.decode(), captured.err.decode()

    assert run("manifest", "create", "model.safetensors", "-o", "manifest.json")[0] == 0
    keygen()
    return run


def keygen():
    """A key pair of this test, since ``keygen`` needs the extra ``signing``."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    none = serialization.NoEncryption()
    Path("key.pem").write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, none))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    Path("key.pub").write_bytes(key.public_key().public_bytes(PEM, spki))


ATTEST = ("attest", "model.safetensors", "--manifest", "manifest.json", "--key", "key.pem", "--nonce", NONCE)
VERIFY = ("verify-attestation", "a.json", "--key", "key.pub", "--nonce", NONCE)


def test_without_evidence(run):
    status, out, _ = run(*ATTEST, "-o", "a.json", "--no-evidence", "--guard")
    assert status == 0 and "no evidence of the hardware" in out
    status, out, err = run(*VERIFY, "--manifest", "manifest.json", "--weights", "model.safetensors")
    assert (status, err) == (0, "") and out.endswith("a.json: OK\n")
    assert "evidence" in out and "there is none" in out
    root = it.models.Manifest.load("manifest.json").root.hex()
    assert run(*VERIFY, "--root", f"blake3:{root}")[0] == 0
    assert run(*VERIFY, "--root", f"blake3:{root[:-2]}00")[0] == 1
    status, out, _ = run(*VERIFY, "--manifest", "manifest.json", "--json")
    assert status == 0 and json.loads(out)["ok"] is True
    late = run(*VERIFY, "--manifest", "manifest.json", "--at", "2099-01-01T00:00:00Z")
    assert late[0] == 1 and "s old" in late[2]

    Path("model.safetensors").write_bytes(Path("model.safetensors").read_bytes()[:-1] + b"b")
    status, _, err = run(*VERIFY, "--manifest", "manifest.json", "--weights", "model.safetensors")
    assert status == 1 and "'w'" in err
    status, out, err = run(*ATTEST, "-o", "b.json", "--no-evidence")
    assert status == 1 and out == "model.safetensors: FAILED\n" and not Path("b.json").exists()


@pytest.mark.skipif(Path("/sys/kernel/config/tsm/report").exists(), reason="this machine gives evidence")
def test_where_there_is_no_evidence_nothing_is_written(run):
    status, out, err = run(*ATTEST, "-o", "a.json")
    assert (status, out) == (2, "")
    assert "no confidential virtual machine" in err
    assert not Path("a.json").exists()


def test_with_evidence(run, processor, monkeypatch):
    def get_evidence(data, **options):
        assert options == {"privilege_level": 0}
        return processor.get_evidence(data)

    monkeypatch.setattr(it.models.attest, "get_evidence", get_evidence)
    status, out, _ = run(*ATTEST, "-o", "a.json", "--privilege-level", "0", "--guard")
    assert status == 0 and "evidence of sev_guest" in out
    Path("root.pem").write_bytes(processor.root.public_bytes(PEM))
    Path("chip.der").write_bytes(processor.chip.public_bytes(DER))
    policy = {
        "format": "integrity_triton attestation policy",
        "version": 1,
        "require": ["signature", "nonce", "time", "model", "resident", "guard", "evidence"],
        "sev_snp": {"values": {"measurement": [stand_in().MEASUREMENT.hex()]}},
    }
    Path("policy.json").write_text(json.dumps(policy))
    options = ("--manifest", "manifest.json", "--policy", "policy.json", "--vendor-root", "root.pem")
    status, out, err = run(*VERIFY, *options)
    assert (status, err) == (0, "")
    assert "up to CN=ARK-STAND-IN,O=SOFTWARE STAND-IN" in out
    assert "the word of the signing key in the measured guest" in out
    assert run(*VERIFY, *options[:4])[0] == 1  # no root, so that required evidence is not checked
    assert run(*VERIFY, *options, "--certificates", "chip.der")[0] == 0
    policy["sev_snp"]["values"]["measurement"] = ["00" * 48]
    Path("policy.json").write_text(json.dumps(policy))
    status, _, err = run(*VERIFY, *options)
    assert status == 1 and "measurement is" in err


def test_tokens(run):
    Path("token").write_bytes(b"opaque")
    nonce = it.models.attest.token_nonce(bytes.fromhex(NONCE)).hex()
    Path("claims.json").write_text(json.dumps({"fine": True, "eat_nonce": nonce}))
    policy = {
        "format": "integrity_triton attestation policy",
        "version": 1,
        "require": ["signature", "nonce", "time", "model", "tokens"],
        "tokens": {"gpu": {"fine": True}},
    }
    Path("policy.json").write_text(json.dumps(policy))
    assert run(*ATTEST, "-o", "a.json", "--no-evidence", "--token", "gpu=token")[0] == 0
    options = ("--manifest", "manifest.json", "--policy", "policy.json")
    token = ("--token", "gpu=token", "--claims", "gpu=claims.json")
    assert run(*VERIFY, *options, *token)[0] == 0
    assert run(*VERIFY, *options)[0] == 1
    assert run(*VERIFY, *options, "--token", "gpu=token")[0] == 2
    Path("token").write_bytes(b"another")
    assert run(*VERIFY, *options, *token)[0] == 1


@pytest.mark.skipif(not has_module("model_signing"), reason="not applicable: the extra 'signing' is absent")
def test_the_subject_of_a_model_signature(run):
    attest = it.models.attest
    Path("folder").mkdir()
    Path("folder/weights").write_bytes(b"weights")
    it.models.oms.generate_key("oms.pem", "oms.pub")
    it.models.oms.sign("folder", "model.sig", private_key="oms.pem")
    root = attest.oms_root("model.sig", "oms.pub")
    digest = it.blake3(b"weights").digest()
    assert root.digest == hashlib.sha256(digest).digest()
    key = attest.load_private_key("key.pem")
    attest.attest(root, key=key, nonce=bytes.fromhex(NONCE)).save("a.json")
    options = ("--signature", "model.sig", "--public-key", "oms.pub")
    assert run(*VERIFY, *options)[0] == 0
    Path("folder/weights").write_bytes(b"changed")
    it.models.oms.sign("folder", "model.sig", private_key="oms.pem")
    assert run(*VERIFY, *options)[0] == 1
    assert run(*VERIFY, "--signature", "model.sig")[0] == 2


def test_wrong_use(run):
    assert run(*ATTEST, "-o", "a.json", "--no-evidence")[0] == 0
    manifest = ("--manifest", "manifest.json")
    for arguments, match in (
        (VERIFY, "exactly one of --manifest"),
        ((*VERIFY, *manifest, "--root", "blake3:00"), "exactly one"),
        ((*VERIFY, "--root", "00"), "ALGORITHM:HEX"),
        ((*VERIFY, "--root", "blake3:xx"), "hexadecimal"),
        ((*VERIFY, "--root", "blake3:00"), "root of the model"),
        ((*VERIFY[:-1], "00", *manifest), "16 to 64"),
        ((*VERIFY, *manifest, "--at", "now"), "not a time"),
        ((*VERIFY, *manifest, "--policy", "manifest.json"), "'format' must be"),
        ((*VERIFY, *manifest, "--vendor-root", "manifest.json"), "not a certificate"),
        (("verify-attestation", "manifest.json", *VERIFY[2:], *manifest), "mediaType"),
        ((*VERIFY, *manifest, "--token", "gpu"), "LABEL=FILE"),
        ((*VERIFY, *manifest, "--token", "a=x", "--token", "a=y"), "twice"),
        ((*ATTEST, "-o", "manifest.json", "--no-evidence"), r"manifest\.json"),
        ((*ATTEST[:-1], "zz", "-o", "b.json", "--no-evidence"), "hexadecimal"),
    ):
        status, _, err = run(*arguments)
        assert status == 2, arguments
        with pytest.raises(ValueError, match=match):
            raise ValueError(err)


def test_a_year_from_now_the_statement_is_old(run):
    assert run(*ATTEST, "-o", "a.json", "--no-evidence")[0] == 0
    then = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(365)
    status, _, err = run(*VERIFY, "--manifest", "manifest.json", "--at", then.strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert status == 1 and "old" in err
