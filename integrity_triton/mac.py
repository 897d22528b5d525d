"""Tags of tensors, computed on their devices by Poly1305 over chunks.

``docs/guide/mac_tensors.md`` has the definition.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import algorithms
from .backends.registry import dispatch as run_batch
from .errors import BackendUnavailable, IntegrityError
from .hashing import new
from .messages.from_caller import buffer_view, is_tensor, tensor_bytes
from .messages.layout import Ragged, Rows
from .messages.moving import moved
from .messages.per_message import PerMessage

if TYPE_CHECKING:
    import torch

__all__ = ["TagMismatch", "TensorTags", "mac_tensors"]

KEY_SIZE, NONCE_SIZE, TAG_SIZE = 32, 16, 16
_FORMAT = "integrity_triton mac_tensors 1"
# Each use of the pseudorandom function begins with its own prefix.
_R, _PAD, _TAG = b"ITmac1.r", b"ITmac1.p", b"ITmac1.t"
_CHUNK_SIZE = 4 << 20
_MOST_CHUNK_SIZE = 1 << 40


class TagMismatch(IntegrityError):
    """The tensors are not those that were tagged."""

    def __init__(self, message: str, mismatches: Sequence[tuple[str, int | None]]) -> None:
        super().__init__(message)
        self.mismatches = tuple(mismatches)
        """Names of tensors, each with the index of a chunk that differs, or with None for the whole
        tensor."""


@dataclass(frozen=True)
class _TensorSpec:
    """A tensor's name, dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: Any, tensor: Any) -> _TensorSpec:
        if not isinstance(name, str):
            raise TypeError(f"a tensor is named by a str, not {type(name).__name__}")
        if not is_tensor(tensor):
            raise TypeError(f"{name!r} is a {type(tensor).__name__}, not a tensor")
        return cls(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))

    def identity(self) -> bytes:
        """32 bytes that identify this name, dtype and shape."""
        text = b"".join(
            len(part).to_bytes(8, "little") + part for part in (self.name.encode(), self.dtype.encode())
        )
        sizes = (len(self.shape), *self.shape)
        text += b"".join(size.to_bytes(8, "little") for size in sizes)
        try:
            return new("blake3", text, backend="native").digest()
        except BackendUnavailable:  # the library is not installed
            return new("blake3", text).digest()

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class TensorTags:
    """The tags of named tensors, which :func:`mac_tensors` makes. They hold no key."""

    def __init__(
        self,
        nonce: bytes,
        chunk_size: int,
        specs: Sequence[_TensorSpec],
        chunks: Sequence[torch.Tensor],
        tags: Sequence[torch.Tensor],
    ) -> None:
        self.nonce = nonce
        self.chunk_size = chunk_size
        self._specs = tuple(specs)
        self._chunks = tuple(chunks)
        self._tags = tuple(tags)
        self._index = {spec.name: i for i, spec in enumerate(self._specs)}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._index)

    def __len__(self) -> int:
        return len(self._specs)

    def __getitem__(self, name: str) -> bytes:
        """A tensor's tag of 16 bytes. Raises KeyError for a name without a tag. Waits for the device."""
        return bytes(self._tags[self._index[name]].cpu().numpy())

    def chunk_tags(self, name: str) -> torch.Tensor:
        """The tags of a tensor's chunks, uint8 ``[chunks, 16]``, on the tensor's device."""
        return self._chunks[self._index[name]]

    def __repr__(self) -> str:
        return f"<tags of {len(self)} tensors in chunks of {self.chunk_size} bytes>"

    def verify(
        self, tensors: Mapping[str, Any], key: Any, *, partial: bool = False, backend: str | None = None
    ) -> None:
        """Check that ``tensors`` are those that were tagged under ``key``: names, dtypes, shapes and bytes.
        With ``partial``, some of the tagged tensors may be missing.

        Raises TagMismatch, which names the tensors and chunks that differ, or the tensors that are missing,
        unknown or of another dtype or shape. Otherwise raises as :func:`mac_tensors` does. Waits for the
        devices once.
        """
        found = [_TensorSpec.of(name, tensor) for name, tensor in tensors.items()]
        unknown = [spec.name for spec in found if spec.name not in self._index]
        if unknown:
            raise TagMismatch(f"no tag for {_listed(unknown)}", [(name, None) for name in unknown])
        missing = [name for name in self._index if name not in tensors]
        if missing and not partial:
            raise TagMismatch(f"missing: {_listed(missing)}", [(name, None) for name in missing])
        for spec in found:
            tagged = self._specs[self._index[spec.name]]
            if spec != tagged:
                raise TagMismatch(f"{spec.name!r} is {spec}, and {tagged} was tagged", [(spec.name, None)])
        now = mac_tensors(tensors, key, nonce=self.nonce, chunk_size=self.chunk_size, backend=backend)
        # All chunks are compared on the devices, regardless of the results, before the first one is fetched.
        differing = [
            ((now.chunk_tags(name) ^ self.chunk_tags(name).to(now.chunk_tags(name).device)) != 0).any(dim=1)
            for name in now.names
        ]
        mismatches: list[tuple[str, int | None]] = []
        told = []
        for spec, chunks in zip(now._specs, (d.cpu().tolist() for d in differing), strict=True):
            mismatches += [(spec.name, i) for i, differs in enumerate(chunks) if differs]
            told += [f"{spec.name!r}: {_places(chunks, self.chunk_size)}"] if any(chunks) else []
        if mismatches:
            raise TagMismatch(f"the tags do not match: {_listed(told, quoted=False)}", mismatches)
        wrong = [name for name in now.names if now[name] != self[name]]
        if wrong:
            raise TagMismatch(f"the tags do not match: {_listed(wrong)}", [(name, None) for name in wrong])

    def to_json(self) -> str:
        """The tags as JSON text, which holds no key."""
        tensors = [
            {
                "name": spec.name,
                "dtype": spec.dtype,
                "shape": list(spec.shape),
                "tag": self[spec.name].hex(),
                "chunks": bytes(self.chunk_tags(spec.name).cpu().numpy().reshape(-1)).hex(),
            }
            for spec in self._specs
        ]
        document = {
            "format": _FORMAT,
            "nonce": self.nonce.hex(),
            "chunk_size": self.chunk_size,
            "tensors": tensors,
        }
        return json.dumps(document, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> TensorTags:
        """The tags that :meth:`to_json` wrote. Raises ValueError for any other text."""
        import torch

        def tags(value: str) -> torch.Tensor:
            data = bytes.fromhex(value)
            if len(data) % TAG_SIZE:
                raise ValueError("a tag is not whole")
            tensor = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
            return tensor.view(-1, TAG_SIZE)

        try:
            document = json.loads(text)
            if document["format"] != _FORMAT:
                raise ValueError(f"format {document['format']!r}")
            nonce, chunk_size = bytes.fromhex(document["nonce"]), document["chunk_size"]
            _check_chunk_size(chunk_size)
            specs, chunks, whole = [], [], []
            for entry in document["tensors"]:
                shape = tuple(entry["shape"])
                if not isinstance(entry["name"], str) or not isinstance(entry["dtype"], str):
                    raise ValueError("a name or dtype that is no text")
                if any(type(size) is not int or not 0 <= size < 1 << 63 for size in shape):
                    raise ValueError("a shape that is none")
                specs.append(_TensorSpec(entry["name"], entry["dtype"], shape))
                chunks.append(tags(entry["chunks"]))
                (tag,) = tags(entry["tag"])
                whole.append(tag)
            if len(nonce) != NONCE_SIZE or len({spec.name for spec in specs}) != len(specs):
                raise ValueError("a nonce of another size, or a name twice")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"these are no tags of tensors: {error}") from None
        return cls(nonce, chunk_size, specs, chunks, whole)


