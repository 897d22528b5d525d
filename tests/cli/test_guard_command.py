"""The command guard, on files that the test writes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("blake3")
pytest.importorskip("click")

from safetensors.torch import save_file  # noqa: E402

import integrity_triton as it  # noqa: E402
from integrity_triton import cli  # noqa: E402
from support import interruptible  # noqa: E402


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    torch.manual_seed(1)
    save_file({"a.weight": torch.rand(300, 1000), "b.bias": torch.rand(7)}, folder / "model.safetensors")
    it.models.Manifest.build(folder).save(tmp_path / "manifest.json")
    return folder


def document(capfdbinary):
    return json.loads(capfdbinary.readouterr().out)


def test_clean_passes(model, capfdbinary):
    assert cli.main(["guard", str(model), "--passes", "2", "--period", "0.5", "--json"]) == 0
    report = document(capfdbinary)
    assert report["ok"] and not report["failed"] and report["passes"] >= 2
    assert (report["tensors"], report["nbytes"], report["signed"]) == (2, 1200028, True)
    assert report["source"] == str(model) and report["drill"] is None


def test_a_drill_is_found_and_named(model, tmp_path, capfdbinary):
    options = ["--manifest", str(tmp_path / "manifest.json"), "--period", "1", "--drill", "--passes", "1"]
    assert cli.main(["guard", str(model), *options, "--json"]) == 1
    report = document(capfdbinary)
    drill = report["drill"]
    (finding,) = [found for found in report["findings"] if found["fails"]]
    assert not report["ok"] and finding["name"] == drill["tensor"]
    assert finding["flips"] == [[drill["byte"], 1 << drill["bit"]]]
    assert cli.main(["guard", str(model), *options]) == 1
    out, err = capfdbinary.readouterr()
    assert b"differs from the baseline in bit" in out and b"drill: flipped bit" in err


def test_another_model_is_refused(model, tmp_path, capfdbinary):
    save_file({"a.weight": torch.rand(300, 1000), "b.bias": torch.rand(7)}, model / "model.safetensors")
    options = ["--manifest", str(tmp_path / "manifest.json"), "--passes", "1"]
    assert cli.main(["guard", str(model), *options]) == 1
    out, err = capfdbinary.readouterr()
    assert out.decode() == f"{model}: FAILED\n"
    assert len(err.splitlines()) == 3 and b"a.weight" in err and b"b.bias" in err  # a line for each tensor
    assert cli.main(["guard", str(model), *options, "--json"]) == 1
    report = document(capfdbinary)
    assert report["ok"] is False and "'a.weight'" in report["error"]


@pytest.mark.parametrize(
    "options", [["--budget", "0"], ["--period", "-1"], ["--passes", "0"], ["--algorithm", "md6"]]
)
def test_impossible_options(model, options, capfdbinary):
    assert cli.main(["guard", str(model), "--passes", "1", *options]) == 2


@pytest.mark.slow
def test_it_runs_until_it_is_interrupted_and_serves_metrics(model):
    pytest.importorskip("prometheus_client")
    command = [sys.executable, "-m", "integrity_triton", "guard", str(model), "--metrics-port", "0", "--json"]
    running = subprocess.Popen(
        interruptible(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    address = running.stderr.readline().split()[-1]
    assert "guarding 2 tensors" in running.stderr.readline()
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert b'integrity_triton_guard_failed{model="model"} 0.0' in answer.read()
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=30)
    assert running.returncode == 130
    assert json.loads(out)["failed"] is False
