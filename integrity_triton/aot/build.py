"""Which kernels ship prebuilt, and building them."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .. import algorithms
from .._data import batch_messages
from ..algorithms import Algorithm
from ..backends import Rows
from ..backends.opencl import OpenClBackend
from ..backends.prebuilt import FORMAT, LOCK, THREADS_PER_WARP, Specialization, folder, source_digest
from ..backends.triton_host import Launch

COMPILER = "triton-xpu 3.3.0b1"


class _Recorder(OpenClBackend):
    """Lays out and launches as the backend does, but only writes down what it would run."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: dict[str, Specialization] = {}

    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        wanted = Specialization.of(launch, options)
        self.recorded[wanted.name] = wanted


def specializations(records: Iterable[Algorithm] | None = None) -> dict[str, Specialization]:
    """Every kernel, by its artifact's name, that the backend launches for ``records`` (all built in)."""
    import torch

    recorder = _Recorder()
    memory = torch.zeros(8192, dtype=torch.uint8)
    memory = memory[-memory.data_ptr() % 16 :]
    for record in algorithms.all_algorithms() if records is None else records:
        if recorder.cannot_run(record):
            continue
        for start in (0, 1):
            data = memory[start : start + 5120]
            one_row = Rows(data, data.data_ptr(), 1, 5120, 5120, 5120)
            rows = Rows(data, data.data_ptr(), 2, 2560, 2560, 5120)
            for messages in (one_row, rows, batch_messages([data[:2000], data[2000:4000]])):
                for length in (
                    (record.digest_size, 2 * record.digest_size) if record.xof else (record.digest_size,)
                ):
                    recorder.hash_batch(record, {}, messages, length)
            stream = recorder.stream(record, {})
            # Streams copy what does not fill a block; whole blocks are read where they are.
            stream.update(data)
            stream.digest(record.digest_size, 0)
    return recorder.recorded


def compile_all(
    wanted: Sequence[Specialization], compiler: Path, outputs: Sequence[Path], *, matrix: bool = False
) -> list[dict[str, Any]]:
    """Compile with the Triton in the folder ``compiler``, in other processes.

    Raises RuntimeError with the compiler's own words if it fails.
    """
    jobs = [
        {
            "kernel": w.kernel,
            "constants": dict(w.constants),
            "arguments": w.arguments,
            "num_warps": w.num_warps,
            "matrix": matrix,
            "output": str(output),
        }
        for w, output in zip(wanted, outputs, strict=True)
    ]
    workers = max(1, min(len(jobs), os.cpu_count() or 1))
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(workers) as pool:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(compiler), *sys.path]),
            "TRITON_DISABLE_LINE_INFO": "1",
            "TRITON_CACHE_DIR": cache,
        }

        def run(share: list[dict[str, Any]]) -> list[dict[str, Any]]:
            done = subprocess.run(
                [sys.executable, "-m", "integrity_triton.aot.worker"],
                input=json.dumps(share),
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise RuntimeError(f"compiling failed:\n{done.stderr[-4000:]}")
            return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

        shares = [jobs[i::workers] for i in range(workers)]
        results = list(pool.map(run, shares))
    return [results[i % workers][i // workers] for i in range(len(jobs))]


def _sidecar(wanted: Specialization, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "target": "xpu",
        "binary": "SPIR-V",
        "entry": result["entry"],
        "kernel": wanted.kernel,
        "constants": dict(wanted.constants),
        "arguments": [{"name": name, "type": kind} for name, kind in result["arguments"]],
        "lanes_per_program": wanted.constants["BLOCK_MSGS"],
        "threads_per_program": wanted.num_warps * THREADS_PER_WARP,
        "threads_per_warp": THREADS_PER_WARP,
        "shared_bytes": result["shared"],
        "compiler": result["compiler"],
    }


def build(compiler: Path, out: Path | None = None) -> Iterator[str]:
    """Write every artifact and the lock file to ``out``; yields what was done, for a person to read.

    Raises RuntimeError if a kernel does not compile, or the compiler is not the one asked for.
    """
    out = folder() if out is None else out
    wanted = specializations()
    out.mkdir(parents=True, exist_ok=True)
    yield f"{len(wanted)} kernels with {COMPILER}"
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [Path(scratch, f"{name}.spv") for name in wanted]
        results = compile_all(list(wanted.values()), compiler, outputs)
        binaries = [output.read_bytes() for output in outputs]
    entries = {}
    for (name, asked), result, binary in zip(wanted.items(), results, binaries, strict=True):
        if result["compiler"] != COMPILER:
            raise RuntimeError(f"{compiler} holds {result['compiler']}; artifacts are built with {COMPILER}")
        packed = lzma.compress(binary, preset=9 | lzma.PRESET_EXTREME)
        sidecar = (json.dumps(_sidecar(asked, result), indent=1) + "\n").encode()
        (out / f"{name}.json").write_bytes(sidecar)
        (out / f"{name}.spv.xz").write_bytes(packed)
        entries[name] = {
            "references": sorted(asked.references),
            "sources": source_digest(asked.references),
            "sidecar": hashlib.sha256(sidecar).hexdigest(),
            "binary": hashlib.sha256(packed).hexdigest(),
        }
        yield f"{name}: {len(binary)} bytes of SPIR-V, {len(packed)} packed"
    text = json.dumps(
        {"format": FORMAT, "compiler": COMPILER, "artifacts": entries}, indent=1, sort_keys=True
    )
    (out / LOCK).write_text(text + "\n", "utf-8")
    kept = {f"{name}{end}" for name in entries for end in (".json", ".spv.xz")} | {LOCK}
    for path in out.iterdir():
        if path.name not in kept and path.suffix in (".json", ".xz"):
            path.unlink()
            yield f"removed {path.name}"
