"""MACs that use AES. Keys are expanded and blocks encrypted on the device (``kernels/aes.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..messages.copying import bytes_reversed, clear, repeated, side_by_side
from ..messages.layout import Addressed, Messages, Ragged, Rows, signed
from ..messages.per_message import PerMessage
from .iterated import IteratedDriver, Start

if TYPE_CHECKING:
    import torch

    from ..launching.host import Host

_KERNEL_FILE = "integrity_triton.kernels.aes"
AES_EXPAND_KEYS = f"{_KERNEL_FILE}:aes_expand_keys"
AES_ENCRYPT_BLOCKS = f"{_KERNEL_FILE}:aes_encrypt_blocks"
CMAC_SUBKEYS = f"{_KERNEL_FILE}:cmac_subkeys"
_TABLE_WORDS = 128


def rounds_of(key_size: int) -> int:
    """The rounds of AES with a key of ``key_size`` bytes (FIPS 197, section 5)."""
    return key_size // 4 + 6


def expand_keys(host: Host, keys: Rows) -> torch.Tensor:
    """The round keys of each of ``keys``, which are 16, 24 or 32 bytes long, as the kernels take them: uint32
    ``[n, 128]``. In each row the first ``8 * (rounds + 1)`` words are round keys; at least 8 words follow
    that the caller may use. The caller has to keep all of it secret.
    """
    import torch

    # Rows are as long for every size of key: one binary serves all.
    out = host.empty((keys.count, _TABLE_WORDS), torch.uint32, keys.device)
    host.run(
        AES_EXPAND_KEYS,
        keys.count,
        keys.device,
        {
            "keys_ptr": keys.data.view(torch.uint32),
            "out_ptr": out,
            "count": keys.count,
            "key_words": keys.length // 4,
            "stride": _TABLE_WORDS,
        },
        {},
    )
    return out


def encrypt(host: Host, round_keys: torch.Tensor, blocks: torch.Tensor, rounds: int) -> torch.Tensor:
    """AES of ``blocks``, uint8 ``[m, 16]``: uint8 of the same shape. ``round_keys`` is the result of
    :func:`expand_keys` for one key, or for m keys, one for each block. Nothing waits for the device."""
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


class _AesDriver(IteratedDriver):
    per_message = True

    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        """Take the keys of one size at a time, since the number of rounds depends on it."""
        import numpy as np
        import torch

        key, device = parameters["key"], messages.device
        if not isinstance(key, PerMessage) or key.size() is not None:
            return super().enqueue(parameters, messages, length)
        out = torch.empty((messages.count, length), dtype=torch.uint8, device=device)
        views = {k: v.views(device) for k, v in parameters.items() if isinstance(v, PerMessage)}
        for size in sorted(set(key.sizes)):
            rows = [i for i, n in enumerate(key.sizes) if n == size]
            values = {name: PerMessage([view[i] for i in rows]) for name, view in views.items()}
            these = Ragged([messages.view(i) for i in rows], device)
            tags = super().enqueue({**parameters, **values}, these, length)
            out.index_copy_(0, self.host.upload(np.array(rows), device), tags)
        return out


class CmacDriver(_AesDriver):
    def references(self) -> tuple[str, ...]:
        return (self.construction.block, AES_EXPAND_KEYS, CMAC_SUBKEYS)

    def start(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        import torch

        key = parameters["key"]
        size = len(key) if isinstance(key, bytes) else key.size()
        keys = self.key_rows(key, size, device)
        rounds = rounds_of(size)
        table = self.secret(expand_keys(self.host, keys))
        self.host.run(
            CMAC_SUBKEYS,
            keys.count,
            device,
            {"keys_ptr": table, "count": keys.count, "stride": table.shape[1], "rounds": rounds},
            {},
        )
        state = torch.zeros(4, dtype=torch.int32, device=device).view(torch.uint32)
        return Start(state, flags=rounds, constants=table if keys.count > 1 else table[0])


class GmacDriver(_AesDriver):
    def references(self) -> tuple[str, ...]:
        return (self.construction.block, AES_EXPAND_KEYS, AES_ENCRYPT_BLOCKS)

    def start(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        import torch

        key, iv = parameters["key"], parameters["iv"]
        size = len(key) if isinstance(key, bytes) else key.size()
        keys = self.key_rows(key, size, device)
        rounds = rounds_of(size)
        round_keys = self.secret(expand_keys(self.host, keys))
        zeros = clear(self.host.empty((keys.count, 16), torch.uint8, device))
        subkeys = self.secret(encrypt(self.host, round_keys, zeros, rounds))
        ivs = iv if isinstance(iv, PerMessage) else PerMessage([self.host.words(iv, device, 8)])
        count = max(keys.count, len(ivs))
        counters = self.counters(self.secret(big_endian(subkeys)), ivs, device)
        if len(counters) < count:
            counters = repeated(counters, count)
        masks = self.secret(encrypt(self.host, round_keys, self.secret(counters), rounds))
        both = self.secret(side_by_side([subkeys.expand(count, -1), masks]))
        table = self.secret(big_endian(both))
        return self.begin(table if count > 1 else table[0])

    def begin(self, constants: torch.Tensor, padding: int = 0) -> Start:
        import torch

        state = torch.zeros(2, dtype=torch.int64, device=constants.device).view(torch.uint64)
        return Start(state, padding=padding, minimum_padding=16, constants=constants)

    def counters(self, subkeys: torch.Tensor, ivs: PerMessage, device: torch.device) -> torch.Tensor:
        """The counter block J0 of each IV (SP 800-38D, section 7.1), uint8 ``[n, 16]``. ``subkeys``, uint64
        ``[n, 2]``, are the hash subkeys, one for each IV or one for all; with one IV and several subkeys
        there is a block for each of these.
        """
        import numpy as np
        import torch

        sizes = np.array(ivs.sizes)
        plain = sizes == 12
        rows = ivs.rows(device, -(-int(sizes.max()) // 16) * 16)
        one = self.host.words(b"\0\0\0\1", device, 8).expand(len(ivs), -1)
        direct = side_by_side([rows[:, :12], one])
        if plain.all():
            return direct
        count = max(len(ivs), subkeys.shape[0])
        places = Addressed(
            signed(rows.data_ptr())
            + rows.stride(0) * (np.arange(count) if len(ivs) > 1 else np.zeros(count, np.int64)),
            np.broadcast_to(sizes, count).astype(np.int64),
            device,
            rows,
        )
        words = subkeys.view(torch.int64)
        constants = self.secret(torch.cat([words, torch.zeros_like(words)], dim=1)).view(torch.uint64)
        start = self.begin(constants if len(constants) > 1 else constants[0], padding=1)
        hashed = self.secret(self.output(self.iterate(places, start, final=True), 16, 0))
        if not plain.any():
            return hashed
        return torch.where(self.host.upload(plain, device)[:, None], direct, hashed)


def big_endian(blocks: torch.Tensor) -> torch.Tensor:
    """Bytes, uint8 ``[n, 8 * k]``, as big-endian words: uint64 ``[n, k]``."""
    import torch

    return bytes_reversed(blocks).view(torch.uint64)
