"""Megatron-LM: hashes of parameters across replicas, and ``integrity.json`` of checkpoints.

The definitions are those of megatron-core 0.16.1 (``megatron/core/utils.py``, function
``check_param_hashes_across_dp_replicas``) and 0.19.2 (``megatron/core/dist_checkpointing/validation.py``,
functions ``save_integrity_manifest`` and ``verify_integrity_manifest``).
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import algorithms
from ..errors import IntegrityError
from ..files import Progress, update_from_file
from ..hashing import new
from ..messages.tensors import check_has_bytes, named
from ..models.errors import ManifestError, shown
from ..models.file_digests import FileDigest, FileDigests
from ..models.live import digest_tensors
from ..models.model_tree import ModelFile, ModelTree, read_tree
from ..models.regular_files import read_regular, settled
from ..models.threads import SharedProgress, in_threads
from ..output_files import write_file
from ..strict_json import StrictJsonError, check_members, parse_hex, parse_object
from .named_tensors import hash_of

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

__all__ = [
    "INTEGRITY_FILE",
    "IntegrityReport",
    "ParamHash",
    "check_param_hashes_across_dp_replicas",
    "param_hashes",
    "read_integrity",
    "verify_integrity",
    "write_integrity",
]

INTEGRITY_FILE = "integrity.json"
"""The name of the file in a checkpoint's folder that states the digests of the others."""

MAX_INTEGRITY_SIZE = 64 << 20
"""Bytes in such a file, enough for several hundred thousand names."""

_ALGORITHM = "sha256"
_MOST_COPIED = 1 << 30  # bytes of parameters that are converted to float32 at the same time
_MOST_READERS = 8
_SIZE = 8  # bytes of a number in the message with which ranks compare what they hold

_logger = logging.getLogger("integrity_triton")


class ParamHash(NamedTuple):
    """The hash of one parameter."""

    chunk: int
    """The number of the model chunk, from 0."""
    name: str
    """The name in ``named_parameters()`` of the chunk."""
    expert: bool
    """Whether it belongs to an expert, which has other replicas: its attribute ``allreduce`` is False."""
    digest: bytes


def param_hashes(
    model: torch.nn.Module | Sequence[torch.nn.Module],
    algorithm: str = "sha1",
    *,
    own_bytes: bool = False,
    backend: str | None = None,
) -> tuple[ParamHash, ...]:
    """The hash of each parameter of a model, which is a list of model chunks, computed on their devices.

    With SHA-1, the digests are bit-identical to those that ``check_param_hashes_across_dp_replicas`` of
    Megatron-LM computes, in the same order. It hashes the elements as float32 in C order, so that a
    bfloat16 parameter is converted, and takes twice its own bytes: at most 1 GiB of parameters is converted
    at the same time. ``own_bytes`` hashes the elements in their own dtype instead. That reads half the
    bytes of a 16-bit model, copies nothing, and distinguishes values that are equal as float32; the digests
    are then other ones than Megatron's.

    Raises TypeError, which names the parameter, for one without dense bytes, such as a DTensor, and
    ValueError for one without data. It raises as :func:`integrity_triton.hash_batch` does, too.
    """
    record = hash_of(algorithm)
    found: list[ParamHash] = []
    for group in _groups(_parameters(model), own_bytes):
        data = [param.detach() if own_bytes else param.detach().float() for _, _, param in group]
        digests = digest_tensors(data, record, backend=backend)
        found += [
            ParamHash(chunk, name, not getattr(param, "allreduce", True), digest)
            for (chunk, name, param), digest in zip(group, digests, strict=True)
        ]
    return tuple(found)


