"""Signatures that would prove nothing, folders with more than plain files, and files of other kinds."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import threading
from pathlib import Path

import pytest

import integrity_triton as it
from integrity_triton import cli

model_signing = pytest.importorskip("model_signing")

from cryptography.hazmat.primitives import serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: E402

from integrity_triton.models import model_tree, oms, oms_bundle, regular_files, signing_keys  # noqa: E402

SHARDS = {"method": "shards", "algorithm": "sha256", "shard_size": 1000}
METHODS = pytest.mark.parametrize("form", [{}, SHARDS], ids=["files", "shards"])
AS_ROOT = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="not applicable: root reads every folder"
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("keys")
    oms.generate_key(folder / "key.pem", folder / "key.pub")
    return folder / "key.pem", folder / "key.pub"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for name in ("weights.bin", "config.json", "2_Dense/weights.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 100)
    return folder


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A model in the Hugging Face cache: links to files that are named after their content."""
    repository = tmp_path / "hub" / "models--org--name"
    folder = repository / "snapshots" / ("0" * 40)
    (repository / "blobs").mkdir(parents=True)
    for number, name in enumerate(("weights.bin", "config.json", "2_Dense/weights.bin")):
        blob = repository / "blobs" / f"{number:064x}"
        blob.write_bytes(name.encode() * 100)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(os.path.relpath(blob, (folder / name).parent))
    return folder


class Signed:
    """A model, and what a test does to it."""

    def __init__(self, keys: tuple[Path, Path], signature: Path) -> None:
        self.keys = keys
        self.signature = signature

    def sign(self, model: Path, **options: object) -> None:
        oms.sign(model, self.signature, private_key=self.keys[0], **options)

    def verify(self, model: Path, **options: object) -> None:
        oms.verify(model, self.signature, public_key=self.keys[1], **options)

    def stock_sign(self, model: Path, config: model_signing.hashing.Config) -> None:
        signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=self.keys[0])
        signer.set_hashing_config(config).sign(model, self.signature)

    def stock_verify(self, model: Path, config: model_signing.hashing.Config | None = None) -> None:
        verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=self.keys[1])
        if config is not None:
            verifier.set_hashing_config(config)
        verifier.verify(model, self.signature)

    @property
    def statement(self) -> dict:
        envelope = json.loads(self.signature.read_bytes())["dsseEnvelope"]
        return json.loads(base64.b64decode(envelope["payload"]))


@pytest.fixture
def signed(keys, tmp_path: Path) -> Signed:
    return Signed(keys, tmp_path / "model.sig")


# Signatures of nothing


@METHODS
@pytest.mark.parametrize("path", ["", ".", "./", "./."])
def test_the_whole_folder_cannot_be_ignored(model, signed, form, path):
    with pytest.raises(ValueError, match=f"ignored path '{re.escape(path)}' is the whole folder"):
        signed.sign(model, ignore_paths=[path], **form)
    assert not signed.signature.exists()
    signed.sign(model, **form)
    with pytest.raises(ValueError, match="is the whole folder"):
        signed.verify(model, ignore_paths=[path])


@METHODS
def test_a_model_without_anything_to_sign(model, signed, form, tmp_path):
    empty = tmp_path / "empty"
    (empty / "sub").mkdir(parents=True)
    for folder, ignored in ((empty, []), (model, ["weights.bin", "config.json", "2_Dense"])):
        with pytest.raises(ValueError, match="nothing to sign: it has no files, or all of them are ignored"):
            signed.sign(folder, ignore_paths=ignored, **form)
        with pytest.raises(ValueError, match="nothing to sign"):
            signed.stock_sign(folder, oms.HashingConfig(**form).set_ignored_paths(paths=ignored))
    assert not signed.signature.exists()


def test_only_empty_files_have_no_shards(signed, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "a").touch()
    with pytest.raises(ValueError, match="all its files are empty, and empty files have no shards"):
        signed.sign(folder, **SHARDS)
    signed.sign(folder)  # as files, they have digests
    (folder / "a").write_bytes(b"x")
    with pytest.raises(it.IntegrityError, match="changed: 'a'"):
        signed.verify(folder)


def test_an_empty_signature_of_stock(signed, model, tmp_path):
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    everything = model_signing.hashing.Config().set_ignored_paths(paths=[""])
    shards = model_signing.hashing.Config().use_shard_serialization()
    for folder, config in ((nothing, model_signing.hashing.Config()), (model, everything), (nothing, shards)):
        signed.stock_sign(folder, config)
        for options in ({}, {"ignore_unsigned_files": True}):
            with pytest.raises(oms.SignatureFormatError, match="nothing is signed"):
                signed.verify(folder, **options)


