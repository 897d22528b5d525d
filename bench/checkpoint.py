"""What digests in checkpoints cost beside torch's own reader and writer, in one process.

    python -m bench.checkpoint [--size BYTES] [--rounds N] [--folder FOLDER]

A figure is the time of the row divided by that of torch's class: 1.05 takes 5 % longer. It is that of the
medians over the rounds, in which both take turns. ``synchronised`` waits for the disk, as torch does by
default; ``page cache`` does not. Files are read from the page cache.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint

from bench.environment import machine
from integrity_triton.models.distributed.checkpoint import CheckpointReader, CheckpointWriter

_PART = 16 << 20  # bytes of a tensor


def rows(size: int, rounds: int, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """The seconds of torch's class and of ours, for each row and round."""
    state = {f"w{i}": torch.randn(_PART // 4) for i in range(max(1, size // _PART))}
    found: dict[str, list[tuple[float, float]]] = {}

    def save(kind: type[FileSystemWriter], path: Path, synchronised: bool) -> None:
        save_checkpoint(state, storage_writer=kind(path, sync_files=synchronised), no_dist=True)

    def load(kind: type[FileSystemReader], path: Path) -> None:
        loaded = {name: torch.empty_like(x) for name, x in state.items()}
        load_checkpoint(loaded, storage_reader=kind(path), no_dist=True)

    for _ in range(rounds):
        for name, synchronised in (("save, synchronised", True), ("save, page cache", False)):
            pair = []
            for writer in (FileSystemWriter, CheckpointWriter):
                path = folder / writer.__name__
                shutil.rmtree(path, ignore_errors=True)
                pair.append(_seconds(partial(save, writer, path, synchronised)))
            found.setdefault(name, []).append((pair[0], pair[1]))
        path = folder / CheckpointWriter.__name__
        pair = [_seconds(partial(load, reader, path)) for reader in (FileSystemReader, CheckpointReader)]
        found.setdefault("load", []).append((pair[0], pair[1]))
    return found


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=256 << 20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where the checkpoints are written; by default a temporary folder")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = rows(arguments.size, arguments.rounds, Path(folder))
    print("; ".join(f"{key} {value}" for key, value in machine().items()))
    for name, pairs in found.items():
        torchs, ours = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
        print(f"{name}: {ours / torchs:.2f} ({torchs:.3f} s by torch, {arguments.size / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
