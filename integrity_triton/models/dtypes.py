"""Element types in the spelling of safetensors, which manifests use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

_FROM_TORCH = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "complex64": "C64",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}

_TO_TORCH = {spelling: name for name, spelling in _FROM_TORCH.items()}

LARGEST_SIZE = (1 << 63) - 1
"""Dimensions, byte lengths and file offsets are signed 64-bit wherever models are loaded."""


def byte_length(dtype: str, shape: Sequence[int]) -> int | None:
    """Bytes of a dense tensor, or None if that is not a whole number or exceeds LARGEST_SIZE.

    ``dtype`` is a key of DTYPE_BITS, ``shape`` holds non-negative ints.
    """
    bits = DTYPE_BITS[dtype]
    if 0 in shape:
        return 0
    for dimension in shape:
        bits *= dimension
        if bits > LARGEST_SIZE * 8:  # in the loop: the product of an untrusted shape could be huge
            return None
    return None if bits % 8 else bits // 8


def safetensors_type(x: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape under which safetensors stores a dense tensor.

    Raises TypeError for a dtype that safetensors does not have.
    """
    name = str(x.dtype).removeprefix("torch.")
    shape = tuple(x.shape)
    if name == "float4_e2m1fn_x2":  # torch counts pairs, safetensors counts elements
        if not shape:
            raise TypeError("safetensors cannot store a 0-dimensional torch.float4_e2m1fn_x2")
        return "F4", (*shape[:-1], 2 * shape[-1])
    dtype = _FROM_TORCH.get(name)
    if dtype is None:
        raise TypeError(f"safetensors has no dtype for {x.dtype}; hash a view or a cast of it")
    return dtype, shape


def torch_type(dtype: str, shape: Sequence[int]) -> tuple[torch.dtype, tuple[int, ...]]:
    """The dtype and shape of the torch tensor that holds what safetensors stores under ``dtype``, a key of
    DTYPE_BITS, and ``shape``: the inverse of :func:`safetensors_type`.

    Raises TypeError for a dtype that torch, or its installed version, does not have.
    """
    import torch

    if dtype == "F4":  # safetensors counts elements, torch counts pairs
        name = "float4_e2m1fn_x2"
        if not shape or shape[-1] % 2:
            raise TypeError("torch holds F4 in pairs, so that the last dimension must be even")
        shape = (*shape[:-1], shape[-1] // 2)
    else:
        name = _TO_TORCH.get(dtype, "")
    found = getattr(torch, name, None) if name else None
    if not isinstance(found, torch.dtype):
        raise TypeError(f"torch {torch.__version__} has no dtype for {dtype}, so that it cannot be loaded")
    return found, tuple(shape)
