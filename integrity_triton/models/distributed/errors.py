"""The exceptions of digests over several processes."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import IntegrityError, IntegrityTritonError


class DistributedError(IntegrityTritonError, RuntimeError):
    """The ranks of a group cannot compute a digest together; the message names the ranks and says why."""


class RankTimeout(DistributedError, TimeoutError):
    """Ranks did not arrive in time: they have died, hang or are slow.

    ``ranks`` are their numbers in the group.
    """

    def __init__(self, message: str, ranks: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.ranks = tuple(ranks)


class ReplicaMismatch(IntegrityError):
    """Copies of a tensor that several ranks hold are not equal; the message names tensors and ranks."""


def ranks_text(ranks: Sequence[int]) -> str:
    """Numbers of ranks for a message, neighbours as a range: ``ranks 0-3, 7``."""
    ordered = sorted(set(ranks))
    spans: list[list[int]] = []
    for rank in ordered:
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"{'rank' if len(ordered) == 1 else 'ranks'} {text}"
