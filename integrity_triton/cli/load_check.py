"""The command ``load-check`` loads a model as a server would, and reports whether it is what was expected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import IntegrityError
from .inputs import model_size
from .options import report_options
from .outcome import MISMATCH, OK, TROUBLE, describe
from .terminal import Output

if TYPE_CHECKING:
    from ..models.loading.expectations import Against

_HEAD_SIZE = 1 << 16
_BUNDLE_TYPE = b"application/vnd.dev.sigstore.bundle"


@click.command("load-check")
@click.argument("source")
@click.option(
    "--against",
    "expected",
    multiple=True,
    required=True,
    metavar="FILE",
    help="A manifest, a signature, or a list such as SHA256SUMS. Repeatable: all must hold.",
)
@click.option(
    "--public-key", metavar="FILE", help="PEM file of the key that made the signature in --against."
)
@click.option(
    "--algorithm",
    default="sha256",
    show_default=True,
    metavar="NAME",
    help="Hash of the lists in --against.",
)
@click.option(
    "--checksums", is_flag=True, help="Take lists of checksums too. They find accidents and no attacks."
)
@click.option("--partial", is_flag=True, help="Permit tensors of a manifest to be missing from SOURCE.")
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="Load to this device.")
@report_options
def load_check(
    source: str,
    expected: tuple[str, ...],
    public_key: str | None,
    algorithm: str,
    checksums: bool,
    partial: bool,
    device: str,
    as_json: bool,
    backend: str | None,
) -> int:
    """Load SOURCE into memory, and check what is there against manifests, signatures and lists.

    SOURCE is a .safetensors file, or a folder with such files, and may be a URL. Names in a list are
    relative to the folder.
    """
    from ..models import load_verified

    output = Output(as_json=as_json)
    fields: dict[str, Any] = {"source": source, "against": list(expected), "device": device}
    try:
        against = [_expectation(path, public_key, algorithm, checksums) for path in expected]
        if public_key is not None and not any(map(_is_signature, expected)):
            raise click.UsageError("--public-key needs a signature in --against", click.get_current_context())
        with output.progress(source, model_size(source)) as progress:
            found = load_verified(
                source,
                against=against,
                device=device,
                partial=partial,
                backend=backend,
                progress=progress,
            )
    except IntegrityError as error:
        output.line(f"{source}: FAILED")
        for line in describe(error).splitlines():  # a line for each mismatch
            output.complain(line.strip())
        output.document(ok=False, **fields, error=describe(error), **_place(error))
        return MISMATCH
    except MemoryError as error:
        output.complain(describe(error))
        output.document(ok=False, **fields, error=describe(error))
        return TROUBLE
    size = sum(tensor.nbytes for tensor in found.values())
    count = "1 tensor" if len(found) == 1 else f"{len(found)} tensors"
    output.line(f"{source}: OK, {count} of {size} bytes in memory are as expected")
    output.document(ok=True, **fields, tensors=len(found), bytes=size)
    return OK


def _expectation(path: str, public_key: str | None, algorithm: str, checksums: bool) -> Against:
    from ..models import FileDigests, Manifest, Signed

    if _is_signature(path):
        if public_key is None:
            raise click.UsageError(
                f"{path} is a signature, which needs --public-key", click.get_current_context()
            )
        return Signed(path, public_key)
    if _head(path).lstrip()[:1] == b"{":
        return Manifest.load(path)
    return FileDigests.load_list(path, algorithm, checksums=checksums)


def _is_signature(path: str) -> bool:
    return _BUNDLE_TYPE in _head(path)


def _head(path: str) -> bytes:
    from ..models.regular_files import read_head

    return read_head(path, _HEAD_SIZE)


def _place(error: IntegrityError) -> dict[str, Any]:
    """Where a model differs, for the report."""
    from ..models import LoadError

    if not isinstance(error, LoadError):
        return {}
    return {
        "file": error.file,
        "tensor": error.tensor,
        "range": None if error.range is None else list(error.range),
        "mismatches": [
            {
                "file": mismatch.file,
                "tensor": mismatch.tensor,
                "range": list(mismatch.range),
                "algorithm": mismatch.algorithm,
                "expected": mismatch.expected.hex(),
                "found": mismatch.found.hex(),
            }
            for mismatch in error.mismatches
        ],
    }
