"""One rank of the tests of checkpoints: run by torchrun, it saves or loads, and writes down what it found."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import integrity_triton as it
from integrity_triton.models.distributed.checkpoint import CheckpointReader, CheckpointWriter


def state(seed: int) -> dict[str, Any]:
    """One model under whatever world size there is: rows, columns, a copy on each rank, and an object."""
    generator = torch.Generator().manual_seed(seed)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) if seed else torch.zeros(shape)

    return {
        "rows": distribute_tensor(tensor(101, 30), mesh, [Shard(0)]),
        "columns": distribute_tensor(tensor(30, 77), mesh, [Shard(1)]),
        "copies": distribute_tensor(tensor(9), mesh, [Replicate()]),
        "step": seed,
    }


def save(path: Path, asynchronous: bool) -> dict[str, Any]:
    saved = state(7)
    contents = it.models.distributed.root({k: v for k, v in saved.items() if k != "step"})
    writer = CheckpointWriter(path, contents=contents)
    if asynchronous:
        dcp.async_save(saved, storage_writer=writer).result()
    else:
        dcp.save(saved, storage_writer=writer)
    return {"digest": writer.digest.hex() if writer.digest else None, "root": contents.root.hex()}


def load(path: Path) -> dict[str, Any]:
    loaded = state(0)
    reader = CheckpointReader(path)
    try:
        dcp.load(loaded, storage_reader=reader)
    except dcp.CheckpointException as error:
        return {"errors": {rank: str(failure[0]) for rank, failure in error.failures.items()}}
    root = it.models.distributed.root({k: v for k, v in loaded.items() if k != "step"})
    assert reader.contents is not None
    return {"root": root.root.hex(), "same": root == reader.contents, "step": loaded["step"]}


def load_twice(path: Path) -> dict[str, Any]:
    """What is loaded, and what is said once a bit of the last file has flipped."""
    found = {"good": load(path)}
    dist.barrier()
    if dist.get_rank() == 0:
        data = sorted(path.glob("*.distcp"))[-1]
        content = bytearray(data.read_bytes())
        content[-5000] ^= 8
        data.write_bytes(content)
    dist.barrier()
    return {**found, "bad": load(path)}


def main(task: str, path: Path, out: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    found = load_twice(path) if task == "load" else save(path, task == "async")
    (out / f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
    # A thread of gloo may still release tensors of torch's own operations, which aborts an interpreter that
    # ends meanwhile (torch 2.13).
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
