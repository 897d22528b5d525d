"""A file given in place of a model, manifest or index is named for what it is."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from integrity_triton.models import Manifest, ManifestError
from integrity_triton.models.file_kinds import HEAD_SIZE, recognise
from integrity_triton.models.folder import read_folder

safetensors = pytest.importorskip("safetensors.torch")


def saved(write, *arguments, **options) -> bytes:
    stream = io.BytesIO()
    write(*arguments, stream, **options)
    return stream.getvalue()


def archive(member: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr(member, b"x" * 50)
    return stream.getvalue()


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        made.addfile(tarfile.TarInfo("x"))
    return stream.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 90868376\n"
WEIGHTS = {"a": torch.arange(3.0)}
FILES = {
    "a Git LFS pointer: run git lfs pull": POINTER,
    "an HTML page, such as a server's error or login page: download the file itself": (
        b"\n<!DOCTYPE html>\n<html><title>404</title></html>"
    ),
    "an XML document, such as a server's error message: download the file itself": (
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'
    ),
    "text that begins with 'Entry not found'": b"Entry not found",
    "a GGUF model": b"GGUF" + struct.pack("<IQQ", 3, 291, 24),
    "an ONNX model": b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:\xd1\x06\n",
    "a pickle: it can run code when it is loaded, so convert it to safetensors": pickle.dumps([1.0] * 20),
    "a PyTorch checkpoint, that is, a ZIP archive with a pickle: "
    "it can run code when it is loaded, so convert it to safetensors": saved(torch.save, WEIGHTS),
    "a NumPy array": saved(lambda array, stream: np.save(stream, array), np.arange(3)),
    "a NumPy archive (.npz)": saved(lambda array, stream: np.savez(stream, array), np.arange(3)),
    "an HDF5 file, as Keras writes it": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "a TensorFlow Lite model": b"\x1c\0\0\0TFL3" + bytes(40),
    "a ZIP archive: unpack it": archive("model.safetensors"),
    "a gzip archive: unpack it": gzip.compress(bytes(100)),
    "a tar archive: unpack it": tar(),
}
OLD_PYTORCH = saved(torch.save, WEIGHTS, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("kind", FILES)
def test_what_stands_in_for_a_model_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(FILES[kind])
    with pytest.raises(ManifestError) as caught:
        Manifest.build(path)
    assert str(caught.value) == f"{path}: not a safetensors file but {kind}"
    with pytest.raises(ManifestError) as caught:
        Manifest.build(tmp_path)
    assert str(caught.value) == f"{path}: not a safetensors file but {kind}"


def test_a_folder_with_weights_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.bin").mkdir()
    for name, kind in (
        ("pytorch_model.bin", "a PyTorch checkpoint, that is, a ZIP archive with a pickle"),
        ("model.gguf", "a GGUF model"),
        ("model.Q4.ONNX", "a Git LFS pointer"),
    ):
        (tmp_path / name).write_bytes(next(FILES[text] for text in FILES if text.startswith(kind)))
        with pytest.raises(ManifestError, match=rf"no \.safetensors file; '{name}' is {kind}"):
            Manifest.build(tmp_path)
        (tmp_path / name).unlink()


def test_checkpoints_of_old_pytorch_are_pickles() -> None:
    assert str(recognise(OLD_PYTORCH)).startswith("a pickle: ")


def test_what_stands_in_for_a_manifest_or_an_index_is_named(tmp_path: Path) -> None:
    index = "model.safetensors.index.json"
    for name, load in (("m.json", Manifest.load), (index, lambda path: read_folder(path.parent))):
        path = tmp_path / name
        path.write_bytes(POINTER)
        with pytest.raises(
            ManifestError, match=r"json: not an? \w+ but a Git LFS pointer: run git lfs pull$"
        ):
            load(path)
        path.write_bytes(b"")
        with pytest.raises(ManifestError, match=r"json: not an? \w+ but an empty file"):
            load(path)
        path.write_bytes(b"{")  # JSON, though cut: the parser knows better what is wrong
        with pytest.raises(ManifestError, match="not JSON"):
            load(path)


def test_a_safetensors_file_given_as_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.save_file(WEIGHTS, path)
    with pytest.raises(ManifestError, match="not a manifest but a safetensors file"):
        Manifest.load(path)


@pytest.mark.parametrize(
    "head", [bytes(7), bytes(64), b"\xff" * 16, b"\x7fELF", b"ab\0c", "ü".encode("latin1")]
)
def test_the_unknown_is_not_guessed(head: bytes) -> None:
    assert recognise(head) is None


def test_every_cut_and_byte_is_taken() -> None:
    for content in [*FILES.values(), OLD_PYTORCH, "ü☃".encode() * HEAD_SIZE]:
        for size in [*range(40), 100, 300, HEAD_SIZE]:
            recognise(content[:size])
    for first in range(256):
        for second in range(256):
            recognise(bytes([first, second]))
