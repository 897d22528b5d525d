"""NIST's CAVP files for SHA-2, complete: short, long and Monte Carlo (SHAVS, sections 6.2 to 6.4)."""

from __future__ import annotations

import re

import pytest

import integrity_triton as it
from support import rows_as_bytes

vectors = pytest.importorskip("cryptography_vectors")

FILES = {"sha224": "SHA224", "sha256": "SHA256"}


def read(name: str, kind: str) -> list[dict[str, str]]:
    """The ``key = value`` records of a response file, each from its first key on."""
    path = f"hashes/SHA2/{FILES[name]}{kind}.rsp"
    with vectors.open_vector_file(path, "r") as file:
        lines = [m.groups() for m in (re.match(r"(\w+) = (\w*)", line) for line in file) if m]
    first = next(key for key, _ in lines if key in ("Len", "Seed"))
    records: list[dict[str, str]] = []
    for key, value in lines:
        if key in (first, "COUNT"):
            records.append({})
        records[-1][key] = value
    return records


@pytest.mark.parametrize("kind", ["ShortMsg", "LongMsg"])
@pytest.mark.parametrize("name", FILES)
def test_messages(name, kind, backend):
    records = read(name, kind)
    assert len(records) in (64, 65)
    messages = [bytes.fromhex(r["Msg"])[: int(r["Len"]) // 8] for r in records]
    digests = it.hash_batch(messages, name, backend=backend)
    assert [d.hex() for d in rows_as_bytes(digests)] == [r["MD"] for r in records]


@pytest.mark.parametrize("name", FILES)
def test_monte_carlo(name, backend):
    """Each of the 100 checkpoints follows from the one before by 1000 hashes; all 100 chains go
    side by side, since the file gives every one's start."""
    if backend == "interpreter":
        pytest.skip("absent: 1000 launches of the interpreter take a quarter of an hour")
    import torch

    seed, *records = read(name, "Monte")
    expected = [bytes.fromhex(r["MD"]) for r in records]
    assert len(expected) == 100
    starts = [bytes.fromhex(seed["Seed"]), *expected[:-1]]
    last = torch.tensor([list(s) for s in starts], dtype=torch.uint8)
    window = torch.cat([last, last, last], dim=1)
    size = last.shape[1]
    for _ in range(1000):
        digests = it.hash_batch(window, name, backend=backend)
        window = torch.cat([window[:, size:], digests], dim=1)
    assert rows_as_bytes(window[:, -size:]) == expected
