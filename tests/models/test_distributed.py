"""Digests that are the same for every sharding: the definition, layouts, copies and errors, with all ranks in
one process."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import json
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import integrity_triton as it
from distributed_support import InThreads, Simulated, content, in_threads, part, root, tree
from guard_support import flip
from integrity_triton.models.distributed import (
    DistributedError,
    agreement,
    finish,
    member,
    node_digests,
    records,
)
from integrity_triton.models.distributed.description import parse
from integrity_triton.models.distributed.held import held_by
from integrity_triton.models.distributed.layout import Layout
from integrity_triton.models.distributed.placements import REPLICATE, OnMesh, of_dtensor

rooting = importlib.import_module(
    "integrity_triton.models.distributed.root"
)  # the name is that of a function

distributed = it.models.distributed
LocalShard = distributed.LocalShard

DTYPES = {"U8": torch.uint8, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
SHAPES = [
    (), (1,), (0,), (0, 3), (1, 1), (5,), (64,), (65,), (256,), (257,), (1000,), (7, 300), (300, 7),
    (1, 129, 1), (3, 5, 70), (2, 1, 3, 40), (33, 129), (128, 128), (40, 2, 2, 3),
]  # fmt: skip


def random(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + math.prod(shape))
    size = math.prod(shape) * dtype.itemsize
    data = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
    return data.view(dtype).view(shape) if size else torch.empty(shape, dtype=dtype)


def array(x: torch.Tensor) -> np.ndarray:
    kinds = {torch.bfloat16: (torch.uint16, np.uint16)}
    return x.view(kinds[x.dtype][0]).numpy() if x.dtype in kinds else x.numpy()


def shard(x: torch.Tensor, layout: Layout) -> LocalShard:
    return LocalShard(part(x, layout), layout.shape, layout.runs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_definition(shape, dtype):
    x = random(shape, DTYPES[dtype])
    expected = content(array(x), dtype)
    assert distributed.tensor_digest(x, algorithm="sha256") == expected
    found = distributed.root({"b": x, "a.é": x}, algorithm="sha256")
    assert dict(found.digests) == {"a.é": expected, "b": expected}
    assert found.root == root(found.digests)


@pytest.mark.parametrize("name", ["blake3", "sha512", "sha3_256", "blake2b", "sm3"])
def test_algorithms(name, monkeypatch):
    def hashed(data: bytes) -> bytes:
        return it.new(name, data).digest()

    monkeypatch.setattr("distributed_support.sha256", hashed)
    x = random((33, 129))
    expected = distributed.tensor_digest(x, algorithm=name)
    head = content(x.numpy(), "F32")
    monkeypatch.setattr("distributed_support.text", lambda t: _text(name if t == "sha256" else t))
    assert expected == content(x.numpy(), "F32") != head


def _text(data: str) -> bytes:
    return len(data.encode()).to_bytes(8, "little") + data.encode()


@pytest.mark.parametrize(
    "name", ["sha1", "sha224", "crc32", "hmac_sha256", "shake_128", "cshake_128", "no such"]
)
def test_algorithms_that_are_refused(name):
    with pytest.raises(it.models.ManifestError):
        distributed.root({"a": torch.ones(1)}, algorithm=name)


def test_everything_counts():
    x = random((8, 64))
    digests = [
        distributed.tensor_digest(y)
        for y in (x, x.view(4, 128), x.view(torch.int32), x.t(), x.flip(0), x.view(1, 8, 64), x.double())
    ]
    assert len(set(digests)) == len(digests)
    one = distributed.root({"a": x, "b": -x})
    assert one != distributed.root({"a": -x, "b": x})
    assert one.differing(distributed.root({"a": x, "b": x, "c": x})) == ("b", "c")
    assert one == distributed.root({"b": -x, "a": x}) and hash(one) == hash(
        distributed.root({"b": -x, "a": x})
    )


def test_chunks_and_copies_do_not_matter(monkeypatch):
    """Tensors are hashed in parts, and small ones together."""
    tensors = {str(i): random((50 + i % 3, 77), seed=i) for i in range(20)} | {"long": random((9000,))}
    expected = distributed.root(tensors)
    for chunk, in_place in ((1000, 1 << 20), (30000, 1), (1 << 20, 5000)):
        monkeypatch.setattr(node_digests, "CHUNK_SIZE", chunk)
        monkeypatch.setattr(node_digests, "_IN_PLACE", in_place)
        assert distributed.root(tensors) == expected


def test_layouts_of_memory():
    x = random((16, 40))
    expected = distributed.tensor_digest(x)
    assert distributed.tensor_digest(x.t().contiguous().t()) == expected
    assert distributed.tensor_digest(torch.nn.Parameter(x)) == expected
    z = random((300,), torch.complex64)
    assert distributed.tensor_digest(z.conj()) == distributed.tensor_digest(z.conj().resolve_conj())


def test_halves_of_bytes():
    kind = getattr(torch, "float4_e2m1fn_x2", None)
    if kind is None:
        pytest.skip("absent: torch has no four-bit floats")
    data = random((6, 300), torch.uint8)
    expected = content(data.numpy(), "F4", (6, 600))
    assert distributed.tensor_digest(data.view(kind), algorithm="sha256") == expected
    halves = [
        LocalShard.along(data[:, i * 150 : i * 150 + 150].contiguous().view(kind), 1, i * 150, 300)
        for i in (0, 1)
    ]
    assert Simulated([{"a": half} for half in halves]).run() == {"a": expected}


@contextlib.contextmanager
def lots_of(size: int | None) -> Iterator[None]:
    """Let a rank receive so few bytes at a time that trees are divided; with None as many as usual."""
    with pytest.MonkeyPatch.context() as patch:
        if size is not None:
            patch.setattr(agreement, "LOT_SIZE", size)
            patch.setattr(agreement, "LEAST_SECTION", size)
            patch.setattr(agreement, "_SHARES", 1)
        yield


lot_sizes = st.sampled_from([None, 1, 300, 2000])

shapes = (
    st.lists(st.integers(1, 40), min_size=0, max_size=4).filter(lambda s: math.prod(s) <= 20000).map(tuple)
)


@st.composite
def meshes(draw) -> tuple[tuple[int, ...], OnMesh, str]:
    """A shape, and how a tensor of this shape lies on a mesh."""
    shape = draw(shapes)
    mesh = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    rule = st.just(REPLICATE)
    if shape:
        rule |= st.tuples(st.integers(0, len(shape) - 1), st.sampled_from([1, 1, 1, 2, 3]))
    rules = tuple(draw(st.lists(rule, min_size=len(mesh), max_size=len(mesh))))
    ranks = draw(st.permutations(range(math.prod(mesh))))
    return shape, OnMesh(mesh, tuple(ranks), rules), draw(st.sampled_from(sorted(DTYPES)))


@settings(max_examples=120, deadline=None)
@given(meshes(), lot_sizes)
def test_any_mesh(drawn, lot_size):
    shape, on_mesh, dtype = drawn
    x = random(shape, DTYPES[dtype])
    with lots_of(lot_size):
        group = Simulated([{"x": shard(x, on_mesh.layout(r, shape))} for r in range(math.prod(on_mesh.mesh))])
    assert group.run() == {"x": content(array(x), dtype)}
    assert not group.faults


@st.composite
def divisions(draw) -> tuple[tuple[int, ...], list[Layout], str]:
    """A shape, and layouts that cover it: each dimension is cut anywhere, the parts of a dimension are dealt
    out in any order, and each combination of them is held by one rank or two."""
    shape = draw(shapes)
    dims = []
    for size in shape:
        cuts = sorted(draw(st.sets(st.integers(1, max(1, size - 1)), max_size=4)) - {size})
        ranges = draw(st.permutations(list(itertools.pairwise([0, *cuts, size]))))
        count = draw(st.integers(1, 2))
        dims.append([ranges[i::count] for i in range(count) if ranges[i::count]])
    layouts = [Layout.of(shape, runs) for runs in itertools.product(*dims)]
    layouts += draw(st.lists(st.sampled_from(layouts), max_size=2))
    if draw(st.booleans()):
        layouts.append(Layout.whole(shape))
    return shape, draw(st.permutations(layouts)), draw(st.sampled_from(sorted(DTYPES)))


@settings(max_examples=120, deadline=None)
@given(divisions(), lot_sizes, st.data())
def test_any_division(drawn, lot_size, data):
    """Also where some ranks hold what others hold, in other parts; a changed byte of one rank is found."""
    shape, layouts, dtype = drawn
    x = random(shape, DTYPES[dtype])
    sources = [{"x": shard(x, layout)} for layout in layouts]
    expected = content(array(x), dtype)
    with lots_of(lot_size):
        assert Simulated(sources).run() == {"x": expected}
        changed_byte(shape, layouts, dtype, sources, expected, data)


def changed_byte(shape, layouts, dtype, sources, expected, data):
    rank = data.draw(st.integers(0, len(layouts) - 1))
    place = data.draw(st.integers(0, math.prod(layouts[rank].local_shape) * DTYPES[dtype].itemsize - 1))
    flip(sources[rank]["x"].data, place)
    group = Simulated(sources)
    found = group.run()
    assert (group.faults and "tensor 'x'" in group.faults[0]) or found != {"x": expected}
    copies = sum(_overlap(layout, layouts[rank]) for layout in layouts) > 1
    assert copies or not group.faults


def _overlap(a: Layout, b: Layout) -> bool:
    return all(
        any(max(s, t) < min(e, f) for s, e in one for t, f in other)
        for one, other in zip(a.runs, b.runs, strict=True)
    )


def columns(x: torch.Tensor, count: int, rank: int) -> LocalShard:
    width = x.shape[1] // count
    return LocalShard.along(x[:, rank * width : (rank + 1) * width], 1, rank * width, x.shape[1])


def test_what_travels():
    """The formulas of docs/distributed.md, in bytes."""
    x = random((64, 1024))  # rows of 4 KiB

    def bytes_of(sources):
        group = Simulated(sources)
        assert group.run() == {"x": content(x.numpy(), "F32")}
        return [sum(y.numel() for y in sent) for sent in group.sent]

    assert bytes_of([{"x": x}] * 4) == [32] * 4
    rows = [{"x": LocalShard.along(x[r * 16 : r * 16 + 16], 0, r * 16, 64)} for r in range(4)]
    assert bytes_of(rows) == [32] * 4
    assert bytes_of([{"x": columns(x, 4, r)} for r in range(4)]) == [64 * 32] * 4
    uneven = [{"x": LocalShard.along(x[:23], 0, 0, 64)}, {"x": LocalShard.along(x[23:], 0, 23, 64)}]
    assert bytes_of(uneven) == [4 * 32, 3 * 32]  # 16 + 4 + 2 + 1, and 1 + 8 + 32 rows
    crossed = [
        {"x": LocalShard.along(x[:, :100], 1, 0, 1024)},
        {"x": LocalShard.along(x[:, 100:], 1, 100, 1024)},
    ]
    # 400 of 4096 bytes: one leaf and 144 bytes of the next; 112 bytes, a leaf of 256, 512, and so on.
    assert bytes_of(crossed) == [64 * (32 + 144), 64 * (32 * 4 - 32 + 112)]


def test_a_large_tensor_is_divided_among_the_ranks():
    """Its tree is finished by all of them, each of which receives a share of the digests."""
    x = random((96, 10, 1024), torch.uint8)
    expected = {"x": content(x.numpy(), "U8")}
    shards = [{"x": LocalShard.along(x[..., r * 256 :][..., :256], 2, r * 256, 1024)} for r in range(4)]
    shards[2]["y"] = x[0]
    expected["y"] = content(x[0].numpy(), "U8")
    with lots_of(8 * 10 * 4 * 32):  # eight of the 96 indices, each with a digest of each row of each rank
        group = Simulated(shards)
    assert len(group.agreement.sections["x"].parts) == 16 and group.agreement.sections.keys() == {"x"}
    assert len(group.agreement.rounds) == 1
    assert group.run() == expected
    received = [sum(sent[rank].numel() for sent in group.sent) for rank in range(4)]
    assert sum(received) == 96 * 10 * 4 * 32 + 32
    assert max(received) <= 6 * 10 * 4 * 32 * 4 + 32
    sent = [sum(data.numel() for data in own) for own in group.sent]
    assert sent == [96 * 10 * 32, 96 * 10 * 32, 96 * 10 * 32 + 32, 96 * 10 * 32]


def test_copies_of_a_divided_tensor_that_differ():
    """Each section in which they differ is found, by the rank that finishes it."""
    x = random((64, 1024), torch.uint8)

    def copy() -> list[dict[str, LocalShard]]:
        return [
            {"x": LocalShard.along(x[:, half * 512 :][:, :512].clone(), 1, half * 512, 1024)}
            for half in range(2)
        ]

    sources = [*copy(), *copy(), *copy()]
    flip(sources[4]["x"].data, 5)
    flip(sources[4]["x"].data, 63 * 512)
    flip(sources[1]["x"].data, 20 * 512)
    with lots_of(2000):
        group = Simulated(sources)
    assert group.run() == {}
    assert sorted(set(group.faults)) == [
        "tensor 'x': rank 1 differs from the majority, ranks 3, 5",
        "tensor 'x': rank 4 differs from the majority, ranks 0, 2",
    ]
    assert len(group.faults) == 3


def test_pieces_of_leaves_that_differ():
    """Of leaves that a cut divides, the bytes themselves are compared."""
    x = random((40, 8), torch.uint8)
    sources = [
        {"x": LocalShard.along(x[:, half * 4 :][:, :4].clone(), 1, half * 4, 8)} for half in (0, 1, 0, 1, 0)
    ]
    flip(sources[2]["x"].data, 17)
    group = Simulated(sources)
    assert group.run() == {}
    assert group.faults == ["tensor 'x': rank 2 differs from the majority, ranks 0, 4"]
    # The whole tensor beside the halves of it, which differ in both.
    flip(sources[3]["x"].data, 0)
    group = Simulated([*sources[2:4], {"x": x}])
    group.run()
    assert group.faults == [
        "tensor 'x': there is no majority: rank 0 and rank 2 differ; "
        "there is no majority: rank 1 and rank 2 differ"
    ]


@pytest.mark.parametrize("width", [8, 1024])
def test_a_part_that_was_met_before_is_compared(width):
    """A rank holds what another has sent, and something that nobody has sent yet."""
    x = random((40, width), torch.uint8)
    half = {"x": LocalShard.along(x[:, : width // 2].clone(), 1, 0, width)}
    assert Simulated([half, {"x": x}]).run() == {"x": content(x.numpy(), "U8")}
    flip(half["x"].data, 3)
    for sources in ([half, {"x": x}], [{"x": x}, half]):
        group = Simulated(sources)
        assert group.run() == {}
        assert group.faults == ["tensor 'x': there is no majority: rank 0 and rank 1 differ"]


def test_all_ranks_that_differ_somewhere_are_named():
    """Two copies differ in two parts of a tensor, between which a shard of another rank is."""
    x = random((64, 1024), torch.uint8)
    copies = [{"x": x.clone()} for _ in range(5)]
    flip(copies[1]["x"], 20 * 1024)
    flip(copies[2]["x"], 50 * 1024)
    shard_of_rows = LocalShard(torch.cat([x[:16], x[32:48]]), (64, 1024), ([(0, 16), (32, 48)], None))
    group = Simulated([*copies, {"x": shard_of_rows}])
    assert group.run() == {}
    assert group.faults == ["tensor 'x': ranks 1-2 differ from the majority, ranks 0, 3-4"]


def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of messages in the batches that are hashed from now on."""
    found: list[int] = []
    for module in (node_digests, finish, member):
        original = module.hash_batch

        def counted(messages, *args, _original=original, **options):
            found.append(len(messages))
            return _original(messages, *args, **options)

        monkeypatch.setattr(module, "hash_batch", counted)
    return found


