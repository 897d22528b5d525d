"""Checkpoints of torch.distributed.checkpoint with digests in their metadata."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import integrity_triton as it
from integrity_triton.models import LoadError, ManifestError

dcp = pytest.importorskip("torch.distributed.checkpoint", reason="absent: torch.distributed.checkpoint")

from integrity_triton.models.distributed import checkpoint  # noqa: E402
from integrity_triton.models.distributed.checkpoint import CheckpointReader, CheckpointWriter  # noqa: E402

HERE = Path(__file__).resolve().parent


def state(fill: bool = True) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "a": torch.randn(300, 70, generator=generator),
        "b": torch.randn(7, generator=generator).to(torch.bfloat16),
        "big": torch.randn(1_500_000, generator=generator),
        "none": torch.zeros(0, 3),
    }
    if not fill:
        tensors = {name: torch.zeros_like(x) for name, x in tensors.items()}
    return {**tensors, "step": 12 if fill else 0, "options": {"lr": 0.5 if fill else 0.0}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    dcp.save(state(), storage_writer=CheckpointWriter(folder), no_dist=True)
    return folder


def load(folder: Path, **options: Any) -> dict[str, Any]:
    loaded = state(fill=False)
    dcp.load(loaded, storage_reader=CheckpointReader(folder, **options), no_dist=True)
    return loaded


def refused(folder: Path, **options: Any) -> BaseException:
    """The error of a load, taken out of torch's."""
    with pytest.raises((dcp.CheckpointException, LoadError, ManifestError)) as caught:
        load(folder, **options)
    error = caught.value
    return next(iter(error.failures.values()))[0] if isinstance(error, dcp.CheckpointException) else error


def same(found: dict[str, Any]) -> bool:
    expected = state()
    return all(torch.equal(found[k], v) if torch.is_tensor(v) else found[k] == v for k, v in expected.items())


def test_what_was_saved_is_loaded(folder: Path, tmp_path: Path) -> None:
    assert same(load(folder))
    digest = it.hash_file(folder / ".metadata", "blake3")
    assert (folder / ".metadata.blake3").read_text() == f"{digest.hex()}  .metadata\n"
    assert same(load(folder, expected=digest)) and same(load(folder, expected=digest.hex()))
    loaded = state(fill=False)
    dcp.load(loaded, storage_reader=dcp.FileSystemReader(folder), no_dist=True)  # torch's own reader
    assert same(loaded)


@pytest.mark.parametrize(
    "options", [{"thread_count": 3}, {"single_file_per_rank": False}, {"sync_files": False}]
)
def test_options_of_torch(tmp_path: Path, options: dict[str, Any]) -> None:
    writer = CheckpointWriter(tmp_path, algorithm="sha256", **options)
    dcp.save(state(), storage_writer=writer, no_dist=True)
    assert writer.digest == it.hash_file(tmp_path / ".metadata", "sha256")
    assert same(load(tmp_path, algorithm="sha256"))


def test_every_stored_byte_is_covered(folder: Path) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    (data,) = folder.glob("*.distcp")
    parts = sorted(
        (i.offset, i.offset + i.length, i.integrity_triton) for i in metadata.storage_data.values()
    )
    content = data.read_bytes()
    end = 0
    for start, stop, (name, digest) in parts:
        assert start == end and name == "blake3" and digest == it.blake3(content[start:stop]).digest()
        end = stop
    assert end == len(content)


@pytest.mark.parametrize("place", range(8))
def test_a_flipped_bit_is_refused_by_name(folder: Path, place: int) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    (data,) = folder.glob("*.distcp")
    content = bytearray(data.read_bytes())
    at = len(content) * place // 8 + 17
    content[at] ^= 1 << place
    data.write_bytes(content)
    (name,) = {k.fqn for k, i in metadata.storage_data.items() if i.offset <= at < i.offset + i.length}
    error = refused(folder)
    assert isinstance(error, LoadError) and error.tensor == name and error.file == str(data)
    assert f"tensor '{name}', bytes" in str(error) and str(data) in str(error)


def test_an_object_is_checked_before_it_is_unpickled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    info = next(i for k, i in metadata.storage_data.items() if k.fqn == "step")
    with open(folder / info.relative_path, "r+b") as file:
        file.seek(info.offset)
        file.write(b"\0" * info.length)
    seen: list[str] = []
    original = dcp.DefaultLoadPlanner.load_bytes
    monkeypatch.setattr(
        dcp.DefaultLoadPlanner,
        "load_bytes",
        lambda self, item, value: (seen.append(item.dest_index.fqn), original(self, item, value)),
    )
    error = refused(folder)
    assert isinstance(error, LoadError) and error.tensor == "step" and "step" not in seen


