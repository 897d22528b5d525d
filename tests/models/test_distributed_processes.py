"""Digests over several ranks with real processes: torchrun, gloo, meshes of torch, FSDP2 and tensor
parallelism."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import integrity_triton as it

HERE = Path(__file__).resolve().parent


def environment() -> dict[str, str]:
    """That of a process of a group: one thread, and the modules of this folder."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}


def torchrun(
    size: int, script: str, *arguments: str, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder in ``size`` processes of one machine."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}",
         str(HERE / script), *arguments],
        env=environment(),
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _distributed():
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("absent: torch.distributed with gloo")


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 4])
def test_under_torchrun(size, tmp_path):
    ran = torchrun(size, "distributed_worker.py", str(tmp_path))
    assert ran.returncode == 0, ran.stderr[-4000:]
    from distributed_worker import Model

    expected = it.models.distributed.root(Model(), algorithm="sha256").root.hex()
    for rank in range(size):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        same = found["same"]
        assert same.pop("layouts") == 62
        assert size == 1 or "_StridedShard" in same["strided"]
        del same["strided"]
        assert set(same.values()) == {expected} and len(same) == 7
        assert "Partial" in found["partial"] and "tensor 'x'" in found["partial"]
        if size > 1:
            ranks = {
                2: "there is no majority: rank 0 and rank 1 differ",
                4: "rank 3 differs from the majority, ranks 0-2",
            }
            assert found["flipped"] == f"copies of the model differ: tensor 'up.weight': {ranks[size]}"
            assert "a part of tensor 'w' is held by no rank" in found["incomplete"]


@pytest.mark.slow
def test_replicas_under_hybrid_sharding(tmp_path):
    """Three replicas of two shards: a clean run, and a bit that flips in a shard of one replica."""
    ran = torchrun(6, "distributed_fsdp_worker.py", str(tmp_path))
    assert ran.returncode == 0, ran.stderr[-4000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(6)]
    for rank, found in enumerate(ranks):
        assert found["clean"] == ["4 tensors are equal in 3 ranks"] * 2
        assert found["unchanged"] == (rank % 2 == 1)
        if rank % 2 == 0:  # the group of the first shards
            assert found["flipped"] == "None"
            assert found["checked"] == "4 tensors are equal in 3 ranks"
        else:
            report = (
                "copies of 1 of 4 tensors differ\n"
                "  tensor '2.weight': rank 1 differs from the majority, ranks 0, 2, first in bytes 0 to 132"
            )
            assert found["flipped"] == f"ReplicaMismatch: {report}"
            assert found["checked"] == report
        assert found["whole"]
        assert found["hashed"] == found["local"]
        assert found["local"]["2.weight"] == [[4, 130], [3, 130]][rank % 2]
        assert found["gathered"] == ["4 tensors are equal in 3 ranks"]
        for how in ("changed", "changed locally"):
            if rank % 2 == 0:
                told = "" if rank == 0 else "DistributedError: rank 0 could not go on: "
                error = f"{told}DistributedError: tensor '0.bias' was changed between two steps"
                assert found[how].startswith(error)
            else:
                assert found[how] == "None"


