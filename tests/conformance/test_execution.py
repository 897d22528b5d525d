"""A run on an emulated backend fails if it leaves code of the kernels out, unless the list has a reason."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from integrity_triton import algorithms, conformance
from integrity_triton.algorithms import known_answers
from integrity_triton.backends import registry
from integrity_triton.backends.emulation.program import Missed
from integrity_triton.conformance import checks, execution, render, suite, tally, unexecuted
from integrity_triton.conformance import kernels as conformance_kernels
from integrity_triton.conformance.execution import Unexecuted, places, problems
from integrity_triton.conformance.report import FAILED, RAN, Cell, Failure, KernelExecution, Report
from integrity_triton.conformance.subject import SLOW_EFFORTS, Subject
from integrity_triton.conformance.unexecuted import REVIEWED, TOGETHER, TOGETHER_ON, UNEXECUTED
from integrity_triton.self_tests.admission import VARIABLE

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "kernels" / "crc.py").read_text("utf-8").split("\n")
CALL = next(n for n, line in enumerate(LINES, 1) if "message_of_piece(" in line)
TARGETS = [
    *(("ptx", name) for name in ("sm_80", "sm_89", "sm_90")),
    *(("amdgcn", name) for name in ("gfx942", "gfx950", "gfx1100", "gfx1201")),
]


@pytest.fixture
def on_target(monkeypatch):
    """A function that has an emulated backend emulate a target."""

    def choose(backend: str, target: str) -> None:
        kind = type(registry.get(backend))
        monkeypatch.setenv(kind.target_variable, target)
        monkeypatch.setitem(registry._backends, backend, kind())
        monkeypatch.delitem(registry._probes, backend, raising=False)

    return choose


def test_code_that_no_check_executes_fails_the_run(monkeypatch):
    """With one check instead of all of them, and without self-tests, blocks remain that nothing executed."""
    monkeypatch.setenv(VARIABLE, "off")
    monkeypatch.setattr(tally, "CHECKS", {"one message": checks.one_message})
    for check in ("every_kernel", "full_programs", "remaining_code"):
        monkeypatch.setattr(tally, check, lambda subject: iter(()))
    monkeypatch.setattr(suite, "UNEXECUTED", ())
    monkeypatch.setattr(suite, "REVIEWED", {"emulated sm_90": {"siphash_2_4"}})
    given = {"backends": ["ptx"], "algorithms": ["siphash_2_4"], "effort": "quick", "seed": 1}
    report = conformance.run(**given)
    assert [cell.status for cell in report.cells] == ["ran"]
    (problem,) = report.problems
    assert problem.startswith("siphash_messages ")
    assert " on ptx was not executed in full: block " in problem
    assert not report.ok
    monkeypatch.setattr(suite, "UNEXECUTED", (Unexecuted("For a test.", kernel="siphash_messages"),))
    assert conformance.run(**given).ok
    monkeypatch.setattr(suite, "UNEXECUTED", ())
    monkeypatch.setattr(suite, "REVIEWED", {"emulated sm_90": {"sha256"}})
    assert conformance.run(**given).ok


@pytest.mark.slow
def test_full_programs_execute_what_small_batches_leave_out(monkeypatch, on_target):
    """A thread has code of its own for each of its messages, on AMD's GPUs with a branch for each load."""
    on_target("amdgcn", "gfx942")
    monkeypatch.setattr(suite, "REVIEWED", {"emulated gfx942": {"xxh64"}})
    given = {"backends": ["amdgcn"], "algorithms": ["xxh64"], "effort": "quick", "seed": 1}
    report = conformance.run(**given)
    assert report.ok, report.problems
    assert report.cells[0].checks["full programs"] > 0
    monkeypatch.setattr(tally, "full_programs", lambda subject: iter(()))
    monkeypatch.setattr(tally, "remaining_code", lambda subject: iter(()))
    report = conformance.run(**given)
    assert {problem.partition(" ")[0] for problem in report.problems} == {"xxh64_messages"}
    assert any("global_load_dword" in problem for problem in report.problems)


