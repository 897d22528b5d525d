"""Key derivation in batches: HKDF and PBKDF2 with the HMAC of any hash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import algorithms
from .algorithms import Algorithm
from .backends.registry import dispatch as run_batch
from .backends.registry import dispatch_pbkdf2 as pbkdf2
from .eager import digests_of
from .messages.copying import clear, copy_rows, side_by_side
from .messages.from_caller import message_batch
from .messages.layout import Messages, Ragged, Rows
from .messages.parameters import octet_string, parameter_value
from .messages.per_message import PerMessage

if TYPE_CHECKING:
    import torch


def _hmac(hash_name: str) -> Algorithm:
    record = algorithms.get(hash_name)
    try:
        return algorithms.get(f"hmac_{record.name}")
    except ValueError:
        raise ValueError(f"there is no HMAC over {record.name}") from None


def _positive(name: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if not 1 <= value <= most:
        raise ValueError(f"{name} must be between 1 and {most}, not {value}")
    return value


def hkdf_batch(
    key_material: Any,
    hash_name: str,
    /,
    *,
    length: int,
    salt: Any = b"",
    info: Any = b"",
    backend: str | None = None,
) -> torch.Tensor:
    """HKDF (RFC 5869) of every input keying material of a batch, on the device that holds it.

    ``key_material`` is a batch as :func:`integrity_triton.hash_batch` takes it. ``salt`` is bytes-like, or
    there is one for each of the batch; ``info`` is bytes-like. Returns uint8 ``[n, length]``; ``length`` is
    in bytes and at most that of 255 digests.

    Raises ValueError for a hash without HMAC or an impossible length, and as ``hash_batch`` does.
    """
    import torch

    record = _hmac(hash_name)
    size = record.digest_size
    _positive("length", length, 255 * size)
    messages = message_batch(key_material)
    salts = parameter_value(salt, messages.count, "salt")
    if not isinstance(salts, PerMessage):
        # Without a salt, RFC 5869 (section 2.2) takes as many zeros as a digest has bytes.
        salts = octet_string(salts, "salt") or bytes(size)
    elif 0 in salts.sizes:
        raise ValueError(
            "a salt is empty; give one salt for all messages, no salt at all, or a salt with bytes for each"
        )
    secrets = [digests_of(record, {"key": salts}, messages, size, backend)]
    keys = PerMessage(secrets[0])
    info = octet_string(info, "info")
    context = torch.frombuffer(bytearray(info) or bytearray(1), dtype=torch.uint8)
    context = context[: len(info)].to(messages.device).expand(messages.count, -1)
    block = torch.empty((messages.count, 0), dtype=torch.uint8, device=messages.device)
    for i in range(1, -(-length // size) + 1):
        counter = torch.full((messages.count, 1), i, dtype=torch.uint8, device=messages.device)
        text = side_by_side([block, context, counter])
        block = run_batch(record, {"key": keys}, Rows.of(text), size, backend=backend)
        secrets += [text, block]
    blocks = side_by_side(secrets[2::2])
    out = torch.empty((messages.count, length), dtype=torch.uint8, device=messages.device)
    copy_rows(out, blocks[:, :length])
    for secret in (*secrets, blocks):
        clear(secret)
    return out


def pbkdf2_batch(
    passwords: Any,
    hash_name: str,
    /,
    *,
    salt: Any,
    iterations: int,
    length: int | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """PBKDF2 with HMAC (RFC 8018, section 5.2) of every password of a batch, on the device that holds them.

    ``passwords`` is a batch as :func:`integrity_triton.hash_batch` takes it. ``salt`` is bytes-like, or there
    is one for each password. Returns uint8 ``[n, length]``; ``length`` is in bytes, by default that of a
    digest.

    Raises ValueError for a hash without HMAC, an impossible length or number of iterations, and as
    ``hash_batch`` does.
    """
    import torch

    record = _hmac(hash_name)
    size = record.digest_size
    length = size if length is None else _positive("length", length, size * (2**32 - 1))
    _positive("iterations", iterations, 2**63 - 1)
    messages = message_batch(passwords)
    salts = parameter_value(salt, messages.count, "salt")
    if not isinstance(salts, PerMessage):
        salts = octet_string(salts, "salt")
    derived = []
    for group in messages.groups():
        own = salts.between(group.first, group.last) if isinstance(salts, PerMessage) else salts
        values = _values(messages.messages(group.first, group.last))
        derived.append(pbkdf2(record, values, own, iterations, length, messages.device, backend=backend))
        del values  # or its copies would be kept until the next ones are made
    return derived[0] if len(derived) == 1 else torch.cat(derived)


def _values(messages: Messages) -> PerMessage:
    """A batch of messages as keys. An empty key is replaced by one zero byte, which HMAC treats in the same
    way because it pads keys with zeros."""
    import torch

    if isinstance(messages, Rows) and messages.length and messages.data.dim() == 2:
        return PerMessage(messages.data.view(torch.uint8))
    views = (
        list(messages.views)
        if isinstance(messages, Ragged)
        else [messages.view(i) for i in range(messages.count)]
    )
    zero = torch.zeros(1, dtype=torch.uint8, device=messages.device)
    return PerMessage([view if view.numel() else zero for view in views])
