"""The commands ``keygen``, ``sign`` and ``verify`` make and check OpenSSF Model Signing signatures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import IntegrityError
from .inputs import folder_size, model_size, read_secret
from .manifest import print_report
from .options import json_option, report_options
from .outcome import EXPECTED_ERRORS, MISMATCH, OK, describe
from .terminal import Output

if TYPE_CHECKING:
    from ..models import Manifest


def _password(path: str | None) -> str | None:
    return None if path is None else read_secret(path).decode("utf-8").rstrip("\r\n")


def _signature_path(folder: str, given: str | None) -> Path:
    return Path(folder, "model.sig") if given is None else Path(given)


@click.command()
@click.argument("private_key")
@click.argument("public_key")
@json_option
def keygen(private_key: str, public_key: str, as_json: bool) -> int:
    """Make a P-256 key pair. PRIVATE_KEY signs and PUBLIC_KEY verifies; both are PEM files."""
    from ..models import oms

    oms.generate_key(Path(private_key), Path(public_key))
    output = Output(as_json=as_json)
    output.line(f"private key {private_key}")
    output.line(f"public key {public_key}")
    output.document(ok=True, private_key=private_key, public_key=public_key)
    return OK


_ignore_path_option = click.option(
    "--ignore-path",
    "ignore_paths",
    multiple=True,
    metavar="PATH",
    help="Leave out this path, relative to FOLDER. Repeatable.",
)
_allow_symlinks_option = click.option(
    "--allow-symlinks",
    is_flag=True,
    help="Follow links to files in FOLDER, or in the blobs of FOLDER's Hugging Face cache.",
)


@click.command()
@click.argument("folder")
@click.option("--key", required=True, metavar="FILE", help="PEM file of the private key.")
@click.option(
    "-o", "--signature", metavar="FILE", help="Write the signature to this file.  [default: FOLDER/model.sig]"
)
@click.option(
    "--method",
    type=click.Choice(["files", "shards"]),
    default="files",
    show_default=True,
    help="Sign a digest of each file, or of each shard of a file.",
)
@click.option("--algorithm", help="Hash to use.  [default: blake3 for files, sha256 for shards]")
@click.option(
    "--shard-size", type=click.IntRange(1), metavar="BYTES", help="Size of a shard, with --method shards."
)
@click.option("--password-file", metavar="FILE", help="Read the password of the private key from this file.")
@_ignore_path_option
@_allow_symlinks_option
@report_options
def sign(
    folder: str,
    key: str,
    signature: str | None,
    method: str,
    algorithm: str | None,
    shard_size: int | None,
    password_file: str | None,
    ignore_paths: tuple[str, ...],
    allow_symlinks: bool,
    as_json: bool,
    backend: str | None,
) -> int:
    """Sign a model FOLDER in the OpenSSF Model Signing format."""
    from ..models import oms

    if shard_size is not None and method != "shards":
        raise click.UsageError(
            "--shard-size can only be used with --method shards", click.get_current_context()
        )
    if algorithm is None:
        algorithm = "blake3" if method == "files" else "sha256"
    output = Output(as_json=as_json)
    path = _signature_path(folder, signature)
    with output.progress(folder, folder_size(folder)) as progress:
        oms.sign(
            Path(folder),
            path,
            private_key=Path(key),
            method=method,
            algorithm=algorithm,
            password=_password(password_file),
            ignore_paths=ignore_paths,
            allow_symlinks=allow_symlinks,
            shard_size=shard_size,
            backend=backend,
            progress=progress,
        )
    output.line(f"{folder}: signed -> {path}")
    output.document(ok=True, folder=folder, signature=str(path), method=method, algorithm=algorithm)
    return OK


@click.command()
@click.argument("folder")
@click.option("--key", required=True, metavar="FILE", help="PEM file of the public key.")
@click.option(
    "--signature", metavar="FILE", help="Read the signature from this file.  [default: FOLDER/model.sig]"
)
@click.option("--ignore-unsigned-files", is_flag=True, help="Allow files that the signature does not name.")
@click.option(
    "--manifest",
    "manifest_path",
    metavar="MANIFEST",
    help="If verification fails, name the tensors that differ from this manifest.",
)
@_ignore_path_option
@_allow_symlinks_option
@report_options
def verify(
    folder: str,
    key: str,
    signature: str | None,
    ignore_unsigned_files: bool,
    manifest_path: str | None,
    ignore_paths: tuple[str, ...],
    allow_symlinks: bool,
    as_json: bool,
    backend: str | None,
) -> int:
    """Verify the OpenSSF Model Signing signature of a model FOLDER."""
    from ..models import Manifest, oms

    output = Output(as_json=as_json)
    expected = None if manifest_path is None else Manifest.load(manifest_path)
    path = _signature_path(folder, signature)
    fields: dict[str, Any] = {"folder": folder, "signature": str(path)}
    try:
        with output.progress(folder, folder_size(folder)) as progress:
            oms.verify(
                Path(folder),
                path,
                public_key=Path(key),
                ignore_paths=ignore_paths,
                allow_symlinks=allow_symlinks,
                ignore_unsigned_files=ignore_unsigned_files,
                backend=backend,
                progress=progress,
            )
    except IntegrityError as error:
        output.line(f"{folder}: FAILED")
        output.complain(describe(error))
        if expected is not None:
            fields["tensors"] = _diagnose(output, folder, expected, backend)
        output.document(ok=False, **fields, error=describe(error))
        return MISMATCH
    output.line(f"{folder}: OK")
    output.document(ok=True, **fields)
    return OK


def _diagnose(output: Output, folder: str, expected: Manifest, backend: str | None) -> dict[str, Any]:
    """Name the tensors that differ, in a folder whose signature does not match, as far as it can be read."""
    try:
        with output.progress(folder, model_size(folder)) as progress:
            report = expected.verify(Path(folder), backend=backend, progress=progress)
    except BrokenPipeError:
        raise
    except EXPECTED_ERRORS as error:
        output.complain(describe(error))
        return {"ok": False, "error": describe(error)}
    print_report(output, folder, report)
    return report.to_dict()
