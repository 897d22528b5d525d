"""What a manifest leaves to the caller: hashes and lengths, ties, and what is compared under which name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import integrity_triton as it
from integrity_triton.models import Manifest, ManifestError

blake3 = pytest.importorskip("blake3")
safetensors = pytest.importorskip("safetensors")
pytest.importorskip("safetensors.torch")

EXTENDABLE = {"shake_128": hashlib.shake_128, "blake3": blake3.blake3}
STATE = {"w": torch.arange(12, dtype=torch.float32).reshape(3, 4), "b": torch.tensor([1, 2, 3]).bfloat16()}


def raw(x: torch.Tensor) -> bytes:
    return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def saved(state_dict: dict[str, torch.Tensor], folder: Path) -> Path:
    path = folder / "model.safetensors"
    safetensors.torch.save_file(state_dict, path)
    return path


# Hashes and lengths


def takes(record: Any) -> bool:
    secure = record.security is it.algorithms.Security.SECURE and record.collision_bits >= 112
    return secure and record.keyed != "required" and not record.takes_tuples


@pytest.mark.parametrize("name", [r.name for r in it.algorithms.all_algorithms() if takes(r)])
def test_every_secure_hash_is_taken(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyopencl", reason="absent: pyopencl")
    path = saved(STATE, tmp_path)
    size = it.algorithms.get(name).digest_size
    length = None if size else 32
    built = Manifest.build(STATE, name, length=length)
    assert built == Manifest.build(path, name, length=length)
    assert built.digest_size == len(built.root) == (size or 32)
    digest = {key: it.hash_batch([x], name, length=length).numpy().tobytes() for key, x in STATE.items()}
    assert {e.name: e.digest for e in built.entries} == digest
    assert Manifest.from_json(built.to_json()) == built
    assert built.verify(path).ok


def test_lengths_on_every_backend(backend: str) -> None:
    for name, oracle in EXTENDABLE.items():
        for length in (28, 33, 136):
            built = Manifest.build(STATE, name, length=length, backend=backend)
            assert {e.name: e.digest for e in built.entries} == {
                key: oracle(raw(x)).digest(length=length) for key, x in STATE.items()
            }


def test_refused_lengths() -> None:
    with pytest.raises(ManifestError, match=r"shake_128 has no default length; state .* 28 to 1024"):
        Manifest.build(STATE, "shake_128")
    for name, length in (("shake_128", 27), ("blake3", 16), ("shake_256", 1025), ("blake3", 0)):
        with pytest.raises(ManifestError, match=f"have 28 to 1024 bytes, not {length}"):
            Manifest.build(STATE, name, length=length)
    with pytest.raises(ManifestError, match="sha256 has a fixed digest of 32 bytes, not 28"):
        Manifest.build(STATE, "sha256", length=28)
    with pytest.raises(ManifestError, match="must not be negative"):
        Manifest.build(STATE, "blake3", length=-1)
    for odd in (32.0, True, "32"):
        with pytest.raises(TypeError, match="length must be int"):
            Manifest.build(STATE, "blake3", length=odd)
    assert Manifest.build(STATE, "blake3", length=32) == Manifest.build(STATE)


GOOD = json.loads(Manifest.build(STATE, "shake_128", length=28).to_json())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 29}, "has 29 bytes, not 28"),
        ({"length": 27}, "28 to 1024 bytes"),
        ({"length": True}, "'length' must be an integer"),
        ({"length": None}, "'length' must be an integer"),
        ({"algorithm": "sha224"}, "'length' must be left out"),
        ({"algorithm": "shake_256"}, "the root is not that of"),
        ({"version": 1}, "unknown field 'length'"),
    ],
)
def test_refused_lengths_in_json(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(json.dumps({**GOOD, **changes}))


def test_a_length_that_is_missing_in_json() -> None:
    with pytest.raises(ManifestError, match="no default length"):
        Manifest.from_json(json.dumps({key: value for key, value in GOOD.items() if key != "length"}))


def test_hashes_that_are_refused_are_told_what_is_taken() -> None:
    for name in ("tuplehash_128", "tuplehashxof_256"):
        with pytest.raises(ManifestError, match=f"{name} hashes tuples .* a manifest takes ") as caught:
            Manifest.build(STATE, name)
        assert str(caught.value).partition(" takes ")[2].split(", ") == [
            r.name if r.digest_size else f"{r.name} (with a length)"
            for r in it.algorithms.all_algorithms()
            if takes(r)
        ]


# Ties


class Positions(torch.nn.Module):
    """An output layer that is tied to the embedding, beside a tensor of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.embed = torch.nn.Embedding(6, 4)
        self.pos = torch.nn.Embedding(6, 4)
        self.head = torch.nn.Linear(4, 6, bias=False)
        for part in (self.embed, self.pos):
            part.weight.data = torch.randn(6, 4, generator=generator)
        self.head.weight = self.embed.weight

    def retied(self) -> Positions:
        self.head.weight = self.pos.weight
        return self


