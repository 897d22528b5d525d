"""Manifests: all sources give the same manifest, with the documented root; reports; and untrusted JSON."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import pickle
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import integrity_triton as it
from bench import memory
from integrity_triton.messages import batches
from integrity_triton.models import (
    Manifest,
    ManifestError,
    TensorEntry,
    live,
    manifest,
    model_tree,
    safetensors_file,
    stored,
)
from integrity_triton.models.regular_files import rest_of_tick

blake3 = pytest.importorskip("blake3")
safetensors = pytest.importorskip("safetensors")
pytest.importorskip("safetensors.torch")

ORACLES = {"sha224": hashlib.sha224, "sha256": hashlib.sha256, "blake3": blake3.blake3}
EXTENDABLE = {"shake_128": hashlib.shake_128, "blake3": blake3.blake3}
DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "int32": "I32",
    "uint32": "U32", "int64": "I64", "uint64": "U64", "float16": "F16", "bfloat16": "BF16",
    "float32": "F32", "float64": "F64", "complex64": "C64", "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2": "F8_E5M2", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0", "float4_e2m1fn_x2": "F4",
}  # fmt: skip
STATE = {"w": torch.arange(12, dtype=torch.float32).reshape(3, 4), "b": torch.tensor([1, 2, 3]).bfloat16()}


class Tied(torch.nn.Module):
    """A module like usual language models: the weight of the output layer is that of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.lm_head = torch.nn.Linear(3, 5, bias=True)
        self.lm_head.weight = self.embed.weight
        self.register_buffer("step", torch.tensor(7))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def raw(x: torch.Tensor) -> bytes:
    return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def saved(state_dict: dict[str, torch.Tensor], folder: Path) -> Path:
    path = folder / "model.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in state_dict.items()}, path)
    return path


def documented_root(text: str) -> str:
    """The root of a manifest's JSON as docs/reference/manifest.md defines it, computed only with struct and a
    hash library."""
    document = json.loads(text)
    version, oracle = document["version"], ORACLES[document["algorithm"]]
    size = {"length": document["length"]} if "length" in document else {}

    def u64(x: int) -> bytes:
        return struct.pack("<Q", x)

    def counted(b: bytes) -> bytes:
        return u64(len(b)) + b

    tensors = sorted(document["tensors"], key=lambda tensor: tensor["name"].encode("utf-8"))
    message = counted(b"integrity_triton manifest root") + u64(version)
    message += counted(document["algorithm"].encode("ascii"))
    message += u64(len(oracle(b"").digest(**size))) if version == 2 else b""
    message += u64(len(tensors))
    for tensor in tensors:
        message += counted(tensor["name"].encode("utf-8"))
        if version == 2:
            tied = tensor.get("tied", [])
            message += u64(len(tied)) + b"".join(counted(name.encode("utf-8")) for name in tied)
        message += counted(tensor["dtype"].encode("ascii"))
        message += u64(len(tensor["shape"])) + b"".join(u64(d) for d in tensor["shape"])
        message += u64(tensor["nbytes"]) + counted(bytes.fromhex(tensor["digest"]))
    return oracle(message).digest(**size).hex()


tensor_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def dense_tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = getattr(
        torch, draw(st.sampled_from([d for d in DTYPES if hasattr(torch, d) and d != "float4_e2m1fn_x2"]))
    )
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = torch.Size(shape).numel() * dtype.itemsize
    content = draw(st.binary(min_size=count, max_size=count))
    if dtype is torch.bool:
        content = bytes(b & 1 for b in content)
    flat = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0).byte()
    return flat.view(dtype).reshape(shape)


state_dicts = st.dictionaries(tensor_names.filter("__metadata__".__ne__), dense_tensors(), max_size=5)


# The digests and the root


@pytest.mark.parametrize("algorithm_name", ORACLES)
def test_entries_hold_the_librarys_digests(algorithm_name: str) -> None:
    built = Manifest.build(STATE, algorithm_name)
    oracle = ORACLES[algorithm_name]
    assert built.entries == (
        TensorEntry("b", "BF16", (3,), 6, oracle(raw(STATE["b"])).digest()),
        TensorEntry("w", "F32", (3, 4), 48, oracle(raw(STATE["w"])).digest()),
    )
    assert built.root.hex() == documented_root(built.to_json())


@given(state_dicts, st.sampled_from(sorted(ORACLES)))
def test_root_is_the_documented_one(state_dict, algorithm_name) -> None:
    built = Manifest.build(state_dict, algorithm_name)
    assert built.root.hex() == documented_root(built.to_json())
    oracle = ORACLES[algorithm_name]
    assert {e.name: e.digest for e in built.entries} == {
        name: oracle(raw(x)).digest() for name, x in state_dict.items()
    }


def test_root_of_an_empty_model() -> None:
    built = Manifest.build({}, "sha256")
    head = struct.pack("<Q", 30) + b"integrity_triton manifest root" + struct.pack("<QQ", 1, 6) + b"sha256"
    assert built.root == hashlib.sha256(head + bytes(8)).digest()
    assert Manifest.from_json(built.to_json()) == built


