"""The Python code of docs/distributed.md is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import integrity_triton as it

PAGE = Path(__file__).resolve().parents[2] / "docs" / "distributed.md"
FIRST, SHARDS, SCRIPT, DEFINITION = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
distributed = it.models.distributed


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(30, 64)
        self.head = torch.nn.Linear(64, 30)


def test_roots_files_and_copies(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.torch")
    model = Model()
    (tmp_path / "checkpoint").mkdir()
    safetensors.save_file(model.state_dict(), tmp_path / "checkpoint" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given: dict[str, Any] = {"model": model, "group": None, "optimizer": optimizer}
    exec(compile(FIRST, str(PAGE), "exec"), given)
    assert given["digests"] == distributed.root(model)
    assert len(optimizer._optimizer_step_post_hooks) == 1
    safetensors.save_file({}, tmp_path / "checkpoint" / "model.safetensors")
    with pytest.raises(AssertionError):
        exec(compile(FIRST, str(PAGE), "exec"), given)


def test_parts_that_a_caller_states():
    first, second = SHARDS.strip().splitlines()
    width, rows = 4, torch.randn(16, 32)
    parts = [
        eval(first, {"distributed": distributed, "weight": rows[:, i * 4 : i * 4 + 4], "width": 4, "rank": i})
        for i in range(8)
    ]
    assert [part.shape for part in parts] == [(16, 8 * width)] * 8
    assert [part.runs for part in parts] == [(None, [(4 * i, 4 * i + 4)]) for i in range(8)]
    assert all(torch.equal(part.data, rows[:, 4 * i : 4 * i + 4]) for i, part in enumerate(parts))
    data = torch.randn(4, 64)
    shard = eval(second, {"distributed": distributed, "data": data})
    assert shard.runs == ([(0, 2), (4, 6)], None)
    with pytest.raises(it.models.ManifestError, match="a part of tensor 'w' is held by no rank"):
        distributed.root({"w": shard})
    with pytest.raises(it.models.ManifestError, match="needs"):
        distributed.root({"w": eval(second, {"distributed": distributed, "data": data[:3]})})


def test_the_definition():
    given: dict[str, Any] = {}
    exec(compile(DEFINITION, str(PAGE), "exec"), given)
    tensors = {
        "b": torch.randn(9, 70),
        "a": torch.randn(1, 3, 129),
        "ä": torch.randn(()),
        "c": torch.randn(2, 1, 7, 5),
    }
    arrays = {name: x.numpy() for name, x in tensors.items()}
    found = distributed.root(tensors, algorithm="sha256")
    assert given["root"](arrays, "F32") == found.root
    assert {name: given["content"](x, "F32") for name, x in arrays.items()} == found.digests


@pytest.mark.slow
def test_the_script(tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("absent: torch.distributed with gloo")
    (name,) = re.findall(r"store this as `(\w+\.py)`", PAGE.read_text("utf-8"))
    (command,) = re.findall(rf"run `torchrun (.*? {name})`", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / name).write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *command.split()],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-4000:]
    line = "tensor 'w': there is no majority: rank 0 and rank 1 differ, first in bytes 512 to 768"
    assert ran.stdout.count(line) == 2
