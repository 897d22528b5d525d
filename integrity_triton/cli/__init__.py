"""The command line: arguments in, report out.

Only click is imported here. What a command needs beyond it, the command imports, so that ``--help``
is quick and hashing a file on the CPU never loads torch.
"""

from __future__ import annotations

import hmac
import itertools
import os
import secrets
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from .._version import __version__
from ..errors import BackendUnavailable, IntegrityError, IntegrityTritonError
from .checksum_lists import Entry, ListReader, escape, format_line, tag
from .terminal import PROGRAM, Meter, Output, complain, write_document, write_stdout

if TYPE_CHECKING:
    from ..algorithms import Algorithm
    from ..models import Manifest, Report

__all__ = ["main"]

OK, MISMATCH, TROUBLE = 0, 1, 2
INTERRUPTED, BROKEN_PIPE = 128 + 2, 128 + 13  # what shells report for SIGINT and SIGPIPE

_EXPECTED_ERRORS = (OSError, ValueError, TypeError, EOFError, ImportError, IntegrityTritonError)
_STREAM_BUFFER = 8 << 20
_MAX_DIGEST_LENGTH = 1 << 20
_MAX_SECRET_SIZE = 1 << 16

_Command = TypeVar("_Command", bound=Callable[..., Any])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default the process's own, and return its exit status.

    0: all good; 1: data, a manifest or a signature does not match; 2: bad use or unreadable input.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    status = _run(given)
    _settle_stdout()
    return status


def _run(given: list[str]) -> int:
    as_json = "--json" in itertools.takewhile(lambda argument: argument != "--", given)
    try:
        with _commands.make_context(PROGRAM, given) as context:
            status: int = _commands.invoke(context)
        return status
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        return _fail(_usage(error), as_json)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except IntegrityError as error:
        return _fail(_describe(error), as_json, MISMATCH)
    except _EXPECTED_ERRORS as error:
        return _fail(_describe(error), as_json)


def _fail(message: str, as_json: bool, status: int = TROUBLE) -> int:
    complain(message)
    if as_json:
        with suppress(OSError):  # stdout itself may be what failed
            write_document(ok=False, error=message)
    return status


def _settle_stdout() -> None:
    """Drop what stdout could not take: Python would try, and complain, once more at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return message if context is None else f"{message} (see '{context.command_path} --help')"


def _describe(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return where + error.strerror
    return str(error) or type(error).__name__


def _report_options(command: _Command) -> _Command:
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)
    return click.option("--backend", metavar="NAME", help="Run on this backend, or fail.")(command)


@click.group(
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 good, 1 mismatch, 2 bad use or unreadable input.",
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def _commands() -> None:
    """Hash files, and make, sign and verify models, on the fastest device there is."""


@_commands.command()
@_report_options
def devices(as_json: bool, backend: str | None) -> int:
    """List the backends: what each runs on, or why it is absent."""
    from ..backends.registry import get, statuses

    output = Output(as_json=as_json)
    if backend is not None:
        get(backend)
    found = [status for status in statuses() if backend in {None, status.name}]
    width = max(len(status.name) for status in found)
    for status in found:
        output.line(f"{status.name:<{width}}  {'available' if status.available else 'absent'}")
        output.line(f"{'':<{width}}  {status.summary}")
        output.line(f"{'':<{width}}  {status.reason}")
        for device in status.devices:
            output.line(f"{'':<{width}}  device {device}")
        if status.available and status.self_test is not None:
            output.line(f"{'':<{width}}  self-tests {status.self_test}")
    output.document(ok=True, backends=[asdict(status) for status in found])
    return OK


@_commands.command()
@click.argument("names", metavar="[ALGORITHM]...", nargs=-1)
@_report_options
def algorithms(names: tuple[str, ...], as_json: bool, backend: str | None) -> int:
    """List the algorithms, or with --backend those that it can run; all about those that are named.

    Sizes are in bytes. A digest's size with a + is the default of extendable output (xof), which has
    any length.
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
    for line in _algorithm_details(found) if names else _algorithm_rows(found):
        output.hanging(*line)
    output.document(ok=True, algorithms=[_algorithm_fields(record) for record in found])
    return OK


