"""The checks that only an emulated backend gets: every kernel that it may launch for an algorithm is
launched, and programs have a message in each of their lanes.

Unlike the other checks, the first uses the catalogue of the self-tests, which leads to every configuration of
the kernels: what is to be executed in full has to be launched first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..algorithms.known_answers import Answer, usual
from ..backends.emulation.backend import EmulatedBackend
from ..backends.emulation.coverage import KernelCoverage
from ..backends.emulation.program import Missed
from ..backends.registry import get
from ..drivers.run import Run
from ..launching.launch import Launch
from ..self_tests.trials import trials
from .execution import unlisted
from .report import KernelExecution
from .subject import Case, Subject
from .unexecuted import UNEXECUTED

if TYPE_CHECKING:
    import torch

# So many tests of one kind are carried out for a kernel without executing more of it.
_TRIES = 3
_ALIGNMENTS = (16, 8, 4, 1)
# So many lengths of rows are tried in turn without executing more of the kernels.
_LENGTHS = 3
# The bytes of messages that are cut into pieces, and how many of them have pieces for all lanes.
_LONG = (1 << 16, 70_000)
_PIECED = 72
_LINE = 64


def every_kernel(subject: Subject) -> Iterator[Case]:
    """The known-answer tests that launch something which nothing before them has launched, or a kernel of
    which they may execute what nothing before them has executed. A kernel of which several tests in turn have
    executed nothing new is given up: no test reaches the rest of its code, which the report names."""
    backend = get(subject.backend)
    if not isinstance(backend, EmulatedBackend):
        return
    found: set[tuple[Any, ...]] = set()
    in_vain: dict[tuple[str, str], int] = {}

    def note(launch: Launch, options: Mapping[str, int]) -> None:
        found.add(backend.configuration(launch, options))

    def start(launch: Launch, options: Mapping[str, int]) -> None:
        subject.watch.launches += 1
        backend.launch(launch, options)

    for trial in trials(subject.record, backend, subject.device):
        found.clear()
        for _ in trial.run(Run(backend, subject.record, note, trial.way), subject.device):
            pass
        launched = subject.watch.configurations
        kernels = [kernel for one in found for kernel in launched.get(one, {}).values()]
        before = {
            kernel.name: missed
            for kernel in kernels
            if in_vain.get((kernel.name, trial.label), 0) < _TRIES
            and (missed := _missed(backend.name, kernel))
        }
        if found <= launched.keys() and not before:
            continue
        for label, expected, digest in trial.run(
            Run(backend, subject.record, start, trial.way), subject.device
        ):
            given = digest if isinstance(digest, bytes) else digest.cpu().numpy().tobytes()
            yield Case(f"{trial.label}, {label}", expected, given)
        for kernel in kernels:
            if kernel.name in before:
                same = _missed(backend.name, kernel) == before[kernel.name]
                kind = kernel.name, trial.label
                in_vain[kind] = in_vain.get(kind, 0) + 1 if same else 0


def full_programs(subject: Subject) -> Iterator[Case]:
    """Messages in every lane of a program, for kernels of which the checks before have left something out:
    ragged batches of all lengths, and rows of one length, at each alignment. A thread that hashes or loads
    several messages has code of its own for each, which a smaller batch does not execute."""
    backend, record = get(subject.backend), subject.record
    if not isinstance(backend, EmulatedBackend) or record.takes_tuples or subject.known is None:
        return
    longest = max(300, 3 * record.block_size)
    answers = usual(record, [a for a in subject.known.answers if 0 < a.size <= longest])
    if not answers:
        return
    lanes = backend.tuned(*backend.driver(record).main_kernel()).get("BLOCK_MSGS", _LINE)
    # Programs take the longest messages first, so that these begin the second half of the lanes, too.
    filling = itertools.islice(itertools.cycle(answers[-4:]), max(0, lanes - len(answers)))
    whole = max(answers, key=lambda a: (a.size % 32, a.size))  # its last word is the last of most blocks
    ragged = [[*answers, *filling], [whole] * lanes, answers[-1:] * lanes]
    rows = [
        [a] * lanes
        for last in (True, False)
        for a in _in_turn([a for a in answers if (a.size % 4 == 3) is last])
    ]
    if record.construction.in_pieces:  # other kernels run for pieces of long messages
        long = [a for a in usual(record, subject.known.answers) if _LONG[0] <= a.size <= _LONG[1]]
        ragged.append(list(itertools.islice(itertools.cycle(long), _PIECED)))
        rows[:0] = [long[-1:] * _PIECED]
    for align, own in itertools.product(_ALIGNMENTS, (False, True)):
        if own and not _of_their_own(subject, answers):
            continue
        for several in ragged:
            if not _open(subject, align, table=True):
                break
            # Unaligned messages begin at every distance from a word.
            starts = (1, 2, 3) if align < 4 else (align,)
            views = [_placed(subject, [a], starts[i % len(starts)], 0)[0] for i, a in enumerate(several)]
            found = subject.batch(views, **_given(subject, several, own))
            for answer, digest in zip(several[: len(answers)], found, strict=False):
                label = f"of {len(several)}, {align} bytes apart, {answer.described()}"
                yield Case(label, answer.digest, digest)
        # The last chunk of a tensor is shorter than the others.
        fitting = [a for a in answers if a.size % align == 0 and a.size > 64 and a.size <= 300]
        if fitting and _open(subject, align, table=False):
            chunks = [*fitting[-1:] * (lanes - 1), answers[0]]
            data = _flat(subject, b"".join(a.content() for a in chunks), align)
            found = subject.chunks(data, fitting[-1].size, **_given(subject, chunks, own))
            for i in (0, lanes - 1):
                label = f"chunk {i} of {lanes}, {chunks[i].described()}"
                yield Case(label, chunks[i].digest, found[i])
        in_vain = 0
        for alike in rows:
            answer = alike[0]
            left = _open(subject, align, table=False)
            if not left or in_vain == _LENGTHS:
                break
            gap = -answer.size % align or align
            gap += (1 - answer.size - gap) % 4 if align < 4 else 0
            placed = _placed(subject, alike, align, gap)
            found = subject.batch(placed, **_given(subject, alike, own))
            for i in (0, len(alike) - 1):
                label = f"row {i} of {len(alike)}, {align} bytes apart, {answer.described()}"
                yield Case(label, answer.digest, found[i])
            in_vain = in_vain + 1 if _open(subject, align, table=False) == left else 0


def _of_their_own(subject: Subject, answers: Sequence[Answer]) -> set[str]:
    """The names of the parameters that each message may have of its own."""
    return {p.name for p in subject.record.parameters if p.per_message} & answers[0].values(
        subject.record
    ).keys()


def _given(subject: Subject, answers: Sequence[Answer], own: bool) -> dict[str, Any]:
    """The arguments with which the messages of these answers are hashed, those of their own in lists if
    ``own``."""
    values = [a.values(subject.record) for a in answers]
    given: dict[str, Any] = {"length": answers[0].length, **values[0]}
    for name in _of_their_own(subject, answers) if own else ():
        given[name] = [value[name] for value in values]
    return given


def _in_turn(answers: Sequence[Answer]) -> list[Answer]:
    """The longest, the shortest, the second longest and so on."""
    order = sorted(answers, key=lambda a: a.size)
    return [order[-1 - i // 2] if i % 2 == 0 else order[i // 2] for i in range(len(order))]


def _placed(subject: Subject, answers: list[Answer], start: int, gap: int) -> torch.Tensor:
    """Messages of one length as rows with ``gap`` bytes between them, which begin ``start`` bytes after a
    multiple of 64: uint8 ``[n, size]``."""
    size = answers[0].size
    content = b"".join(answer.content() + bytes(gap) for answer in answers)
    return _flat(subject, content, start).view(len(answers), size + gap)[:, :size]


def _flat(subject: Subject, content: bytes, start: int) -> torch.Tensor:
    """Bytes that begin ``start`` bytes after a multiple of 64."""
    import torch

    memory = torch.zeros(len(content) + 2 * _LINE, dtype=torch.uint8, device=subject.device)
    begin = -memory.data_ptr() % _LINE + start
    memory[begin : begin + len(content)] = subject.tensor(content)
    return memory[begin : begin + len(content)]


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
