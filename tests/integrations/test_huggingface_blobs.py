"""Names of contents in git and in Git LFS."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from integrity_triton.integrations import huggingface as hub
from integrity_triton.integrations.huggingface.blobs import PointerError

OID = hashlib.sha256(b"content").hexdigest()
# docs/spec.md of git-lfs/git-lfs gives this example.
EXAMPLE = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""


@pytest.mark.parametrize("size", [0, 1, 9, 10, 63, 64, 100_000, (1 << 20) + 1])
def test_git_names_blobs_so(size: int, tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("absent: git")
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    expected = subprocess.check_output(["git", "hash-object", "--no-filters", path], text=True).strip()
    data = path.read_bytes()
    assert hub.git_blob_sha1(path) == hub.git_blob_sha1(data) == expected
    assert hub.git_blob_sha1([data[:7], torch.tensor(list(data[7:]), dtype=torch.uint8)]) == expected
    assert hub.lfs_sha256(str(path)) == hashlib.sha256(data).hexdigest()


def test_a_pointer() -> None:
    pointer = hub.LfsPointer.parse(EXAMPLE)
    assert (pointer.oid[:8], pointer.size, pointer.extensions) == ("4d7a2146", 12345, ())
    assert pointer.to_bytes() == EXAMPLE


def test_a_pointer_with_extensions() -> None:
    lines = EXAMPLE.splitlines(keepends=True)
    data = lines[0] + b"ext-0-foo sha256:" + OID.encode() + b"\n" + b"".join(lines[1:])
    pointer = hub.LfsPointer.parse(data)
    assert pointer.extensions == (("ext-0-foo", f"sha256:{OID}"),)
    assert pointer.to_bytes() == data


WRONG = {
    "empty": (b"", "line feed"),
    "cut": (EXAMPLE[:-1], "line feed"),
    "cut in a line": (EXAMPLE[:90], "line feed"),
    "cut after a line": (b"".join(EXAMPLE.splitlines(keepends=True)[:2]), "'size' is missing"),
    "carriage returns": (EXAMPLE.replace(b"\n", b"\r\n"), "line 1"),
    "two spaces": (EXAMPLE.replace(b"size ", b"size  "), "decimal"),
    "an empty line": (EXAMPLE + b"\n", "line 4"),
    "another version": (EXAMPLE.replace(b"spec/v1", b"spec/v2"), "first line"),
    "another order": (
        EXAMPLE.replace(b"size 12345\n", b"").replace(b"oid", b"size 12345\noid"),
        "sorted",
    ),
    "a key twice": (EXAMPLE + b"size 12345\n", "sorted"),
    "an unknown key": (EXAMPLE + b"tail 1\n", "unknown key 'tail'"),
    "upper case": (EXAMPLE.replace(b"4d7a", b"4D7A"), "oid"),
    "a short digest": (EXAMPLE.replace(b"4d7a", b""), "oid"),
    "another hash": (EXAMPLE.replace(b"sha256:", b"sha512:"), "oid"),
    "a leading zero": (EXAMPLE.replace(b"size 1", b"size 01"), "decimal"),
    "a negative size": (EXAMPLE.replace(b"size 1", b"size -1"), "decimal"),
    "a size of 2**63": (EXAMPLE.replace(b"12345", b"9223372036854775808"), "below 2"),
    "not UTF-8": (EXAMPLE.replace(b"12345", b"\xff"), "UTF-8 at byte"),
    "too long": (EXAMPLE.replace(b"12345", b"1" * 1024), "fewer than 1024"),
    "two priorities": (
        EXAMPLE.replace(b"oid ", f"ext-0-a sha256:{OID}\next-0-b sha256:{OID}\noid ".encode()),
        "same priority",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_only_the_one_encoding_is_a_pointer(kind: str) -> None:
    data, reason = WRONG[kind]
    with pytest.raises(PointerError, match=reason):
        hub.LfsPointer.parse(data)
