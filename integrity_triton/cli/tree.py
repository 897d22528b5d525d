"""The commands ``tree …``: roots, encodings and verification of hash trees, and of OCI layouts."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

from ..errors import IntegrityError
from .inputs import total_size
from .options import report_options
from .outcome import MISMATCH, OK, describe
from .terminal import Output

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _hex(text: str) -> bytes:
    """Bytes as hexadecimal digits."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an even number of hexadecimal digits") from None


_salt = click.option("--salt", type=_hex, default="", metavar="HEX", help="Salt, in hexadecimal digits.")
_root = click.option("--root", type=_hex, required=True, metavar="HEX", help="The root that is trusted.")


def _verifying(command: _Command) -> _Command:
    """Report an IntegrityError as a mismatch."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except IntegrityError as error:
            output = Output(as_json=options["as_json"])
            output.complain(describe(error))
            output.document(ok=False, error=describe(error))
            return MISMATCH

    return cast(_Command, run)


@click.group("tree")
def tree() -> None:
    """Hash trees: RFC 9162, fs-verity, dm-verity, Bao; and OCI layouts."""


@tree.command("root")
@click.argument("file")
@click.option("--algorithm", default="sha256", show_default=True, metavar="NAME", help="Hash of the tree.")
@click.option(
    "--chunk-size", type=int, default=1 << 20, show_default=True, metavar="BYTES", help="Bytes in each leaf."
)
@report_options
def root(file: str, algorithm: str, chunk_size: int, as_json: bool, backend: str | None) -> int:
    """Print the root of the Merkle tree of RFC 9162 over the chunks of FILE, and the number of leaves."""
    from ..merkle import MerkleTree

    output = Output(as_json=as_json)
    with output.progress(file, total_size([file]) or 0) as progress:
        made = MerkleTree.of_file(file, algorithm, chunk_size=chunk_size, backend=backend, progress=progress)
    output.line(f"{made.root.hex()} {len(made)}")
    output.document(
        ok=True,
        file=file,
        algorithm=made.algorithm,
        chunk_size=chunk_size,
        root=made.root.hex(),
        size=len(made),
    )
    return OK


@tree.command("fs-verity")
@click.argument("file")
@click.option("--algorithm", default="sha256", show_default=True, metavar="NAME", help="sha256 or sha512.")
@click.option(
    "--block-size", type=int, default=4096, show_default=True, metavar="BYTES", help="Bytes in a block."
)
@_salt
@report_options
def fs_verity(
    file: str, algorithm: str, block_size: int, salt: bytes, as_json: bool, backend: str | None
) -> int:
    """Print the fs-verity digest of FILE, as fsverity digest does."""
    from ..trees.fs_verity import measure_file

    output = Output(as_json=as_json)
    with output.progress(file, total_size([file]) or 0) as progress:
        found = measure_file(
            file, algorithm, block_size=block_size, salt=salt, backend=backend, progress=progress
        )
    output.line(f"{found.algorithm}:{found.digest.hex()} {file}")
    output.document(ok=True, file=file, algorithm=found.algorithm, digest=found.digest.hex(), size=found.size)
    return OK


@tree.command("dm-verity")
@click.argument("image")
@click.argument("hash_file")
@click.option("--root", type=_hex, metavar="HEX", help="Verify IMAGE with HASH_FILE and this root.")
@click.option(
    "--size", type=int, metavar="BYTES", help="With --root: the size of the image, which the root lacks."
)
@click.option("--algorithm", default="sha256", show_default=True, metavar="NAME", help="Hash of a new tree.")
@click.option(
    "--block-size", type=int, default=4096, show_default=True, metavar="BYTES", help="Of a new tree."
)
@_salt
@report_options
@_verifying
def dm_verity(
    image: str,
    hash_file: str,
    root: bytes | None,
    size: int | None,
    algorithm: str,
    block_size: int,
    salt: bytes,
    as_json: bool,
    backend: str | None,
) -> int:
    """Write the dm-verity hash file of IMAGE and print its root, or verify with --root."""
    from ..output_files import check_output_file, write_file
    from ..trees import dm_verity as verity

    output = Output(as_json=as_json)
    if root is not None:
        with output.progress(image, total_size([image]) or 0) as progress:
            block = verity.verify_files(image, hash_file, root, size=size, backend=backend, progress=progress)
        output.line(f"{image}: OK")
        output.document(ok=True, image=image, blocks=block.data_blocks, algorithm=block.algorithm)
        return OK
    if size is not None:
        raise click.UsageError("--size can only be used with --root", click.get_current_context())
    # Whoever forgets --root when verifying must not lose the tree, nor take status 0 for an answer.
    if os.path.isfile(hash_file) and os.path.getsize(hash_file):
        raise ValueError(f"{hash_file} exists: verify with it by --root, or remove it to write a new one")
    check_output_file(hash_file, [image])
    with output.progress(image, total_size([image]) or 0) as progress:
        made = verity.format_file(
            image,
            algorithm,
            data_block_size=block_size,
            hash_block_size=block_size,
            salt=salt,
            backend=backend,
            progress=progress,
        )
    write_file(hash_file, made.hash_file)
    output.line(made.root.hex())
    output.document(
        ok=True,
        image=image,
        root=made.root.hex(),
        blocks=made.superblock.data_blocks,
        algorithm=made.superblock.algorithm,
        uuid=str(made.superblock.uuid),
    )
    return OK


@tree.command("bao-encode")
@click.argument("file")
@click.argument("encoding")
@click.option("--combined", is_flag=True, help="Store the content in the encoding, too.")
@report_options
def bao_encode(file: str, encoding: str, combined: bool, as_json: bool, backend: str | None) -> int:
    """Write the outboard Bao encoding of FILE and print its root, which is BLAKE3 of FILE."""
    from ..output_files import check_output_file
    from ..trees import bao

    output = Output(as_json=as_json)
    check_output_file(encoding, [file])
    encode = bao.encode_file if combined else bao.encode_outboard_file
    with output.progress(file, total_size([file]) or 0) as progress:
        found = encode(file, encoding, backend=backend, progress=progress)
    output.line(found.hex())
    output.document(ok=True, file=file, encoding=encoding, root=found.hex())
    return OK


@tree.command("bao-verify")
@click.argument("encoding")
@click.argument("file", required=False)
@_root
@report_options
@_verifying
def bao_verify(encoding: str, file: str | None, root: bytes, as_json: bool, backend: str | None) -> int:
    """Verify a combined Bao ENCODING, or FILE with its outboard ENCODING."""
    from ..trees import bao

    output = Output(as_json=as_json)
    name = encoding if file is None else file
    with output.progress(name, total_size([name]) or 0) as progress:
        size = bao.verify(encoding, root, data=file, backend=backend, progress=progress)
    output.line(f"{name}: OK")
    output.document(ok=True, encoding=encoding, file=file, bytes=size)
    return OK


@tree.command("oci")
@click.argument("layout")
@click.option("--digest", metavar="DIGEST", help="sha256:... of the manifest that is trusted.")
@report_options
@_verifying
def oci(layout: str, digest: str | None, as_json: bool, backend: str | None) -> int:
    """Verify every blob of the OCI image LAYOUT, a folder."""
    from ..models.oci import verify_layout

    output = Output(as_json=as_json)
    with output.progress(layout, 0) as progress:
        found = verify_layout(layout, digest, backend=backend, progress=progress)
    for what in found.unchecked:
        output.complain(f"warning: not checked: {what}")
    if digest is None:
        output.complain("warning: no --digest is given, so that the layout is only consistent")
    output.line(f"{layout}: OK, {len(found.blobs)} blobs")
    output.document(
        ok=True,
        layout=layout,
        manifests=[one.digest for one in found.manifests],
        blobs=len(found.blobs),
        files=sorted(found.files),
        unchecked=list(found.unchecked),
    )
    return OK
