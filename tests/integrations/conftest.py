"""Other projects' code, which runs beside ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("INTEGRITY_TRITON_OTHER_PROJECTS") or ROOT / ".venv-test/other-projects")


@pytest.fixture(scope="session")
def other_project() -> Callable[[str], Path]:
    """A function that gives the folder in which a project of ``requirements.txt`` or
    ``requirements-large.txt`` is installed without its dependencies, and skips the test where it is not.

    A test puts the folder on ``sys.path`` of a process of its own, or loads single files from it by their
    paths, so that no other test meets half a package.
    """

    def find(name: str) -> Path:
        found = sorted(FOLDER.glob(f"{name}==*"))
        if not found:
            pytest.skip(f"absent: {name} is not installed in {FOLDER}")
        return found[-1]

    return find
