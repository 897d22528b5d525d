"""The load format that verifies, in vLLM's own registry and with its own default loader and configuration."""

from __future__ import annotations

import hashlib
import json
import types
from pathlib import Path

import pytest
import torch
from support_vllm import entry_point_folder, in_vllm

from integrity_triton.integrations import vllm
from integrity_triton.integrations.vllm.loader import verified_shards
from integrity_triton.models import LoadError, Manifest

save_file = pytest.importorskip("safetensors.torch", reason="absent: safetensors").save_file

TENSORS = {
    "model-00001-of-00002.safetensors": {"0.weight": torch.randn(96, 64), "0.bias": torch.randn(96)},
    "model-00002-of-00002.safetensors": {"1.weight": torch.randn(8, 96), "1.bias": torch.randn(8)},
}
NAMES = {name for shard in TENSORS.values() for name in shard}


@pytest.fixture
def model(tmp_path) -> Path:
    """A sharded model with an index, a manifest of it and a list of SHA-256 digests, which is elsewhere."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file, tensors in TENSORS.items():
        save_file(tensors, folder / file)
    places = {name: file for file, tensors in TENSORS.items() for name in tensors}
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    Manifest.from_folder(folder).save(tmp_path / "manifest.json")
    lines = [f"{hashlib.sha256((folder / f).read_bytes()).hexdigest()}  {f}\n" for f in sorted(TENSORS)]
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    return folder


def shards(folder: Path) -> list[str]:
    return [str(file) for file in sorted(folder.glob("*.safetensors"))]


@pytest.mark.parametrize("against", ["manifest.json", "SHA256SUMS"])
def test_verified_shards(model, against):
    found = dict(verified_shards(model, shards(model), str(model.parent / against)))
    assert found.keys() == NAMES
    for tensors in TENSORS.values():
        assert all(torch.equal(found[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("against", ["manifest.json", "SHA256SUMS"])
def test_nothing_of_a_changed_shard_is_handed_out(model, against):
    second = model / "model-00002-of-00002.safetensors"
    data = bytearray(second.read_bytes())
    data[-5] ^= 4
    second.write_bytes(data)
    handed = verified_shards(model, shards(model), str(model.parent / against))
    assert {next(handed)[0], next(handed)[0]} == {"0.bias", "0.weight"}
    with pytest.raises(LoadError, match="00002-of-00002"):
        next(handed)


@pytest.mark.parametrize("against", ["manifest.json", "SHA256SUMS"])
def test_a_shard_that_the_index_hides(model, against):
    (model / "model-00002-of-00002.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(("0.weight", "0.bias"), min(TENSORS))}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LoadError, match=r"missing"):
        next(verified_shards(model, shards(model), str(model.parent / against)))


def test_files_that_vllm_would_not_load(model):
    with pytest.raises(LoadError, match=r"00002-of-00002\.safetensors would not be loaded"):
        next(verified_shards(model, shards(model)[:1], str(model.parent / "manifest.json")))
    extra = model.parent / "other.safetensors"
    save_file({"x": torch.ones(1)}, extra)
    with pytest.raises(LoadError, match=r"other\.safetensors would be loaded and cannot be verified"):
        next(verified_shards(model, [*shards(model), str(extra)], str(model.parent / "manifest.json")))


def test_a_vllm_without_the_registry(monkeypatch):
    for name in ("vllm", "vllm.model_executor", "vllm.model_executor.model_loader"):
        monkeypatch.setitem(__import__("sys").modules, name, types.ModuleType(name))
    monkeypatch.setenv(vllm.SWITCH, "loader")
    with pytest.raises(ImportError, match=r"needs vLLM 0\.33 or a later"):
        vllm.register()


IN_VLLM = """
import contextlib, json, sys, types
import torch
from torch import nn
from vllm.plugins import load_general_plugins

load_general_plugins()
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import get_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader import default_loader

folder, cases = json.loads(ARGUMENTS)

class Model(nn.Sequential):
    def load_weights(self, weights):
        own = dict(self.named_parameters())
        loaded = set()
        for name, tensor in weights:
            with torch.no_grad():
                own[name].copy_(tensor)
            loaded.add(name)
        return loaded

DefaultModelLoader._init_ep_weight_filter = lambda self, config: None
config = types.SimpleNamespace(
    model=folder, revision=None, quantization=None, multimodal_config=None, is_moe=False
)

def outcome(extra, **options):
    model = Model(nn.Linear(64, 96), nn.Linear(96, 8))
    try:
        loader = get_model_loader(
            LoadConfig(load_format="integrity_triton", model_loader_extra_config=extra, **options)
        )
        loader.load_weights(model, config)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return [type(loader).__name__, isinstance(loader, DefaultModelLoader),
            {name: p.double().sum().item() for name, p in model.named_parameters()}]

print(json.dumps([outcome(extra, **options) for extra, options in cases]))
"""


@pytest.mark.slow
def test_in_vllm(other_project, tmp_path, model):
    """vLLM's plug-in loader, registry, ``LoadConfig`` and ``DefaultModelLoader.load_weights``, with a module
    of two layers and a namespace in the place of its models and of ``ModelConfig``."""
    (tmp_path / "tree").mkdir()
    folders = (entry_point_folder(tmp_path / "tree"), other_project("vllm"), other_project("vllm-needs"))
    manifest, sums = str(tmp_path / "manifest.json"), str(tmp_path / "SHA256SUMS")
    wrong = json.loads((tmp_path / "manifest.json").read_text())
    other = tmp_path / "other.json"
    changed = {name: value + 1 for shard in TENSORS.values() for name, value in shard.items()}
    Manifest.from_state_dict(changed).save(other)
    assert wrong != json.loads(other.read_text())
    cases = [
        ({"against": manifest}, {}),
        ({"against": [manifest, sums], "enable_weights_track": True}, {}),
        ({"against": str(other)}, {}),
        ({}, {}),
        ({"against": manifest, "enable_multithread_load": True}, {}),
        ({"against": manifest}, {"safetensors_load_strategy": "eager"}),
        ({"against": [manifest, sums], "public_key": "key.pem"}, {}),
    ]
    code = IN_VLLM.replace("ARGUMENTS", repr(json.dumps([str(model), cases])))
    found = in_vllm(code, *folders, **{vllm.SWITCH: "loader"})
    sums_of = {name: value.double().sum().item() for s in TENSORS.values() for name, value in s.items()}
    for name, derived, loaded in found[:2]:
        assert (name, derived) == ("VerifiedModelLoader", True)
        assert loaded == pytest.approx(sums_of)
    assert found[2].startswith("LoadError: the model is not the one that was expected")
    assert "needs what to check against" in found[3]
    assert "has 'enable_multithread_load'" in found[4]
    assert "has no safetensors_load_strategy 'eager'" in found[5]
    assert "needs one signature" in found[6]
