"""The choice between the OpenCL kernels and the native libraries: which of them hashes a batch on the CPU
faster.

Each lane of the kernels hashes one message. This is fast for many messages of similar length, but one message
takes as long as a message in every lane of a program. ``cpu_choice.json`` holds the figures, measured by
``python -m bench.cpu_choice``; docs/guide/backends.md says how they are used. There is a set of
figures for processors with AVX-512 and one for others.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from ...algorithms import Algorithm, get
from ...drivers.crc import PIECE_BYTES
from ...messages.layout import Messages, Rows
from ..native import usable_cpus
from ..triton_backend import TritonBackend
from .processor import has_avx512

_WORTH_THREADS = 1 << 20


def measured() -> dict[str, dict[str, Any]]:
    """The figures that the package ships, by the instructions of the processor that they were measured on."""
    text = resources.files(__package__).joinpath("cpu_choice.json").read_text("utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def instructions() -> str:
    """Which of the figures stand for this processor: "AVX512", or "AVX2" for every other one."""
    return "AVX512" if has_avx512() else "AVX2"


@cache
def _figures() -> dict[str, Any]:
    return measured()[instructions()]


@cache
def _threads() -> int:
    return usable_cpus()


def estimates(backend: TritonBackend, algorithm: Algorithm, messages: Messages) -> tuple[float, float] | None:
    """The estimated seconds that the kernels and the native library take. None if there are no figures for
    the algorithm."""
    if algorithm.construction.hmac_of is not None:  # the hash does all work except two blocks
        algorithm = get(algorithm.construction.hmac_of)
    figures = _figures()["algorithms"].get(algorithm.name)
    if figures is None:
        return None
    threads = _threads()
    lanes = backend.tuned(*backend.driver(algorithm).main_kernel())["BLOCK_MSGS"]
    count, total, longest, computed = _work(messages, lanes)
    levels = 0
    leaf = algorithm.construction.leaf_size
    rate = figures["native_bytes_per_second"]
    rate_alone = _rate_alone(figures)
    if leaf is not None:
        levels = max(0, longest - 1).bit_length() - min(leaf - 1, max(0, longest - 1)).bit_length()
        computed, longest = max(total, count * min(leaf, longest)), min(longest, leaf)
        alone = total / threads  # all threads share a message
        rate = rate_alone if count == 1 else rate
    elif algorithm.construction.in_pieces:
        alone, computed, longest = longest, total, min(longest, PIECE_BYTES)
    else:
        alone = longest
    kernels = (
        figures["opencl_call"]
        + levels * figures.get("opencl_level", figures["opencl_call"])
        + max(computed / threads, lanes * longest) / figures["opencl_bytes_per_second"]
    )
    # The native backend hashes a small batch in one thread (see ``backends/native``).
    spread = threads if total >= _WORTH_THREADS else 1
    shared = total / spread / rate if count > 1 else 0.0
    native = count * figures["native_message"] + max(shared, alone / rate_alone)
    return kernels, native


def _rate_alone(figures: dict[str, float]) -> float:
    """The library's bytes per second and thread in one long message, which has one thread, or all threads if
    it is hashed as a tree. A fast checksum reads as fast as memory delivers, so that several threads are not
    several times as fast; and a tree is hashed faster if it is large."""
    return figures.get("native_alone_bytes_per_second", figures["native_bytes_per_second"])


def _is_soon_done(algorithm: Algorithm, messages: Messages) -> bool:
    """Whether one thread of the library takes less time for a message than a call of the kernels without any
    data. :func:`estimates` would say the same, in more time than the library takes for a short message."""
    figures = _figures()["algorithms"].get(algorithm.construction.hmac_of or algorithm.name)
    if figures is None:
        return False
    size = messages.longest() if isinstance(messages, Rows) else messages.views[0].numel()
    seconds = figures["native_message"] + size / _rate_alone(figures)
    return bool(seconds <= figures["opencl_call"])


def _work(messages: Messages, lanes: int) -> tuple[int, int, int, int]:
    """The number of messages, the bytes in all of them, the bytes in the longest, and the bytes in all lanes
    if each lane of a program counts as long as the longest message of the program."""
    import numpy as np

    if isinstance(messages, Rows):
        longest = max(0, min(messages.length, messages.total))
        used = -(-messages.count // lanes) * lanes
        return messages.count, min(messages.total, messages.count * longest), longest, used * longest
    lengths = np.sort(np.fromiter((v.numel() for v in messages.views), np.int64, messages.count))[::-1]
    # Programs take the messages in the order of their lengths. Each runs as long as its longest message
    # takes.
    return (
        messages.count,
        int(lengths.sum()),
        int(lengths[:1].sum()),
        int(lengths[::lanes].sum()) * lanes,
    )


def kernels_are_faster(backend: TritonBackend, algorithm: Algorithm, messages: Messages) -> bool:
    if messages.count == 1 and _is_soon_done(algorithm, messages):
        return False
    found = estimates(backend, algorithm, messages)
    return found is not None and found[0] < found[1]


def compared(backend: TritonBackend, algorithm: Algorithm, messages: Messages) -> str:
    """What :func:`kernels_are_faster` compares, in words."""
    found = estimates(backend, algorithm, messages)
    if found is None:
        return "no figures for opencl"
    kernels, native = (_in_words(seconds) for seconds in found)
    return f"opencl ~ {kernels}, native ~ {native}"


def _in_words(seconds: float) -> str:
    scale, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    return f"{seconds * scale:.3g} {unit}"
