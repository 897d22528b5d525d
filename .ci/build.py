#!/usr/bin/env python3
"""Builds the source distribution and the wheel of the last commit, twice, and compares.

    python3 .ci/build.py [FOLDER]            # dist, if no folder is given

The bytes depend on the commit and on ``requirements-build.txt``. They do not depend on the folder, the user,
the umask, the time, or files that are not committed. (Another zlib may compress the same files differently.)
All times in the archives are the commit's. The wheel is built from the source distribution, and each has to
hold every committed file that belongs in it.
"""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Folders that are installed, and their names in the wheel.
INSTALLED = {"integrity_triton/": "integrity_triton/", "kernels/": "integrity_triton/kernels/"}


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


def install_tools(folder: Path) -> str:
    """The interpreter of a new virtual environment that has the pinned tools."""
    venv.create(folder, with_pip=True)
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    pins = str(Path(__file__).with_name("requirements-build.txt"))
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", pins]
    subprocess.run(command, check=True)
    return python


def normalized(archive: bytes, time: int) -> bytes:
    """The same files in the order of their names, with ``time``, no owner, and the modes of a fresh checkout.

    setuptools gives what it generates the time of the build (its issue 2133).
    """
    plain = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as source,
        tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in sorted(source.getmembers(), key=lambda member: member.name):
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = time
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            target.addfile(member, source.extractfile(member))
    return gzip.compress(plain.getvalue(), mtime=time)


def build(python: str, folder: Path) -> dict[str, bytes]:
    """The two files by their names, built in ``folder``, the source distribution first."""
    out = folder / "out"
    time = int(git("log", "-1", "--format=%ct"))
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(time)}

    def run(kind: str, archive: bytes, suffix: str) -> Path:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            # Python 3.10 and 3.11 have filters only in their later versions. This made the archive itself.
            filtered: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(folder / kind, **filtered)
        (source,) = (folder / kind).iterdir()
        command = [python, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), str(source)]
        try:
            subprocess.run(command, check=True, env=environment, capture_output=True)
        except subprocess.CalledProcessError as error:
            sys.exit(f"{error.stdout.decode()}{error.stderr.decode()}")
        (found,) = out.glob(f"*{suffix}")
        return found

    checkout = git("-c", "tar.umask=0022", "archive", "--prefix=checkout/", "HEAD")
    source = run("sdist", checkout, ".tar.gz")
    archive = normalized(source.read_bytes(), time)
    wheel = run("wheel", archive, ".whl")
    return {source.name: archive, wheel.name: wheel.read_bytes()}


def missing(source: bytes, wheel: bytes) -> list[str]:
    """What was committed and has no place in them."""
    committed = git("ls-tree", "-r", "-z", "--name-only", "HEAD").decode().rstrip("\0").split("\0")
    with tarfile.open(fileobj=io.BytesIO(source)) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    lacking = [f"the source distribution lacks {name}" for name in committed if name not in packed]
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        packed = set(archive.namelist())
    for name in committed:
        for folder, place in INSTALLED.items():
            if name.startswith(folder) and name.replace(folder, place, 1) not in packed:
                lacking.append(f"the wheel lacks {name}")
    return lacking


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").absolute()
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as work:
        python = install_tools(Path(work, "tools"))
        files = build(python, Path(work, "one"))
        if build(python, Path(work, "another", "folder")) != files:
            sys.exit("two builds of one commit differ")
        if lacking := missing(*files.values()):
            sys.exit("\n".join(lacking))
        target.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (target / name).write_bytes(content)
        paths = [target / name for name in files]
        subprocess.run([python, "-m", "twine", "check", "--strict", *paths], check=True)


if __name__ == "__main__":
    main()
