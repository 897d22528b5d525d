"""The check that is asked for in diffusers: ``expected_hashes``, by file and by tensor, before anything is
loaded.

The request is huggingface/diffusers#14784, "Opt-in weight integrity verification at load time", of September
2026: ``from_pretrained(…, expected_hashes={"unet/diffusion_pytorch_model.safetensors": "<sha256>"})``, whose
keys are paths relative to the repository, or to the folder of a single model. It is open, so that this
function is what ``from_pretrained`` would call after it has found the files and before it opens one.
transformers has the same files, and the function serves both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .. import algorithms
from ..errors import IntegrityError
from ..files import Progress
from ..messages.tensors import check_has_bytes, flattened, is_tensor, named
from ..models.errors import ManifestError, shown
from ..models.file_digests import FileDigest, FileDigests
from ..models.file_kinds import WEIGHTS_ENDINGS
from ..models.live import digest_tensors
from ..models.model_tree import SINGLE_FILE, ModelTree, read_tree
from ..models.safetensors_file import SafetensorsFile
from ..models.stored import hash_files
from ..models.tensor_hash import TensorHash
from .huggingface.checking import Checker, FoundFile

ExpectedHashes = Mapping[str, "str | Mapping[str, str]"]

# An index chooses the files that a loader reads, and could choose some that lie outside of the folder.
_INDEX = re.compile(r"\.index(?:\.[^./]+)?\.json\Z", re.IGNORECASE)
_IGNORED = (".git", ".cache/huggingface")


def check_expected_hashes(
    model: Any,
    expected_hashes: ExpectedHashes,
    *,
    unlisted: bool = False,
    backend: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Raise IntegrityError, which names everything that differs, unless a model has the hashes that are
    expected.

    ``model`` is a folder, such as a snapshot in the cache of huggingface_hub, or a file, and
    ``expected_hashes`` maps paths relative to the folder, or the file's name, to hashes. In place of a file's
    hash there can be a mapping from the names of its tensors to theirs, if it is a safetensors file. Or
    ``model`` is a module or a state dict, and ``expected_hashes`` maps the names of its tensors, which are
    hashed on their devices.

    A hash is ``"ALGORITHM:"`` and hexadecimal digits, such as ``"sha256:…"`` or ``"blake3:…"``, or the digits
    alone for SHA-256. The hash of a tensor is that of its bytes in C order, little-endian, as safetensors
    stores them: the same for a file and for a module that has the tensor in the same dtype.

    Weights that are not listed are a mismatch, too: in a folder, files that end as files with weights do
    and indexes, because a loader may prefer one of them; and tensors of a module or of a file whose tensors
    are listed. ``unlisted`` permits them. ``progress`` is called with numbers of hashed bytes.

    Raises TypeError for arguments of another type, ManifestError for a hash that is malformed, unknown, keyed
    or not collision resistant, for an empty mapping, and for a file that is not a safetensors file although
    hashes of its tensors are given; OSError if something cannot be read.
    """
    if not isinstance(expected_hashes, Mapping) or not all(isinstance(name, str) for name in expected_hashes):
        raise TypeError("expected_hashes must map names, which are str, to hashes")
    if not expected_hashes:
        raise ManifestError("expected_hashes is empty, so that nothing would be checked")
    if isinstance(model, str | os.PathLike):
        faults = _check_files(os.fspath(model), expected_hashes, unlisted, backend, progress)
    else:
        state_dict = model.state_dict() if callable(getattr(model, "state_dict", None)) else model
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"model must be a path, a module or a state dict, not {type(model).__name__}")
        faults = _check_live(state_dict, _parse_all(expected_hashes), unlisted, backend, progress)
    if faults:
        raise IntegrityError("\n  ".join(["the model does not have the expected hashes:", *faults]))


def _parse(name: str, text: object) -> FileDigest:
    """The hash that ``text`` states of ``name``."""
    if not isinstance(name, str):
        raise TypeError(f"a tensor is named by a str, not {type(name).__name__}")
    if not isinstance(text, str):
        raise TypeError(f"{shown(name)}: a hash must be a str, not {type(text).__name__}")
    algorithm, colon, digits = text.rpartition(":")
    try:
        record = algorithms.get(algorithm if colon else "sha256")
        stated = FileDigests.of({"file": digits}, record.name)
    except ValueError as error:  # ManifestError is one
        raise ManifestError(f"{shown(name)}: {str(error).removeprefix(repr('file') + ': ')}") from None
    return stated.files["file"]


def _parse_all(hashes: Mapping[str, Any]) -> dict[str, FileDigest]:
    return {name: _parse(name, text) for name, text in hashes.items()}