def _algorithm_rows(found: Sequence[Algorithm]) -> Iterator[tuple[str, str]]:
    from ..algorithms import Hmac, Security, description

    derived = [record for record in found if isinstance(record.construction, Hmac)]
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


def _algorithm_details(found: Sequence[Algorithm]) -> Iterator[tuple[str, str]]:
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


def _algorithm_fields(record: Algorithm) -> dict[str, Any]:
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


@dataclass(frozen=True)
class _FileHasher:
    """Hashes named files, ``-`` being standard input, with one set of parameters."""

    algorithm: Algorithm
    key: bytes | None
    length: int
    backend: str | None

    def digest(self, name: str, meter: Meter | None) -> bytes:
        from ..files import update_from_file
        from ..hashing import new

        hasher = new(self.algorithm.name, key=self.key, backend=self.backend)
        progress = None if meter is None else meter.advance
        if name == "-":
            _update_from_stream(hasher, _stdin(), progress)
        elif _regular_size(name):
            update_from_file(hasher, name, progress=progress)
        else:  # pipes and devices have no size, and files under /proc say that theirs is 0
            with open(name, "rb", buffering=0) as stream:
                _update_from_stream(hasher, stream, progress)
        return hasher.digest(self.length if self.algorithm.xof else None)


def _update_from_stream(hasher: Any, stream: Any, progress: Callable[[int], None] | None) -> None:
    buffer = memoryview(bytearray(_STREAM_BUFFER))
    while size := stream.readinto(buffer):
        hasher.update(buffer[:size])
        if progress is not None:
            progress(size)


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer


def _regular_size(name: str) -> int | None:
    status = os.stat(name)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _total_size(names: Sequence[str]) -> int | None:
    """The size of all files together, or None where it cannot be known beforehand."""
    total = 0
    for name in names:
        try:
            size = None if name == "-" else _regular_size(name)
        except OSError:
            continue
        if size is None:
            return None
        total += size
    return total


def _read_secret(path: str) -> bytes:
    with open(path, "rb") as file:
        secret = file.read(_MAX_SECRET_SIZE + 1)
    if len(secret) > _MAX_SECRET_SIZE:
        raise ValueError(f"{path}: larger than {_MAX_SECRET_SIZE} bytes; that is no key")
    return secret


