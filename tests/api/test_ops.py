"""The torch operators: registration, fake kernels, torch.compile and torch.export."""

from __future__ import annotations

import pytest
import torch

import integrity_triton as it
import integrity_triton.ops  # registers them
from integrity_triton import eager

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


DATA = torch.arange(4 * 64, dtype=torch.int32).to(torch.uint8).reshape(4, 64)
KEY = torch.arange(32, dtype=torch.uint8)
SECRET = bytes(range(32))
WITH_PARAMETERS = {
    "a tensor": lambda x: it.hash_batch(x, "blake3", key=KEY),
    "a row for each": lambda x: it.hash_batch(x, "hmac_sha256", key=KEY.reshape(4, 8)),
    "a list": lambda x: it.hash_batch(x, "hmac_sha256", key=[KEY[:1], KEY, KEY[:3], KEY[:5]]),
    "two lists": lambda x: it.hash_batch(x, "gmac_aes", key=[KEY[:16]] * 4, iv=[b"n" * 12] * 4),
    "numbers": lambda x: it.hash_batch(x, "blake2b", salt=b"ab", digest_size=20, last_node=True),
    "text": lambda x: it.hash_batch(x, "blake3", derive_key_context="a = b, c"),
    "bytes, a length": lambda x: it.hash_batch(list(x), "cshake_128", customization=b"hi", length=70),
    "a large number": lambda x: it.hash_batch(x, "xxh64", seed=(1 << 64) - 1),
    "chunks": lambda x: it.hash_chunks(x, "blake3", chunk_size=32, key=KEY),
    "out": lambda x: it.hash_batch(x, "sha256", out=torch.empty(4, 40, dtype=torch.uint8)[:, 3:35]),
    "nothing": lambda x: it.hash_batch(x, "sha256", key=None, usedforsecurity=False),
}


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_parameters_are_traced(name):
    torch._dynamo.reset()
    function = WITH_PARAMETERS[name]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(DATA), function(DATA))


WRONG_TYPES = {
    "text for a number": (lambda x: it.hash_batch(x, "xxh3_64", seed="5"), "seed must be int, not str"),
    "text for a truth value": (
        lambda x: it.hash_batch(x, "blake2b", last_node="True"),
        "last_node must be bool",
    ),
    "a number for text": (lambda x: it.hash_batch(x, "blake3", derive_key_context=5), "must be str, not int"),
    "a truth value for a length": (
        lambda x: it.hash_batch(x, "blake3", length=True),
        "length must be int, not bool",
    ),
    "a truth value for a size": (
        lambda x: it.hash_chunks(x, "sha256", chunk_size=True),
        "chunk_size must be int, not bool",
    ),
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_wrong_types_are_refused_while_compiling_too(name):
    function, says = WRONG_TYPES[name]
    with pytest.raises(TypeError, match=says):
        function(DATA)
    torch._dynamo.reset()
    with pytest.raises(TypeError, match=says):
        torch.compile(function, backend="aot_eager")(DATA)


BROKEN_GRAPHS = {
    "bytes": lambda x: it.hash_batch([b"a", b"bc"], "sha256").sum() + x.sum(),
    "a key of bytes": lambda x: it.hash_batch(x, "blake3", key=SECRET),
    "tuples": lambda x: it.hash_batch([(b"a", x[0])], "tuplehash_128"),
    "bytearray": lambda x: it.hash_batch(x, "blake3", key=bytearray(32)),
    "chunks of bytes": lambda x: it.hash_chunks(b"abc" * 9, "sha256", chunk_size=4),
    "mac_tensors": lambda x: it.mac_tensors({"x": x}, bytes(32), nonce=bytes(16)).chunk_tags("x"),
}


@pytest.mark.parametrize("name", BROKEN_GRAPHS)
def test_what_is_not_traced_breaks_the_graph(name):
    torch._dynamo.reset()
    function = BROKEN_GRAPHS[name]
    assert torch.equal(torch.compile(function, backend="aot_eager")(DATA), function(DATA))
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(function, backend="aot_eager", fullgraph=True)(DATA)


def test_tags_are_verified_in_compiled_code():
    torch._dynamo.reset()
    tags = it.mac_tensors({"x": DATA}, bytes(32))

    def check(x):
        tags.verify({"x": x + 0}, bytes(32))
        return x + 1

    compiled = torch.compile(check, backend="aot_eager")
    assert torch.equal(compiled(DATA), DATA + 1)
    with pytest.raises(it.IntegrityError):
        compiled(DATA ^ 1)


BAD_OUTPUTS = {
    "not torch.int32 of shape": lambda: torch.empty(4, 32, dtype=torch.int32),
    "not torch.uint8 of shape": lambda: torch.empty(5, 4, 32, dtype=torch.uint8),
    "memory of its own for each byte": lambda: torch.empty(200, dtype=torch.uint8).as_strided(
        (4, 32), (31, 1)
    ),
    "out must be a torch tensor": lambda: bytearray(128),
}


@pytest.mark.parametrize(  # an error in compiled code takes seconds
    ("says", "compiled"), [("not torch.int32 of shape", True), *((says, False) for says in BAD_OUTPUTS)]
)
def test_an_output_that_does_not_fit(says, compiled):
    torch._dynamo.reset()

    def rows(x, out):
        return it.hash_batch(x, "sha256", out=out)

    def chunks(x, out):
        return it.hash_chunks(x, "sha256", chunk_size=64, out=out)

    for call in (chunks,) if compiled else (rows, chunks):
        function = torch.compile(call, backend="aot_eager") if compiled else call
        with pytest.raises((ValueError, TypeError), match=says):
            function(DATA, BAD_OUTPUTS[says]())


@pytest.mark.parametrize(
    ("shape", "strides", "overlap"),
    [
        ((4, 32), (32, 1), False),
        ((4, 32), (31, 1), True),
        ((4, 32), (0, 1), True),
        ((1, 32), (0, 1), False),
        ((4, 32), (1, 4), False),
        ((4, 32), (1, 3), True),
        ((2, 2), (3, 2), False),
        ((4, 4), (3, 2), True),
        ((2, 32), (1, 2), False),
        ((3, 32), (1, 2), True),
        ((4, 1), (1, 0), False),
        ((0, 32), (0, 0), False),
        ((4, 32), (0, 0), True),
    ],
)
def test_outputs_that_overlap(shape, strides, overlap):
    places = [i * strides[0] + j * strides[1] for i in range(shape[0]) for j in range(shape[1])]
    assert (len(set(places)) < len(places)) == overlap
    assert eager._overlaps_itself(shape, strides) == overlap


@pytest.mark.parametrize("compiled", [False, True])
def test_a_chunk_size_beyond_an_address(compiled):
    torch._dynamo.reset()

    def call(x):
        return it.hash_chunks(x, "sha256", chunk_size=1 << 63)

    with pytest.raises(ValueError, match=r"chunk_size must be less than 2\*\*63"):
        (torch.compile(call, backend="aot_eager") if compiled else call)(DATA)
    whole = it.hash_chunks(DATA, "sha256", chunk_size=(1 << 63) - 1)
    assert whole.tolist() == [list(it.sha256(DATA).digest())]