def test_a_wrong_key_of_one_message_is_found(monkeypatch):
    """Known answers have one key of each length, so that a second one tells messages apart."""
    monkeypatch.setattr(conformance_kernels, "_open", lambda *_, **__: 0)
    record, native = algorithms.get("siphash_2_4"), registry.get("native")
    if native.unsupported(record):
        pytest.skip(f"absent: {native.unsupported(record)}")
    known = known_answers.load(record)
    assert known is not None
    subject = Subject(
        record,
        "native",
        torch.device("cpu"),
        SLOW_EFFORTS["quick"],
        known,
        np.random.default_rng(1),
        None,
        None,
    )
    answers = [a for a in known_answers.usual(record, known.answers) if 0 < a.size <= 64]
    batches = [answers], [[answers[5]] * 40]
    cases = list(conformance_kernels._own_parameters(subject, *batches, 16))
    assert cases and all(case.good for case in cases)
    assert len(cases) == 2 * len(answers) + 2 * 40
    batch = Subject.batch

    def with_the_first_key_for_message_20(self, messages, **given):
        if isinstance(given["key"], list):
            first = next(key for key in given["key"] if key != given["key"][20])
            given["key"] = [*given["key"][:20], first, *given["key"][21:]]
        return batch(self, messages, **given)

    monkeypatch.setattr(Subject, "batch", with_the_first_key_for_message_20)
    wrong = [c.label for c in conformance_kernels._own_parameters(subject, *batches, 16) if not c.good]
    assert [label.rpartition("message ")[2] for label in wrong] == [f"20 of {len(answers)}", "20 of 40"]


def test_an_entry_stands_for_a_share_of_a_kernel():
    missed = tuple(Missed("block", str(n), f"instruction{n % 2}") for n in range(6))
    entry = Unexecuted("Why.", instruction="instruction0", share=0.3)
    few, many = KernelExecution(10, missed), KernelExecution(9, missed)
    assert execution.unlisted("ptx", "k 12", few, [entry]) == list(missed[1::2])
    assert execution.unlisted("ptx", "k 12", many, [entry]) == list(missed)


def test_full_programs_need_an_emulated_backend(monkeypatch):
    monkeypatch.setattr(
        conformance_kernels, "_open", lambda *_, **__: pytest.fail("nothing is to be launched")
    )
    subject = SimpleNamespace(backend="native", record=algorithms.get("xxh64"), known=None)
    assert list(conformance_kernels.full_programs(subject)) == []
    subject = SimpleNamespace(backend="ptx", record=algorithms.get("tuplehash_128"), known=None)
    assert list(conformance_kernels.full_programs(subject)) == []


def test_remaining_code_is_sought_by_the_tests_that_differ_most(monkeypatch):
    """Ten tests launch one kernel; the second and the last execute what is left of it."""
    left, begun = {"kernel": 2}, []
    kernel = SimpleNamespace(name="kernel")
    found = [(SimpleNamespace(label=f"kind {n % 2}", number=n), {"configuration"}) for n in range(10)]
    other = SimpleNamespace(label="kind 0", number="other"), {"another configuration"}
    monkeypatch.setattr(conformance_kernels, "_trials", lambda *_: iter([*found, other]))
    monkeypatch.setattr(conformance_kernels, "_missed", lambda backend, kernel: [None] * left["kernel"])

    def carried_out(subject, trial, backend):
        begun.append(trial.number)
        left["kernel"] -= trial.number in executing
        yield trial.number

    monkeypatch.setattr(conformance_kernels, "_carried_out", carried_out)
    watch = SimpleNamespace(configurations={"configuration": {"kernel": kernel}})
    subject = SimpleNamespace(backend="ptx", watch=watch, record=algorithms.get("sha256"))

    executing = {1, 9}
    assert list(conformance_kernels.remaining_code(subject)) == begun
    assert begun == [9, 8, 7, 6, 5, 4, 3]  # three in vain of either kind: the second is never begun
    assert left["kernel"] == 1
    begun.clear()
    left["kernel"], executing = 2, {8, 9}
    assert list(conformance_kernels.remaining_code(subject)) == begun == [9, 8]
    left["kernel"] = 0
    monkeypatch.setattr(conformance_kernels, "_trials", lambda *_: pytest.fail("nothing is sought"))
    assert list(conformance_kernels.remaining_code(subject)) == []
    left["kernel"] = 2
    subject.record = algorithms.get("highwayhash_64")  # its kernel is executed together with the other sizes
    assert list(conformance_kernels.remaining_code(subject)) == []
    subject.backend = "native"
    subject.record = algorithms.get("sha256")
    assert list(conformance_kernels.remaining_code(subject)) == []


