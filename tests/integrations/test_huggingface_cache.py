"""Caches and download folders that huggingface_hub itself makes, from a server on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from integrity_triton.errors import IntegrityError
from integrity_triton.integrations import huggingface as hub
from integrity_triton.models.errors import ManifestError
from integrity_triton.models.file_digests import FileDigests

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "org/model"
WEIGHTS = random.Random(22).randbytes(300_000)
FILES = {
    "config.json": b'{"model_type": "bert"}\n',
    "model.safetensors": WEIGHTS,
    "onnx/model.onnx": WEIGHTS[:70_000],
    "empty": b"",
}
LARGE = {"model.safetensors", "onnx/model.onnx"}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _etag(name: str) -> str:
    return _sha256(FILES[name]) if name in LARGE else _blob_id(FILES[name])


def _tree_response() -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "onnx"}]
    for name, data in FILES.items():
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _blob_id(data)}
        if name in LARGE:
            entry["oid"] = "1" * 40  # that of the pointer
            entry["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": 134}
        files.append(entry)
    return files


def _model_response() -> dict[str, Any]:
    siblings = []
    for entry in _tree_response()[1:]:
        sibling = {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
        if "lfs" in entry:
            lfs = entry["lfs"]
            sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": 134}
        siblings.append(sibling)
    return {"id": REPOSITORY, "sha": COMMIT, "downloads": 1.5, "siblings": siblings, "tags": []}


class _Hub(BaseHTTPRequestHandler):
    """As much of the Hub as huggingface_hub needs to download a repository."""

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        prefix = f"/{REPOSITORY}/resolve/"
        headers = {"Content-Type": "application/json"}
        if path.startswith(prefix):
            name = path.removeprefix(prefix).split("/", 1)[1]
            data = FILES[name]
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_etag(name)}"'}
        elif path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            data = json.dumps(_tree_response()).encode()
        else:
            data = json.dumps(_model_response()).encode()
        self.send_response(200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def huggingface_hub() -> Any:
    return pytest.importorskip("huggingface_hub", reason="absent: huggingface_hub is not installed")


@pytest.fixture
def cache(tmp_path: Path, endpoint: str, huggingface_hub: Any) -> Path:
    folder = tmp_path / "hub"
    huggingface_hub.snapshot_download(
        REPOSITORY, cache_dir=folder, endpoint=endpoint, token=False, library_name="test"
    )
    return folder


@pytest.fixture
def repository(cache: Path) -> Path:
    return cache / "models--org--model"


@pytest.fixture
def snapshot(repository: Path) -> Path:
    return repository / "snapshots" / COMMIT


@pytest.fixture
def local(tmp_path: Path, endpoint: str, huggingface_hub: Any) -> Path:
    folder = tmp_path / "local"
    huggingface_hub.snapshot_download(REPOSITORY, local_dir=folder, endpoint=endpoint, token=False)
    return folder


def _statuses(report: hub.DownloadReport) -> dict[str, str]:
    return {file.path: file.status for file in report.files if file.status != "matched"}


def _reason(report: hub.DownloadReport, path: str) -> str:
    [file] = [file for file in report.files if file.path == path]
    assert file.status != "matched"
    assert not report.ok
    with pytest.raises(IntegrityError) as caught:
        report.raise_for_mismatch()
    assert file.reason in str(caught.value)
    return file.reason


def _overwrite(path: Path, data: bytes) -> None:
    target = path.resolve()
    target.chmod(0o644)
    target.write_bytes(data)


def test_a_clean_cache(cache: Path, repository: Path, snapshot: Path) -> None:
    seen: list[int] = []
    report = hub.verify_cache(snapshot, progress=seen.append)
    assert report.ok, report
    assert [file.path for file in report.files] == sorted(FILES)
    assert {file.algorithm for file in report.files} == {"sha256", "git-sha1"}
    assert sum(seen) == sum(map(len, FILES.values()))
    names = [f"snapshots/{COMMIT}/{name}" for name in sorted(FILES)]
    assert [file.path for file in hub.verify_cache(repository).files] == names
    assert [f.path for f in hub.verify_cache(cache).files] == [f"models--org--model/{name}" for name in names]
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_a_clean_local_folder(local: Path) -> None:
    report = hub.verify_cache(local)
    assert report.ok, report
    assert [file.path for file in report.files] == sorted(FILES)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "empty"])
def test_changed_content(name: str, snapshot: Path, local: Path) -> None:
    changed = bytearray(FILES[name] or b"x")
    changed[0] ^= 1
    for folder in (snapshot, local):
        _overwrite(folder / name, bytes(changed))
        report = hub.verify_cache(folder)
        assert _statuses(report) == {name: "differs"}
        [file] = [file for file in report.files if file.path == name]
        assert file.expected == _etag(name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_content_of_the_same_size(name: str, snapshot: Path) -> None:
    for path in (snapshot.parents[1] / "trees").glob("*"):
        path.unlink()
    changed = bytearray(FILES[name])
    changed[-1] ^= 0x80
    _overwrite(snapshot / name, bytes(changed))
    digest = _sha256(changed) if name in LARGE else _blob_id(bytes(changed))
    assert digest in _reason(hub.verify_cache(snapshot), name)


def test_a_missing_blob(snapshot: Path) -> None:
    (snapshot / "config.json").resolve().unlink()
    report = hub.verify_cache(snapshot)
    assert _statuses(report) == {"config.json": "missing"}
    assert "not there" in _reason(report, "config.json")


def test_a_missing_local_file(local: Path) -> None:
    (local / "onnx/model.onnx").unlink()
    assert _statuses(hub.verify_cache(local)) == {"onnx/model.onnx": "missing"}


def test_links_that_are_exchanged(snapshot: Path) -> None:
    """Each blob has the content that its name says. Only the list of the commit's files tells that the names
    of the two files are exchanged."""
    first, second = snapshot / "config.json", snapshot / "empty"
    targets = os.readlink(first), os.readlink(second)
    first.unlink()
    second.unlink()
    first.symlink_to(targets[1])
    second.symlink_to(targets[0])
    tree = snapshot.parents[1] / "trees" / f"{COMMIT}.json"
    if not tree.exists():
        tree.parent.mkdir(exist_ok=True)
        entries = {name: {"size": len(data), "blob_id": _blob_id(data)} for name, data in FILES.items()}
        for name in LARGE:
            entries[name] |= {"lfs_sha256": _sha256(FILES[name]), "lfs_size": len(FILES[name])}
        tree.write_text(json.dumps({"format_version": 1, "files": entries}))
    assert _statuses(hub.verify_cache(snapshot)) == {"config.json": "differs", "empty": "differs"}
    tree.unlink()
    assert hub.verify_cache(snapshot).ok
    assert not hub.verify_download(snapshot, json.dumps(_model_response())).ok


def test_a_file_in_place_of_a_link(snapshot: Path) -> None:
    """As on systems without links."""
    path = snapshot / "config.json"
    path.unlink()
    path.write_bytes(FILES["config.json"])
    tree = snapshot.parents[1] / "trees" / f"{COMMIT}.json"
    tree.unlink(missing_ok=True)
    assert "not a link to a blob" in _reason(hub.verify_cache(snapshot), "config.json")
    with pytest.raises(ManifestError, match=r"'config.json': not a link"):
        hub.expected_files(snapshot)
    tree.parent.mkdir(exist_ok=True)
    entry = {"size": len(FILES["config.json"]), "blob_id": _blob_id(FILES["config.json"])}
    tree.write_text(json.dumps({"format_version": 1, "files": {"config.json": entry}}))
    assert hub.verify_cache(snapshot).ok
    path.write_bytes(FILES["config.json"][::-1])
    assert _statuses(hub.verify_cache(snapshot)) == {"config.json": "differs"}


def test_links_that_leave_the_cache(snapshot: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    etag = _etag("config.json")
    (outside / etag).write_bytes(FILES["config.json"])
    path = snapshot / "config.json"
    (snapshot.parents[1] / "blobs" / "folder").symlink_to(outside / "below")
    (outside / "below").mkdir()
    for target in (outside / etag, f"../../blobs/folder/../{etag}", "/dev/zero", ".", "../../blobs"):
        path.unlink()
        path.symlink_to(target)
        assert "does not lead to a blob" in _reason(hub.verify_cache(snapshot), "config.json")


def test_loops_and_other_kinds(snapshot: Path) -> None:
    blob = (snapshot / "config.json").resolve()
    blob.unlink()
    blob.symlink_to(blob.name)
    os.mkfifo(snapshot / "pipe")
    (snapshot / "loop").symlink_to("loop")
    report = hub.verify_cache(snapshot)
    assert _statuses(report) == {"config.json": "unchecked", "pipe": "unchecked", "loop": "unchecked"}
    assert "leads back to itself" in _reason(report, "config.json")
    assert "named pipe" in _reason(report, "pipe")


def test_what_broken_downloads_leave(repository: Path, local: Path) -> None:
    (repository / "blobs" / f"{_etag('config.json')}.12345678.incomplete").write_bytes(b"{")
    report = hub.verify_cache(repository)
    assert report.ok
    assert report.incomplete == (f"blobs/{_etag('config.json')}.12345678.incomplete",)
    (local / ".cache/huggingface/download/abc.incomplete").write_bytes(b"")
    assert hub.verify_cache(local).incomplete == (".cache/huggingface/download/abc.incomplete",)


def test_blobs_without_a_link(repository: Path, snapshot: Path) -> None:
    (snapshot / "config.json").unlink()
    blob = repository / "blobs" / _etag("config.json")
    assert hub.verify_cache(repository).ok
    blob.chmod(0o644)
    blob.write_bytes(b"another")
    assert _statuses(hub.verify_cache(repository)) == {f"blobs/{blob.name}": "differs"}
    (repository / "blobs/other").write_bytes(b"")
    assert "is no digest" in _reason(hub.verify_cache(repository), "blobs/other")


def test_names_with_line_feeds(snapshot: Path, local: Path) -> None:
    (snapshot / "a\nmatched").write_bytes(b"")
    (local / "a\nmatched").write_bytes(b"")
    for folder in (snapshot, local):
        report = hub.verify_cache(folder)
        assert _statuses(report) == {"a\nmatched": "unchecked"}
        assert "\nmatched" not in str(report)


def test_metadata_that_is_damaged(local: Path) -> None:
    metadata = local / ".cache/huggingface/download/config.json.metadata"
    commit, _, time, _ = metadata.read_text().split("\n")
    for text, reason in (
        ("", "begin with a commit"),
        (commit, "begin with a commit"),
        (f"{commit}\nW/abc\n{time}\n", "is no digest"),
        ("x" * 5000, "at most 4096"),
        ("\xff" * 3, "not text"),
    ):
        metadata.write_text(text)
        assert reason in _reason(hub.verify_cache(local), "config.json")
    metadata.unlink()
    assert "nothing states" in _reason(hub.verify_cache(local), "config.json")


def test_lists_that_are_damaged(snapshot: Path) -> None:
    tree = snapshot.parents[1] / "trees" / f"{COMMIT}.json"
    tree.parent.mkdir(exist_ok=True)
    for text in ("{", "[]", '{"format_version": 1}', '{"format_version": 1, "files": {"a": {}}}'):
        tree.write_text(text)
        assert "list of the commit's files" in _reason(hub.verify_cache(snapshot), f"trees/{COMMIT}.json")
    tree.write_text('{"format_version": 2, "files": 3}')
    assert hub.verify_cache(snapshot).ok


def test_the_shared_store(cache: Path, snapshot: Path, huggingface_hub: Any) -> None:
    """The store is made by huggingface_hub."""
    from huggingface_hub.utils import _shared_blobs

    blob = snapshot.parents[1] / "blobs" / _etag("model.safetensors")
    xet_hash = hub.xet_hash(WEIGHTS)
    assert _shared_blobs.publish_blob_to_shared_store(
        blob_path=str(blob),
        xet_hash=xet_hash,
        cache_dir=cache,
        expected_size=len(WEIGHTS),
        replace_existing=False,
    )
    assert blob.is_symlink()
    assert blob.resolve() == (cache / "blobs" / xet_hash[:2] / xet_hash).resolve()
    report = hub.verify_cache(snapshot)
    assert report.ok, report
    assert hub.verify_download(snapshot, json.dumps(_model_response())).ok
    _overwrite(blob, WEIGHTS[::-1])
    assert _statuses(hub.verify_cache(cache)) == {
        f"models--org--model/snapshots/{COMMIT}/model.safetensors": "differs"
    }
    (cache / "blobs" / _shared_blobs.SHARED_BLOBS_MARKER_NAME).unlink()
    assert "leaves the cache" in _reason(hub.verify_cache(snapshot), "model.safetensors")
    assert "leads out" in _reason(
        hub.verify_download(snapshot, json.dumps(_model_response())), "model.safetensors"
    )


def test_other_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a cache"):
        hub.verify_cache(tmp_path)
    with pytest.raises(ValueError, match="neither a snapshot"):
        hub.expected_files(tmp_path)
    with pytest.raises(FileNotFoundError):
        hub.verify_cache(tmp_path / "none")
    (tmp_path / "models--a--b/snapshots").mkdir(parents=True)
    (tmp_path / "models--a--b/blobs").mkdir()
    report = hub.verify_cache(tmp_path)
    assert not report.ok
    with pytest.raises(IntegrityError, match="no file to check"):
        report.raise_for_mismatch()


def test_expected_files(snapshot: Path, local: Path) -> None:
    for folder in (snapshot, local):
        digests = hub.expected_files(folder)
        assert {name: digest.digest.hex() for name, digest in digests.files.items()} == {
            name: _etag(name) for name in FILES
        }
        assert digests.checksums
        assert hub.verify_download(folder, digests).ok


RESPONSES = {"tree": _tree_response, "model": _model_response}


@pytest.mark.parametrize("kind", RESPONSES)
def test_a_saved_response(kind: str, snapshot: Path, local: Path) -> None:
    response = json.dumps(RESPONSES[kind]())
    for folder in (snapshot, local):
        report = hub.verify_download(folder, response.encode())
        assert report.ok, report
        (folder / "more.py").write_text("")
        report = hub.verify_download(folder, response)
        assert report.unexpected == ("more.py",)
        assert not report.ok
        assert hub.verify_download(folder, response, extra=True).ok
        (folder / "empty").unlink()
        assert _statuses(hub.verify_download(folder, response, extra=True)) == {"empty": "missing"}
        assert hub.verify_download(folder, response, extra=True, partial=True).ok
        changed = bytearray(WEIGHTS)
        changed[1000] ^= 4
        _overwrite(folder / "model.safetensors", bytes(changed))
        assert _sha256(changed) in _reason(hub.verify_download(folder, response), "model.safetensors")


@pytest.mark.parametrize("response", [10**11, {"siblings": []}, [], None])
def test_responses_that_are_no_text(response: Any) -> None:
    with pytest.raises(TypeError, match="str or bytes that were saved"):
        hub.hub_digests(response)


def test_nothing_is_no_match(tmp_path: Path) -> None:
    assert not hub.verify_download(tmp_path, json.dumps(_tree_response()), partial=True).ok


def test_pointers_in_place_of_content(tmp_path: Path) -> None:
    """As in a clone without git-lfs."""
    pointer = hub.LfsPointer(_sha256(WEIGHTS), len(WEIGHTS)).to_bytes()
    (tmp_path / "model.safetensors").write_bytes(pointer)
    report = hub.verify_download(tmp_path, json.dumps(_tree_response()), partial=True)
    reason = _reason(report, "model.safetensors")
    assert reason.startswith(f"{len(pointer)} bytes, 300000 were expected; it is a pointer file of Git LFS")
    (tmp_path / "model.safetensors").write_bytes(pointer[:-1])
    report = hub.verify_download(tmp_path, json.dumps(_tree_response()), partial=True)
    assert "damaged pointer" in _reason(report, "model.safetensors")


def test_other_algorithms(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(WEIGHTS)
    xet = FileDigests.of({"a": hub.xet_hash(WEIGHTS)}, "xet")
    blake3 = FileDigests.of({"a": hub.lfs_sha256(WEIGHTS)}, "blake3")
    assert hub.verify_download(tmp_path, xet).ok
    assert _statuses(hub.verify_download(tmp_path, blake3)) == {"a": "differs"}
    verity = FileDigests.of({"a": bytes(32)}, "fsverity-sha256")
    assert "not computed here" in _reason(hub.verify_download(tmp_path, verity), "a")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("{}", "no array of files"),
        ("[1]", "a file must be an object"),
        ('[{"type": "file"}]', "no path"),
        ('{"siblings": [{"rfilename": "a"}]}', "blobs=true"),
        ('[{"path": "a", "oid": "12", "size": 1}]', "is not a git-sha1"),
        ('[{"path": "a", "oid": "%s", "size": -1}]' % ("0" * 40), "number of bytes"),
        ('[{"path": "../a", "oid": "%s", "size": 1}]' % ("0" * 40), "not a relative path"),
        ('[{"path": "a", "lfs": 1}]', "lfs must be an object"),
        ('[{"path": "a", "lfs": {"oid": "%s", "size": 1}}]' % ("0" * 40), "is not a sha256"),
        ('[{"path": "a", "path": "b"}]', "occurs twice"),
        ('[], "siblings": []', "more follows"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "names no file"),
    ],
)
def test_responses_that_are_not_understood(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=reason):
        hub.verify_download(tmp_path, text)


def test_as_hf_cache_verify(
    cache: Path, snapshot: Path, local: Path, endpoint: str, huggingface_hub: Any
) -> None:
    """huggingface_hub's own check, which asks the server, finds the same."""
    api = huggingface_hub.HfApi(endpoint=endpoint, token=False)
    response = json.dumps(_tree_response())
    for folder, where in ((snapshot, {"cache_dir": cache}), (local, {"local_dir": local})):
        for step in ("clean", "damaged"):
            theirs = api.verify_repo_checksums(REPOSITORY, **where)
            ours = hub.verify_download(folder, response)
            differing = {m["path"]: m["actual"] for m in theirs.mismatches}
            assert theirs.checked_count == len(FILES)
            assert _statuses(ours) == dict.fromkeys(differing, "differs"), step
            for file in ours.files:
                assert file.found == differing.get(file.path, file.expected)
            changed = bytearray(WEIGHTS)
            changed[5] ^= 1
            _overwrite(folder / "model.safetensors", bytes(changed))


def test_the_path_of_a_response_is_not_its_text(tmp_path: Path) -> None:
    (tmp_path / "response.json").write_text('{"siblings": []}')
    with pytest.raises(ManifestError, match=r"response\.json' is no JSON; if it is a path, pass the text"):
        hub.verify_download(tmp_path, str(tmp_path / "response.json"))
