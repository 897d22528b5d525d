"""The command line: arguments in, report out.

A file holds a command or a group of commands. At import they need only click: what a command needs beyond it,
the command imports when it runs, so that ``--help`` is quick and hashing a file on the CPU never loads torch.
"""

from .program import main

__all__ = ["main"]