@_commands.command("hash")
@click.argument("algorithm")
@click.argument("files", metavar="[FILE]...", nargs=-1)
@click.option("-c", "--check", is_flag=True, help="Read digests from the FILEs and check them.")
@click.option("--tag", "tagged", is_flag=True, help="Print BSD-style lines.")
@click.option("-z", "--zero", is_flag=True, help="End lines with NUL and escape no file names.")
@click.option(
    "-l",
    "--length",
    type=click.IntRange(1, _MAX_DIGEST_LENGTH),
    metavar="BYTES",
    help="Digest length, for algorithms with extendable output.",
)
@click.option("--key-file", metavar="FILE", help="File whose bytes are the key, for keyed algorithms.")
@click.option("--ignore-missing", is_flag=True, help="With --check: pass over files that do not exist.")
@click.option("--quiet", is_flag=True, help="With --check: do not print OK for each good file.")
@click.option("--status", "silent", is_flag=True, help="With --check: print nothing; exit status only.")
@click.option("--strict", is_flag=True, help="With --check: fail on improperly formatted lines.")
@click.option("-w", "--warn", is_flag=True, help="With --check: name improperly formatted lines.")
@_report_options
def hash_command(
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
    as_json: bool,
    backend: str | None,
) -> int:
    """Print or check digests of files, as sha256sum does.

    Without FILE, or where it is -, read standard input.
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
        },
    )
    record = registry.get(algorithm)
    if record.takes_tuples:
        raise ValueError(f"{record.name} takes tuples of byte strings, not files")
    if check and record.security is registry.Security.CHECKSUM:
        raise ValueError(
            f"{record.name} is a checksum, which is no proof that a file is unchanged; "
            f"--check takes {', '.join(registry.without_checksums())}"
        )
    key = None if key_file is None else _read_secret(key_file)
    hasher = _FileHasher(record, key, record.check_length(length, {}), backend)
    new(record.name, key=key, backend=backend)  # a bad key or backend is no fault of any one file
    output = Output(as_json=as_json)
    names = files or ("-",)
    if check:
        checker = _Checker(hasher, output, ignore_missing, quiet, silent, strict, warn)
        return checker.run(names)
    return _print_digests(hasher, output, names, tagged=tagged, zero=zero)


def _check_hash_options(check: bool, only_printing: dict[str, bool], only_checking: dict[str, bool]) -> None:
    unfit = only_printing if check else only_checking
    for option, given in unfit.items():
        if given and check:
            raise click.UsageError(f"{option} is not for --check", click.get_current_context())
        if given:
            raise click.UsageError(f"{option} is only for --check", click.get_current_context())


def _print_digests(
    hasher: _FileHasher, output: Output, names: Sequence[str], *, tagged: bool, zero: bool
) -> int:
    found: list[dict[str, str]] = []
    with output.meter() as meter:
        if meter is not None:
            meter.begin(names[0] if len(names) == 1 else f"{len(names)} files", _total_size(names))
        for name in names:
            try:
                digest = hasher.digest(name, meter)
            except _EXPECTED_ERRORS as error:
                message = _about(name, error)
                output.complain(message)
                found.append({"name": name, "error": message})
                continue
            output.write(format_line(hasher.algorithm.name, digest, name, tagged=tagged, zero=zero))
            found.append({"name": name, "digest": digest.hex()})
    ok = all("digest" in fields for fields in found)
    output.document(ok=ok, algorithm=hasher.algorithm.name, files=found)
    return OK if ok else TROUBLE


def _about(name: str, error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else _describe(error)
    return f"{name}: {text}"


@dataclass
class _ListReport:
    """What ``hash --check`` found out about the files of one list."""

    name: str
    error: str | None = None
    improperly_formatted: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    files: list[dict[str, str]] = field(default_factory=list)
    """Kept for a JSON report only: a list may be long."""

    def to_dict(self) -> dict[str, Any]:
        fields = {"name": self.name, "improperly_formatted": self.improperly_formatted, "files": self.files}
        return fields if self.error is None else {**fields, "error": self.error}


@dataclass
class _Checker:
    """``hash --check``: checks the files of lists, and reports as sha256sum does."""

    hasher: _FileHasher
    output: Output
    ignore_missing: bool
    quiet: bool
    silent: bool
    strict: bool
    warn: bool

    def run(self, lists: Sequence[str]) -> int:
        algorithm = self.hasher.algorithm
        reader = ListReader(algorithm.name, algorithm.aliases, self.hasher.length)
        reports = []
        with self.output.meter() as meter:
            for name in lists:
                with ExitStack() as opened:
                    try:
                        stream = _stdin() if name == "-" else opened.enter_context(open(name, "rb"))
                    except OSError as error:
                        self.output.complain(_about(name, error))
                        reports.append(_ListReport(name, error=_about(name, error)))
                        continue
                    reports.append(self._check_list(name, reader.read(stream), meter))
        statuses = {self._status(report) for report in reports}
        # A digest that differs is a finding, even where something else could not be read.
        status = MISMATCH if MISMATCH in statuses else max(statuses)
        documents = [report.to_dict() for report in reports]
        self.output.document(ok=status == OK, algorithm=algorithm.name, lists=documents)
        return status

    def _status(self, report: _ListReport) -> int:
        if report.counts["mismatch"]:
            return MISMATCH
        unreadable = report.error is not None or report.counts["unreadable"] > 0
        if unreadable or not report.counts["ok"] or (self.strict and report.improperly_formatted):
            return TROUBLE
        return OK

    def _check_list(self, list_name: str, entries: Iterator[Entry], meter: Meter | None) -> _ListReport:
        report = _ListReport(list_name)
        shown = "standard input" if list_name == "-" else list_name
        for entry in entries:
            if entry.name is None or (list_name == "-" and entry.name == "-"):
                report.improperly_formatted += 1
                if self.warn:
                    label = tag(self.hasher.algorithm.name)
                    self.output.complain(f"{shown}: {entry.line}: improperly formatted {label} checksum line")
            else:
                result = self._check_file(entry.name, entry.digest, meter)
                report.counts[result["result"]] += 1
                if self.output.as_json:
                    report.files.append(result)
        if not report.counts:
            report.error = f"{shown}: no properly formatted checksum lines found"
            self.output.complain(report.error)
        elif not self.silent:
            self._warn(report, shown)
        return report

    def _check_file(self, name: str, expected: bytes, meter: Meter | None) -> dict[str, str]:
        try:
            if meter is not None:
                meter.begin(name, _total_size([name]))
            found = self.hasher.digest(name, meter)
        except _EXPECTED_ERRORS as error:
            if self.ignore_missing and isinstance(error, FileNotFoundError):
                return {"name": name, "result": "missing"}
            self.output.complain(_about(name, error))
            self._print(name, "FAILED open or read")
            return {"name": name, "result": "unreadable", "error": _about(name, error)}
        if not hmac.compare_digest(found, expected):
            self._print(name, "FAILED")
            return {"name": name, "result": "mismatch", "expected": expected.hex(), "found": found.hex()}
        if not self.quiet:
            self._print(name, "OK")
        return {"name": name, "result": "ok"}

    def _print(self, name: str, verdict: str) -> None:
        if self.silent:
            return
        raw = os.fsencode(name)
        if b"\n" in raw:
            raw = b"\\" + escape(raw)
        self.output.write(raw + f": {verdict}\n".encode("ascii"))

    def _warn(self, report: _ListReport, shown: str) -> None:
        count = report.improperly_formatted
        if count:
            what = "line is" if count == 1 else "lines are"
            self.output.complain(f"WARNING: {count} {what} improperly formatted")
        count = report.counts["unreadable"]
        if count:
            what = "file" if count == 1 else "files"
            self.output.complain(f"WARNING: {count} listed {what} could not be read")
        count = report.counts["mismatch"]
        if count:
            what = "checksum" if count == 1 else "checksums"
            self.output.complain(f"WARNING: {count} computed {what} did NOT match")
        if self.ignore_missing and not report.counts["ok"]:
            self.output.complain(f"{shown}: no file was verified")


@_commands.group(no_args_is_help=False)
def manifest() -> None:
    """Make manifests of a model's tensors, and check models against them.

    SOURCE is a .safetensors file, or a folder of them.
    """


@manifest.command("create")
@click.argument("source")
@click.option("-o", "--output", "path", metavar="FILE", help="Write the manifest here, not to stdout.")
@click.option("--algorithm", default="blake3", show_default=True, help="Hash of the tensors and the root.")
@_report_options
def manifest_create(source: str, path: str | None, algorithm: str, as_json: bool, backend: str | None) -> int:
    """Make the manifest of SOURCE: a digest for each tensor, and a root that binds all of them."""
    from ..models import Manifest

    output = Output(as_json=as_json)
    with output.progress(source, _model_size(source)) as progress:
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
@_report_options
def manifest_verify(manifest_path: str, source: str, as_json: bool, backend: str | None) -> int:
    """Check SOURCE against MANIFEST; name every changed, missing and unexpected tensor."""
    from ..models import Manifest

    output = Output(as_json=as_json)
    expected = Manifest.load(manifest_path)
    with output.progress(source, _model_size(source)) as progress:
        report = expected.verify(Path(source), backend=backend, progress=progress)
    _print_report(output, source, report)
    output.document(source=source, manifest=manifest_path, root=expected.root.hex(), **report.to_dict())
    return OK if report.ok else MISMATCH


def _print_report(output: Output, source: str, report: Report) -> None:
    first, *others = str(report).splitlines()
    output.line(f"{source}: {first}")
    for line in others:
        output.line(line)


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"


def _model_size(source: str) -> int:
    """The bytes of a safetensors file, or of those directly in a folder."""
    path = Path(source)
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _folder_size(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


@_commands.command("aot")
@click.argument("algorithm")
@click.argument("target")
@click.option("-o", "--output", "folder", metavar="FOLDER", default=".", help="Write here, not to '.'.")
@click.option("--kernel", metavar="NAME", help="Only the kernel of this name.")
@click.option(
    "--where",
    "conditions",
    metavar="CONSTANT=VALUE",
    multiple=True,
    help="Only kernels compiled with this value; repeatable.",
)
@click.option("--compiler", metavar="FOLDER", help="Compile with the Triton in this folder.")
@click.option("--list", "listing", is_flag=True, help="List the kernels and compile nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def aot_command(
    algorithm: str,
    target: str,
    folder: str,
    kernel: str | None,
    conditions: tuple[str, ...],
    compiler: str | None,
    listing: bool,
    as_json: bool,
) -> int:
    """Export ALGORITHM's kernels for TARGET: binaries, each with a JSON sidecar that says how to launch it.

    TARGET is cuda:90, hip:gfx942 (any compute capability or architecture), or xpu.
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