def test_json_is_pinned() -> None:
    """Stored manifests must stay readable, so this text may change only together with the version."""
    built = Manifest.build({"b": torch.zeros(0, 2), "é": torch.tensor([1, 2], dtype=torch.uint8)}, "sha256")
    assert built.to_json() == (
        "{\n"
        '  "format": "integrity_triton manifest",\n'
        '  "version": 1,\n'
        '  "algorithm": "sha256",\n'
        f'  "root": "{documented_root(built.to_json())}",\n'
        '  "tensors": [\n'
        '    {"name": "b", "dtype": "F32", "shape": [0, 2], "nbytes": 0, "digest": '
        f'"{hashlib.sha256().hexdigest()}"}},\n'
        '    {"name": "\\u00e9", "dtype": "U8", "shape": [2], "nbytes": 2, "digest": '
        f'"{hashlib.sha256(bytes([1, 2])).hexdigest()}"}}\n'
        "  ]\n"
        "}\n"
    )


def test_json_with_ties_is_pinned() -> None:
    x = torch.tensor([1, 2], dtype=torch.uint8)
    built = Manifest.build({"b": x, "a": x, "c": x.clone()}, "sha256")
    rest = (
        f'"dtype": "U8", "shape": [2], "nbytes": 2, "digest": "{hashlib.sha256(bytes([1, 2])).hexdigest()}"'
    )
    assert built.to_json() == (
        "{\n"
        '  "format": "integrity_triton manifest",\n'
        '  "version": 2,\n'
        '  "algorithm": "sha256",\n'
        f'  "root": "{documented_root(built.to_json())}",\n'
        '  "tensors": [\n'
        f'    {{"name": "a", "tied": ["b"], {rest}}},\n'
        f'    {{"name": "c", {rest}}}\n'
        "  ]\n"
        "}\n"
    )
    assert Manifest.from_json(built.to_json()) == built


@pytest.mark.parametrize(("name", "length"), [("shake_128", 28), ("shake_128", 1024), ("blake3", 64)])
def test_stated_lengths(name: str, length: int, monkeypatch) -> None:
    monkeypatch.setitem(ORACLES, name, EXTENDABLE[name])
    built = Manifest.build(STATE, name, length=length)
    document = json.loads(built.to_json())
    assert (document["version"], document["length"]) == (2, length)
    assert len(built.root) == built.digest_size == length
    assert built.root.hex() == documented_root(built.to_json())
    assert Manifest.from_json(built.to_json()) == built
    assert built.verify(STATE).ok
    assert built != Manifest.build(STATE, name, length=length - 1 if length > 28 else 29)


# One manifest, whatever the source


@given(state_dicts, st.randoms(use_true_random=False))
def test_sources_and_orders_agree(tmp_path_factory, state_dict, random) -> None:
    built = Manifest.build(state_dict)
    shuffled = list(state_dict.items())
    random.shuffle(shuffled)
    assert Manifest.build(dict(shuffled)).to_json() == built.to_json()
    path = saved(dict(shuffled), tmp_path_factory.getbasetemp())
    assert Manifest.build(path) == built
    assert Manifest.from_json(built.to_json()) == Manifest.from_json(built.to_json().encode()) == built
    assert built.verify(path).ok


@pytest.mark.parametrize("algorithm_name", ["blake3", "sha256"])
def test_module_state_dict_file_and_folder_agree(tmp_path: Path, algorithm_name: str) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).to(torch.float64)
    path = saved(module.state_dict(), tmp_path)
    built = Manifest.build(module, algorithm_name)
    assert built.entries
    for other in (module.state_dict(), path, str(path), tmp_path):
        assert Manifest.build(other, algorithm_name) == built
        assert built.verify(other).ok
    assert Manifest.from_module(module, algorithm_name) == built
    assert Manifest.from_state_dict(module.state_dict(), algorithm_name) == built
    assert Manifest.from_file(path, algorithm_name) == built
    assert Manifest.from_folder(tmp_path, algorithm_name) == built
    assert hash(Manifest.from_file(path, algorithm_name)) == hash(built)


def test_shards_do_not_show(tmp_path: Path) -> None:
    weight_map = {}
    for name, x in STATE.items():
        safetensors.torch.save_file({name: x}, tmp_path / f"{name}.safetensors")
        weight_map[name] = f"{name}.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert Manifest.build(tmp_path) == Manifest.build(STATE)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if hasattr(torch, d)])
def test_every_dtype(tmp_path: Path, dtype: str) -> None:
    x = (torch.arange(64) % 2).to(torch.uint8).reshape(8, 8).view(getattr(torch, dtype))
    built = Manifest.build({"x": x}, "sha256")
    (entry,) = built.entries
    assert entry.dtype == DTYPES[dtype]
    assert entry.digest == hashlib.sha256(raw(x.view(torch.uint8))).digest()
    assert Manifest.build(saved({"x": x}, tmp_path), "sha256") == built
    assert Manifest.from_json(built.to_json()) == built


def test_strided_conjugate_and_negated_tensors() -> None:
    x = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    z = torch.complex(x, x + 1)
    views = {
        "t": x.t(),
        "step": x[::2, 1::3],
        "expand": x[:1].expand(3, 6),
        "conj": z.conj(),
        "neg": z.conj().imag,
    }
    plain = {"t": x.t(), "step": x[::2, 1::3], "expand": x[[0, 0, 0]], "conj": z.conj().resolve_conj(),
             "neg": -(x + 1)}  # fmt: skip
    assert {e.name: e.digest for e in Manifest.build(views, "sha256").entries} == {
        name: hashlib.sha256(raw(v)).digest() for name, v in plain.items()
    }


