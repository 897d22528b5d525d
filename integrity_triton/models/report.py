"""The outcome of checking a model against a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    """How many tensors the manifest lists."""
    changed: tuple[TensorChange, ...]
    missing: tuple[str, ...]
    """Names that are listed but not in the model."""
    unexpected: tuple[str, ...]
    """Names in the model that are not listed."""
    tied: tuple[tuple[str, str], ...] = ()
    """Names that are not listed but share the memory of a listed tensor, each with that tensor's name.

    A file stores tied weights under one name, while a live model has all their names. They are not a
    mismatch, because they add no bytes that the manifest does not cover.
    """

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
            "tied": [{"name": name, "to": target} for name, target in self.tied],
        }

    def __str__(self) -> str:
        if self.ok:
            also = f", {len(self.tied)} more tied to them" if self.tied else ""
            return f"{_count(self.tensors)} as listed in the manifest{also}"
        lines = [
            f"the model does not match its manifest of {_count(self.tensors)}: {len(self.changed)} changed, "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected"
        ]
        lines += [f"  changed     {change}" for change in self.changed]
        lines += [f"  missing     {name!r}" for name in self.missing]
        lines += [f"  unexpected  {name!r}" for name in self.unexpected]
        return "\n".join(lines)


def _count(tensors: int) -> str:
    return "1 tensor" if tensors == 1 else f"{tensors} tensors"


def compare(
    expected: Iterable[TensorEntry], found: Iterable[TensorEntry], ties: Mapping[str, str]
) -> ModelReport:
    """Compare the entries of a manifest with those of a model, both in order of names.

    ``ties`` maps each name of a live model to the first name of the same memory.
    """
    listed = {entry.name: entry for entry in expected}
    present = {entry.name: entry for entry in found}
    changed = tuple(
        TensorChange(name, _differences(entry, present[name]), entry, present[name])
        for name, entry in listed.items()
        if name in present and present[name] != entry
    )
    missing = tuple(name for name in listed if name not in present)
    listed_memory: dict[str, str] = {}
    for name in listed:
        if name in ties:
            listed_memory.setdefault(ties[name], name)
    unexpected, tied = [], []
    for name in present:
        if name not in listed:
            target = listed_memory.get(ties[name]) if name in ties else None
            if target is None:
                unexpected.append(name)
            else:
                tied.append((name, target))
    return ModelReport(len(listed), changed, missing, tuple(unexpected), tuple(tied))


def _differences(expected: TensorEntry, found: TensorEntry) -> tuple[Aspect, ...]:
    aspects: list[Aspect] = []
    if found.dtype != expected.dtype:
        aspects.append("dtype")
    if found.shape != expected.shape:
        aspects.append("shape")
    if found.digest != expected.digest:
        aspects.append("content")
    return tuple(aspects)
