"""OCI image layouts and ModelPack, against hashlib and the specifications; and layouts that are not right."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import tarfile

import pytest
import torch

from integrity_triton import IntegrityError
from integrity_triton.models import ManifestError, load_verified, oci

WEIGHT = "application/vnd.cncf.model.weight.v1."
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Made:
    """A layout in a folder, written here from the specifications."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "blobs" / "sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def path(self, digest):
        return self.folder / "blobs" / digest.replace(":", "/")

    def blob(self, data, media_type, **annotations):
        if not isinstance(data, bytes):
            data = json.dumps(data).encode()
        self.path(sha256(data)).write_bytes(data)
        found = {"mediaType": media_type, "digest": sha256(data), "size": len(data)}
        return {**found, "annotations": annotations} if annotations else found

    def manifest(self, config, layers):
        value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        return self.blob(value, MANIFEST)

    def index(self, *manifests):
        value = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}
        (self.folder / "index.json").write_text(json.dumps(value))


@pytest.fixture
def model(tmp_path):
    """A model of a raw layer, a tar archive and one that is compressed."""
    from safetensors.torch import save

    made = Made(tmp_path / "layout")
    weights = save({"a": torch.arange(500)})
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("README.md")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"model"))
    archive = stream.getvalue()
    layers = [
        made.blob(weights, WEIGHT + "raw", **{"org.cncf.model.filepath": "model.safetensors"}),
        made.blob(archive, "application/vnd.cncf.model.doc.v1.tar"),
        made.blob(gzip.compress(archive[:7000]) + gzip.compress(archive[7000:]), WEIGHT + "tar+gzip"),
    ]
    config = {
        "descriptor": {"name": "m"},
        "config": {"paramSize": "0.5k"},
        "modelfs": {"type": "layers", "diffIds": [sha256(weights), sha256(archive), sha256(archive)]},
    }
    made.weights, made.archive, made.layers, made.config = weights, archive, layers, config
    made.digest = made.manifest(made.blob(config, CONFIG), layers)
    made.index(made.digest)
    return made


def test_a_model_is_verified(model, tmp_path):
    for digest in (None, model.digest["digest"]):
        found = oci.verify_layout(model.folder, digest)
        assert [x.digest for x in found.manifests] == [model.digest["digest"]]
        assert set(found.blobs) == {f"sha256:{p.name}" for p in (model.folder / "blobs/sha256").iterdir()}
        assert found.unchecked == ()
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "model.safetensors").write_bytes(model.weights)
    loaded = load_verified(tmp_path / "files", against=found.file_digests)
    assert torch.equal(loaded["a"], torch.arange(500))


def test_descriptors(model, tmp_path):
    (tmp_path / "weights").write_bytes(model.weights)
    tensor = torch.frombuffer(bytearray(model.weights), dtype=torch.uint8)
    for found in (
        oci.describe(model.weights),
        oci.describe(tensor),
        oci.describe_file(tmp_path / "weights"),
    ):
        wanted = {key: model.layers[0][key] for key in ("mediaType", "digest", "size")}
        assert found.to_dict() == wanted
    assert oci.describe(b"", algorithm="sha512").digest == "sha512:" + hashlib.sha512().hexdigest()
    with pytest.raises(ValueError, match="sha256 or sha512"):
        oci.describe(b"", algorithm="sha1")


