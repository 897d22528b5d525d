"""``safe_open``: each tensor is verified before it is returned, and what nothing covers is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import integrity_triton as it
from integrity_triton.models import FileDigests, LoadError, Manifest, ManifestError, safe_open

safetensors = pytest.importorskip("safetensors", reason="absent: safetensors")
pytest.importorskip("safetensors.torch")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    tensors = {
        "b": torch.arange(12.0).reshape(3, 4),
        "a": torch.ones(5, dtype=torch.uint8),
        "e": torch.zeros(0),
    }
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    return path


def covering(path: Path, what: str) -> Manifest | FileDigests:
    if what == "tensors":
        return Manifest.build(path)
    return FileDigests.of({path.name: it.hash_file(path, "sha256")})


def flip_last(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("covered", ["tensors", "file"])
def test_as_safetensors(path: Path, covered: str) -> None:
    with (
        safe_open(path, "pt", "cpu", against=covering(path, covered)) as ours,
        safetensors.safe_open(path, "pt") as theirs,
    ):
        assert sorted(ours.keys()) == sorted(theirs.keys())
        assert ours.offset_keys() == theirs.offset_keys()
        for name in theirs.keys():  # noqa: SIM118
            assert torch.equal(ours.get_tensor(name), theirs.get_tensor(name))
            assert ours.get_slice(name).get_shape() == theirs.get_slice(name).get_shape()
            assert ours.get_slice(name).get_dtype() == theirs.get_slice(name).get_dtype()
        part = ours.get_slice("b")[1:, 2]
        assert torch.equal(part, theirs.get_slice("b")[1:, 2])
        assert part.untyped_storage().nbytes() == 8
        assert ours.get_tensors().keys() == set(theirs.keys())
        with pytest.raises(KeyError, match="has no tensor 'c'"):
            ours.get_tensor("c")
        if covered == "file":
            assert ours.metadata() == theirs.metadata() == {"format": "pt"}
        else:
            with pytest.raises(ManifestError, match="does not cover the metadata"):
                ours.metadata()
    with pytest.raises(ValueError, match="the file is closed"):
        ours.get_tensor("b")


def test_a_changed_tensor_alone_is_refused(path: Path) -> None:
    manifest = Manifest.build(path)
    flip_last(path)
    with safe_open(path, against=manifest) as opened:
        last = opened.offset_keys()[-1]
        assert last == "a"
        assert opened.get_tensor("b").shape == (3, 4)
        for take in (opened.get_tensor, lambda name: opened.get_slice(name)[0]):
            with pytest.raises(LoadError) as caught:
                take(last)
            assert caught.value.tensor == last
        opened.get_tensor("b")


def test_a_file_that_changes_after_it_was_opened(path: Path) -> None:
    with safe_open(path, against=Manifest.build(path)) as opened:
        flip_last(path)
        with pytest.raises(LoadError, match="changed while it was being read"):
            opened.get_tensor("b")
    against = covering(path, "file")
    with safe_open(path, against=against) as opened:
        kept = opened.get_tensor("a").clone()
        flip_last(path)
        assert torch.equal(opened.get_tensor("a"), kept)  # the memory that was verified
        part = opened.get_slice("a")[:]
        part.zero_()
        assert torch.equal(opened.get_tensor("a"), kept)


def test_what_is_refused(path: Path, tmp_path: Path) -> None:
    manifest = Manifest.build(path)
    with pytest.raises(ValueError, match="framework must be 'pt'"):
        safe_open(path, "np", against=manifest)
    with pytest.raises(ManifestError, match="a folder, not a file"):
        safe_open(tmp_path, against=manifest)
    against = covering(path, "file")
    flip_last(path)
    with pytest.raises(LoadError):
        safe_open(path, against=against)
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"b": torch.zeros(3, 4)}, other)
    with pytest.raises(LoadError, match="missing"):
        safe_open(other, against=manifest)
    with safe_open(other, against=manifest, partial=True) as opened, pytest.raises(LoadError):
        opened.get_tensor("b")
