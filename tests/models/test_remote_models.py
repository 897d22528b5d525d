"""Models at URLs: the same manifests, checks and loads as of the same files on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("model_signing", reason="absent: model_signing")

import integrity_triton as it
from integrity_triton import remote_files
from integrity_triton.cli import main
from integrity_triton.models import (
    FileDigests,
    LoadError,
    Manifest,
    ManifestError,
    load_file,
    load_verified,
    oms,
    safe_open,
)
from integrity_triton.models.loading import load

fsspec = pytest.importorskip("fsspec", reason="absent: fsspec")
save_file = pytest.importorskip("safetensors.torch", reason="absent: safetensors").save_file

MODEL = "memory://bucket/model"


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture
def folder(tmp_path: Path, memory: Any) -> Path:
    """A model of two shards with an index and a subfolder, on disk and at MODEL."""
    folder = tmp_path / "model"
    (folder / "adapter").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    shards = {
        "model-00001-of-00002.safetensors": {"a": tensor(300, 1000), "b": tensor(7).to(torch.bfloat16)},
        "model-00002-of-00002.safetensors": {"c": tensor(0, 3), "d": tensor(1_100_000)},
    }
    for name, state in shards.items():
        save_file(state, folder / name)
    index = {"metadata": {}, "weight_map": {k: name for name, state in shards.items() for k in state}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"x": tensor(5)}, folder / "adapter" / "adapter.safetensors")
    (folder / "config.json").write_text("{}")
    upload(memory, folder)
    return folder


def upload(memory: Any, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe(f"/bucket/model/{path.relative_to(folder).as_posix()}", path.read_bytes())


def flip(memory: Any, name: str, at: int = -1) -> None:
    data = bytearray(memory.cat_file(f"/bucket/model/{name}"))
    data[at] ^= 1
    time.sleep(0.001)
    memory.pipe(f"/bucket/model/{name}", bytes(data))


SHARD = "model-00002-of-00002.safetensors"


@pytest.mark.parametrize("name", ["blake3", "sha256"])
def test_the_manifest_is_that_of_the_files(folder: Path, name: str) -> None:
    expected = Manifest.build(folder, name)
    assert Manifest.build(MODEL, name) == expected == Manifest.build(folder.as_uri(), name)
    assert Manifest.from_folder(MODEL, name) == expected
    one = Manifest.build(folder / SHARD, name)
    assert Manifest.build(f"{MODEL}/{SHARD}", name) == one == Manifest.from_file(f"{MODEL}/{SHARD}", name)
    assert expected.verify(MODEL).ok and Manifest.build(MODEL, name).verify(folder).ok
    digests = it.models.distributed.root_of_files
    assert digests(MODEL, algorithm=name) == digests(folder, algorithm=name)


def test_a_flipped_bit_is_named(folder: Path, memory: Any) -> None:
    manifest = Manifest.build(folder)
    flip(memory, SHARD)
    report = manifest.verify(MODEL)
    assert [change.name for change in report.changed] == ["d"] and not report.missing
    with pytest.raises(LoadError, match=rf"{MODEL}/{SHARD}: tensor 'd'") as caught:
        load_verified(MODEL, against=manifest)
    assert caught.value.file == f"{MODEL}/{SHARD}" and caught.value.tensor == "d"


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("piece", [1 << 12, 4 << 20])
def test_verified_loading(folder: Path, monkeypatch: pytest.MonkeyPatch, piece: int, on_host: bool) -> None:
    monkeypatch.setattr(remote_files, "PIECE_SIZE", piece)
    if not on_host:
        monkeypatch.setattr(load, "_on_host", lambda *_: False)
    manifest = Manifest.build(folder)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")]
    files = FileDigests.of({name: it.hash_file(folder / name, "sha256") for name in names})
    expected = load_verified(folder, against=manifest)
    for against in (manifest, files, [manifest, files]):
        found = load_verified(MODEL, against=against)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    with safe_open(f"{MODEL}/{SHARD}", against=manifest, partial=True) as file:
        assert torch.equal(file.get_tensor("d"), expected["d"])
    assert load_file(f"{MODEL}/{SHARD}", against=manifest, partial=True).keys() == {"c", "d"}
    for function in (load_file, safe_open):
        with pytest.raises(ManifestError, match="a folder, not a file"):
            function(MODEL, against=manifest)


def test_what_is_checked_against_may_be_at_a_url(folder: Path, memory: Any) -> None:
    memory.pipe("/bucket/m.json", Manifest.build(folder).to_json().encode())
    lines = [
        f"{it.hash_file(path, 'sha256').hex()}  {path.relative_to(folder).as_posix()}"
        for path in folder.rglob("*.safetensors")
    ]
    memory.pipe("/bucket/SHA256SUMS", "\n".join(lines).encode() + b"\n")
    assert Manifest.load("memory://bucket/m.json") == Manifest.build(folder)
    assert load_verified(MODEL, against=["memory://bucket/m.json", "memory://bucket/SHA256SUMS"])
    assert len(FileDigests.load_list("memory://bucket/SHA256SUMS")) == 3
    memory.pipe("/bucket/m.json", b"{}")
    with pytest.raises(ManifestError, match=r"memory://bucket/m.json: not a valid manifest"):
        Manifest.load("memory://bucket/m.json")


def test_a_model_that_changes_meanwhile(folder: Path, memory: Any) -> None:
    manifest = Manifest.build(folder)

    def rewrite(_: int) -> None:
        time.sleep(0.001)
        memory.pipe(f"/bucket/model/{SHARD}", (folder / SHARD).read_bytes())

    with pytest.raises(ManifestError, match=rf"{MODEL}/{SHARD}: the file changed while it was being read"):
        Manifest.build(MODEL, progress=rewrite)
    with pytest.raises(LoadError, match=rf"{MODEL}/{SHARD}: the file changed while it was being read"):
        load_verified(MODEL, against=manifest, progress=rewrite)


def test_what_a_folder_lacks(folder: Path, memory: Any) -> None:
    manifest = Manifest.build(folder)
    memory.rm(f"/bucket/model/{SHARD}")
    with pytest.raises(ManifestError, match=rf"{MODEL}: '{SHARD}' is missing"):
        manifest.verify(MODEL)
    memory.rm("/bucket/model/model.safetensors.index.json")
    with pytest.raises(ManifestError, match=rf"{MODEL}: .* is one of 2 files, and number 2 is missing"):
        manifest.verify(MODEL)
    memory.pipe("/bucket/other/model.bin", b"GGUF")
    with pytest.raises(ManifestError, match=r"no \.safetensors file; 'model\.bin' is a GGUF model"):
        Manifest.build("memory://bucket/other")
    with pytest.raises(FileNotFoundError, match="memory://bucket/nothing"):
        Manifest.build("memory://bucket/nothing")


def test_odd_names_and_malformed_files(folder: Path, memory: Any) -> None:
    memory.pipe("/bucket/bad/x.safetensors", b"<html>")
    with pytest.raises(ManifestError, match=r"bucket/bad/x\.safetensors: not a safetensors file but an HTML"):
        Manifest.build("memory://bucket/bad")
    memory.store["/bucket/model/../x.safetensors"] = memory.store["/bucket/bad/x.safetensors"]
    with pytest.raises(ManifestError, match="is not the path of a file in this folder"):
        Manifest.build(MODEL)


def test_copies_in_several_files(folder: Path, memory: Any) -> None:
    state = {"a": torch.zeros(300, 1000)}
    save_file(state, folder / SHARD)
    first = "model-00001-of-00002.safetensors"
    index: dict[str, dict[str, str]] = {"metadata": {}, "weight_map": {"a": first, "b": first}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    upload(memory, folder)
    for model in (folder, MODEL):
        with pytest.raises(ManifestError, match=f"^{model}: tensor 'a' is in both"):
            Manifest.build(model)
    index["weight_map"]["z"] = SHARD
    save_file({**state, "z": torch.ones(3)}, folder / SHARD)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    upload(memory, folder)
    for model in (folder, MODEL):
        with pytest.raises(ManifestError, match=f"^{model}: the index assigns tensor 'a'"):
            Manifest.build(model)
    assert Manifest.build(MODEL, overlays=True) == Manifest.build(folder, overlays=True)


def test_what_takes_no_url(folder: Path) -> None:
    with pytest.raises(ValueError, match=f"^{MODEL}: a URL is not taken here"):
        oms.verify(MODEL, "model.sig", public_key="key.pub")


def test_commands(folder: Path, memory: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "m.json")
    assert main(["manifest", "create", MODEL, "-o", path]) == 0
    assert Manifest.load(path) == Manifest.build(folder)
    assert main(["manifest", "verify", path, MODEL]) == 0
    assert main(["load-check", MODEL, "--against", path]) == 0
    capsys.readouterr()
    assert main(["hash", "sha256", f"{MODEL}/{SHARD}"]) == 0
    line = capsys.readouterr().out
    assert line == f"{it.hash_file(folder / SHARD, 'sha256').hex()}  {MODEL}/{SHARD}\n"
    assert main(["tensors", MODEL]) == 0
    listed = capsys.readouterr().out
    assert main(["tensors", str(folder)]) == 0
    assert capsys.readouterr().out == listed

    memory.pipe("/bucket/SHA256SUMS", line.encode())
    (tmp_path / "SHA256SUMS").write_text(line)
    for checked in ("memory://bucket/SHA256SUMS", str(tmp_path / "SHA256SUMS")):
        assert main(["hash", "sha256", "--check", checked]) == 2
        assert "a URL is read only with --remote" in capsys.readouterr().err
        assert main(["hash", "sha256", "--check", "--remote", checked]) == 0
        assert capsys.readouterr().out == f"{MODEL}/{SHARD}: OK\n"
    flip(memory, SHARD)
    assert main(["manifest", "verify", path, MODEL]) == 1
    assert "d" in capsys.readouterr().out
    assert main(["load-check", MODEL, "--against", path]) == 1
    assert main(["manifest", "verify", path, "s3x://nothing"]) == 2
    assert "s3x://nothing: fsspec does not take the scheme" in capsys.readouterr().err
