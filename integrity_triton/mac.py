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
from .eager import digests_of
from .errors import BackendUnavailable, IntegrityError
from .hashing import new
from .messages.copying import clear, side_by_side
from .messages.from_caller import chunks_of_tensors
from .messages.layout import Ragged, Rows
from .messages.moving import moved
from .messages.parameters import octet_string
from .messages.per_message import PerMessage
from .messages.tensors import check_has_bytes, flattened, is_tensor, is_traced, named
from .strict_json import check_members, check_sizes, parse_hex, parse_object, shown

if TYPE_CHECKING:
    import torch

__all__ = ["TagMismatch", "TensorTags", "mac_tensors"]

KEY_SIZE, NONCE_SIZE, TAG_SIZE = 32, 16, 16
_FORMAT = "integrity_triton mac_tensors 1"
_FIELDS: Mapping[str, type] = {"format": str, "nonce": str, "chunk_size": int, "tensors": list}
_TENSOR_FIELDS: Mapping[str, type] = {"name": str, "dtype": str, "shape": list, "tag": str, "chunks": str}
# Each use of the pseudorandom function begins with its own prefix.
_R, _PAD, _TAG = b"ITmac1.r", b"ITmac1.p", b"ITmac1.t"
_CHUNK_SIZE = 4 << 20
_MOST_CHUNK_SIZE = 1 << 40


