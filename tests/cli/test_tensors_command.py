"""The command ``tensors``: lines that diff compares, and JSON."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from integrity_triton import cli

safetensors = pytest.importorskip("safetensors.torch", reason="absent: safetensors")


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTEGRITY_TRITON_BACKEND", raising=False)
    safetensors.save_file(
        {"b": torch.ones(2), "a\nb\\": torch.zeros(1), "é": torch.zeros(0)}, tmp_path / "m.safetensors"
    )

    def run(*arguments):
        capfd.readouterr()
        status = cli.main(["tensors", *arguments])
        return status, *capfd.readouterr()

    return run


def test_lines(run):
    status, out, err = run("m.safetensors", "--format", "vllm")
    assert (status, err) == (0, "")
    digests = [hashlib.sha256(data).hexdigest() for data in (bytes(4), torch.ones(2).numpy().tobytes(), b"")]
    assert out == f"\\{digests[0]}  a\\nb\\\\\n{digests[1]}  b\n{digests[2]}  é\n"
    assert run(".", "--format", "vllm") == (0, out, "")


def test_json(run):
    status, out, _ = run("m.safetensors", "--format", "slime", "--algorithm", "adler32", "--json")
    assert status == 0
    document = json.loads(out)
    assert document["tensors"].keys() == {"a\nb\\", "b", "é"}
    assert document["tensors"]["é"] == "00000001"
    del document["tensors"]
    assert document == {"ok": True, "source": "m.safetensors", "format": "slime", "algorithm": "adler32"}
    assert json.loads(run("m.safetensors", "--json")[1])["algorithm"] == "blake3"


def test_trouble(run):
    status, out, err = run("m.safetensors", "--format", "verl")
    assert (status, out) == (2, "")
    assert "unknown format 'verl'" in err
    status, _, err = run("nothing.safetensors")
    assert status == 2
    assert "nothing.safetensors: No such file or directory" in err
