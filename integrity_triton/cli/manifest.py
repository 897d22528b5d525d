"""The commands ``manifest create`` and ``manifest verify`` make manifests of models and check them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .inputs import model_files, model_size
from .options import report_options
from .outcome import MISMATCH, OK
from .terminal import Output, write_stdout

if TYPE_CHECKING:
    from ..models import ModelReport


@click.group(no_args_is_help=False)
def manifest() -> None:
    """Make manifests of models' tensors, and check models against them.

    SOURCE is a .safetensors file, or a folder with such files in it and in its subfolders.
    """


@manifest.command("create")
@click.argument("source")
@click.option(
    "-o", "--output", "path", metavar="FILE", help="Write the manifest to this file.  [default: stdout]"
)
@click.option("--algorithm", default="blake3", show_default=True, help="Hash of the tensors and the root.")
@report_options
def create(source: str, path: str | None, algorithm: str, as_json: bool, backend: str | None) -> int:
    """Make the manifest of SOURCE: a digest for each tensor, and a root that binds all of them."""
    from ..models import Manifest
    from ..output_files import check_output_file

    output = Output(as_json=as_json)
    if path is not None:
        check_output_file(path, inputs=model_files(source))
    with output.progress(source, model_size(source)) as progress:
        made = Manifest.build(Path(source), algorithm, backend=backend, progress=progress)
    if path is None:
        write_stdout(made.to_json().encode("ascii"))
        return OK
    made.save(path)
    output.line(f"{made.algorithm} root {made.root.hex()} of {_tensors(len(made.entries))} -> {path}")
    output.document(
        ok=True,
        manifest=path,
        algorithm=made.algorithm,
        root=made.root.hex(),
        tensors=len(made.entries),
    )
    return OK


@manifest.command("verify")
@click.argument("manifest_path", metavar="MANIFEST")
@click.argument("source")
@report_options
def verify(manifest_path: str, source: str, as_json: bool, backend: str | None) -> int:
    """Check SOURCE against MANIFEST, and name every changed, missing and unexpected tensor."""
    from ..models import Manifest

    output = Output(as_json=as_json)
    expected = Manifest.load(manifest_path)
    with output.progress(source, model_size(source)) as progress:
        report = expected.verify(Path(source), backend=backend, progress=progress)
    print_report(output, source, report)
    output.document(source=source, manifest=manifest_path, root=expected.root.hex(), **report.to_dict())
    return OK if report.ok else MISMATCH


def print_report(output: Output, source: str, report: ModelReport) -> None:
    first, *others = str(report).splitlines()
    output.line(f"{source}: {first}")
    for line in others:
        output.line(line)


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"
