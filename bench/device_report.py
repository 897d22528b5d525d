"""Proves and measures the kernels on the accelerator of this machine, with one command.

    python -m bench.device_report

It checks where the device's matrix instructions place their operands, runs the bit-exactness tests on it,
times every algorithm's kernels beside the device's own copy and read bandwidth and beside the rate that was
counted for it, and writes ``bench/results/<device>-<date>.json`` and ``.md``. It needs only torch,
triton, numpy, pytest and hypothesis. ``bench/README.md`` describes what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm, load_reference
from integrity_triton.backends.emulation.backend import EmulatedBackend
from integrity_triton.backends.jit import JitBackend
from integrity_triton.backends.registry import BackendStatus
from integrity_triton.backends.registry import get as get_backend
from integrity_triton.backends.triton_backend import TritonBackend
from integrity_triton.launching.launch import Launch

from . import device_layouts
from .device_layouts import Confirmation

ROOT = Path(__file__).resolve().parent.parent
TEST_SHARE = 0.75  # largest share of the time budget
NOT_KNOWN = "not known"
# Properties of a device, of which torch may lack some; clocks are in kHz.
PROPERTIES = (
    "total_memory",
    "multi_processor_count",
    "gpu_eu_count",
    "major",
    "minor",
    "gcnArchName",
    "clock_rate",
    "memory_clock_rate",
    "memory_bus_width",
    "L2_cache_size",
)
REPETITIONS = 5
# In bytes: the digest of extendable output without a default length, and the longest message that an oracle
# in plain Python can hash in reasonable time.
LENGTH = 32
ORACLE_BYTES = 1 << 16
# The layout for which rates were counted.
LONG_ROW = 65536
ROWS = f"rows of {LONG_ROW} bytes"


class WrongDigest(Exception):
    """A timed call gave a digest that differs from a CPU library's or oracle's, or from the same call
    before."""


@dataclass
class Verdict:
    """The outcome of the test run."""

    passed: int = 0
    failed: int = 0
    absent: int = 0
    note: str = ""

    @property
    def green(self) -> bool:
        return self.passed > 0 and self.failed == 0 and not self.note


@dataclass
class Measurement:
    """One algorithm on one layout. Rates are decimal GB/s of message bytes.

    ``rate`` excludes the host: the call was queued behind other work, so that the host had finished its part
    before the device began. ``call_rate`` is the rate for a caller who waits for a call on an idle device.
    """

    algorithm: str
    layout: str
    gigabytes: float = 0.0
    rate: float | None = None
    rate_lowest: float | None = None
    rate_highest: float | None = None
    call_rate: float | None = None
    percent_of_read: float | None = None
    counted: int | None = None
    """The rate that ``bench/results/roofline.json`` has for this device, which it cannot exceed."""
    counted_limit: str = ""
    first_call_seconds: float | None = None
    host_microseconds: float | None = None
    peak_scratch_bytes: int | None = None
    compiled: list[dict[str, Any]] = field(default_factory=list)
    """The kernels that the first call compiled, with registers and spills for each thread."""
    checked: str = ""
    not_run: str = ""
    failed: str = ""
    """What the call raised, or that its digests were wrong. There is no rate then."""


@dataclass
class DeviceReport:
    """The whole report, as it is written to JSON."""

    environment: dict[str, Any]
    tests: Verdict
    places: list[Confirmation] = field(default_factory=list)
    """Whether the matrix instructions place their operands where the emulators place them."""
    bandwidth: dict[str, float] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    sweep: list[dict[str, Any]] = field(default_factory=list)
    wrong_digests: int = 0
    finished: bool = False

    @property
    def figures_count(self) -> bool:
        return self.tests.green and self.wrong_digests == 0 and not self.misplaced

    @property
    def misplaced(self) -> list[Confirmation]:
        return [found for found in self.places if found.wrong]

    @property
    def good(self) -> bool:
        return self.figures_count and not any(
            [*(m.failed for m in self.measurements), *(found.failed for found in self.places)]
        )

    @property
    def best(self) -> dict[str, dict[str, Any]]:
        """The fastest configuration of the sweep for each algorithm."""
        found: dict[str, dict[str, Any]] = {}
        for entry in sorted((s for s in self.sweep if "rate" in s), key=lambda s: float(s["rate"])):
            found[entry["algorithm"]] = entry
        return found

    @property
    def headline(self) -> str:
        tests = self.tests
        if self.wrong_digests:
            return f"RED, so no figure counts: {self.wrong_digests} timed calls gave wrong digests"
        if self.misplaced:
            wrong = "; ".join(found.name for found in self.misplaced)
            return f"RED, so no figure counts: matrix products are wrong: {wrong}"
        if tests.green:
            absent = f", {tests.absent} absent" if tests.absent else ""
            return f"GREEN: {tests.passed} bit-exactness tests passed on this device{absent}"
        counts = f"{tests.passed} passed, {tests.failed} failed, {tests.absent} absent"
        return f"RED, so no figure counts: {counts}{'; ' if tests.note else ''}{tests.note}"


class Clock:
    """The time budget."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return self.end - time.monotonic()