def test_weights_tied_to_another_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_model(Positions(), path)
    for built in (Manifest.build(path), Manifest.build(tmp_path), Manifest.build(Positions())):
        assert built == Manifest.build(Positions()) == Manifest.from_json(built.to_json())
        assert built.verify(Positions()).ok
        assert built.verify(path).ok
        assert built.verify(safetensors.torch.load_file(path)).ok
        report = built.verify(Positions().retied())
        assert not report.ok
        assert [(c.name, c.differs) for c in report.changed] == [("head.weight", ("content",))]


def test_equal_content_is_not_the_same_memory(tmp_path: Path) -> None:
    equal = Positions()
    equal.pos.weight.data.copy_(equal.embed.weight.data)
    report = Manifest.build(equal).verify(equal.retied())
    assert not report.ok
    assert report.unexpected == ("head.weight",)
    assert report.to_dict()["untied"] == [{"name": "head.weight", "to": "embed.weight"}]
    apart = saved({name: x.clone() for name, x in Positions().state_dict().items()}, tmp_path)
    assert Manifest.build(apart).verify(Positions()).ok  # what is listed apart may be tied
    assert Manifest.build(Positions()).verify(apart).ok  # and a file may store each name
    assert not Manifest.build(Positions()).verify(safetensors.torch.load_file(apart)).ok


def test_ties_that_a_file_does_not_state(tmp_path: Path) -> None:
    """As transformers writes it: the tied name is left out, and nothing says so."""
    state = Positions().state_dict()
    del state["head.weight"]
    path = saved(state, tmp_path)
    built = Manifest.build(path)
    assert built.version == 1
    for module in (Positions(), Positions().retied()):
        report = built.verify(module)
        assert not report.ok
        ((name, to),) = report.unstated
        assert report.unexpected == (name,) == ("head.weight",)
        assert f"it shares the memory of {to!r}, but the manifest does not say whether" in str(report)
    assert not built.verify(Positions().retied(), ignore=["embed.weight"]).ok
    stated = built.with_ties({"head.weight": "embed.weight"})
    assert stated == Manifest.build(Positions())
    assert stated.verify(Positions()).ok
    assert stated.verify(path).ok
    assert not stated.verify(Positions().retied()).ok


def test_ties_of_which_only_one_is_possible(tmp_path: Path) -> None:
    module = Positions()
    module.pos = torch.nn.Embedding(7, 4)
    state = module.state_dict()
    del state["head.weight"]
    report = Manifest.build(saved(state, tmp_path)).verify(module)
    assert report.ok
    assert report.tied == (("head.weight", "embed.weight"),)


def test_metadata_that_states_no_ties(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for metadata in ({"format": "pt"}, {"w": "b"}, {"x": "y", "y": "w x"}):
        safetensors.torch.save_file(STATE, path, metadata=metadata)
        assert Manifest.build(path) == Manifest.build(STATE)


def test_metadata_does_not_stand_for_what_is_stored(tmp_path: Path) -> None:
    """Otherwise a file whose tensor was renamed would verify, and be loaded without it."""
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"b": STATE["b"], "v": STATE["w"]}, path, metadata={"w": "v"})
    report = Manifest.build(STATE).verify(path)
    assert (report.missing, report.unexpected) == (("w",), ("v",))


