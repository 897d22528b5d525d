"""The command ``guard`` keeps the weights of a model in memory, and checks them again and again."""

from __future__ import annotations

import logging
import random
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import IntegrityError
from . import interrupts
from .inputs import model_size
from .options import Seconds, report_options
from .outcome import INTERRUPTED, MISMATCH, OK, describe
from .terminal import Output

if TYPE_CHECKING:
    import torch

    from ..models.guard import Finding, Guard

_POLL_SECONDS = 0.05


@click.command()
@click.argument("source", metavar="MODEL")
@click.option(
    "--manifest", "manifest_path", metavar="FILE", help="Load only what this manifest lists, and guard that."
)
@click.option("--device", default="cpu", show_default=True, help="Where the weights are kept.")
@click.option("--algorithm", default="blake3", show_default=True, help="Hash of the chunks.")
@click.option(
    "--budget",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.01,
    show_default=True,
    help="Share of time for which the guard may be busy.",
)
@click.option("--period", type=Seconds(), metavar="SECONDS", help="Check every byte again within this time.")
@click.option("--passes", type=click.IntRange(1), metavar="N", help="End after N passes over the model.")
@click.option("--for", "seconds", type=Seconds(), metavar="SECONDS", help="End after this time.")
@click.option("--drill", is_flag=True, help="Flip a random bit after the first pass, to see the alarm.")
@click.option(
    "--metrics-port", type=click.IntRange(0, 65535), help="Serve metrics for Prometheus on this port."
)
@report_options
def guard(
    source: str,
    manifest_path: str | None,
    device: str,
    algorithm: str,
    budget: float,
    period: float | None,
    passes: int | None,
    seconds: float | None,
    drill: bool,
    metrics_port: int | None,
    as_json: bool,
    backend: str | None,
) -> int:
    """Load the weights of MODEL into memory, and check them until a bit flips.

    MODEL is a .safetensors file or a folder. Without --passes and --for, the command runs until it is
    interrupted.
    """
    from ..models import Guard, Manifest, load_verified
    from ..models.guard import GuardWarning, PrometheusMetrics

    output = Output(as_json=as_json)
    metrics: list[PrometheusMetrics] = []
    server: Any = None
    if metrics_port is not None:
        metrics.append(PrometheusMetrics())
        import prometheus_client

        server = prometheus_client.start_http_server(metrics_port, "127.0.0.1")[0]
        output.complain(f"metrics are at http://127.0.0.1:{server.server_port}/metrics")
    found: list[Finding] = []
    try:
        with output.progress(source, model_size(source)) as progress:
            path = Path(source)
            # Without a manifest, the weights are compared with the file that they come from.
            listed = Manifest.load(manifest_path) if manifest_path else Manifest.build(path, backend=backend)
            weights = load_verified(path, against=listed, device=device, backend=backend, progress=progress)
        logging.getLogger("integrity_triton").addHandler(logging.NullHandler())  # the report has all findings
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", GuardWarning)
            guarding = Guard(
                weights,
                against=listed,
                algorithm=algorithm,
                budget=budget,
                period=period,
                on_mismatch=found.append,
                metrics=metrics,
                name=path.name,
                backend=backend,
            )
        for warning in told:
            output.complain(f"warning: {warning.message}")
        end = None if seconds is None else time.monotonic() + seconds
        try:
            status, drilled = _watch(guarding, weights, output, found, passes, end, drill)
        finally:
            guarding.close()
    except IntegrityError as error:  # the model was not the manifest's when it was loaded
        output.line(f"{source}: FAILED")
        for line in describe(error).splitlines():
            output.complain(line.strip())
        output.document(ok=False, source=source, manifest=manifest_path, error=describe(error))
        return MISMATCH
    finally:
        if server is not None:
            server.shutdown()
    state = guarding.status()
    for finding in found:
        output.line(f"{source}: {finding.kind}: {finding}")
    if not found:
        output.line(
            f"{source}: no change in {_counted(state.passes, 'pass', 'passes')} over "
            f"{_counted(state.tensors, 'tensor', 'tensors')} of {state.nbytes} bytes"
        )
    document = {**state.to_dict(), "ok": not state.failed, "source": source, "manifest": manifest_path}
    output.document(**document, drill=drilled)
    return MISMATCH if state.failed else status


def _watch(
    guarding: Guard,
    weights: dict[str, torch.Tensor],
    output: Output,
    found: list[Finding],
    passes: int | None,
    end: float | None,
    drill: bool,
) -> tuple[int, dict[str, Any] | None]:
    """Wait until the guard fails or enough was checked. Returns the status, and what a drill has flipped."""
    state = guarding.status()
    output.complain(
        f"guarding {_counted(state.tensors, 'tensor', 'tensors')} of {state.nbytes} bytes; "
        f"every byte is checked again within {state.period:.3g} s, for which the guard is busy "
        f"{state.share:.2%} of the time"
    )
    drilled = None
    with suppress(KeyboardInterrupt):
        while not guarding.failed:
            done = guarding.status().passes
            if drill and drilled is None and done:
                drilled = _flip(weights)
                output.complain(
                    f"drill: flipped bit {drilled['bit']} of byte {drilled['byte']} of {drilled['tensor']!r}"
                )
            waiting = drill and drilled is not None  # the alarm of a drill is always awaited
            if not waiting and passes is not None and done >= passes:
                return OK, drilled
            if not waiting and end is not None and time.monotonic() >= end:
                return OK, drilled
            time.sleep(_POLL_SECONDS)
        return MISMATCH, drilled
    interrupts.accept()
    return INTERRUPTED, drilled


def _flip(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    import torch

    sizes = [x.nbytes for x in weights.values()]
    (name,) = random.choices(list(weights), sizes)
    data = weights[name].reshape(-1).view(torch.uint8)
    byte, bit = random.randrange(data.numel()), random.randrange(8)
    data[byte] ^= 1 << bit
    return {"tensor": name, "byte": byte, "bit": bit}


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
