"""The command ``tensors`` prints a digest for each tensor of stored weights."""

from __future__ import annotations

import click

from .inputs import model_size
from .options import report_options
from .outcome import OK
from .terminal import Output


@click.command("tensors")
@click.argument("source")
@click.option(
    "--format",
    "format_name",
    default="bytes",
    show_default=True,
    metavar="NAME",
    help="bytes, or the project whose digests are meant: vllm, sglang, slime, megatron, tensorizer.",
)
@click.option("--algorithm", metavar="NAME", help="Another algorithm of the format.")
@report_options
def tensors(source: str, format_name: str, algorithm: str | None, as_json: bool, backend: str | None) -> int:
    """Print a digest for each tensor of SOURCE, sorted by name, so that diff compares two models.

    SOURCE is a .safetensors file, or a folder with such files in it and in its subfolders.
    """
    from ..integrations.formats import FORMATS, tensor_digests
    from ..models.checksum_lists import marked

    output = Output(as_json=as_json)
    with output.progress(source, model_size(source)) as progress:
        found = tensor_digests(source, format_name, algorithm, backend=backend, progress=progress)
    lines = []
    for name, digest in found.items():
        mark, written = marked(name.encode())
        lines.append(mark + digest.encode("ascii") + b"  " + written + b"\n")
    output.write(b"".join(lines))
    output.document(
        ok=True,
        source=source,
        format=format_name,
        algorithm=algorithm or FORMATS[format_name].algorithm,
        tensors=found,
    )
    return OK
