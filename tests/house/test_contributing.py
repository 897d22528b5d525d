"""CONTRIBUTING's example, taken from the page and run: a hash is one device file and one record."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import make_answers
import pytest

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import known_answers
from support import has_module, oracle, pattern, rows_as_bytes

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
# RFC 1320, appendix A.5.
ANSWERS = {
    b"": "31d6cfe0d16ae931b73c59d7e0c089c0",
    b"a": "bde52cb31de33e46245e05fbdbd6fb24",
    b"abc": "a448017aaf21d8525fc10ae87aa6729d",
    b"message digest": "d9130a8164549fe818874806e1c7014b",
    b"abcdefghijklmnopqrstuvwxyz": "d79e1c308aa5bbcdeea8ed63df412da9",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789": "043f8582f241db351ce627e153e7f0e4",
    b"1234567890" * 8: "e33b4ddc9c38f2199c3e7b164fcc0536",
}


def load(name: str, source: str, path: Path):
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def md4(tmp_path, monkeypatch, scratch_registries):
    device, record = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    load("integrity_triton.kernels.md4", device, tmp_path / "md4_device.py")
    (found,) = load("integrity_triton.algorithms.md4", record, tmp_path / "md4_record.py").RECORDS
    algorithms.register(found)
    if has_module("Crypto"):
        (tmp_path / "md4.json").write_text(make_answers.text(found))
        monkeypatch.setattr(known_answers, "folder", lambda: tmp_path)
    yield found
    for name in ("integrity_triton.kernels.md4", "integrity_triton.algorithms.md4"):
        del sys.modules[name]


def test_the_pages_example(md4, backend):
    if backend in ("native", "opencl"):  # they cannot compute a hash that they lack, and they say so
        reason = {"native": "no CPU library has it", "opencl": "no prebuilt kernel runs md4_block"}
        with pytest.raises(it.BackendUnavailable, match=reason[backend]):
            it.hash_batch([b"abc"], "MD-4", backend=backend)
        return
    if not has_module("Crypto"):
        with pytest.raises(it.SelfTestError, match="md4 has no known answers"):
            it.hash_batch([b"abc"], "MD-4", backend=backend)
        pytest.skip("absent: Crypto, the oracle")
    digests = it.hash_batch(list(ANSWERS), "MD-4", backend=backend)
    assert [d.hex() for d in rows_as_bytes(digests)] == list(ANSWERS.values())
    first, second = list(ANSWERS)[-2:]
    hasher = it.new("md4", first[:10], backend=backend)
    hasher.update(first[10:])
    assert hasher.hexdigest() == ANSWERS[first]
    messages = [pattern(n) for n in (0, 1, 55, 56, 63, 64, 119, 130)]
    digests = it.hash_batch(messages, "md4", backend=backend)
    assert rows_as_bytes(digests) == [oracle(md4, m) for m in messages]
    assert oracle(md4, second).hex() == ANSWERS[second]
