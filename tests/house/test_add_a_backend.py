"""The backends of docs/guide/add_a_backend.md, taken from the page; the second is installed and checked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "guide" / "add_a_backend.md").read_text("utf-8")
JIT, POOL = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(PROJECT,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
(COMMANDS,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backend")
    source, target = folder / "source", folder / "target"
    (source / "integrity_triton_pool").mkdir(parents=True)
    (source / "integrity_triton_pool" / "__init__.py").write_text(POOL)
    (source / "pyproject.toml").write_text(PROJECT)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"absent: pip cannot build it here: {done.stderr.strip()[-200:]}")
    return {**os.environ, "PYTHONPATH": f"{target}{os.pathsep}{ROOT}"}


def run(environment, command):
    words = [sys.executable, "-m", "integrity_triton", *command.split()[1:]]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.slow
def test_the_package_conforms(installed, tmp_path):
    install, devices, conformance = COMMANDS.splitlines()
    assert install == "pip install --no-deps ."
    done = run(installed, devices)
    assert done.returncode == 0, done.stderr
    assert "hashlib in a pool of threads" in done.stdout
    report = tmp_path / "report.json"
    done = run(installed, f"{conformance} --jobs 1 --seed 1 --report {report}")
    assert done.returncode == 0, done.stdout + done.stderr
    cells = json.loads(report.read_text())["cells"]
    ran = {cell["algorithm"] for cell in cells if cell["status"] == "ran"}
    assert ran == {"md5", "sha1", "sha224", "sha256", "sha384", "sha512"} | {
        f"sha3_{bits}" for bits in (224, 256, 384, 512)
    }
    assert all(cell["reason"] for cell in cells if cell["status"] == "absent")


def test_the_jit_backend_says_why_it_is_absent():
    namespace = {}
    exec(JIT, namespace)
    probe = namespace["MtiaBackend"]().probe()
    assert not probe.available
    assert "MTIA" in probe.reason
