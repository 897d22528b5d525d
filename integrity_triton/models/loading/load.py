"""``load_verified`` and ``load_file``: tensors that are what was expected, or an error."""

from __future__ import annotations

import mmap
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ...backends import registry
from ...files import Progress
from ...remote_files import is_folder
from ..errors import ManifestError
from ..threads import SharedProgress, uninterrupted
from .destination import Destination
from .expectations import Against, Expectation, read_expectations
from .host import load_to_host
from .plan import Plan
from .ring import in_stream_of_caller, load_to_device

if TYPE_CHECKING:
    import torch


_ROOM_FOR_THREADS = 96 << 20  # ten stacks of 8 MiB, and what Python needs


def load_verified(
    path: str | os.PathLike[str],
    *,
    against: Against | Sequence[Against],
    device: str | int | torch.device = "cpu",
    partial: bool = False,
    backend: str | None = None,
    progress: Progress | None = None,
) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, or of a folder of them, in memory of their own on ``device``, once
    the bytes in that memory were found to be what ``against`` says.

    ``against`` is a :class:`Manifest`, a :class:`Signed` signature, :class:`FileDigests`,
    :class:`TensorDigests`, the path of a manifest or of a list of SHA-256 digests such as ``SHA256SUMS``, or
    a sequence of these, all of which must hold. Names of files are relative to the folder ``path``; a model
    that is one file is found by the file's name. Every file and tensor that is loaded must be covered. Files
    of the folder that are not loaded are not checked.

    The file is read into the tensors' memory, and this memory is hashed, so that there is no time between
    check and use. On the CPU, the tensors are no mapping of the file, which could change after the check.
    ``docs/guide/verified_loading.md`` says what is proved, and how much memory and time it takes.

    ``partial`` permits tensors of a manifest or of ``TensorDigests`` to be missing from the model, except all
    of them: one shard is loaded with the manifest of the whole model. ``backend`` chooses what hashes, as for
    :func:`integrity_triton.hash_batch`. ``progress`` is called with the number of bytes just read, by one
    thread at a time. The names, dtypes and shapes are those that ``safetensors.torch.load_file`` gives, and
    each tensor is contiguous and has a storage of its own. In a folder, the tensors of a subfolder have its
    path before their names, as in its manifest.

    Raises LoadError (an IntegrityError), which names the file, the tensor and its bytes, if the model is not
    what was expected, or a file changes, is removed or cannot be opened any more meanwhile; ManifestError for
    a malformed file or a dtype that torch does not have; MemoryError if the model does not fit; OSError for a
    file that cannot be read; and what reading ``against`` raises: ManifestError, SignatureFormatError,
    IntegrityError for a signature by another
    key. After any exception nothing of the model is left in memory, and no thread goes on.
    """
    return load_plan(Plan.read(path), read_expectations(against), device, partial, backend, progress)


def load_file(
    filename: str | os.PathLike[str],
    device: str | int | torch.device = "cpu",
    *,
    against: Against | Sequence[Against],
    partial: bool = False,
    backend: str | None = None,
) -> dict[str, torch.Tensor]:
    """The tensors of one safetensors file, verified: the call of ``safetensors.torch.load_file`` (safetensors
    0.8.0, ``safetensors/torch.py``) with what to check against. See :func:`load_verified`.

    Raises as that does, and ManifestError if ``filename`` is a folder.
    """
    if is_folder(filename):
        raise ManifestError(f"{os.fspath(filename)}: a folder, not a file; load_verified takes both")
    return load_verified(filename, against=against, device=device, partial=partial, backend=backend)


def load_plan(
    plan: Plan,
    expectations: Iterable[Expectation],
    device: str | int | torch.device,
    partial: bool,
    backend: str | None,
    progress: Progress | None,
) -> dict[str, torch.Tensor]:
    """Load what is planned; see :func:`load_verified`."""
    target = _usable(device)
    if target.type == "meta":
        raise ValueError("the device 'meta' holds no bytes, so that nothing could be checked on it")
    name = registry.requested(backend)
    if name is not None:
        registry.get(name)  # a backend that cannot run is refused before anything is read
    for expectation in expectations:
        expectation.expect(plan, partial)
    destination = Destination(plan, target)
    handled = sys.exc_info()[1]  # the caller may be handling an exception, whose frames are the caller's
    try:
        load = load_to_host if target.type == "cpu" and _on_host(plan, name) else load_to_device
        shared = SharedProgress(progress)
        _check_room_for_threads()
        uninterrupted(
            lambda: load(plan, destination, backend, shared), shared.cancel, in_stream_of_caller(target)
        )
        plan.check()
    except BaseException as error:
        destination.clear()
        for caught in (error, error.__context__):  # its frames would keep memory as long as it is kept
            if caught is not None and caught is not handled:
                traceback.clear_frames(caught.__traceback__)
        raise
    return destination.tensors


def _check_room_for_threads() -> None:
    """Raise MemoryError if the threads of a load would hardly fit into memory. Python waits for ever for a
    thread that runs out of memory while it starts."""
    try:
        mmap.mmap(-1, _ROOM_FOR_THREADS).close()  # nothing is written there, so that it takes no memory
    except OSError:
        raise MemoryError(
            f"{_ROOM_FOR_THREADS} bytes of addresses for threads are not left beside the model; nothing was "
            "loaded"
        ) from None


def _usable(device: str | int | torch.device) -> torch.device:
    import torch

    try:
        target = torch.device(device)
        probe = torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"tensors cannot be loaded to the device {device!r}: {reason}") from None
    if type(probe) is not torch.Tensor:
        raise ValueError(
            f"new tensors are of the class {type(probe).__name__} here, which has no memory of its own; load "
            "outside of the mode that makes them, such as FakeTensorMode"
        )
    return target


def _on_host(plan: Plan, backend: str | None) -> bool:
    """Whether CPU libraries hash all of the plan."""
    if backend not in {None, "native"}:
        return False
    native = registry.get("native")
    records = {m.digester.algorithm: m.digester.plain for file in plan.files for m in file.messages}
    return all(record is None or native.unsupported(record) is None for record in records.values())