@pytest.mark.parametrize("path", ["", ".", "./"])
def test_a_statement_that_ignores_the_whole_folder(signed, model, path):
    signed.sign(model)
    statement = signed.statement
    statement["predicate"]["serialization"]["ignore_paths"] = [path]
    with pytest.raises(oms.SignatureFormatError, match="the whole folder: nothing is signed"):
        oms_bundle.parse_statement(json.dumps(statement).encode())


@METHODS
@pytest.mark.parametrize("options", [{}, {"ignore_unsigned_files": True}])
def test_an_empty_file_that_is_filled(model, signed, form, options):
    (model / "empty").touch()
    signed.sign(model, **form)
    signed.verify(model, **options)
    (model / "empty").write_bytes(b"filled")
    with pytest.raises(it.IntegrityError, match=r"signed; changed: 'empty'$"):
        signed.verify(model, **options)
    (model / "empty").unlink()
    with pytest.raises(it.IntegrityError, match=r"signed; missing: 'empty'$"):
        signed.verify(model, **options)


@METHODS
@pytest.mark.parametrize("size", [0, 1, 999, 1001, 10_000])
def test_a_file_of_another_size(model, signed, form, size):
    signed.sign(model, **form)
    os.truncate(model / "weights.bin", size)
    for options in ({}, {"ignore_unsigned_files": True}):
        with pytest.raises(it.IntegrityError, match=r"signed; changed: 'weights\.bin'$"):
            signed.verify(model, **options)


@METHODS
def test_what_cannot_match_is_not_read(model, signed, form):
    (model / "empty").touch()
    signed.sign(model, **form)
    os.truncate(model / "empty", 1 << 40 if form else 1)  # reading it would take an hour
    (model / "unsigned").touch()
    os.truncate(model / "unsigned", 1 << 40)
    with pytest.raises(it.IntegrityError, match=r"signed; changed: 'empty'; not signed: 'unsigned'$"):
        signed.verify(model)
    (model / "empty").write_bytes(b"")
    signed.verify(model, ignore_unsigned_files=True)
    with pytest.raises(it.IntegrityError, match=r"signed; not signed: 'unsigned'$"):
        signed.verify(model)


def test_an_empty_file_that_is_added_to_shards(model, signed):
    signed.sign(model, **SHARDS)
    (model / "empty").touch()
    with pytest.raises(it.IntegrityError, match="not signed: 'empty'"):
        signed.verify(model)
    signed.verify(model, ignore_unsigned_files=True)


def test_an_empty_file_that_stock_signed_by_shards(model, signed):
    (model / "empty").touch()
    signed.stock_sign(model, model_signing.hashing.Config().use_shard_serialization(shard_size=1000))
    for options in ({}, {"ignore_unsigned_files": True}):
        signed.verify(model, **options)
    (model / "empty").write_bytes(b"filled")
    with pytest.raises(it.IntegrityError, match=r"not signed: 'empty'$"):
        signed.verify(model)
    with pytest.raises(
        it.IntegrityError, match=r"'empty'; the signature does not say which files were empty when"
    ):
        signed.verify(model, ignore_unsigned_files=True)
    signed.verify(model, ignore_unsigned_files=True, ignore_paths=["empty"])


def test_stock_verifies_shards_and_their_empty_files_without_being_told_the_size(model, signed):
    (model / "empty").touch()
    signed.sign(model, **SHARDS, for_stock=True)
    signed.stock_verify(model)


def test_contradictory_empty_files(model, signed):
    signed.sign(model, **SHARDS)
    for value, message in (
        (["weights.bin"], "both as an empty file and with shards"),
        (["../x"], "leaves the model folder"),
        ("x", "list of strings"),
        (["e", "d", "e"], "names 'e' twice"),
    ):
        statement = signed.statement
        statement["predicate"]["resources"][0]["annotations"]["integrity_triton:empty_files"] = value
        with pytest.raises(oms.SignatureFormatError, match=message):
            oms_bundle.parse_statement(json.dumps(statement).encode())


# Folders that cannot be listed


@METHODS
@pytest.mark.parametrize("name", ["2_Dense", "."])
def test_a_folder_that_cannot_be_listed(model, signed, form, name, monkeypatch):
    signed.sign(model, **form)
    scandir = os.scandir

    def refusing(path):
        if os.path.samefile(path, model / name):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    for act in (lambda: signed.sign(model, **form), lambda: signed.verify(model)):
        with pytest.raises(PermissionError) as caught:
            act()
        assert os.path.samefile(caught.value.filename, model / name)
    if name != ".":
        signed.sign(model, ignore_paths=[name], **form)
        signed.verify(model)


@AS_ROOT
def test_an_unreadable_folder(model, signed):
    signed.sign(model)
    (model / "2_Dense").chmod(0)
    try:
        for act in (signed.sign, signed.verify):
            with pytest.raises(PermissionError):
                act(model)
    finally:
        (model / "2_Dense").chmod(0o700)


