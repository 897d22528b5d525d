"""The command ``hash`` prints or checks digests of files, as sha256sum does."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ..models.checksum_lists import format_line
from .check_lists import ListChecker
from .inputs import FileHasher, read_secret, total_size
from .options import report_options
from .outcome import EXPECTED_ERRORS, OK, TROUBLE, describe_at
from .terminal import Output

_MAX_DIGEST_LENGTH = 1 << 20


@click.command("hash")
@click.argument("algorithm")
@click.argument("files", metavar="[FILE]...", nargs=-1)
@click.option("-c", "--check", is_flag=True, help="Read digests from the FILEs and check them.")
@click.option("--tag", "tagged", is_flag=True, help="Print BSD-style lines.")
@click.option("-z", "--zero", is_flag=True, help="End lines with NUL, and do not escape file names.")
@click.option(
    "-l",
    "--length",
    type=click.IntRange(1, _MAX_DIGEST_LENGTH),
    metavar="BYTES",
    help="Length of the digest, for algorithms with extendable output.",
)
@click.option(
    "--key-file", metavar="FILE", help="Use the bytes of this file as the key, for keyed algorithms."
)
@click.option("--ignore-missing", is_flag=True, help="With --check: skip files that do not exist.")
@click.option("--quiet", is_flag=True, help="With --check: do not print OK for each good file.")
@click.option(
    "--status", "silent", is_flag=True, help="With --check: print nothing, and only set the exit status."
)
@click.option("--strict", is_flag=True, help="With --check: fail on improperly formatted lines.")
@click.option("-w", "--warn", is_flag=True, help="With --check: report improperly formatted lines.")
@click.option("--remote", is_flag=True, help="With --check: read names in the lists that are URLs.")
@report_options
def hash_files(
    algorithm: str,
    files: tuple[str, ...],
    check: bool,
    tagged: bool,
    zero: bool,
    length: int | None,
    key_file: str | None,
    ignore_missing: bool,
    quiet: bool,
    silent: bool,
    strict: bool,
    warn: bool,
    remote: bool,
    as_json: bool,
    backend: str | None,
) -> int:
    """Print or check digests of files, as sha256sum does.

    A FILE may be a URL, such as s3://bucket/model.safetensors. Without a FILE, or if FILE is -, read
    standard input.
    """
    from .. import algorithms as registry
    from ..hashing import new

    _check_hash_options(
        check,
        only_printing={"--tag": tagged, "--zero": zero},
        only_checking={
            "--ignore-missing": ignore_missing,
            "--quiet": quiet,
            "--status": silent,
            "--strict": strict,
            "--warn": warn,
            "--remote": remote,
        },
    )
    record = registry.get(algorithm)
    if record.takes_tuples:
        raise ValueError(f"{record.name} takes tuples of byte strings, not files")
    if check and record.security is registry.Security.CHECKSUM:
        raise ValueError(
            f"{record.name} is a checksum, which does not prove that a file is unchanged; "
            f"--check takes {', '.join(_checkable())}"
        )
    key = None if key_file is None else read_secret(key_file)
    hasher = FileHasher(record, key, record.check_length(length, {}), backend)
    new(record.name, key=key, backend=backend)  # reports a bad key or backend once, not for each file
    output = Output(as_json=as_json)
    names = files or ("-",)
    if check:
        checker = ListChecker(hasher, output, ignore_missing, quiet, silent, strict, warn, remote)
        return checker.run(names)
    return _print_digests(hasher, output, names, tagged=tagged, zero=zero)


def _checkable() -> list[str]:
    """The names of the algorithms that ``--check`` takes."""
    from .. import algorithms as registry

    found = map(registry.get, registry.without_checksums())
    return [r.name for r in found if not r.takes_tuples and not any(p.required for p in r.parameters)]


def _check_hash_options(check: bool, only_printing: dict[str, bool], only_checking: dict[str, bool]) -> None:
    unfit = only_printing if check else only_checking
    for option, given in unfit.items():
        if given and check:
            raise click.UsageError(f"{option} cannot be used with --check", click.get_current_context())
        if given:
            raise click.UsageError(f"{option} can only be used with --check", click.get_current_context())


def _print_digests(
    hasher: FileHasher, output: Output, names: Sequence[str], *, tagged: bool, zero: bool
) -> int:
    found: list[dict[str, str]] = []
    with output.meter() as meter:
        if meter is not None:
            meter.begin(names[0] if len(names) == 1 else f"{len(names)} files", total_size(names))
        for name in names:
            try:
                digest = hasher.digest(name, meter)
            except EXPECTED_ERRORS as error:
                message = describe_at(name, error)
                output.complain(message)
                found.append({"name": name, "error": message})
                continue
            output.write(format_line(hasher.algorithm.name, digest, name, tagged=tagged, zero=zero))
            found.append({"name": name, "digest": digest.hex()})
    ok = all("digest" in fields for fields in found)
    output.document(ok=ok, algorithm=hasher.algorithm.name, files=found)
    return OK if ok else TROUBLE
