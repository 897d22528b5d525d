"""Compression functions in the unrolled form, which the kernels of the package do not use. Testing them in
the interpreter is enough."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace

import pytest
import torch

from integrity_triton import algorithms
from integrity_triton.algorithms import IteratedHash
from integrity_triton.backends import registry
from integrity_triton.backends.triton_backend import TritonBackend
from integrity_triton.messages.layout import Ragged
from support import on_device, oracle, pattern, rows_as_bytes


@pytest.mark.quick
@pytest.mark.parametrize("name", ["sha256", "sha512", "blake2b", "blake2s"])
def test_rounds_without_tables_in_memory_and_branches(name, self_tests_off, monkeypatch):
    monkeypatch.delitem(sys.modules, "unrolled", raising=False)
    importlib.import_module("unrolled")
    kernels, record = registry.get("interpreter"), algorithms.get(name)
    assert isinstance(kernels, TritonBackend)
    assert isinstance(record.construction, IteratedHash)
    construction = replace(record.construction, block=f"unrolled:unrolled_{name}", constants=None)
    messages = [pattern(n) for n in (0, 3, record.block_size - 1, record.block_size)]
    views = Ragged([on_device(m, "interpreter") for m in messages], torch.device("cpu"))
    unrolled = replace(record, construction=construction)
    digests = kernels.digest_batch(unrolled, {}, views, record.digest_size)
    assert rows_as_bytes(digests) == [oracle(record, m) for m in messages]
