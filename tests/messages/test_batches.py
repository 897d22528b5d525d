"""Batches that need copies, which are made in groups: no digest depends on where a group ends, and the copies
of a group are gone before those of the next are made."""

from __future__ import annotations

import hashlib
import hmac
import random
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

import integrity_triton as it
from integrity_triton import eager, kdf
from integrity_triton.algorithms import get
from integrity_triton.backends import registry
from integrity_triton.lthash import TensorChunks
from integrity_triton.messages import batches, tensors
from integrity_triton.messages.from_caller import message_batch, tuple_batch
from integrity_triton.messages.tensors import byte_range
from support import device_of, oracle, rows_as_bytes, tensor_message

LIMITS = [1, 64, 1000]
GENERATOR = torch.Generator().manual_seed(5)


def table(rows: int, columns: int) -> torch.Tensor:
    return torch.randint(0, 256, (rows, columns), dtype=torch.uint8, generator=GENERATOR)


X = table(24, 36)
Z = torch.randn(6, 5, dtype=torch.complex64, generator=GENERATOR)
SCATTERED = {
    "transposed": X.t(),
    "of three dimensions": X.view(4, 6, 36).permute(2, 0, 1),
    "of wide elements": X.view(torch.int32).t(),
    "steps": X[::2, 1::3],
    "flat steps": X.view(-1)[::5],
    "expanded": X[:1].expand(7, 36),
    "conjugated": Z.conj(),
    "conjugated and transposed": Z.conj().t(),
    "negative": Z.conj().imag,
    "floating": X.view(torch.float16).t(),
    "parameter": torch.nn.Parameter(Z.real),
    "none": X[:0].t(),
}