def test_a_place_is_found_by_what_stays_when_lines_move():
    missed = Missed("block", "3", f"div.s64 %rd1 at crc.py:{CALL}, called at batch.py:1")
    kernel = "crc_fold 0123456789ab"
    entry = Unexecuted("Why.", kernel="crc_fold", instruction="div.s64", source="message_of_piece(")
    assert entry.covers("ptx", kernel, missed)
    assert replace(entry, instruction="div*%rd1 at").covers("ptx", kernel, missed)
    function = places(missed.what)[0][0]
    assert function.startswith("crc.py:crc_")
    assert replace(entry, function=function).covers("ptx", kernel, missed)
    assert replace(entry, constants={"FINAL": True}).covers("ptx", kernel, missed, {"FINAL": True, "D": 4})
    assert not replace(entry, constants={"FINAL": True}).covers("ptx", kernel, missed, {"FINAL": False})
    for other in (
        {"kernel": "crc_finish"},
        {"instruction": "div.u64"},
        {"instruction": "div.s64*rd2"},
        {"function": "crc.py:other"},
        {"source": "no such text"},
        {"kind": "rows"},
        {"backends": ("amdgcn",)},
        {"constants": {"FINAL": True}},
    ):
        assert not replace(entry, **other).covers("ptx", kernel, missed), other
    rows = Missed("columns", "17, 18, 31", "wgmma at poly1305_matrix.py:1")
    columns = Unexecuted("Why.", kind="columns", numbers=range(17, 32))
    assert columns.covers("ptx", kernel, rows)
    assert not replace(columns, numbers=range(17, 31)).covers("ptx", kernel, rows)


def test_only_what_is_not_listed_is_a_problem():
    missed = tuple(Missed("block", str(n), f"instruction{n}") for n in range(3))
    whole, part = KernelExecution(5, missed), KernelExecution(5, missed[1:2])
    listed = [Unexecuted("Why.", instruction="instruction1")]
    assert list(problems({("ptx", "k 12"): whole, ("ptx", "l 34"): part}, listed)) == [
        "k 12 on ptx was not executed in full: block 0: instruction0; block 2: instruction2"
    ]


def _report(algorithm: str, *missed: Missed, **changes: Any) -> Report:
    execution = KernelExecution(5, missed)
    cell = Cell(algorithm, "ptx", "cpu", "emulated sm_90", RAN, coverage={"k 12": execution})
    same = ("devices", "algorithms", "targets")
    options = {"effort": "quick", "backends": ["ptx"], "jobs": 1, **{name: [] for name in same}}
    report = Report((cell,), (), 7, "2026-11-29T00:00:00", 2.0, options, {"triton": "3.9.0"})
    return replace(report, **changes)


