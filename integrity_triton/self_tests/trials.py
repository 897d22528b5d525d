"""The known-answer tests of an algorithm: the runs of the catalogue, with the algorithm's answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..algorithms import Algorithm, get
from ..algorithms.known_answers import Answer, Question, load, questions, tags_of_tags
from ..drivers.run import Run
from ..messages.layout import Ragged
from .catalogue import Trial, placed, trials_of

if TYPE_CHECKING:
    import torch

    from ..launching.launcher import Launcher


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
    yield from trials_of(record, answers)


def _by_definition(
    record: Algorithm, hash_: Algorithm, launcher: Launcher, device: torch.device
) -> list[Answer]:
    """The answers for an HMAC, computed with its hash in batches as RFC 2104, section 2, defines it."""
    host, block, size = Run(launcher, hash_), record.block_size, hash_.digest_size

    def hashed(messages: Sequence[bytes]) -> list[bytes]:
        digests = host.execute({}, Ragged(placed(messages, 0, device), device), size)
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

    most = launcher.trial_size.blocks
    asked = [q for q in questions(record) if most is None or q.size <= most * block]
    answers = answered(asked)
    return [*answers, *tags_of_tags(record, lambda _, question: answered([question])[0].digest)]