def check_param_hashes_across_dp_replicas(
    model: torch.nn.Module | Sequence[torch.nn.Module],
    cross_check: bool = False,
    *,
    algorithm: str = "sha1",
    own_bytes: bool = False,
    group: ProcessGroup | None = None,
    expert_group: ProcessGroup | None = None,
    backend: str | None = None,
) -> bool:
    """Whether the parameters of this rank are those of its data-parallel replicas.

    It is called as Megatron-LM's function of the same name, by all ranks. Each rank hashes its parameters
    and receives the hashes of the others. The result is True if the parameters are equal to those of the
    first rank of the group or, with ``cross_check``, to those of every rank. The names of parameters that
    differ are logged as warnings by ``integrity_triton``.

    ``group`` has the ranks that hold replicas, and ``expert_group`` those that hold replicas of the same
    experts, whose parameters have an attribute ``allreduce`` that is False. Without them, the groups of an
    initialised ``megatron.core.parallel_state`` are taken. The hashes are exchanged in the memory of the CPU
    if the group's backend can do so, as gloo can, and otherwise on the device of the parameters.

    ``algorithm`` and ``own_bytes`` are as for :func:`param_hashes`. SHA-1 has practical collisions: it shows
    that replicas have not drifted apart by accident. Take BLAKE3 or SHA-256 where someone could gain from two
    different models that seem to be equal.

    Raises ValueError on every rank if the ranks do not have parameters of the same names in the same order or
    do not use the same algorithm, which Megatron-LM's function does not notice, and if there is no group;
    otherwise as :func:`param_hashes` does.
    """
    hashes = param_hashes(model, algorithm, own_bytes=own_bytes, backend=backend)
    device = next((param.device for _, _, param in _parameters(model)), None)
    match = True
    for expert in (False, True):
        local = [found for found in hashes if found.expert is expert]
        if not local or device is None:
            continue
        ranks = (expert_group if expert else group) or _megatron_group(expert)
        match &= _equal_on_ranks(local, (algorithm, own_bytes), ranks, device, cross_check)
    return match


def _parameters(
    model: torch.nn.Module | Sequence[torch.nn.Module],
) -> Iterator[tuple[int, str, torch.nn.Parameter]]:
    chunks = [model] if hasattr(model, "named_parameters") else model
    for number, chunk in enumerate(chunks):
        for name, param in chunk.named_parameters():
            with named(f"parameter {shown(name)} of model chunk {number}"):
                check_has_bytes(param)
            yield number, name, param


def _groups(
    params: Iterable[tuple[int, str, torch.nn.Parameter]], own_bytes: bool
) -> Iterator[list[tuple[int, str, torch.nn.Parameter]]]:
    """The parameters in groups of which at most _MOST_COPIED bytes are converted, or one parameter."""
    group: list[tuple[int, str, torch.nn.Parameter]] = []
    copied = 0
    for entry in params:
        size = 0 if own_bytes or str(entry[2].dtype) == "torch.float32" else 4 * entry[2].numel()
        if group and copied + size > _MOST_COPIED:
            yield group
            group, copied = [], 0
        group.append(entry)
        copied += size
    if group:
        yield group


def _megatron_group(expert: bool) -> ProcessGroup:
    """The group that Megatron-LM has set up in this process."""
    state: Any = sys.modules.get("megatron.core.parallel_state")
    if state is None or not state.model_parallel_is_initialized():
        raise ValueError(
            f"there is no group of ranks to compare with: pass {'expert_group' if expert else 'group'}=, "
            "for example torch.distributed.group.WORLD, or initialise megatron.core.parallel_state"
        )
    get = state.get_expert_data_parallel_group if expert else state.get_data_parallel_group
    # Later versions distinguish replicas that are rematerialised, which their own function leaves out.
    options = {"with_gtp_remat": False} if "with_gtp_remat" in get.__code__.co_varnames else {}
    found: ProcessGroup = get(**options)
    return found


def _equal_on_ranks(
    local: Sequence[ParamHash],
    method: tuple[str, bool],
    group: ProcessGroup,
    device: torch.device,
    cross_check: bool,
) -> bool:
    import torch
    import torch.distributed as dist

    place = torch.device("cpu") if "cpu:" in str(dist.get_backend_config(group)) else device
    _check_same_names(_gather(_summary(local, method), group, place))
    rows = torch.frombuffer(bytearray(b"".join(h.digest for h in local)), dtype=torch.uint8)
    ranks = torch.stack(_gather(rows, group, place)).view(-1, len(local), len(local[0].digest))
    differing = (ranks != rows.view(1, len(local), -1)).any(dim=2)  # [rank, parameter]
    own = dist.get_rank()
    for rank, parameter in differing.nonzero().tolist():
        if cross_check or rank == 0:
            chunk, name = local[parameter][:2]
            other = dist.get_global_rank(group, rank)
            _logger.warning(
                "rank %d: parameter %s of model chunk %d differs from that of rank %d",
                own, shown(name), chunk, other,
            )  # fmt: skip
    return not bool(differing.any() if cross_check else differing[0].any())