def test_tied_weights_are_hashed_once(tmp_path: Path) -> None:
    module = Tied()
    counted: list[int] = []
    built = Manifest.build(module, progress=counted.append)
    assert sum(counted) == 5 * 3 * 4 + 5 * 4 + 8
    assert {e.names for e in built.entries} == {
        ("embed.weight", "lm_head.weight"),
        ("lm_head.bias",),
        ("step",),
    }
    untied = {name: x.clone() for name, x in module.state_dict().items()}
    apart = Manifest.build(untied)
    assert apart == Manifest.build(saved(untied, tmp_path)) != built
    assert (apart.version, built.version) == (1, 2)
    entries = {e.name: e for e in apart.entries}
    assert entries.keys() == {"embed.weight", "lm_head.weight", "lm_head.bias", "step"}
    assert entries["embed.weight"].digest == entries["lm_head.weight"].digest
    assert apart.with_ties({"lm_head.weight": "embed.weight"}) == built


def test_same_address_is_not_tied_unless_the_elements_are() -> None:
    x = torch.arange(9, dtype=torch.int32).reshape(3, 3)
    z = torch.tensor([1 + 2j, 3 + 4j])
    views = {"x": x, "t": x.t(), "flat": x.reshape(-1), "part": x[:2], "float": x.view(torch.float32),
             "z": z, "conj": z.conj(), "empty": x[:0]}  # fmt: skip
    assert {e.name: (e.dtype, e.shape, e.digest) for e in Manifest.build(views, "sha256").entries} == {
        name: (
            DTYPES[str(v.dtype).removeprefix("torch.")],
            tuple(v.shape),
            hashlib.sha256(raw(v.resolve_conj())).digest(),
        )
        for name, v in views.items()
    }
    report = Manifest.build({"x": x, "empty": x[:0]}).verify({**views, "empty 2": x[:0]})
    assert set(report.unexpected) == {*views, "empty 2"} - {"x", "empty"}


def test_manifest_of_a_file_verifies_the_tied_live_model(tmp_path: Path) -> None:
    module = Tied()
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_model(module, path)  # keeps one of the two names
    of_file = Manifest.build(path)
    assert len(of_file.entries) == 3
    assert of_file == Manifest.build(module)  # the metadata of the file states the tie
    report = of_file.verify(module)
    assert report.ok
    assert report.unexpected == ()
    (pair,) = report.tied
    assert set(pair) == {"embed.weight", "lm_head.weight"}
    module.lm_head.weight = torch.nn.Parameter(module.embed.weight.detach().clone())
    report = of_file.verify(module)  # equal now, but in memory that no entry covers
    assert not report.ok
    assert report.unexpected == (pair[0],)
    assert report.untied == (pair,)
    assert f"{pair[0]!r}: it must share the memory of {pair[1]!r}" in str(report)
    assert of_file.verify(path).ok
    assert Manifest.build(module).verify(path).missing == (pair[0],)  # it has an entry of its own there


def test_other_backends_agree(tmp_path: Path, self_tests_off: None) -> None:
    pytest.importorskip("triton", reason="absent: triton")
    path = saved(STATE, tmp_path)
    built = Manifest.build(STATE, backend="native")
    assert Manifest.build(path, backend="interpreter") == built
    assert Manifest.build(STATE, backend="interpreter") == built
    assert built.verify(path, backend="interpreter").ok


@pytest.mark.parametrize("source", ["memory", "file"])
@pytest.mark.parametrize("algorithm_name", ["blake3", "sha256"])
def test_grouping_and_progress(tmp_path: Path, monkeypatch, source: str, algorithm_name: str) -> None:
    """The limits are small, so that the work is divided in every possible way."""
    monkeypatch.setattr(live, "_HOST_GROUP_SIZE", 300)
    monkeypatch.setattr(batches, "COPIES_SIZE", 100)
    monkeypatch.setattr(live, "_LARGE_MESSAGE", 1000)
    monkeypatch.setattr(stored, "_RUN_SIZE", 256)
    generator = torch.Generator().manual_seed(1)
    state = {
        f"{i}": torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
        for i, size in enumerate([0, 1, 255, 256, 257, 5000, 0, 3, 100, 9000, 1, 1, 1, 299, 300, 0])
    }
    state["strided"] = torch.arange(400).reshape(20, 20).t()
    counted: list[int] = []
    given_source = state if source == "memory" else saved(state, tmp_path)
    built = Manifest.build(given_source, algorithm_name, progress=counted.append)
    assert sum(counted) == sum(x.numel() * x.element_size() for x in state.values())
    assert len(counted) > 5
    assert {e.name: e.digest for e in built.entries} == {
        name: ORACLES[algorithm_name](raw(x)).digest() for name, x in state.items()
    }


def test_an_error_in_progress_reaches_the_caller(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def progress(nbytes: int) -> None:
        raise Stop

    for source in (STATE, saved(STATE, tmp_path)):
        with pytest.raises(Stop):
            Manifest.build(source, progress=progress)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="absent: /proc")
