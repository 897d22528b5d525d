"""The construction of docs/guide/add_a_construction.md, taken from the page and run."""

from __future__ import annotations

import importlib.util
import re
import sys
import zlib
from pathlib import Path

import make_answers
import pytest

import integrity_triton as it
from integrity_triton import algorithms, drivers
from integrity_triton.algorithms import known_answers
from integrity_triton.backends import registry
from support import pattern, rows_as_bytes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "add_a_construction.md"
# In the order of the page.
MODULES = (
    "integrity_triton.kernels.adler32",
    "integrity_triton.algorithms.adler32",
    "oracles.adler32",
    "integrity_triton.drivers.adler32",
)


@pytest.fixture
def adler32(tmp_path, monkeypatch, scratch_registries):
    text = PAGE.read_text("utf-8")
    sources = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (line,) = re.findall(r"```py\n(.*?)```", text, re.DOTALL)
    found = {}
    for name, source in zip(MODULES, sources, strict=True):
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        found[name] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, found[name])
        spec.loader.exec_module(found[name])
    record, driver = (found[f"integrity_triton.{room}.adler32"] for room in ("algorithms", "drivers"))
    for key, value in eval(f"{{{line}}}", {**vars(record), **vars(driver)}).items():
        monkeypatch.setitem(drivers._DRIVERS, key, value)
    (algorithm,) = record.RECORDS
    algorithms.register(algorithm)
    answers = known_answers.make(algorithm, make_answers.ask, source="zlib", version="1", made="by a test")
    (tmp_path / "adler32.json").write_text(answers)
    monkeypatch.setattr(known_answers, "folder", lambda: tmp_path)
    # The backend keeps its copies of kernels by the name of the module, and each test makes a new module.
    interpreter = registry.get("interpreter")
    monkeypatch.setattr(interpreter, "_twins", type(interpreter._twins)())
    return algorithm


def expected(message: bytes) -> bytes:
    return zlib.adler32(message).to_bytes(4, "big")


def test_the_pages_example(adler32):
    assert it.new("Adler-32", b"Wikipedia", backend="interpreter").hexdigest() == "11e60398"
    messages = [pattern(n) for n in (0, 1, 3, 4, 17, 300)] + [b"\xff" * 600]
    digests = it.hash_batch(messages, "adler32", backend="interpreter")
    assert rows_as_bytes(digests) == [expected(m) for m in messages]
    digests = it.hash_chunks(pattern(100), "adler32", chunk_size=33, backend="interpreter")
    assert rows_as_bytes(digests) == [expected(pattern(100)[i : i + 33]) for i in range(0, 100, 33)]
    hasher = it.new("adler32", messages[-1][:10], backend="interpreter")
    twin = hasher.copy()
    hasher.update(messages[-1][10:])
    assert hasher.digest() == expected(messages[-1])
    assert twin.digest() == expected(messages[-1][:10])


def test_its_self_test_finds_a_wrong_sum(adler32, monkeypatch):
    kernels = sys.modules["integrity_triton.kernels.adler32"]
    monkeypatch.setattr(kernels, "ADLER32_BASE", type(kernels.ADLER32_BASE)(65519))
    with pytest.raises(it.SelfTestError, match="adler32"):
        it.hash_batch([b"abc"], "adler32", backend="interpreter")
