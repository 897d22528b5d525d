"""The build for the Kernel Hub (.ci/kernel_hub.py), read and loaded by Hugging Face's ``kernels``.

``kernels`` is imported in a process of its own: on the path of these tests, the checkout's folder of device
code has its name.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import integrity_triton as it
from hub_build import REPOSITORY, ROOT, VARIANTS, append, sources, tool


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("first")
    tool().build(target, REPOSITORY)
    return target


@pytest.fixture(scope="module")
def process(
    built: Path, tmp_path_factory: pytest.TempPathFactory, other_project: Callable[[str], Path]
) -> dict[str, Any]:
    """What a process found that loaded the build of this checkout and one of another version."""
    kernels = other_project("kernels")
    pytest.importorskip("huggingface_hub", reason="huggingface_hub, of the dev extra, is absent")
    pytest.importorskip("sigstore", reason="sigstore, of the signing extra, is absent")
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
    command = [sys.executable, "-I", str(script), *map(str, (kernels, built, folder / "out", other))]
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
    (name,) = (identifier for variant, _, identifier in process["valid"] if variant == "torch-cuda")
    assert process["older"] == [hashlib.sha256(b"abc").hexdigest(), it.__version__, f"{name}.errors", True]


@pytest.mark.slow
def test_a_vendored_copy_has_the_name_of_its_place(process: dict[str, Any]):
    name, digests = process["vendored"]
    assert name == "theirs_vendor_integrity_triton"
    assert digests == process["operators"][0]


@pytest.mark.slow
def test_the_examples_of_the_card_run(process: dict[str, Any]):
    digests, parameters, same_function = process["card"]
    blake3 = pytest.importorskip("blake3", reason="blake3 is absent")
    assert digests == [blake3.blake3(bytes.fromhex(data)).hexdigest() for data in parameters]
    assert same_function
