"""How time and memory grow, and what calls cost: ``python -m bench.growth [ALGORITHM]... [--only PART]...``

Each part goes through the algorithms' records:

- ``bytes``: the time of one message of 1 KiB to ``--most-bytes``, on the backend that is chosen for it.
- ``messages``: the time of 1 to ``--most-messages`` messages of 64 bytes in the rows of a tensor, likewise.
- ``streams``: the time of a stream on ``native`` that gets 1 MiB, and of one that gets 8 MiB, in pieces of
  4 KiB.
- ``memory``: the most memory that a call takes in addition to its inputs (``bench/memory.py``).
- ``latency``: what imports, first calls and small calls take (``bench/latency.py``). ``--medians-of FILE...``
  measures nothing, and writes the medians of several runs to ``--out``.

The time of a point is the shortest of several calls. From the knee on, time is linear: the time for each byte
or message stays within 10 % of its middle. A knee gets the name of the cause that is nearest to it, out of
those that the code and the machine give. The exit status is 1 if a series has no knee, if a stream takes more
than three times what its length explains, or if a call takes too much memory: more than 256 MiB and more than
5 % of its inputs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import integrity_triton as it
from bench import environment, latency, memory
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm
from integrity_triton.backends.native import usable_cpus
from integrity_triton.backends.registry import get, select
from integrity_triton.backends.triton_backend import TritonBackend
from integrity_triton.errors import BackendUnavailable
from integrity_triton.messages.from_caller import batch_messages

SIZE = 64  # bytes of each of many messages
LENGTH = 32  # bytes of an extendable output without a default length
LEAST_BYTES = 1 << 10
_STEADY = 1.2  # the highest time for a byte over the lowest one: 10 % above and below the middle
_SECONDS, _MOST_CALLS, _MORE_ROUNDS = 0.05, 50, 2  # for the calls of a point
_PIECE, _SHORT, _FACTOR, _MOST_GROWTH = bytes(4096), 256, 8, 24

Result = dict[str, Any]


def inputs(against: str, most: int) -> torch.Tensor:
    size = most if against == "bytes" else most * SIZE
    data = torch.empty(size, dtype=torch.uint8)
    part = torch.randint(0, 256, (min(size, 1 << 24),), dtype=torch.uint8)
    for start in range(0, size, len(part)):
        data[start : start + len(part)] = part[: size - start]
    return data


def steps(against: str, most: int) -> Iterator[int]:
    n = LEAST_BYTES if against == "bytes" else 1
    while n < most:
        yield n
        n *= 4
    yield most


def series(record: Algorithm, against: str, data: torch.Tensor, most: int, most_seconds: float) -> Result:
    """The times of all numbers of bytes or messages for which a call takes at most ``most_seconds``."""
    options: dict[str, Any] = {
        **record.trial_parameters(),
        "length": None if record.digest_size else LENGTH,
    }

    def call(n: int) -> Callable[[], object]:
        return lambda: it.hash_batch(messages_of(data, against, n), record.name, **options)

    points: list[Result] = []
    not_run = None
    for n in steps(against, most):
        if points and (expected := points[-1]["seconds"] * n / points[-1]["n"]) > most_seconds:
            not_run = f"{n} and more, which would take {expected:.2g} s and more"
            break
        backend = select(record, "cpu", messages=batch_messages(messages_of(data, against, n)))
        call(n)()  # builds kernels
        points.append({"n": n, "seconds": shortest(call(n)), "backend": backend.name})
    for _ in range(_MORE_ROUNDS):  # other work on the machine rarely disturbs a point in every round
        for point in points:
            point["seconds"] = min(point["seconds"], shortest(call(point["n"])))
    return {
        "key": [record.name, against],
        "algorithm": record.name,
        "against": against,
        "points": points,
        "not_run": not_run,
        "knee": knee(points),
        "cause": cause(points, causes(record, against, points)),
    }


def messages_of(data: torch.Tensor, against: str, n: int) -> Any:
    return [data[:n]] if against == "bytes" else data[: n * SIZE].view(n, SIZE)


def shortest(call: Callable[[], object]) -> float:
    best, spent, calls = math.inf, 0.0, 0
    while calls < 1 or (spent < _SECONDS and calls < _MOST_CALLS):
        begin = time.perf_counter()
        call()
        taken = time.perf_counter() - begin
        best, spent, calls = min(best, taken), spent + taken, calls + 1
    return best


def knee(points: Sequence[Result]) -> int | None:
    """The first n from which on the time is linear in n. None if not even the last two points agree."""
    low, high, found = math.inf, 0.0, None
    for i, point in enumerate(reversed(points)):
        rate = point["seconds"] / point["n"]
        low, high = min(low, rate), max(high, rate)
        if high > low * _STEADY:
            break
        found = point["n"] if i else None
    return found


def causes(record: Algorithm, against: str, points: Sequence[Result]) -> Iterator[tuple[float, str]]:
    """Numbers of bytes or messages at which the time may bend, each with the reason."""
    size = 1 if against == "bytes" else SIZE
    first, last = points[0], points[-1]
    yield (
        10 * first["seconds"] / (last["seconds"] / last["n"]),
        f"the fixed time of a call, {1e6 * first['seconds']:.3g} µs, is a tenth of the time",
    )
    for before, after in itertools.pairwise(points):
        if before["backend"] != after["backend"]:
            yield after["n"], f"the choice changes from {before['backend']} to {after['backend']}"
    for level, held in environment.caches().items():
        yield held / size, f"the messages fill the {level} cache"
    backend = get(last["backend"])
    if isinstance(backend, TritonBackend):
        lanes = backend.tuned(*backend.driver(record).main_kernel())["BLOCK_MSGS"] * usable_cpus()
        leaf = record.construction.leaf_size
        if against == "messages":
            yield lanes, "every lane of every thread has a message"
        elif leaf is not None:
            yield lanes * leaf, "every lane of every thread has a leaf of the tree"
    elif against == "messages":
        yield (1 << 20) / size, "the native backend divides batches of 1 MiB and more among threads"
    elif record.native_one_message:
        yield 1 << 17, "the library divides messages of about 128 KiB and more among threads"


def cause(points: Sequence[Result], known: Iterator[tuple[float, str]]) -> str | None:
    """The cause that is nearest to the knee, if no whole step is between them."""
    found = knee(points)
    if found is None or found == points[0]["n"]:
        return None
    step = points[1]["n"] / points[0]["n"]
    distance, text = min((abs(math.log(n / found)), text) for n, text in known)
    return text if distance <= math.log(step) * 1.01 else "not known"


def stream(record: Algorithm, pieces: int) -> float:
    """The shortest time of three streams of so many pieces, with the digest."""
    best = math.inf
    for _ in range(3):
        hasher = it.new(record.name, backend="native", **record.trial_parameters())
        begin = time.perf_counter()
        for _ in range(pieces):
            hasher.update(_PIECE)
        hasher.digest(None if record.digest_size or not record.xof else LENGTH)
        best = min(best, time.perf_counter() - begin)
    return best


def streams(records: Sequence[Algorithm]) -> Iterator[Result]:
    for record in records:
        reason = get("native").unsupported(record)
        found: Result = {"key": [record.name], "algorithm": record.name}
        if reason is not None:
            yield {**found, "absent": reason, "good": True}
            continue
        stream(record, 1)  # imports and tables
        short, long = (stream(record, pieces) for pieces in (_SHORT, _SHORT * _FACTOR))
        good = long / short <= _MOST_GROWTH
        yield {**found, "seconds": [short, long], "growth": long / short, "length": _FACTOR, "good": good}


def grown(records: Sequence[Algorithm], against: str, most: int, most_seconds: float) -> Iterator[Result]:
    data = inputs(against, most)
    for record in records:
        try:
            found = series(record, against, data, most, most_seconds)
        except BackendUnavailable as error:
            yield {
                "key": [record.name, against],
                "algorithm": record.name,
                "absent": str(error),
                "good": True,
            }
            continue
        yield {**found, "good": found["knee"] is not None or len(found["points"]) < 2}


def shown(found: Result) -> str:
    """A result in one line."""
    name = " ".join(map(str, found["key"]))
    if "absent" in found:
        return f"{name}: absent: {found['absent']}"
    bad = "" if found["good"] else "  FAILED"
    if "points" in found:
        last = found["points"][-1]
        where = f"linear from {found['knee']} on" if found["knee"] else "not linear"
        where += f" ({found['cause']})" if found["cause"] else ""
        rest = f"; not run: {found['not_run']}" if found["not_run"] else ""
        taken = f"{last['n']} take {last['seconds']:.3g} s on {last['backend']}"
        return f"{name}: {where}; {taken}{rest}{bad}"
    if "growth" in found:
        return (
            f"{name}: a stream {found['length']} times as long takes {found['growth']:.1f} times as long{bad}"
        )
    if "above_bytes" in found:
        return (
            f"{name}: {found['above_bytes'] / (1 << 20):.1f} MiB above {found['given_bytes'] >> 20} MiB{bad}"
        )
    return f"{name}: {1e6 * found['seconds']:.1f} µs"


def medians(files: Sequence[Path]) -> tuple[list[dict[str, str]], list[Result]]:
    """The runs of several files, and the medians of their latencies."""
    documents = [json.loads(path.read_text("utf-8")) for path in files]
    taken: dict[str, list[Result]] = {}
    for document in documents:
        for result in document["latency"]:
            taken.setdefault(json.dumps(result["key"]), []).append(result)
    results = [
        {**same[0], "seconds": statistics.median(found["seconds"] for found in same), "runs": len(same)}
        for same in taken.values()
    ]
    return [run for document in documents for run in document["runs"]], results


PARTS = ("bytes", "messages", "streams", "memory", "latency")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.growth")
    parser.add_argument("algorithm", nargs="*", help="default: all but the HMACs and those that hash tuples")
    parser.add_argument("--only", action="append", choices=PARTS, help="default: all parts. Repeatable")
    parser.add_argument("--most-bytes", type=int, default=1 << 30, help="default: 1 GiB")
    parser.add_argument("--most-messages", type=int, default=10**7, help="default: 10^7")
    parser.add_argument(
        "--most-seconds", type=float, default=2.0, help="longest call that is tried; default: 2"
    )
    parser.add_argument(
        "--out", type=Path, help="a JSON file that takes the results, besides those that it has"
    )
    parser.add_argument(
        "--medians-of", type=Path, nargs="+", metavar="FILE", help="files of runs of the part latency"
    )
    parser.add_argument("--note", default="", help="what else the machine did, for --out")
    options = parser.parse_args(arguments)
    if options.most_bytes < LEAST_BYTES or options.most_messages < 1:
        parser.error(f"--most-bytes has to be at least {LEAST_BYTES}, and --most-messages at least 1")
    if options.medians_of:
        if options.out is None:
            parser.error("--medians-of needs --out")
        runs, found = medians(options.medians_of)
        for of_file in runs:
            environment.write(options.out, "growth", of_file, {"latency": found})
        return 0
    records = [algorithms.get(name) for name in options.algorithm]
    for record in records:
        if record.takes_tuples:
            parser.error(f"{record.name} hashes tuples of messages, which are not measured")
    records = records or [
        record
        for record in algorithms.all_algorithms()
        if not record.takes_tuples and record.construction.hmac_of is None
    ]
    parts: dict[str, Callable[[], Iterator[Result]]] = {
        "bytes": lambda: grown(records, "bytes", options.most_bytes, options.most_seconds),
        "messages": lambda: grown(records, "messages", options.most_messages, options.most_seconds),
        "streams": lambda: streams(records),
        "memory": lambda: memory.measured(
            [r.name for r in records] if options.algorithm else memory.ALGORITHMS
        ),
        "latency": latency.measured,
    }
    given = sys.argv[1:] if arguments is None else arguments
    run = environment.run(["bench.growth", *given], options.note)
    good = True
    for part in options.only or PARTS:
        found = []
        try:
            for result in parts[part]():
                print(f"{part}: {shown(result)}", flush=True)
                found.append(result)
                good &= result["good"]
        finally:  # an interrupted run keeps what it has measured
            if options.out is not None:
                environment.write(options.out, "growth", run, {part: found})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