_MOST_JOBS = 8  # each has a few hundred MB of libraries
_REPORTS = {"json": "to_json", "md": "to_markdown", "html": "to_html", "xml": "to_xml"}


@_commands.command()
@click.option("--backend", "backends", metavar="NAME", multiple=True, help="Only this backend; repeatable.")
@click.option("--device", "devices", metavar="NAME", multiple=True, help="Only this device; repeatable.")
@click.option("--algorithm", "names", metavar="NAME", multiple=True, help="Only this algorithm; repeatable.")
@click.option(
    "--compile",
    "targets",
    metavar="TARGET",
    multiple=True,
    help="Compile for this target, as for aot; runs nothing but what --backend names; repeatable.",
)
@click.option("--quick", is_flag=True, help="Fewer cases: for a first look.")
@click.option("--full", is_flag=True, help="Many more cases: takes minutes.")
@click.option(
    "--seed", type=click.IntRange(0, (1 << 64) - 1), help="Of the random data.  [default: a new one]"
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Processes that share the work.  [default: one a processor, at most 8]",
)
@click.option(
    "--report",
    "reports",
    metavar="FILE",
    multiple=True,
    help="Write a report: .json, .md, .html, or .xml for JUnit's; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def conformance(
    backends: tuple[str, ...],
    devices: tuple[str, ...],
    names: tuple[str, ...],
    targets: tuple[str, ...],
    quick: bool,
    full: bool,
    seed: int | None,
    jobs: int | None,
    reports: tuple[str, ...],
    as_json: bool,
) -> int:
    """Check every algorithm on every backend and device here: known answers, layouts, streams, forgeries,
    agreement.

    Status 0 if all that was asked for ran and passed; what was named and is absent has not.
    """
    from .. import conformance as suite
    from ..backends.native import usable_cpus
    from ..conformance import Cell

    context = click.get_current_context()
    if quick and full:
        raise click.UsageError("--quick and --full exclude each other", context)
    for path in reports:
        if Path(path).suffix[1:] not in _REPORTS:
            raise click.UsageError(f"--report {path}: a report is .{', .'.join(_REPORTS)}", context)
        if not Path(path).absolute().parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no such folder")
    output = Output(as_json=as_json)
    chosen = secrets.randbits(32) if seed is None else seed
    output.line(f"seed {chosen}")

    def show(cell: Cell) -> None:
        if cell.status == "absent":
            return
        about = cell.reason if cell.status == "compile-only" else f"{cell.verdict} cases"
        output.line(f"{cell.algorithm} on {cell.place}: {about}")
        for failure in cell.failures:
            output.line(f"  {failure.check}: {failure.case}")
            output.line(f"    expected {failure.expected}")
            output.line(f"    found    {failure.found}")

    report = suite.run(
        backends=backends,
        devices=devices,
        algorithms=names,
        effort="quick" if quick else "full" if full else "standard",
        seed=chosen,
        targets=targets,
        jobs=min(usable_cpus(), _MOST_JOBS) if jobs is None else jobs,
        progress=show,
    )
    for path in reports:
        text: str = getattr(report, _REPORTS[Path(path).suffix[1:]])()
        Path(path).write_text(text, "utf-8")
    for backend, reason in report.absent.items():
        output.line(f"absent {backend}: {reason}")
    for place, reason, absent in report.reasons():
        output.line(f"absent on {place}: {', '.join(absent)}: {reason}")
    for problem in report.problems:
        output.complain(problem)
    output.line(report.summary())
    output.document(**report.to_dict())
    return OK if report.ok else MISMATCH


