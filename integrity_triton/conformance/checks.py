"""What is checked of one algorithm on one backend and device."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .. import algorithms
from ..algorithms import Algorithm, Hmac
from ..algorithms.known_answers import (
    Answer,
    Answers,
    Question,
    alike,
    basis,
    each_its_own,
    grouped,
    pattern,
    usual,
)
from ..backends.base import Backend
from ..backends.triton_backend import TritonBackend
from ..batch import hash_batch, hash_chunks
from ..errors import IntegrityError
from ..hashing import Hash, new

if TYPE_CHECKING:
    import numpy as np
    import torch

_SHOWN = 20
_GUARD = 32
_LINE = 64
_POISON = 0xFF


@dataclass(frozen=True)
class Effort:
    """How much is checked."""

    name: str
    longest: int
    """Bytes of the longest message of a known answer, and of streams."""
    offsets: tuple[int, ...]
    """Where messages start in memory, in bytes from an address that 64 divides."""
    messages: int
    """Random messages in a batch."""
    blocks: int
    """Of the algorithm's, in the longest of them."""
    long_message: int
    """Bytes of a random message for algorithms that spread one over a device; 0 for none."""
    digests: int
    """Digests taken of a stream while it grows."""
    flips: int
    """Bits of a message, key and tag that are turned over, each in its own case."""


EFFORTS = {
    effort.name: effort
    for effort in (
        Effort("quick", 50_000, tuple(range(18)), 48, 4, 200_001, 6, 3),
        Effort("standard", 1 << 20, tuple(range(18)), 200, 9, 3_000_017, 40, 8),
        Effort("full", 1 << 20, tuple(range(18)), 3000, 40, 50_000_017, 1000, 64),
    )
}
# Where a block takes up to a tenth of a second.
SLOW_EFFORTS = {
    effort.name: effort
    for effort in (
        Effort("quick", 150, (0, 1, 3, 16), 3, 1, 0, 1, 1),
        Effort("standard", 400, (0, 1, 2, 3, 8, 17), 8, 2, 0, 2, 1),
        Effort("full", 6000, tuple(range(18)), 40, 3, 0, 4, 2),
    )
}


@dataclass(frozen=True)
class Failure:
    """One case that did not come out as it has to."""

    check: str
    case: str
    expected: str
    """In hexadecimal, or in words."""
    found: str


@dataclass(frozen=True)
class Case:
    """One comparison: bytes with bytes, or words with words."""

    label: str
    expected: bytes | str
    found: bytes | str

    @property
    def good(self) -> bool:
        return self.expected == self.found


@dataclass
class Tally:
    """What the checks of a cell came to."""

    counts: dict[str, int] = field(default_factory=dict)
    """Cases of each check."""
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    """The first ones, in full."""
    notes: list[str] = field(default_factory=list)
    launches: int = 0

    @property
    def cases(self) -> int:
        return sum(self.counts.values())

    def fail(self, check: str, case: str, expected: bytes | str, found: bytes | str) -> None:
        self.failed += 1
        if len(self.failures) < _SHOWN:
            texts = [x if isinstance(x, str) else x.hex() for x in (expected, found)]
            self.failures.append(Failure(check, case, *texts))


class Watch:
    """Counts the kernels that a backend launches for results, which self-tests are not, and notes what is
    asked of the other backends.

    A backend that hands work to another one gives right digests and proves nothing.
    """

    def __init__(self, backend: Backend, others: Sequence[Backend]) -> None:
        self._backend = backend
        self._others = others
        self.launches = 0
        self.strangers: set[str] = set()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        replaced: list[tuple[Backend, str, Any]] = []

        def intercept(instance: Backend, method: str, note: Callable[[], None]) -> None:
            called = getattr(instance, method)

            def noted(*arguments: Any, **keywords: Any) -> Any:
                note()
                return called(*arguments, **keywords)

            replaced.append((instance, method, instance.__dict__.get(method)))
            setattr(instance, method, noted)

        def launched() -> None:
            self.launches += 1

        if isinstance(self._backend, TritonBackend):
            intercept(self._backend, "admit", launched)
        for other in self._others:
            for method in ("digest_batch", "stream"):
                intercept(other, method, lambda name=other.name: self.strangers.add(name))  # type: ignore[misc]
        try:
            yield
        finally:
            for instance, method, before in replaced:
                if before is None:
                    delattr(instance, method)
                else:
                    setattr(instance, method, before)


