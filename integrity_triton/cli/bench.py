"""The command ``bench`` measures how fast this machine hashes, and says which backend the package chooses."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import click

from ..errors import BackendUnavailable, SelfTestError
from . import interrupts
from .options import Seconds, json_option
from .outcome import INTERRUPTED, MISMATCH, OK, TROUBLE, describe
from .terminal import Output

if TYPE_CHECKING:
    import torch

    from ..algorithms import Algorithm
    from ..backends.registry import BackendStatus

_SIZE = 65536
_CPU_MESSAGES, _DEVICE_MESSAGES = 1024, 16384  # a GPU needs many messages to be busy
_TEST_SIZE, _TEST_MESSAGES = 64, 16  # backends for tests take up to a tenth of a second for 64 bytes
_FIRST_MESSAGES, _GROWTH = 16, 8
_LEAST_SECONDS, _MOST_SECONDS = 0.05, 1.0  # for the timed calls of one measurement
_MOST_CALLS = 25
_LENGTH = 32  # bytes of extendable output without a default length
_RANDOM = 1048583  # a prime number of random bytes: messages of any other length begin at different ones
_TIME_OVER = "the time was over; a larger --seconds measures it"


@dataclass(frozen=True)
class _Rate:
    """What was measured with one algorithm on one backend."""

    bytes_per_second: float
    messages: int
    """The number of messages in a call. It is lower than elsewhere if the whole batch would take too long."""
    calls: int
    """The number of timed calls. The rate is that of their median."""


@dataclass
class _Row:
    """The results for one algorithm over data in one place."""

    algorithm: str
    chosen: str | None
    """The backend that a call gets which names none."""
    reason: str
    measured: dict[str, _Rate] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Why a backend has no rate."""
    wrong: str | None = None
    """Which digests differ, or which self-test failed. There are no rates then."""

    @property
    def fastest(self) -> str | None:
        """The backend with the highest rate; None unless several have hashed as many messages in a call."""
        if len(self.measured) < 2 or len({rate.messages for rate in self.measured.values()}) > 1:
            return None
        return max(self.measured, key=lambda name: self.measured[name].bytes_per_second)


@dataclass
class _Place:
    """A kind of data, and the backends that read it where it is."""

    data: str
    """torch's name of the type of device that holds the data."""
    backends: list[str]
    size: int
    count: int
    rows: list[_Row] = field(default_factory=list)

    @property
    def described(self) -> str:
        where = "the CPU" if self.data == "cpu" else self.data
        return f"Data on {where}: {_messages(self.count, self.size)}"

    def column(self, name: str) -> int:
        """The width of the column of a backend."""
        return max(8, len(name) + 1)


class _Data:
    """The messages of a place, which get their bytes when they are first used: making those that the time
    does not allow to hash could take many times as long as all measurements."""

    def __init__(self, place: _Place) -> None:
        import torch

        self.size, self.count = place.size, place.count
        self._bytes = torch.empty(place.size * place.count, dtype=torch.uint8, device=place.data)
        least = min(_RANDOM, len(self._bytes))
        self._random = torch.randint(0, 256, (least,), dtype=torch.uint8, device=place.data)
        self._made = 0

    def first(self, count: int) -> torch.Tensor:
        """So many messages: uint8 ``[count, size]``. They repeat the same random bytes."""
        end = count * self.size
        while self._made < end:
            start = self._made % len(self._random)
            part = self._random[start : start + end - self._made]
            self._bytes[self._made : self._made + len(part)] = part
            self._made += len(part)
        return self._bytes[:end].view(count, self.size)

    def whole(self) -> torch.Tensor:
        """All messages, of which some may have no bytes yet."""
        return self._bytes.view(self.count, self.size)


