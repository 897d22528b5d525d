"""One rank of the test of replicas under hybrid sharding: run by torchrun, it writes what it found as JSON.

The ranks are a mesh of three replicas of two shards. FSDP2 trains a model, and a bit flips in one shard of
one replica.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import integrity_triton as it
from distributed_faults_worker import flip, outcome, training_step

distributed = it.models.distributed
TIMEOUT = 120.0
FLIPPED_RANK = 3
"""The second replica's second shard."""


def sharded(mesh: Any) -> nn.Module:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 130), nn.ReLU(), nn.Linear(130, 7))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def train(mesh: Any) -> dict[str, Any]:
    """What the watch of a training loop reports, before and after a bit has flipped."""
    model = sharded(mesh)
    group = mesh["replicate"].get_group()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    reports: list[Any] = []
    watch = distributed.ReplicaWatch(model, group, every=2, timeout=TIMEOUT, on_report=reports.append)
    watch.attach(optimizer)

    step = partial(training_step, model, optimizer)
    for _ in range(5):
        step()
    found: dict[str, Any] = {"clean": list(map(str, reports))}
    weight: Any = model[2].weight
    step(lambda: flip(weight.to_local(), 102) if dist.get_rank() == FLIPPED_RANK else None)
    watch._on_report = distributed.ReplicaReport.raise_for_mismatch  # what a user has who states nothing
    before = weight.to_local().detach().clone()
    found["flipped"] = outcome(step)
    found["unchanged"] = torch.equal(before, weight.to_local())
    found["checked"] = outcome(lambda: distributed.check_replicas(model, group, timeout=TIMEOUT))
    watch.close()
    return found


def gathered(mesh: Any) -> dict[str, Any]:
    """A step is announced while FSDP2 still has whole parameters, which the next pass frees."""
    model = sharded(mesh)
    reports: list[Any] = []
    group = mesh["replicate"].get_group()
    watch = distributed.ReplicaWatch(model, group, every=1, timeout=TIMEOUT, on_report=reports.append)
    model[2].unshard()
    found: dict[str, Any] = {"whole": not isinstance(model[2].weight, DTensor)}
    watch.after_step()
    assert watch._running is not None
    found["hashed"] = {name: list(x.shape) for name, x in watch._running._tensors.items()}
    found["local"] = {name: list(x.to_local().shape) for name, x in model.named_parameters()}
    model(torch.ones(1, 64)).sum().backward()
    watch.before_step()
    found["gathered"] = list(map(str, reports))
    for how in ("changed", "changed locally"):
        watch.after_step()
        if dist.get_rank() == 0:
            with torch.no_grad():
                bias: Any = model[0].bias
                (bias if how == "changed" else bias.to_local()).add_(1)
        found[how] = outcome(watch.before_step)
    return found


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (3, 2), mesh_dim_names=("replicate", "shard"))
    found = train(mesh)
    dist.barrier()
    found |= gathered(mesh)
    (out / f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    # A thread of gloo may still release tensors of torch's own operations, which aborts an interpreter that
    # ends meanwhile (torch 2.13).
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
