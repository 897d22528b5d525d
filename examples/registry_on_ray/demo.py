"""A registry of tiny models on this machine, checked by one process and by Ray's workers.

    python demo.py [COUNT]

moto is the server of S3, in a process of its own. One bit of one model is changed after
its manifest was made.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import torch
from safetensors.torch import save

from integrity_triton.models import Manifest

HERE = Path(__file__).resolve().parent
SAMPLE = 50
SERVER = """
import logging, threading
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
threading.Event().wait()
"""


@contextlib.contextmanager
def store() -> Iterator[dict[str, str]]:
    """A server of S3, and the environment variables with which it is reached, which are set here, too."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            with _reached(server.stdout.readline().strip()) as values:
                yield values
        finally:
            server.kill()


@contextlib.contextmanager
def _reached(endpoint: str) -> Iterator[dict[str, str]]:
    values = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = dict(os.environ)
    os.environ.update(values)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        yield values
    finally:
        os.environ.clear()
        os.environ.update(before)
        fsspec.get_filesystem_class("s3").clear_instance_cache()


def upload(count: int) -> str:
    """Put tiny models and their manifests into the store, and change one model. Returns its name."""
    system = fsspec.filesystem("s3")
    system.mkdir("registry")
    changed = count * 4 // 7
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        files = {}
        for i in range(count):
            data = save({"w": torch.full((200, 64), float(i)), "b": torch.arange(i + 1.0)})
            path.write_bytes(data)
            files[f"registry/manifests/m{i:04}.json"] = Manifest.build(path).to_json().encode()
            if i == changed:
                data = data[:-1] + bytes([data[-1] ^ 1])
            files[f"registry/models/m{i:04}/model.safetensors"] = data
        system.pipe(files)
    return f"m{changed:04}"


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with store() as values, tempfile.TemporaryDirectory() as results:
        print(f"{upload(count)} of {count} models is changed")
        start = time.perf_counter()
        for i in range(min(SAMPLE, count)):
            Manifest.load(f"s3://registry/manifests/m{i:04}.json").verify(f"s3://registry/models/m{i:04}")
        print(f"one process: {min(SAMPLE, count) / (time.perf_counter() - start):.1f} models/s")
        command = [sys.executable, str(HERE / "registry.py"), "s3://registry/models"]
        command += ["--manifests", "s3://registry/manifests", "--results", results]
        return subprocess.run(command, env={**os.environ, **values}, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