@pytest.fixture(params=LIMITS)
def limit(request, monkeypatch):
    monkeypatch.setattr(batches, "COPIES_SIZE", request.param)
    monkeypatch.setattr(batches, "_PIECE_SIZE", max(1, request.param // 3))
    return request.param


@pytest.mark.parametrize("block", [1, 100, 8 << 20])
@pytest.mark.parametrize("name", SCATTERED)
def test_any_range_of_bytes(monkeypatch, name, block):
    monkeypatch.setattr(tensors, "_BLOCK_SIZE", block)
    x = SCATTERED[name]
    message = tensor_message(x)
    drawn = random.Random(name)
    ranges = [sorted(drawn.choices(range(len(message) + 1), k=2)) for _ in range(200)]
    for first, last in [*ranges, (0, len(message)), (0, 0), (len(message), len(message))]:
        part = byte_range(x, first, last)
        assert (part.dtype, part.dim(), part.is_contiguous()) == (torch.uint8, 1, True)
        assert part.numpy().tobytes() == message[first:last], (first, last)


def test_groups_are_in_order_of_like_size_and_within_the_limit(monkeypatch):
    drawn = random.Random(1)
    for _ in range(300):
        limit = drawn.choice([1, 10, 100, 1000])
        monkeypatch.setattr(batches, "COPIES_SIZE", limit)
        costs = [drawn.choice([0, 0, 1, 5, 50, limit, limit + 1]) for _ in range(drawn.randrange(30))]
        groups = list(batches._groups(costs))
        assert [i for group in groups for i in range(group.first, group.last)] == list(range(len(costs)))
        for group in groups:
            used = sum(costs[group.first : group.last])
            assert group.long == (used > limit)
            assert used <= limit or sum(cost > 0 for cost in costs[group.first : group.last]) == 1
    monkeypatch.setattr(batches, "COPIES_SIZE", 100)
    assert [g.count for g in batches._groups([10] * 24)] == [8, 8, 8]  # and not 10, 10, 4
    assert [g.count for g in batches._groups([0] * 1000)] == [1000]
    assert [g.count for g in batches._groups([])] == [0]


MESSAGES = [b"in place", *SCATTERED.values(), X, b"", X.t(), bytearray(b"end")]


@pytest.mark.parametrize("where", ["cuda", "hip", "xpu", "opencl", "native"])
@pytest.mark.parametrize("name", ["sha256", "blake3", "crc32c"])
def test_a_batch(limit, where, name):
    try:
        reason = registry.get(where).unsupported(get(name))
    except it.BackendUnavailable as error:
        reason = str(error)
    if reason is not None:
        pytest.skip(f"absent: {reason}")
    on = device_of(where)
    moved = [m.to(on) for m in MESSAGES if isinstance(m, torch.Tensor)]
    for messages in [moved, MESSAGES] if on == "cpu" else [moved]:
        expected = [oracle(get(name), _bytes(message)) for message in messages]
        out = torch.full((len(messages), get(name).digest_size), 0xA5, dtype=torch.uint8, device=on)
        assert rows_as_bytes(it.hash_batch(messages, name, backend=where)) == expected
        assert it.hash_batch(iter(messages), name, backend=where, out=out) is out
        assert rows_as_bytes(out) == expected


def _bytes(message: Any) -> bytes:
    return tensor_message(message) if isinstance(message, torch.Tensor) else bytes(message)


@pytest.mark.parametrize("name", ["hmac_sha256", "blake3", "poly1305"])
def test_each_message_keeps_its_own_key(limit, name):
    size = 32
    keys = [bytes([i]) * size for i in range(len(MESSAGES))]
    expected = [oracle(get(name), _bytes(m), key=key) for m, key in zip(MESSAGES, keys, strict=True)]
    rows = torch.tensor([list(key) for key in keys], dtype=torch.uint8)
    for given in (keys, rows):
        assert rows_as_bytes(it.hash_batch(MESSAGES, name, key=given)) == expected
    if name == "hmac_sha256":
        expected = [hmac.digest(keys[0], _bytes(message), "sha256") for message in MESSAGES]
        assert rows_as_bytes(it.hash_batch(MESSAGES, name, key=keys[0])) == expected


@pytest.mark.parametrize("name", ["shake_128", "blake3"])
@pytest.mark.parametrize("length", [0, 1, 500])
def test_extendable_output(limit, name, length):
    expected = [oracle(get(name), _bytes(message), length=length) for message in MESSAGES]
    assert rows_as_bytes(it.hash_batch(MESSAGES, name, length=length)) == expected


@pytest.mark.parametrize("name", [name for name in SCATTERED if SCATTERED[name].dim() == 2])
def test_rows_and_chunks(limit, name):
    x = SCATTERED[name]
    rows = [hashlib.sha256(tensor_message(row)).digest() for row in x]
    assert rows_as_bytes(it.hash_batch(x, "sha256")) == rows
    message = tensor_message(x)
    for size in (5, 100, 10_000):
        chunks = [hashlib.sha256(message[i : i + size]).digest() for i in range(0, len(message), size)]
        assert rows_as_bytes(it.hash_chunks(x, "sha256", chunk_size=size)) == chunks
        keys = [bytes([i % 251]) * 8 for i in range(len(chunks))]
        tags = [hmac.digest(key, message[i * size : (i + 1) * size], "sha256") for i, key in enumerate(keys)]
        assert rows_as_bytes(it.hash_chunks(x, "hmac_sha256", chunk_size=size, key=keys)) == tags


@pytest.mark.parametrize("name", SCATTERED)
@pytest.mark.parametrize("kind", ["sha256", "blake3", "poly1305"])
def test_streams(limit, name, kind):
    x, key = SCATTERED[name], {"key": bytes(range(32))} if kind == "poly1305" else {}
    hasher = it.new(kind, b"begin", **key)
    hasher.update(x)
    hasher.update(b"end")
    expected = oracle(get(kind), b"begin" + tensor_message(x) + b"end", **key)
    assert hasher.digest() == expected


TUPLES = [
    (),
    (b"", b"abc"),
    (X.t(), b"between", X),
    (b"only bytes " * 20, bytearray(b"and more")),
    [X, Z.conj().t()],
    (X.t(),),
]


@pytest.mark.parametrize("name", ["tuplehash_128", "tuplehashxof_256"])
def test_tuples(limit, name):
    expected = []
    for given in TUPLES:
        strings = tuple(_bytes(element) for element in given)
        expected.append(oracle(get(name), strings, length=40 if get(name).xof else None))
    length = 40 if get(name).xof else None
    assert rows_as_bytes(it.hash_batch(TUPLES, name, length=length)) == expected
    hasher = it.new(name, TUPLES[2])
    assert hasher.digest(length) == expected[2] if length else hasher.digest() == expected[2]


def test_tuples_of_bytes_are_copied_once(monkeypatch):
    batch = tuple_batch([(b"ab", b"c")] * 3, "tuplehash_128")
    monkeypatch.setattr(torch, "cat", None)
    assert [bytes(view.numpy()) for view in batch.whole().views] == [b"\x01\x10ab\x01\x08c"] * 3


def _tensors() -> dict[str, torch.Tensor]:
    return {**SCATTERED, "in place": X, "half": X.view(torch.bfloat16)}


def _tags() -> list[Any]:
    tags = it.mac_tensors(_tensors(), bytes(range(32)), nonce=bytes(16), chunk_size=64)
    tags.verify(_tensors(), bytes(range(32)))
    return [(tags[name], rows_as_bytes(tags.chunk_tags(name))) for name in tags.names]


SALTS = [bytes([i]) * 8 for i in range(36)]
CALLS: dict[str, Callable[[], Any]] = {
    "mac_tensors": _tags,
    "hkdf": lambda: rows_as_bytes(it.hkdf_batch(X.t(), "sha256", length=40, salt=SALTS)),
    "hkdf of tensors": lambda: rows_as_bytes(it.hkdf_batch([X.t(), X, X[:, 1:]], "sha256", length=40)),
    "pbkdf2": lambda: rows_as_bytes(it.pbkdf2_batch(X.t(), "sha256", salt=SALTS, iterations=2)),
    "pbkdf2 with a salt": lambda: rows_as_bytes(
        it.pbkdf2_batch([X.t(), b"", X], "sha256", salt=b"salt", iterations=2)
    ),
    "lthash": lambda: it.LtHash().add_batch(MESSAGES).digest(),
    "lthash of rows": lambda: it.LtHash().add_batch(X.t()).digest(),
    "chunks of a tensor": lambda: rows_as_bytes(TensorChunks.of("x", X.t(), chunk_size=50).digests),
    "short bytes": lambda: rows_as_bytes(it.hash_batch([bytes(i) for i in range(40)], "sha256")),
    "manifest": lambda: it.models.Manifest.build(
        {name: x for name, x in _tensors().items() if "conj" not in name}, "sha256"
    ).to_json(),
}
_whole = {name: call() for name, call in CALLS.items()}


@pytest.mark.parametrize("name", CALLS)
def test_other_calls(limit, name):
    assert CALLS[name]() == _whole[name]


PARTS = X.view(12, 8, 9)


@pytest.mark.parametrize("size", [100, 300])
@pytest.mark.parametrize(
    "call",
    [
        lambda: it.hash_batch([x.t() for x in PARTS], "sha256"),
        lambda: it.hash_batch(X.t(), "sha256"),
        lambda: it.hash_chunks(X.t(), "sha256", chunk_size=24),
        lambda: it.hash_batch([(x.contiguous(),) for x in PARTS], "tuplehash_128"),
        lambda: it.mac_tensors({str(i): x.t() for i, x in enumerate(PARTS)}, bytes(32), chunk_size=48),
        lambda: it.pbkdf2_batch(X.t(), "sha256", salt=b"salt", iterations=1),
        lambda: it.hash_batch([X.t()], "sha256"),
        lambda: it.new("sha256", X.t()),
    ],
)
def test_copies_are_released_before_the_next_ones(monkeypatch, size, call):
    monkeypatch.setattr(batches, "COPIES_SIZE", size)
    monkeypatch.setattr(batches, "_PIECE_SIZE", size // 2)
    alive: dict[int, int] = {}
    most = []

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def copying(*arguments: Any, **options: Any) -> Any:
            copy = real(*arguments, **options)
            storage = copy.untyped_storage()
            caller = sys._getframe(1).f_globals["__name__"]
            if storage.data_ptr() == X.untyped_storage().data_ptr() or caller != batches.__name__:
                return copy  # a view, or another torch.cat
            alive[number := len(most)] = copy.numel()
            weakref.finalize(copy, alive.pop, number)
            most.append(sum(alive.values()))
            assert storage.nbytes() < copy.numel() + 8  # is no view of something larger
            return copy

        return copying

    for name in ("byte_range", "tensor_bytes"):
        monkeypatch.setattr(batches, name, watched(getattr(batches, name)))
    monkeypatch.setattr(torch, "cat", watched(torch.cat))
    call()
    assert len(most) > 2
    assert 0 < max(most) <= size


def test_everything_is_checked_before_the_first_copy(monkeypatch):
    monkeypatch.setattr(batches, "COPIES_SIZE", 100)

    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError("hashed too early")

    monkeypatch.setattr(eager, "dispatch", fails)
    monkeypatch.setattr(batches, "tensor_bytes", fails)
    monkeypatch.setattr(kdf, "pbkdf2", fails)
    scattered = [X.t()] * 3
    for bad, error, says in (
        ("text", TypeError, "message 3: text must be encoded"),
        (X.to_sparse(), TypeError, "message 3: a tensor of layout"),
        (torch.empty((2, 3), device="meta").t(), ValueError, "message 3: a meta tensor"),
    ):
        with pytest.raises(error, match=says):
            it.hash_batch([*scattered, bad], "sha256")
        with pytest.raises(error, match=says.replace("3:", "1: string 0:")):
            it.hash_batch([(X.t(),), (bad,)], "tuplehash_128")
        with pytest.raises(error, match=says):
            it.LtHash().add_batch([*scattered, bad])
    with pytest.raises(ValueError, match="2 values for 3 messages"):
        it.hash_batch(scattered, "hmac_sha256", key=[b"a", b"b"])
    with pytest.raises(ValueError, match="out must be uint8 of shape"):
        it.hash_batch(scattered, "sha256", out=torch.empty((2, 32), dtype=torch.uint8))
    with pytest.raises(ValueError, match="out must be uint8 of shape"):
        it.hash_batch(X.t(), "sha256", out=torch.empty((2, 32), dtype=torch.uint8))
    with pytest.raises(ValueError, match="2 values for 36 messages"):
        it.pbkdf2_batch(X.t(), "sha256", salt=[b"a", b"b"], iterations=1)
    with pytest.raises(TypeError, match="string 0"):
        it.new("tuplehash_128", (X.to_sparse(),))


def test_an_error_on_the_way_leaves_the_output_alone(monkeypatch):
    monkeypatch.setattr(batches, "COPIES_SIZE", 1000)
    real, calls = eager.dispatch, []

    def dispatch(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("the device is gone")
        return real(*arguments, **options)

    monkeypatch.setattr(eager, "dispatch", dispatch)
    out = torch.full((3, 32), 7, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="the device is gone"):
        it.hash_batch([X.t()] * 3, "sha256", out=out)
    assert out.eq(7).all()


def test_the_output_may_be_in_the_memory_of_the_messages(monkeypatch):
    monkeypatch.setattr(batches, "COPIES_SIZE", 1000)
    data = X.clone()
    expected = [hashlib.sha256(tensor_message(data.t())).digest()] * 3
    out = data.view(-1)[:96].view(3, 32)
    assert rows_as_bytes(it.hash_batch([data.t()] * 3, "sha256", out=out)) == expected


def test_messages_in_place_are_one_group():
    assert [g.count for g in message_batch([X] * 9).groups()] == [9]
    assert message_batch([X] * 9).whole().view(3).data_ptr() == X.data_ptr()
    assert message_batch(X).whole().data.data_ptr() == X.data_ptr()


@pytest.mark.parametrize("name", ["sha256", "sha3_384", "blake2bp", "poly1305", "kt128"])
@pytest.mark.parametrize("where", ["native", "opencl"])
def test_many_rows_on_the_cpu_are_hashed_in_groups(monkeypatch, name, where):
    if registry.get(where).unsupported(get(name)) is not None or not registry.get(where).probe().available:
        pytest.skip(f"not applicable: {where} does not run here, or does not have {name}")
    keys = table(24, 32) if get(name).keyed == "required" else None
    options = {"backend": where, **({} if keys is None else {"key": keys})}
    chunks = {**options, "chunk_size": 40}
    if keys is not None:
        chunks["key"] = table(22, 32)
    asks = [
        lambda: it.hash_batch(X, name, **options),
        lambda: it.hash_batch(X.view(torch.int32), name, **options),
        lambda: it.hash_batch(table(24, 50)[:, 3:41], name, **options),
        lambda: it.hash_chunks(X, name, **chunks),  # the last one is shorter
    ]
    for ask in asks:
        GENERATOR.manual_seed(7)
        whole = ask()
        seen = []
        dispatch = eager.dispatch

        def counted(record, parameters, messages, *rest, **options):
            seen.append(messages.count)  # noqa: B023
            return dispatch(record, parameters, messages, *rest, **options)  # noqa: B023

        with monkeypatch.context() as patched:
            patched.setattr(batches, "ROWS_COUNT", 7)
            patched.setattr(eager, "dispatch", counted)
            GENERATOR.manual_seed(7)
            assert ask().equal(whole)
        assert seen in ([6, 6, 6, 6], [6, 6, 6, 4])