def _password(path: str | None) -> str | None:
    return None if path is None else _read_secret(path).decode("utf-8").rstrip("\r\n")


def _signature_path(folder: str, given: str | None) -> Path:
    return Path(folder, "model.sig") if given is None else Path(given)


@_commands.command()
@click.argument("private_key")
@click.argument("public_key")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def keygen(private_key: str, public_key: str, as_json: bool) -> int:
    """Make a P-256 key pair: PRIVATE_KEY signs, PUBLIC_KEY verifies. Both are PEM files."""
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
    help="Leave out this path, relative to FOLDER; repeatable.",
)


@_commands.command()
@click.argument("folder")
@click.option("--key", required=True, metavar="FILE", help="Private key, PEM.")
@click.option(
    "-o", "--signature", metavar="FILE", help="Where the signature goes.  [default: FOLDER/model.sig]"
)
@click.option("--method", type=click.Choice(["files", "shards"]), default="files", show_default=True)
@click.option("--algorithm", help="[default: blake3 for files, sha256 for shards]")
@click.option("--shard-size", type=click.IntRange(1), metavar="BYTES", help="With --method shards.")
@click.option("--password-file", metavar="FILE", help="File with the password of the private key.")
@_ignore_path_option
@_report_options
def sign(
    folder: str,
    key: str,
    signature: str | None,
    method: str,
    algorithm: str | None,
    shard_size: int | None,
    password_file: str | None,
    ignore_paths: tuple[str, ...],
    as_json: bool,
    backend: str | None,
) -> int:
    """Sign a model FOLDER in the OpenSSF Model Signing format."""
    from ..models import oms

    if shard_size is not None and method != "shards":
        raise click.UsageError("--shard-size is only for --method shards", click.get_current_context())
    if algorithm is None:
        algorithm = "blake3" if method == "files" else "sha256"
    output = Output(as_json=as_json)
    path = _signature_path(folder, signature)
    optional = {} if shard_size is None else {"shard_size": shard_size}
    with output.progress(folder, _folder_size(folder)) as progress:
        oms.sign(
            Path(folder),
            path,
            private_key=Path(key),
            method=method,
            algorithm=algorithm,
            password=_password(password_file),
            ignore_paths=[Path(ignored) for ignored in ignore_paths],
            backend=backend,
            progress=progress,
            **optional,
        )
    output.line(f"{folder}: signed -> {path}")
    output.document(ok=True, folder=folder, signature=str(path), method=method, algorithm=algorithm)
    return OK


