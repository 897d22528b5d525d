"""``hash --check`` checks the files that checksum lists name, and reports as sha256sum does."""

from __future__ import annotations

import hmac
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ..models.checksum_lists import Entry, ListReader, escape, tag
from ..remote_files import is_remote
from .inputs import FileHasher, open_list, stdin_of_lines, total_size
from .outcome import EXPECTED_ERRORS, MISMATCH, OK, TROUBLE, describe_at
from .terminal import Meter, Output


@dataclass
class _ListResult:
    """The results of the files of one list."""

    name: str
    error: str | None = None
    improperly_formatted: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    files: list[dict[str, str]] = field(default_factory=list)
    """Kept only for a JSON report, because a list may be long."""

    def to_dict(self) -> dict[str, Any]:
        fields = {"name": self.name, "improperly_formatted": self.improperly_formatted, "files": self.files}
        return fields if self.error is None else {**fields, "error": self.error}


@dataclass
class ListChecker:
    """Checks the files of lists, and reports as sha256sum does."""

    hasher: FileHasher
    output: Output
    ignore_missing: bool
    quiet: bool
    silent: bool
    strict: bool
    warn: bool
    remote: bool

    def run(self, lists: Sequence[str]) -> int:
        algorithm = self.hasher.algorithm
        reader = ListReader(algorithm.name, algorithm.aliases, self.hasher.length)
        reports = []
        with self.output.meter() as meter:
            for name in lists:
                with ExitStack() as opened:
                    try:
                        stream = stdin_of_lines() if name == "-" else opened.enter_context(open_list(name))
                    except OSError as error:
                        self.output.complain(describe_at(name, error))
                        reports.append(_ListResult(name, error=describe_at(name, error)))
                        continue
                    reports.append(self._check_list(name, reader.read(stream), meter))
        statuses = {self._status(report) for report in reports}
        # A digest that differs counts more than something that could not be read.
        status = MISMATCH if MISMATCH in statuses else max(statuses)
        documents = [report.to_dict() for report in reports]
        self.output.document(ok=status == OK, algorithm=algorithm.name, lists=documents)
        return status

    def _status(self, report: _ListResult) -> int:
        if report.counts["mismatch"]:
            return MISMATCH
        unreadable = report.error is not None or report.counts["unreadable"] > 0
        if unreadable or not report.counts["ok"] or (self.strict and report.improperly_formatted):
            return TROUBLE
        return OK

    def _check_list(self, list_name: str, entries: Iterator[Entry], meter: Meter | None) -> _ListResult:
        report = _ListResult(list_name)
        shown = "standard input" if list_name == "-" else list_name
        while True:
            try:
                entry = next(entries, None)
            except OSError as error:  # of the list itself; the results up to here count
                report.error = describe_at(shown, error)
                self.output.complain(report.error)
                break
            if entry is None:
                break
            if entry.name is None or (list_name == "-" and entry.name == "-"):
                report.improperly_formatted += 1
                if self.warn:
                    label = tag(self.hasher.algorithm.name)
                    self.output.complain(f"{shown}: {entry.line}: improperly formatted {label} checksum line")
            else:
                result = self._check_file(entry.name, entry.digest, meter)
                report.counts[result["result"]] += 1
                if self.output.as_json:
                    report.files.append(result)
        if not report.counts and report.error is None:
            report.error = f"{shown}: no properly formatted checksum lines found"
            self.output.complain(report.error)
        elif not self.silent:
            self._warn(report, shown)
        return report

    def _check_file(self, name: str, expected: bytes, meter: Meter | None) -> dict[str, str]:
        try:
            # Whoever wrote the list does not decide which servers this machine asks.
            if not self.remote and is_remote(name):
                raise ValueError("a URL is read only with --remote")
            if meter is not None:
                meter.begin(name, total_size([name]))
            found = self.hasher.digest(name, meter)
        except EXPECTED_ERRORS as error:
            if self.ignore_missing and isinstance(error, FileNotFoundError):
                return {"name": name, "result": "missing"}
            self.output.complain(describe_at(name, error))
            self._print(name, "FAILED open or read")
            return {"name": name, "result": "unreadable", "error": describe_at(name, error)}
        if not hmac.compare_digest(found, expected):
            self._print(name, "FAILED")
            return {"name": name, "result": "mismatch", "expected": expected.hex(), "found": found.hex()}
        if not self.quiet:
            self._print(name, "OK")
        return {"name": name, "result": "ok"}

    def _print(self, name: str, verdict: str) -> None:
        if self.silent:
            return
        raw = os.fsencode(name)
        if b"\n" in raw:
            raw = b"\\" + escape(raw)
        self.output.write(raw + f": {verdict}\n".encode("ascii"))

    def _warn(self, report: _ListResult, shown: str) -> None:
        count = report.improperly_formatted
        if count:
            what = "line is" if count == 1 else "lines are"
            self.output.complain(f"WARNING: {count} {what} improperly formatted")
        count = report.counts["unreadable"]
        if count:
            what = "file" if count == 1 else "files"
            self.output.complain(f"WARNING: {count} listed {what} could not be read")
        count = report.counts["mismatch"]
        if count:
            what = "checksum" if count == 1 else "checksums"
            self.output.complain(f"WARNING: {count} computed {what} did NOT match")
        if self.ignore_missing and not report.counts["ok"]:
            self.output.complain(f"{shown}: no file was verified")