def _summary(local: Sequence[ParamHash], method: tuple[str, bool]) -> torch.Tensor:
    """What has to be equal before hashes can be compared one by one: their number, followed by the SHA-256 of
    the names and of how they were hashed."""
    import torch

    text = json.dumps([*method, [(h.chunk, h.name) for h in local]]).encode("ascii")
    summary = len(local).to_bytes(_SIZE, "little") + hashlib.sha256(text).digest()
    return torch.frombuffer(bytearray(summary), dtype=torch.uint8)


def _gather(data: torch.Tensor, group: ProcessGroup, place: torch.device) -> list[torch.Tensor]:
    """The data of each rank of a group, on the CPU."""
    import torch
    import torch.distributed as dist

    given = data.to(place)
    received = [torch.empty_like(given) for _ in range(dist.get_world_size(group))]
    dist.all_gather(received, given, group=group)
    return [part.cpu() for part in received]


def _check_same_names(summaries: Sequence[torch.Tensor]) -> None:
    """All ranks have all summaries, so that either all of them raise an error or none does."""
    raw = [summary.numpy().tobytes() for summary in summaries]
    for rank, summary in enumerate(raw):
        if summary != raw[0]:
            first, other = (int.from_bytes(s[:_SIZE], "little") for s in (raw[0], summary))
            counts = (
                f"{other} parameters, the first one has {first}"
                if first != other
                else "other names or algorithms"
            )
            raise ValueError(
                f"the ranks of the group are no replicas, or hash in different ways: rank {rank} of the "
                f"group has {counts}"
            )


@dataclass(frozen=True)
class IntegrityReport:
    """What :func:`verify_integrity` found. The names are sorted."""

    files: int
    """How many files are listed."""
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    """Files that are listed and not in the folder."""
    unexpected: tuple[str, ...]
    """Files in the folder that are not listed, and what is no plain file, such as a link."""

    @property
    def ok(self) -> bool:
        """Whether the folder has exactly the listed files with exactly the listed content."""
        return not (self.changed or self.missing or self.unexpected)

    def raise_for_mismatch(self) -> None:
        """Raise IntegrityError, which names every file that does not match, unless all match."""
        if not self.ok:
            raise IntegrityError(str(self))

    def __str__(self) -> str:
        if self.ok:
            return f"{self.files} files match"
        kinds = (("changed", self.changed), ("missing", self.missing), ("unexpected", self.unexpected))
        parts = [f"{kind}: {', '.join(map(shown, names))}" for kind, names in kinds if names]
        return "the folder does not match: " + "; ".join(parts)


def write_integrity(
    folder: str | os.PathLike[str], *, backend: str | None = None, progress: Progress | None = None
) -> FileDigests:
    """Write ``integrity.json`` into the folder of a checkpoint, and return what it states.

    It lists the SHA-256 of each file of the folder except ``integrity.json`` itself, in the order of the
    names. For a folder without subfolders, which is what Megatron-LM saves, the file is the same byte for
    byte as the one that ``--verify-integrity`` of Megatron-LM writes. Files of subfolders are listed by
    their paths with slashes. Megatron-LM leaves them out when it saves, and verifies them where they are
    listed.

    Call it on one rank, after all files have been written.

    Raises ManifestError if there is no file, or something that is no plain file, such as a link;
    IntegrityError if a file changes meanwhile; and OSError.
    """
    tree, digests = _measure(folder, backend, progress)
    for name, kind in tree.refused.items():
        raise ManifestError(
            f"{os.fspath(folder)}: {shown(name)} is {kind}, which {INTEGRITY_FILE} cannot list"
        )
    if not digests:
        raise ManifestError(f"{os.fspath(folder)}: the folder has no file to list")
    names = sorted(digests)
    made = FileDigests({name: FileDigest(_ALGORITHM, digests[name], tree.files[name].size) for name in names})
    text = json.dumps(
        {"algorithm": _ALGORITHM, "files": {name: digests[name].hex() for name in names}}, indent=2
    )
    write_file(os.path.join(folder, INTEGRITY_FILE), text.encode("ascii"))
    return made


