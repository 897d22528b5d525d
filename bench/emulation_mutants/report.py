"""What was found of mutants: a JSON file, and tables in docs/internals/emulation.md."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .changes import KINDS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "emulation_mutants.json"
PAGE = ROOT / "docs" / "internals" / "emulation.md"
BEGIN, END = "<!-- mutants: begin -->", "<!-- mutants: end -->"

Entry = dict[str, Any]
"""What was found of one kernel on one target."""


def key(survivor: Entry) -> tuple[str, ...]:
    return survivor["kind"], survivor["line"], survivor["before"], survivor["after"]


def share(entries: Iterable[Entry]) -> float:
    """The share of mutants that were killed, of those that are not equivalent to the kernel."""
    entries = list(entries)
    killed = sum(sum(entry["killed"].values()) for entry in entries)
    alive = sum(not survivor["equivalent"] for entry in entries for survivor in entry["survivors"])
    return killed / max(1, killed + alive)


def merged(old: list[Entry], new: list[Entry]) -> list[Entry]:
    """The old entries, those replaced that are new. A survivor that was explained stays explained."""
    known = {(entry["kernel"], entry["target"]): entry for entry in old}
    for entry in new:
        place = entry["kernel"], entry["target"]
        explained = {key(s): s for s in known.get(place, {"survivors": []})["survivors"] if s["why"]}
        entry["survivors"] = [explained.get(key(s), s) for s in entry["survivors"]]
        known[place] = entry
    return sorted(known.values(), key=lambda entry: (entry["kernel"], entry["target"]))


def tables(entries: list[Entry]) -> str:
    lines = [
        "| kernel | target | mutants | wrong digest | fault | by further batches | survivors | equivalent "
        "| killed |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = [([entry], f"{entry['kernel']} | `{entry['target']}`") for entry in entries]
    for some, name in [*rows, (entries, "all | ")]:
        digests = sum(entry["killed"].get("digest", 0) for entry in some)
        faults = sum(sum(entry["killed"].values()) for entry in some) - digests
        survivors = [survivor for entry in some for survivor in entry["survivors"]]
        equivalent = sum(survivor["equivalent"] for survivor in survivors)
        lines.append(
            f"| {name} | {digests + faults + len(survivors)} | {digests} | {faults} "
            f"| {_by_further(some)} | {len(survivors)} | {equivalent} | {share(some):.1%} |"
        )
    lines += ["", "| change | mutants | killed |", "| --- | ---: | ---: |"]
    for kind in KINDS:
        killed = sum(entry["kinds"].get(kind, [0, 0])[0] for entry in entries)
        count = sum(entry["kinds"].get(kind, [0, 0])[1] for entry in entries)
        lines.append(f"| {kind} | {count} | {killed} |")
    alive = [(e, s) for e in entries for s in e["survivors"]]
    if alive:
        lines += ["", "| survivor | on | why |", "| --- | --- | --- |"]
    for entry, survivor in alive:
        after = f"`{survivor['after']}`" if survivor["after"] else "left out"
        text = f"`{survivor['before']}`: {after}".replace("|", "\\|")
        kind = "equivalent" if survivor["equivalent"] else "not noticed"
        lines.append(f"| {text} | {entry['kernel']}, `{entry['target']}` | {kind}: {survivor['why']} |")
    return "\n".join(lines) + "\n"


def _by_further(entries: list[Entry]) -> str:
    """The mutants that the known answers did not kill, but further batches did."""
    if any("by_further" not in entry for entry in entries):
        return "not counted"
    return str(sum(entry["by_further"] for entry in entries))


def page(old: str, entries: list[Entry]) -> str:
    """The page with the tables of these entries."""
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(entries)}\n{END}{after}"


def load() -> list[Entry]:
    return json.loads(RESULTS.read_text("utf-8"))["results"] if RESULTS.exists() else []


def write(new: list[Entry], versions: dict[str, str]) -> None:
    entries = merged(load(), new)
    data = {"note": "in emulation; nothing ran on a GPU", "versions": versions, "results": entries}
    RESULTS.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    PAGE.write_text(page(PAGE.read_text("utf-8"), entries), "utf-8")