def test_many_tiny_tensors_take_few_batches_and_little_memory(monkeypatch):
    sizes = [(16,), (5,), (3, 7), (1,), ()]
    tensors = {f"layers.{i}.weight": torch.full(sizes[i % 5], float(i)) for i in range(1000)}
    expected = {name: content(x.numpy(), "F32") for name, x in tensors.items()}
    distributed.root(tensors, algorithm="sha256")
    batches = launches(monkeypatch)
    tracemalloc.start()
    found = distributed.root(tensors, algorithm="sha256")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert dict(found.digests) == expected and found.root == root(expected)
    assert len(batches) <= 60 and sum(batches) == 2 * 1000
    assert peak < 1200 * 1000  # the objects of Python

    batches.clear()
    rows = {name: x.reshape(-1) for name, x in tensors.items() if x.numel() >= 5}
    group = Simulated(
        [
            {name: shard(x, Layout.of(x.shape, [[part_of(len(x), 4, r)]])) for name, x in rows.items()}
            for r in range(4)
        ]
    )
    assert group.run() == {name: content(x.numpy(), "F32") for name, x in rows.items()}
    assert len(batches) <= 80


def part_of(size: int, count: int, index: int) -> tuple[int, int]:
    step = -(-size // count)
    return min(size, index * step), min(size, index * step + step)


def test_names_of_the_same_memory_are_hashed_once(monkeypatch):
    x, other = random((40, 40), torch.uint8), random((40, 40), torch.uint8, seed=1)
    many = {f"{i:03}": x for i in range(200)} | {"view": x.view(40, 40), "other": other}
    batches = launches(monkeypatch)
    found = distributed.root(many, algorithm="sha256")
    assert batches[:4] == [16, 8, 4, 2]  # two trees of eight leaves
    assert sum(batches[4:]) <= 202  # the content digests
    for name, y in many.items():
        assert found.digests[name] == content(y.numpy(), "U8")
    # Neither another part of the memory nor the same part in another order is the same tensor.
    batches.clear()
    whole = random((80, 40), torch.uint8)
    parts = {"a": whole[:40], "b": whole[40:], "c": whole[:40].t(), "d": whole[::2]}
    found = distributed.root(parts, algorithm="sha256")
    assert dict(found.digests) == {name: content(y.numpy(), "U8") for name, y in parts.items()}
    assert sum(batches) == 4 * (8 + 7)


def test_views_of_one_memory_that_mean_something_else():
    """Conjugation and negation are bits of a view, which has the same address and strides."""
    z = random((300,), torch.complex64)
    views = {"z": z, "conj": z.conj(), "imag": z.imag, "neg": z.conj().imag, "again": z.conj()}
    found = distributed.root(views, algorithm="sha256").digests
    for name, view in views.items():
        assert found[name] == distributed.tensor_digest(view.clone(), algorithm="sha256"), name
    assert len(set(found.values())) == 4


def test_small_tensors_of_every_dtype_are_hashed_together():
    from integrity_triton.models.dtypes import _FROM_TORCH

    names = [name for name in _FROM_TORCH if hasattr(torch, name)]
    tensors = {}
    for name in names:
        dtype = getattr(torch, name)
        for i in range(3):
            bytes_of = random((24,), torch.uint8, seed=i) & (1 if name == "bool" else 255)
            tensors[f"{name} {i}"] = bytes_of.view(dtype)
    found = distributed.root(tensors, algorithm="sha256").digests
    for name, x in tensors.items():
        raw = x.view(torch.uint8).numpy()
        assert found[name] == content(raw, _FROM_TORCH[name.split()[0]], x.shape)


def test_the_work_is_the_same_for_all_ranks():
    """Bytes that are received, and digests at the end, which are padded to the longest."""
    ranks = 8
    tensors = {f"layers.{i}.norm": random((64,), seed=i) for i in range(60)}
    wide = {f"layers.{i}.down": random((64, 1024), torch.uint8, seed=i) for i in range(20)}
    group = Simulated(
        [tensors | {name: columns(x, 4, r % 4) for name, x in wide.items()} for r in range(ranks)]
    )
    assert group.run() == {name: content(x.numpy(), "F32") for name, x in tensors.items()} | {
        name: content(x.numpy(), "U8") for name, x in wide.items()
    }
    counts = [sum(len(lot.names) for lot in group.agreement.finished_by(rank)) for rank in range(ranks)]
    assert sum(counts) == 80 and max(counts) <= 13
    received = [sum(sent[rank].numel() for sent in group.sent) for rank in range(ranks)]
    assert max(received) <= 2 * sum(received) / ranks


def test_what_a_member_receives_is_counted():
    x = random((64, 1024), torch.uint8)
    group = Simulated([{"x": columns(x, 2, r)} for r in range(2)])
    (part,) = group.agreement.rounds
    (reducer,) = set(part.reducers)
    sent = [member.contributions(part)[reducer] for member in group.members]
    for wrong in (sent[1][:-32], torch.cat([sent[1], sent[1][:32]])):
        with pytest.raises(DistributedError, match=r"^rank 1 sent \d+ bytes and not 2048"):
            group.members[reducer].receive(part, [sent[0], wrong])
    assert not group.members[reducer].receive(part, sent)


def test_a_part_that_nobody_sent_is_noticed():
    """The agreement finds it first; this is what is left if it should not."""
    whole = Simulated([{"x": columns(random((64, 1024), torch.uint8), 2, r)} for r in range(2)])
    (lot,) = whole.agreement.rounds[0].lots
    spread = dataclasses.replace(lot.spread, holders={0: lot.spread.holders[0]})
    with pytest.raises(DistributedError, match="a part of a tree was sent by no rank"):
        finish.finish(
            dataclasses.replace(lot, spread=spread),
            [
                whole.members[0].contributions(whole.agreement.rounds[0])[
                    whole.agreement.rounds[0].reducers[0]
                ]
            ],
            whole.hash,
            None,
        )


@pytest.mark.parametrize(
    ("call", "size", "message"),
    [
        ("gather", 32, "roots were damaged on their way"),
        ("broadcast", 0, "description of rank 0 was damaged"),
    ],
)
def test_what_is_damaged_on_its_way_is_noticed(call, size, message):
    """A byte of what the last rank gets is another one."""
    tensors = {"w": random((30, 30)), "v": random((7,))}
    hash_ = records.check_algorithm("blake3")

    class Damaging(InThreads):
        def gather(self, data):
            found = super().gather(data)
            if call == "gather" and len(data) == size and self.rank == 2:
                found[0] = bytes([found[0][0] ^ 1]) + found[0][1:]
            return found

        def broadcast(self, data, source):
            found = super().broadcast(data, source)
            return found[:-1] + b" " if call == "broadcast" and self.rank == 2 else found

    def one(exchange):
        exchange.__class__ = Damaging
        held = held_by(tensors, range(3), exchange.rank)
        try:
            return rooting.together(held, exchange, hash_, None)
        except DistributedError:
            if call == "broadcast":  # the others go on, and wait for this rank
                exchange.give_up(RuntimeError())
            raise

    found = in_threads(3, one)
    assert isinstance(found[2], DistributedError) and message in str(found[2])


def test_shards_are_stated_from_either_end_and_have_their_shape():
    x = random((8, 64))
    expected = {"x": content(x.numpy(), "F32")}
    halves = [{"x": LocalShard.along(x[:, i * 32 :][:, :32], -1, i * 32, 64)} for i in range(2)]
    assert Simulated(halves).run() == expected
    with pytest.raises(it.models.ManifestError, match=r"a part of shape \[64, 8\].* needs \[8, 64\]"):
        distributed.root({"x": LocalShard(x.view(64, 8), (8, 64), (None, None))})


def test_what_a_dtensor_says():
    """Ranks of the mesh outside of the group, dimensions from the end, and placements that are refused."""
    from torch.distributed.tensor import Partial, Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    def said(placements, group, dims=2):
        mesh = torch.tensor([[0, 1], [2, 3]])
        x = SimpleNamespace(placements=placements, device_mesh=SimpleNamespace(mesh=mesh), dim=lambda: dims)
        return of_dtensor(x, group)

    assert said([Replicate(), Shard(-1)], [3, 1]) == OnMesh((2, 2), (-1, 1, -1, 0), (REPLICATE, (1, 1)))
    strided = said([_StridedShard(-2, split_factor=2), Shard(0)], [0, 1, 2, 3])
    assert strided == OnMesh((2, 2), (0, 1, 2, 3), ((0, 2), (0, 1)))
    assert strided.layout(1, (8, 3)).runs[0] == ((4, 6),)
    alone = said([_StridedShard(-2, split_factor=2), Replicate()], [0, 1, 2, 3])
    assert [alone.layout(r, (8, 3)).runs[0] for r in (1, 2)] == [((0, 2), (4, 6)), ((2, 4), (6, 8))]
    assert said([Shard(0), Replicate()], [0, 2]).layout(7, (8, 3)).empty

    class Other(Shard):
        pass

    for placement in (Partial(), Other(0)):
        with pytest.raises(TypeError, match="does not hold parts of the tensor"):
            said([placement, Replicate()], [0, 1, 2, 3])


def test_stages_and_experts():
    """Ranks hold different tensors, and no tensor is everywhere."""
    tensors = {f"layers.{i}.weight": random((40, 30), seed=i) for i in range(6)}
    experts = random((8, 16, 24))
    expected = {name: content(x.numpy(), "F32") for name, x in tensors.items()} | {
        "experts": content(experts.numpy(), "F32")
    }
    sources = [
        {name: x for i, (name, x) in enumerate(tensors.items()) if i % 3 == r}
        | {"experts": LocalShard.along(experts[2 * r : 2 * r + 2], 0, 2 * r, 8)}
        for r in range(3)
    ]
    sources[0]["tied"] = sources[0]["layers.0.weight"]
    sources.append({"experts": LocalShard.along(experts[6:], 0, 6, 8)})
    sources.append({})
    expected["tied"] = expected["layers.0.weight"]
    assert Simulated(sources).run() == expected
    whole = distributed.root(
        {**tensors, "experts": experts, "tied": tensors["layers.0.weight"]}, algorithm="sha256"
    )
    assert dict(whole.digests) == expected


def test_copies_that_differ():
    x = random((64, 80))
    copies = [{"x": x.clone(), "y": x.clone(), "z": x} for _ in range(5)]
    flip(copies[3]["x"], 700)
    flip(copies[1]["y"], 0)
    flip(copies[2]["y"], 20000)
    group = Simulated(copies)
    assert group.run() == {}
    assert sorted(group.faults) == [
        "tensor 'x': rank 3 differs from the majority, ranks 0-2, 4",
        "tensor 'y': ranks 1-2 differ from the majority, ranks 0, 3-4",
    ]
    group = Simulated(copies[3:])
    group.run()
    assert group.faults == ["tensor 'x': there is no majority: rank 0 and rank 1 differ"]


def test_parts_that_are_missing_or_contradict_each_other():
    x = random((64, 8))
    with pytest.raises(
        it.models.ManifestError, match=r"tensor 'x' is held by no rank, from the element \[32, 0\]"
    ):
        Simulated([{"x": LocalShard.along(x[:32], 0, 0, 64)}, {"x": LocalShard.along(x[40:], 0, 40, 64)}])
    with pytest.raises(
        it.models.ManifestError, match=r"tensor 'x'.*F32 \[64, 8\] by ranks 0-1; F64 .* by rank 2"
    ):
        Simulated([{"x": x}, {"x": x}, {"x": x.double()}])
    with pytest.raises(
        it.models.ManifestError, match=r"tensor 'x'.*part of shape \[63, 8\].* needs \[64, 8\]"
    ):
        distributed.root({"x": LocalShard(x[1:], (64, 8), (None, None))})
    with pytest.raises(it.models.ManifestError, match=r"tensor 'x'.*each once"):
        distributed.root({"x": LocalShard(x, (64, 8), ([(0, 32), (16, 48)], None))})
    with pytest.raises(it.models.ManifestError, match="1 dimensions, and the shape has 2"):
        distributed.root({"x": LocalShard(x, (64, 8), (None,))})


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (3, TypeError, "tensor 'x': a int is no tensor"),
        (torch.empty(3, device="meta"), ValueError, "tensor 'x': a meta tensor"),
        (torch.ones(2, dtype=torch.complex128), TypeError, "tensor 'x': safetensors has no dtype"),
        (torch.ones(2).to_sparse(), TypeError, "tensor 'x': .*no dense bytes"),
    ],
)
def test_tensors_that_are_refused(value, error, match):
    with pytest.raises(error, match=match):
        distributed.root({"x": value})