@pytest.mark.parametrize("algorithm_name", ["blake3", "sha256"])
def test_large_files_take_little_memory(tmp_path: Path, algorithm_name: str) -> None:
    """A sparse tensor of 512 MiB is hashed without torch, in a process that takes at most a quarter of that
    memory."""
    size = 512 << 20
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "large.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + size)
    code = (
        "import sys\n"
        "from integrity_triton.models import Manifest\n"
        "Manifest.build(sys.argv[1], sys.argv[2])\n"
        "assert 'torch' not in sys.modules\n"
        "print(open('/proc/self/status').read())\n"
    )
    command = [sys.executable, "-c", code, str(path), algorithm_name]
    status = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # ru_maxrss would be wrong, because a child process inherits it from its parent.
    (peak,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    assert int(peak) << 10 < size // 4


def test_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = saved(STATE, tmp_path)

    def touch(nbytes: int) -> None:
        os.utime(path, ns=(1, 1))

    def cut(nbytes: int) -> None:
        os.truncate(path, path.stat().st_size - 1)

    for change in (touch, cut):
        with pytest.raises(ManifestError, match="changed while it was being read"):
            Manifest.build(path, progress=change)
        path = saved(STATE, tmp_path)


def rewrite(path: Path, *, at: int = -1) -> None:
    """Change a byte of a file, and set back the time of its last modification."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(at, os.SEEK_END)
        byte = file.read(1)
        file.seek(at, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns


def test_a_change_with_the_old_time_of_modification(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for _ in range(3):
        saved(STATE, tmp_path)
        with pytest.raises(ManifestError, match="changed while it was being read"):
            Manifest.build(path, progress=lambda nbytes: rewrite(path))


def test_another_file_for_a_moment(tmp_path: Path, monkeypatch) -> None:
    """The folder is exchanged while tensors are read, and put back before the end."""
    monkeypatch.setattr(stored, "_MOST_READERS", 1)
    state = {f"{i}": torch.zeros(5 << 20, dtype=torch.uint8) for i in range(2)}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        saved(state, tmp_path / name)
    (tmp_path / "model").symlink_to("a")
    calls: list[int] = []

    def exchange(nbytes: int) -> None:
        calls.append(nbytes)
        (tmp_path / "model").unlink()
        (tmp_path / "model").symlink_to("ab"[len(calls) % 2])

    with pytest.raises(ManifestError, match="changed while it was being read"):
        Manifest.build(tmp_path / "model" / "model.safetensors", progress=exchange)


def test_a_pipe_in_place_of_a_file(tmp_path: Path) -> None:
    path = saved(STATE, tmp_path)
    layout = safetensors_file.SafetensorsFile.read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ManifestError, match="was replaced by what is no regular file"):
        layout.check_unchanged()
    with pytest.raises(ManifestError, match="was replaced by what is no regular file"):
        layout.open("", 0)
    with pytest.raises(ManifestError, match="a named pipe, not a regular file"):
        Manifest.build(path)


def test_a_file_that_is_removed_just_after_it_was_opened(tmp_path: Path, monkeypatch) -> None:
    path = saved(STATE, tmp_path)
    layout = safetensors_file.SafetensorsFile.read(path)
    (tree_file,) = model_tree.read_tree(path).files.values()
    for module in (safetensors_file, model_tree):

        def opened(path, *flags, original=module.open_regular):
            descriptor = original(path, *flags)
            os.unlink(path)
            return descriptor

        monkeypatch.setattr(module, "open_regular", opened)
    with pytest.raises(ManifestError, match=r"model\.safetensors: the file was removed while"):
        layout.open("", 0)
    saved(STATE, tmp_path)
    os.link(path, tmp_path / "other")
    tree_file = dataclasses.replace(tree_file, identity=safetensors_file.identity(path.stat()))
    with pytest.raises(it.IntegrityError, match=r"model\.safetensors: the file changed while"):
        tree_file.open("", 0)  # the file goes on under its other name
    saved(STATE, tmp_path)
    tree_file = dataclasses.replace(tree_file, identity=safetensors_file.identity(path.stat()))
    with pytest.raises(it.IntegrityError, match=r"model\.safetensors: the file was removed while"):
        tree_file.open("", 0)


def test_file_that_is_cut_while_it_is_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stored, "_MOST_READERS", 1)
    state = {f"{i}": torch.zeros(9 << 20, dtype=torch.uint8) for i in range(2)}
    path = saved(state, tmp_path)
    size = path.stat().st_size
    with pytest.raises(ManifestError, match="cut while it was being read"):
        Manifest.build(path, progress=lambda nbytes: os.truncate(path, size - (9 << 20)))


def test_import_stays_light() -> None:
    code = (
        "import sys, integrity_triton as it\n"
        "it.models.Manifest, it.models.ModelReport, it.models.ManifestError\n"
        "assert not {'torch', 'triton', 'safetensors', 'numpy'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# What changes the root


def variants_of(state: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    w, b = state["w"], state["b"]
    return {
        "itself": {"w": w, "b": b},
        "renamed": {"w2": w, "b": b},
        "swapped": {"w": b, "b": w},
        "fewer": {"w": w},
        "more": {"w": w, "b": b, "c": torch.zeros(0)},
        "another empty": {"w": w, "b": b, "d": torch.zeros(0)},
        "reshaped": {"w": w.reshape(4, 3), "b": b},
        "flat": {"w": w.reshape(12), "b": b},
        "another axis": {"w": w.reshape(1, 3, 4), "b": b},
        "transposed": {"w": w.t(), "b": b},
        "retyped": {"w": w.view(torch.int32), "b": b},
        "converted": {"w": w.to(torch.float64), "b": b},
        "permuted": {"w": w.flip(0), "b": b},
        "negative zero": {"w": torch.where(w == 0, -w, w), "b": b},
        "split name": {"w": w, "": b},
        "moved boundary": {"wb": w, "": b},
    }


def test_every_change_changes_the_root() -> None:
    for name in ("blake3", "sha256", "sha224"):
        roots = {case: Manifest.build(state, name).root for case, state in variants_of(STATE).items()}
        assert len(set(roots.values())) == len(roots)
    assert len({Manifest.build(STATE, name).root for name in ORACLES}) == len(ORACLES)


def test_boundaries_between_fields_are_bound() -> None:
    """Lists of entries whose fields are the same text when they are joined have different roots."""
    digest = hashlib.sha256().digest()
    roots = [
        Manifest("sha256", [TensorEntry(name, dtype, shape, 0, digest)]).root
        for name, dtype, shape in [
            ("aF32", "F32", (0,)),
            ("a", "F32", (0,)),
            ("a", "F32", (0, 0)),
            ("a", "F32", (0, 1)),
            ("a", "F32", (1, 0)),
            ("a\0", "F32", (0,)),
        ]
    ]
    assert len(set(roots)) == len(roots)


@given(state_dicts.filter(lambda s: any(x.numel() for x in s.values())), st.data())
def test_a_flipped_bit_names_the_tensor(tmp_path_factory, state_dict, data) -> None:
    built = Manifest.build(state_dict)
    path = saved(state_dict, tmp_path_factory.getbasetemp())
    content = bytearray(path.read_bytes())
    start = 8 + struct.unpack("<Q", content[:8])[0]
    at = data.draw(st.integers(start, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    header = json.loads(content[8:start])
    (name,) = [
        name
        for name, t in header.items()
        if t["data_offsets"][0] <= at - start < t["data_offsets"][1]
    ]  # fmt: skip
    report = built.verify(path)
    assert not report.ok
    assert [(c.name, c.differs) for c in report.changed] == [(name, ("content",))]
    assert report.missing == report.unexpected == ()
    with pytest.raises(it.IntegrityError) as caught:
        report.raise_for_mismatch()
    assert repr(name) in str(caught.value)
    assert Manifest.build(path).root != built.root


def test_a_flipped_bit_in_a_live_module() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    built = Manifest.build(module, "sha256")
    module[1].weight.data.view(torch.int32)[1, 2] ^= 1 << 30
    report = built.verify(module)
    assert [c.name for c in report.changed] == ["1.weight"]


def test_report_names_everything() -> None:
    listed = {"same": torch.zeros(2), "gone": torch.zeros(1), "bits": torch.zeros(2), "type": torch.zeros(2),
              "shape": torch.zeros(2, 3), "all": torch.zeros(4)}  # fmt: skip
    found = {"same": torch.zeros(2), "new\n\x1b[31m": torch.zeros(1), "bits": torch.tensor([0.0, -0.0]),
             "type": torch.zeros(2).int(), "shape": torch.zeros(3, 2),
             "all": torch.ones(3).bool()}  # fmt: skip
    report = Manifest.build(listed).verify(found)
    assert {c.name: c.differs for c in report.changed} == {
        "bits": ("content",),
        "type": ("dtype",),
        "shape": ("shape",),
        "all": ("dtype", "shape", "content"),
    }
    assert report.missing == ("gone",)
    assert report.unexpected == ("new\n\x1b[31m",)
    assert not report.ok
    text = str(report)
    assert "4 changed, 1 missing, 1 unexpected" in text
    for part in (
        "'gone'",
        "'new\\n\\x1b[31m'",
        "'type': dtype F32 -> I32",
        "'shape': shape (2, 3) -> (3, 2)",
    ):
        assert part in text
    with pytest.raises(it.IntegrityError) as caught:
        report.raise_for_mismatch()
    assert str(caught.value) == text
    as_dict = json.loads(json.dumps(report.to_dict()))
    assert as_dict["ok"] is False
    assert as_dict["missing"] == ["gone"]
    assert as_dict["changed"][0]["differs"] == ["dtype", "shape", "content"]
    assert as_dict["changed"][0]["found"]["nbytes"] == 3


def test_report_of_a_good_model() -> None:
    report = Manifest.build(STATE).verify(STATE)
    report.raise_for_mismatch()
    assert report.ok
    assert "2 tensors as listed" in str(report)
    assert report.to_dict() == {
        "ok": True, "tensors": 2, "changed": [], "missing": [], "unexpected": [], "tied": [],
        "untied": [], "unstated": [], "absent": [], "ignored": [], "overlaid": [],
    }  # fmt: skip


def test_manifests_and_reports_can_be_sent_to_another_process() -> None:
    for built in (Manifest.build(Tied()), Manifest.build(STATE, "shake_128", length=32)):
        report = built.verify(STATE)
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            there = pickle.loads(pickle.dumps((built, report), protocol))
            assert there == (built, report)
            assert (there[0].root, there[0].to_json()) == (built.root, built.to_json())
        assert copy.deepcopy(built) == copy.copy(built) == built


# Sources that are refused

REFUSED_TENSORS = {
    "sparse": (lambda: torch.eye(3).to_sparse(), TypeError),
    "csr": (lambda: torch.eye(3).to_sparse_csr(), TypeError),
    "quantised": (lambda: torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8), TypeError),
    "nested": (lambda: torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)]), TypeError),
    "meta": (lambda: torch.zeros(2, device="meta"), ValueError),
    "meta strided": (lambda: torch.zeros(2, 3, device="meta").t(), ValueError),
    "uninitialised": (torch.nn.parameter.UninitializedParameter, ValueError),
    "complex128": (lambda: torch.zeros(2, dtype=torch.complex128), TypeError),
    "number": (lambda: 3, TypeError),
    "None": (lambda: None, TypeError),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("case", REFUSED_TENSORS)
def test_refused_tensors_are_named(case: str) -> None:
    make, error = REFUSED_TENSORS[case]
    hashed: list[int] = []
    with pytest.raises(error, match=r"layer\.weight"):
        Manifest.build({"a": torch.zeros(4), "layer.weight": make()}, progress=hashed.append)
    assert hashed == []  # before any work


def test_fake_tensors_have_no_data() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.zeros(3)
    with pytest.raises(ValueError, match="'x': a fake tensor"):
        Manifest.build({"x": x})


def test_refused_names() -> None:
    with pytest.raises(TypeError, match="named by a str"):
        Manifest.build({1: torch.zeros(1)})
    with pytest.raises(ManifestError, match=r"'\\ud800'.*surrogate"):
        Manifest.build({"\ud800": torch.zeros(1)})


def test_long_and_odd_names(tmp_path: Path) -> None:
    state = {"": torch.zeros(1), "x" * 100_000: torch.ones(1), '\U0001f600\u202e\n"\\': torch.zeros(2)}
    built = Manifest.build(state)
    assert built.to_json().isascii()
    assert Manifest.from_json(built.to_json()) == built == Manifest.build(saved(state, tmp_path))
    with pytest.raises(ManifestError) as caught:
        Manifest(built.algorithm, [*built.entries, *built.entries[1:]])
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("source", [3, None, [("a", torch.zeros(1))], torch.zeros(1), b"path"])
def test_refused_sources(source: Any) -> None:
    with pytest.raises(TypeError, match=r"made from an nn.Module, a state dict or a path"):
        Manifest.build(source)


def test_refused_files_and_backends(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Manifest.build(tmp_path / "absent")
    (tmp_path / "x.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ManifestError, match=r"x\.safetensors: not a safetensors file but a ZIP archive"):
        Manifest.build(tmp_path)
    with pytest.raises(ValueError, match="unknown backend"):
        Manifest.build(STATE, backend="abacus")
    with pytest.raises(ValueError, match="unknown backend"):
        Manifest.build(saved(STATE, tmp_path), backend="abacus")


def test_refused_algorithms(monkeypatch) -> None:
    import dataclasses

    from integrity_triton import algorithms
    from integrity_triton.algorithms import Parameter, Security

    with pytest.raises(ManifestError, match="unknown algorithm 'md6'"):
        Manifest.build(STATE, "md6")
    assert Manifest.build(STATE, "SHA-256") == Manifest.build(STATE, "sha256")
    for weak in ("crc32", "crc64_nvme", "xxh3_128", "md5", "sha1"):
        with pytest.raises(ManifestError, match=r"not collision resistant enough.* takes .*sha256") as caught:
            Manifest.build(STATE, weak)
        assert weak not in str(caught.value).partition("takes")[2].replace(",", "").split()
    sha256 = algorithms.get("sha256")
    key = (Parameter(name="key", type=bytes, doc="a key"),)
    for change in (
        {"security": Security.BROKEN},
        {"security": Security.LEGACY},
        {"collision_bits": 80},
        {"keyed": "required", "parameters": key},
    ):
        monkeypatch.setattr(algorithms, "get", lambda name, c=change: dataclasses.replace(sha256, **c))
        with pytest.raises(ManifestError, match=r"not collision resistant enough|needs a key"):
            Manifest.build(STATE, "sha256")


# Untrusted JSON

GOOD = json.loads(Manifest.build(STATE, "sha256").to_json())
ENTRY = GOOD["tensors"][0]


def reroot(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the root that belongs to its tensors, so that nothing else is wrong."""
    return {**document, "root": documented_root(json.dumps(document))}


def with_entry(**changes: Any) -> dict[str, Any]:
    entry = {k: v for k, v in {**ENTRY, **changes}.items() if v is not ...}
    return {**GOOD, "tensors": [entry, GOOD["tensors"][1]]}


REFUSED_DOCUMENTS = {
    "array": ([], "object was expected, not an array"),
    "null": (None, "not null"),
    "empty object": ({}, "'format'"),
    "another format": ({**GOOD, "format": "sha256sum"}, "'format' must be"),
    "from the future": ({**GOOD, "version": 3, "new": 1}, "made by a newer version"),
    "version 2 for nothing": ({**GOOD, "version": 2}, "version 2 must state ties or a length"),
    "ties in version 1": (with_entry(tied=["c"]), "unknown field 'tied'"),
    "a length in version 1": ({**GOOD, "length": 32}, "unknown field 'length'"),
    "version 0": ({**GOOD, "version": 0}, "unknown version 0"),
    "negative version": ({**GOOD, "version": -1}, "unknown version -1"),
    "boolean version": ({**GOOD, "version": True}, "'version' must be an integer, not a boolean"),
    "text version": ({**GOOD, "version": "1"}, "'version' must be an integer, not a string"),
    "huge version": ({**GOOD, "version": 10**4000}, "64 bits"),
    "unknown algorithm": ({**GOOD, "algorithm": "md6"}, "unknown algorithm 'md6'"),
    "alias": ({**GOOD, "algorithm": "sha-256"}, "must be spelled 'sha256'"),
    "upper-case algorithm": ({**GOOD, "algorithm": "SHA256"}, "must be spelled 'sha256'"),
    "another algorithm": ({**GOOD, "algorithm": "blake3"}, "root"),
    "shorter digests": ({**GOOD, "algorithm": "sha224"}, "digest has 28 bytes, not 32"),
    "no root": ({k: v for k, v in GOOD.items() if k != "root"}, "'root' is missing"),
    "another root": ({**GOOD, "root": "00" * 32}, "the root is not that of"),
    "empty root": ({**GOOD, "root": ""}, "the root is not that of"),
    "cut root": ({**GOOD, "root": GOOD["root"][:-2]}, "the root is not that of"),
    "odd root": ({**GOOD, "root": GOOD["root"][:-1]}, "hexadecimal"),
    "upper-case root": ({**GOOD, "root": "AB" + GOOD["root"][2:]}, "hexadecimal"),
    "null root": ({**GOOD, "root": None}, "'root' must be a string, not null"),
    "unknown field": ({**GOOD, "comment": ""}, "unknown field 'comment'"),
    "tensors an object": ({**GOOD, "tensors": {}}, "'tensors' must be an array"),
    "fewer tensors": ({**GOOD, "tensors": GOOD["tensors"][1:]}, "the root is not that of"),
    "tensor twice": ({**GOOD, "tensors": [ENTRY, *GOOD["tensors"]]}, "'b' is listed twice"),
    "tensor an array": ({**GOOD, "tensors": [[]]}, r"tensors\[0\]: an entry must be an object"),
    "no name": (with_entry(name=...), "'name' is missing"),
    "another name": (with_entry(name="c"), "the root is not that of"),
    "number as name": (with_entry(name=1), "'name' must be a string, not an integer"),
    "surrogate name": (with_entry(name="\ud800"), "surrogate"),
    "unknown dtype": (with_entry(dtype="F7"), "unknown dtype 'F7'"),
    "another dtype": (with_entry(dtype="F16"), "the root is not that of"),
    "shape null": (with_entry(shape=None), "'shape' must be an array, not null"),
    "negative shape": (with_entry(shape=[-3]), "negative number, got -3"),
    "boolean shape": (with_entry(shape=[3, True]), "integers, not a boolean"),
    "fractional shape": (with_entry(shape=[3.0]), "'3.0' is not an integer"),
    "exponent": (with_entry(shape=[1e300]), "is not an integer"),
    "NaN": (with_entry(nbytes=float("nan")), "NaN is not JSON"),
    "infinity": (with_entry(nbytes=float("inf")), "Infinity is not JSON"),
    "nested shape": (with_entry(shape=[[3]]), "integers, not an array"),
    "another shape": (with_entry(shape=[3, 1]), "the root is not that of"),
    "huge shape": (with_entry(shape=[1 << 63]), "2\\*\\*63 - 1"),
    "overflowing shape": (with_entry(shape=[1 << 62] * 1000), "do not take 6 bytes"),
    "another length": (with_entry(nbytes=7), "do not take 7 bytes"),
    "negative length": (with_entry(nbytes=-6), "from 0 to"),
    "boolean length": (with_entry(nbytes=True), "'nbytes' must be an integer, not a boolean"),
    "upper-case digest": (with_entry(digest=ENTRY["digest"].upper()), "hexadecimal"),
    "odd digest": (with_entry(digest=ENTRY["digest"][:-1]), "hexadecimal"),
    "digest with a newline": (with_entry(digest=ENTRY["digest"] + "\n"), "hexadecimal"),
    "digest with spaces": (with_entry(digest=" " + ENTRY["digest"][1:]), "hexadecimal"),
    "short digest": (with_entry(digest=ENTRY["digest"][:-2]), "has 32 bytes, not 31"),
    "empty digest": (with_entry(digest=""), "has 32 bytes, not 0"),
    "another digest": (with_entry(digest="00" * 32), "the root is not that of"),
    "unknown tensor field": (with_entry(offset=0), "unknown field 'offset'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_DOCUMENTS)
def test_refused_documents(case: str) -> None:
    document, message = REFUSED_DOCUMENTS[case]
    text = json.dumps(document)
    for data in (text, text.encode(), bytearray(text.encode())):
        with pytest.raises(ManifestError, match=message) as caught:
            Manifest.from_json(data)
        assert caught.value.__cause__ is None


REFUSED_TEXTS = {
    "empty": (b"", "not JSON"),
    "cut": (json.dumps(GOOD)[:-1].encode(), "not JSON"),
    "two documents": (json.dumps(GOOD).encode() * 2, "not JSON"),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), "not JSON"),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), "not UTF-8"),
    "latin-1": ('{"é": 1}'.encode("latin-1"), "not UTF-8 at byte 2"),
    "duplicate key": (b'{"version": 1, "version": 2}', "'version' occurs twice"),
    "duplicate key in a tensor": (
        json.dumps(GOOD).replace('"dtype"', '"dtype": "F64", "dtype"').encode(),
        "'dtype' occurs twice",
    ),
    "deep arrays": (b"[" * 1_000_000, "nested too deeply"),
    "deep objects": (b'{"a":' * 1_000_000, "nested too deeply"),
    "digits": (b'{"version": ' + b"9" * 1_000_000 + b"}", "64 bits"),
    "control character": (b'{"a\n": 1}', "not JSON"),
    "comment": (b"// manifest\n{}", "not JSON"),
}


