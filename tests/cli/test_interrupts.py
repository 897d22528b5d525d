"""An interrupt from the keyboard ends every command with status 130, also if a library swallows it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

# It keeps the statuses() that it finds when it is imported, which must not be that of a test.
import integrity_triton.conformance.environment  # noqa: F401
from integrity_triton import cli
from integrity_triton.backends import registry
from integrity_triton.cli import interrupts
from support import interruptible

BENCH = ("bench", "sha256", "--backend", "native", "--size", "64", "--count", "32", "--seconds", "0.2")


@pytest.fixture(autouse=True)
def python_handles_interrupts():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored in the background
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def swallows(error: type[BaseException] | None) -> Any:
    """``registry.statuses``, with an interrupt that becomes another exception, or none."""
    real = registry.statuses

    def statuses() -> Any:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if error is not None:
                raise error("numpy cannot be imported") from None
        return real()

    return statuses


@pytest.mark.parametrize("error", [None, ImportError, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("command", [("devices",), BENCH])
def test_a_swallowed_interrupt_ends_the_command(monkeypatch, capsys, command, options, error):
    monkeypatch.setattr(registry, "statuses", swallows(error))
    assert cli.main([*command, *options]) == 130
    assert capsys.readouterr() == ("", "")


def test_what_is_written_after_an_interrupt_was_accepted(monkeypatch, capsys):
    from integrity_triton.cli import bench

    monkeypatch.setattr(bench, "_measure", lambda *_: signal.raise_signal(signal.SIGINT))
    assert cli.main([*BENCH, "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"] == "interrupted"


def test_the_next_command_is_not_interrupted(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(registry, "statuses", swallows(None))
        assert cli.main(["devices"]) == 130
    assert cli.main(["devices"]) == 0


def test_other_handlers_and_threads_are_left_alone():
    came = []
    signal.signal(signal.SIGINT, lambda *_: came.append(True))
    with interrupts.noting():
        signal.raise_signal(signal.SIGINT)
        assert (came, interrupts.noted()) == ([True], False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(cli.main(["devices"])))
    thread.start()
    thread.join()
    assert status == [0]


HOOK = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPTED_IMPORT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
            while True: pass
sys.meta_path.insert(0, Interrupting())
"""


@pytest.mark.parametrize("module", ["numpy._core.records", "numpy.exceptions"])
def test_an_interrupt_while_numpy_is_imported(tmp_path: Path, module: str) -> None:
    """torch imports NumPy from C++ and goes on without it."""
    tmp_path.joinpath("sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        interruptible([sys.executable, "-m", "integrity_triton", *BENCH]),
        env={**os.environ, "PYTHONPATH": path, "INTERRUPTED_IMPORT": module},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