@dataclass
class Subject:
    """An algorithm on a backend and a device, and what it is checked with."""

    record: Algorithm
    backend: str
    device: torch.device
    effort: Effort
    known: Answers | None
    random: np.random.Generator
    partner: str | None
    """Another backend, whose digests are to be the same."""
    watch: Watch

    @property
    def answers(self) -> list[Answer]:
        """The known answers that are not too long."""
        found = () if self.known is None else self.known.answers
        return [a for a in found if a.size <= self.effort.longest]

    @property
    def plain(self) -> list[Answer]:
        """Those for the fewest parameters and the shortest output in use, by length."""
        return usual(self.record, self.answers)

    @property
    def given(self) -> dict[str, Any]:
        """The fewest parameters with which the algorithm runs."""
        return Question(0, basis(self.record)).values(self.record)

    @property
    def length(self) -> int | None:
        """What :func:`hash_batch` has to be told of the digest's length."""
        return 32 if self.record.xof and not self.record.digest_size else None

    def tensor(self, data: bytes) -> torch.Tensor:
        """``data`` on the device, as flat uint8."""
        import torch

        if not data:
            return torch.empty(0, dtype=torch.uint8, device=self.device)
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self.device)

    def on_device(self, message: Any) -> Any:
        return tuple(map(self.tensor, message)) if self.record.takes_tuples else self.tensor(message)

    def batch(self, messages: Any, **keywords: Any) -> list[bytes]:
        """Digests of messages that are on the device."""
        return self._rows(hash_batch(messages, self.record.name, backend=self.backend, **keywords))

    def chunks(self, data: torch.Tensor, size: int, **keywords: Any) -> list[bytes]:
        name = self.record.name
        return self._rows(hash_chunks(data, name, chunk_size=size, backend=self.backend, **keywords))

    def _rows(self, digests: torch.Tensor) -> list[bytes]:
        if digests.device != self.device or digests.dtype.itemsize != 1 or digests.dim() != 2:
            raise ValueError(f"digests are {digests.dtype} on {digests.device}, not uint8 on {self.device}")
        return [row.tobytes() for row in digests.cpu().numpy()]

    def new(self, **keywords: Any) -> Hash:
        return new(self.record.name, backend=self.backend, **keywords)

    def bytes(self, size: int) -> bytes:
        """Random ones."""
        return self.random.bytes(size)

    def sizes(self, count: int, largest: int) -> list[int]:
        return [int(n) for n in self.random.integers(0, largest + 1, count)]


Check = Callable[[Subject], Iterator[Case]]


# Checks


def known_answers(subject: Subject) -> Iterator[Case]:
    """Ragged batches of all messages that have the same parameters: edge lengths, modes, output."""
    for group in alike(subject.answers):
        messages = [subject.on_device(a.content()) for a in group]
        found = subject.batch(messages, length=group[0].length, **group[0].values(subject.record))
        for answer, digest in zip(group, found, strict=True):
            yield Case(answer.described(), answer.digest, digest)


def one_message(subject: Subject) -> Iterator[Case]:
    """Batches of one."""
    plain = subject.plain
    for answer in _few(plain, 4 if subject.effort.messages > 10 else 2):
        message = subject.on_device(answer.content())
        (found,) = subject.batch([message], length=answer.length, **answer.values(subject.record))
        yield Case(answer.described(), answer.digest, found)


