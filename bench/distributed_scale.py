"""What digests over a thousand ranks cost: bytes, memory and time, counted from the layouts of a model of
1.8 TB without its data; and a small model with data on as many logical ranks, which shows that the counts are
those of the bytes that are sent.

``python -m bench.distributed_scale [ranks]``. ``docs/distributed.md`` has the result.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

import integrity_triton as it
from integrity_triton.models.distributed import agreement as agreements
from integrity_triton.models.distributed.agreement import Agreement
from integrity_triton.models.distributed.description import Described, parse
from integrity_triton.models.distributed.finish import conclude
from integrity_triton.models.distributed.held import Held, held_by
from integrity_triton.models.distributed.layout import Layout
from integrity_triton.models.distributed.member import Member
from integrity_triton.models.distributed.node_digests import CHUNK_SIZE
from integrity_triton.models.distributed.placements import REPLICATE, OnMesh, Rule
from integrity_triton.models.distributed.records import check_algorithm
from integrity_triton.models.distributed.tree import LEAF_SIZE

from .environment import ROOT

DIGEST_SIZE = 32
BLOCK = 64
DEVICE = "H200"

# A dimension that tensor parallelism cuts is named by its letter: "r" for rows, "c" for columns, "" for none.
# The experts of a layer are one tensor, whose second dimension fully sharded data parallelism cuts.
Shape = tuple[tuple[int, ...], str]


def shapes(
    layers: int, hidden: int, expert: int, experts: int, dense: int, vocabulary: int
) -> dict[str, Shape]:
    """The weights of a mixture of experts with latent attention: the sizes are those of DeepSeek-V3's
    ``config.json``, and three of the layers are dense. There are more layers than its 61."""
    found: dict[str, Shape] = {
        "embed": ((vocabulary, hidden), "r"),
        "head": ((vocabulary, hidden), "r"),
        "norm": ((hidden,), ""),
    }
    heads, rank_q, rank_kv, rope, nope, value = 128, 1536, 512, 64, 128, 128
    for i in range(layers):
        own: dict[str, Shape] = {
            "q_a": ((rank_q, hidden), ""),
            "q_b": ((heads * (nope + rope), rank_q), "r"),
            "kv_a": ((rank_kv + rope, hidden), ""),
            "kv_b": ((heads * (nope + value), rank_kv), "r"),
            "o": ((hidden, heads * value), "c"),
            "q_norm": ((rank_q,), ""),
            "kv_norm": ((rank_kv,), ""),
            "norm_1": ((hidden,), ""),
            "norm_2": ((hidden,), ""),
        }
        width = dense if i < 3 else expert
        own |= {
            "gate": ((width, hidden), "r"),
            "up": ((width, hidden), "r"),
            "down": ((hidden, width), "c"),
        }
        if i >= 3:
            own |= {
                "router": ((experts, hidden), ""),
                "experts.gate": ((experts, expert, hidden), "r"),
                "experts.up": ((experts, expert, hidden), "r"),
                "experts.down": ((experts, hidden, expert), "c"),
            }
        found |= {f"layers.{i}.{name}": shape for name, shape in own.items()}
    return found


def nbytes(model: Mapping[str, Shape]) -> int:
    """Bytes of the model in bfloat16."""
    return 2 * sum(int(np.prod(shape)) for shape, _ in model.values())


def fully_sharded(shape: tuple[int, ...], cut: str) -> int:
    """The dimension that fully sharded data parallelism cuts: the first, or the second of experts."""
    return 1 if len(shape) == 3 else 0


def tensor_parallel(shape: tuple[int, ...], cut: str) -> Rule:
    return {"r": (len(shape) - 2, 1), "c": (len(shape) - 1, 1), "": REPLICATE}[cut]


def only_sharded(ranks: int) -> Callable[[tuple[int, ...], str], OnMesh]:
    return lambda shape, cut: OnMesh((ranks,), tuple(range(ranks)), ((fully_sharded(shape, cut), 1),))


def hybrid(ranks: int) -> Callable[[tuple[int, ...], str], OnMesh]:
    """Eight copies, each of which is fully sharded."""
    return lambda shape, cut: OnMesh(
        (8, ranks // 8), tuple(range(ranks)), (REPLICATE, (fully_sharded(shape, cut), 1))
    )


def two_dimensions(ranks: int) -> Callable[[tuple[int, ...], str], OnMesh]:
    """Tensor parallelism over eight ranks, fully sharded over the others, as FSDP2 does it: where both cut
    the same dimension, the shards are strided."""

    def place(shape: tuple[int, ...], cut: str) -> OnMesh:
        tensor = tensor_parallel(shape, cut)
        dim = fully_sharded(shape, cut)
        factor = 8 if tensor[0] == dim else 1
        return OnMesh((ranks // 8, 8), tuple(range(ranks)), ((dim, factor), tensor))

    return place


def expert_parallel(ranks: int, experts: int = 256) -> Callable[[tuple[int, ...], str], OnMesh]:
    """As many ranks as there are experts have one of them each, all layers' of that number. What is left of
    the ranks, and everything that is no expert, is fully sharded."""

    def place(shape: tuple[int, ...], cut: str) -> OnMesh:
        if len(shape) == 3:
            return OnMesh((ranks // experts, experts), tuple(range(ranks)), ((1, 1), (0, 1)))
        return OnMesh((ranks,), tuple(range(ranks)), ((0, 1),))

    return place


PLANS: Mapping[str, Callable[[int], Callable[[tuple[int, ...], str], OnMesh]]] = {
    "fully sharded": only_sharded,
    "hybrid: 8 copies": hybrid,
    "fully sharded, an expert a rank": expert_parallel,
    "fully sharded and tensor parallel over 8": two_dimensions,
}


def described(
    model: Mapping[str, Shape], place: Callable[[tuple[int, ...], str], OnMesh]
) -> dict[str, Described]:
    alike = {kind: Described("BF16", kind[0], kind[0], place(*kind)) for kind in set(model.values())}
    return {name: alike[kind] for name, kind in model.items()}


def text_of(description: Mapping[str, Described]) -> bytes:
    """A description as a rank sends it."""
    from integrity_triton.models.distributed.description import describe

    nothing = torch.empty(0)
    return describe(
        {name: Held(nothing, x.dtype, x.shape, x.memory_shape, x.layout) for name, x in description.items()}
    )


def sent_and_received(agreement: Agreement) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
    """Bytes that each rank sends and receives, and the bytes of fragments in all."""
    sent, received = np.zeros((2, agreement.size), np.int64)
    fragments = 0
    known: dict[Any, tuple[Any, Any, int]] = {}
    for rank in range(agreement.size):
        for lot in agreement.finished_by(rank):
            spread, count = lot.spread, len(lot.names)
            if spread not in known:
                own = sum(p.fragment_size for r in spread.holders if (p := spread.pieces(r)) is not None)
                known[spread] = *spread.sizes(DIGEST_SIZE), own
            ranks, sizes, own = known[spread]
            sent[ranks] += sizes * count
            received[rank] += sizes.sum() * count
            fragments += own * count
    return sent, received, fragments


def memory(agreement: Agreement) -> int:
    """Bytes that a rank needs besides its tensors, at most: what it hashes at a time, with the digests of the
    leaves; what it sends in a round, twice; what it receives in a round, and what of that is finished in one
    go, twice."""
    worst = 0
    known: dict[Any, tuple[Any, Any]] = {}
    for round_ in agreement.rounds:
        sent, received, largest = np.zeros((3, agreement.size), np.int64)
        for lot, reducer in zip(round_.lots, round_.reducers, strict=True):
            if lot.spread not in known:
                known[lot.spread] = lot.spread.sizes(DIGEST_SIZE)
            ranks, sizes = known[lot.spread]
            total = int(sizes.sum()) * len(lot.names)
            sent[ranks] += sizes * len(lot.names)
            received[reducer] += total
            largest[reducer] = max(largest[reducer], total)
        worst = max(worst, int((2 * sent + received + 2 * largest).max()))
    return int(CHUNK_SIZE * (2 + DIGEST_SIZE / LEAF_SIZE)) + worst


def at_the_end(agreement: Agreement) -> int:
    """Bytes that a rank receives at the end: content digests and nodes of sections, padded to the rank that
    has most."""
    counts = [sum(len(lot.names) for lot in agreement.finished_by(rank)) for rank in range(agreement.size)]
    return max(counts) * DIGEST_SIZE * agreement.size


def count(ranks: int) -> None:
    small = {"hidden": 7168, "expert": 2048, "experts": 256, "dense": 18432, "vocabulary": 129280}
    layers = next(n for n in range(61, 200) if nbytes(shapes(n, **small)) >= 1.8e12)
    model = shapes(layers, **small)
    total = nbytes(model)
    own = total / ranks
    print(f"{total / 1e12:.2f} TB in {len(model)} tensors of {layers} layers, {ranks} ranks\n")
    print(
        "| sharding | a rank holds | sends, at most | receives, at most | sent of held | in fragments | "
        "descriptions | sections | rounds | at the end | memory besides, at most | seconds to plan |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, plan in PLANS.items():
        start = time.perf_counter()
        description = described(model, plan(ranks))
        text = text_of(description)
        agreement = Agreement([parse(text)] * ranks, DIGEST_SIZE)
        seconds = time.perf_counter() - start
        sent, received, fragments = sent_and_received(agreement)
        copies = 8 if name.startswith("hybrid") else 1
        row = [
            name,
            f"{own * copies / 1e9:.2f} GB",
            f"{sent.max() / 1e6:.2f} MB",
            f"{received.max() / 1e6:.2f} MB",
            f"{100 * sent.sum() / (total * copies):.3f} %",
            f"{fragments / max(1, sent.sum()):.1%}",
            f"{len(text) / 1e3:.0f} KB",
            f"{sum(len(sections.parts) for sections in agreement.sections.values())}",
            str(len(agreement.rounds)),
            f"{at_the_end(agreement) / 1e3:.0f} KB",
            f"{memory(agreement) / 1e6:.0f} MB",
            f"{seconds:.1f}",
        ]
        print(f"| {' | '.join(row)} |")
    print()
    rates = json.loads((ROOT / "bench" / "results" / "roofline.json").read_text())["families"]
    print(
        f"| algorithm | bytes hashed a byte | counted rate, {DEVICE} | milliseconds for {own / 1e9:.2f} GB |"
    )
    print("| --- | ---: | ---: | ---: |")
    for algorithm, extra in (("blake3", 0), ("sha256", 9)):  # SHA-256 pads a message with at least 9 bytes
        gigabytes = rates[algorithm]["rates"][DEVICE]["GB/s"]
        blocks = -(-(LEAF_SIZE + extra) // BLOCK) + -(-(2 * DIGEST_SIZE + extra) // BLOCK)
        factor = blocks * BLOCK / LEAF_SIZE
        milliseconds = own * factor / gigabytes / 1e6
        print(f"| {algorithm} | {factor:.2f} | {gigabytes:.0f} GB/s | {milliseconds:.1f} |")


def part(x: torch.Tensor, layout: Layout) -> torch.Tensor:
    for dim, runs in enumerate(layout.runs):
        indices = [i for start, stop in runs for i in range(start, stop)]
        x = x.index_select(dim, torch.tensor(indices, dtype=torch.int64))
    return x


def simulate(ranks: int) -> bool:
    """All ranks in this process, with the data of a small model of the same kind, whose tensors are divided
    into sections at a size that is smaller in the same measure."""
    agreements.LOT_SIZE, agreements.LEAST_SECTION = 1 << 12, 1 << 12
    model: dict[str, Shape] = {
        "embed": ((2999, 256), "r"),
        "norm": ((256,), ""),
        "q": ((3072, 128), "r"),
        "o": ((256, 4096), "c"),
        "up": ((1000, 256), "r"),
        "down": ((256, 1000), "c"),
        "experts.up": ((16, 128, 256), "r"),
        "experts.down": ((16, 256, 128), "c"),
    }
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape).bfloat16() for name, (shape, _) in model.items()}
    expected = it.models.distributed.root(tensors)
    hash_ = check_algorithm("blake3")
    good = True
    print(f"\nWith data: {nbytes(model) / 1e6:.0f} MB on {ranks} logical ranks\n")
    print("| sharding | bytes counted | bytes sent | received, at most | sections | the same root |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for name, plan in PLANS.items():
        place = expert_parallel(ranks, 16) if plan is expert_parallel else plan(ranks)
        agreement = Agreement([described(model, place)] * ranks, DIGEST_SIZE)
        members = []
        for rank in range(ranks):
            held = {}
            for tensor, (shape, cut) in model.items():
                own = place(shape, cut).layout(rank, shape)
                held[tensor] = it.models.distributed.LocalShard(part(tensors[tensor], own), shape, own.runs)
            members.append(Member(rank, held_by(held, range(ranks), rank), agreement, hash_, None))
        counted, expected_there, _ = sent_and_received(agreement)
        sent, received = np.zeros((2, ranks), np.int64)
        for round_ in agreement.rounds:
            inboxes: list[list[torch.Tensor]] = [[] for _ in range(ranks)]
            for rank, member in enumerate(members):
                for target, data in enumerate(member.contributions(round_)):
                    inboxes[target].append(data)
                    sent[rank] += data.numel()
                    received[target] += data.numel()
            for member, inbox in zip(members, inboxes, strict=True):
                good &= not member.receive(round_, inbox)
        digests = conclude(agreement, [member.digests for member in members], hash_)
        equal = it.models.distributed.DistributedDigests("blake3", digests) == expected
        good &= equal and np.array_equal(counted, sent) and np.array_equal(expected_there, received)
        sections = sum(len(sections.parts) for sections in agreement.sections.values())
        row = [name, f"{counted.sum():,}", f"{sent.sum():,}", f"{received.max():,}", str(sections)]
        print(f"| {' | '.join([*row, 'yes' if equal else '**no**'])} |", flush=True)
    return good


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ranks", nargs="?", type=int, default=1024, help="a multiple of 256")
    ranks = parser.parse_args(arguments).ranks
    count(ranks)
    return 0 if simulate(ranks) else 1


if __name__ == "__main__":
    sys.exit(main())