@pytest.mark.parametrize("case", REFUSED_TEXTS)
def test_refused_texts(case: str) -> None:
    data, message = REFUSED_TEXTS[case]
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(data)


def test_a_consistent_document_of_another_writer_is_read() -> None:
    document = reroot({**GOOD, "tensors": GOOD["tensors"][::-1]})
    assert Manifest.from_json(json.dumps(document, indent=7)) == Manifest.build(STATE, "sha256")
    renamed = reroot(with_entry(name="z"))
    assert [e.name for e in Manifest.from_json(json.dumps(renamed)).entries] == ["w", "z"]


def test_refused_types() -> None:
    for data in (None, 3, GOOD, Path("x")):
        with pytest.raises(TypeError, match="str or bytes"):
            Manifest.from_json(data)


def test_size_limit(tmp_path: Path, monkeypatch) -> None:
    built = Manifest.build(STATE)
    path = tmp_path / "m.json"
    built.save(path)
    monkeypatch.setattr(manifest, "MAX_SIZE", path.stat().st_size)
    assert Manifest.load(path) == Manifest.from_json(built.to_json()) == built
    monkeypatch.setattr(manifest, "MAX_SIZE", path.stat().st_size - 1)
    for refused in (
        built.to_json,
        lambda: Manifest.from_json(path.read_bytes()),
        lambda: Manifest.load(path),
    ):
        with pytest.raises(ManifestError, match=r"larger than|at most"):
            refused()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("0" * 64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300)
