"""The build for the Kernel Hub (.ci/kernel_hub.py). ``integrations/test_kernel_hub_loading.py`` loads it."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

import integrity_triton as it
from hub_build import REPOSITORY, ROOT, VARIANTS, append, sources, tool


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
