"""The documents say the same as the records."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import vector_files
from docs import algorithm_table
from integrity_triton import algorithms
from integrity_triton.backends import registry

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_algorithms_is_up_to_date():
    page = algorithm_table.PAGE.read_text("utf-8")
    assert algorithm_table.renewed(page) == page, "python -m docs.algorithm_table --write"


def spelled_out(pattern: str) -> set[str]:
    """The words into which a shell expands braces."""
    parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
    return {"".join(choice) for choice in itertools.product(*parts)}


def test_the_families_name_every_algorithm_under_its_grade():
    page = algorithm_table.PAGE.read_text("utf-8")
    rows = [line.split("|") for line in page.splitlines() if "|" in line]
    grades = {
        name: row[-2]
        for row in rows
        if len(row) == 6
        for pattern in re.findall(r"`([^`]+)`", row[2])
        for name in spelled_out(pattern)
    }
    assert "hmac_*" in grades
    for record in algorithms.all_algorithms():
        if record.construction.hmac_of is None:
            assert record.security.value in grades.get(record.name, ""), record.name


def test_readme_counts_the_algorithms():
    page = (ROOT / "README.md").read_text("utf-8")
    assert re.findall(r"(\d+) algorithms", page) == [str(len(algorithms.all_algorithms()))]


def test_readme_lists_every_backend_and_claims_no_gpu():
    page = (ROOT / "README.md").read_text("utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert rows.keys() == set(registry._BUILTIN)
    for name in ("cuda", "hip", "xpu"):
        assert "not run on a GPU yet" in rows[name]


def test_the_page_of_vectors_names_every_source():
    page = (ROOT / "docs" / "reference" / "vectors.md").read_text("utf-8")
    for package, folders in vector_files.PACKAGES.items():
        assert package.replace("_", "-") in page
        for folder in folders:
            assert f"`{folder}`" in page, folder
    for path in vector_files.FOLDER.glob("*.txt"):
        assert f"`{path.name}`" in page, path.name


def test_a_page_names_every_construction():
    page = (ROOT / "docs" / "internals" / "constructions.md").read_text("utf-8")
    for record in algorithms.all_algorithms():
        assert f"`{type(record.construction).__name__}`" in page, record.name
