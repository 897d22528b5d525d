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


def torchrun(
    size: int, script: str, *arguments: str, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder in ``size`` processes of one machine."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}",
         str(HERE / script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
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