def test_every_changed_blob_is_named(model):
    chosen = random.Random(1)
    for path in sorted((model.folder / "blobs" / "sha256").iterdir()):
        data = path.read_bytes()
        for _ in range(5):
            changed = bytearray(data)
            changed[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(IntegrityError, match=path.name):
                oci.verify_layout(model.folder)
        for other in (data[:-1], data + b"\0", b""):
            path.write_bytes(other)
            with pytest.raises(IntegrityError, match=path.name):
                oci.verify_layout(model.folder)
        path.unlink()
        with pytest.raises(IntegrityError, match=f"{path.name} is missing"):
            oci.verify_layout(model.folder)
        os.mkfifo(path)
        with pytest.raises(IntegrityError, match=path.name):
            oci.verify_layout(model.folder)
        path.unlink()
        path.write_bytes(data)
    oci.verify_layout(model.folder)


def test_the_digest_that_is_trusted_decides(model):
    other = model.manifest(model.blob(b"{}", "application/vnd.oci.empty.v1+json"), [])
    model.index(other)
    assert oci.verify_layout(model.folder).manifests[0].digest == other["digest"]
    with pytest.raises(IntegrityError, match="names no manifest with the digest"):
        oci.verify_layout(model.folder, model.digest["digest"])
    for bad in ("sha256:00", "sha256:" + "A" * 64, "../etc", ""):
        with pytest.raises(ValueError, match="is not a digest"):
            oci.verify_layout(model.folder, bad)


def test_wrong_digests_of_uncompressed_layers(model):
    for i in range(3):
        config = json.loads(json.dumps(model.config))
        config["modelfs"]["diffIds"][i] = sha256(b"other")
        model.index(model.manifest(model.blob(config, CONFIG), model.layers))
        with pytest.raises(IntegrityError, match="its uncompressed content does not have the digest"):
            oci.verify_layout(model.folder)
    packed = gzip.compress(model.archive)
    cases = ((packed[:-1], "truncated"), (model.archive, "not gzip"), (packed + b"x", "not gzip|truncated"))
    for data, says in cases:
        layers = [*model.layers[:2], model.blob(data, WEIGHT + "tar+gzip")]
        model.index(model.manifest(model.blob(model.config, CONFIG), layers))
        with pytest.raises(IntegrityError, match=says):
            oci.verify_layout(model.folder)


def test_zstd_is_said_to_be_unchecked(model):
    layers = [*model.layers[:2], model.blob(b"zstd", WEIGHT + "tar+zstd")]
    config = json.loads(json.dumps(model.config))
    config["modelfs"]["diff_ids"] = config["modelfs"].pop("diffIds")
    model.index(model.manifest(model.blob(config, CONFIG), layers))
    (said,) = oci.verify_layout(model.folder).unchecked
    assert layers[2]["digest"] in said


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "sha256:../../../etc/passwd"},
        {"digest": "md5:" + "0" * 32},
        {"digest": 5},
        {"size": -1},
        {"size": 1.5},
        {"size": True},
        {"size": 1 << 63},
        {"mediaType": None},
        {"mediaType": "application/x"},
        {"annotations": []},
        {"annotations": {"a": 1}},
    ],
)
def test_malformed_descriptors(model, change):
    model.index({**model.digest, **change})
    with pytest.raises((ManifestError, IntegrityError)):
        oci.verify_layout(model.folder)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", DEEP, '{"manifests": {}}', '{"manifests": [1]}', '{"a":1,"a":2}'],
    ids=range(8),
)
def test_malformed_documents(model, text):
    for name in ("index.json", "oci-layout"):
        before = (model.folder / name).read_bytes()
        (model.folder / name).write_text(text)
        with pytest.raises(ManifestError):
            oci.verify_layout(model.folder)
        (model.folder / name).write_bytes(before)
    model.index(model.blob(text.encode(), MANIFEST))
    with pytest.raises(ManifestError):
        oci.verify_layout(model.folder)


def test_indexes_in_indexes_end(model):
    inner = model.digest
    for _ in range(4):
        inner = model.blob({"schemaVersion": 2, "manifests": [inner, inner]}, INDEX)
    model.index(inner)
    assert len(oci.verify_layout(model.folder).manifests) == 1
    model.index(model.blob({"schemaVersion": 2, "manifests": [inner]}, INDEX))
    with pytest.raises(ManifestError, match="nested too deeply"):
        oci.verify_layout(model.folder)


def test_files_that_lead_out_of_the_folder(model):
    for path in ("../a", "/a", "a//b", ""):
        layer = {**model.layers[0], "annotations": {"org.cncf.model.filepath": path}}
        model.index(model.manifest(model.blob(model.config, CONFIG), [layer, *model.layers[1:]]))
        with pytest.raises(ManifestError, match="not a relative path"):
            oci.verify_layout(model.folder)


def test_a_layout_that_skopeo_wrote(model, tmp_path):
    """skopeo copies the layout, and refuses the same changed blob."""
    if shutil.which("skopeo") is None:
        pytest.skip("absent: skopeo, of the Debian package skopeo")
    manifest = {**model.digest, "annotations": {"org.opencontainers.image.ref.name": "v1"}}
    model.index(manifest)
    copied = tmp_path / "copied"
    command = ["skopeo", "--insecure-policy", "copy", f"oci:{model.folder}:v1", f"oci:{copied}:v1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"absent: a skopeo that copies artifacts: {done.stderr.strip()[-200:]}")
    found = oci.verify_layout(copied, model.digest["digest"])
    assert found.blobs == oci.verify_layout(model.folder).blobs