def rows(subject: Subject) -> Iterator[Case]:
    """The rows of a tensor, dense and a byte apart, and the chunks of a tensor with what is left over."""
    if subject.record.takes_tuples:
        return
    fitting = [a for a in subject.plain if 0 < a.size <= 3 * subject.record.block_size + 64]
    for answer in _few(fitting, 3 if subject.effort.messages > 10 else 1):
        given = {"length": answer.length, **answer.values(subject.record)}
        dense = subject.tensor(answer.content() * 5).reshape(5, answer.size)
        for i, digest in enumerate(subject.batch(dense, **given)):
            yield Case(f"row {i} of 5, {answer.described()}", answer.digest, digest)
        apart = subject.tensor((b"\xff" + answer.content()) * 5).reshape(5, answer.size + 1)[:, 1:]
        for i, digest in enumerate(subject.batch(apart, **given)):
            yield Case(f"row {i} of 5, a byte apart, {answer.described()}", answer.digest, digest)
        # The last chunk is shorter, where there is an answer for that.
        end = max((a for a in fitting if a.size < answer.size), key=lambda a: a.size, default=answer)
        chunks = [answer] * 3 + [end]
        data = subject.tensor(b"".join(chunk.content() for chunk in chunks))
        found = subject.chunks(data, answer.size, **given)
        for i, (chunk, digest) in enumerate(zip(chunks, found, strict=True)):
            yield Case(f"chunk {i} of 4, {chunk.described()}", chunk.digest, digest)


def misaligned(subject: Subject) -> Iterator[Case]:
    """Messages that start anywhere, between bytes that must not count."""
    block = subject.record.block_size
    answers = [a for a in subject.plain if 0 < a.size <= 2 * block + 8]
    answers = _few(answers, 5 if subject.effort.messages > 10 else 2)
    if not answers:
        return
    placed = list(itertools.product(subject.effort.offsets, answers))
    views = [_placed(subject, answer, offset) for offset, answer in placed]
    found = subject.batch(views, length=answers[0].length, **answers[0].values(subject.record))
    for (offset, answer), digest in zip(placed, found, strict=True):
        yield Case(f"{offset} bytes from a multiple of 64, {answer.described()}", answer.digest, digest)


def _placed(subject: Subject, answer: Answer, offset: int) -> Any:
    import torch

    def place(content: bytes) -> torch.Tensor:
        size = len(content) + offset + _LINE + _GUARD
        memory = torch.full((size,), _POISON, dtype=torch.uint8, device=subject.device)
        start = -memory.data_ptr() % _LINE + offset
        memory[start : start + len(content)] = subject.tensor(content)
        return memory[start : start + len(content)]

    content = answer.content()
    return tuple(map(place, content)) if subject.record.takes_tuples else place(content)


def streams(subject: Subject) -> Iterator[Case]:
    """One message in pieces, whose digests are known on the way; and copies that go on alone."""
    record = subject.record
    if record.takes_tuples:
        for answer in subject.plain:
            content = answer.content()
            hasher = subject.new(**answer.values(record))
            for part in content:
                hasher.update((part,))
            yield Case(answer.described(), answer.digest, _digest(hasher, answer))
        return
    known = _few([a for a in subject.plain if isinstance(a.message, int)], subject.effort.digests)
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
    """Every mode in a stream."""
    ordinary = basis(subject.record)
    answers = [a for a in subject.answers if a.parameters != ordinary and not a.seek]
    if subject.effort.messages <= 10:
        answers = answers[:2]
    for group in grouped(answers, lambda a: a.parameters):
        answer = group[0]
        hasher = subject.new(**answer.values(subject.record))
        hasher.update(answer.content())
        yield Case(f"stream, {answer.described()}", answer.digest, _digest(hasher, answer))


def output(subject: Subject) -> Iterator[Case]:
    """Extendable output: lengths, and where it can be sought, places; a prefix is a shorter output."""
    if not subject.record.xof:
        return
    answers = [a for a in subject.answers if a.length is not None]
    for group in grouped(answers, lambda a: [a.message, a.parameters]):
        if len(group) < 2:
            continue
        hasher = subject.new(**group[0].values(subject.record))
        hasher.update(group[0].content())
        chosen = group if subject.effort.messages > 10 else _few(group, 3)
        for answer in chosen:
            found = hasher.digest(answer.length, seek=answer.seek)
            yield Case(f"stream, {answer.described()}", answer.digest, found)
        longest = max((a for a in chosen if not a.seek), key=lambda a: len(a.digest))
        for size in (0, 1, len(longest.digest) - 1):
            yield Case(f"output of {size} bytes", longest.digest[:size], hasher.digest(size))


