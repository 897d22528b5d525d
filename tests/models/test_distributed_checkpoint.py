"""Checkpoints of torch.distributed.checkpoint with digests in their metadata."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import integrity_triton as it
from integrity_triton.models import LoadError, ManifestError

dcp = pytest.importorskip("torch.distributed.checkpoint", reason="absent: torch.distributed.checkpoint")

from torch.distributed.checkpoint._extension import StreamTransformExtension  # noqa: E402

from integrity_triton.models.distributed import (  # noqa: E402
    checkpoint,
    checkpoint_parts,
    checkpoint_segments,
    checkpoint_streams,
)
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


def stored(folder: Path) -> list[tuple[str, int, int, tuple[str, tuple[tuple[int, bytes], ...]]]]:
    """The names, ranges and digests of the parts of a checkpoint in one file, in their order there."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    parts = metadata.storage_data.items()
    return sorted((k.fqn, i.offset, i.offset + i.length, i.integrity_triton) for k, i in parts)


def test_every_stored_byte_is_covered(folder: Path) -> None:
    (data,) = folder.glob("*.distcp")
    content = data.read_bytes()
    end = 0
    for name, start, stop, (algorithm, segments) in sorted(stored(folder), key=lambda part: part[1]):
        assert start == end and algorithm == "blake3"
        for length, digest in segments:
            assert length > 0 and digest == it.blake3(content[end : end + length]).digest()
            end += length
        assert stop == end
        assert len(segments) == (3 if name == "big" else 1)  # a large tensor has segments of its own
    assert end == len(content)


def test_the_segments_of_a_tensor_are_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_segments, "SEGMENT_SIZE", 1 << 18)
    x = torch.randn(3, 50_000)
    dcp.save({"x": x}, storage_writer=CheckpointWriter(tmp_path, algorithm="sha256"), no_dist=True)
    ((_, _, _, (_, (head, *segments, tail))),) = stored(tmp_path)
    pieces = [x.numpy().tobytes()[i : i + (1 << 18)] for i in range(0, x.nbytes, 1 << 18)]
    assert segments == [(len(piece), hashlib.sha256(piece).digest()) for piece in pieces]
    assert max(head[0], tail[0]) < 2048


def large() -> dict[str, Any]:
    """Tensors of which torch stores the bytes as they are, and others of which it does not."""
    x = torch.randn(400, 300, generator=torch.Generator().manual_seed(2))
    return {
        "plain": x,
        "of a larger one": torch.cat([x, x])[7:407],
        "parameter": torch.nn.Parameter(x + 1),
        "half": torch.cat([x, x]).to(torch.bfloat16),
        "transposed": x.t(),
        "every second row": torch.cat([x, x])[::2],
        "complex": torch.complex(x, x),
        "conjugated": torch.complex(x, x).conj(),
        "boolean": torch.cat([x] * 4) > 0,
        "scalar": torch.tensor(3.0),
        "shared": x[:],
    }


@pytest.mark.parametrize(
    "options", [{}, {"crc32": None}, {"thread_count": 2}, {"single_file_per_rank": False}]
)
@pytest.mark.parametrize("fill", [torch.zeros_like, lambda x: torch.zeros_like(x).t().contiguous().t()])
def test_tensors_of_all_kinds(tmp_path: Path, options: dict[str, Any], fill: Callable[..., Any]) -> None:
    saved = large()
    dcp.save(dict(saved), storage_writer=CheckpointWriter(tmp_path, **options), no_dist=True)
    for reader in (CheckpointReader(tmp_path), dcp.FileSystemReader(tmp_path)):
        loaded = {name: fill(x.detach()) if x.dim() else torch.zeros_like(x) for name, x in saved.items()}
        dcp.load(loaded, storage_reader=reader, no_dist=True)
        assert all(torch.equal(loaded[name], x) for name, x in saved.items())