@_commands.command()
@click.argument("folder")
@click.option("--key", required=True, metavar="FILE", help="Public key, PEM.")
@click.option("--signature", metavar="FILE", help="The signature.  [default: FOLDER/model.sig]")
@click.option("--ignore-unsigned-files", is_flag=True, help="Allow files that the signature does not name.")
@click.option(
    "--manifest", "manifest_path", metavar="MANIFEST", help="If verification fails, name the tensors by this."
)
@_ignore_path_option
@_report_options
def verify(
    folder: str,
    key: str,
    signature: str | None,
    ignore_unsigned_files: bool,
    manifest_path: str | None,
    ignore_paths: tuple[str, ...],
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
        with output.progress(folder, _folder_size(folder)) as progress:
            oms.verify(
                Path(folder),
                path,
                public_key=Path(key),
                ignore_paths=[Path(ignored) for ignored in ignore_paths],
                ignore_unsigned_files=ignore_unsigned_files,
                backend=backend,
                progress=progress,
            )
    except IntegrityError as error:
        output.line(f"{folder}: FAILED")
        output.complain(_describe(error))
        if expected is not None:
            fields["tensors"] = _diagnose(output, folder, expected, backend)
        output.document(ok=False, **fields, error=_describe(error))
        return MISMATCH
    output.line(f"{folder}: OK")
    output.document(ok=True, **fields)
    return OK


def _diagnose(output: Output, folder: str, expected: Manifest, backend: str | None) -> dict[str, Any]:
    """Name the tensors that differ in a folder already known to be wrong, as far as it can be read."""
    try:
        with output.progress(folder, _model_size(folder)) as progress:
            report = expected.verify(Path(folder), backend=backend, progress=progress)
    except BrokenPipeError:
        raise
    except _EXPECTED_ERRORS as error:
        output.complain(_describe(error))
        return {"ok": False, "error": _describe(error)}
    _print_report(output, folder, report)
    return report.to_dict()