def test_the_command_names_the_folder(model, keys, monkeypatch, capsys):
    monkeypatch.chdir(model.parent)
    assert cli.main(["sign", "model", "--key", str(keys[0])]) == 0
    scandir = os.scandir

    def refusing(path):
        if os.path.basename(os.path.normpath(path)) == "2_Dense":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    for command in (["sign", "model", "--key", str(keys[0])], ["verify", "model", "--key", str(keys[1])]):
        assert cli.main(command) == 2
        assert "model/2_Dense" in capsys.readouterr().err


# Links


def test_a_link_is_refused_with_advice(model, signed):
    (model / "link").symlink_to("weights.bin")
    with pytest.raises(
        ValueError, match=r"'link' is a symbolic link; allow_symlinks \(--allow-symlinks\) signs"
    ):
        signed.sign(model)
    signed.sign(model, ignore_paths=["link"])
    signed.sign(model, allow_symlinks=True)
    assert signed.statement["predicate"]["serialization"]["allow_symlinks"] is True
    signed.verify(model)
    (model / "link").unlink()
    (model / "link").symlink_to("config.json")
    with pytest.raises(it.IntegrityError, match=r"changed: 'link'$"):
        signed.verify(model)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/etc/hostname", "out of the folder"),
        ("../outside", "out of the folder"),
        ("2_Dense/../../outside", "out of the folder"),
        ("..", "out of the folder"),
        ("link", "back to itself"),
        (".", "to a folder"),
        ("2_Dense", "to a folder"),
        ("nowhere", "to nothing"),
        ("weights.bin/x", "to nothing"),
        ("pipe", "to a named pipe"),
    ],
)
@METHODS
def test_links_that_are_never_followed(model, signed, form, target, reason):
    Path("/etc/hostname").exists() or pytest.skip("not applicable: there is no /etc/hostname")
    (model.parent / "outside").write_bytes(b"outside")
    signed.sign(model, allow_symlinks=True, ignore_paths=["pipe"], **form)
    os.mkfifo(model / "pipe")
    (model / "link").symlink_to(target)
    with pytest.raises(ValueError, match=rf"'link' is a symbolic link [\w ]*{reason}"):
        signed.sign(model, allow_symlinks=True, ignore_paths=["pipe"], **form)
    with pytest.raises(it.IntegrityError, match=rf"not signed: 'link' \(a symbolic link [\w ]*{reason}"):
        signed.verify(model)
    signed.verify(model, ignore_unsigned_files=True)


def test_links_in_ignored_folders_do_not_matter(model, signed):
    (model / "logs").mkdir()
    (model / "logs" / "latest").symlink_to("nowhere")
    (model / ".git").mkdir()
    (model / ".git" / "hook").symlink_to("/etc/passwd")
    signed.sign(model, ignore_paths=["logs/"])
    signed.verify(model)
    signed.stock_verify(model.parent / "model", None) if not (
        model / "logs" / "latest"
    ).is_symlink() else None


@METHODS
@pytest.mark.parametrize("options", [{}, {"ignore_unsigned_files": True}])
def test_a_signed_file_replaced_by_a_link(model, signed, form, options):
    signed.sign(model, **form)
    (model / "config.json").rename(model.parent / "config.json")
    (model / "config.json").symlink_to("../config.json")  # the content is the same
    with pytest.raises(it.IntegrityError, match=r"changed: 'config\.json' \(a symbolic link\)"):
        signed.verify(model, **options)
    with pytest.raises(it.IntegrityError, match=r"changed: 'config\.json' \(a symbolic link that leads out"):
        signed.verify(model, allow_symlinks=True, **options)


@METHODS
@pytest.mark.parametrize("allow_symlinks", [False, True])
@pytest.mark.parametrize("ignore_unsigned_files", [False, True])
def test_a_signed_folder_replaced_by_a_link(model, signed, form, allow_symlinks, ignore_unsigned_files):
    signed.sign(model, **form)
    (model / "2_Dense").rename(model.parent / "elsewhere")
    (model / "2_Dense").symlink_to("../elsewhere")
    with pytest.raises(it.IntegrityError, match=r"missing: '2_Dense/weights\.bin'"):
        signed.verify(model, allow_symlinks=allow_symlinks, ignore_unsigned_files=ignore_unsigned_files)


def test_an_added_link_is_a_mismatch(model, keys, monkeypatch, capsys):
    monkeypatch.chdir(model.parent)
    assert cli.main(["sign", "model", "--key", str(keys[0])]) == 0
    Path("model/link").symlink_to("weights.bin")
    capsys.readouterr()
    assert cli.main(["verify", "model", "--key", str(keys[1])]) == 1
    captured = capsys.readouterr()
    assert captured.out == "model: FAILED\n"
    assert "not signed: 'link' (a symbolic link)" in captured.err
    assert "--allow-symlinks" in captured.err
    assert cli.main(["sign", "model", "--key", str(keys[0])]) == 2
    assert cli.main(["sign", "model", "--key", str(keys[0]), "--allow-symlinks"]) == 0
    assert cli.main(["verify", "model", "--key", str(keys[1])]) == 0