def test_torchs_checksums_can_be_left_out(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    sums: dict[bool | None, list[int]] = {}
    for crc32 in (None, False, True):
        folder = tmp_path / str(crc32)
        options = {} if crc32 is False else {"crc32": crc32}  # it is the default
        dcp.save({"x": torch.ones(99)}, storage_writer=CheckpointWriter(folder, **options), no_dist=True)
        assert torch.serialization.get_crc32_options() == before
        with zipfile.ZipFile(next(folder.glob("*.distcp"))) as file:
            sums[crc32] = [info.CRC for info in file.infolist() if info.filename.endswith("data/0")]
    assert sums[None] == sums[True] == [zlib.crc32(torch.ones(99).numpy())] != sums[False]


class Flipped(StreamTransformExtension):
    """An extension under which the bytes of a file are not those of the tensors, and as many."""

    @staticmethod
    def from_descriptor(version: str) -> Flipped:
        return Flipped()

    @staticmethod
    def registry_name() -> str:
        return "flipped"

    def get_descriptor(self) -> str:
        return "flipped/1"

    def transform_to(self, output: Any) -> Any:
        class Stream(io.RawIOBase):
            def write(self, data: Any) -> int:
                return int(output.write(bytes(byte ^ 255 for byte in bytes(data))))

        return Stream()

    def transform_from(self, source: Any) -> Any:
        return io.BytesIO(bytes(byte ^ 255 for byte in source.read(-1)))


def test_extensions(tmp_path: Path) -> None:
    saved = {"x": torch.randn(80_000), "step": 5}
    dcp.save(dict(saved), storage_writer=CheckpointWriter(tmp_path, _extensions=[Flipped()]), no_dist=True)
    reader = CheckpointReader(tmp_path)
    reader.transforms.extension_registry.extensions["flipped"] = Flipped
    loaded = {"x": torch.zeros(80_000), "step": 0}
    dcp.load(loaded, storage_reader=reader, no_dist=True)
    assert torch.equal(loaded["x"], saved["x"]) and loaded["step"] == 5


def test_a_tensor_is_hashed_where_it_is_before_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the copy, or of the memory of the host, is found when the checkpoint is loaded."""
    monkeypatch.setattr(checkpoint, "is_on_device", lambda tensor: tensor.dim() == 2)
    writer = CheckpointWriter(tmp_path)
    state = {"layer": {"a": torch.randn(300, 300), "b": torch.randn(300, 300)}, "c": torch.randn(90_000)}
    hashed = []
    original = checkpoint.device_digests
    monkeypatch.setattr(
        checkpoint, "device_digests", lambda x, name: (hashed.append(x.data_ptr()), original(x, name))[1]
    )
    staged = writer.stage(state)
    assert hashed == [state["layer"][name].data_ptr() for name in "ab"]
    assert staged["layer"]["a"].data_ptr() != state["layer"]["a"].data_ptr()
    staged["layer"]["b"][200, 7] += 1
    staged["c"][3] += 1
    dcp.save(staged, storage_writer=writer, no_dist=True)
    loaded = {"layer": {name: torch.zeros(300, 300) for name in "ab"}, "c": torch.zeros(90_000)}
    with pytest.raises(dcp.CheckpointException) as caught:
        dcp.load(loaded, storage_reader=CheckpointReader(tmp_path), no_dist=True)
    assert "tensor 'layer.b', bytes" in str(caught.value.failures[0][0])
    dcp.load({"layer": {"a": torch.zeros(300, 300)}}, storage_reader=CheckpointReader(tmp_path), no_dist=True)
    # The digests of copies are for one save.
    dcp.save(staged, storage_writer=writer, checkpoint_id=tmp_path / "again", no_dist=True)
    dcp.load(loaded, storage_reader=CheckpointReader(tmp_path / "again"), no_dist=True)
    assert torch.equal(loaded["layer"]["b"], staged["layer"]["b"])


@pytest.mark.parametrize(("name", "used"), [("blake3", 1), ("sha256", 0)])  # sha256 would leave it idle
def test_a_save_hashes_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, used: int
) -> None:
    asked: list[Any] = []
    original = checkpoint_segments.hash_chunks
    monkeypatch.setattr(checkpoint_segments, "is_on_device", lambda tensor: True)
    monkeypatch.setattr(
        checkpoint_segments, "hash_chunks", lambda *a, **k: (asked.append(a), original(*a, **k))[1]
    )
    dcp.save(state(), storage_writer=CheckpointWriter(tmp_path, algorithm=name), no_dist=True)
    assert len(asked) == used and same(load(tmp_path, algorithm=name))


def test_a_device_without_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: Any, **options: Any) -> None:
        raise it.BackendUnavailable("none")

    monkeypatch.setattr(checkpoint_segments, "is_on_device", lambda tensor: True)
    monkeypatch.setattr(checkpoint_segments, "hash_chunks", none)
    dcp.save(state(), storage_writer=CheckpointWriter(tmp_path), no_dist=True)
    assert same(load(tmp_path))


def test_each_byte_is_read_once_and_large_tensors_are_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = {f"w{i}": torch.randn(200_000) for i in range(4)}
    saved.update({f"b{i}": torch.ones(i) for i in range(1, 51)})  # torch does not load what has no elements
    dcp.save(dict(saved), storage_writer=CheckpointWriter(tmp_path), no_dist=True)
    read: list[tuple[int, int]] = []
    batches: list[int] = []
    memory: list[bool] = []
    read_into, digests_of, loaded_ = (
        checkpoint_parts.LocalReader.read_into, checkpoint_parts.digests_of, checkpoint_parts.loaded
    )  # fmt: skip

    def reading(self: Any, views: Any, offset: int) -> int:
        got = read_into(self, views, offset)
        read.append((offset, offset + got))
        return got

    def loading(data: Any) -> Any:
        tensor = loaded_(data)
        start = tensor.data_ptr() - data.data_ptr()
        if tensor.nbytes >= checkpoint_segments.LARGE:
            memory.append(0 <= start < len(data))
        return tensor

    monkeypatch.setattr(checkpoint_parts.LocalReader, "read_into", reading)
    monkeypatch.setattr(
        checkpoint_parts, "digests_of", lambda m, *a: (batches.append(len(m)), digests_of(m, *a))[1]
    )
    monkeypatch.setattr(checkpoint, "loaded", loading)
    loaded = {name: torch.zeros_like(x) for name, x in saved.items()}
    dcp.load(loaded, storage_reader=CheckpointReader(tmp_path), no_dist=True)
    assert all(torch.equal(loaded[name], x) for name, x in saved.items())
    size = next(tmp_path.glob("*.distcp")).stat().st_size
    end = 0
    for start, stop in sorted(piece for piece in read if piece[0] < piece[1]):
        assert start == end
        end = stop
    assert end == size
    assert memory == [True] * 4
    assert max(batches) >= 50 and len(batches) < 20


def test_small_parts_are_hashed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    original = checkpoint_streams.digests_of
    monkeypatch.setattr(
        checkpoint_streams, "digests_of", lambda m, *a: (batches.append(len(m)), original(m, *a))[1]
    )
    saved = {f"b{i}": torch.ones(i) for i in range(50)}
    dcp.save(saved, storage_writer=CheckpointWriter(tmp_path), no_dist=True)
    assert batches == [50]


def test_what_is_in_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_parts, "_AHEAD", 2_500_000)
    monkeypatch.setattr(checkpoint_parts, "_RUN_SIZE", 1_000_000)  # so that no two parts are read together
    saved = {f"w{i}": torch.randn(250_000) for i in range(12)}
    dcp.save(dict(saved), storage_writer=CheckpointWriter(tmp_path), no_dist=True)
    sizes: list[Any] = []
    original = checkpoint_parts.torch.empty
    monkeypatch.setattr(
        checkpoint_parts.torch, "empty", lambda n, **k: (sizes.append(n), original(n, **k))[1]
    )
    loaded = {name: torch.zeros_like(x) for name, x in saved.items()}
    dcp.load(loaded, storage_reader=CheckpointReader(tmp_path), no_dist=True)
    assert all(torch.equal(loaded[name], x) for name, x in saved.items())
    assert 1 < len([n for n in sizes if isinstance(n, int) and n >= 1_000_000]) <= 4


@pytest.mark.parametrize("place", ["head", "elements", "end of elements", "tail"])
def test_nothing_of_a_part_is_used_before_all_of_it_was_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    dcp.save({"x": torch.randn(300_000)}, storage_writer=CheckpointWriter(tmp_path), no_dist=True)
    (data,) = tmp_path.glob("*.distcp")
    content = bytearray(data.read_bytes())
    at = {"head": 10, "elements": 5000, "end of elements": 1_200_000, "tail": len(content) - 1}[place]
    content[at] ^= 1
    data.write_bytes(content)
    used: list[Any] = []
    monkeypatch.setattr(torch, "load", lambda *a, **k: used.append(a))
    loaded = {"x": torch.zeros(300_000)}
    with pytest.raises(dcp.CheckpointException) as caught:
        dcp.load(loaded, storage_reader=CheckpointReader(tmp_path), no_dist=True)
    error = caught.value.failures[0][0]
    assert isinstance(error, LoadError) and error.range is not None
    assert error.range[0] <= at < error.range[1] and error.tensor == "x"
    assert not used and not loaded["x"].any()


def incomplete(segments: Any) -> Any:
    return segments[1:]


@pytest.mark.parametrize(
    "change",
    [
        incomplete,
        lambda segments: ((-1, b"0" * 32), (segments[0][0] + 1, segments[0][1]), *segments[1:]),
        lambda segments: tuple((length, digest[:-1]) for length, digest in segments),
        lambda segments: tuple((length, "0" * 32) for length, _ in segments),
        lambda segments: 7,
        lambda segments: segments[0][1],
    ],
)
def test_digests_that_do_not_cover_a_part(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    dcp.save({"x": torch.randn(300_000)}, storage_writer=CheckpointWriter(tmp_path), no_dist=True)
    metadata = pickle.loads((tmp_path / ".metadata").read_bytes())
    for info in metadata.storage_data.values():
        info.integrity_triton = ("blake3", change(info.integrity_triton[1]))
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    reader = CheckpointReader(tmp_path, expected=it.hash_file(tmp_path / ".metadata", "blake3"))
    with pytest.raises(dcp.CheckpointException) as caught:
        dcp.load({"x": torch.zeros(300_000)}, storage_reader=reader, no_dist=True)
    error = caught.value.failures[0][0]
    assert isinstance(error, LoadError) and "the metadata has no blake3 digest of 'x'" in str(error)


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
