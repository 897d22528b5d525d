"""``expected_hashes``: what is asked for in huggingface/diffusers#14784."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from integrity_triton.errors import IntegrityError
from integrity_triton.integrations.diffusers import check_expected_hashes
from integrity_triton.models.errors import ManifestError
from support import device_of

pytest.importorskip("safetensors.torch", reason="absent: safetensors")
safetensors = pytest.importorskip("safetensors", reason="absent: safetensors")
blake3 = pytest.importorskip("blake3", reason="absent: blake3").blake3

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


def _tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(8, 4, 3, 3, generator=generator),
        "conv.bias": torch.randn(8, generator=generator).to(torch.bfloat16),
        "steps": torch.tensor(1000),
    }


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def _by_tensor(tensors: dict[str, torch.Tensor], algorithm: str = "sha256") -> dict[str, str]:
    digest = {"sha256": hashlib.sha256, "blake3": blake3}[algorithm]
    return {name: f"{algorithm}:{digest(_bytes(tensor)).hexdigest()}" for name, tensor in tensors.items()}


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    folder = tmp_path / "pipeline"
    for seed, name in enumerate((UNET, VAE)):
        path = folder / name
        path.parent.mkdir(parents=True)
        safetensors.torch.save_file(_tensors(seed), path)
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture
def hashes(pipeline: Path) -> dict[str, Any]:
    return {
        UNET: hashlib.sha256((pipeline / UNET).read_bytes()).hexdigest(),
        VAE: f"blake3:{blake3((pipeline / VAE).read_bytes()).hexdigest()}",
    }


def _flip(path: Path, offset: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_files_that_are_as_expected(pipeline: Path, hashes: dict[str, Any]) -> None:
    seen: list[int] = []
    check_expected_hashes(pipeline, hashes, progress=seen.append)
    assert sum(seen) == sum((pipeline / name).stat().st_size for name in hashes)
    check_expected_hashes(str(pipeline / UNET), {os.path.basename(UNET): f"SHA-256:{hashes[UNET]}"})


@pytest.mark.parametrize("name", [UNET, VAE])
def test_a_changed_file_is_named(name: str, pipeline: Path, hashes: dict[str, Any]) -> None:
    _flip(pipeline / name)
    with pytest.raises(IntegrityError) as caught:
        check_expected_hashes(pipeline, hashes)
    assert repr(name) in str(caught.value)
    assert repr(({UNET, VAE} - {name}).pop()) not in str(caught.value)


def test_missing_and_unlisted_files(pipeline: Path, hashes: dict[str, Any]) -> None:
    del hashes[VAE]
    with pytest.raises(IntegrityError, match=f"'{VAE}': weights that are not listed"):
        check_expected_hashes(pipeline, hashes)
    check_expected_hashes(pipeline, hashes, unlisted=True)
    (pipeline / "unet/diffusion_pytorch_model.bin").write_bytes(b"")
    (pipeline / VAE).unlink()
    with pytest.raises(IntegrityError, match=r"model\.bin': weights that are not listed"):
        check_expected_hashes(pipeline, hashes)
    (pipeline / UNET).unlink()
    with pytest.raises(IntegrityError, match="the file is missing"):
        check_expected_hashes(pipeline, hashes, unlisted=True)


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "pytorch_model.bin.index.fp16.json"])
def test_an_index_that_is_not_listed(name: str, pipeline: Path, hashes: dict[str, Any]) -> None:
    (pipeline / "unet" / name).write_text('{"weight_map": {"conv.bias": "../../elsewhere.safetensors"}}')
    with pytest.raises(IntegrityError, match=f"'unet/{name}': weights that are not listed"):
        check_expected_hashes(pipeline, hashes)


def test_no_hash_of_a_tensor(pipeline: Path) -> None:
    with pytest.raises(ManifestError, match="nothing would be checked"):
        check_expected_hashes(pipeline, {UNET: {}}, unlisted=True)
    with pytest.raises(TypeError, match="named by a str, not int"):
        check_expected_hashes(pipeline, {UNET: {1: "00" * 32}}, unlisted=True)  # type: ignore[dict-item]


def test_links_out_of_the_folder(pipeline: Path, hashes: dict[str, Any], tmp_path: Path) -> None:
    (pipeline / UNET).rename(tmp_path / "elsewhere")
    (pipeline / UNET).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="leads out of the folder"):
        check_expected_hashes(pipeline, hashes)
    (pipeline / UNET).unlink()
    (pipeline / UNET).symlink_to(os.path.basename(UNET))
    with pytest.raises(IntegrityError, match="leads back to itself"):
        check_expected_hashes(pipeline, hashes)


@pytest.mark.parametrize("hash_name", ["sha256", "blake3"])
def test_tensors_of_a_file(hash_name: str, pipeline: Path, hashes: dict[str, Any]) -> None:
    hashes[UNET] = _by_tensor(_tensors(0), hash_name)
    check_expected_hashes(pipeline, hashes)
    _flip(pipeline / UNET)
    changed = safetensors.torch.load_file(pipeline / UNET)
    [name] = [name for name, tensor in _tensors(0).items() if _bytes(tensor) != _bytes(changed[name])]
    with pytest.raises(IntegrityError) as caught:
        check_expected_hashes(pipeline, hashes)
    assert f"'{UNET}': tensor {name!r}: the {hash_name} is" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("hash_name", ["sha256", "blake3"])
def test_tensors_of_a_module(hash_name: str, backend: str) -> None:
    module = torch.nn.Module()
    for name, tensor in _tensors(3).items():
        module.register_buffer(name.replace(".", "_"), tensor.to(device_of(backend)))
    expected = {n.replace(".", "_"): h for n, h in _by_tensor(_tensors(3), hash_name).items()}
    check_expected_hashes(module, expected, backend=backend)
    module.conv_bias.view(torch.int16)[3] ^= 1
    with pytest.raises(IntegrityError, match="tensor 'conv_bias': the"):
        check_expected_hashes(module, expected, backend=backend)


def test_tensors_that_are_missing_or_unlisted() -> None:
    tensors = _tensors(1)
    expected = _by_tensor(tensors)
    check_expected_hashes(tensors, expected)
    del tensors["steps"]
    with pytest.raises(IntegrityError, match="tensor 'steps' is missing"):
        check_expected_hashes(tensors, expected)
    tensors["more\n"] = tensors["conv.bias"]
    del expected["steps"]
    with pytest.raises(IntegrityError, match=r"tensor 'more\\n' is not listed"):
        check_expected_hashes(tensors, expected)
    check_expected_hashes(tensors, expected, unlisted=True)


def test_a_length_of_choice() -> None:
    x = {"x": torch.arange(10)}
    check_expected_hashes(x, {"x": f"blake3:{blake3(_bytes(x['x'])).hexdigest(length=64)}"})
    check_expected_hashes(x, {"x": f"shake_256:{hashlib.shake_256(_bytes(x['x'])).hexdigest(40)}"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "hexadecimal"),
        ("0" * 63, "hexadecimal"),
        ("0" * 62, "32 bytes"),
        ("sha256:", "hexadecimal"),
        (":" + "0" * 64, "unknown"),
        ("sha257:" + "0" * 64, "sha257"),
        ("md5:" + "0" * 32, "checksum"),
        ("crc32:" + "0" * 8, "checksum"),
        ("siphash_2_4:" + "0" * 16, "without a key"),
        ("blake3:" + "0" * 32, "at least 32"),
    ],
)
def test_hashes_that_are_refused(text: str, reason: str, pipeline: Path) -> None:
    for model, hashes in ((pipeline, {UNET: text}), (pipeline, {UNET: {"steps": text}}), ({}, {"x": text})):
        with pytest.raises(ManifestError, match=reason) as caught:
            check_expected_hashes(model, hashes)
        assert any(repr(name) in str(caught.value) for name in (UNET, "steps", "x"))


def test_arguments_that_are_refused(pipeline: Path) -> None:
    with pytest.raises(ManifestError, match="empty"):
        check_expected_hashes(pipeline, {})
    with pytest.raises(TypeError, match="must map names"):
        check_expected_hashes(pipeline, ["a"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a str, not bytes"):
        check_expected_hashes(pipeline, {UNET: b"0"})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="a path, a module or a state dict"):
        check_expected_hashes(3, {"a": "0" * 64})
    (pipeline / "config.bin").write_bytes(b"not safetensors")
    with pytest.raises(ManifestError, match=r"config\.bin"):
        check_expected_hashes(pipeline, {"config.bin": {"a": "0" * 64}})
