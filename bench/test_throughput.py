"""CPU throughput compared with the libraries that people use today, in one run: ``python -m pytest bench``.

Absolute times on shared machines mean little. The summary therefore gives, for every algorithm, the ratio of
each backend's median speed to that of its CPU library in a thread pool on all cores.
"""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm, load_reference
from integrity_triton.backends.native import usable_cpus
from integrity_triton.backends.registry import get as get_backend

MESSAGE = 64 << 10
SECONDS = 0.3
"""Calls are measured for about so long, 5 to 50 of them."""
# The length in bytes for an algorithm without a default length.
LENGTH = 32
RECORDS = [
    record
    for record in algorithms.all_algorithms()
    # A batch of rows is not a batch of tuples, and the cost of an HMAC is nearly that of its hash.
    if not record.takes_tuples and (record.construction.hmac_of is None or record.name == "hmac_sha256")
]
TREES = [record for record in RECORDS if record.parallel]


@pytest.fixture(scope="module")
def data(request: pytest.FixtureRequest) -> torch.Tensor:
    total = int(request.config.getoption("--mib")) << 20
    return torch.randint(0, 256, (max(1, total // MESSAGE), MESSAGE), dtype=torch.uint8)


WHO = pytest.mark.parametrize("who", ["library", "automatic", "opencl"])
"""What is measured, one after the other for each algorithm: what else a machine does soon changes."""


def backend_of(who: str, record: Algorithm) -> str | None:
    """None leaves the choice to the package."""
    if who == "automatic":
        return None
    name = "native" if who == "library" else who
    status = {s.name: s for s in it.backends()}[name]
    if not status.available:
        pytest.skip(f"absent: {status.reason}")
    reason = get_backend(name).unsupported(record)
    if reason is not None:
        pytest.skip(f"{'not applicable' if who == 'library' else 'absent'}: {reason}")
    return name


def measure(benchmark: Any, record: Algorithm, work: str, who: str, size: int, run: Any) -> Any:
    benchmark.group = f"{record.name}, {work}"
    benchmark.extra_info.update(algorithm=record.name, work=work, who=who, bytes=size)
    run()  # tests itself, and builds programs
    begin = time.perf_counter()
    run()
    rounds = int(SECONDS / (time.perf_counter() - begin)) + 1
    return benchmark.pedantic(run, rounds=min(max(rounds, 5), 50), warmup_rounds=1)


def length_of(record: Algorithm) -> int | None:
    return None if record.digest_size else LENGTH


def library_digest(record: Algorithm, message: Any, **options: Any) -> bytes:
    """The time of the CPU library, used in its fastest way."""
    assert record.native is not None
    make, parameters = load_reference(record.native), record.trial_parameters()
    if not parameters:
        hasher = make(message, **options)
    else:
        hasher = make(**parameters, **options)
        if hasattr(hasher, "digest_of"):
            return bytes(hasher.digest_of(message))
        hasher.update(message)
    return bytes(hasher.digest(record.digest_size or LENGTH) if record.xof else hasher.digest())


def library_call(record: Algorithm, rows: Any, pool: ThreadPoolExecutor) -> Any:
    """A call in which the CPU library hashes the rows on all cores."""
    threads = usable_cpus()
    edges = [len(rows) * i // threads for i in range(threads + 1)]

    def part(first: int, last: int) -> None:
        for i in range(first, last):
            library_digest(record, rows[i])

    def run() -> None:
        for done in [pool.submit(part, a, b) for a, b in itertools.pairwise(edges)]:
            done.result()

    return run


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
@WHO
def test_hash_batch(benchmark: Any, data: torch.Tensor, record: Algorithm, who: str) -> None:
    backend = backend_of(who, record)
    parameters: dict[str, Any] = dict(record.trial_parameters())

    def run() -> torch.Tensor:
        return it.hash_batch(data, record.name, length=length_of(record), backend=backend, **parameters)

    with ThreadPoolExecutor(usable_cpus()) as pool:
        call = library_call(record, data.numpy(), pool) if who == "library" else run
        measure(benchmark, record, "messages of 64 KiB", who, data.numel(), call)
    if record.native is not None and get_backend("native").unsupported(record) is None:
        assert run()[-1].numpy().tobytes() == library_digest(record, data[-1].numpy())


@pytest.mark.parametrize("record", TREES, ids=lambda record: record.name)
@WHO
def test_one_message(benchmark: Any, data: torch.Tensor, record: Algorithm, who: str) -> None:
    backend = backend_of(who, record)
    message = data.reshape(-1)
    parameters: dict[str, Any] = dict(record.trial_parameters())

    def run() -> torch.Tensor:
        return it.hash_batch([message], record.name, length=length_of(record), backend=backend, **parameters)

    def library() -> bytes:
        return library_digest(record, message.numpy(), **record.native_one_message)

    measure(benchmark, record, "one message", who, data.numel(), library if who == "library" else run)
