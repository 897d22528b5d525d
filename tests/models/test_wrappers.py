"""Tensors that consist of other tensors: quantised weights, distributed tensors, and torch's own example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import integrity_triton as it

Manifest = it.models.Manifest
KEY = bytes(range(32))


def two(seed: int) -> TwoTensor:
    return TwoTensor(torch.arange(4.0) + seed, torch.arange(4.0) - seed)


def test_the_parts_of_a_wrapper_are_the_entries():
    weight = two(1)
    state = {"layer.weight": nn.Parameter(weight), "scale": weight, "bias": torch.ones(3)}
    plain = {
        "layer._weight_a": weight.a,
        "layer._weight_b": weight.b,
        "_scale_a": weight.a,
        "_scale_b": weight.b,
        "bias": state["bias"],
    }
    assert Manifest.build(state) == Manifest.build(plain)
    assert Manifest.build(plain).verify(state).ok
    tags = it.mac_tensors(state, KEY)
    assert set(tags.names) == set(plain)
    tags.verify(state, KEY)
    tags.verify(plain, KEY)


def test_a_changed_part_is_named():
    weight = two(1)
    manifest = Manifest.build({"layer.weight": weight})
    tags = it.mac_tensors({"layer.weight": weight}, KEY)
    weight.b[2] += 1
    assert [change.name for change in manifest.verify({"layer.weight": weight}).changed] == [
        "layer._weight_b"
    ]
    with pytest.raises(it.TagMismatch, match=r"'layer\._weight_b': chunk 0"):
        tags.verify({"layer.weight": weight}, KEY)


def test_wrappers_of_wrappers():
    inner, outer = two(1), TwoTensor(two(2), two(3))
    entries = Manifest.build({"x.w": TwoTensor(inner, inner), "y": outer}).entries
    assert sorted(name for entry in entries for name in entry.names) == [
        *("__y_a_a", "__y_a_b", "__y_b_a", "__y_b_b"),
        *("x.__w_a_a", "x.__w_a_b", "x.__w_b_a", "x.__w_b_b"),
    ]


@pytest.mark.parametrize("build", [Manifest.build, lambda state: it.mac_tensors(state, KEY)])
def test_a_part_with_the_name_of_another_tensor(build):
    for state in (
        {"layer._weight_a": torch.ones(1), "layer.weight": two(1)},
        {"layer.weight": two(1), "layer._weight_a": torch.ones(1)},
    ):
        with pytest.raises(ValueError, match=r"two tensors are named 'layer\._weight_a'"):
            build(state)


@pytest.mark.parametrize("build", [Manifest.build, lambda state: it.mac_tensors(state, KEY)])
def test_a_part_without_memory_is_named(build):
    weight = two(1)
    weight.b.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"tensor 'layer\._weight_b': the tensor's elements end at"):
        build({"layer.weight": weight})


def test_jagged_tensors_are_no_state():
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    for build in (Manifest.build, lambda state: it.mac_tensors(state, KEY)):
        with pytest.raises(TypeError, match=r"tensor 'a': a tensor of layout torch\.jagged"):
            build({"a": jagged})


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    distributed = pytest.importorskip("torch.distributed", reason="absent: torch.distributed")
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("absent: gloo")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    finally:
        distributed.destroy_process_group()


def test_distributed_tensors_say_what_to_pass(mesh):
    from torch.distributed.tensor import Shard, distribute_tensor

    whole = torch.arange(8, dtype=torch.uint8)
    x = distribute_tensor(whole, mesh, [Shard(0)])
    for given in (x, nn.Parameter(x, requires_grad=False)):
        for call in (
            it.sha256,
            lambda x: it.blake3(b"").update(x),
            lambda x: it.hash_batch([b"a", x], "sha256"),
            lambda x: it.hash_batch(x.view(2, 4), "sha256"),
            lambda x: it.hash_chunks(x, "sha256", chunk_size=4),
            lambda x: it.LtHash().add_tensor("a", x),
            lambda x: it.mac_tensors({"a": x}, KEY),
            lambda x: Manifest.build({"a": x}),
            lambda x: it.new("blake3", key=x),
        ):
            with pytest.raises(TypeError, match=r"DTensor is a wrapper.*x\.to_local\(\).*x\.full_tensor\(\)"):
                call(given)
    with pytest.raises(TypeError, match="out: DTensor"):
        it.hash_batch([b"a"], "sha256", out=distribute_tensor(torch.zeros(1, 32).byte(), mesh, [Shard(0)]))
    assert (
        it.sha256(x.to_local()).digest() == it.sha256(x.full_tensor()).digest() == it.sha256(whole).digest()
    )


def test_parameters_of_fsdp(mesh):
    """Sharded parameters are distributed tensors; those that FSDP has gathered and freed hold nothing."""
    from torch.distributed.fsdp import fully_shard

    model = nn.Linear(4, 4)
    expected = Manifest.build(model)
    fully_shard(model, mesh=mesh)
    with pytest.raises(TypeError, match=r"tensor 'weight': DTensor is.*x\.full_tensor\(\)"):
        Manifest.build(model)
    whole = {name: x.full_tensor() for name, x in model.state_dict().items()}
    assert Manifest.build(whole) == expected


def test_the_result_of_a_collective_operation(mesh):
    import torch.distributed._functional_collectives as collectives

    x = collectives.AsyncCollectiveTensor(torch.ones(4))
    for call in (it.sha256, lambda x: Manifest.build({"a": x}), lambda x: it.mac_tensors({"a": x}, KEY)):
        with pytest.raises(TypeError, match=r"AsyncCollectiveTensor is a wrapper.*pass x\.wait\(\)"):
            call(x)
    assert it.sha256(x.wait()).digest() == it.sha256(torch.ones(4)).digest()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchao(tmp_path):
    """A quantised model has the manifest of the file that torchao itself writes of it."""
    try:
        import torchao  # noqa: F401
    except ImportError as error:
        pytest.skip(f"absent: torchao ({error})")
    from safetensors.torch import save_file
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    for config in (Int8WeightOnlyConfig(version=2), Float8WeightOnlyConfig(version=2)):
        model = nn.Sequential(nn.Linear(32, 64, dtype=torch.bfloat16), nn.ReLU(), nn.Linear(64, 32))
        quantize_(model, config)
        weight = model[0].weight
        names, _ = weight.__tensor_flatten__()
        manifest = Manifest.build(model)
        assert {f"0._weight_{name}" for name in names} | {"0.bias", "2.bias"} < {
            e.name for e in manifest.entries
        }
        path = tmp_path / "model.safetensors"
        flat, metadata = flatten_tensor_state_dict(model.state_dict())
        save_file(flat, path, metadata)
        assert Manifest.build(path) == manifest
        tags = it.mac_tensors(model.state_dict(), KEY)
        tags.verify(model.state_dict(), KEY)

        with pytest.raises(TypeError, match=rf"{type(weight).__name__} is a wrapper.*x\.qdata, x\.scale"):
            it.sha256(weight)
        with pytest.raises(TypeError, match="is a wrapper"):
            it.hash_batch([weight], "sha256", backend="opencl")

        with torch.no_grad():
            weight.qdata.view(torch.uint8)[3] ^= 1
        assert [change.name for change in manifest.verify(model).changed] == ["0._weight_qdata"]
        with pytest.raises(it.TagMismatch, match=r"'0\._weight_qdata'"):
            tags.verify(model.state_dict(), KEY)
