"""The command line: arguments in, report out.

Each command, or group of commands, has a file. At import they load only click. A command imports whatever
else it needs when it runs, so that ``--help`` is quick and hashing a file on the CPU never loads torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit status: see :func:`integrity_triton.cli.program.main`."""
    try:
        try:
            program = import_module(".program", __name__)
        except Exception as error:
            # An incomplete installation must not look like a mismatch, which is status 1.
            if sys.stderr is not None:
                sys.stderr.write(f"integrity-triton: the program cannot be loaded: {error}\n")
            return 2
        status: int = program.main(arguments)
        return status
    except KeyboardInterrupt:
        return 130  # outcome.INTERRUPTED, which may not be loaded yet
