"""The safetensors parser: what it refuses, and that it reads the files that the safetensors library
writes."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from integrity_triton.models import Manifest, ManifestError
from integrity_triton.models.dtypes import DTYPE_BITS
from integrity_triton.models.folder import read_folder
from integrity_triton.models.safetensors_file import MAX_HEADER_SIZE, SafetensorsFile

safetensors = pytest.importorskip("safetensors")
pytest.importorskip("safetensors.torch")

F32_PAIR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def described(**changes: object) -> dict[str, object]:
    return {"a": {**F32_PAIR, **changes}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.safetensors"


def test_reads_what_the_library_writes(path: Path) -> None:
    tensors = {"b": torch.arange(6).reshape(2, 3), "a": torch.zeros(0, 4), "c": torch.tensor(1.5).bfloat16()}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    file = SafetensorsFile.read(path)
    assert file.metadata == {"format": "pt"}
    found = {t.name: (t.dtype, t.shape, path.read_bytes()[t.start : t.end]) for t in file.tensors}
    assert found == {
        "a": ("F32", (0, 4), b""),
        "b": ("I64", (2, 3), tensors["b"].numpy().tobytes()),
        "c": ("BF16", (), b"\xc0\x3f"),
    }


def test_empty_model(path: Path) -> None:
    safetensors.torch.save_file({}, path)
    assert SafetensorsFile.read(path).tensors == ()


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_element_sizes_are_the_librarys(path: Path, dtype: str) -> None:
    size = DTYPE_BITS[dtype]  # in bytes, of eight elements
    write(path, {"a": {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}}, bytes(size))
    with safetensors.safe_open(path, "np") as opened:
        assert opened.get_slice("a").get_dtype() == dtype
    assert SafetensorsFile.read(path).tensors[0].nbytes == size
    write(path, {"a": {"dtype": dtype, "shape": [8], "data_offsets": [0, size + 1]}}, bytes(size + 1))
    with pytest.raises(safetensors.SafetensorError):
        safetensors.safe_open(path, "np").__enter__()
    with pytest.raises(ManifestError, match="take"):
        SafetensorsFile.read(path)


HEADERS = {
    "an array": (b"[]", b"", "does not begin with"),
    "white space first": (b" {}", b"", "does not begin with"),
    "cut JSON": (b'{"a"', b"", "not JSON"),
    "not UTF-8": (b'{"\xff":1}', b"", "not UTF-8"),
    "deep": (b'{"a":' + b"[" * 100_000, b"", "nested too deeply"),
    "twice a tensor": (
        b'{"a":%b,"a":%b}' % ((json.dumps(F32_PAIR).encode(),) * 2),
        bytes(8),
        "'a' occurs twice",
    ),
    "twice a field": (b'{"a":{"dtype":"F32","dtype":"I32"}}', b"", "'dtype' occurs twice"),
    "lone surrogate": (b'{"\\ud800":%b}' % json.dumps(F32_PAIR).encode(), bytes(8), "surrogate"),
    "no object": ({"a": 1}, b"", "'a'.*must be an object"),
    "no dtype": ({"a": {"shape": [], "data_offsets": [0, 0]}}, b"", "'dtype' is missing"),
    "unknown field": (described(stride=[1]), bytes(8), "unknown field 'stride'"),
    "unknown dtype": (described(dtype="F7"), bytes(8), "unknown dtype 'F7'"),
    "dtype of another type": (described(dtype=["F32"]), bytes(8), "'dtype' must be a string"),
    "shape of another type": (described(shape="2"), bytes(8), "'shape' must be an array"),
    "fractional shape": (described(shape=[2.0]), bytes(8), "'2.0' is not an integer"),
    "NaN": (described(shape=[float("nan")]), bytes(8), "NaN is not JSON"),
    "boolean shape": (described(shape=[True]), bytes(8), "integers, not a boolean"),
    "negative shape": (described(shape=[-2]), bytes(8), "negative number"),
    "two negative dimensions": (described(shape=[-2, -1]), bytes(8), "negative number"),
    "huge integer": (described(shape=[10**30]), bytes(8), "64 bits"),
    "overflowing shape": (described(shape=[1 << 62, 1 << 62, 2]), bytes(8), "a valid number of bytes"),
    "shape that wraps to the right size": (described(shape=[(1 << 62) + 2]), bytes(8), "a valid number"),
    "half a byte": (described(dtype="F4", shape=[15]), bytes(8), "a valid number of bytes"),
    "one offset": (described(data_offsets=[8]), bytes(8), "two offsets, not 1"),
    "offsets backwards": (described(data_offsets=[8, 0]), bytes(8), "not a range"),
    "negative offset": (described(data_offsets=[-8, 0]), bytes(8), "negative number"),
    "offsets too far apart": (
        described(data_offsets=[0, 12]),
        bytes(12),
        "take 8 bytes, its data_offsets 12",
    ),
    "past the end": (described(), bytes(7), "ends at byte"),
    "bytes after the last": (described(), bytes(9), "1 bytes follow the last tensor"),
    "hole at the start": (described(data_offsets=[4, 12]), bytes(12), "leaves a hole"),
    "hole": ({**described(), "b": {**F32_PAIR, "data_offsets": [9, 17]}}, bytes(17), "'b' leaves a hole"),
    "overlap": ({**described(), "b": {**F32_PAIR, "data_offsets": [4, 12]}}, bytes(12), "'b' overlaps"),
    "the same bytes twice": ({**described(), "b": F32_PAIR}, bytes(8), "overlaps"),
    "metadata not an object": ({"__metadata__": []}, b"", "__metadata__"),
    "metadata not strings": ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_refused_headers(path: Path, case: str) -> None:
    header, data, message = HEADERS[case]
    write(path, header, data)
    with pytest.raises(ManifestError, match=message) as caught:
        SafetensorsFile.read(path)
    assert str(path) in str(caught.value)


def test_accepts_the_sound_form_of_the_refused_headers(path: Path) -> None:
    write(path, {"__metadata__": {"a": "b"}, **described()}, bytes(8))
    assert SafetensorsFile.read(path).tensors[0].nbytes == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "only 0 bytes"),
        (bytes(7), "only 7 bytes"),
        (bytes(8), "does not begin with"),
        (struct.pack("<Q", 3) + b"{}", "header is cut"),
        (struct.pack("<Q", MAX_HEADER_SIZE + 1) + b"{}", "at most 100000000"),
        (b"\xff" * 16, "at most 100000000"),
    ],
)
def test_refused_prefixes(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        SafetensorsFile.read(path)


def test_refuses_what_is_no_regular_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, Path("/dev/zero")):
        with pytest.raises(ManifestError, match="not a regular file"):
            SafetensorsFile.read(path)
    with pytest.raises(FileNotFoundError):
        SafetensorsFile.read(tmp_path / "absent")


WHOLE = safetensors.torch.save(
    {"w": torch.arange(4, dtype=torch.int16), "b": torch.zeros(3), "e": torch.zeros(0)}, {"k": "v"}
)


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=4), st.data())
def test_mutated_files_parse_or_are_refused(tmp_path_factory, changes, data) -> None:
    content = bytearray(WHOLE)
    for at, value in changes:
        content[at] = value
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(content[:cut])
    try:
        file = SafetensorsFile.read(path)
    except ManifestError:
        return
    # The library accepts what we accept, and finds the same tensors in it.
    with safetensors.safe_open(path, "np") as opened:
        assert {t.name: (t.dtype, list(t.shape)) for t in file.tensors} == {
            name: (opened.get_slice(name).get_dtype(), opened.get_slice(name).get_shape())
            for name in opened.keys()  # noqa: SIM118 - not a mapping
        }
    assert sum(t.nbytes for t in file.tensors) <= cut


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of two shards with an index and of a subfolder, and a file outside that does not belong to
    it."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    safetensors.torch.save_file({"a": torch.zeros(2)}, folder / "1.safetensors")
    safetensors.torch.save_file({"b": torch.ones(2)}, folder / "2.safetensors")
    safetensors.torch.save_file({"b": torch.ones(2)}, folder / "sub" / "2.safetensors")
    safetensors.torch.save_file({"secret": torch.ones(2)}, tmp_path / "outside.safetensors")
    write_index(folder, {"a": "1.safetensors", "b": "2.safetensors"})
    return folder


def write_index(folder: Path, weight_map: object, name: str = "model.safetensors.index.json") -> None:
    index = {"metadata": {"total_size": 16.0}, "weight_map": weight_map}
    (folder / name).write_text(json.dumps(index))


def names(folder: Path) -> set[str]:
    return {tensor.name for file in read_folder(folder) for tensor in file.tensors}


def test_folder_with_index(folder: Path) -> None:
    assert names(folder) == {"a", "b", "sub/b"}


def test_folder_without_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    assert names(folder) == {"a", "b", "sub/b"}


def test_files_in_subfolders_count(folder: Path) -> None:
    """A pipeline of several models. Their tensors have equal names, and some of the models have an index."""
    for place in ("unet", "text_encoder", "deep/er", "unet/.hidden"):
        (folder / place).mkdir(parents=True)
        safetensors.torch.save_file(
            {"a": torch.zeros(1), "w": torch.ones(1)}, folder / place / "1.safetensors"
        )
    write_index(folder, {"a": "1.safetensors", "w": "1.safetensors"}, "unet/x.safetensors.index.json")
    found = {"unet/a", "unet/w", "text_encoder/a", "text_encoder/w", "deep/er/a", "deep/er/w"}
    assert names(folder) == found | {"a", "b", "sub/b", "unet/.hidden/a", "unet/.hidden/w"}
    assert names(folder / "unet") == {"a", "w", ".hidden/a", ".hidden/w"}


@pytest.mark.parametrize("name", ["sub/b", "absent/b", "/b", "b/"])
@pytest.mark.parametrize("place", ["", "sub/"])
def test_a_stored_name_cannot_pretend_to_be_in_a_subfolder(folder: Path, place: str, name: str) -> None:
    path = folder / f"{place}more.safetensors"
    safetensors.torch.save_file({name: torch.ones(2)}, path)
    with pytest.raises(ManifestError, match=f"more.safetensors: the tensor name '{name}' has a slash"):
        read_folder(folder)
    assert Manifest.build(path).entries[0].name == name  # one file has no subfolders
    safetensors.torch.save_file({"w": torch.ones(2)}, path, metadata={name: "w"})
    with pytest.raises(ManifestError, match=f"the tensor name '{name}' has a slash"):
        read_folder(folder)


def test_layouts_that_a_loader_reads_differently_do_not_share_a_manifest(tmp_path: Path) -> None:
    good, other = torch.ones(4), torch.full((4,), 2.0)
    layouts: dict[str, dict[str, torch.Tensor]] = {
        "original": {"model": good, "2_Dense/model": other, "3_Dense/model": other},
        "index": {"2_Dense/model": good, "2_Dense/other": other, "3_Dense/model": other},
        "file link": {"2_Dense/model": good, "2_Dense/other": other, "3_Dense/model": other},
        "folder link": {"model": good, "3_Dense/model": other},
        "more links": {"model": good, "2_Dense/model": other, "3_Dense/model": other},
    }
    for layout, files in layouts.items():
        for name, tensor in files.items():
            path = tmp_path / layout / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_file({"w": tensor}, path)
    manifest = Manifest.build(tmp_path / "original")
    write_index(tmp_path / "index", {"w": "2_Dense/model.safetensors"})
    (tmp_path / "file link" / "x.safetensors").symlink_to("2_Dense/model.safetensors")
    write_index(tmp_path / "file link", {"w": "x.safetensors"})
    (tmp_path / "folder link" / "2_Dense").symlink_to("3_Dense")
    (tmp_path / "more links" / "adapter").symlink_to("3_Dense")
    for layout, message in (
        ("index", "'2_Dense/model.safetensors' is in a subfolder"),
        ("file link", "'2_Dense/w' is in both '2_Dense/model.safetensors' and '2_Dense/other.safetensors'"),
        ("folder link", "2_Dense: a symbolic link to a folder"),
        ("more links", "adapter: a symbolic link to a folder"),
    ):
        with pytest.raises(ManifestError, match=message):
            manifest.verify(tmp_path / layout)


def test_unreadable_subfolders_are_not_left_out(folder: Path, monkeypatch) -> None:
    scandir = os.scandir

    def refuse(path):
        if str(path).rstrip("/").endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        read_folder(folder)


INDEXES = [
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.fp16.safetensors.index.json",
    "model.safetensors.fp16.index.json",
    "consolidated.safetensors.index.json",
]


@pytest.mark.parametrize("name", INDEXES)
def test_missing_shards_are_noticed_whatever_the_index_is_called(folder: Path, name: str) -> None:
    (folder / INDEXES[0]).unlink()
    for place in ("", "unet/"):
        (folder / place).mkdir(exist_ok=True)
        write_index(folder, {"x": "x-1.safetensors"}, place + name)
        with pytest.raises(ManifestError, match=f"'{place}x-1.safetensors' is missing"):
            read_folder(folder)
        (folder / place / name).unlink()


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        (["model-00001-of-00002"], 2),
        (["model-00002-of-00002"], 1),
        (["model.fp16-00001-of-00003", "model.fp16-00003-of-00003"], 2),
        (["m-00001-of-00002.fp16", "m-00001-of-00002", "m-00002-of-00002"], 2),
        (["m-1-of-000002"], 2),
        (["m_1_of_2"], 2),
        (["m-00000-of-00002"], 1),
        (["m-tp-1-of-1-pp-2-of-2"], 1),
        (["m-00001-of-999999999"], 2),
        (["unet/m-00002-of-00002"], 1),
        (["m-0-of-2", "m-1-of-2"], None),
        (["m-00001-of-000002", "m-00002-of-000002"], None),
        (["m-1-of-1"], None),
        (["unet/m-1-of-2", "unet/m-2-of-2", "m-1-of-1"], None),
        (["best-of-3", "1-of-", "m-00001-of-" + "9" * 60], None),
    ],
)
def test_numbered_shards(tmp_path: Path, files: list[str], missing: int | None) -> None:
    for i, name in enumerate(files):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        safetensors.torch.save_file({f"{i}": torch.zeros(1)}, path)
    if missing is None:
        assert len(names(tmp_path)) == len(files)
        return
    with pytest.raises(ManifestError, match=f"is one of [0-9]+ files, and number {missing} is missing"):
        read_folder(tmp_path)
    # An index takes precedence in what belongs to a set.
    if "/" not in files[0]:
        write_index(tmp_path, {f"{i}": f"{name}.safetensors" for i, name in enumerate(files)})
        assert len(names(tmp_path)) == len(files)


def test_an_index_resolves_overlay_shards(folder: Path, caplog) -> None:
    safetensors.torch.save_file({"a": torch.full((2,), 7.0)}, folder / "overlay.safetensors")
    write_index(folder, {"a": "overlay.safetensors", "b": "2.safetensors"})
    with pytest.raises(ManifestError, match=r"'a' is in both"):  # no index names the other file
        read_folder(folder)
    safetensors.torch.save_file({"a": torch.zeros(2), "c": torch.zeros(1)}, folder / "1.safetensors")
    write_index(folder, {"a": "overlay.safetensors", "b": "2.safetensors", "c": "1.safetensors"})
    found = {(file.path.name, t.name) for file in read_folder(folder, overlays=True) for t in file.tensors}
    assert found == {
        ("overlay.safetensors", "a"),
        ("1.safetensors", "c"),
        ("2.safetensors", "b"),
        ("2.safetensors", "sub/b"),
    }
    assert "the index assigns tensor 'a' to 'overlay.safetensors'" in caplog.text
    assert "'1.safetensors' differs and is not covered" in caplog.text
    merged = {"a": torch.full((2,), 7.0), "b": torch.ones(2), "c": torch.zeros(1), "sub/b": torch.ones(2)}
    assert Manifest.build(folder, overlays=True) == Manifest.build(merged)
    write_index(folder, {"a": "1.safetensors", "b": "overlay.safetensors"}, INDEXES[1])
    with pytest.raises(ManifestError, match=r"'b' is not in 'overlay.safetensors'"):
        read_folder(folder)
    write_index(folder, {"a": "1.safetensors", "d": "overlay.safetensors"}, INDEXES[1])
    safetensors.torch.save_file({"a": torch.ones(2), "d": torch.ones(1)}, folder / "overlay.safetensors")
    with pytest.raises(ManifestError, match=r"'a' is in both"):  # two indexes disagree
        read_folder(folder)


OVERLAY = torch.arange(600_000, dtype=torch.float32)  # is compared in several reads


@pytest.mark.parametrize(
    "copy",
    [OVERLAY.reshape(2, -1), OVERLAY.view(torch.int32), OVERLAY.index_fill(0, torch.tensor([599_999]), 7.0)],
    ids=["shape", "dtype", "bytes"],
)
def test_copies_that_differ_are_refused_unless_they_are_permitted(tmp_path: Path, copy: torch.Tensor) -> None:
    good, shard = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    safetensors.torch.save_file({"w": OVERLAY}, good)
    safetensors.torch.save_file({"v": torch.ones(3), "w": OVERLAY}, shard)
    write_index(tmp_path, {"w": good.name, "v": shard.name})
    manifest = Manifest.build(tmp_path)  # equal copies are harmless
    report = manifest.verify(tmp_path)
    assert report.ok
    assert report.to_dict()["overlaid"] == []

    safetensors.torch.save_file({"v": torch.ones(3), "w": copy}, shard)
    for refuse in (Manifest.build, Manifest.from_folder, manifest.verify):
        with pytest.raises(
            ManifestError, match=r"'w' to '1.safetensors', and the copy in '2.safetensors' differs.*overlays"
        ):
            refuse(tmp_path)
    assert Manifest.build(tmp_path, overlays=True) == manifest
    assert Manifest.from_folder(tmp_path, overlays=True) == manifest
    report = manifest.verify(tmp_path, overlays=True)
    assert report.ok
    assert report.to_dict()["overlaid"] == [{"name": "w", "file": str(shard)}]
    assert "2 tensors as listed in the manifest, 1 overlaid\n  overlaid    'w': the copy in" in str(report)
    safetensors.torch.save_file({"w": copy}, good)
    safetensors.torch.save_file({"v": torch.ones(3), "w": OVERLAY}, shard)
    report = manifest.verify(tmp_path, overlays=True)
    assert [change.name for change in report.changed] == ["w"]  # the chosen tensor is always compared
    assert "overlaid    'w'" in str(report)


def test_several_names_of_one_file_are_one_file(tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": OVERLAY}, tmp_path / "1.safetensors")
    (tmp_path / "2.safetensors").symlink_to("1.safetensors")
    os.link(tmp_path / "1.safetensors", tmp_path / "3.safetensors")
    assert [t.name for file in read_folder(tmp_path) for t in file.tensors] == ["w"]
    write_index(tmp_path, {"w": "2.safetensors"})
    assert [t.name for file in read_folder(tmp_path) for t in file.tensors] == ["w"]


def test_snapshots_of_the_hugging_face_cache(tmp_path: Path) -> None:
    """All files of a snapshot are links to files in the folder ``blobs``, which is beside ``snapshots``."""
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "blobs").mkdir(parents=True)
    for place in ("", "2_Dense"):
        (snapshot / place).mkdir(parents=True, exist_ok=True)
        blob = repository / "blobs" / f"{place}blob"
        safetensors.torch.save_file({"w": torch.zeros(2)}, blob)
        (snapshot / place / "model.safetensors").symlink_to(os.path.relpath(blob, snapshot / place))
    index = repository / "blobs" / "index"
    index.write_text(json.dumps({"weight_map": {"w": "model.safetensors"}}))
    (snapshot / INDEXES[0]).symlink_to("../../blobs/index")
    assert names(snapshot) == {"w", "2_Dense/w"}
    assert names(snapshot / "2_Dense") == {"w"}
    alias = tmp_path / "alias"
    alias.symlink_to(snapshot)
    assert names(alias) == {"w", "2_Dense/w"}
    # If a file has two names, a loader sees two models.
    (snapshot / "3_Dense").mkdir()
    (snapshot / "3_Dense" / "model.safetensors").symlink_to("../../../blobs/blob")
    assert names(snapshot) == {"w", "2_Dense/w", "3_Dense/w"}

    (repository / "blobs" / "blob").unlink()
    with pytest.raises(ManifestError, match=r"'model\.safetensors' is missing"):
        read_folder(snapshot)
    for outside in (repository / "x.safetensors", repository / "blobs" / "deeper" / "x.safetensors"):
        outside.parent.mkdir(exist_ok=True)
        safetensors.torch.save_file({"secret": torch.zeros(2)}, outside)
        (snapshot / "model.safetensors").unlink()
        (snapshot / "model.safetensors").symlink_to(outside)
        with pytest.raises(ManifestError, match="leaves the model folder"):
            read_folder(snapshot)


def test_snapshots_whose_blobs_are_in_a_shared_store(tmp_path: Path) -> None:
    """Repositories of a cache share files: those in their ``blobs`` are links to ``CACHE/blobs``."""
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    stored = tmp_path / "blobs" / "ab" / f"ab{'0' * 62}"
    for place in (snapshot, repository / "blobs", stored.parent):
        place.mkdir(parents=True)
    safetensors.torch.save_file({"w": torch.zeros(2)}, stored)
    (repository / "blobs" / "blob").symlink_to(f"../../blobs/ab/{stored.name}")
    (snapshot / "model.safetensors").symlink_to("../../blobs/blob")
    with pytest.raises(ManifestError, match="leaves the model folder"):
        read_folder(snapshot)  # nothing marks the folder as such a store
    (tmp_path / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    assert names(snapshot) == {"w"}
    (tmp_path / "blobs" / "cd").mkdir()
    stored.rename(tmp_path / "blobs" / "cd" / stored.name)
    (repository / "blobs" / "blob").unlink()
    (repository / "blobs" / "blob").symlink_to(f"../../blobs/cd/{stored.name}")
    with pytest.raises(ManifestError, match="leaves the model folder"):
        read_folder(snapshot)


def test_blobs_are_for_snapshots_only(folder: Path) -> None:
    (folder.parent / "blobs").mkdir()
    (folder.parent / "outside.safetensors").rename(folder.parent / "blobs" / "outside.safetensors")
    (folder / "x.safetensors").symlink_to("../blobs/outside.safetensors")
    with pytest.raises(ManifestError, match="leaves the model folder"):
        read_folder(folder)


def test_linked_subfolders(folder: Path) -> None:
    (folder / "nowhere").symlink_to("absent")
    (folder / "itself").symlink_to("itself")
    assert names(folder) == {"a", "b", "sub/b"}
    for name, target in (("latest", "sub"), ("loop", ".")):
        (folder / name).symlink_to(target)
        with pytest.raises(ManifestError, match=f"{name}: a symbolic link to a folder"):
            read_folder(folder)
        (folder / name).unlink()
    (folder / "out").symlink_to("..")
    with pytest.raises(ManifestError, match="out: the path leaves the model folder"):
        read_folder(folder)


def test_files_beside_the_index_count(folder: Path) -> None:
    safetensors.torch.save_file({"c": torch.zeros(1)}, folder / "model.safetensors")
    assert names(folder) == {"a", "b", "sub/b", "c"}
    safetensors.torch.save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ManifestError, match=r"'a' is in both '1.safetensors' and 'model.safetensors'"):
        read_folder(folder)


@pytest.mark.parametrize(
    "escape",
    ["../outside.safetensors", "sub/../../outside.safetensors", "/etc/passwd", "sub//2.safetensors", "", ".",
     "..", "sub/./2.safetensors", "..\\outside.safetensors", "C:outside.safetensors", "a\x00", "\ud800"],
)  # fmt: skip
def test_index_paths_that_escape(folder: Path, escape: str) -> None:
    write_index(folder, {"a": escape})
    with pytest.raises(ManifestError, match=r"not a path inside the folder|not a portable path"):
        read_folder(folder)


@pytest.mark.parametrize("link", ["linked.safetensors", "linked/outside.safetensors"])
def test_symbolic_links_out_of_the_folder(folder: Path, link: str) -> None:
    target = folder.parent / "outside.safetensors" if "/" not in link else folder.parent
    (folder / Path(link).parts[0]).symlink_to(target)
    write_index(folder, {"secret": link})
    with pytest.raises(ManifestError, match="leaves the model folder"):
        read_folder(folder)
    write_index(folder, {})
    if "/" not in link:  # it is also found without the index
        with pytest.raises(ManifestError, match="leaves the model folder"):
            read_folder(folder)


def test_index_itself_may_not_be_a_link_out(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.rename(folder.parent / "index.json")
    index.symlink_to(folder.parent / "index.json")
    with pytest.raises(ManifestError, match="leaves the model folder"):
        read_folder(folder)


def test_links_inside_the_folder_and_to_it_are_followed(folder: Path) -> None:
    (folder / "2.safetensors").unlink()
    (folder / "3.safetensors").symlink_to("sub/2.safetensors")
    write_index(folder, {"a": "1.safetensors", "b": "3.safetensors"})
    alias = folder.parent / "alias"
    alias.symlink_to(folder)
    assert names(alias) == {"a", "b", "sub/b"}  # a link has the name of its own place, and so has its file


def test_loop_of_links(folder: Path) -> None:
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    with pytest.raises(OSError, match="loop"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "1.safetensors", "b": "3.safetensors"}, "'3.safetensors' is missing"),
        ({"a": "2.safetensors"}, "'a' is not in '2.safetensors'"),
        ({"b": "sub/2.safetensors"}, "'sub/2.safetensors' is in a subfolder; .* files of its own folder"),
        ({"b": "2.bin"}, "the name '2.bin' does not end in .safetensors"),
        ({"c": "1.safetensors"}, "'c' is not in '1.safetensors'"),
        ({"a": 1}, "must be a string"),
        (["1.safetensors"], "weight_map must be an object"),
    ],
)
def test_index_that_disagrees_with_the_files(folder: Path, weight_map: object, message: str) -> None:
    write_index(folder, weight_map)
    with pytest.raises(ManifestError, match=message):
        read_folder(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"weight_map":{},"weight_map":{}}', "[" * 100_000])
def test_index_that_is_no_index(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ManifestError, match=r"index\.json: "):
        read_folder(folder)


def test_index_that_names_a_folder(folder: Path) -> None:
    (folder / "3.safetensors").mkdir()
    write_index(folder, {"a": "3.safetensors"})
    with pytest.raises(ManifestError, match=r"no file has exactly the name '3\.safetensors'"):
        read_folder(folder)


def test_index_that_is_a_pipe(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    os.mkfifo(folder / "model.safetensors.index.json")
    with pytest.raises(ManifestError, match="a named pipe, not a regular file"):
        read_folder(folder)


def test_index_that_is_too_large(folder: Path) -> None:
    os.truncate(folder / "model.safetensors.index.json", (64 << 20) + 1)
    with pytest.raises(ManifestError, match="at most"):
        read_folder(folder)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no \.safetensors file"):
        read_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_folder(tmp_path / "absent")