def read_integrity(path: str | os.PathLike[str]) -> FileDigests:
    """The digests that an ``integrity.json`` states; ``path`` is that file, or the folder that it is in.

    What Megatron-LM writes is accepted, and nothing else: an object with exactly the members ``algorithm``,
    which is ``sha256``, and ``files``, which maps relative paths to 64 lower-case hexadecimal digits.

    Raises ManifestError, which names the file and says what is wrong with it, and OSError if it cannot be
    read.
    """
    where = os.path.join(path, INTEGRITY_FILE) if os.path.isdir(path) else os.fspath(path)
    try:
        members = parse_object(read_regular(where, MAX_INTEGRITY_SIZE, f"an {INTEGRITY_FILE}"))
        check_members(members, {"algorithm": str, "files": dict})
        if members["algorithm"] != _ALGORITHM:
            raise ManifestError(f"the algorithm is {shown(members['algorithm'])}; it must be {_ALGORITHM!r}")
        return FileDigests({name: _stated(name, value) for name, value in members["files"].items()})
    except StrictJsonError as error:
        raise ManifestError(f"{where}: {error}") from None
    except ValueError as error:  # read_regular names the file itself
        message = str(error)
        raise ManifestError(message if message.startswith(where) else f"{where}: {message}") from None


def _stated(name: str, value: Any) -> FileDigest:
    if not isinstance(value, str):
        raise ManifestError(f"the digest of {shown(name)} must be a string")
    try:
        return FileDigest(_ALGORITHM, parse_hex(value, name))
    except ManifestError as error:
        raise ManifestError(f"{shown(name)}: {error}") from None


def verify_integrity(
    folder: str | os.PathLike[str],
    against: FileDigests | None = None,
    *,
    backend: str | None = None,
    progress: Progress | None = None,
) -> IntegrityReport:
    """Compare the files of a checkpoint with their digests, by default those of its own ``integrity.json``.

    Every file that was changed, is missing or is not listed is named in the report; call
    ``raise_for_mismatch()`` on it. Megatron-LM accepts files that are not listed. Whoever can change the
    checkpoint can change its ``integrity.json`` as well: this finds accidents. For more, keep what
    :func:`write_integrity` returned in a place that others cannot write to, and pass it as ``against``.

    Raises ManifestError for an ``integrity.json`` that is malformed, IntegrityError if a file changes while
    it is read, and OSError.
    """
    expected = read_integrity(folder) if against is None else against
    if not isinstance(expected, FileDigests):
        raise TypeError(f"against must be a FileDigests, not {type(expected).__name__}; see read_integrity")
    for name, stated in expected.files.items():
        if stated.algorithm != _ALGORITHM or len(stated.digest) != algorithms.get(_ALGORITHM).digest_size:
            raise ManifestError(f"{shown(name)}: a digest of {stated.algorithm}, not of {_ALGORITHM}")
    tree, digests = _measure(folder, backend, progress, expected.files)
    found = digests.keys()
    changed = [n for n in found & expected.files.keys() if digests[n] != expected.files[n].digest]
    return IntegrityReport(
        files=len(expected),
        changed=tuple(sorted(changed)),
        missing=tuple(sorted(expected.files.keys() - found - tree.refused.keys())),
        unexpected=tuple(sorted({*(tree.files.keys() - expected.files.keys()), *tree.refused})),
    )


def _measure(
    folder: str | os.PathLike[str],
    backend: str | None,
    progress: Progress | None,
    only: Mapping[str, Any] | None = None,
) -> tuple[ModelTree, dict[str, bytes]]:
    """What is in a folder, and the digests of its files, or of those in ``only``. Several files are read at
    the same time."""
    place = os.fspath(folder)
    if not os.path.isdir(place):
        raise ManifestError(f"{place}: not a folder")
    listed = functools.partial(read_tree, place, ignored=frozenset({INTEGRITY_FILE}))
    tree = settled(listed, lambda tree: tree.changed)
    names = [name for name in tree.files if only is None or name in only]
    shared = SharedProgress(progress)

    def digest(file: ModelFile) -> bytes:
        hasher = new(_ALGORITHM, backend=backend)
        try:
            update_from_file(hasher, file.path, end=file.size, progress=shared, opener=file.open)
        except EOFError as error:
            raise IntegrityError(f"{error}; the file changed while the folder was being read") from None
        return hasher.digest()

    calls = [functools.partial(digest, tree.files[name]) for name in names]
    found = in_threads(min(_MOST_READERS, os.cpu_count() or 1), calls, shared)
    digests = dict(zip(names, found, strict=True))
    if changed := tree.differing(listed()):
        raise IntegrityError(f"{place}: {shown(changed[0])} changed while the folder was being read")
    return tree, digests