class TagMismatch(IntegrityError):
    """The tensors are not those that were tagged."""

    def __init__(self, message: str, mismatches: Sequence[tuple[str, int | None]] = ()) -> None:
        super().__init__(message)
        self.mismatches = tuple(mismatches)
        """Names of tensors, each with the index of a chunk that differs, or with None for the whole
        tensor."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.mismatches), self.__dict__


@dataclass(frozen=True)
class _TensorSpec:
    """A tensor's name, dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        try:
            self.name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"tensor name {shown(self.name)} has a lone surrogate, which is not text"
            ) from None

    @classmethod
    def of(cls, name: Any, tensor: Any) -> _TensorSpec:
        if not isinstance(name, str):
            raise TypeError(f"a tensor is named by a str, not {type(name).__name__}")
        if not is_tensor(tensor):
            raise TypeError(f"{name!r} is a {type(tensor).__name__}, not a tensor")
        with named(f"tensor {name!r}"):
            check_has_bytes(tensor)
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
        With ``partial``, some of the tagged tensors may be missing, but not all of them.

        Raises TagMismatch, which names the tensors and chunks that differ, or the tensors that are missing,
        unknown or of another dtype or shape. Otherwise raises as :func:`mac_tensors` does. Waits for the
        devices once.
        """
        if is_traced():
            from . import ops

            ops.untraced_verify(self, tensors, key, partial, backend)
        else:
            self._verify(tensors, key, partial, backend)

    def _verify(self, tensors: Mapping[str, Any], key: Any, partial: bool, backend: str | None) -> None:
        """See :meth:`verify`."""
        tensors = flattened(tensors)
        found = [_TensorSpec.of(name, tensor) for name, tensor in tensors.items()]
        unknown = [spec.name for spec in found if spec.name not in self._index]
        if unknown:
            raise TagMismatch(f"no tag for {_listed(unknown)}", [(name, None) for name in unknown])
        missing = [name for name in self._index if name not in tensors]
        if missing and not (partial and found):
            raise TagMismatch(f"missing: {_listed(missing)}", [(name, None) for name in missing])
        for spec in found:
            tagged = self._specs[self._index[spec.name]]
            if spec != tagged:
                raise TagMismatch(f"{spec.name!r} is {spec}, and {tagged} was tagged", [(spec.name, None)])
        now = tags_of(tensors, key, self.nonce, self.chunk_size, backend)
        for spec in now._specs:
            tags, expected = len(self.chunk_tags(spec.name)), len(now.chunk_tags(spec.name))
            if tags != expected:
                raise TagMismatch(
                    f"{spec.name!r} has {expected} chunks, and the tags of {tags} are given",
                    [(spec.name, None)],
                )
        mismatches: list[tuple[str, int | None]] = []
        told = []
        for name, (*chunks, whole) in self._differing(now).items():
            if any(chunks):
                mismatches += [(name, i) for i, differs in enumerate(chunks) if differs]
                told.append(f"{name!r}: {_places(chunks, self.chunk_size)}")
            elif whole:
                mismatches.append((name, None))
                told.append(repr(name))
        if mismatches:
            raise TagMismatch(f"the tags do not match: {_listed(told, quoted=False)}", mismatches)

    def _differing(self, now: TensorTags) -> dict[str, list[bool]]:
        """For each tensor of ``now``, whether each chunk's tag and at last its whole tag differ.

        The time does not depend on the bytes of the tags: each device compares all of them by the same
        operations, without an early end, before the first result is fetched.
        """
        import torch

        by_device: dict[torch.device, list[str]] = {}
        for name in now.names:
            by_device.setdefault(now.chunk_tags(name).device, []).append(name)
        queued = []
        for device, names in by_device.items():
            queued.append((now._joined(names, device) ^ self._joined(names, device)).sum(dim=1) != 0)
        found = {}
        for names, differing in zip(by_device.values(), queued, strict=True):
            counts = [len(now.chunk_tags(name)) for name in names]
            *chunks, whole = torch.split_with_sizes(differing.cpu(), [*counts, len(names)])
            for name, flags, tag in zip(names, chunks, whole.tolist(), strict=True):
                found[name] = [*flags.tolist(), tag]
        return {name: found[name] for name in now.names}

    def _joined(self, names: Sequence[str], device: torch.device) -> torch.Tensor:
        """The tags of all chunks of some tensors, then the tensors' tags: uint8 ``[n, 16]`` on ``device``."""
        import torch

        tags = [self.chunk_tags(name) for name in names]
        tags += [self._tags[self._index[name]].view(1, TAG_SIZE) for name in names]
        # Tags that were stored are on the CPU: one copy to the device, and not one for each tensor.
        if len({tag.device for tag in tags}) == 1:
            return torch.cat(tags).to(device)
        return torch.cat([tag.to(device) for tag in tags])

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
    def from_json(cls, text: str | bytes | bytearray) -> TensorTags:
        """The tags that :meth:`to_json` wrote, which may have been changed on the way.

        Raises ValueError for a text of another form, and TypeError for an argument of another type. Only
        :meth:`verify` shows whether the tags belong to the tensors.
        """
        import torch

        if not isinstance(text, str | bytes | bytearray):
            raise TypeError(f"tags are parsed from str or bytes, not from {type(text).__name__}")

        def tags(value: str, what: str) -> torch.Tensor:
            data = parse_hex(value, what)
            if len(data) % TAG_SIZE:
                raise ValueError(
                    f"the field {what!r} must hold tags of {TAG_SIZE} bytes, not {len(data)} bytes"
                )
            tensor = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
            return tensor.view(-1, TAG_SIZE)

        try:
            document = parse_object(text)
            if document.get("format") != _FORMAT:
                raise ValueError(f"the field 'format' must be {_FORMAT!r}")
            check_members(document, _FIELDS)
            nonce, chunk_size = parse_hex(document["nonce"], "nonce"), document["chunk_size"]
            _check_chunk_size(chunk_size)
            if len(nonce) != NONCE_SIZE:
                raise ValueError(f"the nonce must be {NONCE_SIZE} bytes long, not {len(nonce)}")
            specs, chunks, whole = [], [], []
            for entry in document["tensors"]:
                if not isinstance(entry, dict):
                    raise ValueError("a tensor must be an object")
                check_members(entry, _TENSOR_FIELDS)
                shape = check_sizes(entry["shape"], "shape")
                if any(size >= 1 << 63 for size in shape):
                    raise ValueError("a dimension must be less than 2**63")
                specs.append(_TensorSpec(entry["name"], entry["dtype"], shape))
                chunks.append(tags(entry["chunks"], "chunks"))
                tag = tags(entry["tag"], "tag")
                if len(tag) != 1:
                    raise ValueError(f"the field 'tag' must hold one tag, not {len(tag)}")
                whole.append(tag[0])
            if len({spec.name for spec in specs}) != len(specs):
                raise ValueError("a tensor is listed twice")
        except ValueError as error:
            raise ValueError(f"these are not tags of tensors: {error}") from None
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

    A tensor that torch can flatten into others, such as a quantised weight of torchao, has a tag for each of
    its parts; docs/reference/manifest.md defines their names.

    Raises TypeError for a name that is not a str or a value that is not a tensor with dense bytes, and
    ValueError for a tensor whose memory was freed and for an impossible key, nonce or chunk size. The message
    names the tensor.
    """
    if is_traced():
        from . import ops

        return ops.untraced_mac_tensors(tensors, key, nonce, chunk_size, backend)
    return tags_of(tensors, key, nonce, chunk_size, backend)


def tags_of(
    tensors: Mapping[str, Any], key: Any, nonce: Any, chunk_size: int, backend: str | None
) -> TensorTags:
    """See :func:`mac_tensors`."""
    key, nonce = _sized(key, "key", KEY_SIZE), _sized(nonce, "nonce", NONCE_SIZE)
    _check_chunk_size(chunk_size)
    specs, data = [], []
    for name, tensor in flattened(tensors).items():
        specs.append(_TensorSpec.of(name, tensor))
        data.append(tensor)
    chunks: list[Any] = [None] * len(data)
    tags: list[Any] = [None] * len(data)
    for device in dict.fromkeys(view.device for view in data):
        here = [i for i, view in enumerate(data) if view.device == device]
        identities = [specs[i].identity() for i in here]
        found = chunk_tags([data[i] for i in here], identities, key, nonce, chunk_size, backend)
        whole = _tensor_tags(found, identities, key, nonce, backend)
        for i, own, tag in zip(here, found, whole, strict=True):
            chunks[i], tags[i] = own, tag
    return TensorTags(nonce, chunk_size, specs, chunks, tags)


def tensor_identity(name: str, tensor: torch.Tensor) -> bytes:
    """The 32 bytes that stand for a tensor's name, dtype and shape in its tags."""
    return _TensorSpec.of(name, tensor).identity()


