"""Hashes of parameters across replicas, and ``integrity.json``, beside megatron-core's own code."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron_rank import chunks

from integrity_triton import IntegrityError
from integrity_triton.integrations import megatron
from integrity_triton.integrations.megatron import (
    check_param_hashes_across_dp_replicas,
    param_hashes,
    read_integrity,
    verify_integrity,
    write_integrity,
)
from integrity_triton.models import FileDigests, ManifestError
from support import device_of

blake3 = pytest.importorskip("blake3", reason="absent: blake3").blake3

_RANK = Path(__file__).with_name("megatron_rank.py")


def _run_ranks(folder: Path, *arguments: str, ranks: int = 2) -> list[dict[str, Any]]:
    """What each rank of a group prints. The ranks are processes of their own."""
    command = [sys.executable, str(_RANK)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(ranks), str(folder / "store"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    found = []
    for process in processes:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        found.append(json.loads(out.splitlines()[-1]))
    return found


def test_hashes_are_of_float32_values(backend: str) -> None:
    model = [chunk.to(device_of(backend)) for chunk in chunks()]
    expected = []
    for number, chunk in enumerate(model):
        for name, param in chunk.named_parameters():
            values = param.detach().cpu().float().numpy().tobytes()
            expected.append((number, name, name == "expert", hashlib.sha1(values).digest()))
    assert param_hashes(model, backend=backend) == tuple(expected)


def test_hashes_of_own_bytes() -> None:
    model = chunks()[1]
    found = {found.name: found.digest for found in param_hashes(model, "blake3", own_bytes=True)}
    for name, param in model.named_parameters():
        assert found[name] == blake3(param.detach().numpy().tobytes()).digest()


def test_little_is_converted_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = param_hashes(chunks())
    converted: list[int] = []
    original = megatron.digest_tensors

    def digest_tensors(tensors: list[torch.Tensor], *arguments: Any, **options: Any) -> list[bytes]:
        converted.append(len(tensors))
        return original(tensors, *arguments, **options)

    monkeypatch.setattr(megatron, "digest_tensors", digest_tensors)
    monkeypatch.setattr(megatron, "_MOST_COPIED", 4 * 35)
    assert param_hashes(chunks()) == expected
    assert converted == [1, 6]  # the next bfloat16 parameter does not fit; those in float32 are no copies


def test_parameters_without_bytes_are_named() -> None:
    with pytest.raises(ValueError, match=r"parameter 'weight' of model chunk 1: a meta tensor"):
        param_hashes([torch.nn.Linear(1, 1), torch.nn.Linear(2, 2, device="meta")])
    with pytest.raises(ValueError, match="hmac_sha256 needs a key"):
        param_hashes(chunks(), "hmac_sha256")


@pytest.mark.slow
def test_two_ranks(tmp_path: Path) -> None:
    _check_ranks(_run_ranks(tmp_path), beside=False)


@pytest.mark.slow
def test_two_ranks_beside_megatron(tmp_path: Path, other_project: Callable[[str], Path]) -> None:
    ranks = _run_ranks(tmp_path, str(other_project("megatron-core")))
    _check_ranks(ranks, beside=True)
    # The others first, as two messages.
    hashes = param_hashes(chunks())
    expected = [h.digest.hex() for e in (False, True) for h in hashes if h.expert is e]
    assert [rank["sent"] for rank in ranks] == [expected, expected]


def _check_ranks(ranks: list[dict[str, Any]], *, beside: bool) -> None:
    first, last = ranks
    for case in ["equal", "0.weight", "1.bias", "expert", "scale"]:
        equal = case == "equal"
        for cross_check in (False, True):
            key = f"{case} {cross_check}"
            assert last[key]["ours"] is last[key]["own bytes"] is equal, key
            assert first[key]["ours"] is first[key]["own bytes"] is (equal or not cross_check), key
            if beside:
                assert [rank[key]["theirs"] for rank in ranks] == [rank[key]["ours"] for rank in ranks]
            named = f"rank 1: parameter {case!r} of model chunk"
            assert all(text.startswith(named) for text in last[key]["messages"])
            assert bool(last[key]["messages"]) is not equal
            assert bool(first[key]["messages"]) is (cross_check and not equal)
    for rank in ranks:
        assert "the ranks of the group are no replicas" in rank["more"]
        assert "rank 1 of the group has 7 parameters, the first one has 6" in rank["more"]
        assert "rank 1 of the group has other names" in rank["renamed"]
        assert "hash in different ways" in rank["other algorithms"]
        assert "pass group=" in rank["no group"]


def test_without_a_group() -> None:
    with pytest.raises(ValueError, match="there is no group of ranks to compare with: pass group="):
        check_param_hashes_across_dp_replicas(chunks())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "iter_0000001"
    folder.mkdir()
    (folder / "__0_0.distcp").write_bytes(os.urandom(300_000))
    (folder / "__0_1.distcp").write_bytes(b"")
    (folder / ".metadata").write_bytes(b"pickled")
    (folder / "metadata.json").write_text("{}")
    (folder / "wörld").write_bytes(b"1")
    return folder


_IN_MEGATRON = """
import sys
from megatron.core.dist_checkpointing.validation import *
save_integrity_manifest(sys.argv[1])
for folder in sys.argv[2:]:
    try:
        verify_integrity_manifest(folder)
        print("ok")
    except CheckpointingException as error:
        print(str(error).replace("\\n", " "))
