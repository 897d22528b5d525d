"""The conformance suite: every algorithm on every backend and device, in one call.

It needs nothing beyond the package's own dependencies. ``docs/guide/conformance.md`` describes the checks.
"""

from . import render
from .report import Cell, Failure, Report
from .suite import run

__all__ = ["Cell", "Failure", "Report", "render", "run"]
