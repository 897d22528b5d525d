"""The catalogue of asks: every form in which messages can be given to an algorithm, as a short run over
messages with known answers.

Self-tests carry out these runs and compare the digests. The driver chooses which kernels a run launches, and
with which compile-time arguments. :func:`launches` finds out which they are without launching anything: they
are the kernels to compile ahead of time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..algorithms import Algorithm
from ..algorithms.encoding import encode_string
from ..algorithms.known_answers import (
    TAGS_OF_TAGS,
    Answer,
    Question,
    alike,
    by_shared_parameters,
    questions,
    tags_of_tags,
    usual,
)
from ..drivers import driver_class
from ..drivers.run import Run
from ..launching.launch import Launch, tuned
from ..launching.launcher import TrialSize
from ..launching.request import Request
from ..messages.layout import Messages, Ragged, Rows
from ..messages.per_message import PerMessage

if TYPE_CHECKING:
    import torch

_Any = TypeVar("_Any")
Outcome = tuple[str, bytes, "bytes | torch.Tensor"]
"""A description of what was hashed, the expected digest, and the digest that was computed."""

# Distances in bytes between a multiple of _LINE and the start of a message. They lead to all alignments for
# which kernels are compiled.
_STARTS = (0, 4, 1)
_LINE = 64
# The value of the bytes around the messages, which must not change a digest.
_AROUND = 0xFF
# Short messages have at most this many blocks, or this many bytes if that is more.
_SHORT_BLOCKS, _SHORT_BYTES = 4, 256
# A turn of a kernel's loop takes a block of each message, or this many bytes if that is more.
_TURN_BYTES = 32
_SHORT_MESSAGES = "short messages and a long one"
MODES = "modes"
"""The label of trials in which parameters or a length of output are given that need not be given."""
ONE_AT_A_TIME = "one at a time"
"""The end of the label of trials that hash one message at a time."""
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
        # The first trials reach the most lanes and lengths. If they launch the kernel as well, they test it
        # best.
        return unlikely, self.label != _SHORT_MESSAGES and long is not None and long != self.long


def is_long(record: Algorithm, size: int) -> bool:
    """Whether a message of ``size`` bytes is not one of the short messages, of which a trial hashes many."""
    return size > max(_SHORT_BLOCKS * record.block_size, _SHORT_BYTES)


def trials_of(record: Algorithm, answers: Sequence[Answer]) -> Iterator[Trial]:
    """The trials of every form in which messages can be given to ``record``, with ``answers`` to compare.
    Those that launch the fewest kernels come first. By a way that gives a lane a whole message, there are no
    trials of long messages, which launch what those of short ones do. Raises TypeError if there is no driver
    for the algorithm."""
    driver = driver_class(record)
    yield from _trials(record, answers)
    for way in driver.ways:
        for trial in _trials(record, answers):
            if not (trial.long and way in driver.undivided):
                yield trial.taking(way)


def _trials(record: Algorithm, known: Sequence[Answer]) -> Iterator[Trial]:
    plain = usual(record, known)
    short = [a for a in plain if not is_long(record, a.size)]
    long = [a for a in plain if is_long(record, a.size)]

    def of(
        label: str, answers: Sequence[Answer], far: bool = False, singly: Sequence[int] = _STARTS
    ) -> Iterator[Trial]:
        for start in _STARTS:
            yield Trial(label, "table", start, False, far, partial(_ragged, answers, start, False))
            yield Trial(label, "rows", start, False, far, partial(_rows, answers, start, False))
        for start in singly:
            yield Trial(
                f"{label}, {ONE_AT_A_TIME}", "rows", start, False, far, partial(_alone, answers, start)
            )
            yield Trial(label, "stream", start, False, far, partial(_streams, answers, start))

    yield from of(_SHORT_MESSAGES, [*short, *long])
    for group in _per_message(record, known):
        for start in _STARTS:
            yield Trial("keys per message", "table", start, True, False, partial(_ragged, group, start, True))
            yield Trial("keys per message", "rows", start, True, False, partial(_rows, group, start, True))
    # A driver that copies messages into rows of its own gets their alignment from the size of the messages.
    for start in _STARTS:
        every = partial(_rows, short, start, False, most=_MANY, filling=True)
        yield Trial("every length", "rows", start, False, False, every)
    for group in alike(known):
        if group[0] not in plain:
            yield from of(MODES, group, singly=_STARTS if record.parallel else _STARTS[:1])
    # A driver that divides messages may choose its kernels by the amount of work in a batch.
    if long and record.parallel:
        yield from of("long messages", _spread(long, 3), far=True)
        for start in _STARTS:
            copies = partial(_ragged, long[-1:], start, False)
            yield Trial("copies of the longest", "table", start, False, True, copies)
        # Where no message of a program ends within the part of a lane, kernels load without masks.
        whole = [max(long, key=lambda answer: answer.size & -answer.size)]
        for start in _STARTS:
            copies = partial(_ragged, whole, start, False)
            yield Trial("copies of whole parts", "table", start, False, True, copies)
            copies = partial(_rows, whole, start, False)
            yield Trial("copies of whole parts", "rows", start, False, True, copies)
    if record.construction.hmac_of is not None:
        yield Trial("tags of tags", "chain", 0, True, False, partial(_chain, known))


class Recorder:
    """A launcher that records launches and runs nothing. Its data are on the CPU."""

    trial_size = TrialSize(messages=1, lanes=2, volume=0)

    def __init__(self, tuning: str) -> None:
        """``tuning`` is the name of the backend whose configurations the kernels get."""
        self.name = tuning
        self.recorded: dict[tuple[Any, ...], tuple[Launch, Mapping[str, int]]] = {}
        """The first launch of each configuration."""

    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        self.recorded.setdefault(self.configuration(launch, options), (launch, options))

    def options(self, launch: Launch) -> dict[str, int]:
        return self.tuned(launch.kernel, launch.constants.get("BLOCK"))

    def tuned(self, kernel: str, block: str | None = None) -> dict[str, int]:
        return tuned(self.name, kernel, block)

    def configuration(self, launch: Launch, options: Mapping[str, int]) -> tuple[Any, ...]:
        return (launch.kernel, *launch.constants.values(), *options.values())

    def admit(self, request: Request, launch: Launch, options: Mapping[str, int]) -> None:
        """Do nothing, since nothing runs that would have to be tested."""

    def may_wait(self, device: torch.device) -> None:
        """Do nothing, since nothing runs that could be waited for."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        import torch

        return torch.empty(shape, dtype=dtype, device=device)

    def device_for(self, device: torch.device | None) -> torch.device:
        import torch

        return torch.device("cpu")


