"""What several tests share: oracles, symbolic lengths, parameter variants, guarded memory."""

from __future__ import annotations

import ctypes
import functools
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm, Parameter, load_reference
from integrity_triton.backends import registry
from integrity_triton.backends.triton_backend import TritonBackend
from integrity_triton.drivers import driver_class
from integrity_triton.drivers.crc import CRC_FOLD
from integrity_triton.drivers.iterated import HASH_MESSAGES
from integrity_triton.drivers.poly1305 import POLY1305_PARTS
from integrity_triton.launching.launch import Launch

# Oracles for machines that do not have the library. Each is itself compared with that library.
PLAIN_ORACLES = {
    "blake3": "oracles.blake3_plain:blake3",
    "xxh64": "oracles.xxhash_plain:xxh64",
    "xxh3_64": "oracles.xxhash_plain:xxh3_64",
    "xxh3_128": "oracles.xxhash_plain:xxh3_128",
    "cmac_aes": "oracles.aes_plain:cmac_aes",
    "gmac_aes": "oracles.aes_plain:gmac_aes",
}
# The interpreter takes up to a tenth of a second for a block.
EXAMPLES = {"native": 30, "interpreter": 3}
LONGEST = {"interpreter": 32_000}
MOST_OUTPUT = 1000


def interruptible(command: list[str]) -> list[str]:
    """Return a command that starts ``command`` with the default action of SIGINT.

    A shell starts jobs in the background with SIGINT ignored, and all processes below inherit that.
    """
    default = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)"
    return [sys.executable, "-c", f"{default}; os.execv(sys.argv[1], sys.argv[1:])", *command]


def interrupted_at(instruction: int, work: Callable[[], Any], folder: str) -> bool:
    """Call ``work``, and raise KeyboardInterrupt before the instruction with this number, among those of code
    in ``folder`` that this thread runs. Return whether there are so many instructions."""
    count = itertools.count()

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(folder):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and next(count) == instruction:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def pattern(length: int) -> bytes:
    """The bytes 0 to 250, repeated. Their period is coprime to the size of every block and chunk."""
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def oracle(
    record: Algorithm, data: bytes, *, length: int | None = None, seek: int = 0, **params: Any
) -> bytes:
    params = {**required(record), **params}
    if not record.xof:
        length = None
    elif length is None:
        length = params.get("digest_size", size_of(record))
    # The same patterns are hashed again and again, and some oracles are written in plain Python.
    answer = _remembered if isinstance(data, bytes) and len(data) <= 4096 else _answer
    return answer(record.oracle, PLAIN_ORACLES.get(record.name), data, length, seek, **params)


def _answer(
    reference: str, instead: str | None, data: bytes, length: int | None, seek: int, **params: Any
) -> bytes:
    try:
        make = load_reference(reference)
    except (ImportError, AttributeError):
        if instead is None:
            raise
        make = load_reference(instead)
    hasher = make(data, **params)
    if length is None:
        return hasher.digest()
    return hasher.digest(length, seek=seek) if seek else hasher.digest(length)


_remembered = functools.lru_cache(20_000)(_answer)


def required(record: Algorithm) -> dict[str, Any]:
    """Values for the parameters that a caller must give."""
    return {p.name: example(p) for p in record.parameters if p.name in record.required}


def example(parameter: Parameter) -> bytes:
    size = parameter.sizes[-1] if parameter.sizes else parameter.max_size or max(16, parameter.min_size or 0)
    return pattern(size + 1)[1:]


def size_of(record: Algorithm) -> int:
    """The number of bytes in a digest of the default length; 32 if the algorithm has no default."""
    return record.digest_size or 32


def _sized(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    record = algorithms.get(name)
    kwargs = {**required(record), **kwargs}
    return kwargs if record.digest_size else {"length": size_of(record), **kwargs}


def hash_batch(messages: Any, name: str, **kwargs: Any) -> torch.Tensor:
    """The function of the package, with a length for algorithms that need one."""
    return it.hash_batch(messages, name, **_sized(name, kwargs))


def hash_chunks(data: Any, name: str, **kwargs: Any) -> torch.Tensor:
    return it.hash_chunks(data, name, **_sized(name, kwargs))


class new:
    """The class of the package, with a length for algorithms whose ``digest`` needs one."""

    def __init__(self, name: str, *args: Any, **kwargs: Any) -> None:
        self._hasher = it.new(name, *args, **{**required(algorithms.get(name)), **kwargs})
        self._lengths = () if algorithms.get(name).digest_size else (size_of(algorithms.get(name)),)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hasher, name)

    def digest(self, *args: Any, **kwargs: Any) -> bytes:
        return self._hasher.digest(*(args or self._lengths), **kwargs)

    def hexdigest(self) -> str:
        return self._hasher.hexdigest(*self._lengths)

    def copy(self) -> new:
        twin = object.__new__(new)
        twin._hasher, twin._lengths = self._hasher.copy(), self._lengths
        return twin


def kernel_family(record: Algorithm) -> Any:
    """Return a value that is equal for algorithms that run the same kernels. For an HMAC, the kernels are
    those of its hash."""
    hash_name = record.construction.hmac_of
    if hash_name is not None:
        return "hmac", kernel_family(algorithms.get(hash_name))
    return record.construction.kernel_family(record)


def driver_family(record: Algorithm) -> Any:
    """Return a value that is equal for algorithms whose kernels read messages in the same way. For an HMAC,
    this depends on the driver of its hash."""
    hash_name = record.construction.hmac_of
    if hash_name is not None:
        return "hmac", driver_class(algorithms.get(hash_name))
    return record.construction.reading_family()


_firsts: dict[object, Algorithm] = {}