def mac_tensors(
    tensors: Mapping[str, Any],
    key: Any,
    *,
    nonce: Any = None,
    chunk_size: int = _CHUNK_SIZE,
    backend: str | None = None,
) -> TensorTags:
    """A tag for every tensor of a state dict, computed on the device that holds it.

    ``key`` is 32 random bytes. ``nonce`` is 16 bytes, which are drawn at random unless they are given. The
    same nonce must not be used for different tensors under one key: see docs/guide/mac_tensors.md.
    ``chunk_size`` is in bytes, a multiple of 16; a chunk is what a mismatch names. The call does not wait for
    the devices.

    Raises TypeError for a name that is not a str or a value that is not a tensor with dense bytes, and
    ValueError for an impossible key, nonce or chunk size.
    """
    key, nonce = _sized(key, "key", KEY_SIZE), _sized(nonce, "nonce", NONCE_SIZE)
    _check_chunk_size(chunk_size)
    specs, data = [], []
    for name, tensor in tensors.items():
        specs.append(_TensorSpec.of(name, tensor))
        try:
            data.append(tensor_bytes(tensor))
        except (TypeError, ValueError) as error:
            raise type(error)(f"tensor {name!r}: {error}") from error
    chunks: list[Any] = [None] * len(data)
    tags: list[Any] = [None] * len(data)
    for device in dict.fromkeys(view.device for view in data):
        here = [i for i, view in enumerate(data) if view.device == device]
        identities = [specs[i].identity() for i in here]
        found = _chunk_tags([data[i] for i in here], identities, key, nonce, chunk_size, backend)
        whole = _tensor_tags(found, identities, key, nonce, backend)
        for i, chunk_tags, tag in zip(here, found, whole, strict=True):
            chunks[i], tags[i] = chunk_tags, tag
    return TensorTags(nonce, chunk_size, specs, chunks, tags)


