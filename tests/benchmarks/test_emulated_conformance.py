"""The conformance suite on an emulated GPU, in runs that can be interrupted."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from bench import emulated_conformance
from integrity_triton import algorithms, conformance
from integrity_triton.conformance.report import RAN, Cell, Report


@pytest.fixture
def runs(monkeypatch) -> list[list[str]]:
    """The algorithms of each run of the suite. No kernel runs, and the processes are this one."""
    made: list[list[str]] = []

    def run(*, backends: Any, algorithms: Any, effort: str, seed: int, timeout: float) -> Report:
        made.append(list(algorithms))
        cells = tuple(Cell(name, "ptx", "cpu", "emulated sm_90", RAN) for name in algorithms)
        options = {"effort": effort, "backends": backends, "devices": [], "targets": []}
        facts = {"triton": "3.9.0", "system": "this"}
        return Report(cells, (), seed, "2026-11-29", 1.0, {**options, "algorithms": algorithms}, facts)

    def process(command: list[str], **_: Any) -> Any:
        status = emulated_conformance.main(command[3:])
        return subprocess.CompletedProcess(command, status, "", "")

    monkeypatch.setattr(conformance, "run", run)
    monkeypatch.setattr(emulated_conformance, "describe", lambda: {"triton": "3.9.0", "system": "this"})
    monkeypatch.setattr(subprocess, "run", process)
    return made


def test_all_algorithms_are_checked_once(runs, tmp_path):
    given = ["ptx", "--parts", str(tmp_path / "parts"), "--report", str(tmp_path / "report.json")]
    assert emulated_conformance.main([*given, "--report", str(tmp_path / "report.md")]) == 0
    every = [record.name for record in algorithms.all_algorithms()]
    assert sorted(name for names in runs for name in names) == sorted(every)
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert [cell["algorithm"] for cell in report["cells"]] == every
    assert report["ok"]
    assert (tmp_path / "report.md").read_text("utf-8").startswith("# Conformance")


def test_some_algorithms_are_checked(runs, tmp_path):
    given = ["ptx", "--parts", str(tmp_path), "--algorithm", "MD5", "--algorithm", "crc32"]
    assert emulated_conformance.main(given) == 0
    assert runs == [["md5"], ["crc32"]]


def test_a_run_that_was_made_is_not_repeated(runs, tmp_path, monkeypatch, capsys):
    first, second = ["md5", "hmac_md5"], ["sha1"]
    monkeypatch.setattr(emulated_conformance, "groups", lambda *_: [first, second])
    assert emulated_conformance.main(["ptx", "--parts", str(tmp_path), "--only", *first]) == 0
    assert emulated_conformance.main(["ptx", "--parts", str(tmp_path)]) == 0
    assert runs == [first, second]
    # A run that ended without a report is made again, and until then there is no report of all.
    emulated_conformance.part(tmp_path, "ptx", second).unlink()
    with monkeypatch.context() as broken:
        broken.setattr(
            subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", "")
        )
        assert emulated_conformance.main(["ptx", "--parts", str(tmp_path)]) == 1
    assert "no report of: sm_90-sha1" in capsys.readouterr().err
    assert emulated_conformance.main(["ptx", "--parts", str(tmp_path)]) == 0
    assert runs == [first, second, second]


def test_a_report_is_continued(runs, tmp_path):
    """What ran is not run again; but what was run again, or is named, counts as it is now."""
    report = tmp_path / "report.json"
    given = ["ptx", "--parts", str(tmp_path / "first"), "--report", str(report)]
    assert emulated_conformance.main([*given, *("--algorithm", "md5", "--algorithm", "crc32")]) == 0
    data = json.loads(report.read_text("utf-8"))
    for cell in data["cells"]:
        cell["device_name"] = f"emulated {emulated_conformance.target_of('ptx')}"
        cell["launches"] = 7
    data["environment"]["system"] = "another"
    report.write_text(json.dumps(data), "utf-8")

    runs.clear()
    parts = tmp_path / "second"
    given = ["ptx", "--parts", str(parts), "--begin", str(report), "--report", str(tmp_path / "all.json")]
    assert emulated_conformance.main([*given, "--partial", "--algorithm", "sha1"]) == 0
    assert runs == []
    assert emulated_conformance.main([*given, "--only", "crc32"]) == 0
    assert emulated_conformance.main([*given, "--most", "1"]) == 0
    every = [record.name for record in algorithms.all_algorithms()]
    assert sorted(name for names in runs for name in names) == sorted(set(every) - {"md5"})
    assert {len(names) for names in runs} == {1}
    found = json.loads((tmp_path / "all.json").read_text("utf-8"))
    assert [cell["algorithm"] for cell in found["cells"]] == every
    assert [cell["algorithm"] for cell in found["cells"] if cell["launches"]] == ["md5"]
    assert found["environment"] == {"triton": "3.9.0", "system": ["another", "this"]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"environment": {"triton": "3.6.0"}}, r"triton of the environment is 3\.6\.0 and 3\.9\.0"),
        ({"cells": []}, "is not a report of an emulated sm_90"),
    ],
)
def test_a_report_of_other_kernels_is_not_continued(runs, tmp_path, change, says):
    report = tmp_path / "report.json"
    given = ["ptx", "--parts", str(tmp_path / "parts"), "--algorithm", "md5"]
    assert emulated_conformance.main([*given, "--report", str(report)]) == 0
    report.write_text(json.dumps({**json.loads(report.read_text("utf-8")), **change}), "utf-8")
    given = ["ptx", "--parts", str(tmp_path / "others"), "--algorithm", "sha1"]
    with pytest.raises(ValueError, match=says):
        emulated_conformance.main([*given, "--begin", str(report)])
    assert runs == [["md5"]]  # it is refused before anything runs
