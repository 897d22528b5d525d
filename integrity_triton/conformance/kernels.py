"""The checks that only an emulated backend gets: every kernel that it may launch for an algorithm is
launched, and programs have a message in each of their lanes.

Unlike the other checks, the first uses the catalogue of the self-tests, which leads to every configuration of
the kernels: what is to be executed in full has to be launched first.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..algorithms.known_answers import Answer, usual
from ..backends.emulation.backend import EmulatedBackend
from ..backends.emulation.coverage import KernelCoverage
from ..backends.emulation.program import Missed
from ..backends.registry import get
from ..drivers.run import Run
from ..launching.launch import Launch
from ..self_tests.catalogue import Trial
from ..self_tests.trials import trials
from .execution import unlisted
from .report import KernelExecution
from .subject import Case, Subject
from .unexecuted import UNEXECUTED, together_with

if TYPE_CHECKING:
    import torch

# So many tests of one kind are carried out for a kernel without executing more of it.
_TRIES = 3
_ALIGNMENTS = (16, 8, 4, 1)
# So many lengths of rows are tried in turn without executing more of the kernels.
_LENGTHS = 3
# The bytes of messages that are cut into pieces, and how many of them have pieces for all lanes.
_LONG = (1 << 16, 150_000)
_PIECED = 72
# For kernels that do not say how many messages a program takes.
_LANES = 64


def every_kernel(subject: Subject) -> Iterator[Case]:
    """The known-answer tests that launch something which nothing before them has launched."""
    backend = get(subject.backend)
    if not isinstance(backend, EmulatedBackend):
        return
    for trial, found in _trials(subject, backend):
        if not found <= subject.watch.configurations.keys():
            yield from _carried_out(subject, trial, backend)


def remaining_code(subject: Subject) -> Iterator[Case]:
    """Of the kernels of which the checks before have left something out, the known-answer tests that launch
    them, as long as these execute more. A kernel of which several tests of one kind in turn have executed
    nothing new is given up: no test of this kind reaches the rest of its code, which the report names.
    Algorithms that execute their kernels in full only together with others are left out."""
    backend = get(subject.backend)
    if not isinstance(backend, EmulatedBackend):
        return
    if together_with(subject.record.name, f"emulated {backend.target().name}"):
        return
    launched = subject.watch.configurations
    in_vain: Counter[tuple[str, str]] = Counter()

    if not any(_missed(subject.backend, kernel) for one in launched.values() for kernel in one.values()):
        return
    # The last ones differ most from those that have been carried out, which were the first for each kernel.
    for trial, found in reversed([*_trials(subject, backend)]):
        kernels = [kernel for one in found for kernel in launched.get(one, {}).values()]
        before = {
            kernel.name: missed
            for kernel in kernels
            if in_vain[kernel.name, trial.label] < _TRIES and (missed := _missed(subject.backend, kernel))
        }
        if not before:
            continue
        yield from _carried_out(subject, trial, backend)
        for kernel in kernels:
            if kernel.name in before:
                same = _missed(subject.backend, kernel) == before[kernel.name]
                kind = kernel.name, trial.label
                in_vain[kind] = in_vain[kind] + 1 if same else 0


def _trials(subject: Subject, backend: EmulatedBackend) -> Iterator[tuple[Trial, set[tuple[Any, ...]]]]:
    """The known-answer tests of an algorithm, each with the configurations of kernels that it launches."""
    for trial in trials(subject.record, backend, subject.device):
        found: set[tuple[Any, ...]] = set()

        def note(launch: Launch, options: Mapping[str, int], found: set[tuple[Any, ...]] = found) -> None:
            found.add(backend.configuration(launch, options))

        for _ in trial.run(Run(backend, subject.record, note, trial.way), subject.device):
            pass
        yield trial, found


def _carried_out(subject: Subject, trial: Trial, backend: EmulatedBackend) -> Iterator[Case]:
    def start(launch: Launch, options: Mapping[str, int]) -> None:
        subject.watch.launches += 1
        backend.launch(launch, options)

    run = Run(backend, subject.record, start, trial.way)
    for label, expected, digest in trial.run(run, subject.device):
        given = digest if isinstance(digest, bytes) else digest.cpu().numpy().tobytes()
        yield Case(f"{trial.label}, {label}", expected, given)


def full_programs(subject: Subject) -> Iterator[Case]:
    """Messages in every lane of a program: for each message a key of its own; and, if the checks before have
    left something of a kernel out, ragged batches of all lengths, and rows of one length, at each alignment.
    A thread that hashes or loads several messages has code of its own for each, which a smaller batch does
    not execute."""
    backend, record = get(subject.backend), subject.record
    if not isinstance(backend, EmulatedBackend) or record.takes_tuples or subject.known is None:
        return
    plain = usual(record, subject.known.answers)
    longest = max(300, 3 * record.block_size)
    answers = [a for a in plain if 0 < a.size <= longest]
    if not answers:
        return
    lanes = max(
        backend.tuned(kernel).get("BLOCK_MSGS", _LANES) for kernel in backend.driver(record).references()
    )
    # Programs take the longest messages first, so that these begin the second half of the lanes, too.
    filling = itertools.islice(itertools.cycle(answers[-4:]), max(0, lanes - len(answers)))
    whole = max(answers, key=lambda a: (a.size % 32, a.size))  # its last word is the last of most blocks
    ragged = [[*answers, *filling], [whole] * lanes, answers[-1:] * lanes]
    empty = [a for a in plain if not a.size][:1] * lanes
    if empty:  # by itself, and as a program beside one for a message that has an alignment
        ragged += [empty, [answers[-1], *empty]]
    rows = [
        [a] * lanes
        for last in (True, False)
        for a in _in_turn([a for a in answers if (a.size % 4 == 3) is last])
    ]
    long = [a for a in plain if _LONG[0] <= a.size <= _LONG[1]]
    if record.construction.in_pieces and long:  # other kernels run for pieces of long messages
        ragged.append([long[-1], *answers[:3]])
        if record.keyed == "no":  # emulating the matrix products of Poly1305 would take too long
            ragged.append(long[-1:] * _PIECED)
            rows[:0] = [long[-1:] * _PIECED]
    for align in _ALIGNMENTS:
        yield from _own_parameters(subject, ragged, rows, align)
        for several in ragged:
            if not _open(subject, align, table=True):
                break
            yield from _compared(subject, several, _apart(subject, several, align), f"{align} bytes apart")
        # The last chunk of a tensor is shorter than the others.
        fitting = [a for a in answers if a.size % align == 0 and a.size > 64 and a.size <= 300]
        if fitting and _open(subject, align, table=False):
            chunks = [*fitting[-1:] * (lanes - 1), answers[0]]
            data = subject.placed(b"".join(a.content() for a in chunks), align)
            found = subject.chunks(data, fitting[-1].size, **_given(subject, chunks[0]))
            yield from _cases(chunks, found, "chunks")
        in_vain = 0
        for alike in [empty, *rows] if empty else rows:
            left = _open(subject, align, table=False)
            if not left or in_vain == _LENGTHS:
                break
            yield from _compared(subject, alike, _rows(subject, alike, align), f"rows, {align} bytes apart")
            in_vain = in_vain + 1 if _open(subject, align, table=False) == left else 0


def _own_parameters(
    subject: Subject, ragged: Sequence[list[Answer]], rows: Sequence[list[Answer]], align: int
) -> Iterator[Case]:
    """Keys and the like of their own: each message has one of two, and the digests are those of two batches
    in which all messages have the same. The first of the two is that of the known answers. Aligned messages
    are always hashed so, in a table and in rows, and others while code is left that nothing has executed."""
    own = {p.name for p in subject.record.parameters if p.per_message}
    given = _given(subject, ragged[0][0])
    first = {name: value for name, value in given.items() if name in own and isinstance(value, bytes)}
    if not first:
        return
    second = {name: bytes(byte ^ 0xA5 for byte in value) for name, value in first.items()}
    for table, batches, layout in ((True, ragged, _apart), (False, rows, _rows)):
        in_vain = 0
        for answers in batches:
            left = _open(subject, align, table=table)
            always = align == _ALIGNMENTS[0] and answers is batches[0]
            if not always and (not left or (in_vain == _LENGTHS and not table)):
                break
            messages = layout(subject, answers, align)
            label = f"{'ragged' if table else 'rows'}, {align} bytes apart"
            known = subject.batch(messages, **given)
            yield from _cases(answers, known, label)
            other = subject.batch(messages, **{**given, **second})
            choice = [bool(bit) for bit in subject.random.integers(0, 2, len(answers))]
            mixed = {name: [(second if bit else first)[name] for bit in choice] for name in first}
            found = subject.batch(messages, **{**given, **mixed})
            for i, bit in enumerate(choice):
                case = f"{label}, its own {' and '.join(first)}, message {i} of {len(choice)}"
                yield Case(case, other[i] if bit else known[i], found[i])
            in_vain = in_vain + 1 if _open(subject, align, table=table) == left else 0


def _given(subject: Subject, answer: Answer) -> dict[str, Any]:
    """The arguments with which the messages of answers like this are hashed."""
    return {"length": answer.length, **answer.values(subject.record)}


def _compared(subject: Subject, answers: Sequence[Answer], messages: Any, label: str) -> Iterator[Case]:
    yield from _cases(answers, subject.batch(messages, **_given(subject, answers[0])), label)


def _cases(answers: Sequence[Answer], found: Sequence[bytes], label: str) -> Iterator[Case]:
    for i, (answer, digest) in enumerate(zip(answers, found, strict=True)):
        yield Case(f"{label}, {i} of {len(answers)}, {answer.described()}", answer.digest, digest)


def _in_turn(answers: Sequence[Answer]) -> list[Answer]:
    """The longest, the shortest, the second longest and so on."""
    order = sorted(answers, key=lambda a: a.size)
    return [order[-1 - i // 2] if i % 2 == 0 else order[i // 2] for i in range(len(order))]


def _apart(subject: Subject, answers: Sequence[Answer], align: int) -> list[torch.Tensor]:
    """Messages in a tensor each, which begin ``align`` bytes after a multiple of 64. Unaligned ones begin at
    every distance from a word."""
    starts = (1, 2, 3) if align < 4 else (align,)
    return [subject.placed(a.content(), starts[i % len(starts)]) for i, a in enumerate(answers)]


def _rows(subject: Subject, answers: Sequence[Answer], align: int) -> torch.Tensor:
    """Messages of one length as rows with bytes between them, which begin ``align`` bytes after a multiple of
    64: uint8 ``[n, size]``. Unaligned rows begin at every distance from a word."""
    size = answers[0].size
    gap = -size % align or align
    gap += (1 - size - gap) % 4 if align < 4 else 0
    content = b"".join(answer.content() + bytes(gap) for answer in answers)
    return subject.placed(content, align).view(len(answers), size + gap)[:, :size]


def _open(subject: Subject, align: int, *, table: bool) -> int:
    """How many places of the kernels for such messages, or for any, are not executed."""
    return sum(
        len(_missed(subject.backend, kernel))
        for kernels in subject.watch.configurations.values()
        for kernel in kernels.values()
        if kernel.constants.get("TABLE", table) == table
        and min(kernel.constants.get("ALIGN", align), 16) == align
        and kernel.constants.get("FINAL", True)
    )


def _missed(backend: str, kernel: KernelCoverage) -> list[Missed]:
    """What has to be executed of a kernel and has not been."""
    return unlisted(backend, kernel.name, KernelExecution.of(kernel), UNEXECUTED)