class _Times:
    """Divides the time among the measurements."""

    def __init__(self, seconds: float, places: Sequence[_Place], records: int) -> None:
        self._deadline = time.monotonic() + seconds
        self._left = {name: records for place in places for name in place.backends}
        self._first: dict[str, list[float]] = {name: [] for name in self._left}

    def share(self, backend: str) -> float | None:
        """The seconds for the timed calls of the next measurement; None if the time is over.

        What first calls take, in which kernels are compiled and tested, is expected of those that are left,
        so that the last measurements get as much time as the first ones.
        """
        now = time.monotonic()
        first = sum(self._left[name] * statistics.fmean(took) for name, took in self._first.items() if took)
        share = (self._deadline - now - first) / sum(self._left.values())
        self._left[backend] -= 1
        return None if now >= self._deadline else min(_MOST_SECONDS, max(_LEAST_SECONDS, share))

    def took(self, backend: str, seconds: float, share: float) -> None:
        """Note that a measurement with this share took so many seconds."""
        self._first[backend].append(max(0.0, seconds - share))


@click.command()
@click.argument("names", metavar="[ALGORITHM]...", nargs=-1)
@click.option(
    "--backend", "backends", metavar="NAME", multiple=True, help="Measure only this backend. Repeatable."
)
@click.option(
    "--size",
    type=click.IntRange(1),
    metavar="BYTES",
    help=f"Length of each message.  [default: {_SIZE}]",
)
@click.option(
    "--count",
    type=click.IntRange(1),
    metavar="N",
    help=f"Number of messages.  [default: {_CPU_MESSAGES}, or {_DEVICE_MESSAGES} on a GPU]",
)
@click.option(
    "--seconds",
    type=Seconds(),
    default=60.0,
    show_default=True,
    help="Begin no measurement after this time.",
)
@json_option
def bench(
    names: tuple[str, ...],
    backends: tuple[str, ...],
    size: int | None,
    count: int | None,
    seconds: float,
    as_json: bool,
) -> int:
    """Measure how fast this machine hashes, for all algorithms or for those that are named.

    The rates are of random messages that lie in memory, in GB/s (10^9 bytes per second). The table names the
    backend that a call gets if it asks for none, and says why. The digests of all backends are compared. The
    exit status is 1 if they differ, and 2 if nothing could be measured.
    """
    from ..backends.registry import statuses
    from ..conformance.environment import describe as environment

    output = Output(as_json=as_json)
    records = list(_records(names))
    known = {status.name: status for status in statuses()}
    usable = list(_usable(known, backends))
    places = list(_places(usable, size, count))
    left_out = {
        name: reason
        for name in known
        if name not in usable and (reason := _left_out(known[name], backends)) is not None
    }
    width = max(12, *(len(name) + 2 for name in usable))
    for name in usable:
        output.hanging(f"{name:<{width}}", "; ".join((*known[name].devices, known[name].reason)))
    interrupted = False
    try:
        _measure(output, places, records, _Times(seconds, places, len(records)))
    except KeyboardInterrupt:
        interrupts.accept()
        interrupted = True
        output.complain("interrupted: these are the results until then")
    wrong = [row for place in places for row in place.rows if row.wrong is not None]
    for row in wrong:
        output.complain(f"{row.algorithm}: {row.wrong}")
    output.line("")
    for line in _summary(places):
        output.hanging(*line)
    for name, reason in left_out.items():
        output.hanging(f"{name}: ", reason)
    error = "interrupted" if interrupted else None
    if not (interrupted or wrong or any(row.measured for place in places for row in place.rows)):
        error = "nothing was measured"
        output.complain(error)
    output.document(
        ok=not (error or wrong),
        **({"error": error} if error else {}),
        environment=environment(),
        places=[asdict(place) for place in places],
        absent=left_out,
    )
    return INTERRUPTED if interrupted else MISMATCH if wrong else TROUBLE if error else OK


def _records(names: Sequence[str]) -> Iterator[Algorithm]:
    """The algorithms that are named, or those that differ in speed, the secure ones first."""
    from .. import algorithms
    from ..algorithms.description import listed

    asked = [algorithms.get(name) for name in names]
    for record in {record.name: record for record in asked}.values():  # aliases name the same record
        if record.takes_tuples:
            raise ValueError(f"{record.name} hashes tuples of messages, which this command does not measure")
        yield record
    if not names:
        for record in sorted(algorithms.all_algorithms(), key=listed):
            if not record.takes_tuples and record.construction.hmac_of is None:
                yield record


