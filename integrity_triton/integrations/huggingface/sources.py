"""What a file's digest is computed over: a file, its bytes in memory, or its segments, some of them
tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import IntegrityError
from ...files import Progress, read_pieces
from ...messages.batches import pieces
from ...messages.from_caller import message_view
from ...messages.tensors import is_tensor, named
from ...models.model_tree import ModelFile
from ...models.regular_files import identity, open_regular

if TYPE_CHECKING:
    import torch

Source = Any
"""The path of a file; or a bytes-like object; or a tensor; or a list or tuple of bytes-like objects and
tensors, which follow one another in the file. Tensors may be on any device."""


class Content:
    """The bytes of a :data:`Source`, of which the size is known before they are read."""

    def __init__(self, size: int, read: Callable[[], Iterator[memoryview | torch.Tensor]]) -> None:
        self.size = size
        """Bytes."""
        self._read = read

    @classmethod
    def of(cls, source: Source) -> Content:
        """Raises TypeError for an object that is no source, ValueError for a path that leads to anything but
        a regular file, and OSError if the file cannot be read."""
        if isinstance(source, str | os.PathLike):
            return cls.of_file(_find(os.fspath(source)))
        if isinstance(source, list | tuple):
            return cls._of_segments(source)
        return cls._of_segments([source])

    @classmethod
    def of_file(cls, file: ModelFile) -> Content:
        """The content of a file that was found before. Reading it raises IntegrityError if it has changed."""

        def read() -> Iterator[memoryview | torch.Tensor]:
            try:
                yield from read_pieces(file.path, 0, file.size, opener=file.open)
            except EOFError as error:
                raise IntegrityError(f"{error}; the file was cut while it was being read") from None
            if identity(os.stat(file.path)) != file.identity:
                raise IntegrityError(f"{file.path}: the file changed while it was being read")

        return cls(file.size, read)

    @classmethod
    def _of_segments(cls, segments: Sequence[Any]) -> Content:
        views = []
        for i, segment in enumerate(segments):
            with named(f"segment {i}"):
                views.append(message_view(segment))

        def read() -> Iterator[memoryview | torch.Tensor]:
            for view in views:
                if is_tensor(view):
                    yield from pieces(view)
                else:
                    yield view

        return cls(sum(view.nbytes for view in views), read)

    def pieces(self, progress: Progress | None = None) -> Iterator[memoryview | torch.Tensor]:
        """The bytes in flat pieces, each of which is valid until the next one is asked for. ``progress`` is
        called with the size of each piece after the caller is done with it."""
        for piece in self._read():
            yield piece
            if progress is not None:
                progress(piece.nbytes)


def _find(path: str) -> ModelFile:
    """The regular file that a path leads to. Raises ValueError for anything else."""
    target = os.path.realpath(path, strict=True)
    descriptor = open_regular(target)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return ModelFile(target, identity(status))
