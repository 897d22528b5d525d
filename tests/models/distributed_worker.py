"""One rank of the tests with real processes: run by torchrun, it writes what it found as JSON."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import integrity_triton as it
from distributed_support import part
from integrity_triton.models.distributed.placements import of_dtensor

TIMEOUT = 120.0


class Model(nn.Module):
    """Small, with sizes that no group divides, tied weights, a buffer and a number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embed = nn.Embedding(131, 48)
        self.up = nn.Linear(48, 200)
        self.down = nn.Linear(200, 48)
        self.norm = nn.BatchNorm1d(48)
        self.head = nn.Linear(48, 131, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.norm(self.down(torch.relu(self.up(self.embed(x))))))


def layouts(mesh: Any) -> int:
    """Compare what torch distributes with what the layouts say; return how many were compared."""
    group = list(range(dist.get_world_size()))
    compared = 0
    for shape in ((7,), (8, 3), (1, 5), (2, 9, 4), (16, 16)):
        x = torch.arange(torch.Size(shape).numel()).view(shape)
        choices = [Replicate(), *(Shard(dim) for dim in range(len(shape)))]
        for placements in itertools.product(choices, repeat=mesh.ndim):
            d = distribute_tensor(x, mesh, placements)
            layout = of_dtensor(d, group).layout(dist.get_rank(), shape)
            expected = part(x, layout)
            assert torch.equal(d.to_local().reshape(-1), expected.reshape(-1)), (shape, placements)
            compared += 1
    return compared


def roots(model: nn.Module) -> str:
    return it.models.distributed.root(model, algorithm="sha256", timeout=TIMEOUT).root.hex()


def meshes(size: int) -> dict[str, tuple[int, ...]]:
    return {"line": (size,), "grid": (size // 2, 2) if size > 1 else (1, 1)}


def same_for_all() -> dict[str, Any]:
    """The root of one model under many shardings."""
    size = dist.get_world_size()
    found: dict[str, Any] = {"plain": roots(Model())}
    line = init_device_mesh("cpu", (size,))
    grid = init_device_mesh("cpu", meshes(size)["grid"], mesh_dim_names=("dp", "tp"))
    found["layouts"] = layouts(line) + layouts(grid)
    model = Model()
    fully_shard(model, mesh=line)
    found["fsdp"] = roots(model)
    model = Model()
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    parallelize_module(model, grid["tp"], plan)
    found["tp"] = roots(model)
    fully_shard(model, mesh=grid["dp"])
    found["fsdp and tp"] = roots(model)
    found["strided"] = str(model.up.weight.placements)
    layout = of_dtensor(model.up.weight, list(range(size))).layout(dist.get_rank(), (200, 48))
    assert torch.equal(model.up.weight.to_local(), part(Model().up.weight, layout))
    model = Model()
    if size > 1:
        fully_shard(model, mesh=grid)  # replicated over the first dimension, sharded over the second
    found["hsdp"] = roots(model)
    state = {
        name: distribute_tensor(x, grid, [Shard(x.dim() - 1), Shard(0)] if x.dim() else [Replicate()] * 2)
        for name, x in Model().state_dict().items()
    }
    found["across"] = roots(state)
    mine = {
        name: x for i, (name, x) in enumerate(Model().state_dict().items()) if i % size == dist.get_rank()
    }
    found["stages"] = roots(mine)
    return found


def partial() -> str:
    """Sums that were not added up yet are no parts of a tensor."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    x = DTensor.from_local(torch.ones(4), mesh, [Partial()])
    try:
        roots({"x": x})
    except (TypeError, it.models.distributed.DistributedError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def flipped() -> str:
    """One bit differs on the last rank."""
    model = Model()
    if dist.get_rank() == dist.get_world_size() - 1:
        model.up.weight.detach().view(torch.uint8)[3, 5] ^= 1
    try:
        return roots(model)
    except it.models.distributed.ReplicaMismatch as error:
        return str(error)


def incomplete() -> str:
    """The last rank does not bring its tensor."""
    last = dist.get_rank() == dist.get_world_size() - 1
    whole = torch.ones(4 * dist.get_world_size())
    start = 4 * dist.get_rank()
    own = it.models.distributed.LocalShard.along(whole[start : start + 4], 0, start, len(whole))
    try:
        return roots({} if last else {"w": own})
    except it.models.ManifestError as error:
        return str(error)


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    found = {"same": same_for_all(), "partial": partial(), "flipped": flipped(), "incomplete": incomplete()}
    (out / f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
    # A thread of gloo may still release tensors of torch's own operations, which aborts an interpreter that
    # ends meanwhile (torch 2.13).
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
