"""The checksums of slime's and miles' weight updates, beside the libraries that they call.

Neither project is on a package index. ``theirs`` is written from their definition
(``slime/utils/disk_delta.py`` at 1a7ef658): xxhash, blake3 and zlib over the bytes of a tensor, in
hexadecimal digits.
"""

from __future__ import annotations

import json
import os
import zlib

import pytest
import torch

import integrity_triton as it
from integrity_triton.integrations import slime

save_arrays = pytest.importorskip("safetensors.numpy", reason="absent: safetensors").save_file
safetensors = pytest.importorskip("safetensors.torch", reason="absent: safetensors")
load_file, save_file = safetensors.load_file, safetensors.save_file
ManifestError = it.models.ManifestError
NAMES = ("xxh3-128", "blake3", "adler32")


def theirs(name: str, tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if name == "adler32":
        return f"{zlib.adler32(data):08x}"
    if name == "blake3":
        return pytest.importorskip("blake3", reason="absent: blake3").blake3(data).hexdigest()
    return pytest.importorskip("xxhash", reason="absent: xxhash").xxh3_128(data).hexdigest()


def state() -> dict[str, torch.Tensor]:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(3))
    return {
        "matrix": values.view(40, 25).clone(),
        "transposed": values.view(40, 25).t(),
        "bf16": values.bfloat16(),
        "fp8": values.to(torch.float8_e4m3fn),
        "scalar": values[5].clone(),
        "empty": values[:0],
        "flags": values > 0,
    }


