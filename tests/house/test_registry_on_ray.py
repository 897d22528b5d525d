"""The example of a registry on Ray: a cluster of two workers, and a server of S3 on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="absent: ray")
pytest.importorskip("fsspec", reason="absent: fsspec")
pytest.importorskip("s3fs", reason="absent: s3fs")
pytest.importorskip("flask_cors", reason="absent: flask-cors")
pytest.importorskip("moto.server", reason="absent: moto")
pytest.importorskip("safetensors.torch", reason="absent: safetensors")

ROOT = Path(__file__).resolve().parents[2]
PATH = [ROOT, ROOT / "examples" / "registry_on_ray"]
COUNT = 100


def _load(name: str) -> Any:
    """A module of the example, under a name that no other test has."""
    spec = importlib.util.spec_from_file_location(f"registry_on_ray_{name}", PATH[1] / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


demo = _load("demo")


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """The store, and the environment of processes that use it."""
    with demo.store() as values:
        yield {**os.environ, **values, "PYTHONPATH": os.pathsep.join(map(str, PATH)), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def cluster(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one processor each, whose workers find the store and the example."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def start(results: Path, environment: dict[str, str], address: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "examples/registry_on_ray/registry.py"), "s3://registry/models"]
    command += ["--manifests", "s3://registry/manifests", "--results", str(results), "--address", address]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(results: Path, count: int, process: subprocess.Popen[str]) -> None:
    while len(list(results.glob("*.json"))) < count:
        assert process.poll() is None, process.stdout and process.stdout.read()[-3000:]
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_resumed_and_counted_once(tmp_path: Path, environment: dict[str, str], cluster: Any) -> None:
    changed = demo.upload(COUNT)
    results = tmp_path / "results"
    process = start(results, environment, cluster.address)
    deadline = threading.Timer(240, process.kill)
    deadline.start()
    try:
        # A worker is killed, and its share is done by another.
        wait_for(results, 10, process)
        victim = json.loads(max(results.glob("*.json"), key=lambda path: path.stat().st_mtime).read_text())[
            "pid"
        ]
        os.kill(victim, signal.SIGKILL)
        # The driver is stopped, and another one goes on.
        wait_for(results, 40, process)
        process.send_signal(signal.SIGTERM)
        process.wait()
    finally:
        deadline.cancel()
    before = {path.name: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert 40 <= len(before) < COUNT
    process = start(results, environment, cluster.address)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output[-3000:]
    lines = output.splitlines()
    assert any(line.startswith(f"{changed}: ") for line in lines)
    summary = next(line for line in lines if " models, " in line)
    assert summary.startswith(f"{COUNT} models, 1 of them bad; ")
    found = [json.loads(path.read_text()) for path in results.glob("*.json")]
    assert sorted(result["name"] for result in found) == [f"m{i:04}" for i in range(COUNT)]
    assert [result["name"] for result in found if not result["ok"]] == [changed]
    report = next(result["report"] for result in found if result["name"] == changed)
    assert "'b'" in report or "'w'" in report
    assert len({result["pid"] for result in found}) > 1
    again = int(summary.split("; ")[1].split()[0])
    assert again <= COUNT - 40
