"""dm-verity, against veritysetup, and against what it printed once."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
import torch

from integrity_triton import IntegrityError
from integrity_triton.trees import dm_verity

KNOWN = json.loads((Path(__file__).parent / "dm_verity.json").read_text("utf-8"))["answers"]
UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
# The names in a superblock that differ from those of this package.
OURS = {"blake2b-512": "blake2b", "blake2s-256": "blake2s"}


def pattern(size):
    return b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(size // 32 + 1))[:size]


def ours(name):
    return OURS.get(name, name.replace("-", "_"))


@pytest.mark.parametrize("known", KNOWN)
def test_known_answers(known, tmp_path):
    data = pattern(known["blocks"] * known["data_block_size"])
    image, hashes = tmp_path / "image", tmp_path / "hashes"
    image.write_bytes(data)
    options = {
        "data_block_size": known["data_block_size"],
        "hash_block_size": known["hash_block_size"],
        "salt": bytes.fromhex(known["salt"]),
        "uuid": UUID,
    }
    tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    for made in (
        dm_verity.format(data, ours(known["algorithm"]), **options),
        dm_verity.format(tensor, ours(known["algorithm"]), **options),
        dm_verity.format_file(image, ours(known["algorithm"]), **options),
    ):
        assert made.root.hex() == known["root"]
        assert len(made.hash_file) == known["hash_size"]
        assert hashlib.sha256(made.hash_file).hexdigest()[:16] == known["hash_hash"]
    hashes.write_bytes(made.hash_file)
    root = bytes.fromhex(known["root"])
    for data_as in (data, tensor):
        assert dm_verity.verify(data_as, made.hash_file, root, size=len(data)) == made.superblock
    assert dm_verity.verify_files(image, hashes, root) == made.superblock


def veritysetup(*arguments, status=0):
    program = shutil.which("veritysetup", path="/usr/sbin:/sbin:/usr/bin")
    if program is None:
        pytest.skip("absent: veritysetup, of the Debian package cryptsetup-bin")
    done = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout


def test_against_the_program(tmp_path):
    made = random.Random(1)
    image, hashes = tmp_path / "image", tmp_path / "hashes"
    names = [*dm_verity.HASHES.values()]
    for i in range(26):
        name = names[i % len(names)]
        data_block, hash_block = (1 << made.randrange(9, 14) for _ in range(2))
        blocks = made.choice([1, 2, 3, hash_block // 64, hash_block // 32 + 1, 70])
        salt, data = made.randbytes(made.choice([0, 1, 32, 256])), made.randbytes(blocks * data_block)
        image.write_bytes(data)
        hashes.unlink(missing_ok=True)
        printed = veritysetup(
            "format", f"--hash={name}", f"--data-block-size={data_block}", f"--hash-block-size={hash_block}",
            f"--uuid={UUID}", f"--salt={salt.hex() or '-'}", str(image), str(hashes),
        )  # fmt: skip
        root = next(line.split()[-1] for line in printed.splitlines() if line.startswith("Root"))
        found = dm_verity.format(
            data, ours(name), data_block_size=data_block, hash_block_size=hash_block, salt=salt, uuid=UUID
        )
        assert found.root.hex() == root, (name, data_block, hash_block, blocks)
        # Where there is no block of hashes, the program does not fill the block of the superblock either.
        written = hashes.read_bytes()
        assert found.hash_file == (written.ljust(hash_block, b"\0") if blocks == 1 else written)
        assert dm_verity.verify_files(image, hashes, found.root) == found.superblock
        hashes.write_bytes(found.hash_file)
        veritysetup("verify", str(image), str(hashes), root)


@pytest.mark.parametrize(("block", "offset"), [(4096, 40960), (1024, 41472), (4096, 45056)])
def test_a_tree_behind_the_data(tmp_path, block, offset):
    """One file for both, with the tree at an offset that need not be a multiple of its blocks."""
    image, data = tmp_path / "image", pattern(40960)
    image.write_bytes(data)
    printed = veritysetup(
        "format", "--data-blocks=10", f"--hash-offset={offset}", f"--hash-block-size={block}",
        "--salt=-", str(image), str(image),
    )  # fmt: skip
    root = bytes.fromhex(next(x.split()[-1] for x in printed.splitlines() if x.startswith("Root")))
    assert dm_verity.verify_files(image, image, root, hash_offset=offset).data_blocks == 10
    whole = image.read_bytes()
    assert dm_verity.verify(whole, whole, root, hash_offset=offset).data_size == 40960
    changed = bytearray(whole)
    changed[4097] ^= 1
    image.write_bytes(changed)
    with pytest.raises(IntegrityError, match=r"in 1 blocks: 1 \(bytes 4096 to 8192\)"):
        dm_verity.verify_files(image, image, root, hash_offset=offset)
    with pytest.raises(IntegrityError, match=r"no dm-verity superblock"):
        dm_verity.verify_files(image, image, root)


def test_on_a_backend(backend):
    data = pattern(3 * 512)
    found = dm_verity.format(data, backend=backend, **SMALL)
    assert found == dm_verity.format(data, **SMALL)
    dm_verity.verify(data, found.hash_file, found.root)


SMALL = {"data_block_size": 512, "hash_block_size": 512, "uuid": UUID, "salt": b"salt"}


def test_every_changed_byte_is_found():
    """A bit in each byte of the image and of the hash file, except for the uuid, which means nothing."""
    data = pattern(20 * 512)
    made = dm_verity.format(data, **SMALL)
    dm_verity.verify(data, made.hash_file, made.root, size=len(data))
    chosen = random.Random(2)
    for at in range(0, len(data), 37):
        changed = bytearray(data)
        changed[at] ^= 1 << chosen.randrange(8)
        with pytest.raises(IntegrityError, match=rf"in 1 blocks: {at // 512} \(bytes"):
            dm_verity.verify(changed, made.hash_file, made.root)
    for at in (*range(350), *range(350, len(made.hash_file), 7)):
        changed = bytearray(made.hash_file)
        changed[at] ^= 1 << chosen.randrange(8)
        if 16 <= at < 32:
            assert dm_verity.verify(data, bytes(changed), made.root).uuid != UUID
            continue
        with pytest.raises(IntegrityError):
            dm_verity.verify(data, bytes(changed), made.root)
    for bit in range(256):
        root = bytearray(made.root)
        root[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError, match="does not match the root"):
            dm_verity.verify(data, made.hash_file, bytes(root))


def test_truncation_at_every_byte(tmp_path):
    data = pattern(20 * 512)
    made = dm_verity.format(data, **SMALL)
    for size in range(len(made.hash_file)):
        with pytest.raises(IntegrityError):
            dm_verity.verify(data, made.hash_file[:size], made.root)
    for size in (*range(0, len(data), 13), len(data) - 1):
        with pytest.raises(IntegrityError, match="the tree covers 10240"):
            dm_verity.verify(data[:size], made.hash_file, made.root)
    with pytest.raises(IntegrityError, match="of which the tree covers only 10240"):
        dm_verity.verify(data + b"\0", made.hash_file, made.root)


def test_the_tree_of_a_shorter_image_is_refused():
    """Whoever cuts the image and corrects the number of blocks leaves hashes where zeros must be."""
    data = pattern(12 * 512)
    made = dm_verity.format(data, **SMALL)
    for blocks in range(1, 12):
        forged = bytearray(made.hash_file)
        forged[72:80] = blocks.to_bytes(8, "little")
        with pytest.raises(IntegrityError):
            dm_verity.verify(data[: blocks * 512], bytes(forged), made.root)


def test_blocks_of_hashes_pass_for_an_image_unless_the_size_is_known():
    """A property of dm-verity, and of veritysetup: leaves and nodes are hashed alike, and the root does not
    say how many there are."""
    data = pattern(20 * 512)
    made = dm_verity.format(data, **SMALL)
    blocks = made.superblock.level_blocks()
    assert blocks == [2, 1]
    image = made.blocks[512:]  # the lower level
    forged = bytearray(made.hash_file[:1024])
    forged[72:80] = (len(image) // 512).to_bytes(8, "little")
    assert dm_verity.verify(image, bytes(forged), made.root).data_blocks == 2
    with pytest.raises(IntegrityError, match="the tree covers 1024 bytes, and 10240 were expected"):
        dm_verity.verify(image, bytes(forged), made.root, size=len(data))


def test_random_superblocks_end_with_an_error():
    chosen, data = random.Random(3), pattern(512)
    made = dm_verity.format(data, **SMALL)
    for _ in range(2000):
        forged = bytearray(made.hash_file)
        for _ in range(chosen.randrange(1, 4)):
            at, value = chosen.choice([*range(16), *range(32, 512)]), chosen.randbytes(8)
            forged[at : at + 8] = value
        with pytest.raises(IntegrityError):
            dm_verity.verify(data, bytes(forged), made.root)


def test_sizes_beyond_32_bits():
    """The blocks of each level, the superblock and the errors, without data."""
    block = dm_verity.Superblock(data_blocks=(1 << 63) // 4096)
    assert block.data_size == 1 << 63
    assert block.level_blocks() == [1 << 44, 1 << 37, 1 << 30, 1 << 23, 1 << 16, 1 << 9, 4, 1]
    assert dm_verity.Superblock.parse(block.pack()) == block
    odd = dm_verity.Superblock(data_blocks=(5 << 30) + 1)  # 20 TiB and a block
    assert odd.level_blocks() == [(5 << 23) + 1, (5 << 16) + 1, (5 << 9) + 1, 21, 1]
    with pytest.raises(IntegrityError, match=f"the image has 4096 bytes, and the tree covers {1 << 63}"):
        dm_verity.verify(bytes(4096), block.pack(), bytes(32))
    with pytest.raises(ValueError, match="data_blocks must be between 1 and"):
        dm_verity.Superblock(data_blocks=(1 << 63) // 4096 + 1)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"algorithm": "sha512_256"}, ValueError, "dm-verity has sha1, .*not sha512_256"),
        ({"data_block_size": 256}, ValueError, "data_block_size must be a power of two from 512 to 524288"),
        ({"hash_block_size": 1 << 20}, ValueError, "hash_block_size must be a power of two"),
        ({"data_block_size": 4096}, ValueError, "whole blocks of 4096 bytes, and this one has 512"),
        ({"salt": bytes(257)}, ValueError, "at most 256 bytes"),
        ({"salt": "00"}, TypeError, "salt must be bytes"),
        ({"uuid": "1234"}, TypeError, "uuid must be"),
    ],
)
def test_wrong_use(options, error, says):
    with pytest.raises(error, match=says):
        dm_verity.format(bytes(512), **{**SMALL, **options})


def test_wrong_use_of_verify():
    made = dm_verity.format(bytes(512), **SMALL)
    with pytest.raises(ValueError, match="one or more whole blocks"):
        dm_verity.format(b"")
    with pytest.raises(TypeError, match="root must be bytes"):
        dm_verity.verify(bytes(512), made.hash_file, made.root.hex())
    with pytest.raises(IntegrityError, match="the root has 20 bytes"):
        dm_verity.verify(bytes(512), made.hash_file, bytes(20))
    with pytest.raises(ValueError, match="multiple of 512"):
        dm_verity.verify(bytes(512), made.hash_file, made.root, hash_offset=1)
