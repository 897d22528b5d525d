"""Proves and measures the kernels on the accelerator of this machine, with one command.

    python -m bench.device_report

Runs the bit-exactness tests on the device, then times every algorithm's kernels beside the device's
own copy and read bandwidth, and writes ``bench/results/<device>-<date>.json`` and ``.md``. Needs torch,
triton, numpy, pytest and hypothesis alone. ``bench/README.md`` describes what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm
from integrity_triton.backends import BackendStatus
from integrity_triton.backends import get as get_backend
from integrity_triton.backends.triton_host import Launch, TritonBackend

ROOT = Path(__file__).resolve().parent.parent
TEST_SHARE = 0.75  # of the budget, at the most
REPETITIONS = 5


@dataclass
class Verdict:
    """What the test run said."""

    passed: int = 0
    failed: int = 0
    absent: int = 0
    note: str = ""

    @property
    def green(self) -> bool:
        return self.passed > 0 and self.failed == 0 and not self.note


@dataclass
class Measurement:
    """One algorithm on one layout. Rates are decimal GB/s of message bytes."""

    algorithm: str
    layout: str
    gigabytes: float = 0.0
    rate: float | None = None
    rate_lowest: float | None = None
    rate_highest: float | None = None
    percent_of_read: float | None = None
    first_call_seconds: float | None = None
    host_microseconds: float | None = None
    peak_scratch_bytes: int | None = None
    checked: str = ""
    not_run: str = ""


@dataclass
class Report:
    """All of it, as it is written to JSON."""

    environment: dict[str, Any]
    tests: Verdict
    bandwidth: dict[str, float] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    sweep: list[dict[str, Any]] = field(default_factory=list)

    @property
    def headline(self) -> str:
        tests = self.tests
        if tests.green:
            return f"GREEN: {tests.passed} bit-exactness tests passed on this device"
        counts = f"{tests.passed} passed, {tests.failed} failed, {tests.absent} absent"
        return f"RED, so that no figure counts: {counts}{'; ' if tests.note else ''}{tests.note}"


class Clock:
    """The time budget."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return self.end - time.monotonic()


class Device:
    """Timing and memory of one torch device; on the CPU, wall-clock time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.module: Any = None if device.type == "cpu" else torch.get_device_module(device)

    def synchronize(self) -> None:
        if self.module is not None:
            self.module.synchronize(self.device)

    def time(self, call: Callable[[], object]) -> tuple[float, float]:
        """Seconds on the device between events around ``call``, and seconds until it returned."""
        self.synchronize()
        if self.module is None:
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
            return seconds, seconds
        first, last = (self.module.Event(enable_timing=True) for _ in range(2))
        start = time.perf_counter()
        first.record()
        call()
        last.record()
        host = time.perf_counter() - start
        self.synchronize()
        return first.elapsed_time(last) / 1e3, host

    def reset_peak(self) -> int:
        if self.module is None or not hasattr(self.module, "reset_peak_memory_stats"):
            return 0
        self.module.reset_peak_memory_stats(self.device)
        return int(self.module.memory_allocated(self.device))

    def peak(self) -> int | None:
        if self.module is None or not hasattr(self.module, "max_memory_allocated"):
            return None
        return int(self.module.max_memory_allocated(self.device))

    def random(self, size: int) -> torch.Tensor:
        """``size`` random bytes, generated on the device."""
        words = torch.empty(-(-size // 8), dtype=torch.int64, device=self.device)
        return words.random_().view(torch.uint8)[:size]


def choose(name: str | None) -> BackendStatus:
    """The backend asked for, or the first one of an accelerator that is available."""
    listed = {status.name: status for status in it.backends()}
    if name is not None:
        if name not in listed or not listed[name].available:
            reason = listed[name].reason if name in listed else f"unknown (known: {', '.join(listed)})"
            raise SystemExit(f"device_report: backend {name!r}: {reason}")
        return listed[name]
    for status in listed.values():
        device_type = (
            getattr(get_backend(status.name), "torch_device_type", "cpu") if status.available else "cpu"
        )
        if device_type != "cpu":
            return status
    reasons = "; ".join(f"{s.name}: {s.reason}" for s in listed.values() if not s.available)
    raise SystemExit(f"device_report: no accelerator here ({reasons}); name a backend to try the machinery")


def environment(status: BackendStatus, device: Device) -> dict[str, Any]:
    import numpy
    import triton

    found: dict[str, Any] = {
        "backend": status.name,
        "device": device_name(status, device),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "integrity_triton": it.__version__,
        "commit": git("rev-parse", "HEAD"),
        "uncommitted changes": bool(git("status", "--porcelain")),
        "driver": driver_version(),
    }
    if device.module is not None:
        properties = device.module.get_device_properties(device.device)
        for name in ("total_memory", "multi_processor_count", "major", "minor", "clock_rate", "gcnArchName"):
            if hasattr(properties, name):
                found[name] = getattr(properties, name)
    return found


def device_name(status: BackendStatus, device: Device) -> str:
    if device.module is None:
        return f"{status.name} on {platform.processor() or platform.machine()}"
    return str(device.module.get_device_name(device.device))


def git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return result.stdout.strip()


def driver_version() -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return result.stdout.strip().splitlines()[0]
    return "not known"


def run_tests(backend: str, seconds: float) -> Verdict:
    """The device tests of this repository on ``backend``, in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tests.xml")
        command = [sys.executable, "-m", "pytest", "tests", "-q", "-p", "no:cacheprovider"]
        command += ["-m", "device and not slow", "--backend", backend, f"--junit-xml={path}"]
        print("$", " ".join(command), flush=True)
        try:
            status = subprocess.run(command, cwd=ROOT, timeout=seconds, check=False).returncode
        except subprocess.TimeoutExpired:
            return Verdict(note=f"the tests did not end within {seconds:.0f} s")
        verdict = read_verdict(path)
        if status != 0 and verdict.green:
            verdict.note = f"pytest ended with status {status}"
        return verdict


