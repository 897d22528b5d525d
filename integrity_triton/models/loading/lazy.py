"""``safe_open``: one safetensors file whose tensors are verified when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...remote_files import is_folder
from ..errors import ManifestError, shown
from ..safetensors_file import StoredTensor
from .expectations import Against, read_expectations
from .load import load_plan
from .plan import Message, Plan, PlannedFile

if TYPE_CHECKING:
    import torch


class safe_open:
    """One safetensors file, with the methods of ``safetensors.safe_open`` (safetensors 0.8.0) and what to
    check against.

    With a :class:`Manifest` or :class:`TensorDigests`, opening compares names, dtypes and shapes, and a
    tensor is read, verified and returned by :meth:`get_tensor`. The digest of a file, as in a signature or a
    list of files, covers all of it: opening then reads and verifies the whole file, and keeps it in memory.

    ``framework`` must be ``"pt"`` or ``"torch"``. The other arguments, and the errors, are as for
    :func:`load_verified`.
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        framework: str = "pt",
        device: str | int | torch.device = "cpu",
        *,
        against: Against | Sequence[Against],
        partial: bool = False,
        backend: str | None = None,
    ) -> None:
        if framework not in {"pt", "torch"}:
            raise ValueError(
                f"framework must be 'pt' or 'torch', since tensors are torch's, not {framework!r}"
            )
        if is_folder(filename):
            raise ManifestError(f"{os.fspath(filename)}: a folder, not a file; load_verified takes both")
        expectations = read_expectations(against)
        plan = Plan.read(filename)
        self._whole = any(expectation.whole_files for expectation in expectations)
        self._device = device
        self._backend = backend
        self._file: PlannedFile | None = plan.files[0]
        self._path = plan.path
        self._stored: dict[str, StoredTensor] = {t.name: t for t in self._file.layout.tensors}
        self._loaded: dict[str, torch.Tensor] = {}
        if self._whole:
            self._loaded = load_plan(plan, expectations, device, partial, backend, None)
        else:
            for expectation in expectations:
                expectation.expect(plan, partial)
            self._messages: dict[str, list[Message]] = {name: [] for name in self._stored}
            for message in self._file.messages:
                if message.tensor is not None:
                    self._messages[message.tensor].append(message)

    def __enter__(self) -> safe_open:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file = None
        self._loaded = {}

    def keys(self) -> list[str]:
        """The names of the tensors, in order."""
        self._opened()
        return sorted(self._stored)

    def offset_keys(self) -> list[str]:
        """The names of the tensors, in the order of their bytes in the file."""
        self._opened()
        return list(self._stored)

    def metadata(self) -> dict[str, str] | None:
        """The free-form metadata of the header; None if it has none.

        Raises ManifestError if no digest covers it. A manifest says nothing about it; that of a file does.
        """
        layout = self._opened().layout
        if not self._whole:
            raise ManifestError(
                f"{self._path}: what this file is checked against does not cover the metadata of its header; "
                "add the digest of the file to against, or read it with another library"
            )
        return dict(layout.metadata) or None

    def get_tensor(self, name: str) -> torch.Tensor:
        """A tensor, verified. It is read again for each call, unless the whole file is kept in memory, whose
        tensors are returned as they are. Raises KeyError for a name that the file does not have, and as
        :func:`load_verified` does."""
        file, stored = self._opened(), self._described(name)
        if self._whole:
            return self._loaded[name]
        part = PlannedFile(
            file.name,
            replace(file.layout, tensors=(stored,)),
            [replace(message, found=None) for message in self._messages[name]],
        )
        plan = Plan(self._path, False, (part,))
        return load_plan(plan, (), self._device, False, self._backend, None)[name]

    def get_tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name; see :meth:`get_tensor`."""
        return {name: self.get_tensor(name) for name in self.offset_keys()}

    def get_slice(self, name: str) -> VerifiedSlice:
        """A tensor of which parts are to be taken. Each part is taken of the whole tensor, which is read and
        verified for it, because no digest covers a part alone."""
        self._opened()
        return VerifiedSlice(self, self._described(name))

    def _opened(self) -> PlannedFile:
        if self._file is None:
            raise ValueError(f"{self._path}: the file is closed")
        return self._file

    def _described(self, name: str) -> StoredTensor:
        try:
            return self._stored[name]
        except KeyError:
            raise KeyError(f"{self._path} has no tensor {shown(name)}") from None


class VerifiedSlice:
    """What ``safe_open.get_slice`` returns: the description of a tensor, and its parts by indexing."""

    def __init__(self, file: safe_open, stored: StoredTensor) -> None:
        self._file = file
        self._stored = stored

    def get_shape(self) -> list[int]:
        """The shape that the header states. A manifest, or the digest of the file, covers it."""
        return list(self._stored.shape)

    def get_dtype(self) -> str:
        """The dtype in the spelling of safetensors."""
        return self._stored.dtype

    def __getitem__(self, index: Any) -> torch.Tensor:
        """A copy of a part of the verified tensor, so that the rest of its memory is free again."""
        tensor = self._file.get_tensor(self._stored.name)
        part = tensor[index]
        return part if part.shape == tensor.shape and not self._file._whole else part.clone()