@dataclass(frozen=True)
class Timing:
    """Seconds between device events around a call, until the call returned, and until the device had
    finished."""

    device: float
    host: float
    whole: float


class Device:
    """Timing and memory of one torch device; on the CPU, wall-clock time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.module: Any = None if device.type == "cpu" else torch.get_device_module(device)

    def synchronize(self) -> None:
        if self.module is not None:
            self.module.synchronize(self.device)

    def time(self, call: Callable[[], object], before: Callable[[], object] | None = None) -> Timing:
        """Time ``call`` on an idle device, or after the work that ``before`` queues."""
        self.synchronize()
        if self.module is None:
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
            return Timing(seconds, seconds, seconds)
        first, last = (self.module.Event(enable_timing=True) for _ in range(2))
        if before is not None:
            before()
        start = time.perf_counter()
        first.record()
        call()
        last.record()
        host = time.perf_counter() - start
        self.synchronize()
        return Timing(first.elapsed_time(last) / 1e3, host, time.perf_counter() - start)

    def free_memory(self) -> int | None:
        """Bytes that can be allocated, or all memory if torch does not report what is free."""
        if self.module is None:
            return None
        if hasattr(self.module, "mem_get_info"):
            with contextlib.suppress(RuntimeError):  # some drivers do not report it
                return int(self.module.mem_get_info(self.device)[0])
        return int(self.module.get_device_properties(self.device).total_memory)

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
    """The backend that was asked for, or the first available one of an accelerator."""
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
    raise SystemExit(
        f"device_report: there is no accelerator here ({reasons}); name a backend to try out this program"
    )


def environment(status: BackendStatus, device: Device) -> dict[str, Any]:
    import numpy
    import triton

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
    found: dict[str, Any] = {
        "backend": status.name,
        "device": device_name(status, device),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "integrity_triton": it.__version__,
        "commit": commit or NOT_KNOWN,
        "uncommitted changes": NOT_KNOWN if changes is None else bool(changes),
        "driver": driver_version(device),
    }
    if device.module is not None:
        properties = device.module.get_device_properties(device.device)
        for name in PROPERTIES:
            if isinstance(getattr(properties, name, None), (int, str)):
                found[name] = getattr(properties, name)
    return found


def device_name(status: BackendStatus, device: Device) -> str:
    if isinstance(get_backend(status.name), EmulatedBackend):
        return status.devices[0]
    if device.module is None:
        return f"{status.name} on {platform.processor() or platform.machine()}"
    return str(device.module.get_device_name(device.device))


def git(*arguments: str) -> str | None:
    """What git prints, or None if it fails: there is no git or no repository, or it has another owner."""
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def driver_version(device: Device) -> str:
    if device.module is None:
        return NOT_KNOWN
    version = getattr(device.module.get_device_properties(device.device), "driver_version", None)
    if version:
        return str(version)
    if device.device.type == "cuda" and torch.version.cuda is not None:
        with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
            command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
            return result.stdout.strip().splitlines()[0]
    return NOT_KNOWN


def confirm_places(backend: str, device: Device, *, quick: bool) -> list[Confirmation]:
    """Matrix products on the device, or in the emulator. The list is empty for a backend that does not launch
    what Triton compiles."""
    instance = get_backend(backend)
    products = device_layouts.PRODUCTS[-2:] if quick else device_layouts.PRODUCTS
    context: contextlib.AbstractContextManager[Any]
    if isinstance(instance, JitBackend):
        context = contextlib.nullcontext()
    elif isinstance(instance, EmulatedBackend):
        context = it.emulated(backend)
    else:
        return []
    found = []
    with context:
        for one in device_layouts.confirm(device.device, products):
            found.append(one)
            print(f"matrix product {one.name}: {outcome(one)}", flush=True)
    return found


def outcome(found: Confirmation) -> str:
    """What came of a product, in words."""
    if found.wrong is None:
        return f"failed: {found.failed}"
    return "as expected" if found.good else f"WRONG in {found.wrong} places"


def run_tests(backend: str, seconds: float, chosen: str | None = None) -> Verdict:
    """Run the device tests of this repository on ``backend``, in a separate process. ``chosen`` is an
    expression for pytest's ``-k``; figures do not count after a choice of tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tests.xml")
        command = [sys.executable, "-m", "pytest", "tests", "-q", "-p", "no:cacheprovider"]
        command += ["-m", "device and not exhaustive", "--backend", backend, f"--junit-xml={path}"]
        command += ["-k", chosen] if chosen else []
        print("$", " ".join(command), flush=True)
        try:
            status = subprocess.run(command, cwd=ROOT, timeout=seconds, check=False).returncode
        except subprocess.TimeoutExpired:
            return Verdict(note=f"the tests did not end within {seconds:.0f} s")
        verdict = read_verdict(path)
        if status != 0 and verdict.green:
            verdict.note = f"pytest ended with status {status}"
        if chosen and verdict.green:
            verdict.note = f"only the tests of -k {chosen!r} ran"
        return verdict