def _usable(known: dict[str, BackendStatus], asked: Sequence[str]) -> Iterator[str]:
    """The backends to measure. Raises the registry's error for one that is named and not there."""
    from ..backends.registry import get

    for name in dict.fromkeys(asked):
        get(name)
        yield name
    if not asked:
        for name, status in known.items():
            if status.available and not get(name).for_tests:
                yield name


def _left_out(status: BackendStatus, asked: Sequence[str]) -> str | None:
    """Why a backend is not measured, or None if the caller asked for others."""
    if not status.available:
        return f"absent: {status.reason}"
    return None if asked else f"not measured, since it is for tests: --backend {status.name}"


def _places(usable: Sequence[str], size: int | None, count: int | None) -> Iterator[_Place]:
    """Where data lies that the backends read without a copy, with the shape of the batch."""
    from ..backends.registry import get

    found: dict[str, list[str]] = {}
    for name in usable:
        found.setdefault((get(name).device_types or ("cpu",))[0], []).append(name)
    for data, backends in found.items():
        if any(get(name).for_tests for name in backends):
            shape = _TEST_SIZE, _TEST_MESSAGES
        else:
            shape = _SIZE, _CPU_MESSAGES if data == "cpu" else _DEVICE_MESSAGES
        place = _Place(data, backends, size or shape[0], count or shape[1])
        _check_memory(place)
        yield place


def _check_memory(place: _Place) -> None:
    total, there = place.size * place.count, _memory(place.data)
    if there is not None and total > there // 2:
        raise ValueError(
            f"{_bytes(total)} ({_messages(place.count, place.size)}) are more than half of the memory for "
            f"{place.data} data ({_bytes(there)}): choose a smaller --count or --size"
        )


def _memory(data: str) -> int | None:
    """The size of the memory that holds a type of data; None where the system does not tell."""
    try:
        if data == "cpu":
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        import torch

        size: int = torch.get_device_module(data).mem_get_info()[1]
    except (AttributeError, ValueError, OSError, RuntimeError):
        return None
    return size


def _measure(output: Output, places: Sequence[_Place], records: Sequence[Algorithm], times: _Times) -> None:
    """Measure all algorithms in all places, while there is time, and write a line for each."""
    from ..backends.registry import get
    from ..messages.layout import Rows

    width = max(len("algorithm"), *(len(record.name) for record in records))
    for place in places:
        data = _Data(place)
        columns = "".join(f"{name:>{place.column(name)}} " for name in place.backends)
        output.line("")
        output.line(f"{place.described}. Rates in GB/s; ~ is the time expected.")
        output.line(f"{'algorithm':<{width}}{columns} {'chosen':<{_chosen_width(place)}} why")
        for record in records:
            chosen, reason = _chosen(record, place.data, Rows.of(data.whole()))
            row = _Row(record.name, chosen, reason)
            digests: dict[str, torch.Tensor] = {}
            for name in place.backends:
                share = times.share(name)
                unsupported = get(name).unsupported(record)
                if unsupported is not None:
                    row.absent[name] = unsupported
                    continue
                if share is None:
                    row.absent[name] = _TIME_OVER
                    continue
                begin = time.monotonic()
                try:
                    row.measured[name], digests[name] = _rate(record, name, data, share)
                except SelfTestError as error:
                    row.wrong = describe(error)
                except (BackendUnavailable, MemoryError) as error:
                    row.absent[name] = describe(error)
                times.took(name, time.monotonic() - begin, share)
            row.wrong = row.wrong or _difference(digests)
            if row.wrong is not None:
                row.measured.clear()
            place.rows.append(row)
            _show(output, place, row, width)


def _chosen(record: Algorithm, data: str, messages: Any) -> tuple[str | None, str]:
    from ..backends.registry import explain

    try:
        backend, reason = explain(record, data, messages=messages)
    except BackendUnavailable as error:
        return None, str(error)
    return backend.name, reason


