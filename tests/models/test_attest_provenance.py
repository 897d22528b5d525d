"""Hashes in manifests of Atlas, whose form is that of IntelLabs/atlas-c2pa-lib, compared with files."""

from __future__ import annotations

import hashlib
import json

import pytest

pytest.importorskip("cryptography", reason="not applicable: the extra 'attestation' is absent")

import integrity_triton as it
from integrity_triton import IntegrityError
from integrity_triton.models.attest import AttestationError, provenance

DATA = bytes(range(256)) * 100


def ingredient(title="model", algorithm="sha384", data=DATA, **changes):
    fields = {
        "url": f"file://{title}",
        "alg": algorithm,
        "hash": hashlib.new(algorithm, data).hexdigest(),
        "data_types": ["c2pa.types.model"],
        "linked_ingredient_url": None,
        "linked_ingredient_hash": None,
    }
    return {
        "title": title,
        "relationship": "componentOf",
        "dc:format": "application/octet-stream",
        "document_id": "uuid:1",
        "instance_id": "uuid:2",
        "data": {**fields, **changes},
        "linked_ingredient": None,
    }


def manifest(*ingredients):
    claim = {"instance_id": "urn:c2pa:1", "ingredients": list(ingredients), "created_assertions": []}
    members = {"claim_generator": "atlas-cli:0.2.0", "title": "a model", "claim": claim, "claim_v2": claim}
    return json.dumps({**members, "ingredients": [], "is_active": True})


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_files(tmp_path, name):
    path = tmp_path / "model"
    path.write_bytes(DATA)
    (tmp_path / "manifest.json").write_text(manifest(ingredient(algorithm=name)))
    listed = provenance.load_ingredients(tmp_path / "manifest.json")
    assert [(i.title, i.algorithm, i.url) for i in listed] == [("model", name, "file://model")]
    assert provenance.verify_files(listed, {"model": path}) == ("model",)
    path.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(IntegrityError, match="'model'"):
        provenance.verify_files(listed, {"model": path})


def test_weights_on_a_device():
    torch = pytest.importorskip("torch")
    tensor = torch.frombuffer(bytearray(DATA), dtype=torch.uint8)
    listed = provenance.read_ingredients(manifest(ingredient()))
    digest = bytes(it.hash_batch([tensor], "sha384")[0].tolist())
    assert provenance.verify_digests(listed, {"model": digest}) == ("model",)
    with pytest.raises(IntegrityError):
        provenance.verify_digests(listed, {"model": digest[:-1]})


def test_what_cannot_be_compared(tmp_path):
    listed = provenance.read_ingredients(manifest(ingredient()))
    with pytest.raises(ValueError, match="nothing to compare"):
        provenance.verify_files(listed, {})
    with pytest.raises(ValueError, match="no ingredient has the title 'other'; there are 'model'"):
        provenance.verify_files(listed, {"other": tmp_path})


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("[]", "not a provenance manifest"),
        ("{}", "no ingredients"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"claim": 1}', "must be a list"),
        ('{"ingredients": {}}', "must be a list"),
        (manifest(1), "must be an object"),
        (manifest({"title": "x"}), "must be an object"),
        (manifest(ingredient(alg="md5")), "a digest of 'md5'"),
        (manifest(ingredient(alg="SHA384")), "a digest of 'SHA384'"),
        (manifest(ingredient(hash="00")), "no sha384 digest"),
        (manifest(ingredient(hash="zz" * 48)), "no sha384 digest"),
        (manifest(ingredient(hash=None)), "must be a string"),
        (manifest({**ingredient(), "title": 1}), "must be a string"),
        (manifest(ingredient(), ingredient(data=b"other")), "stated in two ways"),
    ],
)
def test_manifests_that_are_refused(data, match):
    with pytest.raises(AttestationError, match=match):
        provenance.read_ingredients(data)
