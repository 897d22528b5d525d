"""Known-answer tests of kernels: short runs for each form in which messages can be given to an algorithm.

The driver chooses which kernels a run launches, and with which compile-time arguments. To find out which they
are, carry out the run with a :class:`Run` that records the launches instead of launching.
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
    by_shared_parameters,
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
"""A description of what was hashed, the expected digest, and the digest that was computed."""

# Distances in bytes between a multiple of _LINE and the start of a message. They lead to all alignments for
# which kernels are compiled.
_STARTS = (0, 4, 1)
_LINE = 64
# The value of the bytes around the messages, which must not change a digest.
_AROUND = 0xFF
# The first trials hash messages of at most this many blocks.
_SHORT = 4
_SHORT_MESSAGES = "short messages"
_ROWS = 3
_MANY = 12


@dataclass(frozen=True)
class Trial:
    """A known-answer test."""

    label: str
    shape: str
    """The form of the messages, as in :class:`Request`."""
    start: int
    """The alignment of the messages: one of _STARTS."""
    per_message: bool
    """Whether a parameter, such as the key, has one value for each message."""
    long: bool
    """Whether the messages are long in the sense of :func:`is_long`."""
    _run: Callable[[Run, torch.device], Iterator[Outcome]]
    way: str | None = None
    """The ``way`` of the :class:`Run` that :meth:`run` must be given."""

    def run(self, host: Run, device: torch.device) -> Iterator[Outcome]:
        return self._run(host, device)

    def taking(self, way: str) -> Trial:
        """The same trial, for which the driver takes ``way``."""
        return replace(self, label=f"{self.label}, by {way}", way=way)

    def unlike(self, constants: Mapping[str, Any], request: Request, long: bool | None) -> tuple[int, bool]:
        """How much the trial differs from the request for which a kernel with these constants is launched.
        The trials that differ least are the most likely to launch the same kernel."""
        align = constants.get("ALIGN")
        start = self.start if align is None else align if align in _STARTS else 0
        # A driver may change the layout of its messages, so the form of the request tells more than the
        # kernel's constants.
        elsewhere = (request.shape != self.shape) + (request.per_message != self.per_message)
        unlikely = 2 * elsewhere + (start != self.start)
        # Most answers are for short messages. If these launch the kernel as well, they test it best.
        return unlikely, self.label != _SHORT_MESSAGES and long is not None and long != self.long


def is_long(record: Algorithm, size: int) -> bool:
    """Whether messages of ``size`` bytes are too long for the first trials."""
    return size > _SHORT * record.block_size


def trials(record: Algorithm, launcher: Launcher, device: torch.device) -> Iterator[Trial]:
    """All known-answer tests of an algorithm, beginning with those that launch the fewest kernels. There are
    none if the algorithm has no known answers. For an HMAC without known answers, ``launcher`` computes them
    on ``device`` with the hash.

    Raises the errors of :func:`load`.
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
    """The answers for an HMAC, computed with its hash in batches as RFC 2104, section 2, defines it."""
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
    long = _spread([a for a in plain if is_long(record, a.size)], 3)

    def keys(answers: Sequence[Answer], what: str, far: bool) -> Iterator[Trial]:
        for group in _per_message(record, answers):
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
                # A driver may choose its kernels by the amount of work in a batch.
                longest = answers[-1:] * 2
                yield Trial("longest", "table", start, False, far, partial(_ragged, longest, start, False))
            yield Trial(what, "rows", start, False, far, partial(_rows, answers, start, False))
            yield Trial(f"{what}, one at a time", "rows", start, False, far, partial(_alone, answers, start))
            yield Trial(what, "stream", start, False, far, partial(_streams, answers, start))
        if not far:
            yield from keys([a for a in known if not is_long(record, a.size)], "keys per message", far)
            # A driver that copies messages into rows of its own gets their alignment from the size of the
            # messages.
            every = partial(_rows, answers, 0, False, most=_MANY)
            yield Trial("every length", "rows", 0, False, far, every)
            for group in alike(known):
                if group[0] in plain:
                    continue
                for start in _STARTS:
                    twice = partial(_ragged, group * 2, start, False)
                    yield Trial("modes", "table", start, False, far, twice)
                    yield Trial("modes", "rows", start, False, far, partial(_rows, group, start, False))
                    yield Trial(
                        "modes, one at a time", "rows", start, False, far, partial(_alone, group, start)
                    )
                    yield Trial("modes", "stream", start, False, far, partial(_streams, group, start))
    yield from keys([a for a in known if is_long(record, a.size)], "long messages, keys per message", True)
    if record.construction.hmac_of is not None:
        yield Trial("tags of tags", "chain", 0, True, False, partial(_chain, known))