def _check_files(
    path: str, expected: ExpectedHashes, unlisted: bool, backend: str | None, progress: Progress | None
) -> list[str]:
    """Why files differ; empty if they do not. All hashes are parsed before the first file is read."""
    whole = _parse_all({name: text for name, text in expected.items() if not isinstance(text, Mapping)})
    by_tensor = {name: _parse_all(text) for name, text in expected.items() if isinstance(text, Mapping)}
    for name, hashes in by_tensor.items():
        if not hashes:
            raise ManifestError(f"{shown(name)}: no hash of a tensor, so that nothing would be checked")
    tree = read_tree(path, ignored=_IGNORED, allow_symlinks=True)
    if SINGLE_FILE in tree.files:
        tree = ModelTree({os.path.basename(path): tree.files[SINGLE_FILE]})
    checker = Checker(backend, progress)
    faults = []
    for name in expected:
        if name not in tree.files:
            faults.append(f"{shown(name)}: {tree.refused.get(name, 'the file is missing')}")
        elif name in whole:
            check = checker.check(FoundFile(name, tree.files[name], whole[name]))
            faults += [] if check.status == "matched" else [f"{shown(name)}: {check.reason}"]
        else:
            file = SafetensorsFile.read(tree.files[name].path)
            found = _check_stored(file, by_tensor[name], unlisted, backend, progress)
            faults += [f"{shown(name)}: {fault}" for fault in found]
    if not unlisted:
        others = sorted({*tree.files, *tree.refused} - expected.keys())
        faults += [f"{shown(name)}: weights that are not listed" for name in others if _has_weights(name)]
    return faults


def _has_weights(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in WEIGHTS_ENDINGS or bool(_INDEX.search(name))


def _check_stored(
    file: SafetensorsFile,
    expected: Mapping[str, FileDigest],
    unlisted: bool,
    backend: str | None,
    progress: Progress | None,
) -> list[str]:
    """Why tensors of a file differ."""
    present = [tensor.name for tensor in file.tensors]
    digests: dict[str, bytes] = {}
    for (algorithm, length), names in _by_hash(expected, present).items():
        hash_ = TensorHash.of(algorithm, _length(algorithm, length))
        chosen = file.selected({name: name for name in names})
        digests.update((entry.name, entry.digest) for entry in hash_files([chosen], hash_, backend, progress))
    file.check_unchanged()
    return _differences(expected, present, digests, unlisted)


def _check_live(
    state_dict: Mapping[str, Any],
    expected: Mapping[str, FileDigest],
    unlisted: bool,
    backend: str | None,
    progress: Progress | None,
) -> list[str]:
    """Why tensors in memory differ."""
    tensors = {name: value for name, value in flattened(state_dict).items() if is_tensor(value)}
    for name in expected.keys() & tensors.keys():
        with named(f"tensor {shown(name)}"):
            check_has_bytes(tensors[name])
    digests: dict[str, bytes] = {}
    for (algorithm, length), names in _by_hash(expected, tensors).items():
        record = algorithms.get(algorithm)
        data = [tensors[name].detach() for name in names]
        found = digest_tensors(
            data, record, length=_length(algorithm, length), backend=backend, progress=progress
        )
        digests.update(zip(names, found, strict=True))
    return _differences(expected, tensors, digests, unlisted)


def _by_hash(expected: Mapping[str, FileDigest], present: Iterable[str]) -> dict[tuple[str, int], list[str]]:
    """The names that are both expected and present, by the algorithm and the size of their digests."""
    there = set(present)
    groups: dict[tuple[str, int], list[str]] = {}
    for name, digest in expected.items():
        if name in there:
            groups.setdefault((digest.algorithm, len(digest.digest)), []).append(name)
    return groups


def _length(algorithm: str, length: int) -> int | None:
    """The length to ask for: only an extendable output has one."""
    return length if algorithms.get(algorithm).xof else None


def _differences(
    expected: Mapping[str, FileDigest], present: Iterable[str], digests: Mapping[str, bytes], unlisted: bool
) -> list[str]:
    faults = []
    for name, stated in expected.items():
        if name not in digests:
            faults.append(f"tensor {shown(name)} is missing")
        elif digests[name] != stated.digest:
            found, wanted = digests[name].hex(), stated.digest.hex()
            faults.append(f"tensor {shown(name)}: the {stated.algorithm} is {found}, not {wanted}")
    if not unlisted:
        faults += [f"tensor {shown(name)} is not listed" for name in sorted(set(present) - expected.keys())]
    return faults
