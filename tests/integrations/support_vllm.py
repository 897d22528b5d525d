"""Python processes in which vLLM itself runs, from the folders in which it is installed for the tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from integrity_triton.integrations import vllm

ROOT = Path(__file__).resolve().parents[2]


def entry_point() -> str:
    """The line of ``pyproject.toml`` that registers the plug-in."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    section = re.search(r'^\[project\.entry-points\."vllm\.general_plugins"\]\n(\S+) = "(\S+)"$', text, re.M)
    return f"{section[1]} = {section[2]}"


def entry_point_folder(folder: Path) -> Path:
    """Make ``folder`` one in which this tree is installed with its entry point, and return it.

    The root of the repository would hide a package that transformers looks for, "kernels".
    """
    (folder / "integrity_triton").symlink_to(ROOT / "integrity_triton")
    point = folder / "this_tree-0.dist-info"
    point.mkdir()
    (point / "METADATA").write_text("Metadata-Version: 2.1\nName: this-tree\nVersion: 0\n")
    (point / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{entry_point()}\n")
    return folder


def in_vllm(code: str, *folders: Path, **environment: str) -> object:
    """Run ``code`` with ``folders`` to import from, and return the JSON in the last line that it prints."""
    ours = {"VLLM_PLUGINS", vllm.SWITCH, vllm.GUARD_OPTIONS}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folders[0],
        env={**kept, "PYTHONPATH": os.pathsep.join(map(str, folders)), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])