def test_a_folder_may_be_reached_through_links(model, signed):
    (model.parent / "current").symlink_to("model")
    signed.sign(model)
    signed.verify(model.parent / "current")
    signed.sign(model.parent / "current")
    signed.verify(model)


def test_the_signature_is_left_out_however_it_is_spelled(model, keys):
    (model.parent / "current").symlink_to("model")
    for folder, signature in (
        (model.parent / "current", model / "model.sig"),
        (model, model.parent / "current" / "model.sig"),
        (model, model / "2_Dense" / ".." / "model.sig"),
    ):
        for _ in range(2):
            oms.sign(folder, signature, private_key=keys[0])
            oms.verify(folder, signature, public_key=keys[1])
        signature.unlink()


def test_the_signature_may_be_written_through_a_link(model, keys):
    link = model.parent / "link"
    link.symlink_to("model/model.sig")
    inner = model / "inner"
    for path in (link, link, inner):
        if path is inner:
            inner.symlink_to("model.sig")
        oms.sign(model, path, private_key=keys[0])
        oms.verify(model, path, public_key=keys[1])
    inner.unlink()
    oms.verify(model, model / "model.sig", public_key=keys[1])


def test_the_signature_does_not_replace_a_file_of_the_model(model, snapshot, keys):
    (model / "empty").write_bytes(b"")
    outside = model.parent / "outside"
    outside.symlink_to("model/empty")
    hard_link = model.parent / "hard link"
    os.link(model / "config.json", hard_link)
    blob = (snapshot / "config.json").resolve()
    blob.write_bytes(b"")
    for folder, path in (
        (model, model / "empty"),
        (model, outside),
        (model, hard_link),
        (model / "config.json", model / "config.json"),
        (snapshot, blob),
    ):
        before = path.read_bytes()
        with pytest.raises(ValueError, match="this is an input"):
            oms.sign(folder, path, private_key=keys[0], allow_symlinks=folder is snapshot)
        assert path.read_bytes() == before
    empty = model.parent / "new"
    empty.write_bytes(b"")  # as mktemp makes it
    oms.sign(model, empty, private_key=keys[0])
    oms.verify(model, empty, public_key=keys[1])


def test_a_link_that_leads_to_the_signature_is_not_signed(model, signed):
    signed.signature = model / "model.sig"
    signed.sign(model)
    (model / "alias").symlink_to("model.sig")
    with pytest.raises(ValueError, match="this is an input"):
        signed.sign(model, allow_symlinks=True)


def test_shards_with_colons_in_their_names(model, signed):
    (model / "col:0:4").write_bytes(b"")
    signed.sign(model, **SHARDS, for_stock=True)  # an empty file has no shard
    signed.stock_verify(model)
    (model / "col:0:4").write_bytes(b"data")
    with pytest.raises(ValueError, match=r"'col:0:4' has a colon in its name.*use the method 'files'"):
        signed.sign(model, **SHARDS, for_stock=True)
    signed.sign(model, **SHARDS)  # the specification takes the last two numbers of a name
    assert "col:0:4:0:4" in {r["name"] for r in signed.statement["predicate"]["resources"]}
    signed.verify(model)
    (model / "col:0:4").write_bytes(b"dato")
    with pytest.raises(it.IntegrityError, match="changed: 'col:0:4'"):
        signed.verify(model)
    signed.sign(model)
    signed.stock_verify(model)
    signed.sign(model, **SHARDS, ignore_paths=["col:0:4"])
    signed.verify(model)


def test_a_model_that_changes_while_it_is_signed_is_no_mismatch(model, keys, monkeypatch, capsys):
    digest = oms.HashingConfig._digest

    def hashing(self, file, part, progress):
        (model / "late").write_bytes(b"x")
        return digest(self, file, part, progress)

    monkeypatch.setattr(oms.HashingConfig, "_digest", hashing)
    assert cli.main(["sign", str(model), "--key", str(keys[0])]) == 2
    assert "changed while the model was being read: 'late'" in capsys.readouterr().err
    assert not (model / "model.sig").exists()


# Hugging Face


@METHODS
def test_a_snapshot_is_signed_and_verified(snapshot, signed, form):
    with pytest.raises(ValueError, match=r"a symbolic link; allow_symlinks \(--allow-symlinks\)"):
        signed.sign(snapshot, **form)
    signed.sign(snapshot, allow_symlinks=True, **form)
    signed.verify(snapshot)
    signed.verify(snapshot, ignore_unsigned_files=True)
    (snapshot / "config.json").resolve().write_bytes(b"changed")
    with pytest.raises(it.IntegrityError, match=r"changed: 'config\.json'$"):
        signed.verify(snapshot)


