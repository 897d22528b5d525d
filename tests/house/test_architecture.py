"""The rooms of docs/internals/architecture.md: which room may import which, and what belongs in one file
only."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

from integrity_triton.algorithms import constructions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "integrity_triton"

# From the front of the house to the back. A room may import itself and the rooms after it.
ROOMS = [
    "cli",
    "conformance",
    "integrations",
    "models",
    "trees",
    "aot",
    "api",
    "backends",
    "self_tests",
    "drivers",
    "launching",
    "messages",
    "algorithms",
    "base",
]
# Neither of the two rooms of a pair imports the other, although one of them comes first in the list.
STRANGERS = {("conformance", "models"), ("conformance", "integrations"), ("conformance", "trees")}
# Files at the top of the package. They have no folder whose name would be that of their room.
API = {"batch", "crc", "eager", "emulation", "files", "hashing", "kdf", "lthash", "mac", "merkle", "ops"}
BASE = {"errors", "output_files", "remote_files", "strict_json", "workers", "_version"}
ENTRANCES = {"integrity_triton", "integrity_triton.__main__"}
VENDOR = re.compile(r"cuda|nvidia|hip|rocm|amd|xpu|intel", re.IGNORECASE)
VENDOR_FILES = {"cuda.py", "hip.py", "xpu.py", "sev_snp.py", "tdx.py"}
# The file of ahead-of-time compiling names its targets, and so do the emulators of vendors' code.
VENDOR_FOLDERS = {"aot", "opencl", "ptx", "amdgcn"}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    """The room of a module of this package, or of a name in one."""
    name = module.split(".")[1]
    if name in API:
        return "api"
    if name in BASE:
        return "base"
    if name in ROOMS and name not in ("api", "base"):
        return name
    raise LookupError(f"{module} has no room: name it in tests/house/test_architecture.py")


def imports(module: str, path: Path, tree: ast.Module | None = None) -> set[str]:
    """Every module that ``path`` (or ``tree``) imports at any depth. Relative imports are resolved."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree or ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", sorted(modules().keys() - ENTRANCES))
def test_a_room_knows_only_the_rooms_behind_it(module):
    here = room(module)
    for name in imports(module, modules()[module]):
        if not name.startswith("integrity_triton."):
            continue
        assert not name.startswith("integrity_triton.kernels"), "kernels are named by reference, not imported"
        # A name that is imported from the package itself is part of the API, unless it is a module.
        top = ".".join(name.split(".")[:2])
        there = room(name) if top in modules() else "api"
        assert (here, there) not in STRANGERS, f"{module} imports {name}"
        assert ROOMS.index(there) >= ROOMS.index(here), f"{module} ({here}) imports {name} ({there})"


def loaded(module: str) -> set[str]:
    """The modules of this package that are imported while ``module`` is being imported."""
    path = modules()[module]
    found: set[str] = set()
    tree = ast.parse(path.read_text("utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for name in imports(module, path, tree):
        found |= {name, name.rpartition(".")[0]} & modules().keys()
    return found - {module, "integrity_triton"}


def test_no_module_imports_itself_through_others():
    graph = {module: loaded(module) for module in modules()}
    for start, imported in graph.items():
        seen: set[str] = set()
        pending = set(imported)
        while pending:
            module = pending.pop()
            seen.add(module)
            pending |= graph[module] - seen
        assert start not in seen, f"{start} is part of a circle of imports"


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda p: p.stem)
def test_kernels_import_triton_and_their_siblings_alone(path):
    for name in imports(f"integrity_triton.kernels.{path.stem}", path):
        assert name.split(".")[0] == "triton" or name.startswith("integrity_triton.kernels."), name


def test_algorithms_import_the_standard_library_alone():
    for module, path in modules().items():
        if module.startswith("integrity_triton.algorithms"):
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
        if named and not (
            module == "integrity_triton.backends.registry" and f"{named[0]}.py" in VENDOR_FILES
        ):
            pytest.fail(f"{path.relative_to(ROOT)}:{node.lineno} names {named[0]}")


def test_a_construction_is_asked_and_not_its_type():
    """A new construction would not be among the types that a file knows."""
    base = constructions.Construction
    types = {k for k, v in vars(constructions).items() if isinstance(v, type) and issubclass(v, base)}
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                asked = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
                assert not asked & types, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_package_is_packaged():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    present = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")} | {
        "integrity_triton.kernels"
    }
    assert set(config["packages"]) == present
    assert config["package-dir"] == {"integrity_triton.kernels": "kernels"}


def test_the_page_names_every_room():
    page = (ROOT / "docs" / "internals" / "architecture.md").read_text("utf-8")
    for name in (*(f"{room}/" for room in ROOMS if room not in ("api", "base")), "kernels/"):
        assert name in page
