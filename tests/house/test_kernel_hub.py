"""The build for the Kernel Hub (.ci/kernel_hub.py), read and loaded by Hugging Face's ``kernels``."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import integrity_triton as it

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = {"torch-cpu": "cpu", "torch-cuda": "cuda", "torch-rocm": "rocm", "torch-xpu": "xpu"}
REPOSITORY = "someone/integrity-triton"


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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("first")
    tool().build(target, REPOSITORY)
    return target


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_variants_hold_what_is_installed_without_the_programs(built: Path):
    expected = {"LICENSE", "metadata.json", "integrity_triton/__init__.py"}
    for root in (ROOT / "integrity_triton", ROOT / "kernels"):
        for path in root.rglob("*.*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add(path.relative_to(ROOT).as_posix().removeprefix("integrity_triton/"))
    left_out = ("aot/", "cli/", "conformance/", "__main__.py")
    expected = {name for name in expected if not name.startswith(left_out)}
    assert sorted(path.name for path in (built / "build").iterdir()) == sorted([*VARIANTS, "CARD.md"])
    for variant in VARIANTS:
        assert contents(built / "build" / variant).keys() == expected


def test_no_file_is_rewritten(built: Path):
    for name, data in contents(built / "build" / "torch-cuda").items():
        if name in ("metadata.json", "integrity_triton/__init__.py"):
            continue
        places = [ROOT / "integrity_triton" / name, ROOT / name]
        assert data in [place.read_bytes() for place in places if place.is_file()], name


def test_the_metadata_name_every_file_with_its_digest(built: Path):
    names = set()
    for variant, backend in VARIANTS.items():
        files = contents(built / "build" / variant)
        metadata = json.loads(files.pop("metadata.json"))
        names.add(metadata["id"])
        assert metadata["id"].startswith(f"_integrity_triton_{backend}_")
        assert metadata["id"].isidentifier()
        assert metadata["backend"] == {"type": backend}
        assert str(metadata["version"]) == it.__version__.split(".", maxsplit=1)[0]
        assert metadata["digest"] == {
            "algorithm": "sha256",
            "files": {n: base64.b64encode(hashlib.sha256(d).digest()).decode() for n, d in files.items()},
        }
    assert len(names) == len(VARIANTS)


def test_the_identifier_depends_on_the_code_and_on_nothing_else(built: Path, tmp_path: Path):
    def identifier() -> str:
        files = tool().variant(tool().files(copy), "cuda", it.__version__)
        return json.loads(files["metadata.json"])["id"]

    before = json.loads((built / "build" / "torch-cuda" / "metadata.json").read_text("utf-8"))["id"]
    copy = sources(tmp_path / "copy")
    (copy / "integrity_triton" / "not_installed.txt").write_text("", "utf-8")
    assert identifier() == before
    append(copy / "kernels" / "sha2.py", "# another comment\n")
    assert identifier() != before


def test_an_absolute_name_is_refused(tmp_path: Path):
    copy = sources(tmp_path / "copy")
    path = copy / "integrity_triton" / "files.py"
    append(path, "\n\ndef unused():\n    from integrity_triton.batch import hash_batch\n")
    number = len(path.read_text("utf-8").splitlines())
    with pytest.raises(SystemExit, match=rf"integrity_triton/files\.py:{number}\b"):
        tool().build(tmp_path / "out", REPOSITORY, copy)
    assert not (tmp_path / "out").exists()


def test_every_form_of_an_absolute_name_is_found():
    lines = [
        "import os, integrity_triton",
        "import integrity_triton.files as files",
        "from integrity_triton.files import hash_file",
        "import_module('integrity_triton.files')",
        "importlib.util.find_spec('integrity_triton')",
        "resources.files('integrity_triton')",
        "from . import files",
        "import integrity_triton_of_others",
        "load_reference('integrity_triton.kernels.bits:bswap32')",
        "import_module(name)",
    ]
    assert tool().absolute_imports("\n".join(lines).encode()) == [1, 2, 3, 4, 5, 6]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path):
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "theirs").write_text("", "utf-8")
    with pytest.raises(SystemExit, match="not written by this program"):
        tool().build(tmp_path, REPOSITORY)
    assert (tmp_path / "build" / "theirs").exists()


def test_the_card_states_the_facts_of_the_records(built: Path):
    card = (built / "build" / "CARD.md").read_text("utf-8")
    assert card.startswith("---\nlibrary_name: kernels\nlicense: apache-2.0\n")
    assert f'get_kernel("{REPOSITORY}", version=0' in card
    rows = {line.split("`")[1]: line for line in card.splitlines() if line.startswith("| `")}
    from integrity_triton import algorithms

    for record in algorithms.all_algorithms():
        assert f"| {record.security.value} |" in rows.pop(record.name)
    assert rows.keys() == {"cuda", "hip", "xpu", "opencl", "native"}
    for row in rows.values():
        assert row in (ROOT / "README.md").read_text("utf-8").splitlines()


@pytest.fixture(scope="module")
def process(built: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process found that loaded the build of this checkout and one of another version."""
    # The checkout's folder of device code has the name of that package, so only a process can look for it.
    check = [sys.executable, "-I", "-c", "import kernels.importer"]
    if subprocess.run(check, cwd=built, capture_output=True, check=False).returncode:
        pytest.skip("kernels, of the dev extra, is absent")
    pytest.importorskip("triton", reason="triton is absent")
    folder = tmp_path_factory.mktemp("second")
    copy = sources(folder / "copy")
    version = copy / "integrity_triton" / "_version.py"
    version.write_text('__version__ = "9.0.0"\n', "utf-8")
    append(copy / "integrity_triton" / "__init__.py", '\nMARKER = "the second version"\n')
    tool().build(folder / "out", REPOSITORY, copy)
    # A package that extends the installed integrity_triton, and cannot extend a copy.
    other = folder / "other"
    (other / "other-1.0.dist-info").mkdir(parents=True)
    (other / "other-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n"
    )
    (other / "other-1.0.dist-info" / "entry_points.txt").write_text(
        "[integrity_triton.algorithms]\na = a_package_with_entry_points:RECORD\n"
        "[integrity_triton.backends]\nb = a_package_with_entry_points:Backend\n"
    )
    (other / "a_package_with_entry_points.py").write_text("RECORD = Backend = None\n")
    shutil.rmtree(copy)  # nothing may need the source
    shutil.copytree(built / "build" / "torch-cpu", other / "theirs" / "vendor" / "integrity_triton")
    script = Path(__file__).with_name("kernel_hub_process.py")
    command = [sys.executable, "-I", str(script), str(built), str(folder / "out"), str(other)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return {**json.loads(run.stdout), "stderr": run.stderr, "second": str(folder / "out")}


@pytest.mark.slow
def test_kernels_reads_the_builds(process: dict[str, Any]):
    assert [entry[:2] for entry in process["valid"]] == [[name, kind] for name, kind in VARIANTS.items()]
    assert process["info"]["name"] == "integrity-triton"
    assert process["info"]["backends"] == sorted(VARIANTS.values())
    assert process["chosen"] == {backend: [name] for name, backend in VARIANTS.items()}


@pytest.mark.slow
def test_it_is_loaded_from_its_folder_alone(process: dict[str, Any], built: Path):
    assert process["folders"] == [
        str(built / "build" / "torch-cpu"),
        str(Path(process["second"], "build", "torch-cpu")),
    ]
    # CPython's own module for its build settings has no public name.
    assert [name for name in process["imported"] if not name.startswith("_sysconfigdata")] == []
    assert process["failed"] == []
    assert not process["entry_point_was_loaded"]
    own = (str(ROOT / "integrity_triton"), str(ROOT / "kernels"))
    assert [file for file in process["files"] if file.startswith(own)] == []


@pytest.mark.slow
def test_two_versions_work_in_one_process(process: dict[str, Any]):
    assert process["versions"] == [it.__version__, "9.0.0"]
    assert process["markers"] == [None, "the second version"]
    assert len(set(process["names"])) == 2
    assert process["loaded"] == process["constructors"] == process["names"]
    assert process["errors_differ"]
    assert process["one_lock"]
    assert process["hashers"] == [hashlib.sha256(b"abc").hexdigest()] * 2


@pytest.mark.slow
def test_both_hash_on_every_backend_of_a_cpu(process: dict[str, Any]):
    rows = [bytes.fromhex(row) for row in process["rows"]]
    backends = [name for name in ("native", "opencl") if name in process["available"]]
    assert "native" in backends
    assert len(process["batches"]) == 2 * len(backends) * 3
    for label, found in process["batches"].items():
        assert found == [hashlib.new(label.split()[-1], row).hexdigest() for row in rows], label


@pytest.mark.slow
def test_each_has_torch_operators_of_its_own(process: dict[str, Any]):
    expected = [hashlib.sha256(bytes.fromhex(row)).hexdigest() for row in process["rows"]]
    assert process["operators"] == [expected, expected]
    for name, (digests, operators) in zip(process["names"], process["compiled"], strict=True):
        assert digests == expected
        assert operators == [f"{name}.hash_rows.default"]
    assert "hash_rows" not in process["installed_operators"]


@pytest.mark.slow
def test_a_kernel_of_ones_own_calls_a_device_function(process: dict[str, Any]):
    rows = [bytes.fromhex(row)[:55] for row in process["rows"]]
    for folder, (executed, file, hashed) in zip(process["folders"], process["device_functions"], strict=True):
        assert executed == ["hash_blocks"]
        assert file == str(Path(folder, "kernels", "sha2.py"))
        assert hashed == [hashlib.sha256(row).hexdigest() for row in rows]


@pytest.mark.slow
def test_it_has_every_algorithm(process: dict[str, Any]):
    from integrity_triton import algorithms

    assert process["algorithms"] == sorted(record.name for record in algorithms.all_algorithms())


@pytest.mark.slow
def test_older_versions_of_kernels_find_the_same_package(process: dict[str, Any]):
    assert process["older"] == [hashlib.sha256(b"abc").hexdigest(), True]


@pytest.mark.slow
def test_a_vendored_copy_has_the_name_of_its_place(process: dict[str, Any]):
    name, digests = process["vendored"]
    assert name == "theirs_vendor_integrity_triton"
    assert digests == process["operators"][0]
