"""The suite notices changes in device files: runs a sample of what ``run.py`` runs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mutation.mutants import Source, files

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SURVIVORS = json.loads((HERE / "survivors.json").read_text("utf-8"))
FIELDS = ("file", "scope", "before", "after", "occurrence")


@pytest.fixture(scope="module")
def sources() -> dict[str, Source]:
    return {file: Source(file) for file in files()}


def test_survivors_exist_and_are_explained(sources):
    there = {mutant.key for source in sources.values() for mutant in source.mutants}
    keys = [tuple(entry[name] for name in FIELDS) for entry in SURVIVORS]
    assert len(set(keys)) == len(keys)
    assert not set(keys) - there, "these are no mutants any more: python tests/mutate.py --write"
    assert not [key for key, entry in zip(keys, SURVIVORS, strict=True) if len(entry["why"]) < 10]


def test_survivors_are_few(sources):
    mutants = sum(len(source.mutants) for source in sources.values())
    assert len(SURVIVORS) < mutants / 10


def test_every_mutant_is_another_file(sources):
    source = sources["sha1"]
    original = ast.unparse(source.tree) + "\n"
    texts = [source.text(mutant) for mutant in source.mutants]
    assert original not in texts
    assert len(set(texts)) == len(texts) == len({mutant.key for mutant in source.mutants})
    # The kernels are unchanged again.
    assert ast.unparse(source.tree) + "\n" == original
    for text in texts:
        compile(text, "mutant", "exec")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tests/mutate.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="not applicable: the interpreter is Triton's, for Linux")
def test_a_sample_is_killed():
    done = run("--sample", "16", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 of 16 killed" in done.stdout
