"""The commands ``manifest create`` and ``manifest verify`` make manifests of models and check them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .inputs import model_files, model_size
from .options import report_options
from .outcome import MISMATCH, OK
from .terminal import Output, write_stdout

if TYPE_CHECKING:
    from ..models import ModelReport


_overlays = click.option(
    "--overlays",
    is_flag=True,
    help="Permit copies of tensors that differ from those which the index chooses. They are not covered.",
)


@click.group(no_args_is_help=False)
def manifest() -> None:
    """Make manifests of models' tensors, and check models against them.

    SOURCE is a .safetensors file, or a folder with such files in it and in its subfolders. It may be a URL,
    such as s3://bucket/model.
    """


@manifest.command("create")
@click.argument("source")
@click.option(
    "-o", "--output", "path", metavar="FILE", help="Write the manifest to this file.  [default: stdout]"
)
@click.option("--algorithm", default="blake3", show_default=True, help="Hash of the tensors and the root.")
@click.option(
    "-l",
    "--length",
    type=int,
    metavar="BYTES",
    help="Length of a digest, for algorithms with extendable output.",
)
@click.option(
    "--tie",
    "ties",
    multiple=True,
    metavar="NAME=STORED",
    help="State that NAME, which the files leave out, is the tensor STORED. Repeatable.",
)
@_overlays
@report_options
def create(
    source: str,
    path: str | None,
    algorithm: str,
    length: int | None,
    ties: tuple[str, ...],
    overlays: bool,
    as_json: bool,
    backend: str | None,
) -> int:
    """Make the manifest of SOURCE: a digest for each tensor, and a root that binds all of them."""
    from ..models import Manifest
    from ..output_files import check_output_file

    output = Output(as_json=as_json)
    tied = _pairs(ties, "--tie")
    if path is not None:
        check_output_file(path, inputs=model_files(source))
    with output.progress(source, model_size(source)) as progress:
        made = Manifest.build(
            source, algorithm, length=length, overlays=overlays, backend=backend, progress=progress
        )
    made = made.with_ties(tied)
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
@click.option("--partial", is_flag=True, help="Permit tensors of MANIFEST to be missing from SOURCE.")
@click.option(
    "--ignore",
    multiple=True,
    metavar="PATTERN",
    help="Do not compare tensors whose names match, for example '*_extra_state'. Repeatable.",
)
@click.option(
    "--rename",
    multiple=True,
    metavar="OLD=NEW",
    help="Replace whole parts of the names in SOURCE, for example '_orig_mod.='. Repeatable.",
)
@_overlays
@report_options
def verify(
    manifest_path: str,
    source: str,
    partial: bool,
    ignore: tuple[str, ...],
    rename: tuple[str, ...],
    overlays: bool,
    as_json: bool,
    backend: str | None,
) -> int:
    """Check SOURCE against MANIFEST, and name every changed, missing and unexpected tensor."""
    from ..models import Manifest

    output = Output(as_json=as_json)
    parts = _pairs(rename, "--rename")
    expected = Manifest.load(manifest_path)
    with output.progress(source, model_size(source)) as progress:
        report = expected.verify(
            source,
            partial=partial,
            ignore=ignore,
            rename=parts,
            overlays=overlays,
            backend=backend,
            progress=progress,
        )
    print_report(output, source, report)
    output.document(source=source, manifest=manifest_path, root=expected.root.hex(), **report.to_dict())
    return OK if report.ok else MISMATCH


def print_report(output: Output, source: str, report: ModelReport) -> None:
    first, *others = str(report).splitlines()
    output.line(f"{source}: {first}")
    for line in others:
        output.line(line)


def _pairs(arguments: tuple[str, ...], option: str) -> dict[str, str]:
    """What an option maps, from arguments of the form ``OLD=NEW``."""
    pairs: dict[str, str] = {}
    for argument in arguments:
        old, equals, new = argument.partition("=")
        if not equals:
            raise click.UsageError(f"{option} needs '=', not {argument!r}", click.get_current_context())
        if pairs.setdefault(old, new) != new:
            raise click.UsageError(f"{option} gives {old!r} twice", click.get_current_context())
    return pairs


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"
