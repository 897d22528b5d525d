"""``python -m bench.emulation_mutants``: what it changes, what it finds, and that survivors are explained."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from bench.emulation_mutants import amdgcn, changes, ptx, report, trials
from bench.emulation_mutants.__main__ import TARGETS
from integrity_triton import algorithms
from integrity_triton.backends.amdgcn.kernel import AmdProgram
from integrity_triton.backends.emulation.faults import EmulationError
from integrity_triton.backends.ptx.program import PtxProgram

ROOT = Path(__file__).resolve().parents[2]

PTX = """
.version 8.7
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 out)
.reqntid 64
{
    .shared .align 16 .b8 smem[256];
    .reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %d<4>;
    ld.param.u64 %d1, [out];
    mov.u32 %r1, %tid.x;
    mov.u32 %r8, 5;
    mov.u32 %r2, smem;
    mad.lo.u32 %r2, %r1, 4, %r2;
    st.shared.b32 [%r2], %r1;
    bar.sync 0;
    xor.b32 %r3, %r2, 128;
    ld.shared.b32 %r4, [%r3];
    setp.lt.u32 %p1, %r1, 60;
    cvt.u64.u32 %d2, %r2;
    add.u64 %d3, %d1, %d2;
    @%p1 st.global.b32 [%d3], %r4;
    ret;
}
"""
AMD = """
	.amdgcn_target "amdgcn-amd-amdhsa--gfx942"
	.text
k:
	v_lshlrev_b32_e32 v1, 2, v0
	ds_write_b32 v1, v0
	s_waitcnt lgkmcnt(0)
	s_barrier
	v_xor_b32_e32 v2, 0x100, v1
	ds_read_b32 v3, v2
	v_cmp_gt_u32_e32 vcc, 60, v0
	s_and_saveexec_b64 s[2:3], vcc
	s_waitcnt lgkmcnt(0)
	v_add_u32_e32 v4, v3, v1
	ds_write_b32 v1, v4
	s_endpgm
.Lfunc_end0:
	.amdhsa_kernel k
		.amdhsa_group_segment_fixed_size 512
		.amdhsa_user_sgpr_count 2
	.end_amdhsa_kernel
	.amdgpu_metadata
---
amdhsa.kernels:
  - .args:
    .max_flat_workgroup_size: 128
    .wavefront_size: 64
...
	.end_amdgpu_metadata