@METHODS
def test_what_was_signed_as_files_is_verified_in_the_cache(model, snapshot, signed, form):
    signed.sign(model, **form)
    with pytest.raises(it.IntegrityError, match=r"allow_symlinks \(--allow-symlinks\) follows links"):
        signed.verify(snapshot)
    signed.verify(snapshot, allow_symlinks=True)
    signed.verify(snapshot, allow_symlinks=True, ignore_unsigned_files=True)


def test_a_signature_in_a_snapshot_may_be_a_link_too(model, snapshot, signed):
    signed.sign(model)
    blob = snapshot.parents[1] / "blobs" / "model.sig"
    shutil.copy(signed.signature, blob)
    (snapshot / "model.sig").symlink_to("../../blobs/model.sig")
    oms.verify(snapshot, snapshot / "model.sig", public_key=signed.keys[1], allow_symlinks=True)


def test_a_part_of_a_snapshot(snapshot, signed):
    signed.sign(snapshot / "2_Dense", allow_symlinks=True)
    signed.verify(snapshot / "2_Dense")
    signed.sign(snapshot / "config.json")
    signed.verify(snapshot / "config.json")


def test_a_snapshot_with_stock(snapshot, signed):
    allowing = model_signing.hashing.Config().set_allow_symlinks(True)
    signed.stock_sign(snapshot, allowing)
    signed.verify(snapshot)
    signed.sign(snapshot, allow_symlinks=True)
    signed.stock_verify(
        snapshot,
        model_signing.hashing.Config()
        .use_file_serialization(hashing_algorithm="blake3")
        .set_allow_symlinks(True),
    )


def test_links_of_a_snapshot_lead_to_its_own_blobs_only(snapshot, signed):
    hub = snapshot.parents[2]
    secret = hub / "models--org--other" / "blobs" / "1"
    secret.parent.mkdir(parents=True)
    secret.write_bytes(b"another model's")
    inner = snapshot.parents[1] / "blobs" / "sub" / "1"
    inner.parent.mkdir()
    inner.write_bytes(b"x")
    for target in (secret, inner, hub / "models--org--name" / "refs"):
        target.touch() if not target.exists() else None
        (snapshot / "extra").symlink_to(target)
        with pytest.raises(ValueError, match="'extra' is a symbolic link that leads out of the folder"):
            signed.sign(snapshot, allow_symlinks=True)
        (snapshot / "extra").unlink()
    blobs = snapshot.parents[1] / "blobs"
    shutil.move(blobs, hub / "moved")
    blobs.symlink_to(hub / "moved")  # blobs that are a link themselves
    with pytest.raises(ValueError, match="leads out of the folder"):
        signed.sign(snapshot, allow_symlinks=True)


# What is neither a file nor a folder


def test_special_files_in_a_model(model, signed):
    signed.sign(model)
    os.mkfifo(model / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(model / "socket"))
        with pytest.raises(ValueError, match="'pipe' is a named pipe, neither a file nor a folder"):
            signed.sign(model)
        with pytest.raises(
            it.IntegrityError, match=r"not signed: 'pipe' \(a named pipe\), 'socket' \(a socket\)"
        ):
            signed.verify(model)
        signed.verify(model, ignore_unsigned_files=True)
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")
    with pytest.raises(it.IntegrityError, match=r"changed: 'config\.json' \(a named pipe\)$"):
        signed.verify(model, ignore_unsigned_files=True)


@pytest.mark.parametrize("path", ["pipe", "/dev/null", "/dev/zero", "folder"])
def test_signatures_and_keys_are_regular_files(model, signed, tmp_path, path):
    signed.sign(model)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    strange = tmp_path / path
    with pytest.raises(oms.SignatureFormatError, match="not a regular file"):
        oms.verify(model, strange, public_key=signed.keys[1])
    with pytest.raises(ValueError, match="not a regular file"):
        oms.verify(model, signed.signature, public_key=strange)
    with pytest.raises(ValueError, match="not a regular file"):
        oms.sign(model, signed.signature, private_key=strange)
    with (
        pytest.raises(ValueError, match=r"neither a file nor a folder")
        if path != "folder"
        else (pytest.raises(ValueError, match="nothing to sign"))
    ):
        signed.sign(strange)


def test_keys_have_a_size_limit(model, signed, tmp_path):
    signed.sign(model)
    large = tmp_path / "large"
    os.truncate(os.open(large, os.O_CREAT | os.O_WRONLY), 1 << 40)
    with pytest.raises(ValueError, match="a key has at most"):
        oms.verify(model, signed.signature, public_key=large)
    with pytest.raises(ValueError, match="a key has at most"):
        oms.sign(model, signed.signature, private_key=large)
    with pytest.raises(oms.SignatureFormatError, match="a signature has at most"):
        oms.verify(model, large, public_key=signed.keys[1])


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="not applicable: there is no /proc")
def test_a_file_that_claims_to_be_empty_is_not_read_without_end():
    assert os.stat("/proc/self/status").st_size == 0
    with pytest.raises(ValueError, match="at most 10"):
        regular_files.read_regular("/proc/self/status", 10, "x")


