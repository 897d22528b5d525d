"""SGLang's checksums of weights: its 64-bit tensor hash, and what its endpoint ``/weights_checker`` answers.

The definitions are those of SGLang 0.5.23: ``sglang/kernels/ops/memory/gpu_tensor_hash.py`` (the tensor
hash), ``sglang/srt/managers/mm_utils.py`` (``tensor_hash``, which takes SHA-256 for tensors that are not on
CUDA), ``sglang/srt/utils/weight_checker.py`` (which tensors, by which names),
``sglang/srt/managers/scheduler_components/weight_updater.py`` (the models of one rank) and
``sglang/srt/managers/tokenizer_control_mixin.py`` (all ranks).

**The tensor hash is a checksum, and no cryptographic hash.** It finds accidental changes. Who wants to change
weights unnoticed can:

- It is a sum, modulo 2**64, of values that each depend on one tile of 8192 words alone, and within a tile on
  sums of values that each depend on one word and its position. There is no key. Other words with the same
  sums are found by sorting lists (Wagner's generalised birthday problem): from eight words that may be chosen
  freely, a second preimage takes seconds. The predecessor of this hash was reported for the same kind of
  weakness (https://github.com/sgl-project/sglang/issues/8342), and was replaced by it
  (https://github.com/sgl-project/sglang/pull/9008).
- Bytes are padded with zeros to whole words, and the number of words is hashed instead of the number of
  bytes. One, two or three more zero bytes at the end do not change the result, and neither dtype nor shape
  count (https://github.com/sgl-project/sglang/pull/22033 wants to add them).

With ``algorithm="blake3"`` or ``"sha256"`` the same functions give cryptographic digests in results of the
same shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ..files import Progress

__all__ = [
    "SKIPPED",
    "TENSOR_HASH",
    "checksum_info",
    "engine_checksum",
    "hash_in_sglang",
    "merge_roles",
    "model_checksums",
    "overall_checksum",
    "tensor_hash",
    "tensor_hashes",
]

TENSOR_HASH = "gpu_tensor_hash"
"""The name of SGLang's tensor hash as an ``algorithm``."""

SKIPPED = ("cos_sin_cache", "cos_cache", "sin_cache", "inv_freq", "freqs_cis", "expert_mask_gpu")
"""SGLang leaves out each tensor whose name contains one of these: what it computes from the configuration."""

_CPU_HASH = "sha256_64"  # SGLang's for tensors that are not on CUDA
_SEED = 0x243F6A88
_TILE = 8192  # words
_MOST_WORDS = 1 << 31
_WORD = 0xFFFFFFFF
_LONG = 0xFFFFFFFFFFFFFFFF
_FMIX32 = (0x85EBCA6B, 0xC2B2AE35)  # MurmurHash3's finaliser for 32 bits
_SPLITMIX64 = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
# The words of a tile that are hashed at the same time, with three temporary copies: they stay in a CPU's
# cache, and they fill a GPU.
_HOST_WORDS, _DEVICE_WORDS = 1 << 18, 1 << 24


def tensor_hash(tensor: torch.Tensor, *, seed: int = _SEED) -> int:
    """SGLang's ``gpu_tensor_hash``: 64 bits, computed on the tensor's own device.

    It consists of torch operations on int32, so that it runs on every device that torch has, and takes at
    most 256 MiB in addition to the tensor, besides a copy of a tensor that is not contiguous. SGLang's own
    function is a Triton kernel that takes tensors on CUDA alone. ``seed`` is an int of 32 bits.

    Read in the module's docstring why this is a checksum.

    Raises as :func:`tensor_hashes` does.
    """
    return tensor_hashes([tensor], seed=seed)[0]


def tensor_hashes(tensors: Sequence[torch.Tensor], *, seed: int = _SEED) -> list[int]:
    """The result of :func:`tensor_hash` for each tensor. The host waits once for each device.

    Raises TypeError and ValueError for a tensor without bytes, as :func:`integrity_triton.hash_batch` does,
    and ValueError for more than 2**31 words (8 GiB), for which SGLang has no defined result: its kernel
    counts words in int32.
    """
    import torch

    totals = [_total(tensor, seed) for tensor in tensors]
    by_device: dict[torch.device, list[int]] = {}
    for place, total in enumerate(totals):
        if total is not None:
            by_device.setdefault(total.device, []).append(place)
    found = [0] * len(totals)  # SGLang's value of a tensor without elements
    for places in by_device.values():
        values: list[int] = torch.stack([totals[place] for place in places]).tolist()  # type: ignore[misc]
        for place, value in zip(places, values, strict=True):
            found[place] = _splitmix64(value & _LONG)
    return found


