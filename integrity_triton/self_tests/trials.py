"""Known-answer tests of kernels: short runs in each of the ways in which an algorithm can be asked for.

Which kernels a run takes, and compiled for what, is its driver's choice; whoever needs to know has it run
with a :class:`Run` that only takes note of the launches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..algorithms import Algorithm, get
from ..algorithms.encoding import encode_string
from ..algorithms.known_answers import (
    TAGS_OF_TAGS,
    Answer,
    Question,
    alike,
    each_its_own,
    load,
    questions,
    tags_of_tags,
    usual,
)
from ..drivers import driver_class
from ..drivers.run import Run
from ..launching.request import Request
from ..messages.layout import Messages, Ragged, Rows
from ..messages.per_message import PerMessage

if TYPE_CHECKING:
    import torch

    from ..launching.launcher import Launcher

_Any = TypeVar("_Any")
Outcome = tuple[str, bytes, "bytes | torch.Tensor"]
"""What was hashed, in words, the digest that it has, and the one that was found."""

# Where messages start, in bytes from a multiple of _LINE: the alignments that kernels are compiled for.
_STARTS = (0, 4, 1)
_LINE = 64
_AROUND = 0xFF
# Blocks of the longest messages that are hashed at first.
_SHORT = 4
_SHORT_MESSAGES = "short messages"
_ROWS = 3
_MANY = 12


@dataclass(frozen=True)
class Trial:
    """A known-answer test."""

    label: str
    shape: str
    """As of a :class:`Request`."""
    start: int
    own: bool
    """Whether messages have keys of their own."""
    long: bool
    """Whether it is of messages that :func:`is_long` says so of."""
    _run: Callable[[Run, torch.device], Iterator[Outcome]]
    way: str | None = None
    """What :meth:`run` is to be given a :class:`Run` with."""

    def run(self, host: Run, device: torch.device) -> Iterator[Outcome]:
        return self._run(host, device)

    def taking(self, way: str) -> Trial:
        """The same with the driver's ``way``."""
        return replace(self, label=f"{self.label}, by {way}", way=way)

    def unlike(self, constants: Mapping[str, Any], request: Request, long: bool | None) -> tuple[int, bool]:
        """How much it differs from what a kernel with these constants was to be launched for: the least
        different trials are the likeliest to launch it."""
        align = constants.get("ALIGN")
        start = self.start if align is None else align if align in _STARTS else 0
        # Drivers lay out anew what they are given: how it came tells more than how a kernel sees it.
        elsewhere = (request.shape != self.shape) + (request.own != self.own)
        unlikely = 2 * elsewhere + (start != self.start)
        # Of short messages there are the most answers: where they launch the kernel too, they watch it best.
        return unlikely, self.label != _SHORT_MESSAGES and long is not None and long != self.long


def is_long(record: Algorithm, size: int) -> bool:
    """Whether messages of so many bytes come after those of the first trials."""
    return size > _SHORT * record.block_size


def trials(record: Algorithm, launcher: Launcher, device: torch.device) -> Iterator[Trial]:
    """All of an algorithm's known-answer tests, those first that launch the fewest kernels; none where it has
    no known answers. Those of an HMAC without are made by ``launcher`` on ``device`` with the hash.

    Raises as :func:`load` does.
    """
    known = load(record)
    if known is not None:
        answers: Sequence[Answer] = known.answers
    elif record.construction.hmac_of is not None:
        answers = _by_definition(record, get(record.construction.hmac_of), launcher, device)
    else:
        return
    for way in (None, *driver_class(record).ways):
        for trial in _trials(record, answers):
            yield trial if way is None else trial.taking(way)


def _by_definition(
    record: Algorithm, hash_: Algorithm, launcher: Launcher, device: torch.device
) -> list[Answer]:
    """RFC 2104, section 2, in batches."""
    host, block, size = Run(launcher, hash_), record.block_size, hash_.digest_size

    def hashed(messages: Sequence[bytes]) -> list[bytes]:
        digests = host.execute({}, Ragged(_placed(messages, 0, device), device), size)
        return [row.cpu().numpy().tobytes() for row in digests]

    def answered(asked: Sequence[Question]) -> list[Answer]:
        values = [question.values(record) for question in asked]
        keys = [value["key"] for value in values]
        short = hashed(keys)
        keys = [k if len(k) <= block else h for k, h in zip(keys, short, strict=True)]
        padded = [key.ljust(block, b"\0") for key in keys]
        inner = [bytes(b ^ 0x36 for b in key) for key in padded]
        outer = [bytes(b ^ 0x5C for b in key) for key in padded]
        inside = hashed([key + question.content() for key, question in zip(inner, asked, strict=True)])
        tags = hashed([key + digest for key, digest in zip(outer, inside, strict=True)])
        return [
            Answer(**vars(question), digest=tag[: record.size(value)])
            for question, value, tag in zip(asked, values, tags, strict=True)
        ]

    answers = answered(questions(record))
    return [*answers, *tags_of_tags(record, lambda _, question: answered([question])[0].digest)]


