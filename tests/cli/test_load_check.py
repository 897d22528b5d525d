"""The command ``load-check``: its report, its exit status, and what it takes ``--against``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from integrity_triton import cli
from integrity_triton.models import Manifest

safetensors = pytest.importorskip("safetensors", reason="absent: safetensors")
pytest.importorskip("safetensors.torch")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTEGRITY_TRITON_BACKEND", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = cli.main(["load-check", *arguments])
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "model.safetensors"
    safetensors.torch.save_file({"a": torch.arange(4.0), "b": torch.ones(3, dtype=torch.uint8)}, path)
    Manifest.build(folder).save(tmp_path / "manifest.json")
    (tmp_path / "SHA256SUMS").write_text(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  model.safetensors\n"
    )
    return path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_model_that_is_as_expected(run: Run, model: Path) -> None:
    text = "OK, 2 tensors of 19 bytes in memory are as expected\n"
    for source in ("model", "model/model.safetensors"):
        for given in (["manifest.json"], ["SHA256SUMS"], ["manifest.json", "SHA256SUMS"]):
            options = [part for name in given for part in ("--against", name)]
            assert run(source, *options) == (0, f"{source}: {text}", "")
    status, out, _ = run("model", "--against", "SHA256SUMS", "--json")
    assert status == 0 and json.loads(out)["ok"] is True
    assert json.loads(out)["tensors"] == 2 and json.loads(out)["bytes"] == 19


def test_a_model_that_is_not(run: Run, model: Path) -> None:
    flip(model)
    status, out, err = run("model", "--against", "manifest.json")
    assert status == 1 and out == "model: FAILED\n"
    first, second = err.splitlines()  # a line for each mismatch follows
    assert "nothing of it was loaded" in first
    assert second.startswith("integrity-triton: model/model.safetensors: tensor 'b', bytes")
    status, out, err = run("model", "--against", "SHA256SUMS", "--against", "manifest.json", "--json")
    report = json.loads(out)
    size = model.stat().st_size
    assert status == 1 and report["ok"] is False
    assert report["tensor"] == "b" and report["range"] == [size - 3, size]
    assert [m["algorithm"] for m in report["mismatches"]] == ["sha256", "blake3"]
    assert report["mismatches"][0]["found"] == hashlib.sha256(model.read_bytes()).hexdigest()


def test_a_signature(run: Run, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="absent: model_signing, of the signing extra")
    from integrity_triton.models import oms

    oms.generate_key(tmp_path / "key", tmp_path / "key.pub")
    oms.sign(model.parent, tmp_path / "model.sig", private_key=tmp_path / "key")
    assert run("model", "--against", "model.sig", "--public-key", "key.pub")[0] == 0
    status, _, err = run("model", "--against", "model.sig")
    assert status == 2 and "model.sig is a signature, which needs --public-key" in err
    status, _, err = run("model", "--against", "SHA256SUMS", "--public-key", "key.pub")
    assert status == 2 and "--public-key needs a signature" in err
    flip(model)
    status, _, err = run("model", "--against", "model.sig", "--public-key", "key.pub")
    assert status == 1 and "the signature has" in err
    oms.generate_key(tmp_path / "other", tmp_path / "other.pub")
    assert run("model", "--against", "model.sig", "--public-key", "other.pub")[0] == 1


def test_what_else_goes_wrong(run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("model")[0] == 2
    status, _, err = run("absent", "--against", "SHA256SUMS")
    assert status == 2 and "absent: No such file" in err
    assert run("model", "--against", "absent")[0] == 2
    status, _, err = run("model", "--against", "SHA256SUMS", "--device", "nowhere")
    assert status == 2 and "cannot be loaded to the device 'nowhere'" in err
    (tmp_path / "sums").write_text(f"{hashlib.md5(model.read_bytes()).hexdigest()}  model.safetensors\n")
    status, _, err = run("model", "--against", "sums", "--algorithm", "md5")
    assert status == 2 and "only a checksum" in err
    assert run("model", "--against", "sums", "--algorithm", "md5", "--checksums")[0] == 0
    original = torch.empty

    def full(*arguments: object, **options: object) -> torch.Tensor:
        if arguments[0] == 0:
            return original(*arguments, **options)  # type: ignore[call-overload]
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(torch, "empty", full)
    status, out, err = run("model", "--against", "SHA256SUMS", "--json")
    assert status == 2 and "does not fit on cpu" in err and json.loads(out)["ok"] is False
