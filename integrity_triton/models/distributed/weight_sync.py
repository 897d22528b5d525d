"""Weights that go from a trainer to an engine: both digest them, and what arrived is what was sent, or it is
noticed.

The sender digests what it sends, bucket by bucket, and states at the end the content digest of each tensor.
The receiver keeps count of what arrives, and compares the statement with the content digests of its own
parameters, where they are. A content digest is that of the whole tensor, so that the two sides may be sharded
differently and the buckets may come in any order. Names and fused parameters of the receiver are resolved by
a stated map.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...errors import IntegrityError
from ...messages.tensors import named
from ...strict_json import check_members, parse_hex, parse_object
from ..entry import check_name
from ..errors import ManifestError, shown
from ..names import Names, Rename
from .errors import ReplicaMismatch
from .exchange import Alone, Exchange, exchange_for
from .held import LocalShard, held_by
from .records import check_algorithm, model_root
from .root import TIMEOUT, root, together

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

__all__ = ["Part", "SyncMismatch", "SyncReport", "SyncStatement", "WeightSync", "fused", "resolve"]

FORMAT = "integrity_triton weight sync"
VERSION = 1
MAX_SIZE = 64 << 20
"""Bytes of a statement, enough for about 500,000 tensors."""

_MOST_SHOWN = 20
_logger = logging.getLogger("integrity_triton")
_FIELDS: Mapping[str, type] = {
    "format": str,
    "version": int,
    "algorithm": str,
    "step": int,
    "root": str,
    "tensors": dict,
}

Mode = Literal["enforce", "log", "off"]
Rule = str | Callable[[Any], Mapping[str, Any]]
"""What the map says of a parameter of the receiver: the sender's name of it, or a function that gives the
sender's tensors in it, as views of its memory or LocalShards over such views, by the sender's names."""


class SyncMismatch(IntegrityError):
    """The receiver does not hold what the sender has sent. ``report`` says what differs."""

    def __init__(self, message: str, report: SyncReport | None = None) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class SyncStatement:
    """What the sender has sent in one step: the content digest of each tensor, by the sender's names."""

    algorithm: str
    step: int
    digests: Mapping[str, bytes]

    @property
    def root(self) -> bytes:
        """The root of the tensors, as :func:`~.root` defines it."""
        return model_root(check_algorithm(self.algorithm), self.digests)

    def to_json(self) -> bytes:
        """The statement as ASCII JSON, to be sent to the receiver on any way. It is as trustworthy as this
        way: where others can write to it, sign the text or send it with a MAC."""
        tensors = {name: digest.hex() for name, digest in sorted(self.digests.items())}
        return json.dumps(
            {
                "format": FORMAT,
                "version": VERSION,
                "algorithm": self.algorithm,
                "step": self.step,
                "root": self.root.hex(),
                "tensors": tensors,
            }
        ).encode("ascii")

    @classmethod
    def from_json(cls, data: bytes | str) -> SyncStatement:
        """Parse a statement. Raises ManifestError for anything that is not one with a matching root."""
        if len(data) > MAX_SIZE:
            raise ManifestError(f"not a statement: larger than {MAX_SIZE} bytes")
        try:
            members = parse_object(data)
            if members.get("format") != FORMAT or members.get("version") != VERSION:
                raise ManifestError(f"'format' must be {FORMAT!r} and 'version' {VERSION}")
            check_members(members, _FIELDS)
            size = check_algorithm(members["algorithm"]).digest_size
            digests = {}
            for name, digest in members["tensors"].items():
                check_name(name)
                digests[name] = parse_hex(digest, f"the digest of {shown(name)}")
                if len(digests[name]) != size:
                    raise ManifestError(f"the digest of {shown(name)} has {len(digests[name])} bytes")
            statement = cls(members["algorithm"], members["step"], digests)
            if statement.root != parse_hex(members["root"], "root"):
                raise ManifestError("the root is not that of the tensors listed: the statement was altered")
        except (ValueError, TypeError) as error:
            raise ManifestError(f"not a valid statement of a weight sync: {error}") from None
        return statement


