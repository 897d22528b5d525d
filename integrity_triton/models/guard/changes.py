"""How the tensors of a model differ from those of the baseline, before any of their bytes is read."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .baseline import Baseline, Form, Unit
from .findings import Finding, Kind
from .tensors import Look, Place, Seen

if TYPE_CHECKING:
    import torch


@dataclass
class Target:
    """Memory to be compared with a unit of the baseline."""

    unit: Unit
    names: tuple[str, ...]
    """Those of the unit's names that have this memory."""
    ref: weakref.ref[torch.Tensor]
    place: Place
    moved: bool
    """Whether the tensor was elsewhere before, and this memory has not been found right yet."""


@dataclass(frozen=True)
class Comparison:
    findings: tuple[Finding, ...]
    targets: tuple[Target, ...]
    offloaded: tuple[str, ...]


def compare(baseline: Baseline, now: Look, before: Mapping[str, Place]) -> Comparison:
    """What has changed since the places of ``before``, and the memory that is to be checked."""
    findings: list[Finding] = []
    offloaded: list[str] = []
    present: dict[str, Seen] = {}
    for name, unit in baseline.by_name.items():
        seen = now.tensors.get(name)
        if seen is None:
            findings.append(_finding("vanished", (name,), "the model no longer has this tensor"))
        elif seen.refused or Form(seen.dtype, seen.shape) != unit.form:
            found = seen.refused or f"it is {Form(seen.dtype, seen.shape)} on {seen.device}"
            findings.append(_finding("form", (name,), f"{found}, and was {unit.form}"))
        elif seen.place is None:
            offloaded.append(name)
            findings.append(_finding("offloaded", (name,), f"it has no memory now: {seen.absent}"))
        else:
            present[name] = seen
    for name in now.tensors.keys() - baseline.by_name.keys():
        seen = now.tensors[name]
        text = f"the model has this tensor of {seen.nbytes} bytes on {seen.device}, and the baseline has not"
        findings.append(Finding("appeared", text, name, (name,), seen.device))
    retied = list(_retied(baseline, present))
    findings += retied
    told = {name for finding in retied for name in finding.names}
    targets = []
    for unit in baseline.units:
        for names in _by_place([name for name in unit.names if name in present], present):
            seen = present[names[0]]
            assert seen.place is not None
            known = [before[name] for name in names if name in before]
            moved = any(place != seen.place for place in known)
            targets.append(Target(unit, names, seen.ref, seen.place, moved))
            if moved and not told & set(names):
                findings.append(_moved(names, known[0], seen.place))
    return Comparison(tuple(findings), tuple(targets), tuple(offloaded))


def _by_place(names: Iterable[str], present: Mapping[str, Seen]) -> list[tuple[str, ...]]:
    """Names, grouped by the memory of their tensors. Tensors without bytes share none."""
    groups: dict[Place | str, list[str]] = {}
    for name in names:
        seen = present[name]
        groups.setdefault(seen.place if seen.place and seen.nbytes else name, []).append(name)
    return [tuple(group) for group in groups.values()]


def _retied(baseline: Baseline, present: Mapping[str, Seen]) -> Iterable[Finding]:
    users: dict[Place, list[Unit]] = {}
    for unit in baseline.units:
        here = [name for name in unit.names if name in present]
        groups = _by_place(here, present) if unit.nbytes else []
        if len(groups) > 1:
            apart = " and ".join(repr(names[0]) for names in groups)
            yield _finding("retied", tuple(here), f"{apart} no longer share their memory")
        for names in groups:
            place = present[names[0]].place
            assert place is not None
            users.setdefault(place, []).append(unit)
    for units in users.values():
        if len(units) > 1:
            names = tuple(unit.name for unit in units)
            together = " and ".join(map(repr, names))
            yield _finding("retied", names, f"{together} now share their memory, and did not before")


def _moved(names: tuple[str, ...], before: Place, now: Place) -> Finding:
    if before.device != now.device:
        text = f"it moved from {before.device} to {now.device}"
    elif before.address != now.address:
        text = f"it moved to other memory on {now.device}"
    else:
        text = f"its strides are {list(now.strides)}, and were {list(before.strides)}"
    return _finding("moved", names, f"{text}; its bytes are compared with the same baseline", now.device)


def _finding(kind: Kind, names: tuple[str, ...], detail: str, device: str | None = None) -> Finding:
    return Finding(kind, detail, names[0], names, device)
