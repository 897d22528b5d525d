"""The tiers of the suite: how tests are put into them, how long each test takes, and the list of slow tests.

python -m pytest ... --times times.json      # writes the seconds of processor time of each test
python tests/tiers.py times.json             # writes the list in tests/README.md from such files
"""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parent / "README.md"
SLOW = pytest.StashKey[set[str]]()
"""The functions of the slow tests that were collected, whether or not the tier includes them."""
RESTING = pytest.StashKey[Counter[str]]()
"""The numbers of the rotating tests of each function that this run leaves out."""
HEADER = "| test | slow | in this turn | seconds |\n| --- | ---: | ---: | ---: |\n"


def mark(item: pytest.Item) -> None:
    """Give a test the marks that its ``slow_if``, ``quick_if`` and ``rotating_if`` ask for. Of the slow tests
    that are ``rotating(n)``, leave one in n in the tier; the others are exhaustive in this run."""
    for name in ("slow", "quick", "rotating"):
        for condition in item.iter_markers(f"{name}_if"):
            if _holds(condition.args[0], item):
                item.add_marker(getattr(pytest.mark, name)(*condition.args[1:]))
    rotating = item.get_closest_marker("rotating")
    if rotating and item.get_closest_marker("slow"):
        number = zlib.crc32(item.nodeid.encode()) + item.config.option.turn
        if number % rotating.args[0]:
            item.add_marker(pytest.mark.exhaustive)
            item.config.stash.setdefault(RESTING, Counter())[function_of(item.nodeid)] += 1
    # A test is in one tier only, except that a quick test is in the default tier, too.
    names = [name for name in ("exhaustive", "slow", "quick") if item.get_closest_marker(name)]
    item.own_markers[:] = [found for found in item.own_markers if found.name not in names[1:]]
    if names[:1] == ["slow"]:
        item.config.stash.setdefault(SLOW, set()).add(function_of(item.nodeid))


def _holds(condition: Any, item: pytest.Item) -> bool:
    parameters = item.callspec.params  # type: ignore[attr-defined]  # a test with parameters
    return bool(condition(**{name: parameters[name] for name in inspect.signature(condition).parameters}))


def processor_seconds() -> float:
    """The seconds of processor time that this process has taken, and its child processes that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def function_of(test: str) -> str:
    """The name of a test without its parameters. Its path begins at the folder of all tests."""
    return test.partition("[")[0].removeprefix("tests/")


def listed() -> set[str]:
    """The functions that the page lists as slow with some or all of their parameters."""
    return set(re.findall(r"^\| `(\S+)` \|", PAGE.read_text("utf-8"), re.MULTILINE))


def table(times: dict[str, tuple[float, bool]], resting: Counter[str]) -> str:
    """The list of slow tests, beginning with the slowest, from the seconds of each test and whether it is
    slow, and from the numbers of rotating tests of each function that were left out."""
    found: dict[str, list[float]] = {name: [] for name in resting}
    for test, (seconds, slow) in times.items():
        if slow:
            found.setdefault(function_of(test), []).append(seconds)
    rows = sorted(found.items(), key=lambda row: (-sum(row[1]), row[0]))
    lines = [
        f"| `{name}` | {len(seconds) + resting[name]} | {len(seconds)} | {sum(seconds):.1f} |\n"
        for name, seconds in rows
    ]
    ran = sum(map(len, found.values()))
    lines.append(f"| all | {ran + resting.total()} | {ran} | {sum(map(sum, found.values())):.0f} |\n")
    return HEADER + "".join(lines)


def main(files: Iterable[str]) -> int:
    times: dict[str, tuple[float, bool]] = {}
    resting: Counter[str] = Counter()
    for file in files:
        found = json.loads(Path(file).read_text("utf-8"))
        times |= found["times"]
        resting |= Counter(found["resting"])
    before, _, _ = PAGE.read_text("utf-8").partition(HEADER)
    PAGE.write_text(before + table(times, resting), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