def launches(
    record: Algorithm, tuning: str, wanted: Callable[[Trial], bool] = lambda trial: True
) -> list[tuple[Launch, Mapping[str, int]]]:
    """What the backend with the configurations of ``tuning`` launches for ``record`` in the trials that are
    ``wanted``, by default in all: one launch of each configuration. Nothing is launched.

    The algorithm needs no known answers, since only the questions matter. The list is empty if there is no
    driver for the algorithm.
    """
    import torch

    try:
        driver_class(record)
    except TypeError:
        return []

    def blank(asked: Algorithm, question: Question) -> bytes:
        return bytes(asked.check_length(question.length, _values(asked, question)))

    answers = [Answer(**vars(question), digest=blank(record, question)) for question in questions(record)]
    answers += tags_of_tags(record, blank)
    recorder, device = Recorder(tuning), torch.device("cpu")
    for trial in filter(wanted, trials_of(record, answers)):
        for _ in trial.run(Run(recorder, record, recorder.launch, trial.way), device):
            pass
    return list(recorder.recorded.values())


def _spread(found: Sequence[_Any], count: int) -> list[_Any]:
    """At most ``count`` of the items, spread evenly. The last item is always among them."""
    if len(found) <= count:
        return list(found)
    return [found[(i + 1) * len(found) // count - 1] for i in range(count)]


def _per_message(record: Algorithm, answers: Sequence[Answer]) -> Iterator[list[Answer]]:
    """Groups of answers for one batch in which each message has its own key, or its own value of another such
    parameter. Each group is followed by smaller ones in which all keys have the same size."""
    for group in by_shared_parameters(record, answers):
        group.sort(key=lambda a: a.size)
        yield _spread(group, 12)
        sizes = [tuple(len(v) for v in a.values(record).values() if isinstance(v, bytes)) for a in group]
        if len(set(sizes)) > 1:
            for size in sorted(set(sizes)):
                yield _spread([a for a, s in zip(group, sizes, strict=True) if s == size], 4)


def _bounded(host: Run, answers: Sequence[Answer]) -> list[Answer]:
    """The answers to short messages, and of the others the one to the longest message that the launcher
    allows. If no message is short, all answers."""
    record, most = host.algorithm, host.launcher.trial_size.blocks
    short = [a for a in answers if not is_long(record, a.size)]
    if not short:
        return list(answers)
    leaf = record.construction.leaf_size

    def blocks(answer: Answer) -> int:
        # The lanes of a binary tree take a leaf each.
        return min(answer.size, leaf or answer.size) // record.block_size

    long = [a for a in answers if is_long(record, a.size) and (most is None or blocks(a) <= most)]
    return [*short, *long[-1:]]


def _filling(host: Run, answers: Sequence[Answer], per_message: bool) -> list[Answer]:
    """The answers, some of those to short messages so often that there are enough messages for the lanes of
    more than one program. A driver that hashes one message after the other, because each has its own
    parameters, gets the answers as they are.

    Kernels sort the messages of a table by length, and treat the part that all messages of a program have
    apart from the rest. So the messages that are there several times are those that have at least one block:
    the first program has only these, and the last one has only shorter messages.
    """
    if per_message and not host.driver().per_message:
        return list(answers)
    record = host.algorithm
    repeated = short = [a for a in answers if not is_long(record, a.size)]
    whole = [a for a in short if a.size >= max(record.block_size, _TURN_BYTES)]
    missing = _lanes(host) - len(answers)
    if len({a.size for a in whole}) > 1 and len(whole) < len(short):
        repeated = whole
        missing += len(short) - len(whole) - 1
    return [*itertools.islice(itertools.cycle(repeated), max(0, missing)), *answers]


def _lanes(host: Run) -> int:
    """The number of messages that fill more than one program of the algorithm's kernels."""
    programs = [host.launcher.tuned(reference)["BLOCK_MSGS"] for reference in host.driver().references()]
    return min(host.launcher.trial_size.lanes, max(programs) + 1)


def _copies(host: Run, answer: Answer, share: int = 1) -> int:
    """How many copies of a message are hashed together. If the message is long and a driver divides it among
    lanes, there are so many that the parts fill a program of most kernels, if one part in ``share`` of the
    volume of a trial suffices for it. HMAC has the known answers of its hash behind it, so a few do."""
    record = host.algorithm
    if not record.parallel or record.construction.hmac_of is not None or not is_long(record, answer.size):
        return _ROWS
    return max(_ROWS, min(_lanes(host), host.launcher.trial_size.volume // (share * answer.size)))


# Functions that carry out a trial


def _ragged(
    answers: Sequence[Answer], start: int, per_message: bool, host: Run, device: torch.device
) -> Iterator[Outcome]:
    answers = _filling(host, _bounded(host, answers), per_message)
    if len(answers) == 1:
        answers *= _copies(host, answers[0])
    # A kernel gives lanes without a message the result row 0 and no bytes. If the first message were empty,
    # such a lane could store its digest, and nobody would notice.
    answers = [answers[-1], *answers[:-1]]
    messages = Ragged(placed([_content(host, a) for a in answers], start, device), device)
    yield from _batch(host, device, answers, messages, per_message, start)


def _rows(
    answers: Sequence[Answer],
    start: int,
    per_message: bool,
    host: Run,
    device: torch.device,
    *,
    most: int | None = None,
    filling: bool = False,
) -> Iterator[Outcome]:
    """Batches of rows: all messages of one size, or copies of the only message of a size. Some batches of
    copies end with a shorter message if there is an answer to one. With ``per_message``, copies are made for
    every size; otherwise only for ``most`` of the sizes (by default as many as ``trial_size`` says). The
    batch that has the most different messages fills more than one program; with ``filling``, every batch of
    short messages does."""
    answers = _bounded(host, answers)
    by_size: dict[int, list[Answer]] = {}
    for answer in answers:
        # The size of a tuple is the size of its encoding.
        by_size.setdefault(len(_content(host, answer)), []).append(answer)
    sizes = sorted(by_size)
    before = {b: by_size[a][0] for a, b in itertools.pairwise(sizes)}
    halves = {size: by_size[n][0] for size in sizes for n in sizes if n <= size // 2}
    some = [n for n in sizes if n]
    chosen = set(sizes if per_message else _spread(some, most or host.launcher.trial_size.messages))
    if filling and host.driver().way is None:
        # Before the shortest one, there is an empty one. No driver takes another way for it by itself.
        chosen |= set(some[:1])
    groups = []
    # Trials of long messages only come last, and may take longer.
    share = 1 if all(is_long(host.algorithm, a.size) for a in answers) else 8
    for size, group in by_size.items():
        if len(group) > 1:
            groups.append(group)
        elif size in chosen:
            # Both kinds of batch are needed, because a driver may use another layout if all rows are
            # equally long. A row that is shorter by half leaves whole blocks of the others to themselves.
            shorter = halves if len(groups) % 4 == 2 else before
            last = group[0] if len(groups) % 2 else shorter.get(size, group[0])
            groups.append([*group * (_copies(host, group[0], share) - 1), last])

    def whole(group: list[Answer]) -> list[Answer]:
        """The answers to all rows that are not shorter than the first."""
        size = len(_content(host, group[0]))
        return [a for a in group if len(_content(host, a)) == size]

    short = [group for group in groups if not is_long(host.algorithm, group[0].size)]
    widest = max(short, key=lambda group: len({a.digest for a in whole(group)}), default=None)
    for given in groups:
        fill = given is widest or (filling and given in short)
        group = [*_filling(host, whole(given), per_message), given[-1]] if fill else given
        contents = [_content(host, a) for a in group]
        size = len(contents[0])
        # The distance between rows must have the alignment of ``start`` and no larger one.
        stride = size + -size % _LINE + start
        data = b"".join(content.ljust(stride, b"\xff") for content in contents)
        (flat,) = placed([data], start, device)
        total = (len(contents) - 1) * stride + len(contents[-1])
        rows = Rows(flat, flat.data_ptr(), len(contents), stride, size, total)
        yield from _batch(host, device, group, rows, per_message, start)


def _alone(answers: Sequence[Answer], start: int, host: Run, device: torch.device) -> Iterator[Outcome]:
    """One message at a time. The second longest is also given as a single row."""
    chosen = _spread(_bounded(host, answers), host.launcher.trial_size.messages)
    views = [placed([_content(host, answer)], start, device)[0] for answer in chosen]
    for answer, view in zip(chosen, views, strict=True):
        yield from _batch(host, device, [answer], Ragged([view], device))
    answer, view = list(zip(chosen, views, strict=True))[-2:][0]
    row = Rows(view, view.data_ptr(), 1, view.numel(), view.numel(), view.numel())
    yield from _batch(host, device, [answer], row)


def _streams(answers: Sequence[Answer], start: int, host: Run, device: torch.device) -> Iterator[Outcome]:
    """If the messages are beginnings of one pattern, one stream that grows from each length to the next. Then
    streams that get their whole message at once."""
    record, answers = host.algorithm, _bounded(host, answers)
    growing = [a for a in answers if isinstance(a.message, int) and not is_long(record, a.size)]
    if not growing:
        growing = [a for a in answers if isinstance(a.message, int)]
    if len({answer.size for answer in growing}) > 1:
        done, stream = 0, host.stream(_values(record, growing[0]), device)
        for answer in _spread(growing, host.launcher.trial_size.messages):
            (view,) = placed([_content(host, answer)[done:]], start, device)
            stream.update(view)
            done = answer.size
            yield _described(record, answer), answer.digest, stream.digest(len(answer.digest), 0)
    for answer in _spread(answers, 2):
        stream = host.stream(_values(record, answer), device)
        (view,) = placed([_content(host, answer)], start, device)
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
        (key,) = placed([_values(record, answer)["key"]], 0, device)
        (message,) = placed([first], 0, device)
        count = _lanes(host)
        found = host.mac_chain(PerMessage([key] * count), torch.stack([message] * count), TAGS_OF_TAGS)
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
                parameters[parameter.name] = PerMessage(placed(values, start, device))
    found = host.execute(parameters, messages, len(answers[0].digest))
    for answer, digest in zip(answers, found, strict=True):
        yield _described(record, answer), answer.digest, digest


def _values(record: Algorithm, answer: Question) -> dict[str, Any]:
    return record.check_parameters(answer.values(record))


def _described(record: Algorithm, answer: Answer) -> str:
    return f"{record.name}, {answer.described()}"


def _content(host: Run, answer: Answer) -> bytes:
    content = answer.content()
    if not host.algorithm.takes_tuples:
        return bytes(content)
    return b"".join(map(encode_string, content))


def placed(contents: Sequence[bytes], start: int, device: torch.device) -> list[torch.Tensor]:
    """``contents`` on the device, as flat uint8 tensors. The bytes between them must not change a digest.
    They begin at multiples of _LINE if ``start`` is 0, at multiples of 4 bytes if it is 4, and at any byte if
    it is 1."""
    import torch

    starts, end = [], 0
    for i, content in enumerate(contents):
        end += -end % _LINE + start * (i % 7 + 1)
        starts.append(end)
        end += len(content)
    memory = torch.empty(end + 2 * _LINE, dtype=torch.uint8, device=device)
    base = -memory.data_ptr() % _LINE
    host = memory[base:] if device.type == "cpu" else torch.empty(end + _LINE, dtype=torch.uint8)
    bytes_ = host.numpy()
    done = 0
    for begin, content in zip(starts, contents, strict=True):
        bytes_[done:begin] = _AROUND
        done = begin + len(content)
        bytes_[begin:done] = memoryview(content)
    bytes_[done:] = _AROUND
    if device.type != "cpu":
        memory[base : base + len(host)] = host.to(device)
    return [memory[base + s : base + s + len(c)] for s, c in zip(starts, contents, strict=True)]
