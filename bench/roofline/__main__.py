"""Count kernels and predict rates: ``python -m bench.roofline [KERNEL]... [--target T] [--write]``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import triton

from integrity_triton.aot import compiling

from ..intel_code import offline_compiler_version
from .counting import TARGETS, Count, count, is_launched, rate
from .devices import DEVICES
from .families import FAMILIES
from .report import LABEL, PAGE, RESULTS, Counts, from_json, merged, page, to_json, versions


def main() -> None:
    names = [family.name for family in FAMILIES]
    parser = argparse.ArgumentParser(
        prog="python -m bench.roofline",
        description="Compile kernels and count the instructions of their loops. No GPU is needed, and "
        "nothing is measured.",
    )
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=f"by default all: {', '.join(names)}")
    parser.add_argument("--target", action="append", choices=TARGETS, help="by default all targets")
    parser.add_argument(
        "--compiler",
        type=Path,
        help=f"the folder in which {compiling.INTEL_COMPILER} is; without it, Intel's GPUs are left out",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"write {RESULTS.name} and the tables of docs/internals/{PAGE.name}",
    )
    options = parser.parse_args()
    if unknown := set(options.kernels) - set(names):
        parser.error(f"no kernel {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    print(f"Instructions a byte and GB/s, {LABEL}:")
    new: dict[str, dict[str, Count]] = {}
    compilers: dict[str, Any] = {}
    for target in options.target or TARGETS:
        if target.startswith("xpu"):
            if options.compiler is None:
                print(f"{target}: absent; --compiler has to say where {compiling.INTEL_COMPILER} is")
                continue
            compilers["intel"] = [compiling.INTEL_COMPILER, offline_compiler_version()]
        else:
            compilers["triton"] = triton.__version__
        for family in FAMILIES:
            if (options.kernels and family.name not in options.kernels) or not is_launched(family, target):
                continue
            counted = count(family, target, options.compiler)
            new.setdefault(family.name, {})[target] = counted
            print(_line(family.name, target, counted), flush=True)
            if options.write:
                write(new, compilers)


def write(new: Counts, compilers: Mapping[str, Any]) -> None:
    """Write the counts, beside those that are there of other kernels and targets."""
    text = RESULTS.read_text("utf-8") if RESULTS.exists() else "{}"
    counts = merged(from_json(text), new)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(to_json(counts, {**versions(text), **compilers}), "utf-8")
    PAGE.write_text(page(PAGE.read_text("utf-8"), counts), "utf-8")


def _line(name: str, target: str, counted: Count) -> str:
    ratio = "no minimum" if counted.ratio is None else f"{counted.ratio:.3f} of the minimum"
    pipes = ", ".join(f"{pipe} {n:.2f}" for pipe, n in sorted(counted.pipes.items()))
    rates = []
    for device in DEVICES:
        if device.target == target:
            most, limit = rate(counted, device)
            rates.append(f"{device.name} {most:,.0f} ({limit})")
    return (
        f"{target} {name}: {ratio}; {pipes}; {counted.registers} registers, {counted.spilled} spilled, "
        f"occupancy {counted.occupancy:.0%}; {', '.join(rates)}"
    )


if __name__ == "__main__":
    main()