def read_verdict(path: Path) -> Verdict:
    """The counts in a JUnit file. A run that is not complete and green has failures or a note."""
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
class Arrangement:
    """A way in which messages lie in memory. ``cut`` makes them from a buffer of random bytes and is not
    timed."""

    name: str
    cut: Callable[[torch.Tensor], Any]
    hash: Callable[..., torch.Tensor]
    """``hash(messages, algorithm, backend=..., **parameters)``"""
    first: Callable[[Any], torch.Tensor]
    needs_tree: bool = False
    most_bytes: int | None = None

    def cuts(self, buffers: Sequence[torch.Tensor]) -> list[Any]:
        """Messages of this layout that share no bytes, so that no cache holds the bytes that are hashed
        next."""
        pieces: list[torch.Tensor] = []
        for buffer in buffers:
            step = min(self.most_bytes or buffer.numel(), buffer.numel())
            # A short piece at the end would measure something else.
            pieces += [buffer[i : i + step] for i in range(0, buffer.numel() - step + 1, max(1, step))]
        return [self.cut(piece) for piece in pieces[:REPETITIONS]]


def size_of(messages: Any) -> int:
    """The number of bytes in messages that ``Arrangement.cut`` made."""
    if isinstance(messages, torch.Tensor):
        return messages.numel()
    return sum(view.numel() for view in messages)


