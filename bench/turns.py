"""Functions that are timed by turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def medians(runs: int, functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median seconds of each function. They take turns, so that what else the machine does meets all."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(runs + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}  # the first run warms up
