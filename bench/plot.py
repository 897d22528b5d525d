"""Draw the committed results: ``python -m bench.plot``

This reads ``bench/results/*.json`` and nothing else, and writes SVG files to ``docs/figures/``: throughput
beside the CPU libraries, growth, and the counted instructions of GPU code over the least that an algorithm
needs. A kind without results is named and not drawn. The same results give the same bytes. ``--check`` writes
nothing, and its status is 1 if a figure is not what the results give.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
FIGURES = ROOT / "docs" / "figures"

_WIDTH = 880
_LINE = 16  # pixels from one line of text to the next
_MARGIN = 12
_SHOWN = ("sha256", "sha3_256", "blake3", "md5", "poly1305", "xxh3_64")  # the series that have a colour
_VERSIONS = ("package", "python", "torch", "blake3", "openssl", "backend opencl")

_LIGHT = ("#0b6fb8", "#c2410c", "#15803d", "#7c3aed", "#a16207", "#be185d", "#475569")
_DARK = ("#58b0f0", "#fb923c", "#4ade80", "#b794f6", "#facc15", "#f472b6", "#a7b6c4")


def _colours(values: Sequence[str]) -> str:
    return "\n".join(
        f".s{i} {{ stroke: {value} }} .s{i}.dot, .s{i}.label {{ fill: {value}; stroke: none }}"
        for i, value in enumerate(values)
    )


_STYLE = f"""
svg {{ background: #ffffff }}
text {{ fill: #1c2b38; font-size: 12px }}
.title {{ font-size: 16px; font-weight: 600 }}
.dim {{ fill: #56697a }}
.small {{ fill: #56697a; font-size: 11px }}
.grid {{ stroke: #dde4ea }}
.axis {{ stroke: #7b8fa1 }}
.link {{ stroke: #b5c2cd; stroke-width: 2 }}
.other {{ stroke: #c3ced7; fill: none }}
.ring {{ fill: #ffffff; stroke-width: 2 }}
.series {{ fill: none; stroke-width: 2 }}
{_colours(_LIGHT)}
@media (prefers-color-scheme: dark) {{
svg {{ background: #0d1117 }}
text {{ fill: #e4ebf1 }}
.dim, .small {{ fill: #a3b4c2 }}
.grid {{ stroke: #26313b }}
.axis {{ stroke: #8498a8 }}
.link {{ stroke: #4a5b69 }}
.other {{ stroke: #3a4854 }}
.ring {{ fill: #0d1117 }}
{_colours(_DARK)}
}}
"""


@dataclass
class Picture:
    """An SVG image in the making. Coordinates are pixels from the upper left corner."""

    title: str
    height: float
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "start") -> None:
        end = f' text-anchor="{anchor}"' if anchor != "start" else ""
        kind = f' class="{style}"' if style else ""
        self.parts.append(f'<text x="{_number(x)}" y="{_number(y)}"{kind}{end}>{escape(words)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        ends = " ".join(f'{k}="{_number(v)}"' for k, v in (("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2)))
        self.parts.append(f'<line {ends} class="{style}"/>')

    def path(self, points: Sequence[tuple[float, float]], style: str) -> None:
        places = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self.parts.append(f'<polyline points="{places}" class="{style}"/>')

    def dot(self, x: float, y: float, style: str, radius: float = 4) -> None:
        self.parts.append(
            f'<circle cx="{_number(x)}" cy="{_number(y)}" r="{_number(radius)}" class="{style}"/>'
        )

    def svg(self) -> str:
        height = _number(self.height)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
                f'height="{height}" role="img" aria-labelledby="title" '
                "font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\">",
                f'<title id="title">{escape(self.title)}</title>',
                f"<style>{_STYLE}</style>",
                *self.parts,
                "</svg>\n",
            ]
        )


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from ``low`` to ``high``, which lie at the pixels ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, base: int = 10) -> Iterator[float]:
        exponent = math.ceil(math.log(self.low, base) - 1e-9)
        while base**exponent <= self.high * (1 + 1e-9):
            yield float(base) ** exponent
            exponent += 1


def _round_down(value: float, base: int = 10) -> float:
    return float(base) ** math.floor(math.log(value, base) + 1e-9)


def _round_up(value: float, base: int = 10) -> float:
    return float(base) ** math.ceil(math.log(value, base) - 1e-9)


def _wrapped(words: str, width: int = 140) -> Iterator[str]:
    yield from textwrap.wrap(words, width, break_on_hyphens=False, break_long_words=False)


def _origin(document: Mapping[str, Any], runs: Sequence[Mapping[str, str]]) -> list[str]:
    """The lines that say where the figures come from."""
    about = document["environment"]
    device = (
        f"Measured on {about['processor']} ({about['processor instructions']}), {about['processors']} threads"
    )
    versions = [
        about[name] if " " in about[name] else f"{name} {about[name]}" for name in _VERSIONS if name in about
    ]
    dates = sorted({run["date"][:10] for run in runs})
    commits = sorted({run["commit"][:10] for run in runs})
    notes = sorted({run["note"] for run in runs if run["note"]})
    loads = sorted(float(run["load"]) for run in runs)
    notes.append(f"load average before the runs {loads[0]:g} to {loads[-1]:g}")
    return [
        *_wrapped(f"{device}, {about['system']}"),
        *_wrapped("; ".join(versions)),
        *_wrapped("; ".join([f"{' and '.join(dates)}, commit {' and '.join(commits)}", *notes])),
        *_wrapped(f"Command: {_command(runs[0]['command'])}"),
    ]


def _command(words: str) -> str:
    """A command without its options and algorithms, which only divide the work into pieces."""
    kept = words.split()[:4]
    return " ".join(kept if kept[-1].startswith("bench/") else kept[:3])


def _size(value: float) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= scale:
            return f"{value / scale:g} {unit}"
    return f"{value:g} B"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _seconds(value: float) -> str:
    scale, unit = (1, "s") if value >= 1 else (1e3, "ms") if value >= 1e-3 else (1e6, "µs")
    return f"{value * scale:g} {unit}"


def throughput(document: Mapping[str, Any]) -> dict[str, str]:
    """A row for each algorithm: GB/s of the library, of opencl and of the automatic choice."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for result in document["throughput"]:
        rates = found.setdefault(result["work"], {}).setdefault(result["algorithm"], {})
        rates[result["who"]] = result["bytes"] / result["median_seconds"] / 1e9
    return {
        f"throughput-{work.replace(' ', '-').lower()}": _throughput(document, work, rows)
        for work, rows in found.items()
    }


def _throughput(document: Mapping[str, Any], work: str, rows: dict[str, dict[str, float]]) -> str:
    order = sorted(rows, key=lambda name: (-max(rows[name].values()), name))
    origin = _origin(document, document["runs"])
    top, left, step = 104, 170, 17
    bottom = top + step * len(order)
    picture = Picture(f"Throughput, {work}", bottom + 34 + _LINE * (len(origin) + 1) + _MARGIN)
    values = [rate for rates in rows.values() for rate in rates.values()]
    axis = Axis(_round_down(min(values)), _round_up(max(values)), left, _WIDTH - 90)
    picture.text(_MARGIN, 28, f"Throughput beside the CPU libraries: {work}", "title")
    words = (
        "GB/s (10^9 bytes a second) on all threads; the axis is logarithmic. On the right: opencl / library."
    )
    picture.text(_MARGIN, 48, words, "dim")
    legend = (
        ("library", "the CPU library in a thread pool"),
        ("opencl", "opencl: the kernels of this package"),
        ("automatic", "a call that names no backend"),
    )
    x: float = left
    for who, words in legend:
        _mark(picture, x, 72, who)
        picture.text(x + 12, 76, words)
        x += 34 + 6.4 * len(words)
    for tick in (n * tick for tick in axis.ticks() for n in (1, 2, 5) if n * tick <= axis.high):
        picture.line(axis.at(tick), top - 8, axis.at(tick), bottom, "grid")
        picture.text(axis.at(tick), bottom + 16, f"{tick:g}", "dim", "middle")
    for i, name in enumerate(order):
        rates, y = rows[name], top + step * i + step / 2
        picture.text(left - 10, y + 4, name, "", "end")
        if len(rates) > 1:
            picture.line(axis.at(min(rates.values())), y, axis.at(max(rates.values())), y, "link")
        for who in ("automatic", "library", "opencl"):
            if who in rates:
                _mark(picture, axis.at(rates[who]), y, who)
        words = "no library" if "library" not in rates else "no opencl"
        if {"opencl", "library"} <= rates.keys():
            words = f"{rates['opencl'] / rates['library']:.2f} x"
        picture.text(_WIDTH - _MARGIN, y + 4, words, "dim", "end")
    _foot(picture, bottom + 34, origin)
    return picture.svg()


def _mark(picture: Picture, x: float, y: float, who: str) -> None:
    if who == "automatic":
        picture.dot(x, y, "ring s2", 6.5)
    elif who == "library":
        picture.dot(x, y, "s1 dot")
    else:
        picture.dot(x, y, "s0 dot")


def _foot(picture: Picture, y: float, lines: Sequence[str]) -> None:
    for i, line in enumerate(lines):
        picture.text(_MARGIN, y + _LINE * i + 12, line, "small")


def growth(document: Mapping[str, Any]) -> dict[str, str]:
    """The time against the number of bytes, and against the number of messages."""
    figures = {}
    for against, title, words, base in (
        ("bytes", "Time against the length of one message", "length of the message", 2),
        ("messages", "Time against the number of messages of 64 bytes", "messages", 10),
    ):
        series = [s for s in document.get(against, []) if len(s.get("points", ())) > 1]
        if series:
            figures[f"growth-{against}"] = _growth(document, series, title, words, base)
    return figures


def _growth(
    document: Mapping[str, Any], series: Sequence[Mapping[str, Any]], title: str, words: str, base: int
) -> str:
    origin = _origin(document, document["runs"])
    top, bottom, left, right = 70, 490, 70, _WIDTH - 110
    points = [point for one in series for point in one["points"]]
    x = Axis(min(p["n"] for p in points), max(p["n"] for p in points), left, right)
    y = Axis(
        _round_down(min(p["seconds"] for p in points)),
        _round_up(max(p["seconds"] for p in points)),
        bottom,
        top,
    )
    shown = [one for name in _SHOWN for one in series if one["algorithm"] == name]
    knees = [
        f"{one['algorithm']}: linear from {(_size if base == 2 else _count)(one['knee'])} on"
        + (f" (cause: {one['cause']})" if one["cause"] else "")
        if one["knee"]
        else f"{one['algorithm']}: not linear within 10 % at the end of its range"
        for one in shown
    ]
    height = bottom + 50 + _LINE * (len(knees) + len(origin) + 2) + 10 + _MARGIN
    picture = Picture(title, height)
    picture.text(_MARGIN, 28, title, "title")
    note = f"Each line is one of {len(series)} algorithms, on the backend that is chosen for it. "
    linear = "From the dot on, time is linear within 10 %. Logarithmic axes."
    picture.text(_MARGIN, 48, note + linear, "dim")
    for tick in x.ticks(base):
        if base == 2 and round(math.log2(tick)) % 4 != 2:
            continue
        picture.line(x.at(tick), top, x.at(tick), bottom, "grid")
        picture.text(x.at(tick), bottom + 18, _size(tick) if base == 2 else _count(tick), "dim", "middle")
    for tick in y.ticks():
        picture.line(left, y.at(tick), right, y.at(tick), "grid")
        picture.text(left - 8, y.at(tick) + 4, _seconds(tick), "dim", "end")
    picture.text((left + right) / 2, bottom + 36, words, "dim", "middle")
    for one in series:
        if one not in shown:
            picture.path([(x.at(p["n"]), y.at(p["seconds"])) for p in one["points"]], "other")
    ends: list[tuple[float, int, Mapping[str, Any]]] = []
    for i, one in enumerate(shown):
        places = [(x.at(p["n"]), y.at(p["seconds"])) for p in one["points"]]
        picture.path(places, f"series s{i}")
        picture.parts += [
            _knee_dot(place, i)
            for place, p in zip(places, one["points"], strict=True)
            if p["n"] == one["knee"]
        ]
        ends.append((places[-1][1], i, one))
    above = -math.inf
    for end, i, one in sorted(ends, key=lambda entry: entry[0]):
        above = max(end, above + 14)
        last = one["points"][-1]["n"]
        picture.text(max(x.at(last), right) + 8, above + 4, one["algorithm"], f"s{i} label")
    for i, line in enumerate(knees):
        picture.text(_MARGIN, bottom + 64 + _LINE * i, line, "small")
    _foot(picture, bottom + 64 + _LINE * len(knees), origin)
    return picture.svg()


def _knee_dot(place: tuple[float, float], i: int) -> str:
    return f'<circle cx="{_number(place[0])}" cy="{_number(place[1])}" r="4.5" class="s{i} dot"/>'


def roofline(document: Mapping[str, Any]) -> dict[str, str]:
    """A row for each family of kernels: instructions over the algorithm's minimum, for each target."""
    rows = {
        name: {
            target: count["ratio"] for target, count in entry["counts"].items() if count["ratio"] is not None
        }
        for name, entry in document["families"].items()
    }
    rows = {name: ratios for name, ratios in rows.items() if ratios}
    if not rows:
        return {}
    targets = list(dict.fromkeys(target for ratios in rows.values() for target in ratios))
    top, left, step = 104, 190, 24
    bottom = top + step * len(rows)
    picture = Picture("Distance to the ceiling", bottom + 34 + _LINE * 3 + _MARGIN)
    picture.text(_MARGIN, 28, f"Distance to the ceiling, by target ({document['label']})", "title")
    words = "Arithmetic instructions of the hot loop over the operations that the algorithm needs; 1 is best."
    picture.text(_MARGIN, 48, words, "dim")
    x: float = left
    for i, target in enumerate(targets):
        picture.dot(x, 72, f"s{i % 7} dot")
        picture.text(x + 8, 76, target)
        x += 28 + 7 * len(target)
    values = [ratio for ratios in rows.values() for ratio in ratios.values()]
    axis = Axis(min(1.0, *values), max(1.1, *values) * 1.05, left, _WIDTH - 40)
    for tick in (1, 1.1, 1.25, 1.5, 2, 3, 5, 8, 12):
        if tick <= axis.high:
            picture.line(axis.at(tick), top - 8, axis.at(tick), bottom, "axis" if tick == 1 else "grid")
            picture.text(axis.at(tick), bottom + 16, f"{tick:g}", "dim", "middle")
    for i, (name, ratios) in enumerate(rows.items()):
        y = top + step * i + step / 2
        picture.text(left - 10, y + 4, name, "", "end")
        for target, ratio in ratios.items():
            lane = targets.index(target)  # a little apart, so that equal ratios do not hide each other
            picture.dot(axis.at(ratio), y + 2.5 * (lane - (len(targets) - 1) / 2), f"s{lane % 7} dot")
    compiled = f"in code that Triton {document['triton']} and the vendors' compilers made; no GPU was used"
    lines = [f"{document['label'].capitalize()}, {compiled}.", "Command: python -m bench.roofline"]
    _foot(picture, bottom + 34, lines)
    return {"roofline": picture.svg()}


DRAWN: dict[str, Callable[[Mapping[str, Any]], dict[str, str]]] = {
    "throughput": throughput,
    "growth": growth,
    "roofline": roofline,
}


def figures(folder: Path) -> tuple[dict[str, str], list[str]]:
    """The SVG of each figure by its name, and a line for each kind of results that the folder lacks."""
    found: dict[str, str] = {}
    lacking = []
    for kind, draw in DRAWN.items():
        paths = sorted(folder.glob(f"{kind}*.json"))
        if not paths:
            lacking.append(f"{kind}: not drawn, because {folder.name}/ has no {kind}*.json")
        for path in paths:
            name = path.stem.removeprefix(kind)
            for figure, svg in draw(json.loads(path.read_text("utf-8"))).items():
                found[f"{figure}{name}.svg"] = svg
    return found, lacking


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.plot")
    parser.add_argument("--check", action="store_true", help="write nothing, and compare with what is there")
    check = parser.parse_args(arguments).check
    found, lacking = figures(RESULTS)
    different = False
    for line in lacking:
        print(line)
    for name, svg in found.items():
        path = FIGURES / name
        same = path.exists() and path.read_text("utf-8") == svg
        different |= not same
        if not check:
            path.write_text(svg, "utf-8")
        print(f"{path.relative_to(ROOT)}: {'the same' if same else 'differs' if check else 'written'}")
    return int(check and different)


if __name__ == "__main__":
    sys.exit(main())
