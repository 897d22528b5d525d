"""The output of the command line: one report on stdout, messages and a progress bar on stderr."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from ..output_files import moved_descriptors
from . import interrupts

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PROGRAM = "integrity-triton"

_LONG_BYTES = 256 << 20
_LONG_SECONDS = 1.0
_REFRESH_SECONDS = 0.1
_NARROWEST = 20


def printable(text: str) -> str:
    """``text`` with control characters escaped, so that a file name cannot control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def complain(message: str) -> None:
    """Write ``message`` to stderr in one line, even if it has several. The exit status tells what happened
    even if stderr cannot be written."""
    line = printable(" ".join(message.splitlines()))
    with suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.write(f"{PROGRAM}: {line}\n")
            sys.stderr.flush()


_report: IO[bytes] | None = None
"""Where the report goes while :func:`stdout_for_report` keeps everything else from stdout."""


@contextmanager
def stdout_for_report() -> Iterator[None]:
    """Send to stderr whatever libraries, plug-ins and processes print to stdout while the block runs, so that
    stdout has only what :func:`write_stdout` writes."""
    global _report
    stdout = sys.stdout
    if stdout is None or _report is not None:
        yield
        return
    stdout.flush()
    with ExitStack() as undo:
        try:
            number = stdout.fileno()
        except (OSError, ValueError):  # a program has put another object there
            _report = stdout.buffer
        else:
            _report = undo.enter_context(open(os.dup(number), "wb", buffering=0))
            undo.callback(os.dup2, _report.fileno(), number)
            errors = undo.enter_context(open(os.devnull, "wb")) if sys.stderr is None else None
            os.dup2(2 if errors is None else errors.fileno(), number)
            # "-o /dev/stdout" still means the output that the caller gave to the command.
            moved_descriptors[number] = _report.fileno()
            undo.callback(moved_descriptors.pop, number)
        sys.stdout = sys.stderr
        try:
            yield
        finally:
            sys.stdout, _report = stdout, None


def write_stdout(data: bytes) -> None:
    """Write all of ``data`` to stdout, and flush it. Raises OSError if stdout is closed."""
    stream = _report
    if stream is None:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "standard output is closed")
        stream = sys.stdout.buffer
    rest = memoryview(data)
    while rest:  # an unbuffered stream may take only a part
        written = stream.write(rest)
        if written is None:
            raise BlockingIOError(errno.EAGAIN, "standard output does not wait for its reader")
        rest = rest[written:]
    stream.flush()


def _stdout_is_terminal() -> bool:
    stream: IO[Any] | None = _report or sys.stdout
    return stream is not None and stream.isatty()


def write_document(**fields: Any) -> None:
    """Write one JSON document to stdout, in ASCII."""
    write_stdout(json.dumps(fields, indent=2).encode("ascii") + b"\n")


class Meter:
    """A progress bar on stderr. It appears only when the work turns out to be long."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # threads that hash report their progress independently
        self._began = time.monotonic()
        self._refreshed = 0.0
        self._label = ""
        self._total: int | None = None
        self._done = 0
        self._bar: tuple[Progress, TaskID] | None = None
        self._shown = False

    def begin(self, label: str, total: int | None) -> None:
        """Begin a piece of work of ``total`` bytes, or None if its size is not known."""
        with self._lock:
            self._label, self._total, self._done = printable(label), total, 0
            if self._bar is not None:
                bar, task = self._bar
                bar.reset(task, description=self._label, total=total)

    def advance(self, size: int) -> None:
        """Count ``size`` bytes as done."""
        with self._lock:
            self._done += size
            now = time.monotonic()
            long = now - self._began > _LONG_SECONDS or (self._total or 0) > _LONG_BYTES
            if not long or now - self._refreshed < _REFRESH_SECONDS:
                return
            self._refreshed = now
            if self._bar is None:
                bar = _build_bar()
                self._bar = bar, bar.add_task(self._label, total=self._total)
            bar, task = self._bar
            if not self._shown:
                self._shown = True
                bar.start()
            bar.update(task, completed=self._done, refresh=True)

    def hide(self) -> None:
        """Remove the bar from the terminal, so that something else can be written there."""
        with self._lock:
            if self._bar is not None and self._shown:
                self._shown = False
                self._bar[0].stop()


def _build_bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column

    label = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=label),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        expand=True,
        auto_refresh=False,  # only advance() draws: there is no thread, and nothing is drawn after hide()
        redirect_stdout=False,  # rich would send what is printed to the console of the bar, which is stderr
        redirect_stderr=False,
    )


class Output:
    """The report of a command: text, or one JSON document if ``as_json``.

    Everything that writes raises KeyboardInterrupt instead if an interrupt was swallowed before.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._meter: Meter | None = None

    def _hide_meter(self) -> None:
        if self._meter is not None:
            self._meter.hide()

    def write(self, data: bytes) -> None:
        """Write bytes of the text report."""
        interrupts.check()
        if not self.as_json:
            self._hide_meter()
            write_stdout(data)

    def line(self, text: str) -> None:
        """Write one line of the text report."""
        self.write(printable(text).encode("utf-8") + b"\n")

    def hanging(self, first: str, text: str) -> None:
        """Write ``text`` after ``first``. On a terminal it is wrapped, and its lines are indented equally."""
        width = 0
        if _stdout_is_terminal():
            width = shutil.get_terminal_size().columns - len(first)
        # If hardly any width is left, the wrapping of the terminal itself is easier to read.
        lines = textwrap.wrap(text, width, break_on_hyphens=False) if width >= _NARROWEST else [text]
        for line in lines or [""]:
            self.line((first + line).rstrip())
            first = " " * len(first)

    def document(self, **fields: Any) -> None:
        """Write the JSON report, once, when everything is known."""
        interrupts.check()
        if self.as_json:
            write_document(**fields)

    def complain(self, message: str) -> None:
        """Write one line to stderr, for text and JSON alike."""
        interrupts.check()
        self._hide_meter()
        complain(message)

    @contextmanager
    def meter(self) -> Iterator[Meter | None]:
        """A meter for the work of the block; None if stderr is not a terminal or the report is JSON."""
        terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        if self.as_json or not terminal:
            yield None
            return
        self._meter = Meter()
        try:
            yield self._meter
        finally:
            self._hide_meter()
            self._meter = None

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None] | None]:
        """A callback that reports progress in a piece of work of ``total`` bytes, or None."""
        with self.meter() as meter:
            if meter is not None:
                meter.begin(label, total)
            yield None if meter is None else meter.advance
