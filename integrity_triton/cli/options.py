"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_backend_option = click.option("--backend", metavar="NAME", help="Run on this backend, or fail.")


def report_options(command: _Command) -> _Command:
    """Give a command ``--backend`` and ``--json``."""
    return _backend_option(json_option(command))
