"""The list of slow tests in tests/README.md names the slow tests that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiers

HERE = Path(__file__).resolve().parents[1]


def test_no_two_files_of_tests_have_one_name():
    """pytest imports each as a module of its own name, since the folders are no packages."""
    files: dict[str, Path] = {}
    for file in sorted(HERE.rglob("test_*.py")):
        assert files.setdefault(file.name, file) == file


def test_every_slow_test_is_listed(request: pytest.FixtureRequest):
    """Only the files that this run collected are compared."""
    slow = request.config.stash.get(tiers.SLOW, set())
    assert slow <= tiers.listed(), (
        "python -m pytest -m slow --times times.json; python tests/tiers.py times.json"
    )


def test_every_listed_test_exists():
    for name in tiers.listed():
        file, _, function = name.partition("::")
        assert f"def {function}(" in (HERE / file).read_text("utf-8"), name
