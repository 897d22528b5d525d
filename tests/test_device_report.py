"""The device report's machinery, on the backends that every machine has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import device_report
from bench.device_report import Measurement, Report, Verdict
from integrity_triton import algorithms

ROOT = Path(__file__).resolve().parent.parent
GREEN = '<testsuites><testsuite tests="5" failures="0" errors="0" skipped="2"/></testsuites>'


@pytest.mark.parametrize(
    ("text", "counts", "green"),
    [
        (GREEN, (3, 0, 2), True),
        (GREEN.replace('failures="0"', 'failures="1"'), (2, 1, 2), False),
        (GREEN.replace('errors="0"', 'errors="1"'), (2, 1, 2), False),
        (GREEN.replace('tests="5"', 'tests="2"'), (0, 0, 2), False),
        ("<testsuites/>", (0, 0, 0), False),
        ("<testsuites", (0, 0, 0), False),
        ("", (0, 0, 0), False),
    ],
)
def test_verdicts(tmp_path, text, counts, green):
    path = tmp_path / "tests.xml"
    path.write_text(text)
    verdict = device_report.read_verdict(path)
    assert (verdict.passed, verdict.failed, verdict.absent) == counts
    assert verdict.green is green


def test_no_results_file_is_red(tmp_path):
    assert not device_report.read_verdict(tmp_path / "nowhere.xml").green


@pytest.mark.parametrize("name", ["native", "interpreter"])
def test_every_algorithm_is_timed_and_checked(name, tmp_path, monkeypatch):
    monkeypatch.setattr(device_report, "REPETITIONS", 1)
    options = ["--backend", name, "--quick", "--no-tests", "--out", str(tmp_path), "--budget", "500"]
    assert device_report.main(options) == 1  # no tests, so that no figure counts
    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text())
    assert report["headline"].startswith("RED")
    assert report["environment"]["backend"] == name
    timed = {m["algorithm"] for m in report["measurements"]}
    assert timed == {record.name for record in algorithms.all_algorithms()}
    for m in report["measurements"]:
        assert m["rate"] > 0
        assert m["checked"] == "equal to the CPU library"
    page = path.with_suffix(".md").read_text()
    assert "RED" in page.splitlines()[2]
    assert page.count("equal to the CPU library") == len(report["measurements"])


def test_a_wrong_digest_stops_the_report(monkeypatch):
    import torch

    record = algorithms.get("sha256")
    with pytest.raises(AssertionError, match="wrong digest"):
        device_report.check(record, torch.zeros(3, dtype=torch.uint8), torch.zeros(32, dtype=torch.uint8))


def test_red_tests_leave_nothing_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(device_report, "run_tests", lambda *_: Verdict(passed=7, failed=1))
    assert device_report.main(["--backend", "native", "--quick", "--out", str(tmp_path)]) == 1
    report = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert report["measurements"] == []
    assert "1 failed" in report["headline"]


def test_what_time_did_not_allow_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(device_report, "run_tests", lambda *_: Verdict(passed=7))
    options = ["--backend", "native", "--quick", "--out", str(tmp_path), "--budget", "1"]
    assert device_report.main(options) == 0
    report = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert {m["not_run"] for m in report["measurements"]} == {"out of time"}
    assert "not run: out of time" in next(tmp_path.glob("*.md")).read_text()


def test_the_tests_run_in_a_process_of_their_own_on_the_backend_alone(monkeypatch):
    seen = {}

    def run(command, **options):
        seen["command"] = command
        Path(command[-1].partition("=")[2]).write_text(GREEN)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(device_report.subprocess, "run", run)
    verdict = device_report.run_tests("xpu", 5)
    assert seen["command"][:3] == [sys.executable, "-m", "pytest"]
    assert seen["command"][seen["command"].index("--backend") + 1] == "xpu"
    assert not verdict.green  # pytest's own status counts, too
    assert "status 1" in verdict.note


def test_a_machine_without_an_accelerator_is_told_so():
    command = [sys.executable, "-m", "bench.device_report", "--backend", "xpu"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode == 1 and "device_report: backend 'xpu'" in result.stderr:
        assert "Traceback" not in result.stderr
    else:
        pytest.skip("not applicable: this machine has an Intel GPU")


def test_the_report_needs_few_packages():
    """A machine with a GPU and no network has torch, triton, numpy, pytest and hypothesis."""
    script = (
        "import sys\n"
        "ABSENT = ('blake3', 'safetensors', 'click', 'rich', 'cryptography', 'model_signing',\n"
        "          'pytest_benchmark', 'cryptography_vectors')\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ABSENT:\n"
        "            raise ModuleNotFoundError('not installed', name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from bench import device_report\n"
        "import tempfile\n"
        "device_report.REPETITIONS = 1\n"
        "out = tempfile.mkdtemp()\n"
        "device_report.main(['--backend', 'interpreter', '--quick', '--no-tests', '--out', out])\n"
        "import pytest\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-m', 'device', '--backend', 'interpreter',\n"
        "                      '-k', 'edge_lengths or chunk_counters or any_chunk', 'tests']))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "not checked here: its CPU library cannot be loaded" in result.stdout
    assert re.search(r"^\d+ passed", result.stdout, re.MULTILINE)


def test_the_page_of_a_whole_report():
    report = Report(
        {"device": "A GPU", "date": "2026-01-02T03:04:05+00:00"},
        Verdict(passed=9),
        {"read": 4000.0, "bytes": 1},
        [
            Measurement("sha256", "rows", 1.0, 800.0, 790.0, 810.0, 20.0, 8.0, 40.0, 0, "equal"),
            Measurement("blake3", "rows", not_run="out of time"),
        ],
        [
            {
                "algorithm": "sha256",
                "layout": "rows",
                "BLOCK_MSGS": 32,
                "num_warps": 1,
                "VECTOR": 4,
                "rate": 5.0,
            }
        ],
    )
    page = device_report.markdown(report)
    assert "GREEN: 9 bit-exactness tests passed" in page
    assert "| sha256 | rows | 800 | 790 to 810 | 20 | 8.0 | 40 | equal |" in page
    assert "| blake3 | rows | not run: out of time |" in page
    assert "| sha256 | rows | 32 | 1 | 4 | 5 |" in page
