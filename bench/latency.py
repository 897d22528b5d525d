"""What imports, first calls and small calls take."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

import integrity_triton as it

ALGORITHMS = ("sha256", "blake3")
SIZE = 100  # bytes of a message
COUNTS = (1, 16, 300, 3000)
_ROUNDS, _SECONDS, _LEAST_CALLS = 5, 0.3, 10

_IMPORTS = ("integrity_triton", "torch")
_TIMED_IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
_FIRST_CALL = """
import time
import torch
import integrity_triton as it
messages = torch.zeros((16, 64), dtype=torch.uint8)
start = time.perf_counter()
it.hash_batch(messages, "{}", backend="{}")
print(time.perf_counter() - start)
"""


def measured() -> Iterator[dict[str, Any]]:
    for module in _IMPORTS:
        yield _result(f"import {module}", None, None, _in_processes(_TIMED_IMPORT.format(module)))
    backends = [s.name for s in it.backends() if s.available and s.name in ("native", "opencl")]
    for name in ALGORITHMS:
        make = getattr(it, name)
        yield _result("one message of 3 bytes", name, None, _median(lambda: make(b"abc").digest()))  # noqa: B023
        for backend in backends:
            code = _FIRST_CALL.format(name, backend)
            yield _result("first call, nothing cached", name, backend, _in_processes(code, cold=True))
            yield _result("first call, cached", name, backend, _in_processes(code))
            yield from _small_calls(name, backend)


def _small_calls(name: str, backend: str) -> Iterator[dict[str, Any]]:
    for count in COUNTS:
        kinds: dict[str, Any] = {
            "rows": torch.zeros((count, SIZE), dtype=torch.uint8),
            "tensors": [torch.zeros(SIZE, dtype=torch.uint8) for _ in range(count)],
            "bytes": [bytes(SIZE)] * count,
        }
        for kind, messages in kinds.items():
            taken = _median(lambda: it.hash_batch(messages, name, backend=backend))  # noqa: B023
            yield _result(f"hash_batch of {count} {kind} of {SIZE} bytes", name, backend, taken)


def _result(work: str, name: str | None, backend: str | None, seconds: float) -> dict[str, Any]:
    return {"key": [work, name or "", backend or ""], "seconds": seconds, "good": True}


def _median(call: Callable[[], object]) -> float:
    call()
    taken: list[float] = []
    while len(taken) < _LEAST_CALLS or sum(taken) < _SECONDS:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _in_processes(code: str, *, cold: bool = False) -> float:
    """The median of what several processes print: seconds. ``cold`` gives each an empty cache; otherwise a
    first process fills it and is not counted."""
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(_ROUNDS + (not cold)):
            cache = os.path.join(folder, str(i) if cold else "kept")
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "XDG_CACHE_HOME": cache},
                capture_output=True,
                text=True,
                check=True,
            )
            taken.append(float(done.stdout))
    return statistics.median(taken if cold else taken[1:])