def keys(subject: Subject) -> Iterator[Case]:
    """Every message of a batch with its own key, nonce and the like."""
    own = {p.name for p in subject.record.parameters if p.per_message}
    if not own:
        return
    for found_group in each_its_own(subject.record, subject.answers):
        # Short ones of each key: the lengths are another check's.
        group = [a for a in found_group if a.size <= 3 * subject.record.block_size]
        if subject.effort.messages <= 10:
            group = _few(group, 3)
        if not group:
            continue
        values = [a.values(subject.record) for a in group]
        given = dict(values[0])
        for name in own & given.keys():
            given[name] = [value[name] for value in values]
        messages = [subject.on_device(a.content()) for a in group]
        found = subject.batch(messages, length=group[0].length, **given)
        for answer, digest in zip(group, found, strict=True):
            yield Case(f"its own key, {answer.described()}", answer.digest, digest)
        if "key" in own & given.keys() and len({len(key) for key in given["key"]}) == 1:
            given["key"] = subject.tensor(b"".join(given["key"])).reshape(len(group), -1)
            found = subject.batch(messages, length=group[0].length, **given)
            for answer, digest in zip(group, found, strict=True):
                yield Case(f"its own key, a tensor's row, {answer.described()}", answer.digest, digest)


def forgeries(subject: Subject) -> Iterator[Case]:
    """A MAC refuses the tag of another message or key, and a tag that is changed, cut or lengthened."""
    record = subject.record
    keyed = [a for a in subject.answers if "key" in a.parameters and _whole(record, a) and a.size]
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
    # The lowest bit of the first and last byte: others of Poly1305's key do not count (RFC 8439, 2.5).
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
    """HMAC from the hash on this backend, as RFC 2104 defines it."""
    construction = subject.record.construction
    if not isinstance(construction, Hmac):
        return
    hash_record = algorithms.get(construction.hash)
    block, few = subject.record.block_size, subject.effort.messages <= 10
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


