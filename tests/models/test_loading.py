"""Verified loading: what it hands out is what safetensors loads, and only if every digest was met."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import integrity_triton as it
from integrity_triton.models import (
    FileDigest,
    FileDigests,
    LoadError,
    Manifest,
    ManifestError,
    Signed,
    TensorDigests,
    load_file,
    load_verified,
)
from integrity_triton.models.dtypes import DTYPE_BITS
from integrity_triton.models.loading import host, load, ring

safetensors = pytest.importorskip("safetensors", reason="absent: safetensors")
pytest.importorskip("safetensors.torch")

Tensors = dict[str, torch.Tensor]


@pytest.fixture(params=["narrow", "wide", "ring"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The three ways into memory, with pieces so small that a small model has many."""
    monkeypatch.setattr(host, "PIECE_SIZE", 1000)
    monkeypatch.setattr(host, "_WINDOW_SIZE", 4096)
    monkeypatch.setattr(host, "_RUN_SIZE", 3000)
    monkeypatch.setattr(host, "_LEAST_WIDE", 0 if request.param == "wide" else 1 << 60)
    monkeypatch.setattr(host, "usable_cpus", lambda: 3)
    if request.param == "ring":
        monkeypatch.setattr(load, "_on_host", lambda *_: False)
        monkeypatch.setattr(ring, "BUFFER_SIZE", 5000)
        monkeypatch.setattr(ring, "_RUN_SIZE", 700)
        monkeypatch.setattr(ring, "_GROUP_SIZE", 9000)
    return request.param


