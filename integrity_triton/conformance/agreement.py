"""The check with random data: two backends have to agree, or a batch and streams of one backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..algorithms import Algorithm
from ..batch import hash_batch
from .subject import Case, Subject


def agreement(subject: Subject) -> Iterator[Case]:
    """Random data, hashed on this backend and on another one. If no other one runs the algorithm, batches are
    compared with streams of the same backend."""
    record, effort = subject.record, subject.effort
    largest = effort.blocks * record.block_size
    per_message = [p.name for p in record.parameters if p.per_message]
    given = dict(subject.given)
    given.update({name: subject.bytes(len(given[name])) for name in given if isinstance(given[name], bytes)})
    length = {"length": subject.length}
    if record.takes_tuples:
        tuples = [
            tuple(subject.bytes(n) for n in subject.sizes(i % 4, largest)) for i in range(effort.messages)
        ]
        yield from _compare(subject, "tuple", tuples, {**given, **length})
        return
    messages = [subject.bytes(n) for n in subject.sizes(effort.messages, largest)]
    yield from _compare(subject, "random message", messages, {**given, **length})
    columns = int(subject.random.integers(1, largest + 1))
    equal = [subject.bytes(columns) for _ in range(max(2, effort.messages // 4))]
    matrix = subject.tensor(b"".join(b"\0" + row for row in equal)).reshape(len(equal), columns + 1)[:, 1:]
    yield from _compare(subject, "random row", equal, {**given, **length}, matrix)
    if per_message and record.keyed != "no":
        sizes = {
            name: len(given.get(name, b"")) or 32 for name in per_message if name in given or name == "key"
        }
        if "key" in sizes and "key" not in given:
            sizes["key"] = _key_size(record)
        each = {name: [subject.bytes(size) for _ in range(effort.messages)] for name, size in sizes.items()}
        yield from _compare(subject, "random message and key", messages, {**given, **each, **length})
    if record.xof and not effort.few_cases:
        size = int(subject.random.integers(100, 1000))
        yield from _compare(subject, f"{size} bytes of output", messages[:8], {**given, "length": size})
    if record.parallel:
        # Of these, a driver may divide only the first one, which then is alone in a table.
        unlike = [subject.bytes(size) for size in (5000, 10)]
        yield from _compare(subject, "random message", unlike, {**given, **length})
    if record.parallel and effort.long_message:
        long_message = subject.bytes(effort.long_message)
        yield from _compare(subject, "random message", [long_message], {**given, **length})
        hasher = subject.new(**given)
        for cut in range(0, len(long_message), 70_001):
            hasher.update(long_message[cut : cut + 70_001])
        (whole,) = subject.batch([subject.tensor(long_message)], **given, **length)
        found = hasher.digest(subject.length) if subject.length else hasher.digest()
        yield Case(f"stream of {len(long_message)} bytes in pieces of 70001", whole, found)


def _key_size(record: Algorithm) -> int:
    """The size in bytes of a random key."""
    (parameter,) = (p for p in record.parameters if p.name == "key")
    return parameter.sizes[-1] if parameter.sizes else parameter.max_size or max(16, parameter.min_size or 0)


def _compare(
    subject: Subject, what: str, messages: list[Any], given: dict[str, Any], matrix: Any = None
) -> Iterator[Case]:
    """The digests of a batch, against those of the partner or of streams.

    ``matrix``, if given, holds the messages as rows of shape [messages, bytes] on the device.
    """
    name, partner = subject.record.name, subject.partner
    local = [subject.on_device(m) for m in messages] if matrix is None else matrix
    found = subject.batch(local, **given)
    if partner is not None:
        with subject.watch.paused():
            digests = hash_batch(messages, name, backend=partner, **given)
        expected = [row.tobytes() for row in digests.cpu().numpy()]
        with_whom = partner
    else:
        expected, with_whom = [], "its own stream"
        length = given.get("length")
        for i, message in enumerate(messages):
            values = {k: v[i] if isinstance(v, list) else v for k, v in given.items() if k != "length"}
            hasher = subject.new(**values)
            hasher.update(message)
            expected.append(hasher.digest(length) if length is not None else hasher.digest())
    for message, one, other in zip(messages, expected, found, strict=True):
        sizes = [len(part) for part in message] if isinstance(message, tuple) else len(message)
        yield Case(f"{what} of {sizes} bytes, against {with_whom}", one, other)
