"""The error that verified loading raises for a model that is not what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import IntegrityError
from ..errors import shown

_MOST_SHOWN = 20


@dataclass(frozen=True)
class Mismatch:
    """Bytes whose digest is not the expected one."""

    file: str
    """The path of the file."""
    tensor: str | None
    """The name of the tensor; None for a digest of a file or of a part of it."""
    range: tuple[int, int]
    """The first byte of the file that the digest covers, and the one after the last."""
    algorithm: str
    expected: bytes
    found: bytes
    source: str
    """What expected it, in words."""

    def __str__(self) -> str:
        what = f"tensor {shown(self.tensor)}, " if self.tensor is not None else ""
        start, end = self.range
        return (
            f"{self.file}: {what}bytes {start} to {end}: {self.algorithm} {self.found.hex()}, and "
            f"{self.source} has {self.expected.hex()}"
        )


class LoadError(IntegrityError):
    """A model was not loaded, because it is not what was expected or changed meanwhile.

    ``file`` is the path of the first file at fault, ``tensor`` the name of the tensor, and ``range`` its
    bytes in the file: the first one, and the one after the last. ``tensor`` and ``range`` are None if the
    fault is in no tensor and in no part of the file. ``mismatches`` has every digest that differs.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        tensor: str | None = None,
        range: tuple[int, int] | None = None,
        mismatches: Sequence[Mismatch] = (),
    ) -> None:
        super().__init__(message)
        self.file = file
        self.tensor = tensor
        self.range = range
        self.mismatches = tuple(mismatches)

    @classmethod
    def of(cls, mismatches: Sequence[Mismatch]) -> LoadError:
        """The error for digests that differ, of which there is at least one."""
        lines = [str(mismatch) for mismatch in mismatches[:_MOST_SHOWN]]
        if len(mismatches) > _MOST_SHOWN:
            lines.append(f"and {len(mismatches) - _MOST_SHOWN} more")
        # A tensor tells more than the file that it is in.
        first = next((m for m in mismatches if m.tensor is not None), mismatches[0])
        head = "the model is not the one that was expected, and nothing of it was loaded"
        text = "\n  ".join([head, *lines])
        return cls(text, file=first.file, tensor=first.tensor, range=first.range, mismatches=mismatches)
