"""The benchmark of growth: how it judges series, and what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import environment, growth, latency, memory
from integrity_triton import algorithms
from integrity_triton.backends.registry import get
from integrity_triton.errors import BackendUnavailable

ROOT = Path(__file__).resolve().parents[2]


def points(seconds_of, ns, backend="native"):
    return [{"n": n, "seconds": seconds_of(n), "backend": backend} for n in ns]


NS = [4**i for i in range(10)]


def test_the_knee_is_where_time_becomes_linear():
    assert growth.knee(points(lambda n: 5e-9 * n, NS)) == 1
    assert growth.knee(points(lambda n: 1e-6 + 1e-9 * n, NS)) == 4**7  # from 10^4 on; 4**6 is below
    assert growth.knee(points(lambda n: 1e-9 * n**2, NS)) is None
    assert growth.knee(points(lambda n: n * (1.0 if n < 4**8 else 1.3), NS)) == 4**8
    assert growth.knee(points(lambda n: n, [7])) is None
    assert growth.knee([]) is None


def test_a_knee_has_the_nearest_cause():
    found = points(lambda n: 1e-6 + 1e-9 * n, NS)
    causes = list(growth.causes(algorithms.get("sha256"), "bytes", found))
    assert growth.cause(found, iter(causes)) == "the fixed time of a call, 1 µs, is a tenth of the time"
    assert growth.cause(found, iter([(1.0, "far away")])) == "not known"
    assert growth.cause(points(lambda n: n, NS), iter(causes)) is None
    found[-1]["backend"] = "other"
    with pytest.raises(ValueError, match="unknown backend 'other'"):
        list(growth.causes(algorithms.get("sha256"), "bytes", found))
    found = points(lambda n: 1e-6 + 1e-9 * n, NS[:5]) + points(lambda n: 1e-9 * n, NS[5:])
    found[0]["backend"] = "interpreter"
    texts = [text for _, text in growth.causes(algorithms.get("sha256"), "bytes", found)]
    assert "the choice changes from interpreter to native" in texts


def test_steps_end_where_they_should():
    assert list(growth.steps("bytes", 1 << 13)) == [1 << 10, 1 << 12, 1 << 13]
    assert list(growth.steps("messages", 1000)) == [1, 4, 16, 64, 256, 1000]


def test_series_stop_before_calls_that_are_too_long(monkeypatch):
    monkeypatch.setattr(growth, "shortest", lambda call: 1.0)
    data = torch.zeros(64 * 1000, dtype=torch.uint8)
    found = growth.series(algorithms.get("md5"), "messages", data, 1000, 3.0)
    assert [point["n"] for point in found["points"]] == [1]
    assert found["not_run"] == "4 and more, which would take 4 s and more"


def test_a_run_is_written_and_taken_further(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "_SECONDS", 0.0)
    monkeypatch.setattr(growth, "_SHORT", 1)
    out = tmp_path / "new" / "growth.json"
    common = ["--most-bytes", "2048", "--most-messages", "20", "--out", str(out)]
    growth.main(["sha256", "md5", "--only", "bytes", "--only", "messages", *common, "--note", "idle"])
    assert growth.main(["sha256", "--only", "streams", *common]) in {0, 1}
    growth.main(["sha256", "--only", "bytes", *common])
    document = json.loads(out.read_text("utf-8"))
    assert document["kind"] == "growth"
    assert document["environment"]["processor"]
    assert [run["note"] for run in document["runs"]] == ["idle", "", ""]
    assert all(float(run["load"]) >= 0 for run in document["runs"])
    assert document["runs"][1]["command"].startswith("python -m bench.growth sha256 --only streams")
    assert [found["key"] for found in document["bytes"]] == [["md5", "bytes"], ["sha256", "bytes"]]
    assert [point["n"] for point in document["messages"][1]["points"]] == [1, 4, 16, 20]
    assert document["streams"][0]["growth"] > 0
    assert "bytes: sha256 bytes: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="name another"):
        environment.write(out, "throughput", {}, {})


def test_the_status_says_whether_all_is_good(monkeypatch, capsys):
    result = {"key": ["x"], "seconds": 1e-6, "good": True}
    monkeypatch.setattr(latency, "measured", lambda: iter([result]))
    assert growth.main(["--only", "latency"]) == 0
    result["good"] = False
    assert growth.main(["--only", "latency"]) == 1
    assert "FAILED" not in capsys.readouterr().out.splitlines()[0]


def test_an_interrupted_run_keeps_what_it_has(tmp_path, monkeypatch):
    def measured():
        yield {"key": ["x"], "seconds": 1e-6, "good": True}
        raise KeyboardInterrupt

    monkeypatch.setattr(latency, "measured", measured)
    out = tmp_path / "growth.json"
    with pytest.raises(KeyboardInterrupt):
        growth.main(["--only", "latency", "--out", str(out)])
    assert [found["key"] for found in json.loads(out.read_text("utf-8"))["latency"]] == [["x"]]


@pytest.mark.parametrize("arguments", [["tuplehash_128"], ["--most-bytes", "1"], ["--only", "dreams"]])
def test_bad_use(arguments):
    with pytest.raises(SystemExit) as ended:
        growth.main(arguments)
    assert ended.value.code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="not applicable: the peak is read from /proc")
def test_memory_above_the_inputs():
    # In a process of its own, as in the benchmark: here, memory that was freed earlier may be used again.
    code = f"""