@dataclass(frozen=True)
class SyncReport:
    """What the receiver holds beside what was sent. All names are the sender's, in order."""

    step: int
    compared: int = 0
    """How many tensors were compared."""
    lost: Sequence[str] = ()
    """Tensors that were sent and did not arrive, at all or at some rank."""
    repeated: Sequence[str] = ()
    """Tensors that arrived more often than once at some rank."""
    unexpected: Sequence[str] = ()
    """Tensors that arrived and were not sent."""
    changed: Sequence[str] = ()
    """Tensors whose memory at the receiver is not what was sent."""
    unmapped: Sequence[str] = ()
    """Tensors that were sent and that no parameter of the receiver holds."""
    copies: str = ""
    """Which copies of tensors differ between ranks of the receiver, in words; ``changed`` is then empty."""
    wrong_step: int | None = None
    """The step of the statement, if it is another one."""

    @property
    def ok(self) -> bool:
        found = (self.lost, self.repeated, self.unexpected, self.changed, self.unmapped)
        return self.wrong_step is None and not self.copies and not any(found)

    def __str__(self) -> str:
        if self.ok:
            return f"step {self.step}: all {self.compared} tensors are what was sent"
        lines = [f"step {self.step}: the receiver does not hold what was sent"]
        if self.wrong_step is not None:
            lines.append(f"the statement is that of step {self.wrong_step}")
        for names, what in (
            (self.lost, "did not arrive"),
            (self.repeated, "arrived more than once"),
            (self.unexpected, "arrived and were not sent"),
            (self.unmapped, "are in no parameter of the receiver, as the map says"),
            (self.changed, "are not what was sent"),
        ):
            if names:
                more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
                lines.append(f"{what}: {', '.join(map(shown, names[:_MOST_SHOWN]))}{more}")
        if self.copies:
            lines.append(self.copies)
        return "\n  ".join(lines)


@dataclass(frozen=True)
class Part:
    """One of the sender's tensors in a parameter of the receiver.

    ``size`` is the number of indices that the parameter of this rank has of it, along the dimension in which
    the parts follow each other. ``total`` is that of the whole tensor, if this rank has not all of it, and
    ``start`` the first index of it that this rank has.
    """

    name: str
    size: int
    total: int | None = None
    start: int = 0


def fused(parts: Sequence[Part], dim: int = 0) -> Callable[[torch.Tensor], dict[str, LocalShard]]:
    """The rule of a parameter in which several of the sender's tensors, or this rank's shards of them, follow
    each other along ``dim``: ``qkv`` of q, k and v, or gate and up. One part alone states how a parameter is
    sharded.

    Applying it raises ManifestError if the sizes of the parts are not that of the parameter.
    """

    def rule(parameter: torch.Tensor) -> dict[str, LocalShard]:
        sizes = [part.size for part in parts]
        if sum(sizes) != parameter.shape[dim]:
            raise ManifestError(
                f"the parts {', '.join(shown(part.name) for part in parts)} have {sum(sizes)} indices in "
                f"dimension {dim}, and the parameter of shape {list(parameter.shape)} has "
                f"{parameter.shape[dim]}"
            )
        found: dict[str, LocalShard] = {}
        place = 0
        for part in parts:
            if part.name in found:
                raise ManifestError(f"two parts of a parameter are called {shown(part.name)}")
            view = parameter.detach().narrow(dim, place, part.size)
            total = part.size if part.total is None else part.total
            found[part.name] = LocalShard.along(view, dim, part.start, total)
            place += part.size
        return found

    return rule


def resolve(
    parameters: Mapping[str, Any], rules: Mapping[str, Rule] | None = None, *, rename: Rename | None = None
) -> dict[str, Any]:
    """The sender's tensors in the parameters of a receiver, by the sender's names. No data is copied.

    ``rules`` has the parameters that are not simply called otherwise: the sender's name, or a function such
    as :func:`fused` makes. ``rename`` gives the sender's name for that of any other parameter, as for
    :meth:`Manifest.verify`.

    Raises ManifestError for a rule of a parameter that does not exist, and if two parameters hold one tensor.
    """
    rules = rules or {}
    for name in rules:
        if name not in parameters:
            raise ManifestError(f"there is a rule for {shown(name)}, and no such parameter")
    others = Names.of((), rename)
    found: dict[str, Any] = {}
    for name, parameter in parameters.items():
        rule = rules.get(name)
        if rule is None or isinstance(rule, str):
            held = {others.rename(name) if rule is None else rule: parameter}
        else:
            with named(f"parameter {shown(name)}"):
                held = dict(rule(parameter))
        for sender, x in held.items():
            if sender in found:
                raise ManifestError(
                    f"two parameters hold the tensor {shown(sender)}, the second is {shown(name)}"
                )
            found[sender] = x
    return found


