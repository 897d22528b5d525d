"""The command ``algorithms`` lists all algorithms, or describes some of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import BackendUnavailable
from .options import report_options
from .outcome import OK
from .terminal import Output

if TYPE_CHECKING:
    from ..algorithms import Algorithm


@click.command()
@click.argument("names", metavar="[ALGORITHM]...", nargs=-1)
@report_options
def algorithms(names: tuple[str, ...], as_json: bool, backend: str | None) -> int:
    """List all algorithms, or describe those that are named. With --backend, only those that it can run.

    Sizes are in bytes. A + after a digest's size means that the output is extendable (xof): it can have any
    length, and the size is the default.
    """
    from .. import algorithms as registry
    from ..algorithms.description import listed

    output = Output(as_json=as_json)
    found = [registry.get(name) for name in names] or sorted(registry.all_algorithms(), key=listed)
    if backend is not None:
        from ..backends.registry import get

        runner = get(backend)
        for record in found if names else ():
            if reason := runner.unsupported(record):
                raise BackendUnavailable(f"backend {backend!r} cannot run {record.name}: {reason}")
        found = [record for record in found if runner.unsupported(record) is None]
    for line in _details(found) if names else _rows(found):
        output.hanging(*line)
    output.document(ok=True, algorithms=[_fields(record) for record in found])
    return OK


def _rows(found: Sequence[Algorithm]) -> Iterator[tuple[str, str]]:
    from ..algorithms import Security, description

    derived = [record for record in found if record.construction.hmac_of is not None]
    found = [record for record in found if record not in derived]
    width = max((len(record.name) for record in found), default=0)
    columns = "  security  digest  block  "
    yield f"{'name':<{width}}{columns}", "kind; what is wrong with it; other names"
    for record in found:
        remarks = [description.kind(record)]
        remarks += [record.security_note] if record.security is not Security.SECURE else []
        remarks += [f"also {', '.join(record.aliases)}"] if record.aliases else []
        yield (
            f"{record.name:<{width}}  {record.security.value:<8}  {description.digest(record):>6}  "
            f"{record.block_size:>5}  ",
            "; ".join(remarks),
        )
    if derived:
        hashes = ", ".join(record.name.removeprefix("hmac_") for record in derived)
        yield (
            f"{'hmac_*':<{width + len(columns)}}",
            f"HMAC over each of {hashes}; for example algorithms {derived[0].name}",
        )


def _details(found: Sequence[Algorithm]) -> Iterator[tuple[str, str]]:
    from ..algorithms import description

    for i, record in enumerate(found):
        if i:
            yield "", ""
        yield "", record.name
        yield "  standard  ", record.standard
        yield "  security  ", f"{record.security.value}: {description.GRADES[record.security]}"
        yield "            ", record.security_note
        yield "  kind      ", description.kind(record)
        size = f"{record.digest_size} bytes"
        if record.xof:
            size = f"any size, {size} by default" if record.digest_size else "any size"
        yield "  digest    ", size
        yield "  block     ", f"{record.block_size} bytes"
        if record.aliases:
            yield "  also      ", ", ".join(record.aliases)
        for parameter in record.parameters:
            yield "  parameter ", f"{parameter.name} ({description.allowed(parameter)}): {parameter.doc}"


def _fields(record: Algorithm) -> dict[str, Any]:
    from ..algorithms import description

    return {
        "name": record.name,
        "aliases": list(record.aliases),
        "standard": record.standard,
        "kind": description.kind(record),
        "digest_bits": 8 * record.digest_size,
        "block_size": record.block_size,
        "security": record.security.value,
        "security_note": record.security_note,
        "collision_bits": record.collision_bits,
        "extendable_output": record.xof,
        "seekable": record.seekable,
        "parallel": record.parallel,
        "keyed": record.keyed,
        "parameters": [
            {"name": p.name, "type": p.type.__name__, "allowed": description.allowed(p), "doc": p.doc}
            for p in record.parameters
        ],
    }