@pytest.fixture
def processes(tmp_path):
    """A function that runs the ranks of a group, and the folder with what they found."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
    running: list[subprocess.Popen[bytes]] = []

    def run(size: int) -> list[subprocess.Popen[bytes]]:
        running.extend(
            subprocess.Popen(
                [sys.executable, str(HERE / "distributed_faults_worker.py"), str(rank), str(size),
                 str(store.port), str(tmp_path)],
                env=environment(),
            )
            for rank in range(size)
        )  # fmt: skip
        return running

    yield run, tmp_path
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_faults(processes):
    """Ranks that are slow, do not agree, fail, hold other copies, come too late, and stop for good."""
    run, folder = processes
    ranks = run(3)
    assert [process.wait(600) for process in ranks[:2]] == [0, 0]

    def found(step: str) -> list[str]:
        return [(folder / f"{step}.{rank}").read_text() for rank in range(3)]

    from distributed_faults_worker import tensors

    distributed = it.models.distributed
    root = str(distributed.root(tensors()))
    assert found("slow") == [root] * 3
    version = it.__version__
    mine = f"integrity_triton {version} with blake3 (definition 1)"
    assert (
        found("algorithm")
        == [
            f"DistributedError: the ranks do not compute the same digests: {mine} on ranks 0, 2; "
            f"integrity_triton {version} with sha256 (definition 1) on rank 1"
        ]
        * 3
    )
    assert (
        found("version")
        == [
            f"DistributedError: the ranks do not compute the same digests: {mine} on ranks 0-1; "
            "integrity_triton 0.0.9 with blake3 (definition 1) on rank 2"
        ]
        * 3
    )
    assert found("hashed") == ["0"] * 3
    for step, refusal in {
        "md5": "ManifestError: md5 is not",
        "endless": "ValueError: the time limit",
    }.items():
        refused = found(step)
        assert refused[0].startswith(refusal)
        assert all(
            text.startswith(f"DistributedError: rank 0 could not go on: {refusal}") for text in refused[1:]
        )
        assert found(f"after {step}") == [root] * 3
    assert found("groups") == [str([root, root])] * 3
    assert found("keys") == ["True"] * 3
    error = found("error")
    assert error[1].startswith("ValueError: tensor 'b': a meta tensor")
    assert error[0] == error[2] == f"DistributedError: rank 1 could not go on: {error[1]}"

    assert found("equal") == ["4 tensors are equal in 3 ranks [32]"] * 3
    text, ranks_found, gathers = found("unequal")[0].rsplit("\n", 2)
    assert found("unequal") == [found("unequal")[0]] * 3
    first, b, d = text.splitlines()
    assert first == "copies of 2 of 4 tensors differ" and ranks_found == "[(1,), (0, 1, 2)]"
    assert "tensor 'b': rank 1 differs from the majority, ranks 0, 2, first in bytes 76" in b
    start, stop = (int(word) for word in b.rsplit("bytes ", 1)[1].split(" to "))
    assert start <= 7777 < stop <= start + 256
    assert "tensor 'd': there is no majority: rank 0 and rank 1 and rank 2 differ, first in bytes 0 to" in d
    assert int(gathers) <= 3 + 8  # 20,000 bytes are 128 leaves at most
    assert found("raised") == [f"ReplicaMismatch: {text}"] * 3
    assert (
        found("structure")
        == [
            "DistributedError: the ranks do not hold the same tensors: 'a' is F32 [50, 100] on ranks 0, 2 "
            "and F32 [100, 50] on rank 1"
        ]
        * 3
    )

    assert found("watched") == ["2 True"] * 3
    assert [text.splitlines()[0] for text in found("flipped")] == [
        "ReplicaMismatch: copies of 1 of 6 tensors differ"
    ] * 3
    assert "'module.2.weight': rank 2 differs from the majority, ranks 0-1, first in" in found("flipped")[0]
    assert found("unchanged") == ["True"] * 3
    changed = found("changed")
    assert changed[0].startswith("DistributedError: tensor 'module.0.bias' was changed between two steps")
    assert changed[1].startswith("DistributedError: rank 0 could not go on: DistributedError: tensor")

    late = "rank 2 did not arrive within 1 seconds: dead, hanging or slow"
    assert found("hanging")[:2] == [f"RankTimeout: {late}"] * 2
    assert (
        found("hanging")[2]
        == f"DistributedError: this rank came too late, and the others have given up: {late}"
    )
    assert found("together again") == [root] * 3
    for rank in (0, 1):
        stopped = (folder / f"stopped.{rank}").read_text()
        assert stopped.startswith("RankTimeout: rank 2 stopped during a collective operation"), stopped


@pytest.mark.slow
def test_a_rank_dies(processes):
    run, folder = processes
    ranks = run(2)
    assert [process.wait(600) for process in ranks] == [0, 7]
    found = (folder / "dying.0").read_text()
    assert found == "RankTimeout: rank 1 did not arrive within 1 seconds: dead, hanging or slow"
