"""The command ``devices`` lists the backends and what each of them runs on."""

from __future__ import annotations

from dataclasses import asdict

import click

from .options import report_options
from .outcome import OK
from .terminal import Output


@click.command()
@report_options
def devices(as_json: bool, backend: str | None) -> int:
    """List the backends. Each comes with its devices, or with the reason why it is absent."""
    from ..backends.registry import get, statuses

    output = Output(as_json=as_json)
    if backend is not None:
        get(backend)
    found = [status for status in statuses() if backend in {None, status.name}]
    width = max(len(status.name) for status in found)
    for status in found:
        output.line(f"{status.name:<{width}}  {'available' if status.available else 'absent'}")
        output.line(f"{'':<{width}}  {status.summary}")
        output.line(f"{'':<{width}}  {status.reason}")
        for device in status.devices:
            output.line(f"{'':<{width}}  device {device}")
        if status.available and status.self_test is not None:
            output.line(f"{'':<{width}}  self-tests {status.self_test}")
    output.document(ok=True, backends=[asdict(status) for status in found])
    return OK
