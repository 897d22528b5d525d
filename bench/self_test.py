"""How long the self-tests at first use take: ``python -m bench.self_test [--backend NAME] [ALGORITHM]...``

For each algorithm, this hashes short and long messages as a batch, as rows and as a stream on the backend's
first device. It prints the number of tests that these cause, the time of the longest test, and the time of
all tests. A time is the median of three runs after the kernels have been built. It includes the search for
the test and excludes the compilation.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch

import integrity_triton
from integrity_triton import algorithms
from integrity_triton._version import __version__
from integrity_triton.algorithms import Algorithm
from integrity_triton.backends.registry import get
from integrity_triton.backends.triton_backend import TritonBackend
from integrity_triton.messages.layout import Ragged, Rows
from integrity_triton.self_tests.admission import SelfTests

_REPEATED = 3


class _Timed(SelfTests):
    def __init__(self, backend: TritonBackend) -> None:
        super().__init__(backend)
        self.seconds: list[float] = []

    def _prove(self, *arguments: object) -> None:
        before, begin = len(self.seconds), time.perf_counter()
        super()._prove(*arguments)  # type: ignore[arg-type]
        took = time.perf_counter() - begin
        # A test of HMAC may have caused a test of its hash, whose time has been counted already.
        self.seconds.append(took - sum(self.seconds[before:]))


def uses(record: Algorithm, backend: TritonBackend) -> None:
    """Hash short and long messages as a batch, as rows and as a stream."""
    device = backend.device_for(None)
    data = torch.zeros(300_000, dtype=torch.uint8, device=device)
    parameters = record.check_parameters(record.trial_parameters())
    length = record.digest_size or 32
    for size in (100, 100_000):
        ragged = Ragged([data[:size], data[: size // 2]], device)
        for messages in (ragged, Rows.of(data[: 3 * size].view(3, size))):
            backend.digest_batch(record, parameters, messages, length)
    stream = backend.stream(record, parameters, device)
    stream.update(data)
    stream.digest(length, 0)


def measured(record: Algorithm, backend: TritonBackend) -> list[float]:
    """The seconds that each test takes."""
    runs = []
    for _ in range(_REPEATED + 1):  # the first run builds the kernels
        timed = _Timed(backend)
        backend.self_tests = timed
        uses(record, backend)
        runs.append(timed.seconds)
    return [statistics.median(times) for times in zip(*runs[1:], strict=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.self_test")
    parser.add_argument("--backend", default="opencl")
    parser.add_argument("algorithms", nargs="*")
    options = parser.parse_args(arguments)
    backend = get(options.backend)
    if not isinstance(backend, TritonBackend):
        parser.error(f"{options.backend} runs no kernels of this package")
    (status,) = (s for s in integrity_triton.backends() if s.name == options.backend)
    print(f"integrity-triton {__version__}, torch {torch.__version__}, {status.reason}, {status.devices[0]}")
    chosen = [algorithms.get(name) for name in options.algorithms] or list(algorithms.all_algorithms())
    longest = 0.0
    print(f"{'algorithm':<26}{'tests':>6}{'longest':>12}{'all':>12}")
    for record in chosen:
        times = measured(record, backend)
        longest = max(longest, *times)
        print(
            f"{record.name:<26}{len(times):>6}{1e3 * max(times):>9.1f} ms{1e3 * sum(times):>9.1f} ms",
            flush=True,
        )
    print(f"The longest test takes {1e3 * longest:.1f} ms.")


if __name__ == "__main__":
    main()
