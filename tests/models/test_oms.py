"""OMS signatures are the same as those of the stock model_signing, verify in both directions, and nothing
else is accepted."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import integrity_triton as it

model_signing = pytest.importorskip("model_signing")

from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: E402

from integrity_triton.models import oms  # noqa: E402

SHARD = 1000
FORMS = [("files", "blake3", None), ("files", "sha256", None), ("shards", "sha256", SHARD)]


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    files = {
        "weights.bin": bytes(range(256)) * 20,
        "exact.bin": bytes(2 * SHARD),
        "one_more.bin": bytes(2 * SHARD + 1),
        "config.json": b"{}",
        "empty": b"",
        "nested/deeper/ünïcode ☃.txt": b"text",
        "nested/colon:1:2": b"a name like a shard's",
        ".gitignore": b"*.tmp",
        "skipped/inside": b"not signed",
    }
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture
def keys(tmp_path) -> tuple[Path, Path]:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    oms.generate_key(private, public)
    return private, public


def stock_config(method: str, algorithm: str, shard_size: int | None):
    config = model_signing.hashing.Config()
    if method == "files":
        config.use_file_serialization(hashing_algorithm=algorithm)
    else:
        config.use_shard_serialization(hashing_algorithm=algorithm, shard_size=shard_size)
    return config


def flat(manifest):
    items = [(d.identifier, d.digest.algorithm, d.digest.digest_hex) for d in manifest.resource_descriptors()]
    form = dict(manifest.serialization_type)
    form["ignore_paths"] = sorted(form.get("ignore_paths", ()))
    return manifest.model_name, items, form


def without_colons(model: Path) -> None:
    (model / "nested/colon:1:2").unlink()  # stock cannot read back a shard of such a file


@pytest.mark.parametrize(("method", "oms_hash", "shard_size"), FORMS)
def test_manifests_equal_stocks(model, method, oms_hash, shard_size):
    ours = oms.HashingConfig(method, oms_hash, shard_size=shard_size)
    stock = stock_config(method, oms_hash, shard_size)
    for config in (ours, stock):
        config.set_ignored_paths(paths=["skipped"])
    assert flat(ours.hash(model)) == flat(stock.hash(model))
    listed = [model / "config.json", model / "weights.bin"]
    assert flat(ours.hash(model, files_to_hash=listed)) == flat(stock.hash(model, files_to_hash=listed))
    assert flat(ours.hash(model / "config.json")) == flat(stock.hash(model / "config.json"))


def test_symbolic_links_as_stock(model):
    (model / "link").symlink_to(model / "config.json")
    with pytest.raises(ValueError, match="symlink"):
        oms.HashingConfig().hash(model)
    stock = model_signing.hashing.Config().use_file_serialization(
        hashing_algorithm="blake3", allow_symlinks=True
    )
    assert flat(oms.HashingConfig(allow_symlinks=True).hash(model)) == flat(
        stock.set_allow_symlinks(True).hash(model)
    )


@pytest.mark.parametrize(("method", "oms_hash", "shard_size"), FORMS)
def test_what_we_sign_stock_verifies(model, keys, tmp_path, method, oms_hash, shard_size):
    without_colons(model)
    signature = tmp_path / "model.sig"
    oms.sign(
        model,
        signature,
        private_key=keys[0],
        method=method,
        algorithm=oms_hash,
        shard_size=shard_size,
        ignore_paths=["skipped"],
        for_stock=method == "shards",  # the specification names the hash of a shard otherwise
    )
    verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=keys[1])
    if method == "shards":
        verifier.set_hashing_config(stock_config(method, oms_hash, shard_size))
    verifier.verify(model, signature)
    oms.verify(model, signature, public_key=keys[1])


@pytest.mark.parametrize(("method", "oms_hash", "shard_size"), FORMS)
def test_what_stock_signs_we_verify(model, keys, tmp_path, method, oms_hash, shard_size):
    signature = tmp_path / "model.sig"
    config = stock_config(method, oms_hash, shard_size).set_ignored_paths(paths=[])
    signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=keys[0])
    signer.set_hashing_config(config).sign(model, signature)
    oms.verify(model, signature, public_key=keys[1])
    flip(model / "weights.bin", 1500)
    with pytest.raises(it.IntegrityError, match=r"changed: 'weights.bin'"):
        oms.verify(model, signature, public_key=keys[1])


def test_stocks_default_signature(model, keys, tmp_path):
    signature = tmp_path / "model.sig"
    model_signing.signing.Config().use_elliptic_key_signer(private_key=keys[0]).sign(model, signature)
    (model / ".gitignore").unlink()  # stock ignores it only on request
    oms.verify(model, signature, public_key=keys[1])


def test_stock_takes_our_config_on_both_ends(model, keys, tmp_path):
    signature = tmp_path / "model.sig"
    signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=keys[0])
    signer.set_hashing_config(oms.HashingConfig("files", "sha256")).sign(model, signature)
    verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=keys[1])
    verifier.set_hashing_config(oms.HashingConfig("files", "sha256")).verify(model, signature)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


CHANGES = [
    ("a flipped bit", lambda m: flip(m / "weights.bin", 2000), "changed: 'weights.bin'"),
    ("a longer file", lambda m: (m / "exact.bin").write_bytes(bytes(2001)), "changed: 'exact.bin'"),
    ("a cut file", lambda m: (m / "weights.bin").write_bytes(b"x"), "changed: 'weights.bin'"),
    ("an added file", lambda m: (m / "nested/new").write_bytes(b"x"), "not signed: 'nested/new'"),
    ("a removed file", lambda m: (m / "config.json").unlink(), "missing: 'config.json'"),
    (
        "a renamed file",
        lambda m: (m / "config.json").rename(m / "config2.json"),
        "missing: 'config.json'; not signed: 'config2.json'",
    ),
]


@pytest.mark.parametrize(("method", "oms_hash", "shard_size"), FORMS)
@pytest.mark.parametrize(("change", "message"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_changes_are_named(model, keys, tmp_path, method, oms_hash, shard_size, change, message):
    signature = tmp_path / "model.sig"
    if method == "shards":
        without_colons(model)
    oms.sign(model, signature, private_key=keys[0], method=method, algorithm=oms_hash, shard_size=shard_size)
    oms.verify(model, signature, public_key=keys[1])
    change(model)
    with pytest.raises(it.IntegrityError) as caught:
        oms.verify(model, signature, public_key=keys[1])
    assert message in str(caught.value)


def test_unsigned_files_can_be_ignored_and_signed_ones_cannot(model, keys, tmp_path):
    signature = tmp_path / "model.sig"
    oms.sign(model, signature, private_key=keys[0])
    (model / "log.txt").write_bytes(b"x")
    with pytest.raises(it.IntegrityError, match=r"not signed: 'log\.txt'"):
        oms.verify(model, signature, public_key=keys[1])
    oms.verify(model, signature, public_key=keys[1], ignore_unsigned_files=True)
    oms.verify(model, signature, public_key=keys[1], ignore_paths=["log.txt"])
    with pytest.raises(it.IntegrityError, match=r"missing: 'config\.json'"):
        oms.verify(model, signature, public_key=keys[1], ignore_paths=["log.txt", "config.json"])
    (model / "config.json").unlink()
    with pytest.raises(it.IntegrityError, match=r"missing: 'config\.json'"):
        oms.verify(model, signature, public_key=keys[1], ignore_unsigned_files=True)


def test_a_signature_inside_the_folder_is_not_signed(model, keys):
    signature = model / "model.sig"
    before = set(model.rglob("*"))
    for _ in range(2):  # the second time, the file exists already
        oms.sign(model, signature, private_key=keys[0])
        oms.verify(model, signature, public_key=keys[1])
    assert set(model.rglob("*")) == before | {signature}


def test_another_key(model, keys, tmp_path):
    signature = tmp_path / "model.sig"
    oms.sign(model, signature, private_key=keys[0])
    other = tmp_path / "other.pem", tmp_path / "other.pub"
    oms.generate_key(*other)
    with pytest.raises(it.IntegrityError, match="another key"):
        oms.verify(model, signature, public_key=other[1])
    bundle = json.loads(signature.read_text())
    bundle["verificationMaterial"]["publicKey"]["hint"] = ""  # the hint proves nothing
    signature.write_text(json.dumps(bundle))
    with pytest.raises(it.IntegrityError, match="not valid for this key"):
        oms.verify(model, signature, public_key=other[1])


def test_an_encrypted_key(model, keys, tmp_path):
    key = serialization.load_pem_private_key(keys[0].read_bytes(), None)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    signature = tmp_path / "model.sig"
    oms.sign(model, signature, private_key=encrypted, password="word")
    oms.verify(model, signature, public_key=keys[1])
    for password in (None, "wrong"):
        with pytest.raises(ValueError, match="not a usable elliptic-curve private key"):
            oms.sign(model, signature, private_key=encrypted, password=password)


def test_unusable_keys(model, keys, tmp_path):
    signature = tmp_path / "model.sig"
    oms.sign(model, signature, private_key=keys[0])
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("not a key")
    with pytest.raises(ValueError, match="not a PEM public key"):
        oms.verify(model, signature, public_key=wrong)
    with pytest.raises(ValueError, match="not a usable"):
        oms.sign(model, signature, private_key=wrong)
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    wrong.write_bytes(
        edwards.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ValueError, match="P-256, P-384 or P-521"):
        oms.verify(model, signature, public_key=wrong)
    with pytest.raises(FileNotFoundError):
        oms.verify(model, signature, public_key=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        oms.verify(tmp_path / "nowhere", signature, public_key=keys[1])
    with pytest.raises(FileNotFoundError):
        oms.verify(model, tmp_path / "nowhere", public_key=keys[1])


def test_generate_key_protects_what_is_there(keys, tmp_path):
    assert stat.S_IMODE(os.stat(keys[0]).st_mode) == 0o600
    before = keys[0].read_bytes(), keys[1].read_bytes()
    for pair in (keys, (keys[0], tmp_path / "new.pub"), (tmp_path / "new.pem", keys[1])):
        with pytest.raises(FileExistsError):
            oms.generate_key(*pair)
    assert before == (keys[0].read_bytes(), keys[1].read_bytes())
    assert not (tmp_path / "new.pub").exists()
    assert not (tmp_path / "new.pem").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="not applicable: no /dev/full")
def test_generate_key_leaves_nothing_if_it_cannot_write(tmp_path, monkeypatch):
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    python_open = open
    for failing in (public, private):

        def full(path, mode, *, failing=failing, **options):
            file = python_open(path, mode, **options)
            if path != failing:
                return file
            file.close()
            return python_open("/dev/full", "wb")

        monkeypatch.setattr(oms, "open", full, raising=False)
        with pytest.raises(OSError, match="No space left") as caught:
            oms.generate_key(private, public)
        assert caught.value.filename == str(failing)
        assert not private.exists()
        assert not public.exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"algorithm": "md5"}, ValueError, "knows sha256, .*blake3, not 'md5'"),
        ({"algorithm": "crc32"}, ValueError, "knows sha256, .*blake3, not 'crc32'"),
        ({"algorithm": "xxh3_128"}, ValueError, "knows sha256, .*blake3, not 'xxh3_128'"),
        ({"method": "tensors"}, ValueError, "'files' or 'shards', not 'tensors'"),
        ({"shard_size": 5}, ValueError, "shard_size is for the method 'shards'"),
        ({"method": "shards", "algorithm": "sha256", "shard_size": 0}, ValueError, "from 1 to"),
        ({"method": "shards", "algorithm": "sha256", "shard_size": 2.0}, TypeError, "must be int"),
    ],
)
def test_configurations_that_do_not_exist(arguments, error, message):
    with pytest.raises(error, match=message):
        oms.HashingConfig(**arguments)


def test_ignored_paths_stay_inside(model, keys, tmp_path):
    for path in ("../elsewhere", "/etc"):
        with pytest.raises(ValueError, match="relative and inside"):
            oms.sign(model, tmp_path / "s", private_key=keys[0], ignore_paths=[path])


def test_progress_counts_every_byte(model, keys, tmp_path):
    for form in FORMS:
        seen: list[int] = []
        method, algorithm, shard_size = form
        config = oms.HashingConfig(method, algorithm, shard_size=shard_size, progress=seen.append)
        config.hash(model)
        total = sum(p.stat().st_size for p in model.rglob("*") if p.is_file())
        assert sum(seen) == total - len(b"*.tmp")  # .gitignore is ignored


def signed(keys, payload: bytes | dict, payload_type: str = "application/vnd.in-toto+json") -> bytes:
    """A bundle with a valid signature over any payload, as a malicious signer can make it."""
    raw = json.dumps(payload).encode() if isinstance(payload, dict) else payload
    key = serialization.load_pem_private_key(keys[0].read_bytes(), None)
    encoded = b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type.encode(), len(raw), raw)
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": ""}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(raw).decode(),
            "payloadType": payload_type,
            "signatures": [{"sig": base64.b64encode(key.sign(encoded, ec.ECDSA(hashes.SHA256()))).decode()}],
        },
    }
    return json.dumps(bundle).encode()


@pytest.fixture
def statement(model, keys, tmp_path) -> dict:
    without_colons(model)
    signature = tmp_path / "honest.sig"
    oms.sign(model, signature, private_key=keys[0], method="shards", algorithm="sha256", shard_size=SHARD)
    payload = json.loads(signature.read_text())["dsseEnvelope"]["payload"]
    return json.loads(base64.b64decode(payload))


def test_the_helper_signs_what_verifies(model, keys, statement, tmp_path):
    path = tmp_path / "again.sig"
    path.write_bytes(signed(keys, statement))
    oms.verify(model, path, public_key=keys[1])
    for resource in statement["predicate"]["resources"]:
        resource["algorithm"] = "sha256"  # the specification's spelling
    statement["predicate"]["serialization"]["shard_size"] = SHARD
    path.write_bytes(signed(keys, statement))
    oms.verify(model, path, public_key=keys[1])


def _set(*keys_and_value):
    *path, last, value = keys_and_value

    def change(statement):
        for key in path:
            statement = statement[key]
        statement[last] = value

    return change


FORM = ("predicate", "serialization")
FIRST = ("predicate", "resources", 0)
TAMPERED = [
    (_set("_type", "https://in-toto.io/Statement/v0"), "_type is"),
    (_set("predicateType", "https://model_signing/Digests/v0.1"), "predicateType is"),
    (_set("subject", []), "exactly one subject"),
    (_set("subject", 0, "digest", {}), "'sha256' is missing"),
    (_set("subject", 0, "digest", "sha256", "00" * 32), "not that of the resources"),
    (_set("predicate", "resources", {}), "'resources' is missing or not a list"),
    (_set("predicate", "resources", [1]), "must be an object"),
    (_set(*FORM, "method", "tensors"), "method 'tensors' is not supported"),
    (_set(*FORM, "hash_type", "md5"), "hash 'md5' is not supported"),
    (_set(*FORM, "hash_type", "blake3"), "another hash than blake3"),
    (_set(*FORM, "method", "files"), "shard_size must be absent"),
    (_set(*FORM, "shard_size", -5), "positive integer"),
    (_set(*FORM, "shard_size", 0.5), "positive integer"),
    (_set(*FORM, "shard_size", 1e300), "positive integer"),
    (_set(*FORM, "shard_size", True), "positive integer"),
    (_set(*FORM, "shard_size", None), "positive integer"),
    (_set(*FORM, "shard_size", 999), "not a shard of 999 bytes"),
    (_set(*FIRST, "name", "config.json:1:3"), "not a shard of 1000 bytes"),
    (_set(*FIRST, "name", f"config.json:{'9' * 5000}:{'9' * 5001}"), "not named path:start:end"),
    (_set(*FORM, "allow_symlinks", 1), "'allow_symlinks'"),
    (_set(*FORM, "ignore_paths", ["../.."]), "leaves the model folder"),
    (_set(*FORM, "ignore_paths", ["/"]), "leaves the model folder"),
    (_set(*FORM, "ignore_paths", "x"), "list of strings"),
    (_set(*FIRST, "name", "../secret:0:5"), "leaves the model folder"),
    (_set(*FIRST, "name", "/etc/passwd:0:5"), "leaves the model folder"),
    (_set(*FIRST, "name", "config.json"), "not named path:start:end"),
    (_set(*FIRST, "digest", "zz"), "not a sha256 digest"),
    (_set(*FIRST, "algorithm", "md5"), "another hash"),
    (lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]), "listed twice"),
]


@pytest.mark.parametrize(("change", "message"), TAMPERED, ids=[m for _, m in TAMPERED])
def test_a_signed_statement_that_is_malformed(model, keys, statement, tmp_path, change, message):
    import hashlib

    change(statement)
    try:  # so that the check under test is the one that refuses, and not the root
        if statement["subject"][0]["digest"]["sha256"] != "00" * 32:
            digests = b"".join(bytes.fromhex(r["digest"]) for r in statement["predicate"]["resources"])
            statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(digests).hexdigest()
    except (LookupError, TypeError, ValueError):
        pass
    path = tmp_path / "tampered.sig"
    path.write_bytes(signed(keys, statement))
    with pytest.raises(oms.SignatureFormatError, match=message):
        oms.verify(model, path, public_key=keys[1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_set("dsseEnvelope", "payload", "AAAA"), it.IntegrityError, "not valid for this key"),
        (_set("dsseEnvelope", "payload", "!"), oms.SignatureFormatError, "payload is not base64"),
        (_set("dsseEnvelope", "signatures", []), oms.SignatureFormatError, "exactly one signature"),
        (_set("dsseEnvelope", "signatures", 0, "sig", "AAAA"), it.IntegrityError, "not valid"),
        (_set("dsseEnvelope", "payloadType", "text/plain"), oms.SignatureFormatError, "payload type"),
        (_set("verificationMaterial", {}), oms.SignatureFormatError, "must have one of publicKey"),
        (
            _set("verificationMaterial", "certificate", {"rawBytes": "AAAA"}),
            oms.SignatureFormatError,
            "only one of publicKey, x509CertificateChain, certificate",
        ),
        (
            _set("verificationMaterial", "x509CertificateChain", {}),
            oms.SignatureFormatError,
            "only one of publicKey, x509CertificateChain, certificate",
        ),
        (
            _set("mediaType", "application/vnd.dev.sigstore.bundleXX"),
            oms.SignatureFormatError,
            "mediaType is .*bundleXX",
        ),
        (
            _set("mediaType", "application/vnd.dev.sigstore.bundle.v0.4+json"),
            oms.SignatureFormatError,
            "a version up to 0.3",
        ),
        (_set("verificationMaterial", None), oms.SignatureFormatError, "'verificationMaterial'"),
    ],
)
def test_a_tampered_bundle(model, keys, statement, tmp_path, change, error, message):
    bundle = json.loads(signed(keys, statement))
    change(bundle)
    path = tmp_path / "tampered.sig"
    path.write_text(json.dumps(bundle))
    with pytest.raises(error, match=message):
        oms.verify(model, path, public_key=keys[1])


def test_a_payload_swapped_for_another_signed_one(model, keys, statement, tmp_path):
    bundle = json.loads(signed(keys, statement))
    other = json.loads(signed(keys, {**statement, "_type": "other"}))
    bundle["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"]
    path = tmp_path / "swapped.sig"
    path.write_text(json.dumps(bundle))
    with pytest.raises(it.IntegrityError, match="not valid"):
        oms.verify(model, path, public_key=keys[1])


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"a":1,"a":2}', b"[" * 100000, b"NaN"])
def test_what_is_no_bundle(model, keys, tmp_path, data):
    path = tmp_path / "broken.sig"
    path.write_bytes(data)
    with pytest.raises(oms.SignatureFormatError):
        oms.verify(model, path, public_key=keys[1])


def test_a_bundle_beyond_the_size_limit_is_not_read(model, keys, tmp_path, monkeypatch):
    monkeypatch.setattr(oms, "MAX_SIGNATURE_SIZE", 10)
    path = tmp_path / "large.sig"
    path.write_bytes(bytes(11))
    with pytest.raises(oms.SignatureFormatError, match="at most 10"):
        oms.verify(model, path, public_key=keys[1])


def test_stocks_command_verifies_what_we_sign_with_sha256(model, keys, tmp_path):
    signature = tmp_path / "model.sig"
    oms.sign(model, signature, private_key=keys[0], algorithm="sha256")
    command = [sys.executable, "-m", "model_signing", "verify", "key", model]
    command += ["--signature", signature, "--public_key", keys[1]]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    flip(model / "weights.bin", 0)
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