import torch
from bench import memory
size = {32 << 20}
torch.zeros(size, dtype=torch.uint8)  # starts torch's threads
for call in (lambda: len(bytearray(size)), lambda: None, lambda: torch.zeros(size, dtype=torch.uint8)):
    print(memory.above(call))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    size, (taken, nothing, result) = 32 << 20, map(int, done.stdout.split())
    assert size - (1 << 20) <= taken < 2 * size  # the system counts pages in groups
    assert nothing < 1 << 20
    assert result < 1 << 20  # a result is not counted


@pytest.mark.parametrize("call", [*memory.CALLS, *memory.FIXED_CALLS])
def test_every_call_runs(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "blake3" if call in memory.CALLS else memory.FIXED_CALLS[call][0][0]
    inputs, run = memory.CALLS.get(call) or memory.FIXED_CALLS[call][1]
    case = memory.Case(name, "native", memory.SMALL)
    inputs(case)
    if get("native").unsupported(algorithms.get(name)) is None:
        run(case)
    else:
        with pytest.raises(BackendUnavailable):
            run(case)


def test_memory_is_bounded(monkeypatch):
    class Done:
        returncode, stdout, stderr = 0, str(300 << 20), ""

    monkeypatch.setattr(memory.subprocess, "run", lambda *_, **__: Done)
    assert memory.in_a_process("hash_file", "sha256", "native", 512 << 20)["good"] is False
    assert memory.in_a_process("hash_file", "sha256", "native", 8 << 30)["good"] is True  # 5 %
    Done.stdout = str(256 << 20)
    assert memory.in_a_process("hash_file", "sha256", "native", 512 << 20)["good"] is True


def test_latency_of_every_kind(monkeypatch):
    codes = []

    def in_processes(code, **_):
        codes.append(code)
        return 1.0

    monkeypatch.setattr(latency, "_in_processes", in_processes)
    monkeypatch.setattr(latency, "_SECONDS", 0.0)
    monkeypatch.setattr(latency, "_LEAST_CALLS", 1)
    monkeypatch.setattr(latency, "COUNTS", (1, 3))
    found = {tuple(result["key"]): result["seconds"] for result in latency.measured()}
    assert found["import integrity_triton", "", ""] == 1.0
    assert found["first call, nothing cached", "sha256", "native"] == 1.0
    assert found["hash_batch of 3 tensors of 100 bytes", "blake3", "native"] > 0
    assert found["one message of 3 bytes", "sha256", ""] > 0
    for code in codes:
        compile(code, "code", "exec")


def test_the_medians_of_several_runs_are_written(tmp_path):
    files = []
    for i, seconds in enumerate((3.0, 1.0, 2.0)):
        files.append(tmp_path / f"{i}.json")
        results = [{"key": ["import torch", "", ""], "seconds": seconds, "good": True}]
        environment.write(files[-1], "growth", {"date": str(i)}, {"latency": results})
    out = tmp_path / "all.json"
    assert growth.main(["--medians-of", *map(str, files), "--out", str(out)]) == 0
    document = json.loads(out.read_text("utf-8"))
    assert [run["date"] for run in document["runs"]] == ["0", "1", "2"]
    assert document["latency"] == [{"key": ["import torch", "", ""], "seconds": 2.0, "good": True, "runs": 3}]
    with pytest.raises(SystemExit):
        growth.main(["--medians-of", str(files[0])])
