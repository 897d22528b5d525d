"""XXH64 and XXH3: each lane takes one message (``kernels/xxhash.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm, XxHash, load_constant
from ..launching.host import Host
from ..messages.layout import Messages, Rows
from ..messages.stream import Stream
from .base import BlockStream, Driver
from .iterated import by_length

if TYPE_CHECKING:
    import torch


_KERNEL_FILE = "integrity_triton.kernels.xxhash"
XXH64_MESSAGES = f"{_KERNEL_FILE}:xxh64_messages"
XXH3_MESSAGES = f"{_KERNEL_FILE}:xxh3_messages"

_MASK = (1 << 64) - 1


def _constant(name: str) -> Any:
    return load_constant(f"{_KERNEL_FILE}:{name}")


def xxh64_start(seed: int) -> list[int]:
    """The accumulators with which XXH64 begins."""
    first, second = _constant("XXH_PRIME64_1"), _constant("XXH_PRIME64_2")
    return [n & _MASK for n in (seed + first + second, seed + second, seed, seed - first)]


@cache
def _every_word(secret: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(secret[i : i + 8], "little") for i in range(len(secret) - 7))


@lru_cache(maxsize=16)
def xxh3_secrets(seed: int) -> tuple[int, ...]:
    """The default secret and the one that a seed gives, each as the 64-bit words that start at every byte."""
    words = _constant("XXH3_SECRET")
    signs = (1, -1)
    seeded = [(word + signs[i % 2] * seed) & _MASK for i, word in enumerate(words)]
    default, own = (b"".join(n.to_bytes(8, "little") for n in part) for part in (words, seeded))
    return _every_word(default) + _every_word(own)


class XxHashDriver(Driver):
    construction: XxHash

    def __init__(self, host: Host, algorithm: Algorithm) -> None:
        super().__init__(host, algorithm)
        self._xxh3 = self.construction.function == "xxh3"
        self.block = 1024 if self._xxh3 else 32
        self.held_back = 64 if self._xxh3 else 0
        """Bytes at the end of a stream that may not be absorbed before the end is known."""

    def references(self) -> tuple[str, ...]:
        return (self.main_kernel()[0],)

    def main_kernel(self) -> tuple[str, str | None]:
        return XXH3_MESSAGES if self._xxh3 else XXH64_MESSAGES, None

    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        seed = parameters.get("seed", 0)
        return self.digests(messages, self.start(seed, messages.device), 0, seed)

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        return _XxHashStream(self, parameters.get("seed", 0), device)

    def start(self, seed: int, device: torch.device) -> torch.Tensor:
        """The accumulators before the first byte."""
        return self.host.words(_constant("XXH3_ACC") if self._xxh3 else xxh64_start(seed), device, 64)

    def digests(self, messages: Messages, state: torch.Tensor, prefix: int, seed: int) -> torch.Tensor:
        """Digests of messages whose first ``prefix`` bytes led to ``state``: uint8 ``[n, digest_size]``."""
        import torch

        out = self._run(messages, state, prefix, seed, self.algorithm.digest_size // 8, final=True)
        return out.view(torch.uint8)

    def absorb(self, message: torch.Tensor, state: torch.Tensor, seed: int) -> torch.Tensor:
        """The accumulators after whole blocks of a message that goes on."""
        one = Rows.single(message)
        return self._run(one, state, 0, seed, state.numel(), final=False)[0]

    def _run(
        self, messages: Messages, state: torch.Tensor, prefix: int, seed: int, words: int, *, final: bool
    ) -> torch.Tensor:
        import torch

        device = messages.device
        places = messages.places()
        placement = self.host.placement(places, by_length(places))
        out = self.host.empty((messages.count, words), torch.uint64, device)
        arguments = {"table_ptr": placement.table, "state_ptr": state}
        constants: dict[str, Any] = {}
        if self._xxh3:
            arguments["secret_ptr"] = self.host.words(xxh3_secrets(seed), device, 64)
            constants["WIDE"] = final and self.algorithm.digest_size == 16
        self.host.run(
            self.main_kernel()[0],
            messages.count,
            device,
            {
                **arguments,
                "out_ptr": out,
                **placement.arguments,
                "prefix": prefix,
                "seed": seed - (1 << 64) if seed >> 63 else seed,
            },
            {**constants, "FINAL": final, "TABLE": placement.has_table, "ALIGN": placement.align},
        )
        return out


class _XxHashStream(BlockStream):
    _driver: XxHashDriver

    def __init__(self, driver: XxHashDriver, seed: int, device: torch.device) -> None:
        super().__init__(driver, device, driver.block, driver.held_back)
        self._seed = seed
        self._state = driver.start(seed, device)
        self._absorbed = 0

    def _absorb(self, view: torch.Tensor) -> None:
        self._state = self._driver.absorb(view, self._state, self._seed)
        self._absorbed += view.numel()

    def digest(self, length: int, seek: int) -> bytes:
        message = Rows.single(self._pending.data)
        digests = self._driver.digests(message, self._state, self._absorbed, self._seed)
        return digests.cpu().numpy().tobytes()[seek : seek + length]
