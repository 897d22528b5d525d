"""Hash objects with the interface of hashlib: ``new``, the constructors, ``update``, ``digest``."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable
from typing import Any

from . import algorithms
from .algorithms import Algorithm
from .algorithms.package_name import IMPORTED_AS
from .backends.registry import requested, select
from .errors import IntegrityError
from .messages.batches import pieces
from .messages.from_caller import message_view, tuple_parts
from .messages.parameters import checked_parameters, octet_string
from .messages.stream import Stream
from .messages.tensors import is_tensor


class Hash:
    """A running hash or MAC of one message, with the interface of :mod:`hashlib` objects.

    Data is bytes-like, or a torch tensor of any dtype on any device, whose bytes are its elements in C order,
    little-endian. A tensor whose memory does not hold its elements raises ValueError, and a tensor without
    bytes of its own, such as a sparse one or a DTensor, raises TypeError, which says what to hash instead.

    If no backend was asked for, the first tensor that holds data decides: a tree hash runs where that tensor
    is, and a sequential hash runs in the CPU library, because one message occupies only one lane of a device.

    Objects are made by :func:`new` or by an algorithm's constructor.

    Threads may share an object: each call is complete before the next one begins. If an exception, such as an
    interrupt, ends an update early, it is not known which part of the data was absorbed. Every later call
    then raises RuntimeError instead of giving the digest of another message.
    """

    __slots__ = ("_algorithm", "_backend", "_lock", "_parameters", "_stream", "_whole")

    def __init__(self, algorithm: Algorithm, parameters: dict[str, Any], backend: str | None) -> None:
        self._algorithm = algorithm
        self._parameters = parameters
        self._backend = backend
        self._stream: Stream | None = None
        self._lock = threading.RLock()
        self._whole = True  # no update is going on, and none was broken off
        if requested(backend) is not None:
            self._open("cpu", None)  # a request that cannot be met fails here, not at the first update

    def _open(self, device_type: str, device: Any) -> Stream:
        backend = select(self._algorithm, device_type, messages=None, backend=self._backend)
        self._stream = backend.stream(self._algorithm, self._parameters, device)
        return self._stream

    @property
    def name(self) -> str:
        return self._algorithm.name

    @property
    def digest_size(self) -> int:
        """Bytes in the digest; for an extendable output, the default length."""
        return self._algorithm.size(self._parameters)

    @property
    def block_size(self) -> int:
        return self._algorithm.block_size

    def update(self, data: Any, /) -> None:
        """Append ``data`` to the message. For a hash of tuples ``data`` is a tuple or list of strings.

        Raises TypeError for text, objects that are not bytes-like and tensors without plain bytes,
        BufferError for a buffer that is not C-contiguous, and RuntimeError if an exception broke off an
        earlier update.
        """
        parts = tuple_parts(data, self.name) if self._algorithm.takes_tuples else [message_view(data)]
        filled = [view for view in parts if view.nbytes]
        if not filled:
            return
        with self._lock:
            self._check_whole()
            if self._stream is None:
                first = filled[0]
                on = first.device if is_tensor(first) else None
                self._open("cpu" if on is None else on.type, on)
            assert self._stream is not None
            self._whole = False
            for view in filled:
                for piece in pieces(view) if is_tensor(view) else (view,):
                    self._stream.update(piece)
            self._whole = True

    def _check_whole(self) -> None:
        if not self._whole:
            raise RuntimeError(
                f"{self.name}: an update of this object was broken off by an exception or is still going on, "
                "so its message is not known; make a new object"
            )

    def digest(self, length: int | None = None, *, seek: int = 0) -> bytes:
        """The digest of the message so far; more data may be added afterwards.

        ``length`` (bytes) is for extendable outputs only, ``seek`` (byte offset into the output) for those
        that are seekable. Raises ValueError for a negative or impossible value, and TypeError for a value
        that is not an int or if the algorithm has no default length.
        """
        if not self._algorithm.xof and (length is not None or seek != 0):
            raise TypeError(f"{self.name} has a fixed digest; digest() takes no length or seek")
        length = self._algorithm.check_length(length, self._parameters)
        if isinstance(seek, bool) or not isinstance(seek, int):
            raise TypeError(f"seek must be int, not {type(seek).__name__}")
        if seek and not self._algorithm.seekable:
            raise TypeError(f"{self.name} gives its output in order; digest() takes no seek")
        end = self._algorithm.output_end(self._parameters) if self._algorithm.xof else length
        if seek < 0 or seek + length > end:
            limit = "2**64" if end == 1 << 64 else str(end)
            raise ValueError(f"seek must be between 0 and {limit} - length, got {seek}")
        with self._lock:
            self._check_whole()
            return (self._stream or self._open("cpu", None)).digest(length, seek)

    def hexdigest(self, length: int | None = None, *, seek: int = 0) -> str:
        """:meth:`digest` in lower-case hexadecimal."""
        return self.digest(length, seek=seek).hex()

    def copy(self) -> Hash:
        """An independent hash object in the same state."""
        twin = object.__new__(type(self))
        twin._algorithm = self._algorithm
        twin._parameters = self._parameters
        twin._backend = self._backend
        twin._lock = threading.RLock()
        with self._lock:
            self._check_whole()
            twin._stream = None if self._stream is None else self._stream.copy()
        twin._whole = True
        return twin

    def verify(self, tag: Any, /) -> None:
        """Check the message's tag in constant time. This needs a keyed algorithm.

        ``tag`` is bytes-like or a 1-D uint8 tensor of ``digest_size`` bytes. Raises IntegrityError if
        it is not this message's tag, its length included; TypeError if this object has no key.
        """
        if "key" not in self._parameters:
            raise TypeError(f"{self.name} without a key gives a digest, not a tag to verify")
        if not hmac.compare_digest(octet_string(tag, "tag"), self.digest()):
            raise IntegrityError(f"{self.name}: the tag does not match the message")

    def __repr__(self) -> str:
        return f"<{self.name} integrity_triton.Hash>"

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle a running {self.name} hash")


def new(name: str, data: Any = b"", /, *, key: Any = None, backend: str | None = None, **params: Any) -> Hash:
    """A hash object for the algorithm ``name``, as :func:`hashlib.new`.

    ``data`` is the first part of the message, or for a hash of tuples, a tuple or list of byte strings.
    ``key`` and ``params`` are the algorithm's own parameters. ``usedforsecurity`` is accepted and has no
    effect, because every algorithm stays available. Raises ValueError for an unknown name, a bad key length
    or an unsuitable parameter, TypeError for a parameter of the wrong type, and BackendUnavailable for a
    backend that was asked for and cannot run.
    """
    return _construct(algorithms.get(name), data, key, backend, params)


def _construct(
    algorithm: Algorithm, data: Any, key: Any, backend: str | None, params: dict[str, Any]
) -> Hash:
    bool(params.pop("usedforsecurity", True))  # like hashlib, accept anything that has a truth value
    hasher = Hash(algorithm, checked_parameters(algorithm, {"key": key, **params}), backend)
    # The default data means an empty tuple for an algorithm that hashes tuples.
    hasher.update(() if algorithm.takes_tuples and isinstance(data, bytes) and not data else data)
    return hasher


def constructor(algorithm: Algorithm) -> Callable[..., Hash]:
    """The function ``integrity_triton.NAME`` of an algorithm."""

    def construct(data: Any = b"", /, *, key: Any = None, backend: str | None = None, **params: Any) -> Hash:
        return _construct(algorithm, data, key, backend, params)

    construct.__name__ = construct.__qualname__ = algorithm.name
    construct.__module__ = IMPORTED_AS
    lines = [f"A running {algorithm.name} ({algorithm.standard}): {algorithm.security_note}.", ""]
    lines += [f"{p.name}: {p.doc}." for p in algorithm.parameters]
    construct.__doc__ = "\n".join(lines).rstrip()
    return construct