"""


@pytest.mark.slow
def test_integrity_beside_megatron(checkpoint: Path, other_project: Callable[[str], Path]) -> None:
    folder = other_project("megatron-core")
    source = (folder / "megatron/core/dist_checkpointing/validation.py").read_text()
    if "def save_integrity_manifest" not in source:
        pytest.skip(f"absent: {folder.name} has no integrity.json; version 0.17 and later have it")
    deep, changed = (Path(shutil.copytree(checkpoint, checkpoint.with_name(name))) for name in ("a", "b"))
    for place in (deep, changed):
        (place / "rest").mkdir()
        (place / "rest/rng.pt").write_bytes(b"state")
        stated = write_integrity(place)
        assert stated.files["rest/rng.pt"].digest == hashlib.sha256(b"state").digest()
    (changed / "rest/rng.pt").write_bytes(b"State")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _IN_MEGATRON, checkpoint, deep, changed],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    good, bad = done.stdout.splitlines()[-2:]
    assert good == "ok"
    assert "rest/rng.pt: hash mismatch" in bad
    assert verify_integrity(checkpoint).ok
    theirs = (checkpoint / "integrity.json").read_bytes()
    (checkpoint / "integrity.json").unlink()
    write_integrity(checkpoint)
    assert (checkpoint / "integrity.json").read_bytes() == theirs


def test_integrity_is_written_and_read(checkpoint: Path) -> None:
    stated = write_integrity(checkpoint)
    document = json.loads((checkpoint / "integrity.json").read_bytes())
    names = sorted(path.name for path in checkpoint.iterdir() if path.name != "integrity.json")
    assert list(document) == ["algorithm", "files"]
    assert document["algorithm"] == "sha256"
    assert list(document["files"]) == names
    for name in names:
        expected = hashlib.sha256((checkpoint / name).read_bytes())
        assert document["files"][name] == expected.hexdigest()
        assert stated.files[name].digest == expected.digest()
        assert stated.files[name].size == (checkpoint / name).stat().st_size
    for path in (checkpoint, checkpoint / "integrity.json"):
        read = read_integrity(path)
        assert {n: d.digest for n, d in read.files.items()} == {n: d.digest for n, d in stated.files.items()}
    assert verify_integrity(checkpoint).ok
    assert str(verify_integrity(checkpoint, stated)) == "5 files match"


def test_every_difference_is_named(checkpoint: Path) -> None:
    stated = write_integrity(checkpoint)
    data = bytearray((checkpoint / "__0_0.distcp").read_bytes())
    data[123_456] ^= 8
    (checkpoint / "__0_0.distcp").write_bytes(data)
    (checkpoint / "__0_1.distcp").write_bytes(b"\0")
    (checkpoint / ".metadata").unlink()
    (checkpoint / "sub").mkdir()
    (checkpoint / "sub/new\nline").write_bytes(b"")
    (checkpoint / "metadata.json").unlink()
    (checkpoint / "metadata.json").symlink_to("wörld")
    for against in (None, stated):
        report = verify_integrity(checkpoint, against)
        assert not report.ok
        assert report.changed == ("__0_0.distcp", "__0_1.distcp")
        assert report.missing == (".metadata",)
        assert report.unexpected == ("metadata.json", "sub/new\nline")
        with pytest.raises(IntegrityError) as error:
            report.raise_for_mismatch()
        assert "changed: '__0_0.distcp', '__0_1.distcp'; missing: '.metadata'; " in str(error.value)
        assert r"'sub/new\nline'" in str(error.value)
    with pytest.raises(ManifestError, match=r"'metadata\.json' is a symbolic link"):
        write_integrity(checkpoint)


def test_a_list_from_elsewhere_is_trusted_instead(checkpoint: Path) -> None:
    stated = pickle.loads(pickle.dumps(write_integrity(checkpoint)))
    (checkpoint / ".metadata").write_bytes(b"forged")
    write_integrity(checkpoint)
    assert verify_integrity(checkpoint).ok
    assert verify_integrity(checkpoint, stated).changed == (".metadata",)
    with pytest.raises(ManifestError, match="a digest of blake3, not of sha256"):
        verify_integrity(checkpoint, FileDigests.of({".metadata": bytes(32)}, "blake3"))
    with pytest.raises(TypeError, match="must be a FileDigests, not dict"):
        verify_integrity(checkpoint, {".metadata": "00" * 32})  # type: ignore[arg-type]


_DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "a JSON object was expected, not an array"),
        ('{"files": {}}', "the field 'algorithm' is missing"),
        ('{"algorithm": "sha256"}', "the field 'files' is missing"),
        (f'{{"algorithm": "sha256", "files": {{"a": "{_DIGEST}"}}, "more": 1}}', "unknown field 'more'"),
        (f'{{"algorithm": "md5", "files": {{"a": "{_DIGEST}"}}}}', "the algorithm is 'md5'"),
        (f'{{"algorithm": "SHA256", "files": {{"a": "{_DIGEST}"}}}}', "the algorithm is 'SHA256'"),
        ('{"algorithm": "sha256", "files": {}}', "names no file"),
        ('{"algorithm": "sha256", "files": {"a": 5}}', "the digest of 'a' must be a string"),
        ('{"algorithm": "sha256", "files": {"a": "abc"}}', "hexadecimal"),
        (f'{{"algorithm": "sha256", "files": {{"a": "{_DIGEST.upper()}"}}}}', "lower-case"),
        ('{"algorithm": "sha256", "files": {"a": "abcd"}}', "'a': .*32 bytes, not 2"),
        (f'{{"algorithm": "sha256", "files": {{"a": "{_DIGEST}", "a": "{_DIGEST}"}}}}', "occurs twice"),
        (f'{{"algorithm": "sha256", "algorithm": "sha256", "files": {{"a": "{_DIGEST}"}}}}', "occurs twice"),
        *(
            (f'{{"algorithm": "sha256", "files": {{"{name}": "{_DIGEST}"}}}}', "not a relative path")
            for name in ["/etc/passwd", "../a", "a/../../b", "./a", "a//b", "", "a/", "a\\u0000b"]
        ),
        ('{"algorithm": "sha256", "files": {"a": "\udcff"}}', "not UTF-8"),
    ],
)
def test_malformed_integrity_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "integrity.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    for call in (read_integrity, verify_integrity):
        with pytest.raises(ManifestError, match=message) as error:
            call(tmp_path)
        assert str(error.value).startswith(str(path))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        verify_integrity(tmp_path)


def test_a_file_that_changes_while_it_is_read(checkpoint: Path) -> None:
    def progress(_: int) -> None:
        (checkpoint / "__0_1.distcp").write_bytes(b"late")

    with pytest.raises(IntegrityError, match="changed while"):
        write_integrity(checkpoint, progress=progress)
    assert not (checkpoint / "integrity.json").exists()
    with open(checkpoint / "__0_1.distcp", "wb") as file:
        file.truncate(48 << 20)

    def cut(nbytes: int) -> None:
        if nbytes >= 1 << 20:
            os.truncate(checkpoint / "__0_1.distcp", 24 << 20)

    with pytest.raises(IntegrityError, match="changed while"):
        write_integrity(checkpoint, progress=cut)
    (checkpoint / "__0_1.distcp").unlink()
    with pytest.raises(ManifestError, match="not a folder"):
        write_integrity(checkpoint / "wörld")
