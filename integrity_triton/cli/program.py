"""The program: its commands, and what becomes of an error that one of them raises."""

from __future__ import annotations

import itertools
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

import click

from .._version import __version__
from . import interrupts
from .algorithms import algorithms
from .aot import aot
from .attestation import attest, verify_attestation
from .bench import bench
from .conformance import conformance
from .devices import devices
from .guard import guard
from .hash import hash_files
from .load_check import load_check
from .manifest import manifest
from .outcome import BROKEN_PIPE, EXPECTED_ERRORS, INTERRUPTED, OK, TROUBLE, describe
from .signing import digest, keygen, sign, verify
from .tensors import tensors
from .terminal import PROGRAM, complain, write_document
from .tree import tree


@click.group(
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 good, 1 mismatch, 2 anything else that went wrong.",
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def _commands() -> None:
    """Hash files, and make, sign and verify models, on the fastest device there is."""


for _command in (
    algorithms,
    aot,
    attest,
    bench,
    conformance,
    devices,
    digest,
    guard,
    hash_files,
    keygen,
    load_check,
    manifest,
    sign,
    tensors,
    tree,
    verify,
    verify_attestation,
):
    _commands.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default the arguments of this process, and return the exit status.

    The status is 0 if everything is good, 1 if data, a manifest or a signature does not match, and 2 for
    everything else that goes wrong, which includes faults of this program. It is 130 after an interrupt, and
    141 if the reader of the output has gone away.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with interrupts.noting():
        status = _run(given)
        _settle_streams()
    return status


def _run(given: list[str]) -> int:
    as_json = "--json" in itertools.takewhile(lambda argument: argument != "--", given)
    try:
        with _commands.make_context(PROGRAM, given) as context:
            status: int = _commands.invoke(context)
        return INTERRUPTED if interrupts.noted() else status
    except click.exceptions.Exit as exit_:
        if exit_.exit_code == OK and sys.stdout is None:  # click drops the text of --help and --version
            return _fail("standard output is closed", as_json)
        return exit_.exit_code
    except click.ClickException as error:
        return _fail(_usage(error), as_json)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except EXPECTED_ERRORS as error:  # a command that verifies reports a mismatch itself
        return _fail(describe(error), as_json)
    except (Exception, SystemExit) as error:  # a plug-in may even try to end the program
        if not interrupts.noted():
            with suppress(OSError):
                traceback.print_exc()
        return _fail(f"internal error: {type(error).__name__}: {error}", as_json)


def _fail(message: str, as_json: bool) -> int:
    if interrupts.noted():  # a library has made another exception of it
        return INTERRUPTED
    complain(message)
    if as_json:
        with suppress(OSError):  # the error may be that stdout cannot be written
            write_document(ok=False, error=message)
    return TROUBLE


def _settle_streams() -> None:
    """Drop output that stdout or stderr could not take. Python would try to write it again at exit, and
    replace the exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _usage(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return message if context is None else f"{message} (see '{context.command_path} --help')"
