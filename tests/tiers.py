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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parent / "README.md"
SLOW = pytest.StashKey[set[str]]()
"""The functions of the slow tests that were collected, whether or not the tier includes them."""
HEADER = "| test | slow | seconds |\n| --- | ---: | ---: |\n"


def mark(item: pytest.Item) -> None:
    """Give a test the marks ``slow`` and ``quick`` that its ``slow_if`` and ``quick_if`` ask for."""
    for name in ("slow", "quick"):
        for condition in item.iter_markers(f"{name}_if"):
            if _holds(condition.args[0], item):
                item.add_marker(getattr(pytest.mark, name))
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


def table(times: dict[str, tuple[float, bool]]) -> str:
    """The list of slow tests, beginning with the slowest, from the seconds of each test and whether it is
    slow."""
    found: dict[str, list[float]] = {}
    for test, (seconds, slow) in times.items():
        if slow:
            found.setdefault(function_of(test), []).append(seconds)
    rows = sorted(found.items(), key=lambda row: (-sum(row[1]), row[0]))
    lines = [f"| `{name}` | {len(seconds)} | {sum(seconds):.1f} |\n" for name, seconds in rows]
    lines.append(f"| all | {sum(map(len, found.values()))} | {sum(map(sum, found.values())):.0f} |\n")
    return HEADER + "".join(lines)


def main(files: Iterable[str]) -> int:
    times: dict[str, tuple[float, bool]] = {}
    for file in files:
        times |= json.loads(Path(file).read_text("utf-8"))
    before, _, _ = PAGE.read_text("utf-8").partition(HEADER)
    PAGE.write_text(before + table(times), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
