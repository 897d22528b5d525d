"""The rooms of docs/architecture.md: who may import whom, and what stays in its own file."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "integrity_triton"

# From the front of the house to the back: a room may import itself and the rooms after it.
ROOMS = ["cli", "models", "conformance", "aot", "api", "backends", "algorithms", "base"]
API = {"batch", "crc", "files", "hashing", "kdf", "lthash", "mac", "ops", "_data"}
BASE = {"errors", "_version"}
VENDOR = re.compile(r"cuda|nvidia|hip|rocm|amd|xpu|intel", re.IGNORECASE)
VENDOR_FILES = {"cuda.py", "hip.py", "xpu.py", "opencl.py"}
# Ahead-of-time compiling names its targets.
VENDOR_FOLDERS = {"aot"}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str | None:
    """The room of a module of this package; None for the package itself and its entry script."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return None
    if parts[1] in API:
        return "api"
    if parts[1] in BASE:
        return "base"
    return parts[1]


def imports(module: str, path: Path) -> set[str]:
    """Every module that ``path`` imports, at any depth, relative imports resolved."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", modules())
def test_a_room_knows_only_the_rooms_behind_it(module):
    here = room(module)
    if here is None:
        return
    for name in imports(module, modules()[module]):
        if not name.startswith("integrity_triton."):
            continue
        assert not name.startswith("integrity_triton.kernels"), "kernels are named by reference, not imported"
        there = (
            room(name) if name.split(".")[1] in (*ROOMS, *API, *BASE) else "api"
        )  # from the package itself
        if there == "conformance" and here == "models":
            pytest.fail("models and conformance stand side by side")
        assert ROOMS.index(there) >= ROOMS.index(here), f"{module} ({here}) imports {name} ({there})"


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda p: p.stem)
def test_kernels_import_triton_and_their_siblings_alone(path):
    for name in imports(f"integrity_triton.kernels.{path.stem}", path):
        assert name.split(".")[0] == "triton" or name.startswith("integrity_triton.kernels."), name


def test_algorithms_import_the_standard_library_alone():
    for module, path in modules().items():
        if room(module) == "algorithms":
            for name in imports(module, path):
                top = name.split(".")[0]
                assert top in sys.stdlib_module_names or name.startswith("integrity_triton.algorithms"), name


@pytest.mark.parametrize("module", modules())
def test_vendors_are_named_in_their_own_files_alone(module):
    path = modules()[module]
    if path.name in VENDOR_FILES or path.parent.name in VENDOR_FOLDERS:
        return
    tree = ast.parse(path.read_text("utf-8"))
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            text = node.value
        elif isinstance(node, ast.Attribute):
            text = node.attr
        elif isinstance(node, ast.Name):
            text = node.id
        words = re.findall(r"[a-z]+", text.lower())
        named = [word for word in words if VENDOR.fullmatch(word)]
        if named and not (module == "integrity_triton.backends" and f"{named[0]}.py" in VENDOR_FILES):
            pytest.fail(f"{path.relative_to(ROOT)}:{node.lineno} names {named[0]}")


def test_every_package_is_packaged():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    present = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")} | {
        "integrity_triton.kernels"
    }
    assert set(config["packages"]) == present
    assert config["package-dir"] == {"integrity_triton.kernels": "kernels"}


def test_the_page_names_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for name in ("kernels/", "algorithms/", "backends/", "aot/", "models/", "conformance/", "cli.py"):
        assert name in page
