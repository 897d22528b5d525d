"""Runs the examples as a user would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.slow
def test_copy_and_hash():
    result = subprocess.run(
        [sys.executable, EXAMPLES / "copy_and_hash.py"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "copied and hashed" in result.stdout


def test_the_interpreter_backend_declines_tritons_own_interpreter_mode():
    """If TRITON_INTERPRET is set, jitted kernels have another form than the one that this backend takes
    apart."""
    script = (
        "import integrity_triton as it\n"
        "(status,) = [b for b in it.backends() if b.name == 'interpreter']\n"
        "assert not status.available and 'TRITON_INTERPRET' in status.reason, status\n"
        "assert it.hash_batch([b'x'], 'sha256').shape == (1, 32)\n"
    )
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "TRITON_INTERPRET": "1"}, check=True)
