"""Checks of MACs: that forgeries are refused, and that HMAC follows its definition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from .. import algorithms
from ..algorithms import Algorithm
from ..algorithms.known_answers import Answer, basis
from ..errors import IntegrityError
from .subject import Case, Subject, spread


def forgeries(subject: Subject) -> Iterator[Case]:
    """A MAC refuses the tag of another message or key, and a tag that is changed, too short or too long."""
    record = subject.record
    keyed = [a for a in subject.answers if "key" in a.parameters and _is_tag(record, a) and a.size]
    if record.keyed == "no" or not keyed:
        return
    answer = min(keyed, key=lambda a: (a.parameters != basis(record), abs(a.size - record.block_size)))
    values, content, tag = answer.values(record), answer.content(), answer.digest

    def verdict(message: bytes, given: Mapping[str, Any], claimed: bytes) -> str:
        hasher = subject.new(**given)
        hasher.update(message)
        try:
            hasher.verify(claimed)
        except IntegrityError:
            return "refused"
        return "accepted"

    yield Case("the right tag", "accepted", verdict(content, values, tag))
    few = subject.effort.flips
    for i in _bits(content, few):
        yield Case(f"message with bit {i} turned over", "refused", verdict(_flipped(content, i), values, tag))
    # Only the lowest bit of the first and the last byte, because Poly1305 ignores some bits of its key
    # (RFC 8439, section 2.5).
    for name, value in values.items():
        if name == "key" or isinstance(value, bytes):
            for i in sorted({0, 8 * len(value) - 8})[: 1 if few == 1 else 2]:
                other = {**values, name: _flipped(value, i)}
                yield Case(f"{name} with bit {i} turned over", "refused", verdict(content, other, tag))
    for i in _bits(tag, few):
        yield Case(f"tag with bit {i} turned over", "refused", verdict(content, values, _flipped(tag, i)))
    for label, claimed in (
        ("tag without its last byte", tag[:-1]),
        ("tag with a byte more", tag + b"\0"),
        ("no tag", b""),
    )[: 1 if few == 1 else 3]:
        yield Case(label, "refused", verdict(content, values, claimed))
    if few > 1:
        changed = [_flipped(content, i) for i in range(0, 8 * len(content), 7)]
        tags = subject.batch([subject.tensor(m) for m in changed], **values)
        yield Case(
            f"tags of {len(changed)} messages, each with another bit turned over",
            "all different, none the message's",
            "all different, none the message's" if len({tag, *tags}) == len(changed) + 1 else "some the same",
        )


def definition(subject: Subject) -> Iterator[Case]:
    """HMAC, computed from the hash on the same backend as RFC 2104 defines it."""
    hash_name = subject.record.construction.hmac_of
    if hash_name is None:
        return
    hash_record = algorithms.get(hash_name)
    block, few = subject.record.block_size, subject.effort.few_cases
    hashing = replace(subject, record=hash_record)
    for size in (block,) if few else (1, block - 1, block, block + 1, 2 * block + 3):
        key = subject.bytes(size)
        messages = [subject.bytes(n) for n in subject.sizes(1 if few else 5, 3 * block)]
        found = subject.batch([subject.tensor(m) for m in messages], key=key)
        padded = key if size <= block else hashing.batch([subject.tensor(key)])[0]
        padded = padded.ljust(block, b"\0")
        inside, outside = (bytes(b ^ pad for b in padded) for pad in (0x36, 0x5C))
        inner = hashing.batch([subject.tensor(inside + m) for m in messages])
        expected = hashing.batch([subject.tensor(outside + digest) for digest in inner])
        for message, one, other in zip(messages, expected, found, strict=True):
            yield Case(f"key of {size} bytes, random message of {len(message)} bytes", one, other)


def _is_tag(record: Algorithm, answer: Answer) -> bool:
    """Whether ``verify`` takes the answer as a tag: it has the default length and begins at the start."""
    return not answer.seek and answer.length in (None, record.digest_size or None)


def _bits(data: bytes, count: int) -> list[int]:
    """At least two positions of bits, evenly spread over ``data``; if ``count`` is 1, only the middle one."""
    return sorted(set(spread(range(8 * len(data)), max(2, count)) if count > 1 else [4 * len(data)]))


def _flipped(data: bytes, bit: int) -> bytes:
    """``data`` with one bit flipped."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
