"""The command ``aot`` writes kernels to files, for programs without Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import json_option
from .outcome import OK
from .terminal import Output


@click.command()
@click.argument("algorithm")
@click.argument("target")
@click.option(
    "-o", "--output", "folder", metavar="FOLDER", default=".", help="Write to this folder.  [default: .]"
)
@click.option("--kernel", metavar="NAME", help="Export only the kernel of this name.")
@click.option(
    "--where",
    "conditions",
    metavar="CONSTANT=VALUE",
    multiple=True,
    help="Export only kernels compiled with this value. Repeatable.",
)
@click.option(
    "--compiler", metavar="FOLDER", help="Compile with the Triton that is installed in this folder."
)
@click.option("--list", "listing", is_flag=True, help="List the kernels and compile nothing.")
@json_option
def aot(
    algorithm: str,
    target: str,
    folder: str,
    kernel: str | None,
    conditions: tuple[str, ...],
    compiler: str | None,
    listing: bool,
    as_json: bool,
) -> int:
    """Export ALGORITHM's kernels for TARGET.

    Each kernel becomes a binary with a JSON sidecar that says how to launch it. TARGET is xpu, xpu:avx512, or
    cuda, hip or xpu with a compute capability or architecture, such as cuda:90, hip:gfx942 or xpu:pvc.
    """
    from .. import algorithms as registry
    from ..aot.compiling import Target
    from ..aot.export import describe, export, variants

    where = {}
    for condition in conditions:
        constant, equals, value = condition.partition("=")
        if not equals:
            raise click.UsageError(
                f"--where takes CONSTANT=VALUE, not {condition!r}", click.get_current_context()
            )
        where[constant] = value
    parsed = Target.parse(target)
    found = variants(registry.get(algorithm), parsed, kernel=kernel, where=where)
    output = Output(as_json=as_json)
    fields: dict[str, dict[str, Any]] = {name: {"name": name} for name in found}
    if listing:
        for name, asked in found.items():
            output.line(f"{name}  {describe(asked)}")
            fields[name]["constants"] = dict(asked.constants)
    else:
        exported = export(found, parsed, Path(folder), compiler=None if compiler is None else Path(compiler))
        for one in exported:
            fields[one.name]["files"] = [str(path) for path in one.files]
            for path in one.files:
                output.line(f"{path}: {path.stat().st_size} bytes")
    output.document(ok=True, target=parsed.name, kernels=list(fields.values()))
    return OK
