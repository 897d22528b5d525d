"""What digests in checkpoints cost beside torch's own reader and writer.

    python -m bench.checkpoint [--size BYTES] [--part BYTES] [--rounds N] [--ranks N] [--folder FOLDER]

A row has the time of our class divided by that of torch's: 1.05 takes 5 % longer. It is that of the medians
over the rounds, in which both take turns in alternating order, and from the moment on at which all ranks
begin to that at which all are done. ``synchronised`` waits for the disk, as torch does by default; ``page
cache`` does not. ``with CRC-32`` is our writer with ``crc32=None``, which computes torch's checksums besides.
``until async_save returns`` is how long the caller waits for an asynchronous save, and ``until it is stored``
is all of that save. Files are read from the page cache. Behind the times there are the seconds of processors
that all threads of rank 0 take, as ours divided by torch's. ``--size`` is for each rank.

The last line has the rates of one processor, from which the bound follows that docs/guide/checkpoints.md
states: hashing what its cache holds, hashing what memory holds, and copying memory.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint

from bench.environment import machine
from integrity_triton import new
from integrity_triton.backends.native import in_calling_thread
from integrity_triton.models.distributed.checkpoint import CheckpointReader, CheckpointWriter

Figures = dict[str, list[tuple[float, ...]]]
"""For each row and round, seconds of torch's class and of ours, and the seconds of processors of both."""

_T = TypeVar("_T")
_PART = 16 << 20  # bytes of a tensor


def rows(size: int, rounds: int, folder: Path, part: int = _PART) -> Figures:
    """What this rank found. Every rank of the default group, if there is one, calls this."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    alone = {} if dist.is_initialized() else {"no_dist": True}
    state = {f"w{rank}.{i}": torch.randn(part // 4) for i in range(max(1, size // part))}
    found: Figures = {}
    # What goes on in the background must not meet the barriers of the default group.
    background = {"process_group": dist.new_group()} if dist.is_initialized() else {}

    def fresh(kind: type[FileSystemWriter], synchronised: bool, **options: Any) -> FileSystemWriter:
        path = folder / kind.__name__
        if rank == 0:
            shutil.rmtree(path, ignore_errors=True)
        _together()
        return kind(path, sync_files=synchronised, **options)

    def save(kind: type[FileSystemWriter], synchronised: bool, **options: Any) -> tuple[float, float]:
        writer = fresh(kind, synchronised, **options)
        return _seconds(lambda: save_checkpoint(state, storage_writer=writer, **alone))

    def load(kind: type[FileSystemReader]) -> tuple[float, float]:
        loaded = {name: torch.zeros_like(x) for name, x in state.items()}
        reader = kind(folder / CheckpointWriter.__name__)
        return _seconds(lambda: load_checkpoint(loaded, storage_reader=reader, **alone))

    def asynchronous(kind: type[FileSystemWriter]) -> tuple[tuple[float, float], tuple[float, float]]:
        writer = fresh(kind, False)
        futures: list[Any] = []
        called = _seconds(lambda: futures.append(async_save(state, storage_writer=writer, **background)))
        rest = _seconds(lambda: [future.result() for future in futures])
        return called, (called[0] + rest[0], called[1] + rest[1])

    def add(name: str, torchs: tuple[float, float], ours: tuple[float, float]) -> None:
        found.setdefault(name, []).append((torchs[0], ours[0], torchs[1], ours[1]))

    for turn in range(rounds):
        for name, synchronised in (("save, synchronised", True), ("save, page cache", False)):
            each = {
                "torch": partial(save, FileSystemWriter, synchronised),
                "ours": partial(save, CheckpointWriter, synchronised),
                "both": partial(save, CheckpointWriter, synchronised, crc32=None),
            }
            times = _in_turn(each, turn)
            add(name, times["torch"], times["ours"])
            add(f"{name}, with CRC-32", times["torch"], times["both"])
        loads = {
            "torch": lambda: load(FileSystemReader),
            "ours": lambda: load(CheckpointReader),
        }
        times = _in_turn(loads, turn)
        add("load", times["torch"], times["ours"])
        kinds = (FileSystemWriter, CheckpointWriter)
        pairs = _in_turn({kind.__name__: partial(asynchronous, kind) for kind in kinds}, turn)
        for i, name in enumerate(("until async_save returns", "until it is stored")):
            add(name, *(pairs[kind.__name__][i] for kind in kinds))
    return found


def _in_turn(functions: Mapping[str, Callable[[], _T]], turn: int) -> dict[str, _T]:
    """What each function returns. Every second time they are called the other way round, because what one
    leaves in the memory and in caches meets the next."""
    names = list(functions)
    return {name: functions[name]() for name in (names if turn % 2 == 0 else reversed(names))}


def _together() -> None:
    if dist.is_initialized():
        dist.barrier()


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """How long something takes, on all ranks together, and the seconds of processors that it takes here."""
    _together()
    start, used = time.perf_counter(), time.process_time()
    work()
    used = time.process_time() - used
    _together()
    return time.perf_counter() - start, used


def rates(size: int = 128 << 20) -> dict[str, float]:
    """Bytes in a second that one processor hashes with BLAKE3, in pieces that its cache keeps and from
    memory, and that it copies."""
    data, piece = torch.randint(256, (size,), dtype=torch.uint8), 256 << 10
    buffer = torch.empty_like(data)

    def cached() -> None:
        running = new("blake3")
        for _ in range(0, size, piece):
            running.update(data[:piece])
        running.digest()

    def copied() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        buffer.copy_(data)
        torch.set_num_threads(threads)

    with in_calling_thread():
        work = {"hash, cached": cached, "hash": lambda: new("blake3", data).digest(), "copy": copied}
        return {
            name: size / statistics.median(_seconds(each)[0] for _ in range(5)) for name, each in work.items()
        }


def _rank(rank: int, ranks: int, arguments: argparse.Namespace, folder: str) -> None:
    warnings.simplefilter("ignore")
    if ranks > 1:
        place = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=place, rank=rank, world_size=ranks)
        torch.set_num_threads(1)  # as torchrun has it
    found = rows(arguments.size, arguments.rounds, Path(folder), arguments.part)
    if rank == 0:
        print("; ".join(f"{key} {value}" for key, value in machine().items()))
        print(
            f"{ranks} ranks with {arguments.size / 1e6:.0f} MB each in parts of {arguments.part / 1e6:.1f} MB"
        )
        for name, pairs in found.items():
            torchs, ours, used, our_use = (statistics.median(each) for each in zip(*pairs, strict=True))
            print(
                f"{name}: {ours / torchs:.2f} ({torchs:.3f} s by torch; processors {our_use / used:.2f}, "
                f"{used:.3f} s by torch)"
            )
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=256 << 20)
    parser.add_argument("--part", type=int, default=_PART, help="bytes of each tensor")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--folder", help="where the checkpoints are written; by default a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.ranks == 1:
            _rank(0, 1, arguments, folder)
        else:
            spawn: Any = torch.multiprocessing.spawn  # type: ignore[attr-defined]
            spawn(_rank, (arguments.ranks, arguments, folder), arguments.ranks)
    print("; ".join(f"{name} {rate / 1e9:.2f} GB/s" for name, rate in rates().items()))


if __name__ == "__main__":
    main()