def test_reports_of_runs_over_a_few_algorithms_are_merged(monkeypatch):
    """What one of the runs executed is executed, and the rest is a problem of the merged report."""
    monkeypatch.setattr(suite, "REVIEWED", {"emulated sm_90": {"sha1", "sha256"}})
    both, first, second = (Missed("block", str(n), f"instruction{n}") for n in range(3))
    parts = [_report("sha1", both, first), _report("sha256", both, second, date="2026-11-28T00:00:00")]
    report = suite.merged(parts)
    assert [cell.algorithm for cell in report.cells] == ["sha256", "sha1"]  # the order of all algorithms
    assert report.problems == ("k 12 on ptx was not executed in full: block 0: instruction0",)
    assert (report.date, report.seconds, report.options["runs"]) == ("2026-11-28T00:00:00", 4.0, 2)
    failed = replace(parts[0].cells[0], status=FAILED, failed=1)
    (problem,) = suite.merged([_report("sha256"), _report("sha1", cells=(failed,))]).problems
    assert problem.startswith("sha1 failed on ptx")


def test_a_report_in_markdown_tells_what_has_a_reason_and_what_is_judged():
    missed = Missed("block", "0", "div.s64 %rd1 at crc.py:1"), Missed("block", "1", "add %r1")
    text = render.to_markdown(_report("sha1", *missed))
    assert "| ptx | k 12 | 5 | block 0: div.s64 %rd1 at crc.py:1; block 1: add %r1 | 1 |" in text
    assert f"reviewed on its device: {len(REVIEWED['emulated sm_90'])} algorithms on emulated sm_90." in text
    report = _report("sha1")
    cell = replace(report.cells[0], device_name="emulated sm_80")
    assert "none on emulated sm_80." in render.to_markdown(replace(report, cells=(cell,)))


@pytest.mark.parametrize("on_a_device", [False, True])
def test_algorithms_that_share_a_kernel_are_judged_together(on_a_device, monkeypatch):
    """One of them leaves code to the others, so a run without these does not fail for it."""
    monkeypatch.setattr(suite, "REVIEWED", {"emulated sm_90": {"sha1", "sha256", "md5"}})
    others = {"sha1": {"sha256"}}
    monkeypatch.setattr(unexecuted, "TOGETHER", {} if on_a_device else others)
    monkeypatch.setattr(unexecuted, "TOGETHER_ON", {"emulated sm_90": others} if on_a_device else {})
    both, first, second = (Missed("block", str(n), f"instruction{n}") for n in range(3))
    alone, other = _report("sha1", both, first), _report("sha256", both, second)
    assert not suite.merged([alone]).problems
    assert not suite.merged([alone, _report("md5")]).problems
    assert suite.merged([other]).problems
    (problem,) = suite.merged([alone, other]).problems
    assert problem == "k 12 on ptx was not executed in full: block 0: instruction0"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 8}, "the seed is 7 and 8"),
        ({"environment": {"triton": "3.6.0"}}, r"triton of the environment is 3\.9\.0 and 3\.6\.0"),
        ({"options": {"effort": "full"}}, "the option effort is quick and full"),
        ({}, "sha1 on ptx was checked twice"),
    ],
)
def test_reports_of_different_runs_are_not_merged(changes, says):
    with pytest.raises(ValueError, match=says):
        suite.merged([_report("sha1"), _report("sha1", **changes)])
    with pytest.raises(ValueError, match="there are no reports"):
        suite.merged([])


def test_runs_on_several_machines_are_merged():
    """The report names all machines, also when another report is merged later."""
    parts = [
        _report(name, environment={"triton": "3.9.0", "system": system})
        for name, system in (("sha1", "Linux 1"), ("sha256", "Linux 2"), ("md5", "Linux 1"))
    ]
    report = suite.merged([suite.merged(parts[:2]), parts[2]])
    assert report.environment == {"triton": "3.9.0", "system": ["Linux 1", "Linux 2"]}
    assert report.options["runs"] == 3


