"""The commands ``keygen``, ``sign``, ``verify`` and ``digest`` of OpenSSF Model Signing.

Options have the hyphenated names of model_signing's commands as well as the shorter ones of this program.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import IntegrityError
from ..remote_files import local_path
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
    return Path(local_path(folder), "model.sig") if given is None else Path(given)


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
    "--ignore-paths",
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


_method_option = click.option(
    "--method",
    type=click.Choice(["files", "shards"]),
    default="files",
    show_default=True,
    help="Take a digest of each file, or of each shard of a file.",
)
_algorithm_option = click.option(
    "--algorithm", help="Hash to use.  [default: blake3 for files, sha256 for shards]"
)
_shard_size_option = click.option(
    "--shard-size", type=click.IntRange(1), metavar="BYTES", help="Size of a shard, with --method shards."
)


def _algorithm(method: str, given: str | None, shard_size: int | None) -> str:
    if shard_size is not None and method != "shards":
        raise click.UsageError(
            "--shard-size can only be used with --method shards", click.get_current_context()
        )
    if given is not None:
        return given
    return "blake3" if method == "files" else "sha256"


def _paths(given: tuple[str, ...]) -> list[Path]:
    return [Path(path) for path in given]


def _path(given: str | None) -> Path | None:
    return None if given is None else Path(given)


@click.command()
@click.argument("folder")
@click.option("--key", "--private-key", "key", metavar="FILE", help="PEM file of the private key.")
@click.option("--pkcs11-uri", metavar="URI", help="The private key in a PKCS #11 token, in place of --key.")
@click.option("--signing-certificate", metavar="FILE", help="PEM file of the certificate of the key.")
@click.option(
    "--certificate-chain",
    multiple=True,
    metavar="FILE",
    help="PEM file of certificates, from the issuer of the signing certificate upwards. Repeatable.",
)
@click.option(
    "-o", "--signature", metavar="FILE", help="Write the signature to this file.  [default: FOLDER/model.sig]"
)
@_method_option
@_algorithm_option
@_shard_size_option
@click.option(
    "--password-file",
    "--pin-file",
    "password_file",
    metavar="FILE",
    help="Read the password of the private key, or the PIN of its token, from this file.",
)
@click.option(
    "--for-stock", is_flag=True, help="Write the names that model_signing 1.1.1 reads, where they differ."
)
@click.option(
    "--measurements",
    metavar="FILE",
    help="Keep digests in this file, and do not read files again that seem unchanged since.",
)
@_ignore_path_option
@_allow_symlinks_option
@report_options
def sign(
    folder: str,
    key: str | None,
    pkcs11_uri: str | None,
    signing_certificate: str | None,
    certificate_chain: tuple[str, ...],
    signature: str | None,
    method: str,
    algorithm: str | None,
    shard_size: int | None,
    password_file: str | None,
    for_stock: bool,
    measurements: str | None,
    ignore_paths: tuple[str, ...],
    allow_symlinks: bool,
    as_json: bool,
    backend: str | None,
) -> int:
    """Sign a model FOLDER in the OpenSSF Model Signing format."""
    from ..models import oms

    algorithm = _algorithm(method, algorithm, shard_size)
    output = Output(as_json=as_json)
    path = _signature_path(folder, signature)
    with output.progress(folder, folder_size(folder)) as progress:
        oms.sign(
            local_path(folder),
            path,
            private_key=_path(key),
            pkcs11_uri=pkcs11_uri,
            certificate=_path(signing_certificate),
            certificate_chain=_paths(certificate_chain),
            method=method,
            algorithm=algorithm,
            password=_password(password_file),
            ignore_paths=ignore_paths,
            allow_symlinks=allow_symlinks,
            for_stock=for_stock,
            measurements=_path(measurements),
            shard_size=shard_size,
            backend=backend,
            progress=progress,
        )
    output.line(f"{folder}: signed -> {path}")
    output.document(ok=True, folder=folder, signature=str(path), method=method, algorithm=algorithm)
    return OK


@click.command()
@click.argument("folder")
@_method_option
@_algorithm_option
@_shard_size_option
@_ignore_path_option
@_allow_symlinks_option
@report_options
def digest(
    folder: str,
    method: str,
    algorithm: str | None,
    shard_size: int | None,
    ignore_paths: tuple[str, ...],
    allow_symlinks: bool,
    as_json: bool,
    backend: str | None,
) -> int:
    """Print the digest of a model FOLDER that a signature would have, without signing anything."""
    from ..models import oms

    algorithm = _algorithm(method, algorithm, shard_size)
    output = Output(as_json=as_json)
    with output.progress(folder, folder_size(folder)) as progress:
        root = oms.root_digest(
            local_path(folder),
            method=method,
            algorithm=algorithm,
            shard_size=shard_size,
            ignore_paths=ignore_paths,
            allow_symlinks=allow_symlinks,
            backend=backend,
            progress=progress,
        )
    output.line(f"sha256:{root}  {folder}")
    output.document(ok=True, folder=folder, method=method, algorithm=algorithm, digest={"sha256": root})
    return OK


def _time(_: click.Context, __: click.Parameter, given: datetime | None) -> datetime | None:
    """A time in UTC."""
    return None if given is None else given.replace(tzinfo=timezone.utc)


@click.command()
@click.argument("folder")
@click.option("--key", "--public-key", "key", metavar="FILE", help="PEM file of the public key.")
@click.option(
    "--certificate-chain",
    multiple=True,
    metavar="FILE",
    help="PEM file of trusted certificates, in place of --key. Repeatable.",
)
@click.option(
    "--at",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]),
    callback=_time,
    help="When the certificates have to be valid, in UTC.  [default: now]",
)
@click.option(
    "--trusted-root",
    "--trust-config",
    "trusted_root",
    metavar="FILE",
    help="A trusted root of Sigstore, or a client's trust configuration, in place of --key.",
)
@click.option("--identity", help="The identity of the signer, with --trusted-root.")
@click.option("--identity-provider", metavar="URL", help="Who vouched for the identity.")
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
    key: str | None,
    certificate_chain: tuple[str, ...],
    at: datetime | None,
    trusted_root: str | None,
    identity: str | None,
    identity_provider: str | None,
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
                local_path(folder),
                path,
                public_key=_path(key),
                certificate_chain=_paths(certificate_chain),
                at=at,
                trusted_root=_path(trusted_root),
                identity=identity,
                identity_provider=identity_provider,
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
            report = expected.verify(local_path(folder), backend=backend, progress=progress)
    except BrokenPipeError:
        raise
    except EXPECTED_ERRORS as error:
        output.complain(describe(error))
        return {"ok": False, "error": describe(error)}
    print_report(output, folder, report)
    return report.to_dict()