def test_contradicting_metadata(tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": STATE["w"]}, tmp_path / "1.safetensors", metadata={"x": "w"})
    safetensors.torch.save_file({"b": STATE["b"]}, tmp_path / "2.safetensors", metadata={"x": "b", "w": "b"})
    with pytest.raises(ManifestError, match="two files contradict each other: 'x' is 'w' and 'b'"):
        Manifest.build(tmp_path)
    safetensors.torch.save_file({"b": STATE["b"]}, tmp_path / "2.safetensors", metadata={"w": "b"})
    assert {e.names for e in Manifest.build(tmp_path).entries} == {("b",), ("w", "x")}


def test_ties_in_subfolders(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    safetensors.torch.save_model(Positions(), tmp_path / "text" / "model.safetensors")
    built = Manifest.build(tmp_path)
    assert ("text/embed.weight", "text/head.weight") in {e.names for e in built.entries}
    assert built.verify(Positions(), rename={"": "text/"}).ok
    assert not built.verify(Positions().retied(), rename={"": "text/"}).ok


def test_stating_ties() -> None:
    x = torch.arange(3)
    built = Manifest.build({"a": x, "b": x.clone(), "c": x.clone(), "d": x + 1, "e": x.float()})
    names = [e.names for e in built.with_ties({"b": "a", "c": "b", "A": "c", "d": "d"}).entries]
    assert names == [("A", "a", "b", "c"), ("d",), ("e",)]
    assert built.with_ties({}) == built
    for to in ("d", "e"):
        with pytest.raises(ManifestError, match=f"tensors 'a' and '{to}' differ"):
            built.with_ties({"a": to})
    with pytest.raises(ManifestError, match="'a' cannot be tied to 'z', which is not listed"):
        built.with_ties({"a": "z"})
    with pytest.raises(TypeError):
        built.with_ties({1: "a"})


@pytest.mark.parametrize(
    ("tied", "message"),
    [
        ([], "must not be empty"),
        (["a"], "'a' comes before 'a'"),
        (["c", "b"], "'c' comes before 'b'"),
        (["b", "b"], "'b' comes before 'b'"),
        (["A"], "'a' comes before 'A'"),
        (["w"], "'w' is listed twice"),
        (["\ud800"], "surrogate"),
        ([1], "must hold names, which are strings"),
        ("b", "'tied' must be an array"),
        (["bb"], "the root is not that of"),
    ],
)
def test_refused_ties(tied: Any, message: str) -> None:
    x = torch.zeros(2)
    document = json.loads(Manifest.build({"a": x, "b": x, "c": x, "w": torch.ones(2)}, "sha256").to_json())
    document["tensors"][0]["tied"] = tied
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(json.dumps(document))


# What is compared, and under which name


def test_ignored_tensors(tmp_path: Path) -> None:
    """MiniLM's file stores a buffer that the module does not save, and some layers keep an extra state."""
    file = Manifest.build({**STATE, "embeddings.position_ids": torch.arange(4)[None]})
    live = {**STATE, "block.0._extra_state": b"no tensor", "block.1._extra_state": torch.zeros(1)}
    with pytest.raises(TypeError, match=r"'block\.0\._extra_state' of the state dict is a bytes.* ignore"):
        file.verify(live)
    report = file.verify(live, ignore=["embeddings.position_ids", "*._extra_state"])
    assert report.ok
    assert report.tensors == 2
    assert report.ignored == ("block.0._extra_state", "block.1._extra_state", "embeddings.position_ids")
    assert str(report) == "2 tensors as listed in the manifest, 3 ignored"
    assert report.to_dict()["ignored"] == list(report.ignored)
    path = saved({**STATE, "z._extra_state": torch.zeros(1)}, tmp_path)
    counted: list[int] = []
    assert file.verify(path, ignore="*_*", progress=counted.append).ok
    assert not file.verify(path, ignore="*._extra_state").ok
    assert file.verify({**live, "w": STATE["w"] + 1}, ignore="*_*").changed[0].name == "w"
    assert file.verify(live, ignore=("[ew]*", "block*")).tensors == 1
    for everything in ("*", ["w", "b", "embeddings.*"]):
        with pytest.raises(ManifestError, match="ignore leaves no tensor"):
            file.verify(live, ignore=everything)
    with pytest.raises(TypeError, match="ignore must be"):
        file.verify(live, ignore=[1])


def test_a_name_with_brackets_is_itself_before_it_is_a_pattern() -> None:
    built = Manifest.build({"a[0]": STATE["w"], "b": STATE["b"]})
    assert built.verify({"b": STATE["b"]}, ignore=["a[0]"]).ok


def test_ignored_names_of_tied_tensors() -> None:
    module = Positions()
    built = Manifest.build(module)
    assert built.verify(module, ignore="head.weight").tensors == 2
    assert built.verify(module.retied(), ignore="head.weight").ok
    assert not built.verify(module, ignore="embed.weight").ok


def test_partial_models() -> None:
    built = Manifest.build({**STATE, "c": torch.zeros(1)})
    report = built.verify({"w": STATE["w"]}, partial=True)
    assert report.ok
    assert (report.missing, report.absent) == ((), ("b", "c"))
    assert str(report) == "1 tensor as listed in the manifest, 2 absent"
    assert built.verify({"w": STATE["w"]}).missing == ("b", "c")
    assert not built.verify({"w": STATE["w"] + 1}, partial=True).ok
    assert not built.verify({"w": STATE["w"], "x": STATE["w"] + 1}, partial=True).ok
    for nothing in ({}, {"other": torch.zeros(1)}):
        report = built.verify(nothing, partial=True)
        assert not report.ok
        assert report.missing == ("b", "c", "w")
    assert not built.verify({"w": STATE["w"]}, partial=True, ignore="w").ok


@pytest.mark.parametrize(
    ("rename", "found", "listed"),
    [
        ({"_orig_mod.": ""}, "_orig_mod.layers.0._orig_mod._orig_mod.w", "layers.0.w"),
        ({"_orig_mod": ""}, "_orig_mod.w", ".w"),
        ({"_orig_mod.": ""}, "x_orig_mod.w", "x_orig_mod.w"),
        ({"module.": "", "_fsdp_wrapped_module.": ""}, "module.a._fsdp_wrapped_module.w", "a.w"),
        ({"": "unet/"}, "a.w", "unet/a.w"),
        ({"": "bert.", "model.": ""}, "model.w", "bert.w"),
        ({"0.auto_model.": ""}, "10.auto_model.w", "10.auto_model.w"),
        ({"0.auto_model.": ""}, "0.auto_model.w", "w"),
        ({"lm_head": "output"}, "lm_head.weight", "output.weight"),
        ({"lm_head": "output"}, "lm_head_2.weight", "lm_head_2.weight"),
        ({"lm_head": "output", "lm_head.weight": "exact"}, "lm_head.weight", "exact"),
        ({"a.b": "c"}, "axb", "axb"),
        ({"unet": "vae"}, "unet/a", "vae/a"),
        ({}, "w", "w"),
        (None, "w", "w"),
        (lambda name: name.upper(), "w", "W"),
    ],
)
def test_renamed_tensors(tmp_path: Path, rename: Any, found: str, listed: str) -> None:
    built = Manifest.build({listed: STATE["w"]})
    assert built.verify({found: STATE["w"]}, rename=rename).ok
    assert built.verify(saved({found: STATE["w"]}, tmp_path), rename=rename).ok
    report = built.verify({found: STATE["w"] + 1}, rename=rename)
    assert [change.name for change in report.changed] == [listed]


def test_refused_renames() -> None:
    built = Manifest.build(STATE)
    with pytest.raises(ManifestError, match="tensors 'w' and 'b' are both renamed to 'b'"):
        built.verify(STATE, rename={"w": "b"})
    for odd in (3, {"w": 1}, {1: "w"}, ["w"], lambda name: None):
        with pytest.raises(TypeError, match=r"rename|named by a str"):
            built.verify(STATE, rename=odd)


class Compiled(torch.nn.Module):
    """What torch.compile does to names, without its import, which takes seconds."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


def test_a_module_in_a_wrapper() -> None:
    module = Positions()
    built = Manifest.build(module)
    assert not built.verify(Compiled(module)).ok
    assert built.verify(Compiled(module), rename={"_orig_mod.": ""}).ok
    assert not built.verify(Compiled(module.retied()), rename={"_orig_mod.": ""}).ok


@pytest.mark.slow
def test_a_compiled_module() -> None:
    module = Positions()
    built = Manifest.build(module)
    compiled = torch.compile(module)
    assert not built.verify(compiled).ok
    assert built.verify(compiled, rename={"_orig_mod.": ""}).ok
    assert not built.verify(torch.compile(module.retied()), rename={"_orig_mod.": ""}).ok


def test_ignoring_a_whole_model_leaves_nothing_to_compare():
    with pytest.raises(ManifestError, match="ignore leaves no tensor of the model to compare"):
        Manifest.build({}).verify({"x": torch.ones(1)}, ignore="*")


def test_the_stride_of_a_dimension_of_one_element_makes_no_other_memory():
    row = torch.arange(10.0).view(1, 10)
    tied = Manifest.build({"embed": row, "head": row})
    assert tied.verify({"embed": row, "head": row.as_strided((1, 10), (1, 1))}).ok
