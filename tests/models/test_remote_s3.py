"""Models in object storage: a server of S3 on this machine, and the package s3fs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import integrity_triton as it
from integrity_triton.models import FileDigests, LoadError, Manifest, ManifestError, load_verified
from integrity_triton.remote_files import Url

fsspec = pytest.importorskip("fsspec", reason="absent: fsspec")
pytest.importorskip("s3fs", reason="absent: s3fs")
pytest.importorskip("flask_cors", reason="absent: flask-cors")
moto = pytest.importorskip("moto.server", reason="absent: moto")
save_file = pytest.importorskip("safetensors.torch", reason="absent: safetensors").save_file

pytestmark = pytest.mark.slow

MODEL = "s3://models/tiny"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system with which the tests change the store. fsspec keeps file systems, and those of other
    tests have another server."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    kind = fsspec.get_filesystem_class("s3")
    kind.clear_instance_cache()
    system = fsspec.filesystem("s3", use_listings_cache=False)
    if not system.exists("models"):
        system.mkdir("models")
    yield system
    kind.clear_instance_cache()


@pytest.fixture
def folder(tmp_path: Path, store: Any) -> Path:
    """A model of two files, one of them of several requests, on disk and at MODEL."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    save_file({"big": torch.randn(3_500_000, generator=generator)}, folder / "big.safetensors")
    save_file(
        {f"t{i}": torch.randn(i, 100, generator=generator) for i in range(50)}, folder / "small.safetensors"
    )
    for path in folder.iterdir():
        store.pipe(f"models/tiny/{path.name}", path.read_bytes())
    return folder


def test_the_same_as_on_disk(folder: Path) -> None:
    manifest = Manifest.build(MODEL)
    assert manifest == Manifest.build(folder) and manifest.verify(MODEL).ok
    assert it.hash_file(f"{MODEL}/big.safetensors", "sha256") == it.hash_file(
        folder / "big.safetensors", "sha256"
    )
    files = FileDigests.of({path.name: it.hash_file(path, "blake3") for path in folder.iterdir()}, "blake3")
    found, expected = load_verified(MODEL, against=[manifest, files]), load_verified(folder, against=manifest)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_flipped_bit_is_named(folder: Path, store: Any) -> None:
    manifest = Manifest.build(folder)
    data = bytearray((folder / "big.safetensors").read_bytes())
    data[len(data) // 2] ^= 4
    store.pipe("models/tiny/big.safetensors", bytes(data))
    assert [change.name for change in manifest.verify(MODEL).changed] == ["big"]
    with pytest.raises(LoadError, match=f"{MODEL}/big.safetensors: tensor 'big'"):
        load_verified(MODEL, against=manifest)


def test_a_file_that_is_written_meanwhile(folder: Path, store: Any) -> None:
    changed: list[int] = []

    def change(nbytes: int) -> None:
        if not changed:
            store.pipe(
                "models/tiny/small.safetensors", (folder / "small.safetensors").read_bytes()[:-1] + b"\1"
            )
        changed.append(nbytes)

    with pytest.raises(
        ManifestError, match=f"{MODEL}/small.safetensors: the file changed while it was being"
    ):
        Manifest.build(MODEL, progress=change)
    assert ("ETag", store.info("models/tiny/small.safetensors")["ETag"]) in (
        Url(f"{MODEL}/small.safetensors").file().version
    )


def test_errors_name_the_url(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("s3://no-such-bucket/x", f"{MODEL}/nothing.safetensors"):
        with pytest.raises(FileNotFoundError, match=url):
            Manifest.build(url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(OSError, match=r"the store failed: Could not connect.*s3://models/tiny"):
        Manifest.build(MODEL)
