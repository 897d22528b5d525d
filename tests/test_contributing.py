"""CONTRIBUTING's example, taken from the page and run: a hash is one device file and one record."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

import integrity_triton as it
from integrity_triton import algorithms
from support import pattern, rows_as_bytes

PAGE = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"


def load(name: str, source: str, path: Path):
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sha1(tmp_path, monkeypatch):
    if "sha1" in algorithms._records:
        pytest.skip("not applicable: the package has the page's example by now")
    device, record = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    for name in ("_records", "_names"):
        monkeypatch.setattr(algorithms, name, dict(getattr(algorithms, name)))
    load("integrity_triton.kernels.sha1", device, tmp_path / "sha1_device.py")
    records = load("integrity_triton.algorithms.sha1", record, tmp_path / "sha1_record.py").RECORDS
    for found in records:
        algorithms.register(found)
    yield
    for name in ("integrity_triton.kernels.sha1", "integrity_triton.algorithms.sha1"):
        del sys.modules[name]


def test_the_pages_example(sha1, backend):
    messages = [pattern(n) for n in (0, 1, 55, 56, 64, 119, 130)]
    if backend == "opencl":  # compiles nothing itself, and says so
        with pytest.raises(it.BackendUnavailable, match="no prebuilt kernel runs sha1_block"):
            it.hash_batch(messages, "SHA-1", backend=backend)
        return
    digests = it.hash_batch(messages, "SHA-1", backend=backend)
    assert rows_as_bytes(digests) == [hashlib.sha1(m).digest() for m in messages]
    hasher = it.new("sha1", messages[-1], backend=backend)
    hasher.update(messages[1])
    assert hasher.hexdigest() == hashlib.sha1(messages[-1] + messages[1]).hexdigest()
