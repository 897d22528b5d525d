"""Which bits of a chunk were flipped, from sums that are kept of each chunk.

A digest tells that a chunk differs, and not where. Besides it, the guard keeps three sums of the chunk's
32-bit words ``w[i]``, read as signed integers and added modulo 2**64: the sum of ``w[i]``, and, with the
index i written as 256 r + c, the sums of ``r * w[i]`` and of ``c * w[i]``. If a single word has changed by d,
the three sums have changed by d, r d and c d, which gives the word and what it was. This is how a checksum of
Fletcher's kind finds a place ("An Arithmetic Checksum for Serial Transmissions", IEEE Transactions on
Communications 30, 1982). The sums prove nothing by themselves; the place counts only if the chunk with the
old word has the digest of the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...messages.tensors import host_memory

if TYPE_CHECKING:
    import torch

WORD = 4
_COLUMNS = 256
SUMS = 3
"""How many sums of 8 bytes each chunk has."""


def sums_of_chunks(pieces: Sequence[torch.Tensor], chunk_size: int) -> torch.Tensor:
    """The sums of each chunk of ``pieces``, which are flat uint8 on one device: int64 ``[chunks, 3]`` on it.

    ``chunk_size`` is in bytes, a multiple of 1024. The end of a piece that does not fill a row of 1024 bytes
    counts as if zeros followed.
    """
    import torch

    row = WORD * _COLUMNS
    count = sum(-(-piece.numel() // chunk_size) for piece in pieces)
    out = torch.empty((count, SUMS), dtype=torch.int64, device=pieces[0].device if pieces else None)
    ends: dict[int, list[tuple[int, torch.Tensor]]] = {}
    place = 0
    for piece in pieces:
        whole = piece.numel() // chunk_size
        if whole:
            out[place : place + whole] = _sums(piece[: whole * chunk_size], chunk_size)
        place += whole
        if rest := piece.numel() - whole * chunk_size:
            ends.setdefault(-(-rest // row) * row, []).append((place, piece[whole * chunk_size :]))
            place += 1
    for size, members in ends.items():  # all at once, since most tensors of a model may be short
        padded = torch.nn.utils.rnn.pad_sequence([end for _, end in members], batch_first=True)
        padded = torch.nn.functional.pad(padded, (0, size - padded.shape[1]))
        out[[place for place, _ in members]] = _sums(padded.reshape(-1), size)
    return out


def _sums(data: torch.Tensor, chunk_size: int) -> torch.Tensor:
    import torch

    if data.data_ptr() % WORD:
        data = data.clone()  # a view of words needs an address that is a multiple of theirs
    words: Any = data.view(torch.int32).view(-1, chunk_size // (WORD * _COLUMNS), _COLUMNS)
    if data.device.type == "cpu":  # NumPy widens while it adds, and torch makes a copy of 64 bits first
        import numpy as np

        array = host_memory(data).view(np.int32).reshape(words.shape)
        rows, columns = (torch.from_numpy(np.add.reduce(array, axis, dtype=np.int64)) for axis in (2, 1))
    else:
        rows, columns = words.sum(2, dtype=torch.int64), words.sum(1, dtype=torch.int64)
    numbers = [torch.arange(sums.shape[1], device=data.device) for sums in (rows, columns)]
    weighted = [(sums * number).sum(1) for sums, number in zip((rows, columns), numbers, strict=True)]
    return torch.stack([rows.sum(1), *weighted], dim=1)


def flips(found: bytes, sums: Sequence[int], matches: Callable[[bytes], bool]) -> tuple[tuple[int, int], ...]:
    """The bytes of a changed chunk that were flipped, each as its offset and a mask of bits.

    ``found`` is the chunk, ``sums`` are the sums that it had, and ``matches`` tells whether bytes are those
    of the baseline. Empty if more than one word has changed.
    """
    import torch

    data = torch.frombuffer(bytearray(found), dtype=torch.uint8)
    now = sums_of_chunks([data], -(-len(found) // (WORD * _COLUMNS)) * WORD * _COLUMNS)[0].tolist()
    delta, by_row, by_column = (new - old for new, old in zip(now, sums, strict=True))
    if not delta or by_row % delta or by_column % delta:
        return ()
    offset = WORD * (_COLUMNS * (by_row // delta) + by_column // delta)
    if not 0 <= offset < len(found):
        return ()
    changed = found[offset : offset + WORD]
    value = int.from_bytes(changed.ljust(WORD, b"\0"), "little", signed=True) - delta
    if not -(1 << 31) <= value < 1 << 31:
        return ()
    was = value.to_bytes(WORD, "little", signed=True)[: len(changed)]
    if not matches(found[:offset] + was + found[offset + len(changed) :]):
        return ()
    masks = [(offset + i, a ^ b) for i, (a, b) in enumerate(zip(changed, was, strict=True))]
    return tuple((place, mask) for place, mask in masks if mask)
