"""One rank of the test of weight syncs: ranks 0 and 1 are a trainer, ranks 2 and 3 an engine.

The trainer shards every tensor by rows, gathers it, and sends it in buckets. The engine has q, k and v, and
gate and up, in one parameter each, with its share of each by rows; o by columns; and norm on each rank.
What is sent is added to what is there, so that it matters how often a bucket is applied.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from integrity_triton.models.distributed import Part, SyncMismatch, WeightSync, fused, resolve

LAYER = "layers.0."
SHAPES = {
    LAYER + "q_proj.weight": (64, 24),
    LAYER + "k_proj.weight": (16, 24),
    LAYER + "v_proj.weight": (16, 24),
    LAYER + "o_proj.weight": (24, 64),
    LAYER + "gate_proj.weight": (50, 24),
    LAYER + "up_proj.weight": (50, 24),
    "norm.weight": (24,),
    "head.weight": (33, 24),
}
BUCKETS = [
    [LAYER + "q_proj.weight", "norm.weight"],
    [LAYER + "gate_proj.weight", LAYER + "up_proj.weight"],
    [LAYER + "k_proj.weight", LAYER + "v_proj.weight", "head.weight"],
    [LAYER + "o_proj.weight"],
]


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


class Engine:
    """The parameters of a rank of the engine, and what the map says of them."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.parameters = {
            "model.layers.0.qkv_proj.weight": torch.zeros(32 + 8 + 8, 24),
            "model.layers.0.gate_up_proj.weight": torch.zeros(25 + 25, 24),
            "model.layers.0.o_proj.weight": torch.zeros(24, 32),
            "model.norm.weight": torch.zeros(24),
            "model.head.weight": torch.zeros(33, 24),
        }

        def part(name: str, dim: int = 0) -> Part:
            size = SHAPES[name][dim]
            return Part(name, size // 2, size, rank * (size // 2))

        names = [LAYER + f"{kind}_proj.weight" for kind in ("q", "k", "v", "gate", "up", "o")]
        rules = {
            "model.layers.0.qkv_proj.weight": fused([part(name) for name in names[:3]]),
            "model.layers.0.gate_up_proj.weight": fused([part(name) for name in names[3:5]]),
            "model.layers.0.o_proj.weight": fused([part(names[5], 1)], dim=1),
        }
        self.held = resolve(self.parameters, rules, rename={"model.": ""})

    def apply(self, name: str, x: torch.Tensor) -> None:
        view: Any = self.held[name]
        if torch.is_tensor(view):
            view.add_(x)
            return
        for dim, runs in enumerate(view.runs):
            if runs is not None:
                ((start, stop),) = runs
                x = x.narrow(dim, start, stop - start)
        view.data.add_(x)


def transfer(case: str, group: dist.ProcessGroup, mesh: DeviceMesh) -> str:
    """One sync, with a fault on the way."""
    rank = dist.get_rank()
    order: Sequence[int] = range(len(BUCKETS))
    full = weights()
    if rank < 2:
        shards = {name: distribute_tensor(x, mesh, [Shard(0)]) for name, x in full.items()}
        sender = WeightSync(1, group, timeout=120)
        for names in BUCKETS:
            sender.sent({name: shards[name] for name in names})
        gathered = {name: x.full_tensor() for name, x in shards.items()}
        text = [sender.statement().to_json()]
    else:
        engine = Engine(rank - 2)
        receiver = WeightSync(1, group, timeout=120)
        gathered = {name: torch.empty(shape) for name, shape in SHAPES.items()}
        text = [b""]
    if case == "reordered":
        order = (3, 1, 0, 2)
    for number in order:
        for name in BUCKETS[number]:
            dist.broadcast(gathered[name], 0)
        if rank < 2 or (case == "lost" and number == 1):
            continue
        if case == "flipped" and number == 2 and rank == 3:
            gathered[LAYER + "k_proj.weight"].view(torch.uint8)[11, 40] ^= 1
        for name in BUCKETS[number]:
            if case == "lost at one rank" and name == "norm.weight" and rank == 3:
                continue
            for _ in range(2 if case == "twice" and number == 3 else 1):
                engine.apply(name, gathered[name])
                receiver.arrived([name])
    dist.broadcast_object_list(text, 0)
    if rank < 2:
        return ""
    try:
        return str(receiver.check(text[0], engine.held))
    except SyncMismatch as error:
        return str(error)


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank = dist.get_rank()
    trainer, serving = dist.new_group([0, 1]), dist.new_group([2, 3])
    group = trainer if rank < 2 else serving
    mesh = DeviceMesh.from_group(group, "cpu")
    cases = ("clean", "reordered", "flipped", "lost", "lost at one rank", "twice")
    found = {case: transfer(case, group, mesh) for case in cases}
    (out / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
    # A thread of gloo may still release tensors of torch's own operations, which aborts an interpreter that
    # ends meanwhile (torch 2.13).
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
