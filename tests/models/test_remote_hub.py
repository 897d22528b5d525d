"""Models on the Hugging Face Hub: a server on this machine that answers as the Hub does, and the file system
of huggingface_hub."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import Hub

import integrity_triton as it
from integrity_triton import remote_files
from integrity_triton.models import LoadError, Manifest, ManifestError, load_verified
from integrity_triton.remote_files import READ_AHEAD, Url

pytest.importorskip("fsspec", reason="absent: fsspec")
huggingface_hub = pytest.importorskip("huggingface_hub", reason="absent: huggingface_hub")
save_file = pytest.importorskip("safetensors.torch", reason="absent: safetensors").save_file

MODEL = "hf://organisation/tiny"
BIG, SMALL = "big.safetensors", "adapter/small.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub, with a model of two files, one of them of many requests, and others."""
    monkeypatch.setattr(remote_files, "PIECE_SIZE", 10_000)
    folder = tmp_path / "organisation" / "tiny"
    (folder / "adapter").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    save_file({"big": torch.randn(60_000, generator=generator)}, folder / BIG)
    save_file({"a": torch.randn(30, 10, generator=generator), "b": torch.ones(7)}, folder / SMALL)
    for name in ("config.json", "README.md", "tokenizer.json"):
        (folder / name).write_text("{}")
    server = Hub(tmp_path)
    kind = huggingface_hub.HfFileSystem
    # What HF_ENDPOINT changes; it is read when the package is imported.
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    kind.clear_instance_cache()
    yield server
    kind.clear_instance_cache()
    huggingface_hub.close_session()
    server.close()


def model(hub: Hub) -> Path:
    return hub.root / "organisation" / "tiny"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.slow
def test_the_same_as_on_disk(hub: Hub) -> None:
    folder = model(hub)
    manifest = Manifest.build(folder)
    assert Manifest.build(MODEL) == manifest and manifest.verify(MODEL).ok
    assert Manifest.build(f"{MODEL}@main") == manifest
    for name in (BIG, SMALL):
        assert it.hash_file(f"{MODEL}/{name}", "sha256") == it.hash_file(folder / name, "sha256")
    roots = it.models.distributed.root_of_files
    assert roots(MODEL) == roots(folder)
    found, expected = load_verified(MODEL, against=manifest), load_verified(folder, against=manifest)
    assert found.keys() == expected.keys() == {"big", "adapter/a", "adapter/b"}
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert sorted(Url(MODEL).files()) == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    # The tree came in pages, and files in ranges.
    assert any("cursor=" in request for request in hub.requests)
    assert max(end - start for _, start, end in hub.ranges) == 10_000


def test_ranges_are_read_in_parallel_and_bounded(hub: Hub) -> None:
    file = Url(f"{MODEL}/{BIG}").file()
    together = threading.Barrier(READ_AHEAD - 1, timeout=60)
    taken, most = 0, 0

    def before(name: str, start: int, end: int) -> None:
        nonlocal most
        most = max(most, len(hub.ranges) - taken)
        if start < (READ_AHEAD - 1) * 10_000:  # the first ones are answered when all of them have come
            together.wait()

    hub.before = before
    found = []
    for piece in file.pieces():
        found.append(bytes(piece))
        taken += 1
    assert b"".join(found) == (model(hub) / BIG).read_bytes()
    assert READ_AHEAD - 1 <= most <= READ_AHEAD
    assert sorted(hub.ranges) == [(BIG, i, min(i + 10_000, file.size)) for i in range(0, file.size, 10_000)]
    hub.ranges.clear()
    hub.before = lambda name, start, end: None
    assert file.read(25_000, 45_001) == (model(hub) / BIG).read_bytes()[25_000:45_001]
    assert sorted(hub.ranges) == [(BIG, 25_000, 35_000), (BIG, 35_000, 45_000), (BIG, 45_000, 45_001)]


def test_files_are_opened_one_at_a_time(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system looks at a listing that it keeps whenever it opens a file."""
    kind = huggingface_hub.HfFileSystem
    original, inside, most = kind.open, [0], [0]

    def opened(*args: Any, **options: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.005)
        try:
            return original(*args, **options)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(kind, "open", opened)
    file = Url(f"{MODEL}/{BIG}").file()
    assert file.read(0, 100_000) == (model(hub) / BIG).read_bytes()[:100_000]
    assert most == [1]


@pytest.mark.slow
def test_a_tampered_byte_is_named(hub: Hub) -> None:
    manifest = Manifest.build(MODEL)
    flip(model(hub) / BIG, -123)
    report = manifest.verify(MODEL)
    assert [change.name for change in report.changed] == ["big"] and not report.missing
    with pytest.raises(LoadError, match=rf"{MODEL}/{BIG}: tensor 'big'") as caught:
        load_verified(MODEL, against=manifest)
    assert caught.value.tensor == "big" and caught.value.file == f"{MODEL}/{BIG}"


@pytest.mark.slow
@pytest.mark.parametrize("same_length", [True, False])
def test_a_file_that_changes_meanwhile(hub: Hub, same_length: bool) -> None:
    """The branch gets another commit while its file is read. The Hub then serves the new file."""
    path = model(hub) / BIG
    manifest = Manifest.build(MODEL)
    lock = threading.Lock()
    original = path.read_bytes()

    def before(name: str, start: int, end: int) -> None:
        with lock:
            if name == BIG and start >= 100_000 and path.read_bytes() == original:
                path.write_bytes(original[:-1] + b"?" if same_length else original + b"?")

    hub.before = before
    for read in (Manifest.build, lambda url: load_verified(url, against=manifest)):
        path.write_bytes(original)
        with pytest.raises((ManifestError, LoadError), match="changed while it was being read"):
            read(MODEL)


@pytest.mark.parametrize("cut", [False, True])
def test_a_server_that_does_not_serve_ranges(hub: Hub, cut: bool) -> None:
    hub.answer = (lambda part, whole: (206, part[:-1])) if cut else (lambda part, whole: (200, whole))
    size = (model(hub) / BIG).stat().st_size
    gave = 9_999 if cut else size
    said = rf"the store gave {gave} bytes for the range \d+ to \d+: it does not serve ranges"
    with pytest.raises(OSError, match=said) as caught:
        it.hash_file(f"{MODEL}/{BIG}", "sha256")
    assert caught.value.filename == f"{MODEL}/{BIG}"


def test_errors_name_the_url(hub: Hub) -> None:
    for url in (f"{MODEL}/nothing.safetensors", "hf://organisation/nothing", f"{MODEL}@nothing/{BIG}"):
        with pytest.raises(FileNotFoundError, match=re.escape(url)):
            it.hash_file(url, "sha256")
    hub.answer = lambda part, whole: (403, b"")
    with pytest.raises(OSError, match=f"{MODEL}/{BIG}"):
        it.hash_file(f"{MODEL}/{BIG}", "sha256")


@pytest.mark.slow
def test_the_command_line_with_an_endpoint_in_the_environment(hub: Hub, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    manifest = tmp_path / "m.json"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "integrity_triton", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    created = run("manifest", "create", MODEL, "-o", str(manifest))
    assert created.returncode == 0, created.stderr
    assert Manifest.load(manifest) == Manifest.build(model(hub)) and json.loads(manifest.read_text())
    assert run("manifest", "verify", str(manifest), MODEL).returncode == 0
    flip(model(hub) / SMALL, -1)
    refused = run("manifest", "verify", str(manifest), MODEL)
    assert refused.returncode == 1 and "'adapter/b'" in refused.stdout + refused.stderr
