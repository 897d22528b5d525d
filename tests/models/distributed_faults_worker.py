"""One rank of the tests of faults with real processes. It takes its number, their count, the port of the
store and the folder for results."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import integrity_triton as it
from integrity_triton.messages.tensors import host_memory
from integrity_triton.models.distributed import exchange as exchanges
from integrity_triton.models.distributed.member import Member

distributed = it.models.distributed
roots: Any = sys.modules["integrity_triton.models.distributed.root"]
LONG = 180.0
"""Seconds that a rank has which is expected: many times what it takes."""
SHORT = 1.0
"""Seconds for which ranks wait for one that is certain not to come."""


def flip(x: torch.Tensor, byte: int) -> None:
    """Flip a bit as a fault of the memory does, of which torch takes no notice."""
    host_memory(x.detach())[byte] ^= 1


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, before: Callable[[], Any] = lambda: None
) -> None:
    """A step on random data, with a call of ``before`` just before the optimizer's step."""
    optimizer.zero_grad()
    model(torch.randn(16, 64)).square().mean().backward()
    before()
    optimizer.step()


def tensors() -> dict[str, torch.Tensor]:
    return {name: torch.arange(5000.0).view(50, 100) + i for i, name in enumerate("abcd")}


def outcome(call: Callable[[], Any]) -> str:
    try:
        return str(call())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class Log:
    """What a rank found, one file for each step, so that others and the test can wait for it."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank

    def write(self, step: str, found: str) -> None:
        unfinished = self.folder / f"{step}.{self.rank}.part"
        unfinished.write_text(found)
        unfinished.rename(self.folder / f"{step}.{self.rank}")

    def wait(self, step: str, rank: int) -> None:
        end = time.monotonic() + LONG
        while not (self.folder / f"{step}.{rank}").exists():
            assert time.monotonic() < end, f"{step} of rank {rank}"
            time.sleep(0.01)


def refused(log: Log, rank: int) -> None:
    """Ranks that cannot work together."""
    hashed = []
    original = Member.contributions
    Member.contributions = lambda *args, **kwargs: hashed.append(1) or original(*args, **kwargs)  # type: ignore[method-assign]
    algorithm = "sha256" if rank == 1 else "blake3"
    log.write("algorithm", outcome(lambda: distributed.root(tensors(), algorithm=algorithm, timeout=LONG)))
    if rank == 2:
        roots.__version__ = "0.0.9"
    log.write("version", outcome(lambda: distributed.root(tensors(), timeout=LONG)))
    roots.__version__ = it.__version__
    log.write("hashed", str(len(hashed)))
    Member.contributions = original  # type: ignore[method-assign]
    source = tensors()
    if rank == 1:
        source["b"] = torch.empty(50, 100, device="meta")
    log.write("error", outcome(lambda: distributed.root(source, timeout=LONG)))


def slow(log: Log, rank: int) -> None:
    if rank == 2:
        time.sleep(1)
    log.write("slow", outcome(lambda: distributed.root(tensors(), timeout=LONG)))


def replicas(log: Log, rank: int) -> None:
    """Copies that are equal, that differ, and that are not of the same tensors."""
    sizes = []
    original = exchanges.Collective.gather

    def gather(self: Any, data: bytes) -> list[bytes]:
        sizes.append(len(data))
        return original(self, data)

    exchanges.Collective.gather = gather  # type: ignore[method-assign]
    source = tensors()
    log.write("equal", outcome(lambda: distributed.check_replicas(source, timeout=LONG)) + f" {sizes}")
    sizes.clear()
    if rank == 1:
        flip(source["b"], 7777)
        flip(source["b"], 19999)
    flip(source["d"], rank)
    report = distributed.check_replicas(source, timeout=LONG)
    log.write("unequal", f"{report}\n{[d.ranks for d in report.differences]}\n{len(sizes)}")
    log.write("raised", outcome(report.raise_for_mismatch))
    exchanges.Collective.gather = original  # type: ignore[method-assign]
    other = {"a": source["a"].view(100, 50)} if rank == 1 else {"a": source["a"]}
    log.write("structure", outcome(lambda: distributed.check_replicas(other, timeout=LONG)))


def watch(log: Log, rank: int) -> None:
    """A real training loop under DistributedDataParallel, in which a bit flips on rank 2."""
    torch.manual_seed(1)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.Linear(128, 8)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    reports: list[Any] = []
    watched = distributed.ReplicaWatch(model, every=2, timeout=LONG, on_report=reports.append)
    watched.attach(optimizer)

    step = partial(training_step, model, optimizer)
    for _ in range(5):
        step()
    log.write("watched", f"{len(reports)} {all(report.ok for report in reports)}")
    step(lambda: flip(model.module[2].weight, 100) if rank == 2 else None)
    watched._on_report = distributed.ReplicaReport.raise_for_mismatch  # what a user has who states nothing
    weight = model.module[0].weight.detach().clone()
    log.write("flipped", outcome(step))
    log.write("unchanged", str(torch.equal(weight, model.module[0].weight)))
    watched.close()

    again = distributed.ReplicaWatch(model, every=1, timeout=LONG)
    again.after_step()
    if rank == 0:
        with torch.no_grad():
            model.module[0].bias += 1
    log.write("changed", outcome(again.before_step))


def in_step(log: Log, rank: int) -> None:
    """An argument that one rank refuses, after which the ranks are still in step; two groups at once in two
    threads; and a store that does not fill."""
    for step, wrong in {"md5": {"algorithm": "md5"}, "endless": {"timeout": float("inf")}}.items():
        options: Any = {"timeout": LONG} | (wrong if rank == 0 else {})
        log.write(step, outcome(lambda options=options: distributed.root(tensors(), **options)))
        log.write(f"after {step}", outcome(lambda: distributed.root(tensors(), timeout=LONG)))
    groups = [dist.new_group([0, 1, 2]) for _ in range(2)]
    begun = groups if rank else groups[::-1]
    found: dict[int, str] = {}

    def run(number: int) -> None:
        if number:
            log.wait("first group", rank)  # the other thread waits at the store, and holds its connection
            time.sleep(0.5)
        log.write(["first group", "second group"][number], "")
        found[number] = outcome(lambda: distributed.root(tensors(), begun[number], timeout=LONG))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.write("groups", str([found[number] for number in range(2)]))
    store = dist.distributed_c10d._get_default_store()
    counts = []
    for _ in range(2):
        for _ in range(5):
            distributed.root(tensors(), timeout=LONG)
        dist.barrier()
        counts.append(store.num_keys())
        dist.barrier()
    log.write("keys", str(counts[0] == counts[1]))


class NotedWait:
    """The store of a group, which notes when this rank, whose presence it already holds, begins to wait."""

    def __init__(self, store: Any, note: Callable[[], None]) -> None:
        self._store, self._note = store, note

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def wait(self, *args: Any) -> None:
        self._note()
        self._store.wait(*args)


def hanging(log: Log, rank: int) -> None:
    """Rank 2 comes after the others have given up. Of these, only rank 0 has a short time limit, and its time
    begins when rank 1 already waits, so that it does not matter how slow the machine is."""
    original = exchanges.Collective.meet

    def meet(self: Any) -> None:
        self._store = NotedWait(self._known.store, lambda: log.write("waiting", ""))
        original(self)

    if rank == 0:
        log.wait("waiting", 1)
    elif rank == 1:
        exchanges.Collective.meet = meet  # type: ignore[method-assign]
    else:
        log.wait("hanging", 0)
        log.wait("hanging", 1)
    log.write("hanging", outcome(lambda: distributed.root(tensors(), timeout=LONG if rank else SHORT)))
    exchanges.Collective.meet = original  # type: ignore[method-assign]
    log.write("together again", outcome(lambda: distributed.root(tensors(), timeout=LONG)))


def stopped(log: Log, rank: int) -> None:
    """Rank 2 stops for good, within a collective operation. The time limit is short in that operation alone,
    and nobody looks for silent ranks before both others have failed."""
    run, failed = exchanges.Collective._run, exchanges.Collective._failed

    def run_shortly(self: Any, start: Callable[[], Any], *args: Any) -> None:
        def begin() -> Any:
            self._timeout = timedelta(seconds=SHORT)
            return start()

        run(self, begin, *args)

    def failed_together(self: Any, step: int, error: Exception) -> Any:
        log.write("failed", "")
        log.wait("failed", 1 - rank)
        return failed(self, step, error)

    exchanges.Collective._run = run_shortly  # type: ignore[method-assign]
    exchanges.Collective._failed = failed_together  # type: ignore[method-assign]
    if rank == 2:
        dist.all_gather = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGSTOP)
    log.write("stopped", outcome(lambda: distributed.root(tensors(), timeout=LONG)))


def dying(log: Log, rank: int) -> None:
    """Rank 1 dies while it hashes. The time limit of the other is short after that alone."""
    all_to_all = exchanges.Collective.all_to_all

    def die(*args: Any) -> None:
        log.write("died", "")
        os._exit(7)

    def afterwards(self: Any, *args: Any) -> Any:
        log.wait("died", 1)
        self._timeout = timedelta(seconds=SHORT)
        return all_to_all(self, *args)

    if rank == 1:
        Member.contributions = die  # type: ignore[method-assign, assignment]
    exchanges.Collective.all_to_all = afterwards  # type: ignore[method-assign]
    log.write("dying", outcome(lambda: distributed.root(tensors(), timeout=LONG)))


def main() -> None:
    rank, size, port = map(int, sys.argv[1:4])
    log = Log(Path(sys.argv[4]), rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.TCPStore("127.0.0.1", port), rank=rank, world_size=size)
    parts = {2: [dying], 3: [slow, refused, replicas, watch, in_step, hanging, stopped]}
    for part in parts[size]:
        part(log, rank)
    os._exit(0)  # a group of which a rank is dead cannot be destroyed in order


if __name__ == "__main__":
    main()
