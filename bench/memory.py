"""The most memory that each kind of call takes in addition to its inputs and its result.

A process for each call makes the inputs, makes the same call once with small inputs, so that libraries and
kernels are loaded, and reads how much its resident memory grows while the call runs (Linux only).
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.lthash import TensorChunks

ALGORITHMS = ("sha256", "sha3_256", "blake3", "kt128", "poly1305", "crc32c", "xxh3_64")
GIVEN = 512 << 20
SMALL = 1 << 18
_PARTS = 64  # tensors of a model, messages of a list
_SHORT = 4096  # bytes of each of many messages
_LENGTH = 32  # bytes of an extendable output without a default length
_MOST_SHARE, _MOST_BYTES = 0.05, 256 << 20
_KEY = bytes(range(32))


@dataclass(frozen=True)
class Case:
    """An algorithm on a backend, and inputs of ``size`` bytes in several shapes."""

    name: str
    backend: str
    size: int

    @cached_property
    def data(self) -> torch.Tensor:
        return torch.randint(0, 256, (self.size,), dtype=torch.uint8)

    @cached_property
    def model(self) -> dict[str, torch.Tensor]:
        return {f"layer{i}": part for i, part in enumerate(self.data.chunk(_PARTS))}

    @cached_property
    def transposed(self) -> dict[str, torch.Tensor]:
        """Tensors whose bytes are not in one piece."""
        return {name: part.view(1024, -1).t() for name, part in self.model.items()}

    @cached_property
    def table(self) -> torch.Tensor:
        """Rows whose bytes are not in one piece."""
        return self.data.view(_SHORT, -1).t()

    @cached_property
    def tuples(self) -> list[tuple[torch.Tensor, ...]]:
        return [(part,) for part in self.model.values()]

    @cached_property
    def tuples_of_bytes(self) -> list[tuple[bytes, ...]]:
        return [(string,) for string in self.short_strings]

    @cached_property
    def file(self) -> str:
        """A file in the working folder with the model's tensors."""
        from safetensors.torch import save_file

        path = f"{self.size}.safetensors"
        save_file(self.model, path)
        return path

    @cached_property
    def strings(self) -> list[bytes]:
        return [part.numpy().tobytes() for part in self.model.values()]

    @cached_property
    def short_strings(self) -> list[bytes]:
        return [part.numpy().tobytes() for part in self.data.view(-1, _SHORT)]

    @cached_property
    def options(self) -> dict[str, Any]:
        return {**algorithms.get(self.name).trial_parameters(), "backend": self.backend}

    @property
    def length(self) -> int | None:
        return None if algorithms.get(self.name).digest_size else _LENGTH

    def batch(self, messages: Any) -> Any:
        return it.hash_batch(messages, self.name, length=self.length, **self.options)

    def stream(self, pieces: Sequence[torch.Tensor]) -> bytes:
        hasher = it.new(self.name, **self.options)
        for piece in pieces:
            hasher.update(piece)
        return hasher.digest() if self.length is None else hasher.digest(self.length)

    @cached_property
    def tags(self) -> it.TensorTags:
        return it.mac_tensors(self.model, _KEY, backend=self.backend)

    @cached_property
    def manifest(self) -> Any:
        return it.models.Manifest.build(self.model, self.name, backend=self.backend)


