"""The digests of stored tensors in the form of each project, beside the project's own function."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import integrity_triton as it
from integrity_triton.integrations import formats, megatron, sglang, tensorizer, vllm
from integrity_triton.models import ManifestError
from integrity_triton.models.safetensors_file import SafetensorsFile

safetensors = pytest.importorskip("safetensors.torch", reason="absent: safetensors")


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return {
        "layer.weight": torch.randn(33, 17).bfloat16(),
        "layer.bias": torch.randn(17),
        "counts": torch.arange(5, dtype=torch.int8),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "line\nfeed": torch.arange(3.0),
    }


@pytest.fixture
def path(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    safetensors.save_file(state, path)
    return path


def module(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A module whose parameters have the names and values of the state, as far as a name permits."""
    root = torch.nn.Module()
    root.layer = torch.nn.Module()
    for name, tensor in state.items():
        owner = root.layer if name.startswith("layer.") else root
        owner.register_parameter(name.rpartition(".")[2], torch.nn.Parameter(tensor, requires_grad=False))
    return root


def data(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.mark.parametrize("hash_name", ["sha256", "blake2b", "crc32c", "xxh3_64"])
def test_bytes(state, path, hash_name):
    found = formats.tensor_digests(path, algorithm=hash_name)
    assert list(found) == sorted(state)
    for name, tensor in state.items():
        assert found[name] == it.new(hash_name, data(tensor), backend="native").hexdigest()


def test_vllm(state, path):
    found = formats.tensor_digests(path, "vllm")
    assert found == {name: hashlib.sha256(data(tensor)).hexdigest() for name, tensor in state.items()}
    assert found == vllm.compute_tensor_digests(module(state))


def test_sglang(state, path):
    found = formats.tensor_digests(path, "sglang")
    assert found == sglang.model_checksums(module(state))
    assert all(len(value) == 16 for value in found.values())


def test_slime(state, path):
    assert formats.tensor_digests(path, "slime", "adler32") == {
        name: f"{zlib.adler32(data(tensor)):08x}" for name, tensor in state.items()
    }
    assert formats.tensor_digests(path, "slime", "blake3") == formats.tensor_digests(path)
    xxh3 = formats.tensor_digests(path, "slime")
    assert xxh3 == formats.tensor_digests(path, algorithm="xxh3_128")


def test_megatron(state, path):
    found = formats.tensor_digests(path, "megatron")
    for name, tensor in state.items():
        assert found[name] == hashlib.sha1(tensor.float().numpy().tobytes()).hexdigest()
    assert found == {h.name: h.digest.hex() for h in megatron.param_hashes(module(state))}


def test_tensorizer(state, path):
    found = formats.tensor_digests(path, "tensorizer")
    expected = tensorizer.tensor_hashes(state)
    assert found == {n: f"crc32={h.crc32:08x},sha256={h.sha256.hex()}" for n, h in expected.items()}


@pytest.mark.parametrize("name", formats.FORMATS)
def test_groups_and_folders(name, tmp_path, monkeypatch):
    """Tensors larger and smaller than a group, in several files."""
    monkeypatch.setattr(formats, "_GROUP_SIZE", 1000)
    rng = np.random.default_rng(7)
    whole = {
        f"t{i}": torch.from_numpy(rng.integers(0, 99, size, "u1")) for i, size in enumerate([1, 600, 5000, 9])
    }
    safetensors.save_file(whole, tmp_path / "one.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    safetensors.save_file({n: whole[n] for n in ("t0", "t2")}, folder / "a.safetensors")
    safetensors.save_file({n: whole[n] for n in ("t3", "t1")}, folder / "b.safetensors")
    seen: list[int] = []
    found = formats.tensor_digests(folder, name, progress=seen.append)
    assert list(found) == ["t0", "t1", "t2", "t3"]
    assert found == formats.tensor_digests(tmp_path / "one.safetensors", name)
    assert sum(seen) == 5610


def test_bad_requests(path, tmp_path):
    with pytest.raises(ValueError, match="unknown format 'verl'; choose one of bytes, vllm"):
        formats.tensor_digests(path, "verl")
    with pytest.raises(
        ValueError, match="the format vllm does not take the algorithm 'blake3'; it takes sha256"
    ):
        formats.tensor_digests(path, "vllm", "blake3")
    with pytest.raises(ValueError, match="it takes xxh3-128, blake3, adler32"):
        formats.tensor_digests(path, "slime", "sha256")
    with pytest.raises(ValueError, match="poly1305 needs a key"):
        formats.tensor_digests(path, algorithm="poly1305")
    path.write_bytes(path.read_bytes()[:-1])
    for name in formats.FORMATS:
        with pytest.raises(ManifestError, match=r"model\.safetensors"):
            formats.tensor_digests(path, name)


def test_a_dtype_that_torch_lacks(tmp_path):
    """It can be hashed where only the bytes count."""
    path = tmp_path / "f6.safetensors"
    header = b'{"w":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"abc")
    assert formats.tensor_digests(path, "vllm") == {"w": hashlib.sha256(b"abc").hexdigest()}
    assert formats.tensor_digests(path, "slime", "adler32") == {"w": f"{zlib.adler32(b'abc'):08x}"}
    with pytest.raises(ManifestError, match=r"f6.safetensors: tensor 'w': torch .* has no dtype for F6_E2M3"):
        formats.tensor_digests(path, "megatron")


def test_a_file_that_is_cut_while_it_is_read(path, monkeypatch):
    original = SafetensorsFile.read_range

    def cut(file, start, end):
        path.write_bytes(path.read_bytes()[:-1])
        return original(file, start, end)

    monkeypatch.setattr(SafetensorsFile, "read_range", cut)
    with pytest.raises(ManifestError, match="was cut while it was being read"):
        formats.tensor_digests(path, "sglang")