def _trials(record: Algorithm, known: Sequence[Answer]) -> Iterator[Trial]:
    plain = usual(record, known)
    short = [a for a in plain if not is_long(record, a.size)]
    long = _few([a for a in plain if is_long(record, a.size)], 3)

    def keys(answers: Sequence[Answer], what: str, far: bool) -> Iterator[Trial]:
        for group in _own(record, answers):
            for start in _STARTS:
                yield Trial(what, "table", start, True, far, partial(_ragged, group, start, True))
                yield Trial(what, "rows", start, True, far, partial(_rows, group, start, True))

    for answers, what in ((short, _SHORT_MESSAGES), (long, "long messages")):
        if not answers:
            continue
        far = answers is long
        for start in _STARTS:
            yield Trial(what, "table", start, False, far, partial(_ragged, answers, start, False))
            if far:
                # What a batch has of work may decide how it is done.
                longest = answers[-1:] * 2
                yield Trial("longest", "table", start, False, far, partial(_ragged, longest, start, False))
            yield Trial(what, "rows", start, False, far, partial(_rows, answers, start, False))
            yield Trial(f"{what} alone", "rows", start, False, far, partial(_alone, answers, start))
            yield Trial(what, "stream", start, False, far, partial(_streams, answers, start))
        if not far:
            yield from keys([a for a in known if not is_long(record, a.size)], "keys of their own", far)
            # Where rows are made of what is hashed, their alignment comes from its size.
            every = partial(_rows, answers, 0, False, most=_MANY)
            yield Trial("every length", "rows", 0, False, far, every)
            for group in alike(known):
                if group[0] in plain:
                    continue
                for start in _STARTS:
                    twice = partial(_ragged, group * 2, start, False)
                    yield Trial("modes", "table", start, False, far, twice)
                    yield Trial("modes", "rows", start, False, far, partial(_rows, group, start, False))
                    yield Trial("modes, alone", "rows", start, False, far, partial(_alone, group, start))
                    yield Trial("modes", "stream", start, False, far, partial(_streams, group, start))
    yield from keys([a for a in known if is_long(record, a.size)], "long messages, keys of their own", True)
    if record.construction.hmac_of is not None:
        yield Trial("tags of tags", "chain", 0, True, False, partial(_chain, known))


