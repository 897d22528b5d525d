"""The speed of hash trees beside the programs that they replace, in one run.

Prints the median time of each, and the ratio of the original's to ours: more than 1 means that ours is
faster. An original that is not installed is absent.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

import integrity_triton as it
from integrity_triton.trees import bao, dm_verity, fs_verity

from .environment import machine
from .turns import medians

_PATH = "/usr/local/bin:/usr/sbin:/sbin:/usr/bin:/bin"
_PACKAGES = {"fsverity": "fsverity", "veritysetup": "cryptsetup-bin", "b3sum": "b3sum"}


def _version(program: str) -> str:
    """The version of the Debian package of a program, as far as it is known."""
    if shutil.which(program, path=_PATH) is None:
        return "absent"
    query = ["dpkg-query", "-W", "-f", "${Version}", _PACKAGES[program]]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "of an unknown version"


def _pymerkle(data: bytes, chunk: int) -> Callable[[], bytes]:
    import pymerkle

    def root() -> bytes:
        tree = pymerkle.InmemoryTree(algorithm="sha256")
        for start in range(0, len(data), chunk):
            tree.append_entry(data[start : start + chunk])
        found: bytes = tree.get_root()
        return found

    return root


def _program(*command: str) -> Callable[[], str]:
    program = shutil.which(command[0], path=_PATH)
    assert program is not None

    def run() -> str:
        return subprocess.check_output([program, *command[1:]], text=True)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=128, help="size of the file, in 2**20 bytes")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    size = options.megabytes << 20
    versions = {program: _version(program) for program in _PACKAGES}
    try:
        versions["pymerkle"] = version("pymerkle")
    except PackageNotFoundError:
        versions["pymerkle"] = "absent"
    with tempfile.TemporaryDirectory() as folder:
        path, out, hashes = (Path(folder) / name for name in ("data", "out", "hashes"))
        data = np.random.default_rng(24).integers(0, 256, size, dtype=np.uint8).tobytes()
        path.write_bytes(data)
        root = it.blake3(data).digest()
        bao.encode_outboard_file(path, out)
        pairs: dict[str, tuple[str, Callable[[], Callable[[], object]], Callable[[], object]]] = {
            "fs-verity": (
                "fsverity",
                lambda: _program("fsverity", "digest", str(path)),
                lambda: fs_verity.measure_file(path).digest,
            ),
            "dm-verity": (
                "veritysetup",
                lambda: _program("veritysetup", "format", "--salt=-", str(path), str(hashes)),
                lambda: dm_verity.format_file(path),
            ),
            "MerkleTree, 4 KiB": (
                "pymerkle",
                lambda: _pymerkle(data, 4096),
                lambda: it.MerkleTree.of_chunks(data, chunk_size=4096).root,
            ),
            "Bao, encode outboard": (
                "b3sum",
                lambda: _program("b3sum", str(path)),
                lambda: bao.encode_outboard_file(path, out),
            ),
            "Bao, verify": (
                "b3sum",
                lambda: _program("b3sum", str(path)),
                lambda: bao.verify(out, root, data=path),
            ),
        }
        for key, value in machine().items():
            print(f"{key}: {value}")
        print(", ".join(f"{name} {found}" for name, found in versions.items()) + f", {size} bytes")
        for name, (original, make, ours) in pairs.items():
            functions = {"ours": ours}
            if versions[original] != "absent":
                functions["original"] = make()
            found = medians(options.runs, functions)
            speed = f"ours {found['ours']:.3f} s, {size / found['ours'] / 1e9:.2f} GB/s"
            if "original" in found:
                ratio = found["original"] / found["ours"]
                print(f"{name:22} {original} {found['original']:.3f} s, {speed}, ratio {ratio:.2f}")
            else:
                print(f"{name:22} {original} absent, {speed}")


if __name__ == "__main__":
    main()
