"""Options that several commands share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

from .terminal import stdout_for_report

_Command = TypeVar("_Command", bound=Callable[..., Any])

_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_backend_option = click.option("--backend", metavar="NAME", help="Run on this backend, or fail.")


class Seconds(click.FloatRange):
    """A time in seconds: positive and finite."""

    def __init__(self) -> None:
        super().__init__(0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):  # comparisons with NaN are all false, so that it is in every range
            self.fail(f"{value} is not a finite number of seconds", param, ctx)
        return seconds


def json_option(command: _Command) -> _Command:
    """Give a command ``--json``, and keep everything but its report from stdout."""

    @functools.wraps(command)
    def reporting(*arguments: Any, **options: Any) -> Any:
        with stdout_for_report():
            return command(*arguments, **options)

    return _json_option(cast(_Command, reporting))


def report_options(command: _Command) -> _Command:
    """Give a command ``--backend`` and ``--json``."""
    return _backend_option(json_option(command))