def chunk_tags(
    data: Sequence[torch.Tensor],
    identities: Sequence[bytes],
    key: bytes,
    nonce: bytes,
    chunk_size: int,
    backend: str | None,
    *,
    firsts: Sequence[int] | None = None,
) -> list[torch.Tensor]:
    """The tags of every tensor's chunks, uint8 ``[chunks, 16]``, for tensors on one device.

    ``data`` may also hold the bytes of parts of tensors, each of which begins with a whole chunk; ``firsts``
    are then the numbers of these chunks, and ``identities`` those of the whole tensors.
    """
    import numpy as np
    import torch

    device = data[0].device
    counts = [-(-x.nbytes // chunk_size) for x in data]
    total = sum(counts)
    # The pseudorandom function's inputs: first that for r, then one for each chunk's pad.
    inputs = np.zeros((1 + total, 64), np.uint8)
    inputs[0, :24] = np.frombuffer(_R + nonce, np.uint8)
    inputs[1:, :24] = np.frombuffer(_PAD + nonce, np.uint8)
    if total:
        known = np.frombuffer(b"".join(identities), np.uint8).reshape(-1, 32)
        inputs[1:, 24:56] = np.repeat(known, counts, axis=0)
        starts = firsts or [0] * len(counts)
        numbers = np.concatenate(
            [
                np.arange(start, start + count, dtype="<u8")
                for start, count in zip(starts, counts, strict=True)
            ]
        )
        inputs[1:, 56:] = numbers.view(np.uint8).reshape(-1, 8)
    outputs = run_batch(
        algorithms.get("blake3"),
        {"key": key},
        Rows.of(moved(torch.from_numpy(inputs), device)),
        TAG_SIZE,
        backend=backend,
    )
    keys = side_by_side([outputs[:1].expand(total, -1), outputs[1:]])
    tags = digests_of(
        algorithms.get("poly1305"),
        {"key": PerMessage(keys, shared=16)},
        chunks_of_tensors(data, chunk_size),
        TAG_SIZE,
        backend,
    )
    clear(keys)
    clear(outputs)
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
    data = octet_string(value, name)
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
