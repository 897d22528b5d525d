"""fs-verity, against the program of fsverity-utils, and against what it printed once."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from pathlib import Path

import pytest
import torch

from integrity_triton.trees import fs_verity


def pattern(size):
    return b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(size // 32 + 1))[:size]


KNOWN = json.loads((Path(__file__).parent / "fs_verity.json").read_text("utf-8"))["answers"]


@pytest.mark.parametrize("known", KNOWN)
def test_known_answers(known, tmp_path):
    name, data = known["algorithm"], pattern(known["size"])
    (tmp_path / "data").write_bytes(data)
    salt = bytes.fromhex(known["salt"])
    options = {"block_size": known["block_size"], "salt": salt, "keep_tree": True}
    tensor = torch.frombuffer(bytearray(data) or bytearray(1), dtype=torch.uint8)[: len(data)]
    for found in (
        fs_verity.measure(data, name, **options),
        fs_verity.measure(tensor, name, **options),
        fs_verity.measure_file(tmp_path / "data", name, **options),
    ):
        assert found.digest.hex() == known["digest"]
        assert found.size == known["size"]
        assert len(found.merkle_tree) == known["tree_size"]
        assert hashlib.sha256(found.merkle_tree).hexdigest()[:16] == known["tree_hash"]
        assert hashlib.new(name, found.descriptor).digest() == found.digest


def run(*arguments):
    try:
        return subprocess.check_output(["fsverity", "digest", *arguments], text=True)
    except FileNotFoundError:
        pytest.skip("absent: fsverity, of the Debian package fsverity")


def test_against_the_program(tmp_path):
    made = random.Random(1)
    paths = [tmp_path / name for name in ("data", "tree", "descriptor")]
    for _ in range(40):
        name, block = made.choice(["sha256", "sha512"]), 1 << made.randrange(10, 17)
        blocks = made.choice([0, 1, 2, block // 64, block // 32 + 1, 40])
        size = max(0, blocks * min(block, 4096) + made.choice([-1, 0, 1]))
        salt, data = made.randbytes(made.choice([0, 1, 16, 32])), made.randbytes(size)
        paths[0].write_bytes(data)
        options = [f"--salt={salt.hex()}"] if salt else []
        printed = run(
            "--compact", f"--hash-alg={name}", f"--block-size={block}", *options,
            f"--out-merkle-tree={paths[1]}", f"--out-descriptor={paths[2]}", str(paths[0]),
        )  # fmt: skip
        found = fs_verity.measure(data, name, block_size=block, salt=salt, keep_tree=True)
        assert found.digest.hex() == printed.strip(), (name, block, size, salt)
        assert found.merkle_tree == paths[1].read_bytes()
        assert found.descriptor == paths[2].read_bytes()


def test_pieces_do_not_matter():
    data, made = pattern(50_000), random.Random(2)
    wanted = fs_verity.measure(data, block_size=1024, keep_tree=True)
    for most in (1, 700, 1024, 5000):
        running = fs_verity.Running(block_size=1024, keep_tree=True)
        at = 0
        while at < (len(data) if most > 1 else 3000):
            step = made.randrange(most + 1)
            piece = bytearray(data[at : at + step])
            running.update(
                piece if step % 2 else torch.frombuffer(bytes(piece) or b"\0", dtype=torch.uint8)[:step]
            )
            piece[:] = bytes(len(piece))  # a caller may use its buffer again
            at += step
        if most > 1:
            assert running.measurement() == wanted
        else:
            assert running.digest() == fs_verity.measure(data[:at], block_size=1024).digest
    with pytest.raises(RuntimeError, match="the file has ended"):
        running.update(b"a")


def test_sizes_beyond_32_bits():
    """The descriptor has the size in eight bytes. The tree over a file of 2**47 zero bytes is computed from
    one block for each level, since all its blocks are equal and each level is full."""
    size, block = 1 << 47, 4096
    digest, level = hashlib.sha256(bytes(block)).digest(), size // block
    while level > 1:
        digest, level = hashlib.sha256(digest * 128).digest(), level // 128
    assert level == 1
    found = fs_verity.Measurement("sha256", block, b"", size, digest, None)
    assert found.descriptor[8:16] == size.to_bytes(8, "little")
    assert hashlib.sha256(found.descriptor).digest() == found.digest


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"algorithm": "sha1"}, ValueError, "fs-verity has sha256 and sha512, not sha1"),
        ({"algorithm": "sha257"}, ValueError, "unknown algorithm"),
        ({"block_size": 512}, ValueError, "power of two from 1024 to 65536, got 512"),
        ({"block_size": 131072}, ValueError, "got 131072"),
        ({"block_size": 4097}, ValueError, "got 4097"),
        ({"block_size": 4096.0}, TypeError, "block_size must be int"),
        ({"block_size": True}, TypeError, "block_size must be int"),
        ({"salt": bytes(33)}, ValueError, "at most 32 bytes, not 33"),
        ({"salt": "00"}, TypeError, "salt must be bytes"),
    ],
)
def test_wrong_use(options, error, says):
    with pytest.raises(error, match=says):
        fs_verity.measure(b"", **options)
    with pytest.raises(TypeError, match="text must be encoded"):
        fs_verity.measure("text")