def first_of(record: Algorithm, family: Callable[[Algorithm], object]) -> Algorithm:
    """The first registered algorithm of the family of ``record``."""
    key = family, record.name
    if key not in _firsts:
        wanted = family(record)
        _firsts[key] = next(r for r in algorithms.all_algorithms() if family(r) == wanted)
    return _firsts[key]


def variants(record: Algorithm) -> list[dict[str, Any]]:
    """Sets of parameters that select each mode of the algorithm in turn. They do not repeat what
    :func:`required` gives."""
    found: list[dict[str, Any]] = [{}]
    for parameter in record.parameters:
        if parameter.choices is not None:
            found += [{parameter.name: value} for value in parameter.choices]
        elif parameter.sizes is not None:
            found += [{parameter.name: pattern(size)} for size in parameter.sizes]
        elif parameter.type is bytes:
            sizes = {parameter.max_size or 16, *([parameter.min_size] if parameter.min_size else [])}
            found += [{parameter.name: pattern(size)} for size in sorted(sizes)]
        elif parameter.type is str:
            found.append({parameter.name: "integrity_triton 2026-11-23 tests"})
        elif parameter.type is bool:
            found.append({parameter.name: True})
        elif parameter.type is int:
            ends = [n for n in (parameter.minimum, parameter.maximum) if n is not None]
            if parameter.name == "digest_size":
                ends = [min(n, MOST_OUTPUT) for n in ends]
            if parameter.name == "block_size":  # with a leaf for each byte, the root would be long
                ends = [48, 200]
            found += [{parameter.name: n} for n in ends]
    return found


def edge_lengths(record: Algorithm, backend: str) -> list[int]:
    """Return the lengths, in bytes, at which an implementation may switch to another case. Lengths that would
    take a backend or an oracle seconds are left out; the known answers have them."""
    hash_name = record.construction.hmac_of
    if hash_name is not None:
        return edge_lengths(algorithms.get(hash_name), backend)
    longest = LONGEST.get(backend, 65_537)
    lengths = {n for n in record.construction.edges(record) if n <= longest}
    if backend == "interpreter" and registry.get(backend).driver(record).main_kernel()[0] == HASH_MESSAGES:
        # A block takes up to a tenth of a second. A chunk takes seconds, so it is hashed only if no parameter
        # can make chunks shorter.
        shorter = any(parameter.name == "block_size" for parameter in record.parameters)
        chunk = None if shorter else record.construction.chunk_size
        lengths = {n for n in lengths if n <= 2 * record.block_size + 1 or n == chunk}
    return sorted(lengths)


def device_of(backend: str) -> torch.device:
    """The device on which a backend reads data in place."""
    instance = registry.get(backend)
    return torch.device(getattr(instance, "torch_device_type", "cpu"))


def on_device(data: bytes, backend: str) -> torch.Tensor:
    return (
        torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device_of(backend))
        if data
        else torch.empty(0, dtype=torch.uint8, device=device_of(backend))
    )


def few_lanes(options: Callable[[Launch], dict[str, int]]) -> Callable[[Launch], dict[str, int]]:
    """The options of the interpreter, but with four messages for each program, so that a few messages need
    several programs. If lanes share a message, their number was chosen before the launch was made, and it is
    kept."""

    def chosen(launch: Launch) -> dict[str, int]:
        shared = launch.kernel in (POLY1305_PARTS, CRC_FOLD)
        return options(launch) if shared else {**options(launch), "BLOCK_MSGS": 4}

    return chosen


def retune(monkeypatch: Any, kernel: str, **changes: int) -> None:
    """Give the interpreter another configuration of one kernel."""
    instance = registry.get("interpreter")
    assert isinstance(instance, TritonBackend)
    tuned = instance.tuned
    of_kernel = {kernel: changes}
    monkeypatch.setattr(
        instance, "tuned", lambda name, *block: {**tuned(name, *block), **of_kernel.get(name, {})}
    )


def rows_as_bytes(digests: torch.Tensor) -> list[bytes]:
    return [row.tobytes() for row in digests.cpu().numpy()]


def tensor_message(x: torch.Tensor) -> bytes:
    """The bytes of a tensor. They are read in another way than the package reads them: from the memory of a
    dense copy."""
    dense = x.detach().resolve_conj().resolve_neg().cpu().clone(memory_format=torch.contiguous_format)
    return ctypes.string_at(dense.data_ptr(), dense.numel() * dense.element_size())


POISON, CANARY, CANARY_BYTES = 0xA5, 0x5C, 256


class GuardedMemory:
    """Replaces a backend's allocator: it gives poisoned memory with canary bytes on both sides."""

    def __init__(self) -> None:
        self.buffers: list[torch.Tensor] = []

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        size = torch.empty(shape, dtype=dtype, device="meta").nbytes
        buffer = torch.full((size + 2 * CANARY_BYTES,), CANARY, dtype=torch.uint8, device=device)
        buffer[CANARY_BYTES : CANARY_BYTES + size] = POISON
        self.buffers.append(buffer)
        return buffer[CANARY_BYTES : CANARY_BYTES + size].view(dtype).view(shape)

    def check(self) -> None:
        for buffer in self.buffers:
            ends = torch.cat([buffer[:CANARY_BYTES], buffer[-CANARY_BYTES:]])
            assert bool((ends == CANARY).all()), "a kernel wrote outside its output or scratch"


def guard(monkeypatch: Any, backend: str) -> Iterator[GuardedMemory]:
    memory = GuardedMemory()
    instance = registry.get(backend)
    if isinstance(instance, TritonBackend):
        monkeypatch.setattr(instance, "empty", memory.empty)
    yield memory
    memory.check()


def has_module(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