def _chunk_tags(
    data: Sequence[torch.Tensor],
    identities: Sequence[bytes],
    key: bytes,
    nonce: bytes,
    chunk_size: int,
    backend: str | None,
) -> list[torch.Tensor]:
    """The tags of every tensor's chunks, uint8 ``[chunks, 16]``, for tensors on one device."""
    import numpy as np
    import torch

    device = data[0].device
    counts = [-(-view.numel() // chunk_size) for view in data]
    total = sum(counts)
    # The pseudorandom function's inputs: first that for r, then one for each chunk's pad.
    inputs = np.zeros((1 + total, 64), np.uint8)
    inputs[0, :24] = np.frombuffer(_R + nonce, np.uint8)
    inputs[1:, :24] = np.frombuffer(_PAD + nonce, np.uint8)
    if total:
        known = np.frombuffer(b"".join(identities), np.uint8).reshape(-1, 32)
        inputs[1:, 24:56] = np.repeat(known, counts, axis=0)
        numbers = np.concatenate([np.arange(count, dtype="<u8") for count in counts])
        inputs[1:, 56:] = numbers.view(np.uint8).reshape(-1, 8)
    outputs = run_batch(
        algorithms.get("blake3"),
        {"key": key},
        Rows.of(moved(torch.from_numpy(inputs), device)),
        TAG_SIZE,
        backend=backend,
    )
    keys = torch.cat([outputs[:1].expand(total, -1), outputs[1:]], dim=1)
    views = [view[i : i + chunk_size] for view in data for i in range(0, view.numel(), chunk_size)]
    tags = run_batch(
        algorithms.get("poly1305"),
        {"key": PerMessage(keys, shared=16)},
        Ragged(views, device),
        TAG_SIZE,
        backend=backend,
    )
    keys.zero_()
    outputs.zero_()
    return list(torch.split_with_sizes(tags, counts))


def _tensor_tags(
    chunk_tags: Sequence[torch.Tensor],
    identities: Sequence[bytes],
    key: bytes,
    nonce: bytes,
    backend: str | None,
) -> torch.Tensor:
    """The tags of tensors, made of their chunks' tags: uint8 ``[n, 16]``."""
    import torch

    device = chunk_tags[0].device
    heads = b"".join(
        _TAG + nonce + identity + len(tags).to_bytes(8, "little")
        for tags, identity in zip(chunk_tags, identities, strict=True)
    )
    heads_there = moved(torch.frombuffer(bytearray(heads), dtype=torch.uint8).view(-1, 64), device)
    messages = [
        torch.cat([head, tags.reshape(-1)]) for head, tags in zip(heads_there, chunk_tags, strict=True)
    ]
    return run_batch(
        algorithms.get("blake3"), {"key": key}, Ragged(messages, device), TAG_SIZE, backend=backend
    )


def _sized(value: Any, name: str, size: int) -> bytes:
    if value is None and name == "nonce":
        return secrets.token_bytes(size)
    try:
        data = bytes(buffer_view(value))
    except TypeError:
        raise TypeError(f"{name} must be bytes-like, not {type(value).__name__}") from None
    if len(data) != size:
        raise ValueError(f"{name} must be {size} bytes long, not {len(data)}")
    return data


def _check_chunk_size(chunk_size: Any) -> None:
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int):
        raise TypeError(f"chunk_size must be int, not {type(chunk_size).__name__}")
    if chunk_size % 16 or not 16 <= chunk_size <= _MOST_CHUNK_SIZE:
        raise ValueError(f"chunk_size must be a multiple of 16 from 16 to 2**40, not {chunk_size}")


def _listed(names: Sequence[str], *, quoted: bool = True, most: int = 8) -> str:
    shown = [repr(name) if quoted else name for name in names[:most]]
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join(shown + more)


def _places(chunks: Sequence[bool], chunk_size: int) -> str:
    wrong = [i for i, differs in enumerate(chunks) if differs]
    first = wrong[0]
    if len(wrong) == 1:
        return f"chunk {first} of {len(chunks)}, from byte {first * chunk_size} on"
    return f"{len(wrong)} chunks of {len(chunks)}, the first from byte {first * chunk_size} on"
