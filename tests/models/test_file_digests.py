"""Lists of the digests of files: what coreutils write is read, and everything else is refused by line."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest

from integrity_triton.models import FileDigest, FileDigests, ManifestError

ABC = hashlib.sha256(b"abc").digest()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="absent: sha256sum")
@pytest.mark.parametrize("options", [[], ["--tag"], ["--binary"]])
def test_what_coreutils_write(tmp_path: Path, options: list[str]) -> None:
    names = ["a.safetensors", "sub folder/b\\c", "line\nfeed", "é"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    names += [os.fsdecode(b"not-utf-8-\xff")]
    (tmp_path / names[-1]).write_bytes(b"x")
    command = ["sha256sum", *options, *(f"./{name}" for name in names)]
    (tmp_path / "SHA256SUMS").write_bytes(subprocess.check_output(command, cwd=tmp_path))
    found = FileDigests.load_list(tmp_path / "SHA256SUMS")
    assert sorted(found) == sorted(names) and len(found) == 5
    for name in names:
        expected = hashlib.sha256((tmp_path / name).read_bytes()).digest()
        assert found.files[name] == FileDigest("sha256", expected)
    assert list(found.under("sub folder/")) == ["b\\c"]
    with pytest.raises(ManifestError, match="names no file in 'absent'"):
        found.under("absent")
    assert pickle.loads(pickle.dumps(found)) == found


HEX = ABC.hex().encode()
REFUSED = {
    "an empty list": (b"", "names no file"),
    "comments alone": (b"# nothing\n\n", "names no file"),
    "a line without a digest": (HEX + b"  a\nno digest\n", "line 2 is not a digest of sha256"),
    "another algorithm": (b"SHA512 (a) = " + HEX * 2 + b"\n", "line 1 is not a digest of sha256"),
    "a short digest": (HEX[:-2] + b"  a\n", "line 1"),
    "a name twice": (HEX + b"  a\n" + HEX + b"  ./a\n", "line 2: 'a' is listed twice"),
    "an absolute path": (HEX + b"  /a\n", "line 1: '/a' is not a relative path"),
    "a path to outside": (HEX + b"  a/../../b\n", "line 1: 'a/../../b' is not"),
    "a folder": (HEX + b"  a/\n", "line 1: 'a/' is not"),
    "a zero byte in a name": (HEX + b"  a\0b\n", "line 1"),
    "an unknown escape": (b"\\" + HEX + b"  a\\x\n", "line 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_lists(tmp_path: Path, case: str) -> None:
    data, reason = REFUSED[case]
    (tmp_path / "list").write_bytes(data)
    with pytest.raises(ManifestError, match=reason) as caught:
        FileDigests.load_list(tmp_path / "list")
    assert str(caught.value).startswith(f"{tmp_path / 'list'}: ")


def test_a_list_that_is_no_regular_file_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ManifestError, match="a folder, not a regular file"):
        FileDigests.load_list(tmp_path)
    with pytest.raises(FileNotFoundError):
        FileDigests.load_list(tmp_path / "absent")
    monkeypatch.setattr("integrity_triton.models.file_digests.MAX_LIST_SIZE", 10)
    (tmp_path / "list").write_bytes(HEX + b"  a\n")
    with pytest.raises(ManifestError, match="at most 10"):
        FileDigests.load_list(tmp_path / "list")


def test_from_a_mapping() -> None:
    made = FileDigests.of({"a": ABC.hex().upper(), "b/c": ABC}, "SHA-256", sizes={"a": 3})
    assert made.files == {"a": FileDigest("sha256", ABC, 3), "b/c": FileDigest("sha256", ABC)}
    with pytest.raises(ManifestError, match="'d' has a size and no digest"):
        FileDigests.of({"a": ABC}, sizes={"d": 3})
    with pytest.raises(ManifestError, match="'a': a digest must be hexadecimal, not 'xyz'"):
        FileDigests.of({"a": "xyz"})
    with pytest.raises(ManifestError, match=r"'a': .*32 bytes, not 31"):
        FileDigests.of({"a": ABC[1:]})
    with pytest.raises(ManifestError, match=r"unknown algorithm 'sha257'.*fsverity-sha256"):
        FileDigests.of({"a": ABC}, "sha257")
    with pytest.raises(ManifestError, match="key"):
        FileDigests.of({"a": ABC}, "hmac_sha256")
    with pytest.raises(TypeError, match="values of the class FileDigest"):
        FileDigests({"a": ABC})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="must map paths to values, not be a list"):
        FileDigests.of([("a", ABC)])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="size of a file must be an int"):
        FileDigest("sha256", ABC, True)


@pytest.mark.parametrize(
    ("weak", "size"), [("xxh3_128", 16), ("crc32c", 4), ("sha1", 20), ("md5", 16), ("git-sha1", 20)]
)
def test_checksums_have_to_be_asked_for(weak: str, size: int) -> None:
    with pytest.raises(ManifestError, match="is only a checksum"):
        FileDigests.of({"a": bytes(size)}, weak)
    made = FileDigests.of({"a": bytes(size)}, weak, checksums=True)
    assert made.files["a"].weakness and made.checksums
    assert pickle.loads(pickle.dumps(made)) == made


def test_digests_that_are_no_hash_of_the_content() -> None:
    for algorithm, size in {
        "fsverity-sha256": 32,
        "fsverity-sha512": 64,
        "git-sha256": 32,
        "xet": 32,
    }.items():
        (digest,) = FileDigests.of({"a": bytes(size)}, algorithm).files.values()
        assert digest.weakness is None
        with pytest.raises(ManifestError, match=f"'a': {algorithm} gives {size} bytes"):
            FileDigests.of({"a": bytes(size - 1)}, algorithm)
    assert FileDigest("fsverity-sha256", bytes(32), salt=b"salt").salt == b"salt"
    with pytest.raises(ManifestError, match="only an fs-verity digest has a salt"):
        FileDigest("sha256", ABC, salt=b"salt")
    with pytest.raises(ManifestError, match="at most 32 bytes"):
        FileDigest("fsverity-sha256", bytes(32), salt=bytes(33))


def test_extendable_output() -> None:
    (digest,) = FileDigests.parse_list(b"00" * 64 + b"  a\n", "shake_256", length=64).files.values()
    assert len(digest.digest) == 64
    with pytest.raises(ManifestError, match="at least 32 bytes"):
        FileDigest("blake3", bytes(31))