@given(st.data())
def test_mutated_documents_parse_or_are_refused(data) -> None:
    document = json.loads(json.dumps(GOOD))
    for _ in range(data.draw(st.integers(1, 3))):
        node: Any = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and data.draw(st.booleans()):
                node = node[key]
                continue
            action = data.draw(st.sampled_from(["replace", "delete", "duplicate"]))
            if action == "replace":
                node[key] = data.draw(json_values)
            elif action == "delete":
                del node[key]
            elif isinstance(node, list):
                node.append(node[key])
            else:
                node[data.draw(st.text(max_size=3))] = node[key]
            break
    check_parses_or_is_refused(json.dumps(document))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=3), st.booleans())
def test_mutated_texts_parse_or_are_refused(changes, cut) -> None:
    text = bytearray(json.dumps(GOOD).encode())
    for at, value in changes:
        text[at % len(text)] = value
    check_parses_or_is_refused(bytes(text[: changes[0][0]] if cut else text))


@given(st.binary() | st.text() | json_values.map(json.dumps))
def test_any_text_parses_or_is_refused(text) -> None:
    check_parses_or_is_refused(text)


def check_parses_or_is_refused(text: str | bytes) -> None:
    try:
        parsed = Manifest.from_json(text)
    except ManifestError:
        return
    assert documented_root(parsed.to_json()) == json.loads(text)["root"]
    assert Manifest.from_json(parsed.to_json()) == parsed


