"""What a guard tells: findings, and its status."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal[
    "content",
    "replaced",
    "transient",
    "appeared",
    "vanished",
    "form",
    "moved",
    "retied",
    "offloaded",
    "baseline",
    "manifest",
    "overrun",
    "error",
]

NOTICES = frozenset({"transient", "moved", "retied", "offloaded", "overrun"})
"""The kinds of findings after which every byte that can be checked is still what it was. They do not make a
guard fail."""

State = Literal["guarding", "updating", "asleep", "stopped", "forked", "ended", "closed"]


class GuardWarning(UserWarning):
    """The budget and the period of a guard cannot both be kept, or a guard was dropped without being
    closed."""


@dataclass(frozen=True)
class Finding:
    """One thing that a guard noticed.

    ``kind`` is one of these:

    - ``content``: bytes of a tensor differ from the baseline, where the tensor has been all the time;
    - ``replaced``: a tensor is in other memory than before, and its bytes differ from the baseline;
    - ``transient``: a chunk differed once, and was right when it was read again at once;
    - ``appeared``, ``vanished``: a tensor that the baseline does not have, or one that the model has lost;
    - ``form``: a tensor has another dtype or shape, or another layout, so that its bytes cannot be compared;
    - ``moved``, ``retied``: a tensor is in other memory than before, or names share memory that did not, or
      no longer share it; the bytes are compared with the same baseline as before;
    - ``offloaded``: a tensor has no memory now; it is checked when it has some again;
    - ``baseline``: the guard's own digests were damaged;
    - ``manifest``: after a declared update, the model is not the one that the manifest lists;
    - ``overrun``: bytes were not checked for longer than the period;
    - ``error``: the guard, a callback or the metrics raised an exception.
    """

    kind: Kind
    detail: str
    """What happened, in words."""
    name: str | None = None
    """The first name of the tensor; None if the finding is not about one tensor."""
    names: tuple[str, ...] = ()
    """All names of the tensor."""
    device: str | None = None
    chunk: int | None = None
    """The number of the chunk that differs, from 0 on."""
    start: int | None = None
    """The bytes ``[start, end)`` of the tensor, in which the difference lies: those of the chunk, or, if the
    place was found, those of the first to the last changed byte."""
    end: int | None = None
    flips: tuple[tuple[int, int], ...] = ()
    """The changed bytes, each with its offset in the tensor and the mask of the bits that were flipped. It is
    empty if only the chunk is known. If it is not empty, it is proven: with these bits put back, the chunk
    has the digest of the baseline."""
    time: float = 0.0
    """Seconds since the epoch, as ``time.time()`` gives them."""

    @property
    def fails(self) -> bool:
        """Whether the guard has failed because of this finding."""
        return self.kind not in NOTICES

    @property
    def bits(self) -> int | None:
        """How many bits were flipped, if the place was found."""
        return sum(mask.bit_count() for _, mask in self.flips) if self.flips else None

    def to_dict(self) -> dict[str, Any]:
        """The finding as strings, numbers, lists and dicts, for ``json.dumps``."""
        found = asdict(self)
        found["names"] = list(self.names)
        found["flips"] = [list(flip) for flip in self.flips]
        return {**found, "fails": self.fails}

    def __str__(self) -> str:
        return self.detail if self.name is None else f"{self.name!r}: {self.detail}"


@dataclass(frozen=True)
class GuardStatus:
    """What a guard knows at one moment."""

    name: str
    state: State
    """``guarding``; ``updating`` or ``asleep``, while checks are suspended; ``stopped`` before ``start`` and
    after a fault of the thread; ``forked`` in a child process, which has no thread of the guard; ``ended``
    after the model was deleted; ``closed``."""
    ok: bool
    """Whether the guard is running, has not failed, and is not late. Serve only while this is true."""
    failed: bool
    findings: tuple[Finding, ...]
    """The latest findings, the oldest first, at most 1000."""
    counts: dict[str, int]
    """How many findings of each kind there were."""
    tensors: int
    """How many tensors are guarded; names that share memory are one tensor."""
    nbytes: int
    chunk_size: int
    passes: int
    """How often the whole model was checked."""
    checked_bytes: int
    busy_seconds: float
    rate: float
    """Bytes a second at which the guard reads and hashes while it is busy, as measured."""
    period: float
    """Seconds within which every byte is checked again; see docs/guide/guard.md."""
    share: float
    """The share of its time for which the guard is busy, as planned from ``rate``."""
    age: float
    """Seconds since the check of the bytes that were checked least recently."""
    signed: bool
    """Whether the model was compared with a manifest."""
    unsigned: tuple[str, ...]
    """Guarded names that the manifest does not list, such as buffers that are not stored. Their baseline is
    what they held when it was taken."""
    excluded: tuple[str, ...]
    """Names that are not guarded: those that ``ignore`` matches, and statistics of modules in training."""
    offloaded: tuple[str, ...]
    """Names that have no memory now."""

    def to_dict(self) -> dict[str, Any]:
        """The status as strings, numbers, lists and dicts, for ``json.dumps``."""
        found = dict(vars(self))
        found["findings"] = [finding.to_dict() for finding in self.findings]
        for field in ("unsigned", "excluded", "offloaded"):
            found[field] = list(found[field])
        return found

    def __str__(self) -> str:
        if not self.failed:
            health = "no change found" if self.ok else "not guarded now"
        else:
            health = "; ".join(str(finding) for finding in self.findings if finding.fails)
        state = f"has failed and is {self.state}" if self.failed else f"is {self.state}"
        return (
            f"guard {self.name!r} {state}: {health}; {self.tensors} tensors of {self.nbytes} bytes, "
            f"passes: {self.passes}, period: {self.period:.3g} s"
        )
