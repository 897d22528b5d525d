"""The commands ``tree …``: what they print, and a status of 1 for data that does not match."""

from __future__ import annotations

import hashlib
import json

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from integrity_triton import cli

blake3 = pytest.importorskip("blake3")


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTEGRITY_TRITON_BACKEND", raising=False)
    (tmp_path / "data").write_bytes(bytes(range(256)) * 32)

    def run(*arguments):
        capfd.readouterr()
        status = cli.main(["tree", *arguments])
        return status, *capfd.readouterr()

    return run


def test_roots(run, tmp_path):
    data = (tmp_path / "data").read_bytes()
    leaves = [hashlib.sha256(b"\0" + data[i : i + 4096]).digest() for i in (0, 4096)]
    root = hashlib.sha256(b"\1" + b"".join(leaves)).hexdigest()
    assert run("root", "data", "--chunk-size", "4096") == (0, f"{root} 2\n", "")
    # fsverity digest of Debian's fsverity 1.5-1.1 over the same bytes
    status, out, _ = run("fs-verity", "data", "--json")
    assert status == 0
    assert json.loads(out)["digest"] == "af4ea4341bd2baacf132662d6bc3a30b67e473b514a52efcf6e56947db061297"
    assert run("fs-verity", "data", "--block-size", "1000")[0] == 2
    assert run("root", "absent")[0] == 2


def test_dm_verity(run, tmp_path):
    status, root, _ = run("dm-verity", "data", "hashes", "--salt", "0011")
    assert status == 0
    assert run("dm-verity", "data", "hashes", "--root", root.strip(), "--size", "8192") == (
        0,
        "data: OK\n",
        "",
    )
    stored = (tmp_path / "hashes").read_bytes()
    status, out, err = run("dm-verity", "data", "hashes")  # a forgotten --root
    assert (status, out) == (2, "")
    assert "hashes exists: verify with it by --root" in err
    assert (tmp_path / "hashes").read_bytes() == stored
    assert "--size can only be used with --root" in run("dm-verity", "data", "new", "--size", "8192")[2]
    assert not (tmp_path / "new").exists()
    status, out, err = run("dm-verity", "data", "hashes", "--root", root.strip(), "--size", "4096")
    assert (status, out) == (1, "")
    assert "the tree covers 8192 bytes, and 4096 were expected" in err
    (tmp_path / "data").write_bytes(bytes(8192))
    status, out, _ = run("dm-verity", "data", "hashes", "--root", root.strip(), "--json")
    assert status == 1
    assert "data does not match in 2 blocks" in json.loads(out)["error"]
    assert run("dm-verity", "data", "data")[0] == 2
    assert run("dm-verity", "data", "hashes", "--root", "xyz")[0] == 2


def test_bao(run, tmp_path):
    root = blake3.blake3((tmp_path / "data").read_bytes()).hexdigest()
    assert run("bao-encode", "data", "outboard") == (0, root + "\n", "")
    assert run("bao-encode", "data", "combined", "--combined") == (0, root + "\n", "")
    assert run("bao-verify", "combined", "--root", root) == (0, "combined: OK\n", "")
    assert run("bao-verify", "outboard", "data", "--root", root) == (0, "data: OK\n", "")
    assert "read together with the content" in run("bao-verify", "outboard", "--root", root)[2]
    assert "read without other data" in run("bao-verify", "combined", "data", "--root", root)[2]
    (tmp_path / "data").write_bytes(bytes(8192))
    status, out, err = run("bao-verify", "outboard", "data", "--root", root)
    assert (status, out) == (1, "")
    assert "chunk 0 (bytes 0 to 1024) does not match" in err
    assert run("bao-encode", "data", "data")[0] == 2


def test_oci(run, tmp_path):
    (tmp_path / "layout" / "blobs" / "sha256").mkdir(parents=True)
    (tmp_path / "layout" / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    kind = "application/vnd.oci.image.manifest.v1+json"
    config = {"mediaType": "a/b", "digest": "sha256:" + hashlib.sha256(b"{}").hexdigest(), "size": 2}
    manifest = json.dumps({"schemaVersion": 2, "config": config, "layers": []}).encode()
    for blob in (b"{}", manifest):
        (tmp_path / "layout" / "blobs" / "sha256" / hashlib.sha256(blob).hexdigest()).write_bytes(blob)
    digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
    named = {"mediaType": kind, "digest": digest, "size": len(manifest)}
    (tmp_path / "layout" / "index.json").write_text(json.dumps({"manifests": [named]}))
    assert run("oci", "layout", "--digest", digest) == (0, "layout: OK, 2 blobs\n", "")
    assert "only consistent" in run("oci", "layout")[2]
    (tmp_path / "layout" / "blobs" / digest.replace(":", "/")).unlink()
    status, out, err = run("oci", "layout", "--digest", digest)
    assert (status, out) == (1, "")
    assert "is missing" in err
