"""The kernels on a CPU beside Intel's multi-buffer assembly (isa-l_crypto) and hashlib, in one run:
``python -m bench.assembly [ALGORITHM]... --library PATH [--size BYTES] [--mib N] [--runs N] [--out FILE]``.

All three hash the same messages on all cores and take turns. The rates are medians. More than 1 in the last
column means that the kernels are faster than the assembly.

The library is called as its users call it: a message is submitted as one job, and the library hashes as many
jobs at once as its instructions have lanes. Python makes a call for each message, which would falsify the
rate of short ones. That is why a message has 1 MiB. What the calls cost is measured with as many empty
messages, and printed as the share of the assembly's time that they take at most.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import hashlib
import itertools
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

import integrity_triton as it
from bench import environment
from bench.turns import medians
from integrity_triton.backends.native import usable_cpus

WORDS = {"sha256": 4, "sha512": 8, "sha1": 4, "md5": 4, "sm3": 4}
"""The hashes of the library that the kernels have as well, and the bytes of a word of the digest."""
HOW_TO_GET = (
    "isa-l_crypto 2.25 or later is needed. Its source is the repository intel/isa-l_crypto on GitHub; with"
    " nasm, a C compiler and autotools, ./autogen.sh && ./configure && make builds"
    " .libs/libisal_crypto.so, whose path --library takes"
)
_ENTIRE = 3  # the first and the last part of a message at once
_MANAGER_BYTES = 1 << 16  # more than a manager takes
_JOB_BYTES = 1 << 10  # more than a job takes
_DIGEST = 64  # where the digest is in a job
_ALIGNMENT = 64


class Jobs:
    """Messages of one thread, and the library's manager and jobs for them.

    The structures of the library begin as zeros, and of their members only the digest is read, so that no
    other detail of them matters here.
    """

    def __init__(self, library: Any, algorithm: str, addresses: Sequence[int], size: int) -> None:
        self._memory = np.zeros(_MANAGER_BYTES + _JOB_BYTES * len(addresses) + _ALIGNMENT, np.uint8)
        self._manager = self._memory.ctypes.data + -self._memory.ctypes.data % _ALIGNMENT
        start = self._manager + _MANAGER_BYTES
        self._jobs = range(start, start + _JOB_BYTES * len(addresses), _JOB_BYTES)
        self._addresses, self._size = addresses, size
        self._init, self._submit, self._flush = (
            getattr(library, f"isal_{algorithm}_ctx_mgr_{step}") for step in ("init", "submit", "flush")
        )
        self._init.argtypes = [ctypes.c_void_p]
        self._submit.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_uint32, ctypes.c_int]
        self._flush.argtypes = [ctypes.c_void_p] * 2

    def run(self) -> None:
        """Hash the messages. Raises RuntimeError if the library refuses one or does not finish all."""
        out = ctypes.c_void_p()
        given, submit, manager, size = ctypes.byref(out), self._submit, self._manager, self._size
        status = self._init(manager)
        finished = 0
        for job, address in zip(self._jobs, self._addresses, strict=True):
            status = status or submit(manager, job, given, address, size, _ENTIRE)
            finished += out.value is not None
        status = status or self._flush(manager, given)
        while not status and out.value is not None:
            finished += 1
            status = self._flush(manager, given)
        if status or finished != len(self._jobs):
            raise RuntimeError(f"the library finished {finished} of {len(self._jobs)} jobs, status {status}")

    def digests(self, digest_size: int) -> list[bytes]:
        """The members ``result_digest`` of the jobs: words in the order of bytes of the processor, or
        bytes."""
        return [ctypes.string_at(job + _DIGEST, digest_size) for job in self._jobs]


def load(path: Path | None) -> Any:
    """The library. Raises SystemExit, which says how to get it, if it is not there."""
    name = str(path) if path else ctypes.util.find_library("isal_crypto")
    if name is None:
        raise SystemExit(f"isa-l_crypto is not installed: {HOW_TO_GET}")
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise SystemExit(f"{name} could not be loaded ({error}): {HOW_TO_GET}") from error


def version(library: Any) -> str:
    """The version that the library gives. Raises SystemExit if it gives none: it is too old."""
    try:
        function = library.isal_crypto_get_version_str
    except AttributeError as error:
        raise SystemExit(f"the library has no isal_crypto_get_version_str: {HOW_TO_GET}") from error
    function.restype = ctypes.c_char_p
    return str(function().decode("ascii"))


def differing(found: Sequence[bytes], expected: Sequence[bytes], word: int) -> int:
    """How many digests differ. ``found`` may also be words of ``word`` bytes whose bytes are reversed."""
    turned = (
        b"".join(digest[i : i + word][::-1] for i in range(0, len(digest), word)) for digest in expected
    )
    return sum(a not in pair for a, *pair in zip(found, expected, turned, strict=True))


def measured(library: Any, algorithm: str, messages: torch.Tensor, runs: int) -> dict[str, Any]:
    """The rates for one algorithm. Raises SystemExit if digests differ."""
    count, size = messages.shape
    threads = min(usable_cpus(), count)
    edges = [count * i // threads for i in range(threads + 1)]
    parts = list(itertools.pairwise(edges))
    rows = messages.numpy()
    addresses = range(messages.data_ptr(), messages.data_ptr() + count * size, size)
    jobs = [Jobs(library, algorithm, addresses[a:b], size) for a, b in parts]
    empty = [Jobs(library, algorithm, addresses[a:b], 0) for a, b in parts]
    tensors: list[torch.Tensor] = []
    digests: dict[str, list[bytes]] = {}

    def opencl() -> None:
        tensors[:] = [it.hash_batch(messages, algorithm, backend="opencl")]

    def hash_part(part: tuple[int, int]) -> list[bytes]:
        return [
            hashlib.new(algorithm, row, usedforsecurity=False).digest() for row in rows[part[0] : part[1]]
        ]

    with ThreadPoolExecutor(threads) as pool:

        def library_hashes(of: Sequence[Jobs]) -> None:
            list(pool.map(Jobs.run, of))

        def standard() -> None:
            digests["hashlib"] = [digest for part in pool.map(hash_part, parts) for digest in part]

        functions: dict[str, Callable[[], object]] = {
            "assembly": lambda: library_hashes(jobs),
            "empty": lambda: library_hashes(empty),
            "opencl": opencl,
        }
        if algorithm in hashlib.algorithms_available:
            functions["hashlib"] = standard
        seconds = medians(runs, functions)
    digests["opencl"] = [digest.tobytes() for digest in tensors[0].numpy()]
    expected = digests.get("hashlib", digests["opencl"])
    digests["assembly"] = [digest for part in jobs for digest in part.digests(len(expected[0]))]
    for name, word in (("assembly", WORDS[algorithm]), ("opencl", 1)):
        if wrong := differing(digests[name], expected, word):
            raise SystemExit(f"{wrong} of {count} digests of {name} differ for {algorithm}")
    rates = {
        name: count * size / seconds[name] / 1e9 if name in seconds else None
        for name in ("assembly", "opencl", "hashlib")
    }
    return {
        "key": [algorithm, size, threads],
        "messages": count,
        **{f"{name} GB/s": rate for name, rate in rates.items()},
        "opencl / assembly": seconds["assembly"] / seconds["opencl"],
        "calls / assembly": seconds["empty"] / seconds["assembly"],
    }


def shown(result: dict[str, Any]) -> str:
    """A line of the table."""
    library = result["hashlib GB/s"]
    return (
        f"{result['key'][0]:8} {result['assembly GB/s']:9.3f} {result['opencl GB/s']:9.3f} "
        f"{'absent' if library is None else f'{library:.3f}':>9} {result['opencl / assembly']:9.2f}"
        f"   calls at most {result['calls / assembly']:.1%} of the assembly"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.assembly")
    parser.add_argument("algorithm", nargs="*", help=f"default: {' '.join(WORDS)}")
    parser.add_argument("--library", type=Path, help="libisal_crypto.so; default: the one of the system")
    parser.add_argument("--size", type=int, default=1 << 20, help="bytes of a message; default: 1 MiB")
    parser.add_argument("--mib", type=int, default=256, help="all messages, in 2**20 bytes; default: 256")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a JSON file that takes the results")
    parser.add_argument("--note", default="", help="what else the machine did, for --out")
    options = parser.parse_args(arguments)
    names = options.algorithm or list(WORDS)
    if unknown := [name for name in names if name not in WORDS]:
        parser.error(f"the library does not hash with {', '.join(unknown)}; choose from {', '.join(WORDS)}")
    if not 1 <= options.size <= options.mib << 20 or options.runs < 1 or options.size >= 1 << 32:
        parser.error("--size has to be 1 to 2**32 - 1 and at most --mib, and --runs at least 1")
    library = load(options.library)
    of_library = version(library)
    status = {s.name: s for s in it.backends()}["opencl"]
    if not status.available:
        raise SystemExit(f"there is no backend opencl to compare: {status.reason}")
    messages = torch.randint(0, 256, ((options.mib << 20) // options.size, options.size), dtype=torch.uint8)
    for key, value in environment.machine().items():
        print(f"{key}: {value}")
    print(f"isa-l_crypto: {of_library}")
    print(f"{len(messages)} messages of {options.size} bytes, medians of {options.runs} runs, GB/s")
    print(f"{'':8} {'assembly':>9} {'opencl':>9} {'hashlib':>9} {'ratio':>9}")
    found = []
    for name in names:
        result = {**measured(library, name, messages, options.runs), "isa-l_crypto": of_library}
        print(shown(result), flush=True)
        found.append(result)
    if options.out is not None:
        given = sys.argv[1:] if arguments is None else arguments
        run = environment.run(["bench.assembly", *given], options.note)
        environment.write(options.out, "assembly", run, {"rates": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
