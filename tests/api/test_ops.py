"""The torch operators: registration, fake kernels, torch.compile and torch.export."""

from __future__ import annotations

import pytest
import torch

import integrity_triton as it
import integrity_triton.ops  # registers them

OPS = torch.ops.integrity_triton
ROWS = torch.arange(7 * 33, dtype=torch.float32).reshape(7, 33)
MESSAGES = [torch.arange(3.0), torch.ones(4, 5, dtype=torch.bfloat16), torch.zeros(0)]


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("hash_batch", (MESSAGES, "sha256"), {}),
        ("hash_batch", (MESSAGES, "blake3", torch.arange(32, dtype=torch.uint8)), {"length": 70}),
        ("hash_batch", ([], "sha224"), {}),
        ("hash_rows", (ROWS, "blake3"), {"length": 7, "backend": "native"}),
        ("hash_rows", (ROWS[:, 1:9], "sha256"), {}),
        ("hash_chunks", (ROWS, "sha224", 100), {}),
        ("hash_chunks", (ROWS.requires_grad_(), "sha256", 1000), {}),
    ],
)
def test_opcheck(name, args, kwargs):
    results = torch.library.opcheck(getattr(OPS, name).default, args, kwargs)
    assert set(results.values()) == {"SUCCESS"}


def test_operators_agree_with_the_functions():
    assert torch.equal(OPS.hash_batch(MESSAGES, "sha256"), it.hash_batch(MESSAGES, "sha256"))
    assert torch.equal(OPS.hash_rows(ROWS, "blake3"), it.hash_batch(ROWS, "blake3"))
    assert torch.equal(OPS.hash_chunks(ROWS, "sha256", 64), it.hash_chunks(ROWS, "sha256", chunk_size=64))
    keyed = OPS.hash_batch(MESSAGES, "blake3", torch.arange(32, dtype=torch.uint8))
    assert torch.equal(keyed, it.hash_batch(MESSAGES, "blake3", key=bytes(range(32))))


def _hash_everything(x, messages):
    y = x * 2
    return (
        it.hash_batch(y, "sha256"),
        it.hash_batch(messages, "blake3", length=40),
        it.hash_chunks(y, "sha224", chunk_size=64),
    )


def test_compile_makes_one_graph():
    compiled = torch.compile(_hash_everything, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (ROWS, ROWS[:4, :20].contiguous()):
        for got, expected in zip(compiled(rows, MESSAGES), _hash_everything(rows, MESSAGES), strict=True):
            assert torch.equal(got, expected)


def test_export():
    class Model(torch.nn.Module):
        def forward(self, x):
            return it.hash_chunks(x, "sha256", chunk_size=64), it.hash_batch([x, x + 1], "blake3")

    exported = torch.export.export(Model(), (ROWS,))
    assert "integrity_triton.hash_chunks" in exported.graph_module.code
    for got, expected in zip(exported.module()(ROWS), Model()(ROWS), strict=True):
        assert torch.equal(got, expected)


def compiled(function, *args, **options):
    torch._dynamo.reset()
    return torch.compile(function, backend="eager", **options)(*args)


X = torch.arange(8.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compile_breaks_the_graph_where_no_operator_stands_for_a_call():
    """It does not raise Dynamo's own errors."""
    key = bytes(range(32))
    for function in (
        lambda x: it.hash_batch([x, b"a"], "sha256"),
        lambda x: it.hash_batch([(x, b"a")], "tuplehash_128"),
        lambda x: it.hash_batch([x], "blake3", key=key),
        lambda x: it.hash_batch([x], "blake2b", digest_size=16),
        lambda x: it.hash_chunks(b"abc", "sha256", chunk_size=2),
        lambda x: it.mac_tensors({"a": x}, key, nonce=bytes(16)).chunk_tags("a"),
    ):
        assert compiled(function, X).equal(function(X))


@pytest.mark.filterwarnings("ignore")
def test_keyed_hashes_in_one_graph():
    key = torch.arange(32, dtype=torch.uint8)
    for function in (
        lambda x, key: it.hash_batch([x], "blake3", key=key),
        lambda x, key: it.hash_batch(x.view(2, 4), "blake3", key=torch.stack([key, key])),
        lambda x, key: it.hash_chunks(x, "blake3", chunk_size=8, key=key),
    ):
        assert compiled(function, X, key, fullgraph=True).equal(function(X, key))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_outputs_while_compiling():
    out = torch.zeros(1, 32, dtype=torch.uint8)
    expected = it.hash_batch([X], "sha256")
    assert compiled(lambda x, out: it.hash_batch([x], "sha256", out=out), X, out, fullgraph=True).equal(
        expected
    )
    assert out.equal(expected)
    overlapping = torch.zeros((1, 1), dtype=torch.uint8).expand(1, 32)
    for wrong in (torch.zeros(1, 32), torch.zeros(3, 32, dtype=torch.uint8), overlapping):
        with pytest.raises(ValueError, match="out must "):
            compiled(lambda x, out: it.hash_batch([x], "sha256", out=out), X, wrong)
        with pytest.raises(ValueError, match="out must "):
            compiled(lambda x, out: it.hash_chunks(x, "sha256", chunk_size=99, out=out), X, wrong)
