"""Uses ``examples/third_party_hash`` as its users do: the package is installed, found by its entry point, and
run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "examples" / "third_party_hash"

SCRIPT = """
import sys
import integrity_triton as it
from integrity_triton_ascon.oracle import ascon_hash256

backend = sys.argv[1]
record = it.algorithms.get("Ascon-Hash256")
assert record.name in it.algorithms_available and it.ascon_hash256.__name__ == "ascon_hash256"
messages = [bytes(i * 7 % 256 for i in range(n)) for n in (0, 1, 7, 8, 9, 15, 16, 40)]
digests = it.hash_batch(messages, "ascon_hash256", backend=backend)
assert [bytes(row.tolist()) for row in digests] == [ascon_hash256(m).digest() for m in messages]
hasher = it.ascon_hash256(messages[-1][:3], backend=backend)
hasher.update(messages[-1][3:])
twin = hasher.copy()
twin.update(b"more")
assert hasher.digest() == ascon_hash256(messages[-1]).digest()
assert twin.digest() == ascon_hash256(messages[-1] + b"more").digest()
# HMAC needs a block that holds a digest (FIPS 198-1, section 4); this hash's has 8 bytes.
assert "hmac_ascon_hash256" not in it.algorithms_available
print("ok")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment in which the package is installed. It is built from a copy, since building writes files
    beside the source."""
    folder = tmp_path_factory.mktemp("third_party")
    source, target = folder / "source", folder / "target"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"absent: pip cannot build it here: {done.stderr.strip()[-200:]}")
    return {**os.environ, "PYTHONPATH": f"{target}{os.pathsep}{ROOT}"}


def run(environment, *command):
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_it_is_listed(installed):
    done = run(installed, "-m", "integrity_triton", "algorithms", "ascon_hash256")
    assert done.returncode == 0, done.stderr
    assert "NIST SP 800-232" in done.stdout


def test_it_runs(installed):
    done = run(installed, "-c", SCRIPT, "interpreter")
    assert done.stdout == "ok\n", done.stderr


@pytest.mark.slow
def test_it_conforms(installed, tmp_path):
    report = tmp_path / "report.json"
    options = [
        "--backend",
        "interpreter",
        "--algorithm",
        "ascon_hash256",
        "--quick",
        "--seed",
        "1",
        "--report",
        report,
    ]
    done = run(installed, "-m", "integrity_triton", "conformance", *map(str, options))
    assert done.returncode == 0, done.stdout + done.stderr
    (cell,) = json.loads(report.read_text())["cells"]
    assert (cell["algorithm"], cell["status"]) == ("ascon_hash256", "ran")
    assert cell["checks"]["known answers"]
    assert cell["launches"]


def test_its_oracle_has_the_published_digests():
    """The authors' known answers (github.com/ascon/ascon-c, LWC_HASH_KAT_128_256.txt), counts 1, 2, 9."""
    sys.path.insert(0, str(PACKAGE))
    try:
        from integrity_triton_ascon.oracle import ascon_hash256
    finally:
        sys.path.remove(str(PACKAGE))
    for message, digest in (
        ("", "0b3be5850f2f6b98caf29f8fdea89b64a1fa70aa249b8f839bd53baa304d92b2"),
        ("00", "0728621035af3ed2bca03bf6fde900f9456f5330e4b5ee23e7f6a1e70291bc80"),
        ("0001020304050607", "b88e497ae8e6fb641b87ef622eb8f2fca0ed95383f7ffebe167acf1099ba764f"),
    ):
        assert ascon_hash256(bytes.fromhex(message)).digest().hex() == digest


PLUG_IN = """
import hashlib, os, sys, time
from dataclasses import replace
from integrity_triton import algorithms

print("printed when it is imported")


def leave(data=b""):
    sys.exit(0)


def hang(data=b""):
    while True:
        time.sleep(0.01)


def talk(data=b""):
    print("printed by Python")
    os.write(1, b"printed by a library\\n")
    return hashlib.sha256(data)


RECORDS = [
    replace(
        algorithms.get("sha256"), name=f"plug_{f.__name__}", aliases=(), native=f"plug:{f.__name__}",
        answers=f"plug:{f.__name__}.json",
    )
    for f in (leave, hang, talk)
]
"""


def test_a_plug_in_does_not_end_hang_or_corrupt_a_run(tmp_path):
    package, entry = tmp_path / "plug", tmp_path / "plug-1.0.dist-info"
    package.mkdir()
    entry.mkdir()
    package.joinpath("__init__.py").write_text(PLUG_IN)
    entry.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    entry.joinpath("entry_points.txt").write_text("[integrity_triton.algorithms]\nplug = plug:RECORDS\n")
    answers = (ROOT / "integrity_triton" / "algorithms" / "answers" / "sha256.json").read_text()
    for name in ("leave", "hang", "talk"):
        own = json.loads(answers) | {"algorithm": f"plug_{name}"}
        package.joinpath(f"{name}.json").write_text(json.dumps(own))
    command = ["-m", "integrity_triton", "conformance", "--quick", "--backend", "native", "--json"]
    names = ["plug_leave", "plug_hang", "plug_talk", "sha256"]
    options = [word for name in names for word in ("--algorithm", name)]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = run(environment, *command, *options, "--timeout", "1", "--seed", "1")
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)  # and nothing else
    cells = {cell["algorithm"]: cell for cell in document["cells"]}
    assert {name: cells[name]["status"] for name in names} == {
        "plug_leave": "failed",
        "plug_hang": "failed",
        "plug_talk": "ran",
        "sha256": "ran",
    }
    assert "longer than 1 seconds" in json.dumps(cells["plug_hang"])
    assert "SystemExit: 0" in json.dumps(cells["plug_leave"])
    for text in ("when it is imported", "by Python", "by a library"):
        assert f"printed {text}" in done.stderr
