"""MACs of AES: its keys are expanded on the device, where blocks are encrypted too (``kernels/aes.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..base import Rows
from .iterated import IteratedDriver, Start

if TYPE_CHECKING:
    import torch

    from ..triton_host import TritonBackend

_KERNEL_FILE = "integrity_triton.kernels.aes"
AES_EXPAND_KEYS = f"{_KERNEL_FILE}:aes_expand_keys"
AES_ENCRYPT_BLOCKS = f"{_KERNEL_FILE}:aes_encrypt_blocks"
CMAC_SUBKEYS = f"{_KERNEL_FILE}:cmac_subkeys"


def rounds_of(key_size: int) -> int:
    """Of the cipher, for a key of so many bytes (FIPS 197, section 5)."""
    return key_size // 4 + 6


def expand_keys(host: TritonBackend, keys: Rows, extra: int = 0) -> torch.Tensor:
    """The round keys of each of ``keys``, of 16, 24 or 32 bytes: uint32 ``[n, 8 * (rounds + 1) + extra]``, as
    the kernels take them, with ``extra`` words behind them for the caller. They are for him to keep secret.
    """
    import torch

    planes = 8 * (rounds_of(keys.length) + 1)
    out = host.empty((keys.count, planes + extra), torch.uint32, keys.device)
    host.run(
        AES_EXPAND_KEYS,
        keys.count,
        keys.device,
        {
            "keys_ptr": keys.data.view(torch.uint32),
            "out_ptr": out,
            "count": keys.count,
            "key_words": keys.length // 4,
            "stride": planes + extra,
        },
        {},
    )
    return out


def encrypt(host: TritonBackend, round_keys: torch.Tensor, blocks: torch.Tensor, rounds: int) -> torch.Tensor:
    """AES of ``blocks``, uint8 ``[m, 16]``: uint8 of the same shape. ``round_keys`` is what
    :func:`expand_keys` gave for one key, or for m of them, one a block. Nothing waits for the device."""
    import torch

    count = blocks.shape[0]
    out = host.empty((count, 4), torch.uint32, blocks.device)
    host.run(
        AES_ENCRYPT_BLOCKS,
        count,
        blocks.device,
        {
            "keys_ptr": round_keys,
            "blocks_ptr": blocks.view(torch.uint32),
            "out_ptr": out,
            "count": count,
            "key_stride": round_keys.shape[1] if round_keys.shape[0] > 1 else 0,
            "rounds": rounds,
        },
        {},
    )
    return out.view(torch.uint8)


class CmacDriver(IteratedDriver):
    keys_per_message = True

    def references(self) -> tuple[str, ...]:
        return (self.construction.block, AES_EXPAND_KEYS, CMAC_SUBKEYS)

    def start(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        import torch

        key = parameters["key"]
        size = len(key) if isinstance(key, bytes) else key.size()
        keys = self.key_rows(key, size, device)
        rounds = rounds_of(size)
        table = self.secret(expand_keys(self.host, keys, extra=8))
        self.host.run(
            CMAC_SUBKEYS,
            keys.count,
            device,
            {"keys_ptr": table, "count": keys.count, "stride": table.shape[1], "rounds": rounds},
            {},
        )
        state = torch.zeros(4, dtype=torch.int32, device=device).view(torch.uint32)
        return Start(state, flags=rounds, constants=table if keys.count > 1 else table[0])
