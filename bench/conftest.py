"""Options of the benchmarks, and a summary and a file that compare the medians with the CPU library's."""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from bench import environment


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mib", type=int, default=256, help="MiB of data over which throughput is measured")
    parser.addoption(
        "--results", type=Path, help="a JSON file that takes the throughput, besides what it has"
    )
    parser.addoption("--note", default="", help="what else the machine did, for --results")


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's own tables
def pytest_terminal_summary(terminalreporter: Any) -> None:
    session = getattr(terminalreporter.config, "_benchmarksession", None)
    benches = getattr(session, "benchmarks", [])
    throughput = [b for b in benches if "bytes" in b.extra_info]
    if throughput:
        _throughput(terminalreporter, throughput)
        _write(terminalreporter.config, throughput)
    groups: dict[str, list[Any]] = defaultdict(list)
    for bench in benches:
        if "bytes" not in bench.extra_info:
            groups[bench.group].append(bench)
    if groups:
        terminalreporter.section("medians")
    for group, found in groups.items():
        terminalreporter.write_line(group)
        for bench in found:
            seconds = bench.extra_info.get("first_call_seconds", bench.stats.median)
            name = bench.name.removeprefix("test_")
            terminalreporter.write_line(f"  {name:<44}{seconds * 1e3:11.3f} ms")


def _write(config: Any, benches: list[Any]) -> None:
    path = config.getoption("--results")
    if path is None:
        return
    earlier = json.loads(path.read_text("utf-8")).get("throughput", []) if path.exists() else []
    medians = {tuple(result["key"]): result["medians"] for result in earlier}
    results = []
    for bench in benches:
        info = {name: bench.extra_info[name] for name in ("work", "algorithm", "who", "bytes")}
        key = (info["work"], info["algorithm"], info["who"])
        # What else a machine does lasts longer than the calls of one measurement, so several runs are better.
        runs = [*medians.get(key, []), bench.stats.median]
        results.append({"key": list(key), **info, "medians": runs, "median_seconds": statistics.median(runs)})
    run = environment.run(["pytest", *sys.argv[1:]], config.getoption("--note"))
    environment.write(path, "throughput", run, {"throughput": results})


def _throughput(terminalreporter: Any, benches: list[Any]) -> None:
    mib = terminalreporter.config.getoption("--mib")
    terminalreporter.section(f"GB/s over {mib} MiB, and as a multiple of the CPU library on all cores")
    rates: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for bench in benches:
        info = bench.extra_info
        rates[info["work"], info["algorithm"]][info["who"]] = info["bytes"] / bench.stats.median / 1e9
    for (work, algorithm), found in rates.items():
        library = found.get("library")
        cells = [f"library {library:6.2f}" if library else "library   none"]
        for who in ("automatic", "opencl"):
            times = f"({found[who] / library:5.2f} x)" if library and who in found else ""
            cells.append(f"{who} {found[who]:6.2f} {times:<10}" if who in found else f"{who} absent")
        terminalreporter.write_line(f"{work:<20}{algorithm:<22}{'   '.join(cells).rstrip()}")
