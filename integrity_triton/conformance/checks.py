"""The checks of one algorithm on one backend and device.

Each yields cases. Most compare with known answers, in every way in which a caller may hand over messages; the
others are in :mod:`.macs` and :mod:`.agreement`. They use the package as its users do, and nothing of the
self-tests: so they find what the self-tests miss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..algorithms.known_answers import Answer, alike, basis, by_shared_parameters, grouped, pattern
from ..hashing import Hash
from .agreement import agreement
from .macs import definition, forgeries
from .subject import Case, Subject, spread

if TYPE_CHECKING:
    import torch


Check = Callable[[Subject], Iterator[Case]]


def known_answers(subject: Subject) -> Iterator[Case]:
    """A ragged batch for each set of parameters: messages of edge lengths, modes, lengths of output."""
    for group in alike(subject.answers):
        messages = [subject.on_device(a.content()) for a in group]
        found = subject.batch(messages, length=group[0].length, **group[0].values(subject.record))
        for answer, digest in zip(group, found, strict=True):
            yield Case(answer.described(), answer.digest, digest)


def one_message(subject: Subject) -> Iterator[Case]:
    """Batches of one message."""
    plain = subject.plain
    for answer in spread(plain, 2 if subject.effort.few_cases else 4):
        message = subject.on_device(answer.content())
        (found,) = subject.batch([message], length=answer.length, **answer.values(subject.record))
        yield Case(answer.described(), answer.digest, found)


def rows(subject: Subject) -> Iterator[Case]:
    """Rows of a tensor, dense and with a byte between them, and chunks of a tensor, the last one shorter."""
    if subject.record.takes_tuples:
        return
    fitting = [a for a in subject.plain if 0 < a.size <= 3 * subject.record.block_size + 64]
    for answer in spread(fitting, 1 if subject.effort.few_cases else 3):
        given = {"length": answer.length, **answer.values(subject.record)}
        dense = subject.tensor(answer.content() * 5).reshape(5, answer.size)
        for i, digest in enumerate(subject.batch(dense, **given)):
            yield Case(f"row {i} of 5, {answer.described()}", answer.digest, digest)
        apart = subject.tensor((b"\xff" + answer.content()) * 5).reshape(5, answer.size + 1)[:, 1:]
        for i, digest in enumerate(subject.batch(apart, **given)):
            yield Case(f"row {i} of 5, a byte apart, {answer.described()}", answer.digest, digest)
        # The last chunk is shorter if a shorter message has a known answer.
        end = max((a for a in fitting if a.size < answer.size), key=lambda a: a.size, default=answer)
        chunks = [answer] * 3 + [end]
        data = subject.tensor(b"".join(chunk.content() for chunk in chunks))
        found = subject.chunks(data, answer.size, **given)
        for i, (chunk, digest) in enumerate(zip(chunks, found, strict=True)):
            yield Case(f"chunk {i} of 4, {chunk.described()}", chunk.digest, digest)


def misaligned(subject: Subject) -> Iterator[Case]:
    """Messages that start at any offset, between bytes that must not be read as part of them."""
    block = subject.record.block_size
    answers = [a for a in subject.plain if 0 < a.size <= 2 * block + 8]
    answers = spread(answers, 2 if subject.effort.few_cases else 5)
    if not answers:
        return
    placed = list(itertools.product(subject.effort.offsets, answers))
    views = [_between_poison(subject, answer, offset) for offset, answer in placed]
    found = subject.batch(views, length=answers[0].length, **answers[0].values(subject.record))
    for (offset, answer), digest in zip(placed, found, strict=True):
        yield Case(f"{offset} bytes from a multiple of 64, {answer.described()}", answer.digest, digest)


def _between_poison(subject: Subject, answer: Answer, offset: int) -> Any:
    """A message that starts ``offset`` bytes after a multiple of 64, in memory that is filled with 0xFF."""

    def place(content: bytes) -> torch.Tensor:
        return subject.placed(content, offset)

    content = answer.content()
    return tuple(map(place, content)) if subject.record.takes_tuples else place(content)


def streams(subject: Subject) -> Iterator[Case]:
    """A message in pieces, with a known answer after some of them; then a stream and its copy, which continue
    independently."""
    record = subject.record
    if record.takes_tuples:
        for answer in subject.plain:
            content = answer.content()
            hasher = subject.new(**answer.values(record))
            for part in content:
                hasher.update((part,))
            yield Case(answer.described(), answer.digest, _digest(hasher, answer))
        return
    known = spread([a for a in subject.plain if isinstance(a.message, int)], subject.effort.digests)
    if known:
        hasher, done = subject.new(**known[0].values(record)), 0
        for i, answer in enumerate(known):
            for piece in _pieces(answer.size - done, i):
                data = pattern(piece, done)
                hasher.update(subject.tensor(data) if (done + i) % 2 else data)
                done += piece
            yield Case(f"stream, {answer.described()}", answer.digest, _digest(hasher, answer))
        if len(known) > 1:
            first, last = known[-2:]
            hasher = subject.new(**first.values(record))
            hasher.update(pattern(first.size))
            twin = hasher.copy()
            hasher.update(pattern(last.size - first.size, first.size))
            yield Case(f"copied, {last.described()}", last.digest, _digest(hasher, last))
            yield Case(f"the copy, {first.described()}", first.digest, _digest(twin, first))


def stream_modes(subject: Subject) -> Iterator[Case]:
    """Each mode in a stream."""
    ordinary = basis(subject.record)
    answers = [a for a in subject.answers if a.parameters != ordinary and not a.seek]
    if subject.effort.few_cases:
        answers = answers[:2]
    for group in grouped(answers, lambda a: a.parameters):
        answer = group[0]
        hasher = subject.new(**answer.values(subject.record))
        hasher.update(answer.content())
        yield Case(f"stream, {answer.described()}", answer.digest, _digest(hasher, answer))


def output(subject: Subject) -> Iterator[Case]:
    """Extendable output of several lengths and, if the algorithm can seek, from several positions; and that a
    shorter output is a prefix of a longer one."""
    if not subject.record.xof:
        return
    answers = [a for a in subject.answers if a.length is not None]
    for group in grouped(answers, lambda a: [a.message, a.parameters]):
        if len(group) < 2:
            continue
        hasher = subject.new(**group[0].values(subject.record))
        hasher.update(group[0].content())
        chosen = spread(group, 3) if subject.effort.few_cases else group
        for answer in chosen:
            found = hasher.digest(answer.length, seek=answer.seek)
            yield Case(f"stream, {answer.described()}", answer.digest, found)
        longest = max((a for a in chosen if not a.seek), key=lambda a: len(a.digest))
        for size in (0, 1, len(longest.digest) - 1):
            yield Case(f"output of {size} bytes", longest.digest[:size], hasher.digest(size))


def keys(subject: Subject) -> Iterator[Case]:
    """A batch in which each message has its own key, nonce or similar parameter."""
    per_message = {p.name for p in subject.record.parameters if p.per_message}
    if not per_message:
        return
    for found_group in by_shared_parameters(subject.record, subject.answers):
        # Short messages are enough: another check covers the lengths.
        group = [a for a in found_group if a.size <= 3 * subject.record.block_size]
        if subject.effort.few_cases:
            group = spread(group, 3)
        if not group:
            continue
        values = [a.values(subject.record) for a in group]
        given = dict(values[0])
        for name in per_message & given.keys():
            given[name] = [value[name] for value in values]
        messages = [subject.on_device(a.content()) for a in group]
        found = subject.batch(messages, length=group[0].length, **given)
        for answer, digest in zip(group, found, strict=True):
            yield Case(f"its own key, {answer.described()}", answer.digest, digest)
        if "key" in per_message & given.keys() and len({len(key) for key in given["key"]}) == 1:
            given["key"] = subject.tensor(b"".join(given["key"])).reshape(len(group), -1)
            found = subject.batch(messages, length=group[0].length, **given)
            for answer, digest in zip(group, found, strict=True):
                yield Case(f"its own key, a tensor's row, {answer.described()}", answer.digest, digest)


def _pieces(size: int, i: int) -> list[int]:
    """The sizes of pieces that add up to ``size``, cut differently for each ``i``."""
    first = min(size, (0, 1, 3, 7)[i % 4])
    middle = (size - first) // 2 if i % 3 else 0
    return [piece for piece in (first, middle, size - first - middle) if piece]


def _digest(hasher: Hash, answer: Answer) -> bytes:
    """The digest of a stream, as long as the known answer."""
    return hasher.digest() if answer.length is None else hasher.digest(answer.length)


CHECKS: dict[str, Check] = {
    "known answers": known_answers,
    "one message": one_message,
    "rows and chunks": rows,
    "misaligned": misaligned,
    "streams": streams,
    "modes of a stream": stream_modes,
    "extendable output": output,
    "keys of their own": keys,
    "forgeries": forgeries,
    "HMAC's definition": definition,
    "agreement": agreement,
}
