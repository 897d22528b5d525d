"""The command line: arguments in, report out.

Each command, or group of commands, has a file. At import they load only click. A command imports whatever
else it needs when it runs, so that ``--help`` is quick and hashing a file on the CPU never loads torch.
"""

from .program import main

__all__ = ["main"]