def _rate(record: Algorithm, backend: str, data: _Data, share: float) -> tuple[_Rate, torch.Tensor]:
    """The rate over as much of ``data`` as takes no longer than about ``share`` seconds, and the digests."""
    from ..batch import hash_batch

    options: dict[str, Any] = dict(record.trial_parameters())
    length = None if record.digest_size else _LENGTH

    def timed(count: int) -> tuple[float, torch.Tensor]:
        messages = data.first(count)
        begin = time.perf_counter()
        digests = hash_batch(messages, record.name, length=length, backend=backend, **options)
        digests = digests.cpu()  # waits for a device
        return time.perf_counter() - begin, digests

    count = min(_FIRST_MESSAGES, data.count)
    timed(count)  # compiles the kernels, and runs their self-tests
    taken, digests = timed(count)
    while count < data.count and taken * _GROWTH <= share:
        count = min(count * _GROWTH, data.count)
        taken, digests = timed(count)
    begin = time.monotonic()
    times: list[float] = []
    while not times or (time.monotonic() - begin < share and len(times) < _MOST_CALLS):
        times.append(timed(count)[0])
    return _Rate(count * data.size / statistics.median(times), count, len(times)), digests


def _difference(digests: dict[str, torch.Tensor]) -> str | None:
    """Which backend's digests differ from those of the first, as far as both have hashed the messages."""
    first, *others = digests or [""]
    for name in others:
        count = min(len(digests[first]), len(digests[name]))
        if not digests[first][:count].equal(digests[name][:count]):
            return f"the digests of {name} differ from those of {first}: please report this"
    return None


def _show(output: Output, place: _Place, row: _Row, width: int) -> None:
    cells = ""
    for name in place.backends:
        rate, wide = row.measured.get(name), place.column(name)
        if rate is None:
            cells += f"{'-':>{wide}} "
        else:
            cells += f"{_gigabytes(rate):>{wide}}{' ' if rate.messages == place.count else '*'}"
    why = [row.reason]
    fastest, chosen = row.fastest, row.chosen
    if fastest is not None and chosen in row.measured and fastest != chosen:
        factor = row.measured[fastest].bytes_per_second / row.measured[chosen].bytes_per_second
        why.append(f"measured: {fastest} is {factor:.2f} times as fast")
    if row.wrong is not None:
        why = [f"WRONG: {row.wrong}"]
    chosen_width = _chosen_width(place)
    output.hanging(f"{row.algorithm:<{width}}{cells} {row.chosen or 'none':<{chosen_width}} ", "; ".join(why))


def _chosen_width(place: _Place) -> int:
    return max(7, *(len(name) for name in place.backends))


def _gigabytes(rate: _Rate) -> str:
    value = rate.bytes_per_second / 1e9
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _summary(places: Sequence[_Place]) -> Iterator[tuple[str, str]]:
    """What has no rate, and how good the choices were."""
    absent: dict[tuple[str, str], list[str]] = {}
    for place in places:
        for row in place.rows:
            for name, reason in row.absent.items():
                absent.setdefault((name, reason), []).append(row.algorithm)
        if any(rate.messages < place.count for row in place.rows for rate in row.measured.values()):
            yield "* ", "measured with fewer messages, since all of them would take too long"
    for (name, reason), algorithms in absent.items():
        yield f"- {name}: ", f"{', '.join(algorithms)}: {reason}"
    for place in places:
        rows = [row for row in place.rows if row.chosen in row.measured and row.fastest is not None]
        if rows:
            right = sum(row.fastest == row.chosen for row in rows)
            yield "", f"The chosen backend was the fastest for {right} of {len(rows)} algorithms."


def _messages(count: int, size: int) -> str:
    return f"{count} message{'' if count == 1 else 's'} of {_bytes(size)}"


_UNITS = ("EiB", "PiB", "TiB", "GiB", "MiB", "KiB")


def _bytes(size: int) -> str:
    for i, unit in enumerate(_UNITS):
        scale = 1 << 10 * (len(_UNITS) - i)
        if size >= scale:
            return f"{size / scale:.4g} {unit}" if size < 1000 * scale else f"{size // scale:,} {unit}"
    return f"{size} byte{'' if size == 1 else 's'}"
