"""The verifying reader of ``torch.distributed.checkpoint``, with torch's own writer and loader."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from integrity_triton.models import FileDigests, LoadError, ManifestError
from integrity_triton.models.loading.checkpoint import VerifiedFileSystemReader

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def state() -> dict[str, object]:
    return {"weight": torch.arange(5000.0), "bias": torch.ones(7).bfloat16(), "step": 12}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    dcp.save(state(), checkpoint_id=folder, no_dist=True)
    return folder


def digests(folder: Path) -> FileDigests:
    return FileDigests.of({f.name: hashlib.sha256(f.read_bytes()).digest() for f in folder.iterdir()})


def load(folder: Path, against: FileDigests | Path) -> dict[str, object]:
    found = {"weight": torch.zeros(5000), "bias": torch.zeros(7).bfloat16(), "step": 0}
    dcp.load(found, storage_reader=VerifiedFileSystemReader(folder, against=against), no_dist=True)
    return found


def test_what_is_loaded(folder: Path, tmp_path: Path) -> None:
    lines = (f"{d.digest.hex()}  {name}\n" for name, d in digests(folder).files.items())
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    for against in (digests(folder), tmp_path / "SHA256SUMS"):
        found = load(folder, against)
        assert torch.equal(found["weight"], state()["weight"]) and found["step"] == 12
        assert torch.equal(found["bias"], state()["bias"])


def test_a_changed_file_fills_nothing(folder: Path) -> None:
    against = digests(folder)
    path = next(folder.glob("*.distcp"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = {"weight": torch.zeros(5000)}
    reader = VerifiedFileSystemReader(folder, against=against)
    with pytest.raises((LoadError, dcp.api.CheckpointException), match="nothing of it was loaded") as caught:
        dcp.load(found, storage_reader=reader, no_dist=True)
    assert str(path) in str(caught.value)
    assert not found["weight"].any()


def test_the_metadata_is_not_unpickled_before_it_was_verified(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    against = digests(folder)
    (folder / ".metadata").write_bytes(pickle.dumps(Trap()))
    with pytest.raises((LoadError, dcp.api.CheckpointException), match=r"\.metadata"):
        load(folder, against)
    assert not (tmp_path / "sprung").exists()


def test_the_file_is_not_opened_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the check and the use of a file, another one takes its place."""
    from integrity_triton.models.loading import checkpoint

    against, original = digests(folder), checkpoint._read

    def read_and_replace(path: Path) -> bytes:
        data = original(path)
        path.write_bytes(b"something else")
        return data

    monkeypatch.setattr(checkpoint, "_read", read_and_replace)
    assert torch.equal(load(folder, against)["weight"], state()["weight"])


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    files = dict(digests(folder).files)
    del files[".metadata"]
    with pytest.raises((LoadError, dcp.api.CheckpointException), match=r"has no digest of '\.metadata'"):
        load(folder, FileDigests(files))
    with pytest.raises(TypeError, match="not dict"):
        VerifiedFileSystemReader(folder, against={})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the digests of the checkpoint"):
        VerifiedFileSystemReader(folder, against=digests(folder)).reset(tmp_path / "other")
    against = digests(folder)
    (folder / ".metadata").unlink()
    os.mkfifo(folder / ".metadata")
    with pytest.raises((ManifestError, dcp.api.CheckpointException), match="a named pipe"):
        load(folder, against)