class WeightSync:
    """One side of a weight sync; a new one for each step.

    The sender calls :meth:`sent` with each bucket and then :meth:`statement`. The receiver calls
    :meth:`arrived` with the names in each bucket, and at the end :meth:`check` with the statement and its
    parameters. All ranks of a side make the calls; ``group`` has the ranks of the own side, and as for
    :func:`~.root`, None stands for the default group. ``"alone"`` is a side whose process has whole tensors,
    such as the one rank of a trainer that sends.

    ``mode`` says how a check ends: ``"enforce"`` raises :class:`SyncMismatch`, ``"log"`` writes an error to
    the logger ``integrity_triton`` and returns the report, and with ``"off"`` nothing is hashed, counted or
    compared. ``step`` is a number of the sync, which both sides know: a statement of another step is a
    mismatch. ``timeout`` is as for :func:`~.root`.
    """

    def __init__(
        self,
        step: int,
        group: dist.ProcessGroup | Literal["alone"] | None = None,
        *,
        mode: Mode = "enforce",
        algorithm: str = "blake3",
        timeout: float = TIMEOUT,
        backend: str | None = None,
    ) -> None:
        if mode not in ("enforce", "log", "off"):
            raise ValueError(f"mode must be 'enforce', 'log' or 'off', not {mode!r}")
        if isinstance(step, bool) or not isinstance(step, int):
            raise TypeError(f"step must be an int, not {type(step).__name__}")
        self._algorithm = check_algorithm(algorithm).name
        self._step = step
        self._group = group
        self._mode = mode
        self._timeout = timeout
        self._backend = backend
        self._sent: dict[str, bytes] = {}
        self._arrived: Counter[str] = Counter()

    def sent(self, bucket: Mapping[str, Any]) -> None:
        """Digest a bucket that is sent: tensors, DTensors or LocalShards of the own side by name, as for
        :func:`~.root`. The bucket's memory may be used again afterwards.

        Raises ValueError for a tensor that was sent before in this step, and as :func:`~.root`.
        """
        if self._mode == "off":
            return
        for name in bucket:
            if name in self._sent:
                raise ValueError(f"tensor {shown(name)} was sent before in step {self._step}")
        self._sent.update(self._digests(bucket))

    def statement(self) -> SyncStatement:
        """What was sent, the same on all ranks of the sender; empty with the mode ``"off"``."""
        return SyncStatement(self._algorithm, self._step, dict(self._sent))

    def arrived(self, names: Iterable[str]) -> None:
        """Count the tensors of a bucket that this rank has applied, by the sender's names."""
        if self._mode != "off":
            self._arrived.update(list(names))  # of a mapping, too, the names

    def check(self, statement: SyncStatement | bytes, parameters: Mapping[str, Any]) -> SyncReport | None:
        """Compare what this side holds with what was sent.

        ``parameters`` has the sender's tensors where they are now, by the sender's names: the result of
        :func:`resolve`, or tensors as for :func:`~.root`. Other tensors in it are not looked at. The report
        is the same on all ranks; None with the mode ``"off"``.

        Raises SyncMismatch in the mode ``"enforce"``; ManifestError for a statement that is none or has
        another algorithm, and for a part of a tensor that no rank holds; and as :func:`~.root`.
        """
        if self._mode == "off":
            return None
        if not isinstance(statement, SyncStatement):
            statement = SyncStatement.from_json(statement)
        if statement.algorithm != self._algorithm:
            raise ManifestError(
                f"the sender digests with {statement.algorithm}, and the receiver with {self._algorithm}"
            )
        expected = statement.digests
        own = {name: x for name, x in parameters.items() if name in expected}
        copies, found = "", expected
        try:
            found = self._digests(own)
        except ReplicaMismatch as error:
            copies = str(error)
        ranks = self._gather(own)
        report = SyncReport(
            self._step,
            len(expected),
            lost=_ordered({name for counts, held in ranks for name in held if not counts.get(name)}),
            repeated=_ordered({name for counts, _ in ranks for name, n in counts.items() if n > 1}),
            unexpected=_ordered({name for counts, _ in ranks for name in counts if name not in expected}),
            changed=_ordered(name for name in found if found[name] != expected[name]),
            unmapped=_ordered(name for name in expected if name not in found),
            copies=copies,
            wrong_step=None if statement.step == self._step else statement.step,
        )
        if report.ok:
            return report
        if self._mode == "enforce":
            raise SyncMismatch(str(report), report)
        _logger.error("weight sync: %s", report)
        return report

    def _digests(self, source: Mapping[str, Any]) -> Mapping[str, bytes]:
        if self._group == "alone":
            hash_ = check_algorithm(self._algorithm)
            return together(held_by(source, (0,), 0), Alone(), hash_, self._backend).digests
        found = root(
            source,
            self._group,
            algorithm=self._algorithm,
            timeout=self._timeout,
            backend=self._backend,
        )
        return found.digests

    def _gather(self, own: Iterable[str]) -> list[tuple[Mapping[str, int], Sequence[str]]]:
        """What each rank of this side has counted, and the names of the tensors of which it holds a part."""
        exchange: Exchange = Alone() if self._group == "alone" else exchange_for(self._group, self._timeout)
        try:
            data = json.dumps([self._arrived, sorted(own)]).encode("ascii")
            sizes = [int.from_bytes(x, "little") for x in exchange.gather(len(data).to_bytes(8, "little"))]
            padded = exchange.gather(data.ljust(max(sizes), b" "))
        except BaseException as error:
            exchange.give_up(error)
            raise
        return [(counts, held) for counts, held in map(json.loads, padded)]


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))