def _few(found: Sequence[_Any], count: int) -> list[_Any]:
    """At most ``count``, spread evenly, the last among them."""
    if len(found) <= count:
        return list(found)
    return [found[(i + 1) * len(found) // count - 1] for i in range(count)]


def _own(record: Algorithm, answers: Sequence[Answer]) -> Iterator[list[Answer]]:
    """Of answers that depend on a key or the like, those that can be in one batch, each message with its own;
    and of these the ones with keys of one size."""
    for group in each_its_own(record, answers):
        yield _few(group, 12)
        sizes = [tuple(len(v) for v in a.values(record).values() if isinstance(v, bytes)) for a in group]
        for size in sorted(set(sizes)):
            same = _few([a for a, s in zip(group, sizes, strict=True) if s == size], 4)
            yield same if len(same) > 1 else same * 2


# Runs


def _ragged(
    answers: Sequence[Answer], start: int, own: bool, host: Run, device: torch.device
) -> Iterator[Outcome]:
    messages = Ragged(_placed([_content(host, a) for a in answers], start, device), device)
    yield from _batch(host, device, answers, messages, own, start)


def _rows(
    answers: Sequence[Answer],
    start: int,
    own: bool,
    host: Run,
    device: torch.device,
    *,
    most: int | None = None,
) -> Iterator[Outcome]:
    """Rows of one size: all messages of it, or copies of one, of which the last is shorter where there is an
    answer to a shorter one. Without parameters of their own, of some of the sizes."""
    by_size: dict[int, list[Answer]] = {}
    for answer in answers:
        # A tuple has a size as it is written.
        by_size.setdefault(len(_content(host, answer)), []).append(answer)
    sizes = sorted(by_size)
    before = {b: by_size[a][0] for a, b in itertools.pairwise(sizes)}
    chosen = set(sizes if own else _few([n for n in sizes if n], most or host.launcher.trial_messages))
    groups = []
    for size, group in by_size.items():
        if len(group) > 1:
            groups.append(group)
        elif size in chosen:
            # Those whose last row is as long as the others may be laid out in another way.
            last = group[0] if own or len(groups) % 2 else before.get(size, group[0])
            groups.append([*group * (_ROWS - 1), last])
    for group in groups:
        contents = [_content(host, a) for a in group]
        size = len(contents[0])
        # As many bytes as the alignment that is wanted, and no more, divide the distance.
        stride = size + -size % _LINE + start
        data = b"".join(content.ljust(stride, b"\xff") for content in contents)
        (flat,) = _placed([data], start, device)
        total = (len(contents) - 1) * stride + len(contents[-1])
        rows = Rows(flat, flat.data_ptr(), len(contents), stride, size, total)
        yield from _batch(host, device, group, rows, own, start)


def _alone(answers: Sequence[Answer], start: int, host: Run, device: torch.device) -> Iterator[Outcome]:
    for answer in _few(answers, host.launcher.trial_messages):
        (view,) = _placed([_content(host, answer)], start, device)
        yield from _batch(host, device, [answer], Ragged([view], device))
    row = Rows(view, view.data_ptr(), 1, view.numel(), view.numel(), view.numel())
    yield from _batch(host, device, [answer], row)


def _streams(answers: Sequence[Answer], start: int, host: Run, device: torch.device) -> Iterator[Outcome]:
    """One that grows, where the answers are to ever longer messages, and others that are given at once."""
    record = host.algorithm
    growing = [answer for answer in answers if isinstance(answer.message, int)]
    if len({answer.size for answer in growing}) > 1:
        done, stream = 0, host.stream(_values(record, growing[0]), device)
        for answer in _few(growing, host.launcher.trial_messages):
            (view,) = _placed([_content(host, answer)[done:]], start, device)
            stream.update(view)
            done = answer.size
            yield _described(record, answer), answer.digest, stream.digest(len(answer.digest), 0)
    for answer in _few(answers, 2):
        stream = host.stream(_values(record, answer), device)
        (view,) = _placed([_content(host, answer)], start, device)
        stream.update(view)
        yield _described(record, answer), answer.digest, stream.digest(len(answer.digest), answer.seek)


def _chain(answers: Sequence[Answer], host: Run, device: torch.device) -> Iterator[Outcome]:
    """What PBKDF2 adds up: tags of tags under one key, of which each has an answer."""
    import torch

    record = host.algorithm
    known = {(a.content(), repr(a.parameters)): a for a in answers}
    for answer in answers:
        if answer.size != record.digest_size or not isinstance(answer.message, int):
            continue
        first = tag = total = answer.content()
        for _ in range(TAGS_OF_TAGS):
            tag = known[tag, repr(answer.parameters)].digest
            total = bytes(a ^ b for a, b in zip(total, tag, strict=True))
        (key,) = _placed([_values(record, answer)["key"]], 0, device)
        (message,) = _placed([first], 0, device)
        found = host.mac_chain(PerMessage([key, key]), torch.stack([message, message]), TAGS_OF_TAGS)
        if found is not None:
            for row in found:
                yield f"{TAGS_OF_TAGS} tags of tags, {_described(record, answer)}", total, row


def _batch(
    host: Run,
    device: torch.device,
    answers: Sequence[Answer],
    messages: Messages,
    own: bool = False,
    start: int = 0,
) -> Iterator[Outcome]:
    record = host.algorithm
    parameters = _values(record, answers[0])
    if own:
        each = [_values(record, answer) for answer in answers]
        for parameter in record.parameters:
            if parameter.per_message and parameter.name in parameters:
                values = [value[parameter.name] for value in each]
                parameters[parameter.name] = PerMessage(_placed(values, start, device))
    found = host.execute(parameters, messages, len(answers[0].digest))
    for answer, digest in zip(answers, found, strict=True):
        yield _described(record, answer), answer.digest, digest


def _values(record: Algorithm, answer: Answer) -> dict[str, Any]:
    return record.check_parameters(answer.values(record))


def _described(record: Algorithm, answer: Answer) -> str:
    return f"{record.name}, {answer.described()}"


def _content(host: Run, answer: Answer) -> bytes:
    content = answer.content()
    if not host.algorithm.takes_tuples:
        return bytes(content)
    return b"".join(map(encode_string, content))


def _placed(contents: Sequence[bytes], start: int, device: torch.device) -> list[torch.Tensor]:
    """``contents`` on the device, flat uint8, between bytes that must not count. As ``start`` has it, they
    begin at multiples of _LINE, at words, or anywhere."""
    import torch

    starts, data = [], bytearray()
    for i, content in enumerate(contents):
        data += bytes([_AROUND]) * (-len(data) % _LINE + start * (i % 7 + 1))
        starts.append(len(data))
        data += content
    data += bytes([_AROUND]) * _LINE
    memory = torch.empty(len(data) + _LINE, dtype=torch.uint8, device=device)
    base = -memory.data_ptr() % _LINE
    memory[base : base + len(data)] = torch.frombuffer(data, dtype=torch.uint8).to(device)
    return [memory[base + s : base + s + len(c)] for s, c in zip(starts, contents, strict=True)]
