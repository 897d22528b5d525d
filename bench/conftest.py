"""Prints for each group of benchmarks how the medians compare with the library's."""

from __future__ import annotations

from collections import defaultdict
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    session = getattr(terminalreporter.config, "_benchmarksession", None)
    groups: dict[str, list[Any]] = defaultdict(list)
    for bench in getattr(session, "benchmarks", []):
        groups[bench.group].append(bench)
    if not groups:
        return
    terminalreporter.section("medians, and speed as a multiple of the library's")
    for group, benches in groups.items():
        terminalreporter.write_line(group)
        library = next((b.stats.median for b in benches if b.name.startswith("test_library")), None)
        for bench in benches:
            seconds = bench.extra_info.get("first_call_seconds", bench.stats.median)
            times = f"{library / seconds:7.2f} x" if library else ""
            name = bench.name.removeprefix("test_")
            terminalreporter.write_line(f"  {name:<44}{seconds * 1e3:11.3f} ms {times}")
