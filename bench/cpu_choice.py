"""Measure what ``opencl/cpu_choice.json`` holds: ``python -m bench.cpu_choice [ALGORITHM]... [--write]``.

For each algorithm that both the ``opencl`` backend and a CPU library have, this measures, for the kernels and
for the library, the bytes per second and thread in a large batch, and the seconds that each call or message
takes in addition; for the library also the bytes per second and thread in one message, which has one thread,
or all of them if it is hashed as a tree; and for kernels that hash trees the seconds for each level. Then it
prints how the rule chooses for batches of many shapes, and how often the other choice would have been faster.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm
from integrity_triton.backends.opencl import cpu_choice
from integrity_triton.backends.registry import get as get_backend
from integrity_triton.backends.registry import statuses
from integrity_triton.backends.triton_backend import TritonBackend
from integrity_triton.messages.from_caller import batch_messages

REPETITIONS = 3, 300
"""The least and the most calls that are measured, ..."""
SECONDS = 0.1
"""... for about so long."""
SHAPES = [
    *((n, size) for n in (1, 4, 16, 64, 256, 1024, 8192) for size in (64, 1024, 16384, 262144)),
    (1, 1 << 26),
]
MOST_BYTES = 1 << 26
MESSAGE = 1 << 16
LEVELS = 6
"""The height of the tree with which the time of a level is measured."""
# The length in bytes of extendable output without a default length.
LENGTH = 32


def seconds(call: Callable[[], object], about: float = SECONDS) -> float:
    """The least time of several calls, after one call that builds the kernels. What disturbs calls on a
    machine that others use may last longer than half of them."""
    call()
    taken: list[float] = []
    while len(taken) < REPETITIONS[0] or (sum(taken) < about and len(taken) < REPETITIONS[1]):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def hash_batch(messages: torch.Tensor, record: Algorithm, backend: str) -> torch.Tensor:
    length = None if record.digest_size else LENGTH
    keys: dict[str, Any] = dict(record.trial_parameters())
    return it.hash_batch(messages, record.name, length=length, backend=backend, **keys)


def passed_over(record: Algorithm) -> str | None:
    """Why there is nothing to choose, or to measure, for an algorithm; None if there is."""
    if record.takes_tuples:
        return "a batch of rows is not a batch of tuples"
    if record.construction.hmac_of is not None:
        return "its hash is measured"
    for name in ("opencl", "native"):
        reason = get_backend(name).unsupported(record)
        if reason is not None:
            return f"{name}: {reason}"
    return None


def figures(record: Algorithm, threads: int) -> dict[str, float]:
    data = torch.randint(0, 256, (threads << 25,), dtype=torch.uint8)
    leaf = record.construction.leaf_size
    # Both are measured with the same messages. The kernels are faster with shorter ones, of which a batch has
    # more, and libraries with longer ones, so that this is where a difference decides.
    large = data.view(-1, MESSAGE)
    small = torch.zeros((1, 1), dtype=torch.uint8)
    many = torch.zeros((20000, 1), dtype=torch.uint8)
    found = {}
    each = seconds(lambda: hash_batch(many, record, "native")) / len(many)
    call = seconds(lambda: hash_batch(small, record, "opencl"))
    levels = 0
    if leaf is not None:
        taken = seconds(lambda: hash_batch(data[None, : leaf << LEVELS], record, "opencl"))
        found["opencl_level"] = max(0.0, taken - call) / LEVELS
        levels = (MESSAGE // leaf).bit_length() - 1
    fixed = call + levels * found.get("opencl_level", 0.0)
    for backend, apart in (("opencl", fixed), ("native", len(large) * each)):
        taken = seconds(lambda: hash_batch(large, record, backend)) - apart  # noqa: B023
        found[f"{backend}_bytes_per_second"] = data.numel() / taken / threads
    taken = seconds(lambda: hash_batch(data[None], record, "native"))
    found["native_alone_bytes_per_second"] = data.numel() / taken / (1 if leaf is None else threads)
    found["opencl_call"] = call
    found["native_message"] = each
    return {key: float(f"{value:.3g}") for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cpu_choice", description=__doc__)
    parser.add_argument("algorithms", nargs="*", metavar="ALGORITHM", help="default: all of them")
    parser.add_argument(
        "--write",
        action="store_true",
        help="replace the figures that the package ships for processors with the same vector instructions",
    )
    options = parser.parse_args()
    if options.write and options.algorithms:
        parser.error("--write replaces the figures of all algorithms, so that all have to be measured")
    status = {s.name: s for s in statuses()}["opencl"]
    if not status.available:
        raise SystemExit(f"opencl is not available: {status.reason}")
    threads = cpu_choice._threads()
    print(f"{status.devices[0]}, {threads} threads, {status.reason}")
    opencl = get_backend("opencl")
    assert isinstance(opencl, TritonBackend)
    found: dict[str, Any] = {}
    for record in [algorithms.get(name) for name in options.algorithms] or algorithms.all_algorithms():
        reason = passed_over(record)
        if reason is None:
            found[record.name] = figures(record, threads)
        print(record.name, found.get(record.name) or f"passed over: {reason}", flush=True)
    if options.write:
        path = Path(cpu_choice.__file__).with_suffix(".json")
        machine = {"device": status.devices[0], "threads": threads, "platform": platform.platform()}
        figures_of = {
            **cpu_choice.measured(),
            cpu_choice.instructions(): {"measured_on": machine, "algorithms": found},
        }
        path.write_text(json.dumps(figures_of, indent=2) + "\n", "utf-8")
    cpu_choice._figures = lambda: {"algorithms": found}  # type: ignore[assignment]
    for name in found:
        check(opencl, algorithms.get(name))


def check(opencl: TritonBackend, record: Algorithm) -> None:
    """Print every shape for which the rule chose the slower of the two."""
    name = record.name
    right, shapes = 0, [(n, size) for n, size in SHAPES if n * size <= MOST_BYTES]
    for n, size in shapes:
        data = torch.zeros((n, size), dtype=torch.uint8)
        kernels, native = (
            seconds(lambda: hash_batch(data, record, backend), SECONDS / 4)  # noqa: B023
            for backend in ("opencl", "native")
        )
        chosen = cpu_choice.kernels_are_faster(opencl, record, batch_messages(data))
        right += chosen == (kernels < native)
        if chosen != (kernels < native):
            chose = "opencl" if chosen else "native"
            print(f"{name}: {n} x {size} bytes: chose {chose}; opencl {kernels:.3g} s, native {native:.3g} s")
    print(f"{name}: the rule chose the faster in {right} of {len(shapes)} shapes", flush=True)


if __name__ == "__main__":
    main()