def publish(folder, before, after, name="xxh3-128", **about):
    """What slime publishes: files of differences, here not compressed, and the index."""
    changed = {key: x for key, x in after.items() if not torch.equal(x, before[key])}
    halves = {"model-00000-of-00002.safetensors": [], "model-00001-of-00002.safetensors": []}
    for i, key in enumerate(changed):
        list(halves.values())[i % 2].append(key)
    folder.mkdir()
    for file, keys in halves.items():
        diffs = {
            key: (
                changed[key].contiguous().view(torch.uint8) ^ before[key].contiguous().view(torch.uint8)
            ).numpy()
            for key in keys
        }
        save_arrays(diffs, folder / file, {key: theirs(name, changed[key]) for key in keys})
    metadata = {"version": "000007", "base_version": "000006", "delta_encoding": "xor"}
    metadata |= {"compression_format": "zstd", "checksum_format": name, **about}
    places = {key: file for file, keys in halves.items() for key in keys}
    index = {"metadata": metadata, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return changed


def trained(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    after = {name: x.clone() for name, x in tensors.items()}
    for name in ("matrix", "bf16", "fp8"):
        after[name].view(torch.uint8).view(-1)[17] ^= 4
    return after


@pytest.mark.parametrize("name", NAMES)
def test_checksums(name):
    seen: list[int] = []
    found = slime.checksums(state(), name, progress=seen.append)
    assert found == {key: theirs(name, x) for key, x in state().items()}
    assert sum(seen) == sum(x.nbytes for x in state().values())
    for data in (b"", b"abc", bytearray(5000)):
        tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0)
        assert slime.checksum(data, name) == slime.checksum(tensor, name) == theirs(name, tensor)


def test_algorithms_that_slime_does_not_have():
    for call in (slime.checksums, slime.checksum):
        with pytest.raises(ValueError, match=r"no checksum 'sha256'; it has xxh3-128, blake3, adler32"):
            call({}, "sha256")
    for name in NAMES:
        with pytest.raises(ValueError, match="tensor 'a': a meta tensor"):
            slime.checksums({"a": torch.empty(2, device="meta")}, name)


class TestAdler32OnADevice:
    """The sums of torch operations, which tensors outside the host's memory take."""

    @pytest.mark.parametrize("length", [1, 2, 4095, 4096, 4097, 3 * 4096 + 5, 70_000])
    @pytest.mark.parametrize("kind", ["random", "ones", "zeros"])
    def test_lengths(self, length, kind):
        data = {
            "random": torch.randint(0, 256, (length,)).to(torch.uint8),
            "ones": torch.full((length,), 255, dtype=torch.uint8),
            "zeros": torch.zeros(length, dtype=torch.uint8),
        }[kind]
        assert slime._adler32_of(data) == zlib.adler32(data.numpy())

    def test_several_blocks(self, monkeypatch):
        data = torch.randint(0, 256, (100_001,)).to(torch.uint8)
        for size in (4096, 12_288, 50_000):
            monkeypatch.setattr(slime, "_BLOCK", size)
            assert slime._adler32_of(data) == zlib.adler32(data.numpy())

    def test_sums_beyond_32_bits(self):
        """Each byte is the largest; the sum weighted by position is beyond 2**31 after 4104 of them, and
        beyond 2**55 at the end."""
        data = torch.full((20_000_003,), 255, dtype=torch.uint8)
        assert slime._adler32_of(data) == zlib.adler32(data.numpy())

    @pytest.mark.exhaustive
    def test_more_than_2_to_the_31_bytes(self):
        data = torch.full(((1 << 31) + 70_001,), 255, dtype=torch.uint8)
        assert slime._adler32_of(data) == zlib.adler32(data.numpy())


@pytest.mark.parametrize("name", NAMES)
def test_an_update_against_what_it_gives(tmp_path, name):
    """The checksums are those of the tensors that result, whether these are in memory or in files."""
    before, after = state(), trained(state())
    changed = publish(tmp_path / "weight_v000007", before, after, name)
    update = slime.read_update(tmp_path / "weight_v000007")
    assert (update.algorithm, update.version, update.base_version) == (name, "000007", "000006")
    assert update.checksums == {key: theirs(name, x) for key, x in changed.items()}
    assert slime.verify(update, after) == slime.verify(tmp_path / "weight_v000007", after) == 3

    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_file({key: x.contiguous() for key, x in after.items()}, folder / "model.safetensors")
    assert slime.verify(update, folder) == slime.verify(update, folder / "model.safetensors") == 3

    after["flags"] = ~after["flags"]  # is not in the update, so that it is not compared
    assert slime.verify(update, after) == 3
    after["bf16"].view(torch.int16)[900] ^= 1
    del after["fp8"]
    save_file({key: x.contiguous() for key, x in after.items()}, folder / "model.safetensors")
    for tensors in (after, folder):
        with pytest.raises(it.IntegrityError, match=r"(?s)2 of 3 tensors.*'fp8' is missing") as caught:
            slime.verify(update, tensors)
        assert f"'bf16' has {name} {theirs(name, after['bf16'])}, not {update.checksums['bf16']}" in str(
            caught.value
        )
        assert "matrix" not in str(caught.value)
    with pytest.raises(it.IntegrityError, match="3 of 3 tensors do not match"):
        slime.verify(update, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_checksums_of_its_own_tensors(tmp_path, name):
    path = tmp_path / "model.safetensors"
    tensors = {key: x.contiguous() for key, x in state().items()}
    found = slime.save_file(tensors, path, name, metadata={"format": "pt"})
    assert found == {key: theirs(name, x) for key, x in tensors.items()}
    assert slime.verify(path, algorithm=name) == 7
    loaded = load_file(path)
    assert all(
        torch.equal(loaded[key].view(torch.uint8), x.view(torch.uint8))
        for key, x in tensors.items()
        if x.dim()
    )
    data = bytearray(path.read_bytes())
    data[-3] ^= 64
    path.write_bytes(data)
    with pytest.raises(it.IntegrityError, match="1 of 7 tensors do not match"):
        slime.verify(path, algorithm=name)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_changes_while_it_is_verified(tmp_path, name):
    path = tmp_path / "model.safetensors"
    slime.save_file({"a": torch.zeros(3 << 20, dtype=torch.uint8), "b": torch.ones(2)}, path, name)

    def touch(_size):
        os.utime(path, ns=(0, 0))

    with pytest.raises(ManifestError, match=r"model\.safetensors: the file changed while it was being read"):
        slime.verify(path, algorithm=name, progress=touch)


def test_misuse_of_files(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match="metadata has 'a', which is the name of a tensor"):
        slime.save_file({"a": torch.ones(2)}, path, metadata={"a": "b"})
    assert not path.exists()
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(ManifestError, match=r"no checksum of tensor 'a' in its __metadata__"):
        slime.verify(path)
    save_file({}, path)
    with pytest.raises(ManifestError, match="nothing to verify"):
        slime.verify(path)
    slime.save_file({"a": torch.ones(2)}, path, "adler32")
    with pytest.raises(ManifestError, match="and not 32 hexadecimal digits"):
        slime.verify(path)
    with pytest.raises(TypeError, match="tensors is needed"):
        slime.verify(slime.Update("blake3", {}))
    with pytest.raises(ValueError, match="published with blake3, not with adler32"):
        slime.verify(slime.Update("blake3", {}), {}, algorithm="adler32")


def test_malformed_updates(tmp_path):
    """Nothing that the index or the files leave open counts as verified."""

    def broken(change):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        publish(folder, state(), trained(state()))
        file = folder / "model.safetensors.index.json"
        index = json.loads(file.read_text())
        change(index)
        file.write_text(json.dumps(index))
        return folder

    first = "model-00000-of-00002.safetensors"
    for change, message in (
        (lambda index: index["metadata"].update(checksum_format="md5"), "checksum_format is 'md5'"),
        (lambda index: index["metadata"].pop("checksum_format"), "checksum_format is None"),
        (lambda index: index.pop("weight_map"), "no 'metadata' or no 'weight_map'"),
        (lambda index: index["weight_map"].pop("matrix"), "disagree about 'matrix'"),
        (lambda index: index["weight_map"].update(more=first), "disagree about 'more'"),
        (lambda index: index["weight_map"].update(matrix=f"../{first}"), "not in its folder"),
        (lambda index: index["weight_map"].update(matrix=3), "not in its folder"),
        (lambda index: index["metadata"].update(checksum_format="blake3"), "not 64 hexadecimal digits"),
    ):
        with pytest.raises(ManifestError, match=message):
            slime.verify(broken(change), state())
    folder = broken(lambda index: None)
    diff = {"matrix": torch.zeros(4000, dtype=torch.uint8), "fp8": torch.zeros(1000, dtype=torch.uint8)}
    save_file(diff, folder / first, {"fp8": "0" * 32})
    with pytest.raises(ManifestError, match=r"no checksum of tensor 'matrix'"):
        slime.read_update(folder)
    with pytest.raises(FileNotFoundError):
        slime.read_update(tmp_path / "absent")
    with pytest.raises(NotADirectoryError, match="an update is a folder with an index"):
        slime.verify(folder / first, state())


def test_the_names_of_the_algorithms_in_this_package():
    for algorithm, name in slime.ALGORITHMS.items():
        if name is not None:
            assert slime.checksum(b"update", algorithm) == it.new(name, b"update").hexdigest()