def model_checksums(
    model: torch.nn.Module,
    *,
    algorithm: str = TENSOR_HASH,
    skip: Iterable[str] = (),
    dequantize: Callable[[torch.Tensor, torch.Tensor, torch.nn.Module], torch.Tensor] | None = None,
    backend: str | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """The ``checksums`` of ``/weights_checker`` with ``action="checksum"``, for a model of this process.

    Returns hexadecimal digits by name, for the parameters and then the buffers of the model, as
    ``named_parameters`` and ``named_buffers`` give them. Left out are tensors whose name contains one of
    :data:`SKIPPED` or of ``skip`` (SGLang's ``skip_tensor_list``), and those with a true attribute
    ``_skip_weight_check``.

    ``algorithm`` is ``"gpu_tensor_hash"``, which is what SGLang computes on CUDA; ``"sha256_64"``, which is
    what it computes elsewhere: the first 8 bytes of SHA-256; or any hash of the package without a key, such
    as ``"blake3"``, for its whole digest. ``backend`` and ``progress`` are as for
    :meth:`integrity_triton.models.Manifest.build`; the tensor hash takes neither into account.

    SGLang hashes a block-quantised FP8 weight as what it is dequantised to, in bfloat16, and leaves out its
    scale. Such a weight is recognised here by its scale, the parameter ``weight_scale_inv`` beside
    ``weight`` in a module with a ``quant_method``. ``dequantize`` is called with the weight, the scale and
    the module, and returns the tensor to hash. Within SGLang, :func:`hash_in_sglang` leaves that to SGLang.

    Raises ValueError, which names the tensor, for a block-quantised weight without ``dequantize``, and
    ValueError and TypeError for a tensor without bytes and for an unknown algorithm.
    """
    quantized: dict[str, tuple[str, torch.nn.Module]] = {}
    for path, module in model.named_modules():
        if getattr(module, "quant_method", None) is not None:
            own = dict(module.named_parameters(recurse=False))
            for name in own:
                scale = name.replace("weight", "weight_scale_inv")
                if name.endswith("weight") and scale in own:
                    prefix = f"{path}." if path else ""
                    quantized[prefix + name] = (prefix + scale, module)
    state: dict[str, torch.Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    scales = {scale for scale, _ in quantized.values()}
    patterns = (*SKIPPED, *skip)

    def chosen() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in state.items():
            if name in scales:
                continue
            if name in quantized:
                scale, module = quantized[name]
                if dequantize is None:
                    raise ValueError(
                        f"tensor {name!r} is quantised in blocks, and SGLang hashes what it is dequantised "
                        "to; pass dequantize, or use hash_in_sglang within SGLang"
                    )
                yield name, dequantize(tensor, state[scale], module)
            elif not getattr(tensor, "_skip_weight_check", False) and not any(p in name for p in patterns):
                yield name, tensor

    return _hex_digests(chosen(), algorithm, backend, progress)


def overall_checksum(checksums: Mapping[str, str]) -> str:
    """SGLang's ``per_gpu_checksum``: SHA-256 over each name and its checksum, one after the other, sorted by
    name, in hexadecimal."""
    hasher = hashlib.sha256()
    for name in sorted(checksums):
        hasher.update(name.encode())
        hasher.update(checksums[name].encode())
    return hasher.hexdigest()


def merge_roles(checksums: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The checksums of all models of one rank, by their roles: those of ``"target"`` keep their names, and
    those of a draft model get its role and a dot before theirs.

    Raises ValueError if two names become equal.
    """
    merged: dict[str, str] = {}
    for role, of_role in checksums.items():
        for name, checksum in of_role.items():
            key = name if role == "target" else f"{role}.{name}"
            if key in merged:
                raise ValueError(f"two tensors are named {key!r}, one of them of the role {role!r}")
            merged[key] = checksum
    return merged


def checksum_info(
    checksums: Mapping[str, str],
    *,
    role: str = "target",
    rank: int = 0,
    size: int = 1,
    tp: tuple[int, int] = (0, 1),
    dp: tuple[int, int] = (0, 1),
    pp: tuple[int, int] = (0, 1),
) -> dict[str, Any]:
    """The answer of one model in SGLang's shape (``ChecksumInfo``), of strings, ints and dicts.

    ``rank`` and ``size`` are those of the whole group of processes; ``tp``, ``dp`` and ``pp`` are a rank and
    a size each, of tensor, data and pipeline parallelism.
    """
    placement: dict[str, Any] = {"role": role}
    for name, (own, of) in {"tp": tp, "dp": dp, "pp": pp}.items():
        placement |= {f"{name}_rank": own, f"{name}_size": of}
    return {
        "checksums": dict(checksums),
        "per_gpu_checksum": overall_checksum(checksums),
        "parallelism_info": {**placement, "rank": rank, "size": size},
    }


def engine_checksum(per_gpu: Iterable[str]) -> str:
    """SGLang's ``per_engine_checksum``: SHA-256 over the ``per_gpu_checksum`` of all ranks, in hexadecimal,
    in the order of the ranks."""
    hasher = hashlib.sha256()
    for checksum in per_gpu:
        hasher.update(checksum.encode())
    return hasher.hexdigest()


def hash_in_sglang(algorithm: str = "blake3", *, backend: str | None = None) -> None:
    """Let ``/weights_checker`` of the SGLang in this process hash with ``algorithm``.

    SGLang keeps its choice of tensors, its dequantisation and its combination of ranks; only the function
    that hashes one tensor (``_hash_tensor`` of its module ``weight_checker``) is replaced. Call it in every
    process that has a model, before the first check, and in none or all of those whose answers are
    compared. ``algorithm`` is as for :func:`model_checksums`.

    Raises ImportError if the SGLang that is installed has no such function, and ValueError for an unknown
    algorithm.
    """
    from importlib import import_module

    from .named_tensors import hash_of

    if algorithm not in {TENSOR_HASH, _CPU_HASH}:
        hash_of(algorithm)
    name = "sglang.srt.utils.weight_checker"
    checker = import_module(name)
    if not hasattr(checker, "_hash_tensor"):
        raise ImportError(f"{name} of this SGLang has no _hash_tensor, which SGLang 0.5.23 has")

    def hash_tensor(tensor: torch.Tensor) -> str:
        return _hex_digests([("weight", tensor)], algorithm, backend, None)["weight"]

    vars(checker)["_hash_tensor"] = hash_tensor


def _hex_digests(
    tensors: Iterable[tuple[str, torch.Tensor]],
    algorithm: str,
    backend: str | None,
    progress: Progress | None,
) -> dict[str, str]:
    from ..messages.tensors import named
    from .named_tensors import hex_digests

    if algorithm == TENSOR_HASH:
        names, totals = [], []
        for name, tensor in tensors:
            with named(f"tensor {name!r}"):
                _check_length(tensor)
            names.append(name)
            totals.append(tensor)
        return {name: f"{value:016x}" for name, value in zip(names, tensor_hashes(totals), strict=True)}
    if algorithm == _CPU_HASH:
        digests = hex_digests(tensors, "sha256", backend=backend, progress=progress)
        return {name: digest[:16] for name, digest in digests.items()}
    return hex_digests(tensors, algorithm, backend=backend, progress=progress)


def _check_length(tensor: torch.Tensor) -> None:
    from ..messages.tensors import check_has_bytes

    check_has_bytes(tensor)
    words = -(-tensor.numel() * tensor.element_size() // 4)
    if words > _MOST_WORDS:
        raise ValueError(
            f"SGLang's tensor hash takes at most {_MOST_WORDS} words of 4 bytes, and the tensor has {words}; "
            "take blake3 or sha256"
        )


def _total(tensor: torch.Tensor, seed: int) -> torch.Tensor | None:
    """The sum of the values of all tiles, modulo 2**64, as an int64 of no dimensions; None for no bytes."""
    import torch

    from ..messages.tensors import tensor_bytes

    _check_length(tensor)
    if not tensor.numel():
        return None
    with torch.no_grad():
        data = tensor_bytes(tensor)
        device = data.device
        words = -(-data.numel() // 4)
        size = min(-(-words // _TILE) * _TILE, _HOST_WORDS if device.type == "cpu" else _DEVICE_WORDS)
        block = _Block(size, seed, device)
        total = torch.zeros((), dtype=torch.int64, device=device)
        for start in range(0, words, size):
            total += block.tiles(data, start, words).sum()
        return total


class _Block:
    """The hash of up to ``size`` words, with temporary memory that all blocks of a tensor share."""

    def __init__(self, size: int, seed: int, device: torch.device) -> None:
        import torch

        def of(dtype: torch.dtype) -> torch.Tensor:
            return torch.empty(size, dtype=dtype, device=device)

        self._size = size
        self._index = torch.arange(size, dtype=torch.int32, device=device)
        self._words = of(torch.int32)
        self._mixed, self._other = of(torch.int32), of(torch.int32)
        self._lanes = (
            (0x27D4EB2D, seed & _WORD, 15),
            (0x165667B1, ((seed * 0x9E3779B1) ^ 0xDEADBEEF) & _WORD, 13),
        )

    def tiles(self, data: torch.Tensor, start: int, words: int) -> torch.Tensor:
        """The values of the tiles that begin at word ``start``, as int64."""
        import torch

        count = min(self._size, words - start)
        whole = -(-count // _TILE) * _TILE
        given = self._load(data, start, count)
        halves = []
        for factor, offset, distance in self._lanes:
            mixed, other = self._mixed[:whole], self._other[:whole]
            # The position of a word, multiplied and rotated. Both wrap at 32 bits, as in SGLang's kernel.
            torch.add(self._index[:whole], start, out=mixed)
            _shift_right(mixed, 32 - distance, other)
            other |= mixed << distance
            mixed *= _signed(factor)
            mixed += _signed(offset)
            mixed ^= other
            mixed[:count] ^= given
            _fmix32(mixed, other)
            mixed[count:] = 0  # SGLang's kernel adds nothing for the words after the last
            sums = mixed.view(-1, _TILE).sum(1)  # as int64, whose low 32 bits are those of the wrapped sum
            sums &= _WORD
            sums ^= 4 * words & _WORD
            halves.append(_fmix32_of_long(sums))
        return (halves[0] << 32) | halves[1]

    def _load(self, data: torch.Tensor, start: int, count: int) -> torch.Tensor:
        """The words from ``start`` on: a view of the data if that is possible."""
        import torch

        first, last = 4 * start, 4 * (start + count)
        part = data[first:last]
        if part.numel() == last - first and part.data_ptr() % 4 == 0 and part.storage_offset() % 4 == 0:
            return part.view(torch.int32)
        words = self._words[:count]
        words[-1] = 0  # zeros after the last byte
        words.view(torch.uint8)[: part.numel()] = part
        return words


def _signed(word: int) -> int:
    """The int32 with the bits of a word."""
    return word - (1 << 32) if word >> 31 else word


def _shift_right(x: torch.Tensor, distance: int, out: torch.Tensor) -> None:
    """A logical shift: torch's shift of an int32 repeats the sign."""
    import torch

    torch.bitwise_right_shift(x, distance, out=out)
    out &= (1 << (32 - distance)) - 1


def _fmix32(x: torch.Tensor, other: torch.Tensor) -> None:
    """The finaliser of MurmurHash3 on int32, in place. ``other`` is temporary memory."""
    first, second = _FMIX32
    for distance, factor in ((16, first), (13, second), (16, None)):
        _shift_right(x, distance, other)
        x ^= other
        if factor is not None:
            x *= _signed(factor)


def _fmix32_of_long(x: torch.Tensor) -> torch.Tensor:
    """The same on words that are in int64, of which there are few."""
    first, second = _FMIX32
    x = x ^ (x >> 16)
    x = x * first & _WORD
    x = x ^ (x >> 13)
    x = x * second & _WORD
    return x ^ (x >> 16)


def _splitmix64(x: int) -> int:
    """The finaliser of SplitMix64."""
    first, second = _SPLITMIX64
    x = (x ^ (x >> 30)) * first & _LONG
    x = (x ^ (x >> 27)) * second & _LONG
    return x ^ (x >> 31)