def _rows(size: int, most_bytes: int | None = None) -> Arrangement:
    def cut(data: torch.Tensor) -> torch.Tensor:
        return data[: data.numel() // size * size].view(-1, size)

    return Arrangement(
        f"rows of {size} bytes", cut, it.hash_batch, lambda rows: rows[0], most_bytes=most_bytes
    )


def _chunks(size: int) -> Arrangement:
    hash_chunks = functools.partial(it.hash_chunks, chunk_size=size)
    return Arrangement(f"chunks of {size} bytes", lambda data: data, hash_chunks, lambda data: data[:size])


def _one_message() -> Arrangement:
    return Arrangement(
        "one message", lambda data: [data], it.hash_batch, lambda messages: messages[0], needs_tree=True
    )


def _ragged(smallest: int, largest: int, *, needs_tree: bool, most_bytes: int | None = None) -> Arrangement:
    def cut(data: torch.Tensor) -> list[torch.Tensor]:
        views: list[torch.Tensor] = []
        offset, ratio = 0, largest / smallest
        while offset < data.numel():
            # Log-uniform, by the golden ratio's low-discrepancy sequence; aligned as tensors are.
            size = int(smallest * ratio ** (len(views) * 0.6180339887498949 % 1)) // 16 * 16
            views.append(data[offset : offset + size])
            offset += size
        return views

    return Arrangement(
        f"tensors of {smallest} to {largest} bytes",
        cut,
        it.hash_batch,
        lambda views: views[0],
        needs_tree=needs_tree,
        most_bytes=most_bytes,
    )


def layouts(quick: bool) -> list[Arrangement]:
    if quick:
        return [_rows(64), _chunks(128), _one_message(), _ragged(16, 200, needs_tree=False)]
    return [
        _rows(LONG_ROW),
        _chunks(1024),
        _one_message(),
        _ragged(4096, 64 << 20, needs_tree=True),
        _ragged(1024, 65536, needs_tree=False, most_bytes=256 << 20),
        _rows(64, most_bytes=1 << 30),
    ]


def bandwidth(device: Device, size: int) -> dict[str, float]:
    """GB/s of a device-to-device copy, and of a pass that only reads, which no hash can exceed."""
    source, target = device.random(size), torch.empty(size, dtype=torch.uint8, device=device.device)
    words = source[: size // 8 * 8].view(torch.int64)
    copy: list[float] = []
    read: list[float] = []
    for _ in range(REPETITIONS + 2):
        copy.append(device.time(lambda: target.copy_(source)).device)
        read.append(device.time(words.sum).device)
    seconds = statistics.median(copy[2:])
    return {
        "copy_read_plus_write": 2 * size / seconds / 1e9,
        "copy_read": size / seconds / 1e9,
        "read": max(size / seconds, size / statistics.median(read[2:])) / 1e9,
        "bytes": size,
    }


def occupy(data: torch.Tensor, seconds: float, read_rate: float) -> None:
    """Queue about ``seconds`` of other work on the device: passes that read ``data``."""
    words = data[: data.numel() // 8 * 8].view(torch.int64)
    for _ in range(math.ceil(seconds * read_rate * 1e9 / max(1, data.numel()))):
        words.sum()


def parameters_of(record: Algorithm) -> dict[str, Any]:
    """The arguments that the algorithm requires: a key of the smallest size, a length."""
    return {**record.trial_parameters(), **({} if record.digest_size else {"length": LENGTH})}


def not_timed(record: Algorithm, backend: str) -> str | None:
    """Why an algorithm has no figures on ``backend``, or None."""
    if record.takes_tuples:
        return "its messages are tuples, and its kernels the sponge's"
    return get_backend(backend).unsupported(record)


def measure(
    record: Algorithm,
    layout: Arrangement,
    buffers: Sequence[torch.Tensor],
    device: Device,
    backend: str,
    read_rate: float,
) -> Measurement:
    """Time one algorithm on one layout. Raises WrongDigest, or what the call raises."""
    cuts = layout.cuts(buffers)
    size = size_of(cuts[0])
    result = Measurement(record.name, layout.name, size / 1e9)
    if size == 0:
        result.not_run = "too little data for one message"
        return result
    parameters = parameters_of(record)
    digests = torch.empty(0)

    def hash_cut(i: int) -> None:
        nonlocal digests
        digests = layout.hash(cuts[i % len(cuts)], record.name, backend=backend, **parameters)

    reference = functools.cache(lambda turn: expected_digest(record, layout.first(cuts[turn]), parameters))

    start = time.perf_counter()
    with compiling(backend) as result.compiled:
        hash_cut(0)
        device.synchronize()
    result.first_call_seconds = time.perf_counter() - start
    compared = digests
    _, result.checked = reference(0)

    def verify(i: int) -> None:
        turn = i % len(cuts)
        # An oracle in plain Python would use up the time, so it checks only the first message.
        expected, _ = reference(turn) if turn == 0 or "CPU library" in result.checked else (None, "")
        if expected is not None and digests[0].cpu().numpy().tobytes() != expected:
            raise WrongDigest(f"a timed call's digest is not {result.checked}")
        # The check above covers one message; the others must at least give the same digests again.
        if turn == 0 and not torch.equal(digests, compared):
            raise WrongDigest("the same messages gave other digests")

    verify(0)
    before = device.reset_peak()
    lone: list[Timing] = []
    queued: list[Timing] = []
    for i in range(1, REPETITIONS + 1):
        lone.append(device.time(functools.partial(hash_cut, i)))
        if i == 1:
            peak = device.peak()  # the checks use memory, too
            result.peak_scratch_bytes = None if peak is None else peak - before
        verify(i)
        if device.module is None:
            queued.append(lone[-1])
        else:
            # Twice the time that the host needs, so that the device never waits for the host.
            fill = functools.partial(occupy, buffers[0], 2 * lone[-1].host, read_rate)
            queued.append(device.time(functools.partial(hash_cut, i), fill))
            verify(i)
    seconds = [t.device for t in queued]
    result.rate = size / statistics.median(seconds) / 1e9
    result.rate_lowest, result.rate_highest = size / max(seconds) / 1e9, size / min(seconds) / 1e9
    result.call_rate = size / statistics.median([t.whole for t in lone]) / 1e9
    result.percent_of_read = 100 * result.rate / read_rate
    result.host_microseconds = 1e6 * statistics.median([t.host for t in lone])
    return result


def expected_digest(
    record: Algorithm, message: torch.Tensor, parameters: Mapping[str, Any]
) -> tuple[bytes | None, str]:
    """The digest from a CPU library or, if there is none, from the tests' oracle; and a note that says what
    the digest was compared with, or why it was not."""
    length = [parameters["length"]] if "length" in parameters else [record.digest_size] * record.xof
    given = {name: value for name, value in parameters.items() if name != "length"}
    data = message.cpu().numpy()
    missing = get_backend("native").unsupported(record)
    if missing is None:
        digest = it.new(record.name, data, backend="native", **given).digest(*length)
        return digest, "equal to the CPU library"
    if record.native is not None:
        return None, f"not checked here: {missing}"
    if data.size > ORACLE_BYTES:
        return None, "not checked here: too long for the tests' oracle"
    if str(ROOT / "tests") not in sys.path:
        sys.path.append(str(ROOT / "tests"))
    try:
        oracle = load_reference(record.oracle)
    except (ImportError, AttributeError) as error:
        return None, f"not checked here: {error}"
    return bytes(oracle(data.tobytes(), **given).digest(*length)), "equal to the tests' oracle"


@functools.cache
def counted_rates() -> dict[str, Any]:
    """The counted rates by kernel family and device, in the order of the file."""
    text = (ROOT / "bench" / "results" / "roofline.json").read_text("utf-8")
    return {name: entry["rates"] for name, entry in json.loads(text)["families"].items()}


def counted_rate(algorithm: str, device: str) -> tuple[int, str] | None:
    """The GB/s over long rows that an algorithm's kernel cannot exceed on a device by its count of
    instructions, and what limits them."""
    rates = counted_rates().get("poly1305_rows" if algorithm == "poly1305" else algorithm, {})
    for name, rate in rates.items():
        if re.search(rf"\b{re.escape(name)}\b", device):
            return rate["GB/s"], rate["limit"]
    return None


@contextlib.contextmanager
def compiling(name: str) -> Iterator[list[dict[str, Any]]]:
    """A context whose list finally holds what was compiled meanwhile: kernel, registers, spills."""
    found: list[dict[str, Any]] = []
    backend = get_backend(name)
    if not isinstance(backend, TritonBackend):
        yield found
        return
    launched: dict[str, set[int]] = {}
    unwatched = backend.launch

    def watched(launch: Launch, options: Mapping[str, int]) -> None:
        if launch.kernel not in launched:
            launched[launch.kernel] = {id(kernel) for kernel in built(launch.kernel)}
        unwatched(launch, options)

    backend.launch = watched  # type: ignore[method-assign]
    try:
        yield found
    finally:
        backend.launch = unwatched  # type: ignore[method-assign]
    for reference, known in launched.items():
        for kernel in built(reference):
            registers, spills = getattr(kernel, "n_regs", None), getattr(kernel, "n_spills", None)
            if id(kernel) not in known and registers is not None:
                name = reference.partition(":")[2]
                found.append({"kernel": name, "registers": registers, "spills": spills})


def built(reference: str) -> Iterable[Any]:
    """Everything that Triton has compiled of a kernel in this process. Triton has no public interface for
    this."""
    caches = getattr(load_reference(reference), "device_caches", {})
    return [kernel for cache in caches.values() for kernel in cache[0].values()]


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


def sweep(
    data: torch.Tensor, device: Device, name: str, clock: Clock, *, quick: bool
) -> Iterator[dict[str, Any]]:
    """Every algorithm's rate over rows of 64 KiB or one message, for several tile configurations.

    A configuration has a rate only if its digests are those of the shipped one.
    """
    backend = get_backend(name)
    assert isinstance(backend, TritonBackend)
    for record in algorithms.all_algorithms():
        if not_timed(record, name) is not None:
            continue
        layout = _one_message() if record.parallel else _rows(64 if quick else 65536)
        messages = layout.cut(data)
        parameters = parameters_of(record)
        expected: torch.Tensor | None = None
        for lanes, warps, vector in TILES:
            changes = {"BLOCK_MSGS": lanes, "num_warps": warps, "VECTOR": vector}
            entry: dict[str, Any] = {"algorithm": record.name, "layout": layout.name, **changes}
            if size_of(messages) == 0:
                entry["not_run"] = "too little data for one message"
            elif clock.left() < 30:
                entry["not_run"] = "out of time"
            else:
                call = functools.partial(layout.hash, messages, record.name, backend=name, **parameters)
                try:
                    expected = call() if expected is None else expected
                    with configured(backend, changes), compiling(name) as entry["compiled"]:
                        if not torch.equal(call(), expected):
                            raise WrongDigest("not the shipped configuration's digests")
                        seconds = [device.time(call).device for _ in range(3)]
                    entry["rate"] = size_of(messages) / statistics.median(seconds) / 1e9
                except Exception as error:  # a configuration that does not build must not hide the others
                    entry["not_run"] = brief(error)
            yield entry


def brief(error: Exception) -> str:
    """An error as one line, short enough for a table."""
    return f"{type(error).__name__}: {error}".replace("|", "/").split("\n")[0][:200]


def markdown(report: DeviceReport) -> str:
    """The report as a page."""
    facts = report.environment
    lines = [f"# {report.headline} ({facts['device']}, {facts['date'][:10]})", ""]
    if not report.finished:
        lines += ["This run did not finish.", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    if report.places:
        lines += ["", "| matrix product | instructions | outcome |", "| --- | --- | --- |"]
        lines += [
            f"| {found.name} | {', '.join(found.instructions) or NOT_KNOWN} | {outcome(found)} |"
            for found in report.places
        ]
    if report.bandwidth:
        lines += ["", "Bandwidth, decimal GB/s: "]
        lines[-1] += ", ".join(
            f"{name} {value:.0f}" for name, value in report.bandwidth.items() if name != "bytes"
        )
    if report.measurements:
        lines += [
            "",
            "| algorithm | layout | GB/s | lowest to highest | % of read | counted, at most "
            "| GB/s, lone call | first call s | host µs | registers/spills | check |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
        ]
    for m in report.measurements:
        if m.rate is None:
            why = f"failed: {m.failed}" if m.failed else f"not run: {m.not_run}"
            lines.append(f"| {m.algorithm} | {m.layout} | {why} {'| ' * 9}|")
        else:
            cells = [
                m.algorithm,
                m.layout,
                f"{m.rate:.4g}",
                f"{m.rate_lowest:.4g} to {m.rate_highest:.4g}",
                f"{m.percent_of_read:.3g}",
                "" if m.counted is None else f"{m.counted} ({m.counted_limit})",
                f"{m.call_rate:.4g}",
                f"{m.first_call_seconds:.1f}",
                f"{m.host_microseconds:.0f}",
                ", ".join(f"{c['kernel']} {c['registers']}/{c['spills']}" for c in m.compiled),
                m.checked,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    if report.sweep:
        lines += [""] if report.best else []
        for name, s in report.best.items():
            options = ", ".join(f"{option} {s[option]}" for option in ("BLOCK_MSGS", "num_warps", "VECTOR"))
            lines.append(f"- fastest for {name}: {options} ({s['rate']:.4g} GB/s)")
        lines += ["", "| algorithm | layout | BLOCK_MSGS | num_warps | VECTOR | GB/s |", "| --- " * 6 + "|"]
        for s in sorted(report.sweep, key=lambda s: (s["algorithm"], -s.get("rate", 0))):
            rate = f"{s['rate']:.4g}" if "rate" in s else f"not run: {s['not_run']}"
            cells = [str(s[name]) for name in ("algorithm", "layout", "BLOCK_MSGS", "num_warps", "VECTOR")]
            lines.append(f"| {' | '.join(cells)} | {rate} |")
    return "\n".join(lines) + "\n"


def write(report: DeviceReport, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", report.environment["device"].lower()).strip("-")
    path = folder / f"{slug}-{report.environment['date'][:10]}.json"
    judged = {"headline": report.headline, "figures_count": report.figures_count, "best": report.best}
    path.write_text(json.dumps({**judged, **asdict(report)}, indent=2) + "\n", "utf-8")
    path.with_suffix(".md").write_text(markdown(report), "utf-8")
    return path


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.device_report", description=__doc__.split("\n")[0])
    parser.add_argument("--backend", help="default: that of the first available accelerator")
    parser.add_argument(
        "--device", help="a torch device of that backend, such as cuda:1; default: the current"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--budget", type=float, default=450, help="seconds, all in all (default 450)")
    parser.add_argument("--gib", type=float, default=4, help="GiB of data for each timing (default 4)")
    parser.add_argument("--quick", action="store_true", help="a few KiB: tries the machinery")
    parser.add_argument(
        "--tests", metavar="EXPRESSION", help="run only these tests (pytest's -k); figures then do not count"
    )
    parser.add_argument("--no-tests", action="store_true", help="figures then do not count")
    parser.add_argument("--sweep", action="store_true", help="time other tile configurations too")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Return 0 if all tests passed and everything was measured that time allowed, and 1 otherwise."""
    options = arguments(argv)
    clock = Clock(options.budget)
    status = choose(options.backend)
    if options.sweep and not isinstance(get_backend(status.name), TritonBackend):
        raise SystemExit(f"device_report: --sweep: backend {status.name!r} has no tiles to configure")
    device = Device(device_of(status.name, options.device))
    report = DeviceReport(environment(status, device), Verdict(note="the tests were not run"))
    report.places = confirm_places(status.name, device, quick=options.quick)
    write(report, options.out)
    if not options.no_tests:
        report.tests = run_tests(status.name, clock.left() * TEST_SHARE, options.tests)
        write(report, options.out)
    if report.tests.green or options.no_tests or (options.tests and not report.tests.failed):
        time_everything(report, options, device, status.name, clock)
    report.finished = True
    path = write(report, options.out)
    print()
    print(markdown(report))
    print(f"written to {os.path.relpath(path)} and .md")
    return 0 if report.good else 1


def time_everything(
    report: DeviceReport, options: argparse.Namespace, device: Device, backend: str, clock: Clock
) -> None:
    """Fill the report, and write it after each step, so that an interruption loses only the step it falls
    into."""
    size = 1000 if options.quick else int(options.gib * (1 << 30))
    free = device.free_memory()
    if free is not None:
        size = min(size, free // 3)  # two buffers, and room for digests and scratch
    report.bandwidth = bandwidth(device, size)
    buffers = [device.random(size) for _ in range(1 if options.quick else 2)]
    for layout in layouts(options.quick):
        for record in algorithms.all_algorithms():
            if layout.needs_tree and not record.parallel:
                continue
            done = Measurement(record.name, layout.name)
            reason = not_timed(record, backend)
            if reason is not None:
                done.not_run = reason
            elif clock.left() < 20:
                done.not_run = "out of time"
            else:
                try:
                    done = measure(record, layout, buffers, device, backend, report.bandwidth["read"])
                    if layout.name == ROWS:
                        rate = counted_rate(record.name, report.environment["device"])
                        done.counted, done.counted_limit = rate or (None, "")
                except Exception as error:  # a failure is a result and must not hide the others
                    report.wrong_digests += isinstance(error, WrongDigest)
                    done.failed = brief(error)
            report.measurements.append(done)
            write(report, options.out)
            shown = f"{done.rate:.4g} GB/s" if done.rate is not None else done.failed or done.not_run
            print(f"{record.name}, {layout.name}: {shown}", flush=True)
    if options.sweep:
        for entry in sweep(buffers[0], device, backend, clock, quick=options.quick):
            report.sweep.append(entry)
            write(report, options.out)


def device_of(backend: str, name: str | None) -> torch.device:
    """The device that was asked for, made current, or else the backend's current device."""
    instance = get_backend(backend)
    own = instance.device_for(None) if isinstance(instance, TritonBackend) else torch.device("cpu")
    if name is None:
        return own
    try:
        device = torch.device(name)
        if device.type != own.type:
            raise ValueError(f"backend {backend!r} runs on {own.type}")
        if own.type == "cpu":
            return own
        device = torch.device(device.type, own.index if device.index is None else device.index)
        torch.get_device_module(device).set_device(device)
    except (RuntimeError, ValueError) as error:
        raise SystemExit(f"device_report: device {name!r}: {brief(error)}") from None
    return device


if __name__ == "__main__":
    sys.exit(main())