def cut(folder: Path) -> None:
    (data,) = folder.glob("*.distcp")
    os.truncate(data, data.stat().st_size // 2)


def change_metadata(folder: Path) -> None:
    data = bytearray((folder / ".metadata").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / ".metadata").write_bytes(data)


def of_another_checkpoint(folder: Path) -> None:
    other = {**state(), "a": torch.ones(300, 70)}
    dcp.save(other, storage_writer=CheckpointWriter(folder.parent / "other"), no_dist=True)
    for path in (folder.parent / "other").glob("*.distcp"):
        shutil.copy(path, folder)


def pipe(folder: Path) -> None:
    (data,) = folder.glob("*.distcp")
    data.unlink()
    os.mkfifo(data)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (cut, "the file was cut"),
        (change_metadata, r"\.metadata: bytes 0 to \d+: blake3 .* and \.metadata\.blake3 has"),
        (of_another_checkpoint, "tensor 'a', bytes"),
        (lambda folder: (folder / ".metadata.blake3").unlink(), "there is no file with the blake3 digest"),
        (
            lambda folder: (folder / ".metadata.blake3").write_text("0" * 64 + "  other\n"),
            "is not in this file",
        ),
        (lambda folder: (folder / ".metadata.blake3").write_text("x"), "is not a digest"),
        (pipe, "a named pipe, not a regular file"),
    ],
)
def test_faults(folder: Path, fault: Callable[[Path], None], message: str) -> None:
    fault(folder)
    # torch 2.13.0 reports what read_metadata raises as the text of an AssertionError (state_dict_loader.py).
    error = refused(folder)
    assert isinstance(error, LoadError | ManifestError | AssertionError)
    assert re.search(message, str(error)), str(error)


def test_another_checkpoint_is_not_the_pinned_one(folder: Path) -> None:
    other = folder.parent / "other"
    writer = CheckpointWriter(other)
    dcp.save({**state(), "step": 13}, storage_writer=writer, no_dist=True)
    error = refused(folder, expected=writer.digest)
    assert "and the caller has" in str(error)
    with pytest.raises(ValueError, match="this reader has the digest of the checkpoint"):
        dcp.load(
            state(), checkpoint_id=folder, storage_reader=CheckpointReader(other, expected=writer.digest)
        )


def test_a_checkpoint_without_digests(tmp_path: Path) -> None:
    dcp.save(state(), storage_writer=dcp.FileSystemWriter(tmp_path), no_dist=True)
    digest = it.hash_file(tmp_path / ".metadata", "blake3")
    assert "there is no file with the blake3 digest" in str(refused(tmp_path))
    error = refused(tmp_path, expected=digest)
    assert isinstance(error, LoadError) and "the metadata has no blake3 digest of" in str(error)


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="at least 32 bytes"):
        CheckpointWriter(tmp_path, algorithm="sha224")
    with pytest.raises(ManifestError, match="must be hexadecimal"):
        CheckpointReader(tmp_path, expected="xyz")
    with pytest.raises(ManifestError, match="has 4 bytes, and blake3 gives 32"):
        CheckpointReader(tmp_path, expected=b"abcd")
    form = checkpoint.SerializationFormat.SAFETENSORS
    with pytest.raises(ValueError, match="no digests in its metadata"):
        CheckpointWriter(tmp_path, serialization_format=form)


def test_asynchronous_parts_in_one_process(tmp_path: Path) -> None:
    """What async_save does after it has staged the tensors."""
    writer = CheckpointWriter(tmp_path)
    staged = writer.stage(state())
    dcp.save(staged, storage_writer=writer, no_dist=True)
    assert same(load(tmp_path))


def ranks(size: int, task: str, path: Path, out: Path) -> list[dict[str, Any]]:
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    command += [str(HERE / "checkpoint_worker.py"), task, str(path), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(size)]


@pytest.mark.slow
@pytest.mark.parametrize(("saved_by", "task", "loaded_by"), [(2, "save", 1), (2, "async", 3)])
def test_another_world_size(tmp_path: Path, saved_by: int, task: str, loaded_by: int) -> None:
    path = tmp_path / "checkpoint"
    saved = ranks(saved_by, task, path, tmp_path / "saved")
    assert saved[0]["digest"] == it.hash_file(path / ".metadata", "blake3").hex()
    loaded = ranks(loaded_by, "load", path, tmp_path / "loaded")
    errors: dict[str, str] = {}
    for found in loaded:
        assert found["good"] == {"root": saved[0]["root"], "same": True, "step": 7}
        errors.update(found["bad"]["errors"])
    data = str(sorted(path.glob("*.distcp"))[-1])
    assert errors and all(data in error and "tensor '" in error for error in errors.values())