# Files


def test_save_and_load(tmp_path: Path) -> None:
    built = Manifest.build(STATE)
    path = tmp_path / "m.json"
    path.write_text("old")
    built.save(path)
    assert Manifest.load(path) == Manifest.load(str(path)) == built
    assert path.read_bytes() == built.to_json().encode()
    assert os.listdir(tmp_path) == ["m.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "m.json"
    path.write_text("old")

    def full(fd: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        Manifest.build(STATE).save(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["m.json"]


def test_load_refuses(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(FileNotFoundError):
        Manifest.load(path)
    path.write_text("{}")
    with pytest.raises(ManifestError, match=r"m\.json: not a valid manifest: .*'format'"):
        Manifest.load(path)
    os.truncate(path, 1 << 40)
    with monkeypatch.context() as patch:
        patch.delattr("builtins.open")  # the size alone must be enough
        with pytest.raises(ManifestError, match="a manifest has at most"):
            Manifest.load(path)
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path, Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(ManifestError, match="not a regular file"):
            Manifest.load(odd)


# The value types


def test_entries_are_checked() -> None:
    digest = bytes(32)
    good = TensorEntry("a", "F32", (2,), 8, digest)
    assert Manifest("sha256", [good]).entries == (good,)
    for fields in [
        ("a", "f32", (2,), 8, digest),
        ("a", "F32", (2,), 9, digest),
        ("a", "F32", (-2,), -8, digest),
        ("a", "F32", (True, 2), 8, digest),
        ("a", "F32", (1 << 61,), 1 << 63, digest),
        ("\udfff", "F32", (2,), 8, digest),
    ]:
        with pytest.raises(ManifestError):
            TensorEntry(*fields)
    for fields in [
        (b"a", "F32", (2,), 8, digest),
        ("a", "F32", [2], 8, digest),
        ("a", "F32", (2,), 8, "00" * 32),
    ]:
        with pytest.raises(TypeError):
            TensorEntry(*fields)
    with pytest.raises(ManifestError, match="digest has 32 bytes, not 20"):
        Manifest("sha256", [TensorEntry("a", "F32", (2,), 8, bytes(20))])
    with pytest.raises(AttributeError):
        good.name = "b"
    with pytest.raises(AttributeError):
        Manifest("sha256", [good]).root = digest


def test_a_time_in_the_future_hides_no_other_time() -> None:
    now = time.time()
    assert 0 < rest_of_tick(now + 1e6, now) <= 0.01
    assert rest_of_tick(now + 1e6, now - 1) == rest_of_tick() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="not applicable: the peak is read from /proc")
def test_copies_of_tensors_are_made_one_after_another():
    """Digests that were kept between the copies kept the allocator from using their memory again."""
    tensors = {f"layer{i}": torch.zeros((1 << 19, 4), dtype=torch.uint8).t() for i in range(64)}
    Manifest.build({"layer0": tensors["layer0"]}, backend="native")
    assert memory.above(lambda: Manifest.build(tensors, backend="native")) < 32 << 20  # of 128 MiB