def tensors() -> Tensors:
    generator = torch.Generator().manual_seed(5)
    large = torch.randint(0, 256, (20_003,), dtype=torch.uint8, generator=generator)
    return {
        "large": large,
        "empty": torch.zeros(3, 0),
        "scalar": torch.tensor(-2.5),
        "matrix": torch.randn(37, 41, generator=generator).bfloat16(),
        "odd": large[:999].clone(),
        "line\nfeed \u00e9": torch.arange(5),
        **{f"small.{i}": large[i : i + 1 + i % 7].clone() for i in range(40)},
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tensors(), path, metadata={"format": "pt"})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards with an index, and a tensor that is in both."""
    folder = tmp_path / "model"
    folder.mkdir()
    given = tensors()
    shards = [{n: t for i, (n, t) in enumerate(given.items()) if i % 2 == k} for k in range(2)]
    shards[1]["large"] = given["large"]
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-00002.safetensors"
        safetensors.torch.save_file(shard, folder / name)
        index = {**dict.fromkeys(shard, name), **index}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        other = expected[name]
        assert (tensor.dtype, tensor.shape, tensor.device) == (other.dtype, other.shape, other.device)
        assert tensor.stride() == other.stride() and tensor.is_contiguous()
        assert tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == tensor.nbytes
        assert tensor.is_leaf and not tensor._is_view()
        raw = [t.reshape(-1).view(torch.uint8) for t in (tensor, other)]
        assert torch.equal(*raw), name


def sha256_of(folder: Path) -> FileDigests:
    files = [folder] if folder.is_file() else sorted(folder.iterdir())
    return FileDigests.of({f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files})


def file_digests(path: Path, algorithm: str, digest: bytes) -> FileDigests:
    return FileDigests.of({path.name: digest}, algorithm, checksums=True)


AGAINST: dict[str, Callable[[Path], Any]] = {
    "a manifest": Manifest.build,
    "a SHA-256 manifest": lambda p: Manifest.build(p, "sha256"),
    "a manifest of extendable output": lambda p: Manifest.build(p, "shake_256", length=48),
    "SHA-256 of the file": sha256_of,
    "BLAKE3 of the file": lambda p: file_digests(p, "blake3", it.hash_file(p, "blake3")),
    "git's name": lambda p: file_digests(
        p, "git-sha1", hashlib.sha1(b"blob %d\0" % p.stat().st_size + p.read_bytes()).digest()
    ),
    "all together": lambda p: [Manifest.build(p), sha256_of(p), Manifest.build(p, "sha512")],
    "checksums of tensors": lambda p: TensorDigests(
        "xxh3_128",
        {n: it.new("xxh3_128", t).digest() for n, t in safetensors.torch.load_file(p).items()},
        checksums=True,
    ),
}


@pytest.mark.parametrize("case", AGAINST)
def test_what_is_loaded(path: Path, way: str, case: str) -> None:
    against = AGAINST[case](path)
    seen: list[int] = []
    found = load_verified(path, against=against, progress=seen.append)
    assert_same(found, safetensors.torch.load_file(path))
    assert sum(seen) == sum(t.nbytes for t in found.values()) or sum(seen) == path.stat().st_size
    safetensors.torch.save_file(found, path.with_name("again"))  # refuses tensors that share a storage
    if way != "ring":
        assert_same(load_file(path, against=against), found)


@pytest.mark.parametrize("case", AGAINST)
def test_every_flipped_byte_is_noticed(path: Path, way: str, case: str) -> None:
    against = AGAINST[case](path)
    data = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    for offset in (start, start + 1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :])
        with pytest.raises(LoadError, match="nothing of it was loaded") as caught:
            load_verified(path, against=against)
        error = caught.value
        assert error.file == str(path) and error.range is not None
        assert error.range[0] <= offset < error.range[1]
        assert str(path) in str(error) and f"bytes {error.range[0]} to {error.range[1]}" in str(error)
        if isinstance(against, FileDigests):
            assert error.tensor is None and error.range == (0, len(data))
        else:
            assert repr(error.tensor) in str(error)
            assert isinstance(error, it.errors.IntegrityError)


def test_the_header_is_a_part_of_the_file(path: Path, way: str) -> None:
    against = sha256_of(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"pt"', b'"np"'))
    with pytest.raises(LoadError, match="bytes 0 to"):
        load_verified(path, against=against)


def test_a_folder(folder: Path, way: str) -> None:
    expected = tensors()
    for against in (Manifest.build(folder), sha256_of(folder), [Manifest.build(folder), sha256_of(folder)]):
        assert_same(load_verified(folder, against=against), expected)
    # The copy that no one gets is covered by the digest of its file.
    shard = folder / "model-00002-of-00002.safetensors"
    (folder / "SHA256SUMS").write_bytes(
        b"".join(f"{d.digest.hex()}  ./{name}\n".encode() for name, d in sha256_of(folder).files.items())
    )
    assert_same(load_verified(folder, against=folder / "SHA256SUMS"), expected)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(LoadError) as caught:
        load_verified(folder, against=folder / "SHA256SUMS")
    assert caught.value.file == str(shard)


def test_one_shard_with_the_manifest_of_the_model(folder: Path) -> None:
    manifest = Manifest.build(folder)
    shard = folder / "model-00001-of-00002.safetensors"
    with pytest.raises(LoadError, match="missing"):
        load_file(shard, against=manifest)
    assert_same(load_file(shard, against=manifest, partial=True), safetensors.torch.load_file(shard))
    with pytest.raises(ManifestError, match="a folder, not a file"):
        load_file(folder, against=manifest)


@pytest.mark.parametrize("method", ["files", "shards"])
def test_a_signature(folder: Path, tmp_path: Path, way: str, method: str) -> None:
    pytest.importorskip("model_signing", reason="absent: model_signing, of the signing extra")
    from integrity_triton.models import oms

    private, public, signature = tmp_path / "key", tmp_path / "key.pub", tmp_path / "model.sig"
    oms.generate_key(private, public)
    algorithm, size = ("blake3", None) if method == "files" else ("sha256", 1234)
    oms.sign(folder, signature, private_key=private, method=method, algorithm=algorithm, shard_size=size)
    signed = Signed(signature, public)
    assert_same(load_verified(folder, against=signed), tensors())
    oms.generate_key(tmp_path / "other", tmp_path / "other.pub")
    with pytest.raises(it.errors.IntegrityError, match=r"model\.sig"):
        load_verified(folder, against=Signed(signature, tmp_path / "other.pub"))
    with pytest.raises(ManifestError, match=r"if it is a signature, pass Signed\(signature, public_key\)"):
        load_verified(folder, against=signature)
    shard = folder / "model-00001-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(LoadError, match="the signature has") as caught:
        load_verified(folder, against=signed)
    assert caught.value.file == str(shard)
    assert caught.value.range == (
        (0, len(data)) if method == "files" else ((len(data) - 1) // 1234 * 1234, len(data))
    )
    shard.write_bytes(data[:-1])
    with pytest.raises(ManifestError):  # the header no longer fits, before anything is compared
        load_verified(folder, against=signed)
    (folder / "more.safetensors").write_bytes(safetensors.torch.save({"more": torch.zeros(2)}))
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(LoadError, match=r"the signature has no digest of 'more.safetensors'"):
        load_verified(folder, against=signed)


def test_names_dtypes_and_shapes_are_compared_before_anything_is_read(path: Path) -> None:
    given = tensors()

    def refused(changed: Tensors, match: str) -> LoadError:
        safetensors.torch.save_file(changed, path)
        with pytest.raises(LoadError, match=match) as caught:
            load_verified(path, against=manifest, progress=lambda _: pytest.fail("something was read"))
        return caught.value

    manifest = Manifest.build(path)
    error = refused({**given, "matrix": given["matrix"].view(torch.float16)}, "dtype BF16 -> F16")
    assert error.tensor == "matrix" and error.file == str(path)
    assert error.range[1] - error.range[0] == given["matrix"].nbytes
    refused({**given, "matrix": given["matrix"].reshape(41, 37)}, "shape")
    assert refused({**given, "more": torch.zeros(1)}, "unexpected  'more'").tensor == "more"
    del given["scalar"]
    assert refused(given, "missing     'scalar'").tensor == "scalar"


def test_lists_have_to_fit(path: Path, folder: Path) -> None:
    size = path.stat().st_size
    digest = hashlib.sha256(path.read_bytes()).digest()
    load_verified(path, against=FileDigests.of({path.name: digest}, sizes={path.name: size}))
    load_verified(path, against=FileDigests.of({path.name: digest, "other.safetensors": digest}))
    with pytest.raises(LoadError, match=f"has {size} bytes, and the list of files has {size + 1}"):
        load_verified(path, against=FileDigests.of({path.name: digest}, sizes={path.name: size + 1}))
    with pytest.raises(LoadError, match=r"the list of files has no digest of 'model.safetensors'"):
        load_verified(path, against=FileDigests.of({"other.safetensors": digest}))
    with pytest.raises(
        LoadError, match=r"relative to the folder of the model, and it has 'a/model.safetensors'"
    ):
        load_verified(path, against=FileDigests.of({"a/model.safetensors": digest}))
    files = dict(sha256_of(folder).files)
    files["sub/lost.safetensors"] = FileDigest("sha256", digest)
    with pytest.raises(LoadError, match=r"missing: 'sub/lost.safetensors'"):
        load_verified(folder, against=FileDigests(files))
    names = {n: it.new("blake3", t).digest() for n, t in tensors().items()}
    load_verified(path, against=TensorDigests("blake3", names))
    with pytest.raises(LoadError, match="are not in the model: 'lost'"):
        load_verified(path, against=TensorDigests("blake3", {**names, "lost": bytes(32)}))
    load_verified(path, against=TensorDigests("blake3", {**names, "lost": bytes(32)}), partial=True)
    del names["scalar"]
    with pytest.raises(LoadError, match="have no digest: 'scalar'"):
        load_verified(path, against=TensorDigests("blake3", names))


def test_what_nothing_can_be_checked_against(path: Path, tmp_path: Path) -> None:
    manifest = Manifest.build(path)
    with pytest.raises(TypeError):
        load_verified(path)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="against is empty"):
        load_verified(path, against=[])
    with pytest.raises(TypeError, match="not NoneType"):
        load_verified(path, against=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="type int"):
        load_verified(path, against=[manifest, 3])  # type: ignore[list-item]
    with pytest.raises(ManifestError, match="only a checksum"):
        TensorDigests("xxh3_128", {"a": bytes(16)})
    with pytest.raises(ManifestError, match="digest of files"):
        TensorDigests("fsverity-sha256", {"a": bytes(32)})
    with pytest.raises(ManifestError, match="unknown algorithm 'nothing'"):
        TensorDigests("nothing", {})
    with pytest.raises(ManifestError, match="xet cannot be checked while a model is loaded"):
        load_verified(path, against=FileDigests.of({path.name: bytes(32)}, "xet"))
    with pytest.raises(ValueError, match="'meta' holds no bytes"):
        load_verified(path, against=manifest, device="meta")
    with pytest.raises(ValueError, match="cannot be loaded to the device 'hpu'"):
        load_verified(path, against=manifest, device="hpu")
    with pytest.raises(ValueError, match="unknown backend 'nothing'"):
        load_verified(path, against=manifest, backend="nothing")
    with pytest.raises(TypeError, match="loaded from a path"):
        load_verified(manifest, against=manifest)  # type: ignore[arg-type]
    (tmp_path / "neither").write_text("neither")
    with pytest.raises(ManifestError, match="path of a manifest or of a list of SHA-256 digests"):
        load_verified(path, against=tmp_path / "neither")
    manifest.save(tmp_path / "manifest.json")
    assert_same(load_verified(path, against=tmp_path / "manifest.json"), tensors())
    assert_same(load_verified(str(path), against=str(tmp_path / "manifest.json")), tensors())


def test_digests_of_tensors_as_a_value() -> None:
    digests = TensorDigests("shake_128", {"a": bytes(32), "b": bytes(4)}, checksums=True)
    assert not digests.collision_resistant
    assert TensorDigests("shake_128", {"a": bytes(32)}).collision_resistant
    assert pickle.loads(pickle.dumps(digests)) == digests == copy.deepcopy(digests)


def test_kernels_hash_what_is_loaded(path: Path, folder: Path) -> None:
    if "opencl" not in {status.name for status in it.backends() if status.available}:
        pytest.skip("absent: opencl")
    for against in (Manifest.build(path), [Manifest.build(path, "sha256"), Manifest.build(path)]):
        assert_same(load_verified(path, against=against, backend="opencl"), tensors())
    assert_same(load_verified(folder, against=Manifest.build(folder), backend="opencl"), tensors())
    data = bytearray(path.read_bytes())
    manifest = Manifest.build(path)
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(LoadError):
        load_verified(path, against=manifest, backend="opencl")


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_dtypes_are_those_that_safetensors_gives(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "m.safetensors"
    data = bytes(1 + i % 100 for i in range(DTYPE_BITS[dtype] * 6)) if dtype != "BOOL" else bytes([0, 1] * 24)
    shape = [6, 8]
    header = json.dumps({"t": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    manifest = Manifest.build(path)
    if dtype.startswith("F6_"):
        with pytest.raises(ManifestError, match=f"tensor 't': torch .* has no dtype for {dtype}"):
            load_verified(path, against=manifest)
        return
    found = load_verified(path, against=manifest)
    assert_same(found, safetensors.torch.load_file(path))
    assert Manifest.build(found) == manifest


def test_an_odd_offset_does_not_move_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    members = {
        "byte": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "double": {"dtype": "F64", "shape": [2], "data_offsets": [1, 17]},
    }
    header = json.dumps(members).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\x07" + struct.pack("<dd", 1.5, -2.0))
    found = load_verified(path, against=Manifest.build(path))
    assert found["double"].tolist() == [1.5, -2.0] and found["double"].data_ptr() % 8 == 0


def test_an_empty_model(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file({}, path)
    assert load_verified(path, against=Manifest.build(path)) == {}
    assert load_verified(path, against=sha256_of(path)) == {}


def test_tied_weights(tmp_path: Path) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(5, 3)
            self.head = torch.nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

    module, path = Tied(), tmp_path / "m.safetensors"
    safetensors.torch.save_model(module, path)
    for manifest in (Manifest.build(path), Manifest.build(module)):
        found = load_verified(path, against=manifest)
        assert_same(found, safetensors.torch.load_file(path))  # the names that the file has
        assert Tied().load_state_dict(found, strict=False).unexpected_keys == []


@pytest.mark.parametrize(("hash_name", "options"), [
    ("sha256", []), ("sha512", []), ("sha256", ["--salt=0123456789abcdef"]),
])  # fmt: skip
@pytest.mark.parametrize("size", [0, 1, 4096 - 100, 5000, 4096 * 128, 4096 * 129 + 7, 4096 * 128 * 3])
def test_fs_verity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hash_name: str, options: list[str], size: int
) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"t": torch.arange(size, dtype=torch.int32).to(torch.uint8)}, path)
    command = ["fsverity", "digest", "--compact", f"--hash-alg={hash_name}", *options, str(path)]
    try:
        printed = subprocess.check_output(command, text=True)
    except FileNotFoundError:
        pytest.skip("absent: fsverity, of the Debian package fsverity")
    salt = bytes.fromhex(options[0].partition("=")[2]) if options else b""
    digest = FileDigest(f"fsverity-{hash_name}", bytes.fromhex(printed.strip()), salt=salt)
    assert load_verified(path, against=FileDigests({path.name: digest}))["t"].numel() == size
    wrong = FileDigest(digest.algorithm, bytes(len(digest.digest)), salt=salt)
    with pytest.raises(LoadError):
        load_verified(path, against=FileDigests({path.name: wrong}))


def test_importing_loads_no_torch() -> None:
    code = (
        "import sys, integrity_triton as it; it.models.load_verified; it.models.LoadError; "
        "raise SystemExit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    it.hash_batch([b"a" * 100_000] * 4, "sha256", backend="native")  # that backend keeps its threads
    before = set(threading.enumerate())
    yield
    left = [t for t in set(threading.enumerate()) - before if t.is_alive()]
    assert not [t for t in left if t.name.startswith("integrity_triton")]


def test_a_long_report_is_cut(tmp_path: Path) -> None:
    safetensors.torch.save_file({"t0": torch.zeros(1)}, tmp_path / "m.safetensors")
    manifest = Manifest.build({f"t{i}": torch.zeros(1) for i in range(500)})
    with pytest.raises(LoadError, match="499 missing") as caught:
        load_verified(tmp_path / "m.safetensors", against=manifest)
    lines = str(caught.value).splitlines()
    assert len(lines) == 22 and lines[-1] == "  and 479 more"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('{"weight_map": {}}', "the index of a model in several"),
        ('{"architectures": ["BertModel"]}', "the configuration of a model"),
        ('{"_class_name": "UNet2DConditionModel"}', "the configuration of a diffusers model"),
    ],
)
def test_another_json_file_of_a_model_as_its_manifest(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ManifestError, match=rf"config\.json: .*this is {what}"):
        Manifest.load(tmp_path / "config.json")
