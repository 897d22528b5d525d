"""The program that compares Hugging Face's digests with the originals."""

from __future__ import annotations

import shutil
import sys

import pytest

from bench import huggingface


def test_it_prints_ratios(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("hf_xet", "huggingface_hub"):
        pytest.importorskip(name, reason=f"absent: {name} is not installed")
    if shutil.which("git") is None:
        pytest.skip("absent: git")
    monkeypatch.setattr(sys, "argv", ["bench.huggingface", "--megabytes", "1", "--runs", "1"])
    huggingface.main()
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split("  ")[0] for line in lines] == ["xet", "git blob", "LFS", "check of a folder"]
    assert all(float(line.rpartition("ratio ")[2]) > 0 for line in lines)