def test_a_file_that_has_nothing_to_read_yet_is_not_empty(tmp_path, monkeypatch):
    """Such as /proc/kmsg, which counts as a regular file."""
    path = tmp_path / "file"
    path.touch()

    def open_one_that_waits(descriptor, mode):
        file = os.fdopen(descriptor, mode)
        file.read = lambda size: None
        return file

    monkeypatch.setattr(regular_files, "open", open_one_that_waits, raising=False)
    with pytest.raises(BlockingIOError, match=re.escape(str(path))):
        regular_files.read_regular(path, 10, "x")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="not applicable: there is no /proc")
@METHODS
def test_a_file_with_more_bytes_than_its_size(signed, form):
    with pytest.raises(it.IntegrityError, match="more bytes than the 0 of its size"):
        signed.sign(Path("/proc/self/status"), **form)


# Between listing and reading


@METHODS
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()), "changed|cut"),
        (lambda path: path.unlink(), "removed|changed"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "named pipe|removed|changed"),
        (
            lambda path: (path.rename(path.parent / "x"), path.symlink_to("x")),
            "symbolic link|removed|changed",
        ),
        (lambda path: os.truncate(path, 3), "changed|cut"),
    ],
    ids=["written", "removed", "pipe", "link", "cut"],
)
@pytest.mark.parametrize("when", ["listed", "hashed"])
def test_a_model_that_changes_while_it_is_read(model, signed, form, change, message, when, monkeypatch):
    signed.sign(model, **form)
    measured, digest = model_tree.read_tree, oms.HashingConfig._digest
    path, lock, done = model / "config.json", threading.Lock(), []

    def once() -> None:
        with lock:
            if not done:
                done.append(change(path))

    def listing(*arguments, **options):
        tree = measured(*arguments, **options)
        if when == "listed":
            once()
        return tree

    def hashing(self, file, part, progress):
        value = digest(self, file, part, progress)
        if when == "hashed" and file.path == str(path):
            once()
        return value

    monkeypatch.setattr(oms, "read_tree", listing)
    monkeypatch.setattr(oms.HashingConfig, "_digest", hashing)
    with pytest.raises(it.IntegrityError, match=message):
        signed.verify(model)
    assert done


def test_a_file_added_while_the_model_is_read(model, signed, monkeypatch):
    digest = oms.HashingConfig._digest

    def hashing(self, file, part, progress):
        (model / "late").write_bytes(b"x")
        return digest(self, file, part, progress)

    monkeypatch.setattr(oms.HashingConfig, "_digest", hashing)
    with pytest.raises(it.IntegrityError, match="changed while the model was being read: 'late'"):
        signed.sign(model)
    assert not signed.signature.exists()


def test_a_bit_set_back_in_time_is_noticed(model, signed, monkeypatch):
    signed.sign(model)
    path, digest = model / "weights.bin", oms.HashingConfig._digest

    def hashing(self, file, part, progress):
        value = digest(self, file, part, progress)
        if file.path == str(path):
            times = path.stat()
            data = bytearray(path.read_bytes())
            data[0] ^= 1
            path.write_bytes(data)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        return value

    monkeypatch.setattr(oms.HashingConfig, "_digest", hashing)
    with pytest.raises(it.IntegrityError, match=r"changed while the model was being read: 'weights\.bin'"):
        signed.verify(model)


def test_a_tick_of_the_clock_is_waited_for(model, signed, monkeypatch):
    changed, slept = max(path.stat().st_ctime for path in model.rglob("*")), []
    monkeypatch.setattr(regular_files.time, "time", lambda: changed + (0.02 if len(slept) == 2 else 0.004))
    monkeypatch.setattr(regular_files.time, "sleep", slept.append)
    signed.sign(model)
    assert slept == [pytest.approx(0.006, abs=0.001)] * 2


# Names


@METHODS
def test_strange_names(model, signed, form):
    names = ["new\nline", " ", "-rf", "back\\slash", "colon:1:2", "ünï", "A", "a", "%2e%2e", "x" * 255]
    if form:
        names.remove("colon:1:2")
    for name in names:
        (model / name).write_bytes(name.encode())
    signed.sign(model, **form)
    signed.verify(model)
    signed.verify(model, ignore_unsigned_files=True)
    listed = [resource["name"] for resource in signed.statement["predicate"]["resources"]]
    assert listed == sorted(listed)  # as text, section 5.2.1
    (model / "new\nline").write_bytes(b"changed")
    with pytest.raises(it.IntegrityError, match=r"changed: 'new\\nline'$"):
        signed.verify(model)