def agreement(subject: Subject) -> Iterator[Case]:
    """Random data, hashed here and by another backend; where there is none, here in another way."""
    record, effort = subject.record, subject.effort
    largest = effort.blocks * record.block_size
    own = [p.name for p in record.parameters if p.per_message]
    given = dict(subject.given)
    given.update({name: subject.bytes(len(given[name])) for name in given if isinstance(given[name], bytes)})
    length = {"length": subject.length}
    if record.takes_tuples:
        tuples = [
            tuple(subject.bytes(n) for n in subject.sizes(i % 4, largest)) for i in range(effort.messages)
        ]
        yield from _agree(subject, "tuple", tuples, {**given, **length})
        return
    messages = [subject.bytes(n) for n in subject.sizes(effort.messages, largest)]
    yield from _agree(subject, "random message", messages, {**given, **length})
    columns = int(subject.random.integers(1, largest + 1))
    equal = [subject.bytes(columns) for _ in range(max(2, effort.messages // 4))]
    matrix = subject.tensor(b"".join(b"\0" + row for row in equal)).reshape(len(equal), columns + 1)[:, 1:]
    yield from _agree(subject, "random row", equal, {**given, **length}, matrix)
    if own and record.keyed != "no":
        sizes = {name: len(given.get(name, b"")) or 32 for name in own if name in given or name == "key"}
        if "key" in sizes and "key" not in given:
            sizes["key"] = _keyed_size(record)
        each = {name: [subject.bytes(size) for _ in range(effort.messages)] for name, size in sizes.items()}
        yield from _agree(subject, "random message and key", messages, {**given, **each, **length})
    if record.xof and effort.messages > 10:
        size = int(subject.random.integers(100, 1000))
        yield from _agree(subject, f"{size} bytes of output", messages[:8], {**given, "length": size})
    if record.parallel and effort.long_message:
        long_message = subject.bytes(effort.long_message)
        yield from _agree(subject, "random message", [long_message], {**given, **length})
        hasher = subject.new(**given)
        for cut in range(0, len(long_message), 70_001):
            hasher.update(long_message[cut : cut + 70_001])
        (whole,) = subject.batch([subject.tensor(long_message)], **given, **length)
        found = hasher.digest(subject.length) if subject.length else hasher.digest()
        yield Case(f"stream of {len(long_message)} bytes in pieces of 70001", whole, found)


def _keyed_size(record: Algorithm) -> int:
    (parameter,) = (p for p in record.parameters if p.name == "key")
    return parameter.sizes[-1] if parameter.sizes else parameter.max_size or max(16, parameter.min_size or 0)


def _agree(
    subject: Subject, what: str, messages: list[Any], given: dict[str, Any], matrix: Any = None
) -> Iterator[Case]:
    name, partner = subject.record.name, subject.partner
    local = [subject.on_device(m) for m in messages] if matrix is None else matrix
    found = subject.batch(local, **given)
    if partner is not None:
        launches, strangers = subject.watch.launches, set(subject.watch.strangers)
        expected = [
            row.tobytes() for row in hash_batch(messages, name, backend=partner, **given).cpu().numpy()
        ]
        subject.watch.launches, subject.watch.strangers = launches, strangers
        with_whom = partner
    else:
        expected, with_whom = [], "its own stream"
        length = given.get("length")
        for i, message in enumerate(messages):
            own = {k: v[i] if isinstance(v, list) else v for k, v in given.items() if k != "length"}
            hasher = subject.new(**own)
            hasher.update(message)
            expected.append(hasher.digest(length) if length is not None else hasher.digest())
    for message, one, other in zip(messages, expected, found, strict=True):
        sizes = [len(part) for part in message] if isinstance(message, tuple) else len(message)
        yield Case(f"{what} of {sizes} bytes, against {with_whom}", one, other)


def _few(found: Sequence[Any], count: int) -> list[Any]:
    """At most ``count``, spread evenly, the ends first."""
    if len(found) <= count:
        return list(found)
    if count == 1:
        return [found[-1]]
    return [found[i * (len(found) - 1) // (count - 1)] for i in range(count)]


def _pieces(size: int, i: int) -> list[int]:
    """``size`` in pieces, in another way for each ``i``."""
    first = min(size, (0, 1, 3, 7)[i % 4])
    middle = (size - first) // 2 if i % 3 else 0
    return [piece for piece in (first, middle, size - first - middle) if piece]


def _digest(hasher: Hash, answer: Answer) -> bytes:
    return hasher.digest() if answer.length is None else hasher.digest(answer.length)


def _whole(record: Algorithm, answer: Answer) -> bool:
    """Whether the answer is what ``verify`` takes."""
    return not answer.seek and answer.length in (None, record.digest_size or None)


def _bits(data: bytes, count: int) -> list[int]:
    return sorted(set(_few(range(8 * len(data)), max(2, count)) if count > 1 else [4 * len(data)]))


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


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


def check(subject: Subject, backend: Backend) -> Tally:
    """Run all checks that apply."""
    tally = Tally()
    for name, run in CHECKS.items():
        watch = subject.watch
        before, cases = watch.launches, 0
        try:
            with watch():
                for case in run(subject):
                    cases += 1
                    if not case.good:
                        tally.fail(name, case.label, case.expected, case.found)
        except Exception as error:  # whatever stops a check has failed it
            tally.fail(name, f"after {cases} cases", "a result", f"{type(error).__name__}: {error}")
        if cases:
            tally.counts[name] = cases
            if isinstance(backend, TritonBackend) and watch.launches == before:
                tally.fail(name, "all", "kernels launched", "digests, but no kernel was launched")
        if watch.strangers:
            names = ", ".join(sorted(watch.strangers))
            tally.fail(name, "all", f"work done by {subject.backend}", f"work handed to {names}")
            watch.strangers.clear()
    tally.launches = subject.watch.launches
    return tally
