"""The speed of Hugging Face's digests beside their originals, in one run.

Prints the median time of each, and the ratio of the original's to ours: more than 1 means that ours is
faster. The originals are hf_xet, the ``git`` of this machine and what huggingface_hub's check of a folder
computes for a file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from integrity_triton.integrations import huggingface as hub

from .environment import machine
from .turns import medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=128, help="size of the file, in 2**20 bytes")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    import hf_xet
    from huggingface_hub.utils._verification import compute_file_hash

    size = options.megabytes << 20
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(np.random.default_rng(22).integers(0, 256, size, dtype=np.uint8).tobytes())
        response = [{"path": path.name, "oid": "0" * 40, "size": size}]
        response[0]["lfs"] = {"oid": hub.lfs_sha256(path), "size": size}
        saved = json.dumps(response)
        pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "xet": (lambda: hf_xet.hash_files([str(path)])[0].hash, lambda: hub.xet_hash(path)),
            "git blob": (
                lambda: subprocess.check_output(
                    ["git", "hash-object", "--no-filters", path], text=True
                ).strip(),
                lambda: hub.git_blob_sha1(path),
            ),
            "LFS": (lambda: compute_file_hash(path, "sha256"), lambda: hub.lfs_sha256(path)),
            "check of a folder": (
                lambda: compute_file_hash(path, "sha256"),
                lambda: hub.verify_download(folder, saved).raise_for_mismatch(),
            ),
        }
        for name, (original, ours) in pairs.items():
            if name != "check of a folder" and original() != ours():
                raise SystemExit(f"{name}: the digests differ")
        for key, value in machine().items():
            print(f"{key}: {value}")
        print(f"hf_xet {version('hf_xet')}, huggingface_hub {version('huggingface_hub')}, {size} bytes")
        for name, (original, ours) in pairs.items():
            found = medians(options.runs, {"original": original, "ours": ours})
            ratio = found["original"] / found["ours"]
            speed = f"{size / found['ours'] / 1e9:.2f} GB/s"
            print(
                f"{name:18} {found['original']:.3f} s, ours {found['ours']:.3f} s, {speed}, ratio {ratio:.2f}"
            )


if __name__ == "__main__":
    main()