"""


def codes() -> dict[str, changes.Code]:
    return {
        "ptx": ptx.code(PtxProgram.parsed(PTX, "k")),
        "amdgcn": amdgcn.code(AmdProgram.parsed(AMD.replace("    .max", "\n    .max"), "k")),
    }


@pytest.mark.parametrize("name", ["ptx", "amdgcn"])
def test_all_kinds_of_changes_are_drawn(name):
    code = codes()[name]
    blocks = range(len(code.blocks()))
    drawn = [changes.draw_changes(code, blocks, 60, seed, lambda change: True) for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]
    kinds = {change.kind for change in drawn[0]}
    assert kinds >= {"operation", "operand", "constant", "mask", "barrier"} and kinds <= set(changes.KINDS)
    assert ("wait" in kinds) == (name == "amdgcn")
    assert all(change.before != change.after for change in drawn[0])
    assert len({(c.block, c.index, c.after) for c in drawn[0]}) == len(drawn[0])
    assert changes.draw_changes(code, [len(code.blocks()) - 1], 5, "1", lambda change: False) == []


@pytest.mark.parametrize(("name", "unread"), [("ptx", "mov.u32 %r8, 5"), ("amdgcn", "")])
def test_what_nothing_reads_is_recognised(name, unread):
    code = codes()[name]
    found = set()
    for number, block in enumerate(code.blocks()):
        for index, instruction in enumerate(block):
            for kind, text in code.changes(number, index, random.Random(0)):
                change = changes.Change(kind, number, index, instruction.text, text, "")
                if code.unread(change):
                    found.add(instruction.text)
    assert found == ({unread} if unread else set())


def test_a_wait_that_is_left_out_is_found_before_the_kernel_runs():
    code = codes()["amdgcn"]
    (block, index), *_ = [
        (n, i)
        for n, instructions in enumerate(code.blocks())
        for i, instruction in enumerate(instructions)
        if instruction.name == "s_waitcnt"
    ]
    with pytest.raises(EmulationError):
        code.changed(changes.Change("wait", block, index, "s_waitcnt lgkmcnt(0)", "", ""))


def test_the_tables_count_what_is_not_equivalent():
    survivors = [
        {
            "kind": "mask",
            "line": "a.py:1",
            "before": "@%p1 x | y",
            "after": "",
            "equivalent": True,
            "why": "same",
        },
        {"kind": "wait", "line": "a.py:2", "before": "w 1", "after": "w 2", "equivalent": False, "why": ""},
    ]
    entry = {
        "kernel": "K", "target": "sm_90", "killed": {"digest": 2, "Race": 1}, "by_further": 1,
        "kinds": {"mask": [2, 3], "wait": [1, 2]}, "survivors": survivors,
    }  # fmt: skip
    assert report.share([entry]) == 0.75
    text = report.tables([entry])
    assert "| K | `sm_90` | 5 | 2 | 1 | 1 | 2 | 1 | 75.0% |" in text and "| mask | 3 | 2 |" in text
    assert "`@%p1 x \\| y`: left out | K, `sm_90` | equivalent: same |" in text
    old = f"before\n{report.BEGIN}\nx\n{report.END}\nafter\n"
    assert report.page(old, [entry]) == f"before\n{report.BEGIN}\n\n{text}\n{report.END}\nafter\n"
    assert report.BEGIN in report.PAGE.read_text("utf-8")


def test_an_explanation_is_kept():
    def entry(why: str) -> report.Entry:
        survivor = {"kind": "wait", "line": "a.py:2", "before": "w 1", "after": "w 2", "equivalent": False}
        return {"kernel": "K", "target": "sm_90", "survivors": [{**survivor, "why": why}]}

    (merged,) = report.merged([entry("because")], [entry("")])
    assert merged["survivors"][0]["why"] == "because"


def test_the_committed_run_killed_nearly_all():
    """At least 98 of 100 mutants that differ from the kernel at all, on either vendor's target; each survivor
    has an explanation, and the page shows what the file has."""
    results = report.load()
    assert {entry["target"] for entry in results} == set(TARGETS)
    for target in TARGETS:
        assert report.share(entry for entry in results if entry["target"] == target) >= 0.98
    assert all(survivor["why"] for entry in results for survivor in entry["survivors"])
    known = {subject.name: subject.kernel for subject in trials.SUBJECTS.values()}
    for entry in results:
        assert known[entry["kernel"]] == entry["function"]
        killed, count = map(sum, zip(*entry["kinds"].values(), strict=True))
        assert killed == sum(entry["killed"].values()) and count == killed + len(entry["survivors"])
    text = report.PAGE.read_text("utf-8")
    assert report.page(text, results) == text


def test_further_batches_fill_the_lanes_that_they_are_for():
    block, lanes = 64, 128

    def lengths(kind: str, **more) -> list[int]:
        return trials.EveryLength("sha256", {}, kind=kind, **more).lengths_of(block, lanes)

    assert 0 < len(lengths("few")) < lanes // 4
    *short, long = sorted(lengths("mixed"))
    assert long > 1000 and short[-1] <= 16
    # Messages are sorted by length, so that the shortest are those of the last program.
    assert sorted(lengths("empty"), reverse=True)[lanes:] == [0, 0, 0] and lengths("empty")[0]
    assert {*range(2 * block + 2), 777} <= set(lengths("every", more=(777,)))
    for quarters in (1, 2, 3, 4):
        whole = lengths("whole", quarters=quarters)
        assert (quarters - 1) * lanes // 4 < len(whole) < quarters * lanes // 4
        assert min(whole) >= 2 * block


@pytest.mark.parametrize("name", ["SipHash-2-4", "HighwayHash-64", "XXH3-64"])
def test_further_batches_have_the_subjects_modes_and_lengths(name):
    subject = trials.SUBJECTS[name]
    batches = [batch for _, batch in trials.Laboratory("sm_90").further(subject)]
    for mode in subject.modes:
        assert any(mode.items() <= dict(batch.parameters).items() for batch in batches)
    assert {batch.algorithm for batch in batches} == {subject.algorithm, *subject.others}
    every = [b for b in batches if b.kind == "every" and b.algorithm == subject.algorithm]
    assert {b.start % 4 for b in every} == {0, 1, 2, 3} and all(b.more == subject.lengths for b in every)


def test_every_subject_is_a_kernel_of_its_algorithm():
    for subject in trials.SUBJECTS.values():
        for name in (subject.algorithm, *subject.others):
            record = algorithms.get(name)
            for mode in ({}, *subject.modes):
                assert record.check_parameters({**subject.parameters, **mode}) is not None
        files = (ROOT / "kernels").glob("*.py")
        assert any(f"def {subject.kernel}(" in file.read_text("utf-8") for file in files)


@pytest.mark.slow
def test_a_sample_is_killed():
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "bench.emulation_mutants",
        "CRC-32C",
        "--target",
        "sm_90",
    ]
    done = subprocess.run(
        [*command, "--count", "8", "--seed", "7"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "100.0% killed of those that are not equivalent" in done.stdout, done.stdout
