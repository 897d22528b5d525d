"""The hashes of ``.tensors`` files, beside tensorizer's own serializer."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from write_tensors import module, tensors

from integrity_triton import IntegrityError
from integrity_triton.backends import registry
from integrity_triton.integrations import tensorizer
from integrity_triton.integrations.tensorizer import TensorHashes, tensor_hashes, verify_hashes
from integrity_triton.models import ManifestError
from support import device_of

_INDEX = 5 + 4 + 32 + 8 + 8 + 8 + 8  # where the index of a file begins


@pytest.fixture(scope="session")
def files(other_project: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files that tensorizer wrote."""
    folder = tmp_path_factory.mktemp("tensorizer")
    script = Path(__file__).with_name("write_tensors.py")
    command = [sys.executable, script, other_project("tensorizer"), folder]
    subprocess.run(command, check=True, timeout=200)
    return folder


def _available(backend: str) -> str:
    """The name of a backend. The interpreter would take a minute for these files."""
    status = next(status for status in registry.statuses() if status.name == backend)
    if not status.available:
        pytest.skip(f"absent: {status.reason}")
    return backend


def _stored(path: Path) -> dict[str, tuple[int, int, TensorHashes]]:
    """Where the entry of each tensor lies in a file, and the hashes in it, for names of less than 256
    bytes."""
    data = path.read_bytes()
    at, found = _INDEX + 256 * 1024, {}
    while size := int.from_bytes(data[at : at + 8], "little"):
        name = data[at + 13 : at + 13 + data[at + 11]]
        hashes = data[at + size - 8 - 6 - 34 : at + size - 8]
        assert (hashes[:2], hashes[6:8]) == (b"\0\4", b"\1\x20")
        length = int.from_bytes(data[at + size - 8 : at + size], "little")
        stored = TensorHashes(int.from_bytes(hashes[2:6], "little"), hashes[8:])
        found[name.decode("utf-8").lstrip("\x1e")] = (at, size, stored)
        at += size + length
    return found


@pytest.mark.slow
@pytest.mark.parametrize("backend_name", ["native", "opencl"])
@pytest.mark.parametrize("name", ["state_dict", "module", "nested"])
def test_what_tensorizer_wrote_is_verified(files: Path, name: str, backend_name: str) -> None:
    backend = _available(backend_name)
    path = files / f"{name}.tensors"
    seen: list[int] = []
    report = verify_hashes(path, device=device_of(backend), backend=backend, progress=seen.append)
    assert report.ok
    report.raise_for_mismatch()
    assert report.tensors == len(_stored(path))
    assert sum(seen) > 0
    assert str(report) == f"{report.tensors} tensors match"


@pytest.mark.slow
@pytest.mark.parametrize("backend_name", ["native", "opencl"])
def test_hashes_are_those_that_tensorizer_writes(files: Path, backend_name: str) -> None:
    backend = _available(backend_name)
    stored = {name: hashes for name, (_, _, hashes) in _stored(files / "state_dict.tensors").items()}
    there = {name: tensor.to(device_of(backend)) for name, tensor in tensors().items()}
    assert tensor_hashes(there, backend=backend) == stored
    stored = {name: hashes for name, (_, _, hashes) in _stored(files / "module.tensors").items()}
    found = {}
    for number, (prefix, part) in enumerate(module().named_modules()):
        dot = f"{prefix}." if prefix else ""
        for kind, named in (("param", part.named_parameters), ("buffer", part.named_buffers)):
            own = {dot + n: t.to(device_of(backend)) for n, t in named(recurse=False)}
            found.update(tensor_hashes(own, kind=kind, module_index=number, backend=backend))
    assert found == stored


@pytest.mark.slow
def test_one_flipped_bit_is_named(files: Path, tmp_path: Path) -> None:
    original = (files / "state_dict.tensors").read_bytes()
    path = tmp_path / "flipped.tensors"
    rng = random.Random(22)
    for name, (at, size, _) in _stored(files / "state_dict.tensors").items():
        nbytes = tensors()[name].nbytes
        places = [
            *range(at, at + size),
            *(at + size + rng.randrange(nbytes) for _ in range(3 * bool(nbytes))),
        ]
        for place in rng.sample(places, 8) + places[-1:]:
            data = bytearray(original)
            data[place] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            report = verify_hashes(path)
            assert [changed for changed, _ in report.changed] == [name], (place - at, size)
            with pytest.raises(IntegrityError):
                report.raise_for_mismatch()
            if place >= at + size:
                assert report.changed[0][1] == "crc32 and sha256 differ"


@pytest.mark.slow
def test_the_index_is_compared_with_the_headers(files: Path, tmp_path: Path) -> None:
    original = (files / "nested.tensors").read_bytes()
    path = tmp_path / "index.tensors"
    end = original.index(bytes(64), _INDEX)
    for place in range(_INDEX, end):
        data = bytearray(original)
        data[place] ^= 4
        path.write_bytes(data)
        try:
            ok = verify_hashes(path).ok
        except ManifestError:
            ok = False
        assert not ok, place


@pytest.mark.slow
def test_files_that_are_refused(files: Path, tmp_path: Path) -> None:
    original = (files / "nested.tensors").read_bytes()
    path = tmp_path / "bad.tensors"
    for changes, message in [
        ({0: 0}, "not a tensorizer file"),
        ({5: 6}, "version 6 of the format is unknown"),
        ({5: 3}, "encrypted"),
        ({5: 4, 9: 1}, "encrypted"),
        ({9: 8}, "feature flags 0x8 are unknown"),
        ({_INDEX - 2: 1}, "the index claims"),
    ]:
        data = bytearray(original)
        for place, value in changes.items():
            data[place] = value
        path.write_bytes(data)
        with pytest.raises(ManifestError, match=message):
            verify_hashes(path)
    for size in (0, 40, 70, 1000, len(original) - 20):
        path.write_bytes(original[:size])
        with pytest.raises(ManifestError):
            verify_hashes(path)
    with pytest.raises(ManifestError, match="a folder, not a regular file"):
        verify_hashes(tmp_path)


def test_hashes_are_of_the_header_and_the_data() -> None:
    """The definition, by the standard library alone, without tensorizer."""
    x = torch.arange(6, dtype=torch.int32).reshape(2, 3)
    description = b"\7\0\2\1\0w" + b"\3<i4" + b"\2" + b"\2\0\0\0\3\0\0\0"
    hashes = b"\x29\0\2" + b"\0\4" + bytes(4) + b"\1\x20" + bytes(32)
    rest = description + hashes + (24).to_bytes(8, "little")
    message = (8 + len(rest)).to_bytes(8, "little") + rest + x.numpy().tobytes()
    found = tensor_hashes({"w": x}, module_index=7)["w"]
    assert found == (zlib.crc32(message), hashlib.sha256(message).digest())
    assert tensor_hashes({"w": x}, module_index=8)["w"] != found
    assert tensor_hashes({"w": x}, kind="param", module_index=7)["w"] != found


def test_groups_do_not_change_the_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tensor_hashes(tensors())
    monkeypatch.setattr(tensorizer, "_GROUP_SIZE", 100)
    assert tensor_hashes(tensors()) == expected


def test_errors() -> None:
    with pytest.raises(ValueError, match="kind must be one of param, buffer, state_dict"):
        tensor_hashes({}, kind="module")
    with pytest.raises(ValueError, match="meta tensor"):
        tensor_hashes({"a": torch.empty(2, device="meta")})
