"""What was found in a download folder, file by file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from ...errors import IntegrityError
from ...strict_json import shown

Status = Literal["matched", "differs", "missing", "unchecked"]


@dataclass(frozen=True)
class FileCheck:
    """One file, and whether its content is what was expected."""

    path: str
    """Relative to the folder that was checked, with slashes."""
    status: Status
    """``unchecked`` means that nothing states a digest of the file, or that the file must not be read."""
    reason: str = ""
    """Why the file did not match; empty if it did."""
    algorithm: str | None = None
    """The name of the digest, as in :class:`integrity_triton.models.FileDigest`; None without one."""
    expected: str | None = None
    """The digest that was expected, in hexadecimal digits."""
    found: str | None = None
    """The digest of the content, in hexadecimal digits; None if it was not computed."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "status": self.status,
            "reason": self.reason,
            "algorithm": self.algorithm,
            "expected": self.expected,
            "found": self.found,
        }

    def __str__(self) -> str:
        return f"{self.status:9}  {shown(self.path)}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class DownloadReport:
    """What :func:`~.verify_cache` or :func:`~.verify_download` found."""

    files: tuple[FileCheck, ...]
    """Sorted by path."""
    unexpected: tuple[str, ...] = ()
    """Files that were not expected, and are not permitted."""
    incomplete: tuple[str, ...] = ()
    """Files of downloads that were broken off. No loader reads them, so they are not a mismatch."""

    @property
    def ok(self) -> bool:
        """Whether there is at least one file, every file matches, and none is unexpected."""
        return bool(self.files) and not self.unexpected and all(f.status == "matched" for f in self.files)

    def raise_for_mismatch(self) -> None:
        """Raise IntegrityError, which names every file that does not match, unless all is well."""
        if not self.ok:
            raise IntegrityError(str(self))

    def to_dict(self) -> dict[str, Any]:
        """The report as strings, bools, lists and dicts, for ``json.dumps``."""
        return {
            "ok": self.ok,
            "files": [file.to_dict() for file in self.files],
            "unexpected": list(self.unexpected),
            "incomplete": list(self.incomplete),
        }

    def __str__(self) -> str:
        if not self.files:
            return "there is no file to check"
        counts = Counter(file.status for file in self.files)
        parts = [f"{counts[status]} {status}" for status in ("matched", "differs", "missing", "unchecked")]
        lines = [f"{len(self.files)} files: {', '.join(parts)}"]
        lines += [f"  {file}" for file in self.files if file.status != "matched"]
        lines += [f"  unexpected {shown(path)}" for path in self.unexpected]
        lines += [f"  incomplete {shown(path)}" for path in self.incomplete]
        return "\n".join(lines)
