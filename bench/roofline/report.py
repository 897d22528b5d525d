"""The results: ``bench/results/roofline.json``, and the tables in ``docs/internals/roofline.md`` that are
made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import minimum
from .counting import TARGETS, Count, rate
from .devices import DEVICES
from .families import FAMILIES
from .vendors import vendor_of

_REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = _REPOSITORY / "bench" / "results" / "roofline.json"
PAGE = _REPOSITORY / "docs" / "internals" / "roofline.md"
BEGIN, END = "<!-- counted: begin -->\n", "<!-- counted: end -->\n"
LABEL = "counted, not measured"

Counts = Mapping[str, Mapping[str, Count]]
"""The counts by family and target."""


def to_json(counts: Counts, versions: Mapping[str, Any]) -> str:
    """The content of the JSON file. ``versions`` are those of the compilers."""
    families = {}
    for family, by_target in counts.items():
        rates = {}
        for device in DEVICES:
            if device.target in by_target:
                most, limit = rate(by_target[device.target], device)
                rates[device.name] = {"GB/s": round(most), "limit": limit, "label": LABEL}
        counted = {target: count.to_json() for target, count in by_target.items()}
        families[family] = {"counts": counted, "rates": rates}
    data = {"label": LABEL, **versions, "families": families}
    return json.dumps(data, indent=1) + "\n"


def from_json(text: str) -> dict[str, dict[str, Count]]:
    """The counts in the JSON file."""
    families: dict[str, Any] = json.loads(text).get("families", {})
    return {
        family: {target: Count.from_json(count) for target, count in entry["counts"].items()}
        for family, entry in families.items()
    }


def versions(text: str) -> dict[str, Any]:
    """The versions of the compilers that the JSON file names."""
    data = json.loads(text)
    return {name: data[name] for name in ("triton", "intel") if name in data}


def merged(old: Counts, new: Counts) -> dict[str, dict[str, Count]]:
    """The counts of both, by preference the new ones, in the order of FAMILIES and TARGETS."""
    found: dict[str, dict[str, Count]] = {}
    for family in FAMILIES:
        both = {**old.get(family.name, {}), **new.get(family.name, {})}
        if both:
            found[family.name] = {target: both[target] for target in TARGETS if target in both}
    return found


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *body))


def _ratios(counts: Counts) -> str:
    rows = [["kernel", "operations a byte", *(f"`{target}`" for target in TARGETS)]]
    for family in FAMILIES:
        by_target = counts.get(family.name, {})
        least = minimum.per_byte(family.algorithm)
        cells = []
        for target in TARGETS:
            count = by_target.get(target)
            if count is None:
                cells.append("absent")
            elif count.ratio is None:
                cells.append(f"({_arithmetic(count, target):.1f})")
            else:
                cells.append(f"{count.ratio:.2f}")
        rows.append([f"`{family.name}`", "" if least is None else f"{float(least):.2f}", *cells])
    return _table(rows)


def _arithmetic(count: Count, target: str) -> float:
    rules = vendor_of(target)
    counted = count.pipes if rules.lanes is None else count.times
    return sum(counted.get(pipe, 0.0) for pipe in rules.arithmetic)


def _rates(counts: Counts) -> str:
    rows = [["kernel", *(device.name for device in DEVICES)]]
    for family in FAMILIES:
        cells = []
        for device in DEVICES:
            count = counts.get(family.name, {}).get(device.target)
            if count is None:
                cells.append("absent")
            else:
                most, limit = rate(count, device)
                cells.append(f"{most:,.0f} ({limit})")
        rows.append([f"`{family.name}`", *cells])
    return _table(rows)


def _details(counts: Counts, target: str) -> str:
    found = {f.name: counts[f.name][target] for f in FAMILIES if target in counts.get(f.name, {})}
    pipes = sorted({pipe for count in found.values() for pipe in count.pipes})
    rows = [["kernel", *pipes, "registers", "spilled", "spills", "occupancy", "loaded", "lines of a load"]]
    for name, count in found.items():
        touched, least = count.lines
        rows.append(
            [
                f"`{name}`",
                *(f"{count.pipes.get(pipe, 0):.2f}" for pipe in pipes),
                str(count.registers),
                str(count.spilled),
                "" if count.spills is None else f"{count.spills:.2f}",
                f"{count.occupancy:.0%}",
                f"{count.loaded:.2f}",
                f"{touched} of {least}" if touched != least else str(least),
            ]
        )
    return _table(rows)


def tables(counts: Counts) -> str:
    """The tables of the page."""
    parts = [
        f"### Instructions over the algorithm's operations ({LABEL})",
        _ratios(counts),
        f"### The rates that devices cannot exceed, in GB/s ({LABEL})",
        _rates(counts),
    ]
    for target in TARGETS:
        parts += [f"### `{target}`: instructions a byte, by pipe ({LABEL})", _details(counts, target)]
    return "\n\n".join(parts) + "\n"


def page(old: str, counts: Counts) -> str:
    """The page with the tables of these counts."""
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(counts)}\n{END}{after}"
