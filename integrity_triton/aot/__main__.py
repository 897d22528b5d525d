"""Rebuild the kernels that ship in the package."""

from __future__ import annotations

import argparse
from pathlib import Path

from .build import build
from .compiling import INTEL_COMPILER, CompileError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m integrity_triton.aot", description=__doc__)
    parser.add_argument("--compiler", type=Path, required=True, help=f"a folder that holds {INTEL_COMPILER}")
    parser.add_argument("--out", type=Path, help="the folder to write to; by default, that of the package")
    parser.add_argument("--all", action="store_true", help="rebuild archives that are up to date as well")
    options = parser.parse_args()
    try:
        for line in build(options.compiler, options.out, everything=options.all):
            print(line, flush=True)
    except CompileError as error:
        command = f"pip install --no-deps --target {options.compiler} {INTEL_COMPILER.replace(' ', '==')}"
        raise SystemExit(f"{error}\nTo install {INTEL_COMPILER}: {command}") from None


if __name__ == "__main__":
    main()