# Each entry has the inputs of a call, which are made before it, and the call.
Entry = tuple[Callable[[Case], object], Callable[[Case], object]]
CALLS: dict[str, Entry] = {
    "hash_batch of rows": (lambda c: c.data, lambda c: c.batch(c.data.view(_PARTS, -1))),
    "hash_batch of rows of 4 KiB": (lambda c: c.data, lambda c: c.batch(c.data.view(-1, _SHORT))),
    "hash_batch of tensors": (lambda c: c.model, lambda c: c.batch(list(c.model.values()))),
    "hash_batch of one tensor": (lambda c: c.data, lambda c: c.batch([c.data])),
    "hash_batch of bytes": (lambda c: c.strings, lambda c: c.batch(c.strings)),
    "hash_batch of bytes of 4 KiB": (lambda c: c.short_strings, lambda c: c.batch(c.short_strings)),
    "hash_batch of transposed tensors": (
        lambda c: c.transposed,
        lambda c: c.batch(list(c.transposed.values())),
    ),
    "hash_batch of a transposed table": (lambda c: c.table, lambda c: c.batch(c.table)),
    "hash_batch of one transposed tensor": (lambda c: c.table, lambda c: c.batch([c.table])),
    "hash_chunks of a transposed tensor": (
        lambda c: c.table,
        lambda c: it.hash_chunks(c.table, c.name, chunk_size=1 << 16, length=c.length, **c.options),
    ),
    "Hash.update of a transposed tensor": (lambda c: c.table, lambda c: c.stream([c.table])),
    "hash_chunks": (
        lambda c: c.data,
        lambda c: it.hash_chunks(c.data, c.name, chunk_size=1 << 16, length=c.length, **c.options),
    ),
    "hash_file": (lambda c: c.file, lambda c: it.hash_file(c.file, c.name, length=c.length, **c.options)),
    "Hash.update": (lambda c: c.data, lambda c: c.stream([c.data])),
    "Hash.update in pieces": (lambda c: c.data, lambda c: c.stream(c.data.chunk(1024))),
}
FIXED_CALLS: dict[str, tuple[tuple[str, ...], Entry]] = {
    "hash_batch of tuples": (("tuplehash_128",), (lambda c: c.tuples, lambda c: c.batch(c.tuples))),
    "hash_batch of tuples of bytes": (
        ("tuplehash_128",),
        (lambda c: c.tuples_of_bytes, lambda c: c.batch(c.tuples_of_bytes)),
    ),
    "hkdf_batch of a transposed table": (
        ("sha256",),
        (lambda c: c.table, lambda c: it.hkdf_batch(c.table, c.name, length=32, backend=c.backend)),
    ),
    "pbkdf2_batch of a transposed table": (
        ("sha256",),
        (
            lambda c: c.table,
            lambda c: it.pbkdf2_batch(c.table, c.name, salt=b"salt", iterations=2, backend=c.backend),
        ),
    ),
    "LtHash.add_batch of transposed tensors": (
        ("blake3",),
        (lambda c: c.transposed, lambda c: it.LtHash(backend=c.backend).add_batch([*c.transposed.values()])),
    ),
    "TensorChunks.of a transposed tensor": (
        ("blake3",),
        (lambda c: c.table, lambda c: TensorChunks.of("data", c.table, backend=c.backend)),
    ),
    "mac_tensors of one transposed tensor": (
        ("poly1305",),
        (lambda c: c.table, lambda c: it.mac_tensors({"x": c.table}, _KEY, backend=c.backend)),
    ),
    "hkdf_batch": (
        ("sha256",),
        (
            lambda c: c.data,
            lambda c: it.hkdf_batch(c.data.view(-1, _SHORT), c.name, length=32, backend=c.backend),
        ),
    ),
    "pbkdf2_batch": (
        ("sha256",),
        (
            lambda c: c.data,
            lambda c: it.pbkdf2_batch(
                c.data.view(-1, _SHORT), c.name, salt=b"salt", iterations=2, backend=c.backend
            ),
        ),
    ),
    "LtHash.add_batch": (
        ("blake3",),
        (lambda c: c.data, lambda c: it.LtHash(backend=c.backend).add_batch(c.data.view(-1, _SHORT))),
    ),
    "mac_tensors of transposed tensors": (
        ("poly1305",),
        (lambda c: c.transposed, lambda c: it.mac_tensors(c.transposed, _KEY, backend=c.backend)),
    ),
    "Manifest.build of transposed tensors": (
        ("blake3", "sha256"),
        (lambda c: c.transposed, lambda c: it.models.Manifest.build(c.transposed, c.name, backend=c.backend)),
    ),
    "mac_tensors": (
        ("poly1305",),
        (lambda c: c.model, lambda c: it.mac_tensors(c.model, _KEY, backend=c.backend)),
    ),
    "TensorTags.verify": (
        ("poly1305",),
        (lambda c: c.tags, lambda c: c.tags.verify(c.model, _KEY, backend=c.backend)),
    ),
    "TensorChunks.of": (
        ("blake3",),
        (lambda c: c.data, lambda c: TensorChunks.of("data", c.data, backend=c.backend)),
    ),
    "Manifest.build of tensors": (
        ("blake3", "sha256"),
        (lambda c: c.model, lambda c: it.models.Manifest.build(c.model, c.name, backend=c.backend)),
    ),
    "Manifest.build of a file": (
        ("blake3", "sha256"),
        (lambda c: c.file, lambda c: it.models.Manifest.build(c.file, c.name, backend=c.backend)),
    ),
    "Manifest.verify of tensors": (
        ("blake3", "sha256"),
        (
            lambda c: c.manifest,
            lambda c: c.manifest.verify(c.model, backend=c.backend).raise_for_mismatch(),
        ),
    ),
    "Manifest.verify of a file": (
        ("blake3", "sha256"),
        (
            lambda c: (c.manifest, c.file),
            lambda c: c.manifest.verify(c.file, backend=c.backend).raise_for_mismatch(),
        ),
    ),
}
"""Calls that name their algorithm themselves, or take only some, with the algorithms that are measured."""


def measured(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A result for each call, with the algorithms that are named, on each backend of this machine's CPU."""
    backends = [s.name for s in it.backends() if s.available and s.name in ("native", "opencl")]
    suited = dict.fromkeys(CALLS, names) | {call: entry[0] for call, entry in FIXED_CALLS.items()}
    for call, given in suited.items():
        for name in given:
            for backend in backends:
                yield in_a_process(call, name, backend)


def in_a_process(call: str, name: str, backend: str, size: int = GIVEN) -> dict[str, Any]:
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "bench.memory", call, name, backend, str(size)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
    key = {"key": [call, name, backend]}
    if done.returncode == _ABSENT:
        return {**key, "absent": done.stdout.strip(), "good": True}
    if done.returncode:
        raise RuntimeError(f"{call} of {name} on {backend}: {done.stderr.strip()[-2000:]}")
    above = int(done.stdout)
    good = above <= max(_MOST_BYTES, _MOST_SHARE * size)
    return {**key, "given_bytes": size, "above_bytes": above, "good": good}


_ABSENT = 3


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert found is not None
    return int(found[1]) << 10


def above(call: Callable[[], object]) -> int:
    """How many bytes the resident memory of this process grows at most while ``call`` runs, without a tensor
    that it returns."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak starts from what is resident now
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    returned = result.numel() * result.element_size() if isinstance(result, torch.Tensor) else 0
    return max(0, peak - before - returned)


def main(call: str, name: str, backend: str, size: int) -> int:
    inputs, run = CALLS[call] if call in CALLS else FIXED_CALLS[call][1]
    small, case = (Case(name, backend, n) for n in (SMALL, size))
    try:
        inputs(small)
        run(small)
    except it.BackendUnavailable as error:
        print(error)
        return _ABSENT
    inputs(case)
    print(above(lambda: run(case)))
    return 0


if __name__ == "__main__":
    call, name, backend, size = sys.argv[1:]
    sys.exit(main(call, name, backend, int(size)))