def test_names_that_are_not_utf8(model, signed):
    signed.sign(model)
    (model / os.fsdecode(b"bad\xff")).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"'bad\\udcff' is not UTF-8"):
        signed.sign(model)
    with pytest.raises(it.IntegrityError, match=r"not signed: 'bad\\udcff'$"):
        signed.verify(model)
    with pytest.raises(ValueError, match="not UTF-8"):
        signed.sign(model, ignore_paths=[os.fsdecode(b"bad\xff")])


def test_a_deep_tree(tmp_path, signed):
    folder = tmp_path / "deep"
    inner = folder.joinpath(*["d" * 10] * 200)
    inner.mkdir(parents=True)
    (inner / "weights.bin").write_bytes(b"x")
    signed.sign(folder)
    signed.verify(folder, ignore_unsigned_files=True)
    (inner / "y").write_bytes(b"y")
    with pytest.raises(it.IntegrityError, match="not signed"):
        signed.verify(folder)


@pytest.mark.parametrize("pattern", ["*.log", "logs?", "[abc]"])
def test_ignored_paths_are_no_patterns(model, signed, pattern):
    with pytest.raises(ValueError, match="has a wildcard"):
        signed.sign(model, ignore_paths=[pattern])


def test_ignored_paths_in_any_spelling(model, signed):
    signed.sign(model, ignore_paths=["2_Dense/", "./config.json"])
    assert set(signed.statement["predicate"]["serialization"]["ignore_paths"]) >= {"2_Dense", "config.json"}
    (model / "2_Dense" / "more").write_bytes(b"x")
    (model / "config.json").write_bytes(b"x")
    signed.verify(model)
    (model / "2_Dense2").mkdir()
    (model / "2_Dense2" / "x").write_bytes(b"x")
    with pytest.raises(it.IntegrityError, match="not signed: '2_Dense2/x'"):
        signed.verify(model)


def test_a_signature_without_ignored_paths_implies_gits(model, signed):
    signed.sign(model)
    statement = signed.statement
    del statement["predicate"]["serialization"]["ignore_paths"]
    parsed = oms_bundle.parse_statement(json.dumps(statement).encode())
    assert parsed.ignore_paths == oms_bundle.GIT_PATHS
    # Paths that are recorded are added to git's, and do not take their place.
    statement["predicate"]["serialization"]["ignore_paths"] = ["logs", ".github"]
    parsed = oms_bundle.parse_statement(json.dumps(statement).encode())
    assert parsed.ignore_paths == ("logs", ".github", ".git", ".gitattributes", ".gitignore")
    del statement["predicate"]["serialization"]["ignore_paths"]
    statement["predicate"]["resources"][0]["name"] = ".gitattributes"
    parsed = oms_bundle.parse_statement(json.dumps(statement).encode())
    assert ".gitattributes" not in parsed.ignore_paths


@METHODS
def test_a_single_file_under_either_name(model, signed, form):
    file = model / "weights.bin"
    signed.sign(file, **form, for_stock=True)
    signed.verify(file)
    signed.stock_verify(file)
    config = oms.HashingConfig(**form)
    signed.stock_sign(file, config)
    signed.verify(file)
    (name,) = {
        oms_bundle.file_of(config._method, r["name"]) for r in signed.statement["predicate"]["resources"]
    }
    assert name == "."
    copied = model.parent / "one"
    copied.mkdir()
    shutil.copy(file, copied)
    signed.sign(
        copied, **form
    )  # lists the file under its own name, as the specification does for single files
    signed.verify(file)
    flipped = bytearray(file.read_bytes())
    flipped[0] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(it.IntegrityError, match=r"changed: 'weights\.bin'"):
        signed.verify(file)


# Keys and signatures of other kinds


def pem(key: object, private: bool) -> bytes:
    if private:
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.fixture(scope="module")
def foreign() -> dict[str, object]:
    return {
        "an RSA key": rsa.generate_private_key(65537, 1024),
        "an Ed25519 key": ed25519.Ed25519PrivateKey.generate(),
        "a key on the curve secp256k1": ec.generate_private_key(ec.SECP256K1()),
        "a key on the curve secp224r1": ec.generate_private_key(ec.SECP224R1()),
    }


def test_keys_of_other_algorithms_are_named(foreign, tmp_path):
    path = tmp_path / "key"
    for kind, key in foreign.items():
        path.write_bytes(pem(key, False))
        with pytest.raises(ValueError, match=rf"{kind}; the key must be .* P-256, P-384 or P-521"):
            signing_keys.load_public_key(path)
        path.write_bytes(pem(key, True))
        with pytest.raises(ValueError, match=rf"{kind}; the key must be .* P-256, P-384 or P-521"):
            signing_keys.load_private_key(path, None)