def _spread(found: Sequence[_Any], count: int) -> list[_Any]:
    """At most ``count`` of the items, spread evenly. The last item is always among them."""
    if len(found) <= count:
        return list(found)
    return [found[(i + 1) * len(found) // count - 1] for i in range(count)]


def _per_message(record: Algorithm, answers: Sequence[Answer]) -> Iterator[list[Answer]]:
    """Groups of answers for one batch in which each message has its own key, or its own value of another such
    parameter. Each group is followed by smaller ones in which all keys have the same size."""
    for group in by_shared_parameters(record, answers):
        yield _spread(group, 12)
        sizes = [tuple(len(v) for v in a.values(record).values() if isinstance(v, bytes)) for a in group]
        for size in sorted(set(sizes)):
            same = _spread([a for a, s in zip(group, sizes, strict=True) if s == size], 4)
            yield same if len(same) > 1 else same * 2


# Functions that carry out a trial


def _ragged(
    answers: Sequence[Answer], start: int, per_message: bool, host: Run, device: torch.device
) -> Iterator[Outcome]:
    messages = Ragged(_placed([_content(host, a) for a in answers], start, device), device)
    yield from _batch(host, device, answers, messages, per_message, start)


def _rows(
    answers: Sequence[Answer],
    start: int,
    per_message: bool,
    host: Run,
    device: torch.device,
    *,
    most: int | None = None,
) -> Iterator[Outcome]:
    """Batches of rows: all messages of one size, or copies of the only message of a size. Some batches of
    copies end with a shorter message if there is an answer to one. With ``per_message``, copies are made for
    every size; otherwise only for ``most`` of the sizes (by default the launcher's ``trial_messages``)."""
    by_size: dict[int, list[Answer]] = {}
    for answer in answers:
        # The size of a tuple is the size of its encoding.
        by_size.setdefault(len(_content(host, answer)), []).append(answer)
    sizes = sorted(by_size)
    before = {b: by_size[a][0] for a, b in itertools.pairwise(sizes)}
    chosen = set(
        sizes if per_message else _spread([n for n in sizes if n], most or host.launcher.trial_messages)
    )
    groups = []
    for size, group in by_size.items():
        if len(group) > 1:
            groups.append(group)
        elif size in chosen:
            # Both kinds of batch are needed, because a driver may use another layout if all rows are
            # equally long.
            last = group[0] if per_message or len(groups) % 2 else before.get(size, group[0])
            groups.append([*group * (_ROWS - 1), last])
    for group in groups:
        contents = [_content(host, a) for a in group]
        size = len(contents[0])
        # The distance between rows must have the alignment of ``start`` and no larger one.
        stride = size + -size % _LINE + start
        data = b"".join(content.ljust(stride, b"\xff") for content in contents)
        (flat,) = _placed([data], start, device)
        total = (len(contents) - 1) * stride + len(contents[-1])
        rows = Rows(flat, flat.data_ptr(), len(contents), stride, size, total)
        yield from _batch(host, device, group, rows, per_message, start)


def _alone(answers: Sequence[Answer], start: int, host: Run, device: torch.device) -> Iterator[Outcome]:
    """One message at a time. The last message is also given as a single row."""
    for answer in _spread(answers, host.launcher.trial_messages):
        (view,) = _placed([_content(host, answer)], start, device)
        yield from _batch(host, device, [answer], Ragged([view], device))
    row = Rows(view, view.data_ptr(), 1, view.numel(), view.numel(), view.numel())
    yield from _batch(host, device, [answer], row)


def _streams(answers: Sequence[Answer], start: int, host: Run, device: torch.device) -> Iterator[Outcome]:
    """If the messages are beginnings of one pattern, one stream that grows from each length to the next. Then
    streams that get their whole message at once."""
    record = host.algorithm
    growing = [answer for answer in answers if isinstance(answer.message, int)]
    if len({answer.size for answer in growing}) > 1:
        done, stream = 0, host.stream(_values(record, growing[0]), device)
        for answer in _spread(growing, host.launcher.trial_messages):
            (view,) = _placed([_content(host, answer)[done:]], start, device)
            stream.update(view)
            done = answer.size
            yield _described(record, answer), answer.digest, stream.digest(len(answer.digest), 0)
    for answer in _spread(answers, 2):
        stream = host.stream(_values(record, answer), device)
        (view,) = _placed([_content(host, answer)], start, device)
        stream.update(view)
        yield _described(record, answer), answer.digest, stream.digest(len(answer.digest), answer.seek)


def _chain(answers: Sequence[Answer], host: Run, device: torch.device) -> Iterator[Outcome]:
    """The sum of PBKDF2: the exclusive or of a chain of tags under one key, in which each tag is the tag of
    the one before it. Each of these tags has a known answer."""
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
    per_message: bool = False,
    start: int = 0,
) -> Iterator[Outcome]:
    record = host.algorithm
    parameters = _values(record, answers[0])
    if per_message:
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
    """``contents`` on the device, as flat uint8 tensors. The bytes between them must not change a digest.
    They begin at multiples of _LINE if ``start`` is 0, at multiples of 4 bytes if it is 4, and at any byte if
    it is 1."""
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