def test_a_report_in_json_is_read_again():
    gaps = (Missed("block", "3", "add: of at a.py:3"), Missed("rows", "1, 2", "mma of b"))
    failure = Failure("streams", "one", "ab", "cd")
    parts = [_report("sha1", *gaps, Missed("block", "4", "")), _report("md5", *gaps), _report("sha256")]
    cell = replace(parts[0].cells[0], status=FAILED, failed=1, failures=(failure,), checks={"streams": 2})
    parts[0] = replace(parts[0], cells=(cell,))
    parts[2] = replace(parts[2], cells=(replace(parts[2].cells[0], coverage={}),))
    report = suite.merged(parts)
    data = json.loads(render.to_json(report))
    again = render.from_dict(data)
    assert render.to_json(again) == render.to_json(report)
    found = {cell.algorithm: cell.coverage for cell in again.cells}
    # What all cells together executed of a kernel, in each cell that launched it.
    execution = KernelExecution(5, gaps)
    assert found == {"sha256": {}, "sha1": {"k 12": execution}, "md5": {"k 12": execution}}
    del data["executed"][0]["algorithms"]
    assert [cell.coverage for cell in render.from_dict(data).cells] == [{"k 12": execution}, {}, {}]
    with pytest.raises(ValueError, match="format 2"):
        render.from_dict({**data, "format": 2})


def test_every_listed_place_exists():
    """A function or a line that was changed needs another look at its reason."""
    for entry in UNEXECUTED:
        assert entry.reason.endswith("."), entry
        assert entry.kernel or entry.instruction or entry.function or entry.source, entry
        assert set(entry.backends) <= {"ptx", "amdgcn"}, entry
        files = list((ROOT / "kernels").glob("*.py"))
        if entry.function:
            file, _, name = entry.function.partition(":")
            tree = ast.parse((ROOT / "kernels" / file).read_text("utf-8"))
            functions = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
            assert not name or name in functions, entry  # no name: the compiler gives no line
            files = [ROOT / "kernels" / file]
        if entry.source:
            assert any(entry.source in file.read_text("utf-8") for file in files), entry
        if entry.kernel:
            assert any(
                f"def {entry.kernel}(" in p.read_text("utf-8") for p in (ROOT / "kernels").glob("*.py")
            )


def test_every_reviewed_algorithm_exists():
    known = {name for backend in ("ptx", "amdgcn") for name in registry.get(backend).targets()}
    for device, names in REVIEWED.items():
        assert device.removeprefix("emulated ") in known
        assert names <= {record.name for record in algorithms.all_algorithms()}
        assert all(TOGETHER.get(name, set()) <= names for name in names)
        others = TOGETHER_ON.get(device, {})
        assert all(others.get(name, set()) <= names for name in names)
    assert TOGETHER_ON.keys() <= REVIEWED.keys()
    assert TOGETHER.keys() <= {record.name for record in algorithms.all_algorithms()}


def test_places_outside_the_kernels_are_none():
    assert places("add at standard.py:5, called at nowhere.py:1 and crc.py:999999") == []
    assert execution._source("nowhere.py") == ({}, [])


@pytest.mark.slow
@pytest.mark.rotating(3)
@pytest.mark.parametrize(
    ("emulator", "target"), [t for t in TARGETS if t[1] in ("sm_90", "gfx942", "gfx1100")]
)
def test_a_sample_conforms(emulator, target, on_target):
    on_target(emulator, target)
    report = conformance.run(
        backends=[emulator], algorithms=["md5", "siphash_2_4"], effort="quick", seed=20261129
    )
    assert report.ok, report.problems
    assert {cell.device_name for cell in report.cells} == {f"emulated {target}"}


@pytest.mark.exhaustive
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize(("emulator", "target"), TARGETS)
def test_the_backend_conforms(emulator, target, on_target):
    on_target(emulator, target)
    report = conformance.run(backends=[emulator], effort="quick", seed=20261129)
    assert report.ok, report.problems
