"""The build for the Kernel Hub, of this checkout or of a changed copy of its files."""

from __future__ import annotations

import functools
import importlib.util
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = {"torch-cpu": "cpu", "torch-cuda": "cuda", "torch-rocm": "rocm", "torch-xpu": "xpu"}
REPOSITORY = "someone/integrity-triton"


@functools.cache  # it keeps what it has found in a file
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("kernel_hub", ROOT / ".ci" / "kernel_hub.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sources(target: Path) -> Path:
    """A copy of the files that a build reads."""
    for folder in ("integrity_triton", "kernels"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    return target


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text("utf-8") + text, "utf-8")