def openssh(key: object) -> tuple[bytes, bytes]:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public


def test_files_in_place_of_keys_are_named(foreign, keys, tmp_path):
    path = tmp_path / "key"
    key = serialization.load_pem_private_key(keys[0].read_bytes(), None)
    ssh_private, ssh_public = openssh(key)
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    public = {
        "a private key; a signature is verified with the public key": keys[0].read_bytes(),
        "a certificate; extract its key": b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
        "an OpenSSH public key; convert it": ssh_public,
        "a Git LFS pointer: run git lfs pull": b"version https://git-lfs.github.com/spec/v1\n",
        "an HTML page": b"<html><body>Sign in</body></html>",
        "a key or certificate in DER": der,
        "an empty file": b"",
        "an OpenPGP key": b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
    }
    private = {
        "a public key; a signature is made with the private key": keys[1].read_bytes(),
        "an OpenSSH private key; convert a copy": ssh_private,
        "a key of cosign": b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAA==\n",
        "a Git LFS pointer: run git lfs pull": b"version https://git-lfs.github.com/spec/v1\n",
    }
    for message, data in public.items():
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"key: not a PEM public key but {message}"):
            signing_keys.load_public_key(path)
    for message, data in private.items():
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"key: not a usable elliptic-curve private key but {message}"):
            signing_keys.load_private_key(path, None)


def test_keys_with_and_without_passwords(keys, tmp_path):
    path = tmp_path / "key"
    key = serialization.load_pem_private_key(keys[0].read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"word")
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    with pytest.raises(ValueError, match="it is encrypted; give its password"):
        signing_keys.load_private_key(path, None)
    with pytest.raises(ValueError, match="it has no password"):
        signing_keys.load_private_key(keys[0], "word")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "not a signature but a Git LFS pointer: run git lfs pull",
        ),
        (b"<!doctype html><html>", "not a signature but an HTML page"),
        (b"GGUF\x03\0\0\0", "not a signature but a GGUF model"),
        (b"", "not a signature but an empty file"),
        (b"-----BEGIN PGP SIGNATURE-----\n", "not a signature but an OpenPGP key or signature"),
        (b'{"mediaType": "text/plain"}', "mediaType is 'text/plain'"),
        (b"{}", "'mediaType' is missing"),
    ],
)
def test_files_in_place_of_signatures_are_named(model, signed, data, message):
    signed.signature.write_bytes(data)
    with pytest.raises(oms.SignatureFormatError, match=rf"model\.sig: .*{message}"):
        signed.verify(model)


def test_pointers_in_place_of_weights(model, signed):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    signed.sign(model)
    (model / "weights.bin").write_bytes(pointer)
    with pytest.raises(
        it.IntegrityError, match=r"changed: 'weights\.bin' \(a Git LFS pointer: run git lfs pull\)$"
    ):
        signed.verify(model)
    with pytest.raises(
        ValueError, match=r"'weights\.bin' is a Git LFS pointer: run git lfs pull; what it stands for"
    ):
        signed.sign(model)
    signed.sign(model, ignore_paths=["weights.bin"])
    (model / "weights.bin").rename(model / "notes.txt")  # what is no weights may be anything
    signed.sign(model)
    signed.verify(model)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_every_curve_of_oms_both_ways(model, tmp_path, curve):
    key = ec.generate_private_key(curve)
    keys = tmp_path / "key.pem", tmp_path / "key.pub"
    for path, private in zip(keys, (True, False), strict=True):
        path.write_bytes(pem(key, private))
    signed = Signed(keys, tmp_path / "model.sig")
    signed.sign(model)
    signed.verify(model)
    signed.stock_verify(model)
    signed.stock_sign(model, model_signing.hashing.Config())
    signed.verify(model)


def test_ignored_paths_of_a_configuration(model, tmp_path):
    for paths in ([model / "2_Dense", tmp_path / "elsewhere"], ["2_Dense/"]):
        found = oms.HashingConfig().set_ignored_paths(paths=paths).hash(model)
        stock = model_signing.hashing.Config().use_file_serialization(hashing_algorithm="blake3")
        expected = stock.set_ignored_paths(paths=paths).hash(model)
        assert found == expected
        assert sorted(found.serialization_type["ignore_paths"]) == sorted(
            path for path in expected.serialization_type["ignore_paths"] if not path.startswith("..")
        )
    for path in ("", model, "2_Dense/../config.json"):
        with pytest.raises(ValueError, match=r"the whole folder|inside the folder"):
            oms.HashingConfig().set_ignored_paths(paths=[path]).hash(model)


def test_a_configuration_keeps_its_method():
    config = oms.HashingConfig()
    for change in (config.use_file_serialization, config.use_shard_serialization):
        with pytest.raises(TypeError, match="chosen when it is made"):
            change()
