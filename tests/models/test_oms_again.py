"""Signing again with measurements reads only what changed, and digests without signing."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

import integrity_triton as it

model_signing = pytest.importorskip("model_signing")

from integrity_triton import cli  # noqa: E402
from integrity_triton.models import oms, oms_measurements  # noqa: E402

OLD = 1_000_000_000


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("a.bin", "b.bin", "c.bin"):
        (folder / name).write_bytes(name.encode() * 700)
    return folder


@pytest.fixture
def reading(monkeypatch) -> list[str]:
    """The names of the files that are read, in the order of reading."""
    found: list[str] = []
    digest = oms.HashingConfig._digest

    def noting(self, file, part, progress):
        found.append(os.path.basename(file.path))
        return digest(self, file, part, progress)

    monkeypatch.setattr(oms.HashingConfig, "_digest", noting)
    return found


@pytest.fixture
def sign(model, tmp_path, monkeypatch, reading):
    oms.generate_key(tmp_path / "key.pem", tmp_path / "key.pub")
    # Files that were made just now are not kept, so that tests need not wait for two seconds.
    monkeypatch.setattr(oms_measurements, "_RECENT", -60 * OLD)

    def signing(**options: object) -> set[str]:
        reading.clear()
        arguments = {"private_key": tmp_path / "key.pem", "measurements": tmp_path / "state", **options}
        oms.sign(model, tmp_path / "model.sig", **arguments)
        read = set(reading)
        oms.verify(model, tmp_path / "model.sig", public_key=tmp_path / "key.pub")
        return read

    return signing


ALL = {"a.bin", "b.bin", "c.bin"}
SHARDS = {"method": "shards", "algorithm": "sha256", "shard_size": 1000}


@pytest.mark.parametrize("form", [{}, SHARDS], ids=["files", "shards"])
def test_only_what_changed_is_read(model, sign, reading, tmp_path, form):
    assert sign(**form) == ALL
    assert set(reading) == ALL  # verifying reads everything
    assert sign(**form) == set()
    assert set(reading) == ALL
    before = (model / "b.bin").stat()
    (model / "b.bin").write_bytes(b"B.bin" * 700)  # of the same size, and then with its old time
    os.utime(model / "b.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    (model / "new.bin").write_bytes(b"new")
    (model / "c.bin").unlink()
    assert sign(**form) == {"b.bin", "new.bin"}
    assert sign(**form) == set()
    (model / "a.bin").rename(tmp_path / "aside")
    (model / "a.bin").write_bytes((tmp_path / "aside").read_bytes())  # another inode with the same content
    assert sign(**form) == {"a.bin"}


def test_another_form_reads_everything(sign):
    sign()
    assert sign(algorithm="sha256") == ALL
    assert sign(**SHARDS) == ALL
    assert sign(**{**SHARDS, "shard_size": 999}) == ALL
    assert sign() == ALL


def test_recent_changes_are_not_kept(sign, monkeypatch, model):
    monkeypatch.setattr(oms_measurements, "_RECENT", 10**18)
    assert sign() == ALL
    assert sign() == ALL
    monkeypatch.setattr(oms_measurements, "_RECENT", 2 * OLD)
    os.utime(model / "a.bin", ns=(10**18 * 4, 10**18 * 4))  # a time in the future proves nothing
    assert sign() == ALL
    assert "a.bin" in sign()


def test_measurements_of_others_are_refused(sign, tmp_path, model):
    sign()
    oms.generate_key(tmp_path / "other.pem", tmp_path / "other.pub")
    with pytest.raises(ValueError, match="another key than the signing key signed them; delete the file"):
        sign(private_key=tmp_path / "other.pem")
    whole = (tmp_path / "state").read_bytes()
    envelope = json.loads(whole)
    for size in range(0, len(whole), 7):
        (tmp_path / "state").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="state: not measurements to rely on"):
            sign()
    payload = envelope["payload"]
    for changed in (payload[:40] + ("A" if payload[40] != "A" else "B") + payload[41:], "", "?", 1):
        envelope["payload"] = changed
        (tmp_path / "state").write_text(json.dumps(envelope))
        with pytest.raises(ValueError, match="state: not measurements to rely on"):
            sign()
    (tmp_path / "state").write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        sign()
    with pytest.raises(ValueError, match="must be outside of the model"):
        sign(measurements=model / "state")


def test_a_signature_is_no_file_of_measurements(sign, tmp_path):
    """Both are signed with the same key, under payload types of their own."""
    sign()
    envelope = json.loads((tmp_path / "model.sig").read_bytes())["dsseEnvelope"]
    (tmp_path / "state").write_text(json.dumps(envelope))
    with pytest.raises(ValueError, match="payload type must be application/vnd"):
        sign()
    with pytest.raises(oms.SignatureFormatError):
        oms.verify(tmp_path / "model", tmp_path / "state", public_key=tmp_path / "key.pub")


def test_digest_is_the_subject_of_a_signature(model, sign, tmp_path, capsys):
    for form in ({}, SHARDS, {"algorithm": "blake2b"}):
        sign(**form)
        statement = json.loads(oms_payload((tmp_path / "model.sig").read_bytes()))
        root = statement["subject"][0]["digest"]["sha256"]
        assert oms.root_digest(model, **form) == root
        options = [f"--{name.replace('_', '-')}={value}" for name, value in form.items()]
        assert cli.main(["digest", str(model), *options]) == 0
        assert capsys.readouterr().out == f"sha256:{root}  {model}\n"
    digests = [hashlib.sha256((model / name).read_bytes()).digest() for name in sorted(ALL)]
    assert oms.root_digest(model, algorithm="sha256") == hashlib.sha256(b"".join(digests)).hexdigest()
    stock = model_signing.hashing.Config().use_file_serialization(hashing_algorithm="sha256").hash(model)
    listed = b"".join(descriptor.digest.digest_value for descriptor in stock.resource_descriptors())
    assert oms.root_digest(model, algorithm="sha256") == hashlib.sha256(listed).hexdigest()


def oms_payload(bundle: bytes) -> bytes:
    import base64

    return base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"])


def test_resources_are_sorted_as_text_and_stock_takes_that(model, tmp_path, sign):
    """From eleven shards on, the order of text is another one than that of numbers, and so is the root."""
    (model / "many.bin").write_bytes(bytes(range(256)) * 50)
    sign(**SHARDS, for_stock=True)
    resources = json.loads(oms_payload((tmp_path / "model.sig").read_bytes()))["predicate"]["resources"]
    names = [resource["name"] for resource in resources]
    assert names == sorted(names)
    assert names.index("many.bin:10000:11000") < names.index("many.bin:2000:3000")
    verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pub")
    verifier.verify(model, tmp_path / "model.sig")
    hashing = model_signing.hashing.Config().use_shard_serialization(shard_size=1000)
    signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem")
    signer.set_hashing_config(hashing).sign(model, tmp_path / "stock.sig")
    theirs = json.loads(oms_payload((tmp_path / "stock.sig").read_bytes()))
    assert theirs["subject"][0]["digest"]["sha256"] != oms.root_digest(model, **SHARDS)
    oms.verify(model, tmp_path / "stock.sig", public_key=tmp_path / "key.pub")


def test_the_options_of_stocks_commands(model, tmp_path, capsys):
    key, public, signature = (str(tmp_path / name) for name in ("key.pem", "key.pub", "model.sig"))
    assert cli.main(["keygen", key, public]) == 0
    (model / "log").write_bytes(b"x")
    common = [str(model), "--signature", signature, "--ignore-paths", "log"]
    assert cli.main(["sign", *common, "--private-key", key]) == 0
    assert cli.main(["verify", *common, "--public-key", public]) == 0
    assert cli.main(["verify", *common, "--certificate-chain", public]) == 2
    assert "not a file of certificates" in capsys.readouterr().err
    assert cli.main(["verify", *common]) == 2
    assert "verified with one of" in capsys.readouterr().err
    assert cli.main(["verify", *common, "--at", "2026-01-01", "--public-key", public]) == 2
    assert it.models.oms.verify(model, signature, public_key=public) is None
