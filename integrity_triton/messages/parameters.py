"""What callers pass for an algorithm's parameters: byte strings for all messages or for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm
from ..algorithms.parameter import octet_view, octets
from .per_message import PerMessage
from .tensors import check_has_bytes, host_memory, is_tensor, named, tensor_bytes

if TYPE_CHECKING:
    import torch


def checked_parameters(
    record: Algorithm, given: Mapping[str, Any], count: int | None = None
) -> dict[str, Any]:
    """An algorithm's keywords after validation; ``count`` is the number of messages in a batch, or None
    outside a batch. Raises as :func:`parameter_value` and ``Algorithm.check_parameters`` do."""
    of_bytes = {parameter.name for parameter in record.parameters if parameter.type is bytes}
    return record.check_parameters(
        {
            name: parameter_value(value, count, f"{record.name}: {name}") if name in of_bytes else value
            for name, value in given.items()
        }
    )


def parameter_value(x: Any, count: int | None, label: str) -> Any:
    """The value of a parameter of bytes. In a batch, a list, a tuple, or a tensor or buffer of two dimensions
    holds one value for each of ``count`` messages and becomes a :class:`PerMessage`. Any other tensor becomes
    bytes. All other values are returned as they are, for ``Parameter.check``.

    Raises ValueError if the number of values is not ``count`` or a value has a wrong number of dimensions,
    and TypeError for a value that does not consist of bytes or integers. ``label`` names the parameter in the
    message.
    """
    if is_tensor(x):
        with named(label):
            check_has_bytes(x)
        if count is None or x.dim() != 2:
            return octet_string(x, label)
        _check_number(x.shape[0], count, label)
        return PerMessage(_flat(x, label, 2).view(x.shape[0], x.shape[1] * x.element_size()))
    if count is None:
        return x
    if isinstance(x, list | tuple):
        _check_number(len(x), count, label)
        values = [_value(value, f"{label} of message {i}") for i, value in enumerate(x)]
        return PerMessage(values or _host_copy(b"").view(0, 1))
    try:
        dimensions = memoryview(x).ndim
    except (TypeError, ValueError):
        return x
    if dimensions != 2:
        return x
    rows = octet_view(x, label, 2)
    assert rows.shape is not None
    number, items = rows.shape
    _check_number(number, count, label)
    return PerMessage(_host_copy(rows.tobytes()).view(number, items * rows.itemsize))


def octet_string(x: Any, label: str) -> bytes:
    """One byte string: a bytes-like object, or a 1-D tensor of integers, which is fetched from its device.

    Raises TypeError for a value that does not consist of bytes or integers, ValueError for another number of
    dimensions, and BufferError for a buffer that is not C-contiguous. ``label`` names the value in the
    message.
    """
    if not is_tensor(x):
        return octets(x, label)
    return host_memory(_flat(x, label, 1).cpu()).tobytes()


def _flat(x: torch.Tensor, label: str, dimensions: int) -> torch.Tensor:
    """The bytes of a tensor of integers, on its device."""
    import torch

    with named(label):
        data = tensor_bytes(x)
    if x.dtype is torch.bool or x.is_floating_point() or x.is_complex():
        raise TypeError(f"{label} must be bytes-like, that is of bytes or integers, not of {x.dtype}")
    if x.dim() != dimensions:
        raise ValueError(f"{label} must be {dimensions}-D, not {x.dim()}-D")
    return data


def _value(x: Any, label: str) -> torch.Tensor:
    """The value of one message; a tensor stays on its device."""
    return _flat(x, label, 1) if is_tensor(x) else _host_copy(octets(x, label))


def _host_copy(data: bytes) -> torch.Tensor:
    import torch

    if not data:
        return torch.empty(0, dtype=torch.uint8, device="cpu")  # the default device may be another one
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _check_number(values: int, count: int, label: str) -> None:
    if values != count:
        raise ValueError(f"{label}: {values} values for {count} messages")
