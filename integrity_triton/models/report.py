"""The outcome of checking a model against a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import IntegrityError

if TYPE_CHECKING:
    from .entry import TensorEntry

Aspect = Literal["dtype", "shape", "content"]


@dataclass(frozen=True)
class TensorChange:
    """A tensor that is present but differs from its entry in the manifest."""

    name: str
    differs: tuple[Aspect, ...]
    """The aspects that differ; never empty. A reinterpreted or reshaped tensor may keep its content, the
    bytes."""
    expected: TensorEntry
    found: TensorEntry

    def __str__(self) -> str:
        parts = []
        for aspect in self.differs:
            if aspect == "content":
                parts.append("content")
            else:
                parts.append(f"{aspect} {getattr(self.expected, aspect)} -> {getattr(self.found, aspect)}")
        return f"{self.name!r}: {', '.join(parts)}"


@dataclass(frozen=True)
class ModelReport:
    """What ``Manifest.verify`` found. Each tuple is sorted by name."""

    tensors: int
    """How many tensors the manifest lists, without those that were ignored."""
    changed: tuple[TensorChange, ...]
    missing: tuple[str, ...]
    """Names that are listed but not in the model. A tensor with several names is missing if the model has
    none of them."""
    unexpected: tuple[str, ...]
    """Names in the model that are not listed, and names that share other memory than the manifest says."""
    tied: tuple[tuple[str, str], ...] = ()
    """Further names of a tensor in a live model, each with the name under which it was compared.

    A file stores tied weights under one name, while a live model has all their names. They are not a
    mismatch, because they add no bytes that the manifest does not cover.
    """
    untied: tuple[tuple[str, str], ...] = ()
    """Those of the unexpected names that have memory of their own, each with the name whose memory they must
    share."""
    unstated: tuple[tuple[str, str], ...] = ()
    """Those of the unexpected names that share the memory of a listed tensor, each with its name. The
    manifest does not state the tie, and another listed tensor has the same dtype and shape."""
    absent: tuple[str, ...] = ()
    """Names that are listed but not in the model, if ``partial`` permits that."""
    ignored: tuple[str, ...] = ()
    """Names in the manifest or in the model that were not compared because of ``ignore``."""
    overlaid: tuple[tuple[str, str], ...] = ()
    """Names of tensors, each with the path of a file with a copy that differs from the tensor that was
    compared. The index chooses the other file, and ``overlays`` permits the copy, which is not covered."""

    @property
    def ok(self) -> bool:
        """Whether the model is the one that the manifest describes."""
        return not (self.changed or self.missing or self.unexpected)

    def raise_for_mismatch(self) -> None:
        """Raise IntegrityError, which names every changed, missing and unexpected tensor, unless all
        match."""
        if not self.ok:
            raise IntegrityError(str(self))

    def to_dict(self) -> dict[str, Any]:
        """The report as strings, numbers, lists and dicts, for ``json.dumps``."""
        return {
            "ok": self.ok,
            "tensors": self.tensors,
            "changed": [
                {
                    "name": change.name,
                    "differs": list(change.differs),
                    "expected": change.expected.to_dict(),
                    "found": change.found.to_dict(),
                }
                for change in self.changed
            ],
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "tied": _pairs(self.tied),
            "untied": _pairs(self.untied),
            "unstated": _pairs(self.unstated),
            "absent": list(self.absent),
            "ignored": list(self.ignored),
            "overlaid": [{"name": name, "file": file} for name, file in self.overlaid],
        }

    def __str__(self) -> str:
        aside = [f"{len(self.absent)} absent"] if self.absent else []
        aside += [f"{len(self.ignored)} ignored"] if self.ignored else []
        aside += [f"{len(self.overlaid)} overlaid"] if self.overlaid else []
        copies = [
            f"  overlaid    {name!r}: the copy in {file!r} is not covered" for name, file in self.overlaid
        ]
        if self.ok:
            also = [f"{len(self.tied)} more tied to them"] if self.tied else []
            compared = _count(self.tensors - len(self.absent))
            head = ", ".join([f"{compared} as listed in the manifest", *also, *aside])
            return "\n".join([head, *copies])
        counts = [
            f"{len(self.changed)} changed",
            f"{len(self.missing)} missing",
            f"{len(self.unexpected)} unexpected",
            *aside,
        ]
        lines = [f"the model does not match its manifest of {_count(self.tensors)}: {', '.join(counts)}"]
        lines += [f"  changed     {change}" for change in self.changed]
        lines += [f"  missing     {name!r}" for name in self.missing]
        lines += [f"  unexpected  {name!r}{self._reason(name)}" for name in self.unexpected]
        return "\n".join([*lines, *copies])

    def _reason(self, name: str) -> str:
        for tied, to in self.untied:
            if tied == name:
                return f": it must share the memory of {to!r}, and has memory of its own"
        for tied, to in self.unstated:
            if tied == name:
                return (
                    f": it shares the memory of {to!r}, but the manifest does not say whether it must be "
                    "that tensor or another one of the same dtype and shape; make a manifest that states it, "
                    "from a live model or with --tie or with_ties"
                )
        return ""


def _count(tensors: int) -> str:
    return "1 tensor" if tensors == 1 else f"{tensors} tensors"


def _pairs(ties: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "to": to} for name, to in ties]


def compare(
    expected: Sequence[TensorEntry],
    found: Iterable[TensorEntry],
    *,
    live: bool,
    alternatives: Sequence[TensorEntry],
    partial: bool = False,
    ignored: Iterable[str] = (),
    overlaid: Iterable[tuple[str, str]] = (),
) -> ModelReport:
    """Compare the entries of a manifest with those of a model.

    In a ``live`` model, names that share memory are in one entry. A name that is not expected may share the
    memory of an expected tensor unless another of the ``alternatives`` has its dtype and shape. ``partial``
    permits tensors of the manifest to be missing, except all of them.
    """
    memories = {name: entry for entry in found for name in entry.names}
    changed: list[TensorChange] = []
    missing: list[str] = []
    tied: list[tuple[str, str]] = []
    untied: list[tuple[str, str]] = []
    unstated: list[tuple[str, str]] = []
    for entry in expected:
        present = [name for name in entry.names if name in memories]
        if not present:
            missing.append(entry.name)
            continue
        first = present[0]
        for name in present:
            memory = memories[name]
            if differs := _differences(entry, memory):
                changed.append(TensorChange(name, differs, entry.called([name]), memory.called([name])))
            elif name != first and live:
                pairs = tied if memory is memories[first] else untied
                pairs.append((name, first))
    listed = {name: entry for entry in expected for name in entry.names}
    unexpected = [name for name, _ in untied]
    for name, memory in memories.items():
        if name in listed:
            continue
        target = next((other for other in memory.names if other in listed), None)
        if target is None:
            unexpected.append(name)
        elif _alike(listed[target], alternatives) == 1:
            tied.append((name, target))
        else:
            unexpected.append(name)
            unstated.append((name, target))
    absent = missing if partial and len(missing) < len(expected) else []
    return ModelReport(
        len(expected),
        tuple(sorted(changed, key=lambda change: change.name)),
        () if absent else tuple(missing),
        tuple(sorted(unexpected)),
        tuple(sorted(tied)),
        tuple(sorted(untied)),
        tuple(sorted(unstated)),
        tuple(absent),
        tuple(sorted(ignored)),
        tuple(sorted(overlaid)),
    )


def _alike(entry: TensorEntry, entries: Iterable[TensorEntry]) -> int:
    """How many contents the tensors have whose dtype and shape are those of ``entry``."""
    return len({e.digest for e in entries if (e.dtype, e.shape) == (entry.dtype, entry.shape)})


def _differences(expected: TensorEntry, found: TensorEntry) -> tuple[Aspect, ...]:
    aspects: list[Aspect] = []
    if found.dtype != expected.dtype:
        aspects.append("dtype")
    if found.shape != expected.shape:
        aspects.append("shape")
    if found.digest != expected.digest:
        aspects.append("content")
    return tuple(aspects)
