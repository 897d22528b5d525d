"""CPU libraries: hashlib and the Rust blake3. This backend is always available, and the others are compared
to it."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...algorithms import Algorithm, load_reference
from ...algorithms import get as get_algorithm
from ...messages.layout import Messages, Rows
from ...messages.per_message import PerMessage
from ...messages.stream import Stream
from ...messages.tensors import host_memory
from ...workers import Workers
from ..base import Backend, Probe

if TYPE_CHECKING:
    import torch

# Below this many bytes a worker thread costs more than it saves (hashlib also keeps the GIL for
# inputs under 2 KiB).
_BYTES_WORTH_A_THREAD = 1 << 16
_LEAST_MESSAGE_WORTH_A_THREAD = 1 << 12
_PIECE_OF_ONE_THREAD = 1024  # bytes; the Rust blake3 never divides a single chunk among threads


def usable_cpus() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_caller = threading.local()


@contextmanager
def in_calling_thread() -> Iterator[None]:
    """Batches that the calling thread hashes while the block runs, and hash objects whose first data it gives
    them meanwhile, take no other thread, so that work in the background never has more than one processor."""
    before = getattr(_caller, "alone", False)
    _caller.alone = True
    try:
        yield
    finally:
        _caller.alone = before


def _alone() -> bool:
    return getattr(_caller, "alone", False)


def _host_bytes(view: Any) -> Any:
    """A flat memoryview or contiguous uint8 tensor as something a CPU library reads in place."""
    if isinstance(view, memoryview | bytes):
        return view
    return host_memory(view.cpu())


_forks = 0  # how many forks lie between this process and the one that imported this module


def _after_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _NativeStream(Stream):
    def __init__(self, algorithm: Algorithm, hasher: Any) -> None:
        self._algorithm = algorithm
        self._hasher = hasher
        self._forks = _forks

    def update(self, data: Any) -> None:
        view = _host_bytes(data)
        if self._forks == _forks or not self._algorithm.native_one_message:
            self._hasher.update(view)
            return
        # The library's threads, to which it gives larger pieces, do not survive a fork.
        view = memoryview(view)
        for start in range(0, len(view), _PIECE_OF_ONE_THREAD):
            self._hasher.update(view[start : start + _PIECE_OF_ONE_THREAD])

    def digest(self, length: int, seek: int) -> bytes:
        return _squeeze(self._algorithm, self._hasher, length, seek)

    def copy(self) -> Stream:
        twin = _NativeStream(self._algorithm, self._hasher.copy())
        twin._forks = self._forks
        return twin


def _squeeze(algorithm: Algorithm, hasher: Any, length: int, seek: int) -> bytes:
    if not algorithm.xof:
        output = hasher.digest()
    elif not length:  # libraries refuse to seek the very end
        output = b""
    elif seek:
        output = hasher.digest(length, seek=seek)
    else:
        output = hasher.digest(length)
    return bytes(output)


class NativeBackend(Backend):
    name = "native"
    summary = "CPU libraries: hashlib and the Rust blake3"
    device_types = ("cpu",)

    def __init__(self) -> None:
        self._pools: dict[int, Workers] = {}  # by process: threads do not survive a fork
        self._threads = usable_cpus()

    def probe(self) -> Probe:
        return Probe(True, f"{self._threads} CPU threads", ("cpu",))

    def unsupported(self, algorithm: Algorithm) -> str | None:
        if algorithm.native is None:
            return "no CPU library has it"
        try:
            load_reference(algorithm.native)
        except (ImportError, AttributeError) as error:
            return f"its CPU library cannot be loaded: {error}"
        return None

    def is_default(self, algorithm: Algorithm, device_type: str, *, messages: Messages | None) -> bool:
        return True

    def _workers(self) -> Workers:
        workers = self._pools.get(os.getpid())
        # Those that another thread has just made take the place of these, which have no threads yet.
        return workers or self._pools.setdefault(os.getpid(), Workers(self._threads))

    def _new(self, algorithm: Algorithm, parameters: Mapping[str, Any], *, one_message: bool) -> Any:
        # A library's own threads do not survive a fork, after which it would wait for them for ever.
        extra = algorithm.native_one_message if one_message and not _forks else {}
        assert algorithm.native is not None
        return load_reference(algorithm.native)(**parameters, **extra)

    def stream(
        self, algorithm: Algorithm, parameters: Mapping[str, Any], device: torch.device | None = None
    ) -> Stream:
        return _NativeStream(algorithm, self._new(algorithm, parameters, one_message=not _alone()))

    def pbkdf2(
        self,
        algorithm: Algorithm,
        passwords: PerMessage,
        salts: bytes | PerMessage,
        iterations: int,
        length: int,
        device: torch.device,
    ) -> torch.Tensor:
        import torch

        name = _openssl_name(algorithm)
        if name is None:
            return super().pbkdf2(algorithm, passwords, salts, iterations, length, device)

        def run(i: int) -> bytes:
            salt = salts if isinstance(salts, bytes) else salts[i]
            return hashlib.pbkdf2_hmac(name, passwords[i], salt, iterations, length)

        try:
            joined = bytearray(b"".join(self._workers().map(run, [(i,) for i in range(len(passwords))])))
        except ValueError:  # this OpenSSL does not know the hash by this name
            return super().pbkdf2(algorithm, passwords, salts, iterations, length, device)
        out = torch.frombuffer(joined or bytearray(1), dtype=torch.uint8)[: len(joined)]
        return out.view(len(passwords), length).to(device)

    def chunk_values(self, algorithm: Algorithm, data: torch.Tensor, first: int) -> torch.Tensor:
        if algorithm.name != "blake3":
            return super().chunk_values(algorithm, data, first)
        import torch

        from . import blake3_nodes

        values = blake3_nodes.chunk_values(host_memory(data.cpu()), first)
        return torch.from_numpy(values).to(data.device)

    def parent_values(
        self, algorithm: Algorithm, children: torch.Tensor, *, root: bool = False
    ) -> torch.Tensor:
        if algorithm.name != "blake3":
            return super().parent_values(algorithm, children, root=root)
        import torch

        from . import blake3_nodes

        values = blake3_nodes.parent_values(host_memory(children.cpu()), root)
        return torch.from_numpy(values).to(children.device)

    def digest_batch(
        self, algorithm: Algorithm, parameters: Mapping[str, Any], messages: Messages, length: int
    ) -> torch.Tensor:
        import numpy as np
        import torch

        each = {name: value for name, value in parameters.items() if isinstance(value, PerMessage)}

        def fresh(i: int) -> Any:
            values = {**parameters, **{name: value[i] for name, value in each.items()}}
            return self._new(algorithm, values, one_message=messages.count == 1 and not _alone())

        # Copying one keyed or personalised hasher for each message runs the key schedule only once.
        shared = None if each else fresh(0)
        message, size = _message_reader(messages)

        def run(first: int, last: int) -> bytes:
            digests = []
            for i in range(first, last):
                hasher = fresh(i) if shared is None else shared
                if hasattr(hasher, "digest_of"):  # this is faster for a complete message
                    digests.append(hasher.digest_of(message(i)))
                else:
                    hasher = hasher.copy()
                    hasher.update(message(i))
                    digests.append(_squeeze(algorithm, hasher, length, 0))
            return b"".join(digests)

        # Ragged batches have a few long messages among many short ones; small spans balance the threads.
        spans = min(messages.count, size // _BYTES_WORTH_A_THREAD, 64 * self._threads)
        short = size < messages.count * _LEAST_MESSAGE_WORTH_A_THREAD
        if spans <= 1 or self._threads == 1 or short or _alone():
            joined = run(0, messages.count)
        else:
            edges = [messages.count * s // spans for s in range(spans + 1)]
            joined = b"".join(self._workers().map(run, list(itertools.pairwise(edges))))
        out = torch.from_numpy(np.frombuffer(bytearray(joined), dtype=np.uint8))
        return out.view(messages.count, length).to(messages.device)


def _openssl_name(algorithm: Algorithm) -> str | None:
    """OpenSSL's name of the hash that an HMAC uses; None if OpenSSL does not have it."""
    hash_name = algorithm.construction.hmac_of
    assert hash_name is not None
    module, _, name = (get_algorithm(hash_name).native or "").partition(":")
    return name if module in ("hashlib", "integrity_triton.algorithms.openssl") else None


def _message_reader(messages: Messages) -> tuple[Callable[[int], Any], int]:
    """A function from a message's index to its bytes on the host, and the total size of all messages."""
    if not isinstance(messages, Rows):
        views = messages.views
        return (lambda i: _host_bytes(views[i])), sum(view.numel() for view in views)
    host = messages.data.cpu()
    if host.dim() == 2:  # the rows of a strided tensor, each of which is dense
        import torch

        return (lambda i: _host_bytes(host[i].view(torch.uint8))), messages.count * messages.length
    flat = memoryview(host_memory(host))  # type: ignore[arg-type]

    def row(i: int) -> memoryview:
        start = i * messages.stride
        return flat[start : start + messages.row_length(i)]

    return row, messages.total
