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
    options = parser.parse_args()
    if not (options.compiler / "triton" / "__init__.py").exists():
        name, version = INTEL_COMPILER.split()
        raise SystemExit(
            f"{options.compiler} holds no Triton; "
            f"pip install --no-deps --target {options.compiler} {name}=={version}"
        )
    try:
        for line in build(options.compiler, options.out):
            print(line, flush=True)
    except CompileError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
