"""What is read for a model, and which parts of it have a digest to meet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...remote_files import is_folder
from ..errors import shown
from ..folder import read_model
from ..safetensors_file import FileChanged, SafetensorsFile, StoredTensor
from .digesters import Digester
from .errors import LoadError, Mismatch


@contextlib.contextmanager
def changes_are_load_errors() -> Iterator[None]:
    """Raise LoadError, with the file and its bytes, in place of FileChanged."""
    try:
        yield
    except FileChanged as error:
        raise LoadError(str(error), file=error.path, range=(0, error.size)) from None


@dataclass
class Message:
    """The bytes ``[start, end)`` of a file, the digest that they must have, and the one that was found."""

    start: int
    end: int
    digester: Digester
    expected: bytes
    source: str
    """What expects the digest, in words."""
    tensor: str | None = None
    """The name of the tensor that the bytes are; None for a file or a part of it."""
    found: bytes | None = None


@dataclass(frozen=True)
class Segment:
    """Neighbouring bytes of a file that go to one place: the head, a tensor, or bytes that are not loaded."""

    start: int
    end: int
    tensor: StoredTensor | None = None


@dataclass
class PlannedFile:
    """A file to read. ``name`` is relative to the model's folder, or the name of a single file."""

    name: str
    layout: SafetensorsFile
    messages: list[Message] = field(default_factory=list)

    @property
    def path(self) -> str:
        return str(self.layout.path)

    def segments(self) -> Iterator[Segment]:
        """All bytes of the file in order. The first segment is the head."""
        position = len(self.layout.head)
        yield Segment(0, position)
        for tensor in self.layout.tensors:
            if tensor.start > position:
                yield Segment(position, tensor.start)
            yield Segment(tensor.start, tensor.end, tensor)
            position = tensor.end
        if position < self.layout.size:
            yield Segment(position, self.layout.size)

    def mismatches(self) -> list[Mismatch]:
        """The messages whose digests were not found. One without any digest counts, too."""
        return [
            Mismatch(
                self.path,
                m.tensor,
                (m.start, m.end),
                m.digester.algorithm,
                m.expected,
                m.found or b"",
                m.source,
            )
            for m in self.messages
            if m.found is None or m.found != m.expected
        ]

    def check_unchanged(self) -> None:
        """Raise LoadError if the file is no longer the one whose header was read."""
        with changes_are_load_errors():
            self.layout.check_unchanged()


@dataclass(frozen=True)
class Plan:
    """The files of a model with the tensors that are loaded from each."""

    path: str
    folder: bool
    """Whether the model is a folder, rather than one file."""
    files: tuple[PlannedFile, ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Plan:
        """Read the headers of a safetensors file, or of those in a folder. Raises LoadError for a file that
        changes or disappears meanwhile, and ManifestError and OSError, as :meth:`Manifest.build` does."""
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"a model is loaded from a path, not from {type(path).__name__}")
        folder = is_folder(path)
        try:
            with changes_are_load_errors():
                layouts = read_model(path, keep_heads=True)
        except FileNotFoundError as error:
            if not folder or error.filename is None:
                raise
            raise LoadError(  # it was there when the folder was listed
                f"{error.filename}: the file was removed while the model was being read",
                file=os.fspath(error.filename),
            ) from None
        files = tuple(PlannedFile(layout.member, layout) for layout in layouts)
        return cls(os.fspath(path), folder, files)

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(file.layout.size for file in self.files)

    def tensors(self) -> Mapping[str, tuple[PlannedFile, StoredTensor]]:
        """The tensors that are loaded, by name."""
        return {tensor.name: (file, tensor) for file in self.files for tensor in file.layout.tensors}

    def check(self) -> None:
        """Raise LoadError if a file changed or a digest was not found."""
        for file in self.files:
            file.check_unchanged()
        mismatches: Sequence[Mismatch] = [m for file in self.files for m in file.mismatches()]
        if mismatches:
            raise LoadError.of(mismatches)
        uncovered = next((name for name in self._uncovered()), None)
        if uncovered is not None:
            raise AssertionError(f"no digest covers tensor {shown(uncovered)}")

    def _uncovered(self) -> Iterator[str]:
        """The names of tensors that no digest covers; there are none, since every expectation covers all."""
        for file in self.files:
            wholes = [(m.start, m.end) for m in file.messages if m.tensor is None]
            covered = {m.tensor for m in file.messages}
            reached = 0
            for start, end in sorted(wholes):
                if start > reached:
                    break
                reached = max(reached, end)
            for tensor in file.layout.tensors:
                if tensor.name not in covered and tensor.end > reached:
                    yield tensor.name