def read_verdict(path: Path) -> Verdict:
    """Counts from a JUnit file; whatever is not a complete, green run has a note or failures."""
    try:
        suites = list(ElementTree.parse(path).iter("testsuite"))
    except (OSError, ElementTree.ParseError) as error:
        return Verdict(note=f"no test results: {error}")
    verdict = Verdict()
    for suite in suites:
        total, failed, absent = (
            sum(int(suite.get(name, 0)) for name in names)
            for names in (("tests",), ("failures", "errors"), ("skipped",))
        )
        verdict.passed += total - failed - absent
        verdict.failed += failed
        verdict.absent += absent
    if verdict.passed + verdict.failed == 0:
        verdict.note = "no test ran"
    return verdict


@dataclass(frozen=True)
class Layout:
    """A way in which messages come. ``cut`` makes them out of a buffer of random bytes, untimed."""

    name: str
    cut: Callable[[torch.Tensor], Any]
    hash: Callable[[Any, str, str], torch.Tensor]
    first: Callable[[Any], torch.Tensor]
    needs_tree: bool = False
    most_bytes: int | None = None


def _hash_batch(messages: Any, algorithm: str, backend: str) -> torch.Tensor:
    return it.hash_batch(messages, algorithm, backend=backend)


def _rows(size: int, most_bytes: int | None = None) -> Layout:
    def cut(data: torch.Tensor) -> torch.Tensor:
        return data[: data.numel() // size * size].view(-1, size)

    return Layout(f"rows of {size} bytes", cut, _hash_batch, lambda rows: rows[0], most_bytes=most_bytes)


def _chunks(size: int) -> Layout:
    def hash_chunks(data: torch.Tensor, algorithm: str, backend: str) -> torch.Tensor:
        return it.hash_chunks(data, algorithm, chunk_size=size, backend=backend)

    return Layout(f"chunks of {size} bytes", lambda data: data, hash_chunks, lambda data: data[:size])


def _one_message() -> Layout:
    return Layout(
        "one message", lambda data: [data], _hash_batch, lambda messages: messages[0], needs_tree=True
    )


def _ragged(smallest: int, largest: int, *, needs_tree: bool, most_bytes: int | None = None) -> Layout:
    def cut(data: torch.Tensor) -> list[torch.Tensor]:
        views: list[torch.Tensor] = []
        offset, ratio = 0, largest / smallest
        while offset < data.numel():
            # Log-uniform, by the golden ratio's low-discrepancy sequence; aligned as tensors are.
            size = int(smallest * ratio ** (len(views) * 0.6180339887498949 % 1)) // 16 * 16
            views.append(data[offset : offset + size])
            offset += size
        return views

    return Layout(
        f"tensors of {smallest} to {largest} bytes",
        cut,
        _hash_batch,
        lambda views: views[0],
        needs_tree=needs_tree,
        most_bytes=most_bytes,
    )


def layouts(quick: bool) -> list[Layout]:
    if quick:
        return [_rows(64), _chunks(128), _one_message(), _ragged(16, 200, needs_tree=False)]
    return [
        _rows(65536),
        _chunks(1024),
        _one_message(),
        _ragged(4096, 64 << 20, needs_tree=True),
        _ragged(1024, 65536, needs_tree=False, most_bytes=256 << 20),
        _rows(64, most_bytes=1 << 30),
    ]


def bandwidth(device: Device, size: int) -> dict[str, float]:
    """GB/s of a device-to-device copy, and of a pass that only reads: the most a hash could see."""
    source, target = device.random(size), torch.empty(size, dtype=torch.uint8, device=device.device)
    words = source[: size // 8 * 8].view(torch.int64)
    copy: list[float] = []
    read: list[float] = []
    for _ in range(REPETITIONS + 2):
        copy.append(device.time(lambda: target.copy_(source))[0])
        read.append(device.time(words.sum)[0])
    seconds = statistics.median(copy[2:])
    return {
        "copy_read_plus_write": 2 * size / seconds / 1e9,
        "copy_read": size / seconds / 1e9,
        "read": max(size / seconds, size / statistics.median(read[2:])) / 1e9,
        "bytes": size,
    }


def measure(
    record: Algorithm, layout: Layout, data: torch.Tensor, device: Device, backend: str, read_rate: float
) -> Measurement:
    data = data[: layout.most_bytes]
    size = data.numel()
    messages = layout.cut(data)
    result = Measurement(record.name, layout.name, size / 1e9)

    def call() -> torch.Tensor:
        return layout.hash(messages, record.name, backend)

    start = time.perf_counter()
    digests = call()
    device.synchronize()
    result.first_call_seconds = time.perf_counter() - start
    result.checked = check(record, layout.first(messages), digests[0])
    before = device.reset_peak()
    times = [device.time(call) for _ in range(REPETITIONS)]
    peak = device.peak()
    result.peak_scratch_bytes = None if peak is None else peak - before
    seconds = [t for t, _ in times]
    result.rate = size / statistics.median(seconds) / 1e9
    result.rate_lowest, result.rate_highest = size / max(seconds) / 1e9, size / min(seconds) / 1e9
    result.percent_of_read = 100 * result.rate / read_rate
    result.host_microseconds = 1e6 * statistics.median([host for _, host in times])
    return result


def check(record: Algorithm, message: torch.Tensor, digest: torch.Tensor) -> str:
    """Compare one digest of a timed call with the CPU library. Raises if they differ."""
    reason = get_backend("native").unsupported(record)
    if reason is not None:
        return f"not checked here: {reason}"
    expected = it.new(record.name, message.cpu().numpy(), backend="native").digest()
    if digest.cpu().numpy().tobytes() != expected:
        raise AssertionError(f"{record.name}: a timed call gave a wrong digest")
    return "equal to the CPU library"


_WIDTHS = ((32, 1), (64, 2), (128, 4), (256, 4), (256, 8))
TILES = [(lanes, warps, vector) for lanes, warps in _WIDTHS for vector in (1, 4)]


@contextlib.contextmanager
def configured(backend: TritonBackend, changes: dict[str, int]) -> Iterator[None]:
    """Launch with other options for a while."""
    tuned = backend.options

    def options(launch: Launch) -> dict[str, int]:
        return {**tuned(launch), **changes}

    backend.options = options  # type: ignore[method-assign]
    try:
        yield
    finally:
        backend.options = tuned  # type: ignore[method-assign]


def sweep(data: torch.Tensor, device: Device, name: str, clock: Clock) -> list[dict[str, Any]]:
    """Every algorithm's rate over rows of 64 KiB and one message, for several tile configurations."""
    backend = get_backend(name)
    if not isinstance(backend, TritonBackend):
        return []
    found: list[dict[str, Any]] = []
    for record in algorithms.all_algorithms():
        layout = _one_message() if record.parallel else _rows(65536)
        for lanes, warps, vector in TILES:
            changes = {"BLOCK_MSGS": lanes, "num_warps": warps, "VECTOR": vector}
            entry: dict[str, Any] = {"algorithm": record.name, "layout": layout.name, **changes}
            found.append(entry)
            if clock.left() < 30:
                entry["not_run"] = "out of time"
                continue
            try:
                with configured(backend, changes):
                    call = functools.partial(layout.hash, layout.cut(data), record.name, name)
                    call()
                    seconds = [device.time(call)[0] for _ in range(3)]
                entry["rate"] = data.numel() / statistics.median(seconds) / 1e9
            except Exception as error:  # one configuration that does not build must not hide the others
                entry["not_run"] = f"{type(error).__name__}: {error}"[:200]
    return found


def markdown(report: Report) -> str:
    """The report as a page."""
    facts = report.environment
    lines = [f"# {facts['device']}, {facts['date'][:10]}", "", report.headline, ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    if report.bandwidth:
        lines += ["", "Bandwidth, decimal GB/s: "]
        lines[-1] += ", ".join(
            f"{name} {value:.0f}" for name, value in report.bandwidth.items() if name != "bytes"
        )
    if report.measurements:
        lines += [
            "",
            "| algorithm | layout | GB/s | lowest to highest | % of read | first call s | host µs | check |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
        ]
    for m in report.measurements:
        if m.rate is None:
            lines.append(f"| {m.algorithm} | {m.layout} | not run: {m.not_run} | | | | | |")
        else:
            cells = [
                m.algorithm,
                m.layout,
                f"{m.rate:.4g}",
                f"{m.rate_lowest:.4g} to {m.rate_highest:.4g}",
                f"{m.percent_of_read:.3g}",
                f"{m.first_call_seconds:.1f}",
                f"{m.host_microseconds:.0f}",
                m.checked,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    if report.sweep:
        lines += ["", "| algorithm | layout | BLOCK_MSGS | num_warps | VECTOR | GB/s |", "| --- " * 6 + "|"]
        for s in sorted(report.sweep, key=lambda s: (s["algorithm"], -s.get("rate", 0))):
            rate = f"{s['rate']:.4g}" if "rate" in s else f"not run: {s['not_run']}"
            cells = [str(s[name]) for name in ("algorithm", "layout", "BLOCK_MSGS", "num_warps", "VECTOR")]
            lines.append(f"| {' | '.join(cells)} | {rate} |")
    return "\n".join(lines) + "\n"


def write(report: Report, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", report.environment["device"].lower()).strip("-")
    path = folder / f"{slug}-{report.environment['date'][:10]}.json"
    path.write_text(json.dumps({"headline": report.headline, **asdict(report)}, indent=2) + "\n", "utf-8")
    path.with_suffix(".md").write_text(markdown(report), "utf-8")
    return path


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.device_report", description=__doc__.split("\n")[0])
    parser.add_argument("--backend", help="default: the first accelerator's that is available")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--budget", type=float, default=450, help="seconds, all in all (default 450)")
    parser.add_argument("--gib", type=float, default=4, help="GiB of data for each timing (default 4)")
    parser.add_argument("--quick", action="store_true", help="a few KiB: tries the machinery")
    parser.add_argument("--no-tests", action="store_true", help="figures then do not count")
    parser.add_argument("--sweep", action="store_true", help="time other tile configurations too")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run; 0 if all tests passed and all was measured that time allowed, 1 otherwise."""
    options = arguments(argv)
    clock = Clock(options.budget)
    status = choose(options.backend)
    device = Device(_device_of(status.name))
    tests = (
        Verdict(note="the tests were not run")
        if options.no_tests
        else run_tests(status.name, clock.left() * TEST_SHARE)
    )
    report = Report(environment(status, device), tests)
    if tests.green or options.no_tests:
        time_everything(report, options, device, status.name, clock)
    path = write(report, options.out)
    print()
    print(markdown(report))
    print(f"written to {os.path.relpath(path)} and .md")
    return 0 if report.tests.green else 1


def time_everything(
    report: Report, options: argparse.Namespace, device: Device, backend: str, clock: Clock
) -> None:
    size = 1000 if options.quick else int(options.gib * (1 << 30))
    report.bandwidth = bandwidth(device, size)
    buffers = [device.random(size) for _ in range(1 if options.quick else 2)]
    turn = 0
    for layout in layouts(options.quick):
        for record in algorithms.all_algorithms():
            if layout.needs_tree and not record.parallel:
                continue
            if clock.left() < 20:
                report.measurements.append(Measurement(record.name, layout.name, not_run="out of time"))
                continue
            turn += 1  # another buffer each time, so that no cache holds what is hashed next
            data = buffers[turn % len(buffers)]
            done = measure(record, layout, data, device, backend, report.bandwidth["read"])
            report.measurements.append(done)
            print(f"{record.name}, {layout.name}: {done.rate:.4g} GB/s", flush=True)
    if options.sweep:
        report.sweep = sweep(buffers[0], device, backend, clock)


def _device_of(backend: str) -> torch.device:
    instance = get_backend(backend)
    return instance.device_for(None) if isinstance(instance, TritonBackend) else torch.device("cpu")


if __name__ == "__main__":
    sys.exit(main())
