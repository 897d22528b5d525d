"""``python -m integrity_triton.aot``: rebuild the artifacts."""

from __future__ import annotations

import argparse
from pathlib import Path

from .build import build
from .compiling import INTEL_COMPILER, CompileError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m integrity_triton.aot", description=__doc__)
    parser.add_argument("--compiler", type=Path, required=True, help=f"folder that holds {INTEL_COMPILER}")
    parser.add_argument("--out", type=Path, help="folder to write instead of the package's own")
    parser.add_argument("--all", action="store_true", help="also what is up to date")
    options = parser.parse_args()
    try:
        for line in build(options.compiler, options.out, everything=options.all):
            print(line, flush=True)
    except CompileError as error:
        command = f"pip install --no-deps --target {options.compiler} {INTEL_COMPILER.replace(' ', '==')}"
        raise SystemExit(f"{error}\n{INTEL_COMPILER} is installed by: {command}") from None


if __name__ == "__main__":
    main()