def test_sources_that_are_refused():
    for source in (None, [torch.ones(1)], "model.safetensors"):
        with pytest.raises(TypeError, match="a root is computed of"):
            distributed.root(source)
    with pytest.raises(ValueError, match="positive number of seconds"):
        distributed.root({}, timeout=0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="absent: a peak that can be reset")
@pytest.mark.parametrize("lot_size", [0, 1 << 30])
def test_memory_where_a_cut_divides_every_leaf(lot_size):
    """A matrix of 64 columns in bfloat16 that is cut by columns travels whole. Finishing its tree takes at
    most twice its size besides what was received, even in one lot."""
    script = str(Path(__file__).with_name("distributed_memory_worker.py"))
    ran = subprocess.run([sys.executable, script, str(lot_size)], capture_output=True, text=True, check=True)
    received, peak = map(int, ran.stdout.split())
    assert received == 64 << 20
    assert peak < (2 * received if lot_size else received // 2)


def test_no_tensor_at_all():
    assert distributed.root({}, algorithm="sha256").root == root({})


def test_rounds_are_bounded(monkeypatch):
    monkeypatch.setattr("integrity_triton.models.distributed.agreement.ROUND_SIZE", 3000)
    x = {str(i): random((64, 128), seed=i) for i in range(9)}
    group = Simulated([{name: columns(y, 4, r) for name, y in x.items()} for r in range(4)])
    assert len(group.agreement.rounds) > 4
    assert group.run() == {name: content(y.numpy(), "F32") for name, y in x.items()}
    loads = [len(group.agreement.finished_by(rank)) for rank in range(4)]
    assert max(loads) - min(loads) <= 1


def test_files(tmp_path):
    from safetensors.torch import save_file, save_model

    model = torch.nn.ModuleDict({"a": torch.nn.Linear(70, 30), "b": torch.nn.Linear(70, 30)})
    model["b"].weight = model["a"].weight
    expected = distributed.root(model)
    assert sorted(expected.digests) == ["a.bias", "a.weight", "b.bias", "b.weight"]
    save_model(model, tmp_path / "one.safetensors")
    assert distributed.root_of_files(tmp_path / "one.safetensors") == expected
    folder = tmp_path / "folder"
    folder.mkdir()
    state = {name: x.clone() for name, x in model.state_dict().items()}
    names = sorted(state)
    for i, half in enumerate((names[:2], names[2:])):
        save_file({name: state[name] for name in half}, folder / f"model-{i + 1:05}-of-00002.safetensors")
    assert distributed.root_of_files(folder) == expected
    x = {"e": torch.zeros(0, 5), "s": torch.tensor(3), "h": torch.ones(3, 300, dtype=torch.bfloat16)}
    save_file(x, tmp_path / "odd.safetensors")
    assert distributed.root_of_files(tmp_path / "odd.safetensors") == distributed.root(x)


def test_parts_of_wrappers():
    from torch.testing._internal.two_tensor import TwoTensor

    weight = TwoTensor(torch.arange(4.0), -torch.arange(4.0))
    assert distributed.root({"layer.weight": weight}) == distributed.root(
        {"layer._weight_a": weight.a, "layer._weight_b": weight.b}
    )
    with pytest.raises(TypeError, match="several tensors"):
        distributed.tensor_digest(weight)


def test_the_tree_of_the_oracle_has_known_roots():
    """The definition is fixed: these were computed once, and must never change."""
    x = np.arange(1000, dtype=np.uint16).reshape(10, 100)
    assert tree(x).hex() == "ad19cb9a0f27174f501fa349fb9857a837ab5704a0c9a04ab2c64a2b98ada441"
    assert (
        distributed.root({"x": torch.from_numpy(x)}, algorithm="sha256").root.hex()
        == "1518fa79581d358ba970106bd2951b2a0f1e8ff996473d13cda8052601324429"
    )


@pytest.mark.parametrize(
    "layout",
    [
        {"mesh": [2], "ranks": [0, 1], "rules": [[5, 1]]},
        {"mesh": [2], "ranks": [0, 1], "rules": [[-2, 1]]},
        {"mesh": [2], "ranks": [0, 1], "rules": [[0, 0]]},
        {"mesh": [True, 2], "ranks": [0, 1], "rules": [[0, 1], [-1, 0]]},
        {"mesh": [2], "ranks": [0, 1.5], "rules": [[0, 1]]},
        {"mesh": [3], "ranks": [0, 1], "rules": [[0, 1]]},
        {"mesh": [2], "ranks": [0, 1], "rules": []},
        {"mesh": [-2], "ranks": [], "rules": [[0, 1]]},
        {"runs": [[[0, 5]]]},
        {},
    ],
)
def test_descriptions_that_cannot_be_right(layout):
    def described(layout: dict[str, object]) -> bytes:
        return json.dumps({"tensors": [["U8", [4, 4], 0, ["x"]]], "layouts": [layout]}).encode()

    right = {"mesh": [2], "ranks": [0, 1], "rules": [[1, 1]]}
    assert parse(described(right))["x"].at(1).local_shape == (4, 2)
    with pytest.raises(DistributedError, match="a rank sent a description that cannot be read"):
        parse(described(layout))
