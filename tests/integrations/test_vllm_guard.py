"""The guard of vLLM's workers: what it is told of a worker's calls, and the same in vLLM's own worker."""

from __future__ import annotations

import json
import pickle
import sys
import types

import pytest
import torch
from support_vllm import entry_point_folder, in_vllm
from torch import nn

from integrity_triton.errors import IntegrityError
from integrity_triton.integrations import vllm

EVERYTHING = {"budget": 1.0}


class Worker:
    """The methods of vLLM's worker that the guard follows. A sleep of level 1 puts the weights back, and one
    of level 2 leaves garbage, as vLLM's allocator does."""

    def __init__(self, rank: int = 0) -> None:
        self.model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 8)).requires_grad_(False)
        self.model_runner = types.SimpleNamespace(get_model=lambda: self.model)
        self.parallel_config = types.SimpleNamespace(enable_eplb=False)
        self.rank = rank
        self.calls: list[str] = []
        self.saved: dict[str, torch.Tensor] | None = None

    def _weight_checksum_prefix(self) -> str:
        return f"dp0:pp0:pcp0:tp{self.rank}:"

    def compile_or_warm_up_model(self) -> str:
        return "warm"

    def load_model(self) -> None:
        self.calls.append("load_model")

    def execute_model(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)

    def sleep(self, level: int = 1) -> None:
        self.saved = {k: v.clone() for k, v in self.model.state_dict().items()} if level == 1 else None
        self.fill(float("nan"))

    def discard(self, tags: tuple[str, ...]) -> None:
        if "weights" in tags:
            self.fill(float("nan"))

    def wake_up(self, tags: list[str] | None = None) -> None:
        if self.saved is not None and (tags is None or "weights" in tags):
            self.model.load_state_dict(self.saved)

    def fill(self, value: float) -> None:
        for parameter in self.model.parameters():
            parameter.fill_(value)

    def reload_weights(self, value: float) -> None:
        self.fill(value)
        if value < 0:
            raise OSError("the disk failed")

    def reset_weights(self) -> None:
        self.fill(0)

    def start_weight_update(self) -> None:
        self.calls.append("start")

    def update_weights(self, value: float) -> None:
        self.reload_weights(value)

    def finish_weight_update(self) -> None:
        self.calls.append("finish")


class Extended(Worker, vllm.WorkerExtension):
    """vLLM appends the extension to the bases of its worker class."""


@pytest.fixture
def worker():
    made = Extended()
    yield made
    made.destroy_worker_extension()


def flip(worker: Worker, name: str = "2.bias") -> None:
    worker.model.get_parameter(name).view(torch.int32)[3] ^= 1 << 9


def kinds(worker: vllm.WorkerExtension) -> dict[str, int]:
    return worker.guard_status()["counts"]


def test_a_flipped_bit_is_found(worker):
    started = worker.start_guard(budget=0.5, chunk_size=1024)
    assert started["ok"] and started["name"] == "dp0:pp0:pcp0:tp0" and started["tensors"] == 4
    assert worker.check_guard() == []
    flip(worker)
    (found,) = worker.check_guard()
    assert (found["kind"], found["name"], found["flips"]) == ("content", "2.bias", [[13, 2]])
    status = worker.guard_status()
    assert status["failed"] and not status["ok"] and not status["awaiting_weights"]
    for result in (found, status):  # what collective_rpc sends
        assert pickle.loads(pickle.dumps(result)) == result
        assert json.loads(json.dumps(result)) == result
    with pytest.raises(IntegrityError, match="stays failed"):
        worker.reset_guard()
    flip(worker)
    assert worker.reset_guard()["ok"]
    assert worker.stop_guard()["state"] == "closed"


def test_the_worker_is_as_before_after_a_stop(worker):
    before = dict(vars(worker))
    worker.start_guard(raise_at_forward=True)
    assert vars(worker)["sleep"].__name__ == "sleep"
    worker.stop_guard()
    left = dict(vars(worker))
    assert left.pop("_integrity_triton_guard") is None
    assert left == before


def test_a_call_that_was_replaced_on_the_object_is_put_back(worker):
    worker.sleep = lambda level=1: worker.calls.append(f"theirs {level}")
    theirs = worker.sleep
    worker.start_guard()
    worker.sleep(level=1)
    worker.wake_up()
    assert worker.calls == ["theirs 1"]
    worker.stop_guard()
    assert worker.sleep is theirs


def test_a_mismatch_raises_at_the_next_forward_only_if_asked_for(worker):
    x = torch.ones(2, 64)
    for raises in (False, True):
        worker.start_guard(raise_at_forward=raises)
        flip(worker)
        worker.check_guard()
        if raises:
            with pytest.raises(IntegrityError, match=r"dp0:pp0:pcp0:tp0.*2\.bias"):
                worker.execute_model(x)
        else:
            worker.execute_model(x)
        flip(worker)
        worker.reset_guard()
        worker.execute_model(x)
        worker.stop_guard()


@pytest.mark.parametrize("tags", [None, ["weights"], ["kv_cache", "weights"]])
def test_sleep_of_level_1(worker, tags):
    worker.start_guard(raise_at_forward=True)
    worker.sleep(1)
    assert worker.guard_status()["state"] == "asleep"
    with pytest.raises(RuntimeError, match="asleep"):
        worker.check_guard()
    worker.wake_up(["kv_cache"])
    assert worker.guard_status()["state"] == "asleep"
    worker.wake_up(tags)
    assert worker.guard_status()["ok"] and worker.check_guard() == []
    worker.execute_model(torch.ones(1, 64))


def test_a_sleep_that_leaves_garbage_is_found(worker):
    worker.start_guard()
    worker.sleep(level=1)
    worker.saved["0.weight"][5, 6] += 1
    worker.wake_up()
    status = worker.guard_status()
    assert status["failed"] and status["findings"][-1]["name"] == "0.weight"


@pytest.mark.parametrize("how", ["reload", "update"])
@pytest.mark.parametrize("discard", [lambda w: w.sleep(2), lambda w: w.discard(("weights",))])
def test_discarded_weights_are_awaited(worker, how, discard):
    worker.start_guard(raise_at_forward=True)
    discard(worker)
    worker.wake_up(["weights"])
    status = worker.guard_status()
    assert status["awaiting_weights"] and not status["ok"] and not status["failed"]
    with pytest.raises(RuntimeError, match="discarded by a sleep of level 2"):
        worker.check_guard()
    with pytest.raises(IntegrityError, match="discarded by a sleep of level 2"):
        worker.execute_model(torch.ones(1, 64))
    if how == "reload":
        worker.reload_weights(3.0)
    else:
        worker.start_weight_update()
        worker.update_weights(3.0)
        worker.finish_weight_update()
    assert worker.guard_status()["ok"] and worker.check_guard() == []
    worker.execute_model(torch.ones(1, 64))
    flip(worker)
    assert [found["name"] for found in worker.check_guard()] == ["2.bias"]


def test_a_discard_of_other_memory_does_not_matter(worker):
    worker.start_guard()
    worker.discard(("kv_cache",))
    assert worker.guard_status()["state"] == "guarding"


def test_updates_are_declared(worker):
    worker.start_guard()
    worker.reload_weights(1.0)
    assert worker.check_guard() == []
    worker.reset_weights()
    assert worker.check_guard() == []
    worker.start_weight_update()
    assert worker.guard_status()["state"] == "updating"
    worker.update_weights(2.0)
    worker.update_weights(3.0)
    worker.reload_weights(4.0)  # within the update that is open
    assert worker.guard_status()["state"] == "updating"
    with pytest.raises(RuntimeError, match="finish the weight update before"):
        worker.sleep(1)
    worker.finish_weight_update()
    assert worker.check_guard() == [] and worker.guard_status()["ok"]
    worker.fill(5.0)
    assert len(worker.check_guard()) == 4


def test_updates_that_fail_are_damage(worker):
    worker.start_guard()
    with pytest.raises(OSError, match="the disk failed"):
        worker.reload_weights(-1.0)
    assert len(worker.check_guard()) == 4
    worker.start_weight_update()
    with pytest.raises(OSError, match="the disk failed"):
        worker.update_weights(-2.0)
    assert worker.guard_status()["state"] == "guarding" and worker.guard_status()["failed"]
    worker.start_weight_update()
    worker.update_weights(2.0)
    worker.finish_weight_update()
    assert worker.reset_guard()["ok"]


def test_a_start_of_an_update_that_is_refused(worker):
    def refuse() -> None:
        raise RuntimeError("already active")

    worker.start_weight_update = refuse
    worker.start_guard()
    with pytest.raises(RuntimeError, match="already active"):
        worker.start_weight_update()
    assert worker.guard_status()["state"] == "guarding" and worker.check_guard() == []


def test_a_manifest_for_each_rank(tmp_path):
    workers = [Extended(rank) for rank in range(2)]
    path = str(tmp_path / "{rank}.json")
    written = [worker.save_weight_manifest(path) for worker in workers]
    assert written == [str(tmp_path / f"dp0-pp0-pcp0-tp{rank}.json") for rank in range(2)]
    assert workers[0].start_guard(manifest=path)["signed"]
    before = {k: v.clone() for k, v in workers[0].model.state_dict().items()}
    with pytest.raises(IntegrityError):
        workers[0].reload_weights(2.0)
    assert workers[0].guard_status()["counts"]["manifest"] == 1
    workers[0].model.load_state_dict(before)
    assert workers[0].reset_guard()["ok"]
    flip(workers[1], "0.bias")
    with pytest.raises(IntegrityError, match=r"0\.bias"):
        workers[1].start_guard(manifest=path)
    with pytest.raises(RuntimeError, match="no guard was started"):
        workers[1].guard_status()
    assert "sleep" not in vars(workers[1])
    workers[0].stop_guard()


def test_what_is_refused(worker):
    for call in (worker.guard_status, worker.check_guard, worker.reset_guard, worker.stop_guard):
        with pytest.raises(RuntimeError, match="no guard was started in this worker"):
            call()
    worker.parallel_config.enable_eplb = True
    with pytest.raises(ValueError, match="enable_eplb"):
        worker.start_guard()
    worker.parallel_config.enable_eplb = False
    worker.finish_weight_update = None
    with pytest.raises(RuntimeError, match="no method finish_weight_update"):
        worker.start_guard()
    del worker.finish_weight_update
    worker.start_guard()
    with pytest.raises(RuntimeError, match="call stop_guard before"):
        worker.start_guard()
    with pytest.raises(RuntimeError, match=r"stop_guard\(\) has to come before load_model"):
        worker.load_model()
    assert worker.calls == []


def test_partitions_that_a_guard_does_not_see(worker, monkeypatch):
    class Shared(nn.Parameter):
        pass

    module = types.SimpleNamespace(SharedWeightParameter=Shared)
    monkeypatch.setitem(sys.modules, "vllm.model_executor.parameter", module)
    worker.model.register_parameter("shared", Shared(torch.empty(0), requires_grad=False))
    with pytest.raises(ValueError, match="'shared' is a SharedWeightParameter"):
        worker.start_guard()
    assert worker.start_guard(ignore="shared")["excluded"] == ["shared"]


class TestEnvironment:
    """``INTEGRITY_TRITON_VLLM=guard``."""

    @pytest.fixture(autouse=True)
    def clean(self, monkeypatch):
        for name in (vllm.SWITCH, vllm.GUARD_OPTIONS, "VLLM_PLUGINS"):
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize("value", ["", "off", "digests"])
    def test_nothing_unless_asked_for(self, worker, monkeypatch, value):
        monkeypatch.setenv(vllm.SWITCH, value)
        worker.init_worker_extension()
        assert "compile_or_warm_up_model" not in vars(worker)

    @pytest.mark.parametrize("value", ["guard", "digests, Guard"])
    def test_it_starts_after_the_warm_up(self, worker, monkeypatch, value):
        monkeypatch.setenv(vllm.SWITCH, value)
        monkeypatch.setenv(vllm.GUARD_OPTIONS, '{"period": 50, "ignore": ["0.*"], "budget": 0.5}')
        worker.init_worker_extension()
        with pytest.raises(RuntimeError, match="no guard was started"):
            worker.guard_status()
        assert worker.compile_or_warm_up_model() == "warm"
        status = worker.guard_status()
        assert (status["period"], status["excluded"]) == (50, ["0.bias", "0.weight"])
        assert worker.compile_or_warm_up_model() == "warm"  # a second warm-up starts no second one

    @pytest.mark.parametrize("options", ["[]", "{", '"period"'])
    def test_options_that_are_no_object(self, worker, monkeypatch, options):
        monkeypatch.setenv(vllm.SWITCH, "guard")
        monkeypatch.setenv(vllm.GUARD_OPTIONS, options)
        for call in (worker.init_worker_extension, vllm.register):
            with pytest.raises(ValueError, match="INTEGRITY_TRITON_VLLM_GUARD"):
                call()

    @pytest.mark.parametrize("value", ["guard,", "digest", "guard,off"])
    def test_unknown_requests(self, monkeypatch, value):
        monkeypatch.setenv(vllm.SWITCH, value)
        with pytest.raises(
            ValueError, match="it takes 'off', or one or more of 'digests', 'guard', 'loader'"
        ):
            vllm.register()

    def test_a_vllm_without_the_hook(self, monkeypatch):
        monkeypatch.setenv(vllm.SWITCH, "guard")
        for name in ("vllm", "vllm.v1", "vllm.v1.worker", "vllm.v1.worker.worker_base"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        with pytest.raises(ImportError, match=r"WorkerWrapperBase\.init_device cannot be found"):
            vllm.register()


IN_VLLM = """
import contextlib, json, sys, types
import torch
from torch import nn
from vllm.plugins import load_general_plugins

load_general_plugins()
load_general_plugins.__globals__["plugins_loaded"] = False
load_general_plugins()  # again, as in some processes of vLLM
from vllm.device_allocator.sleep_mode_backend import SleepModeBackend
from vllm.v1.engine.core import UtilityResult
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder, run_method
from vllm.v1.worker import gpu_worker
from vllm.v1.worker.worker_base import WorkerWrapperBase

class Allocator(SleepModeBackend):
    def suspend(self, level=1):
        self.saved = {k: v.clone() for k, v in model.state_dict().items()} if level == 1 else None
        fill(float("nan"))

    def resume(self, tags=None):
        if self.saved is not None:
            model.load_state_dict(self.saved)

def fill(value):
    for parameter in model.parameters():
        parameter.fill_(value)

class Engine:
    supports_draft_weight_update = False
    start_weight_update = finish_weight_update = reset_weight_update_target = lambda self: None
    update_weights = lambda self, info: fill(info["value"])
    shutdown = lambda self: None

torch.accelerator.synchronize = lambda: None
torch.accelerator.get_memory_info = lambda: (1 << 30, 1 << 31)
torch.manual_seed(3)
model = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 8)).requires_grad_(False)
model.register_buffer("scale", torch.ones(5))

class Worker(gpu_worker.Worker):
    def __init__(self, vllm_config, **_):
        self.vllm_config, self.parallel_config = vllm_config, vllm_config.parallel_config
        self.model_config = vllm_config.model_config
        self._sleep_mode_backend = Allocator()
        self._sleep_saved_buffers, self._sleep_saved_draft_buffers = {}, {}
        self._sleep_saved_parameters = {}
        self.weight_transfer_engine, self.rank = Engine(), 0
        self._weight_update_active = self._weight_update_is_draft = False
        self.profiler = None
        self.elastic_ep_executor = types.SimpleNamespace(shutdown=lambda: None)

    def init_device(self):
        nothing = lambda *_, **__: None
        self.model_runner = types.SimpleNamespace(
            model=model, get_model=lambda: model, get_draft_model=lambda: None, shutdown=nothing,
            reload_weights=fill, reset_lora_state=nothing,
        )

    def get_draft_model(self):
        return None

    def synchronize_device(self):
        pass

    def compile_or_warm_up_model(self):
        return "warm"

    def execute_model(self, scheduler_output):
        return "served"

    def _weight_checksum_prefix(self):
        return "dp0:pp0:pcp0:tp0:"

gpu_worker.get_draft_model = lambda: None
sys.modules["served"] = types.SimpleNamespace(Worker=Worker)
config = types.SimpleNamespace(
    enable_trace_function_call_for_thread=lambda: None,
    model_config=types.SimpleNamespace(
        supports_multimodal_inputs=False, sleep_preserve_parameter_names=[],
        enable_nccl_comm_suspend=False,
    ),
    parallel_config=types.SimpleNamespace(
        worker_cls="served.Worker", enable_eplb=False, data_parallel_index=0, world_size=1,
        worker_extension_cls=EXTENSION,
    ),
)
wrapper = WorkerWrapperBase()
wrapper.init_worker([{"vllm_config": config}])
try:
    wrapper.init_device()
except RuntimeError as error:
    print(json.dumps({"refused": str(error)}))
    raise SystemExit(0)

def rpc(method, *args, **kwargs):
    result = run_method(wrapper, method, args, kwargs)
    encoded = MsgpackEncoder().encode(UtilityResult(result))
    return MsgpackDecoder(UtilityResult).decode(encoded).result

def serve():
    try:
        return wrapper.execute_model(types.SimpleNamespace(scheduled_new_reqs=[]))
    except Exception as error:
        return f"{type(error).__name__}: {error}"

steps = []
def note(what):
    status = rpc("guard_status")
    steps.append([what, status["state"], status["ok"], status["failed"], serve()])

rpc("compile_or_warm_up_model")
note("warm")
rpc("sleep", 1)
note("asleep")
rpc("wake_up")
note("awake")
rpc("sleep", level=2)
rpc("wake_up", ["weights"])
note("discarded")
rpc("reload_weights", 2.0)
note("reloaded")
rpc("start_weight_update")
rpc("update_weights", {"value": 3.0})
note("updating")
rpc("finish_weight_update")
note("updated")
found = rpc("check_guard")
model[1].bias.view(torch.int32)[2] ^= 1 << 20
found += rpc("check_guard")
note("flipped")
wrapper.shutdown()
print(json.dumps({"steps": steps, "found": found, "guarded": wrapper.worker._integrity_triton_guard}))
"""


@pytest.mark.slow
def test_in_vllm(other_project, tmp_path):
    """vLLM's own classes make the worker, call its hooks, run the sleep and the updates of
    ``gpu_worker.Worker``, dispatch the calls, and encode the results. In the place of what needs a GPU are
    the memory allocator, the transfer of weights, the model runner, and the worker's start."""
    folders = (entry_point_folder(tmp_path), other_project("vllm"), other_project("vllm-needs"))
    options = json.dumps({"raise_at_forward": True, "budget": 0.5})
    environment = {vllm.SWITCH: "digests,guard", vllm.GUARD_OPTIONS: options}
    name = f"{vllm.__name__}.WorkerExtension"
    found = in_vllm(IN_VLLM.replace("EXTENSION", repr(name)), *folders, **environment)
    served = {what: answer for what, *_, answer in found["steps"]}
    states = {what: tuple(state) for what, *state, _ in found["steps"]}
    assert states == {
        "warm": ("guarding", True, False),
        "asleep": ("asleep", True, False),
        "awake": ("guarding", True, False),
        "discarded": ("asleep", False, False),
        "reloaded": ("guarding", True, False),
        "updating": ("updating", True, False),
        "updated": ("guarding", True, False),
        "flipped": ("guarding", False, True),
    }
    assert served.pop("discarded").startswith("IntegrityError: the weights were discarded")
    assert served.pop("flipped").startswith("IntegrityError: guard 'dp0:pp0:pcp0:tp0' has failed")
    assert set(served.values()) == {"served"}
    assert [(f["kind"], f["name"], f["flips"]) for f in found["found"]] == [("content", "1.bias", [[10, 16]])]
    assert found["guarded"] is None  # ended by the hook at shutdown


@pytest.mark.slow
def test_vllm_refuses_a_worker_that_would_start_no_guard(other_project, tmp_path):
    folders = (entry_point_folder(tmp_path), other_project("vllm"), other_project("vllm-needs"))
    found = in_vllm(IN_VLLM.replace("EXTENSION", "''"), *folders, **{vllm.SWITCH: "guard"})
    assert "--worker-extension-cls integrity_triton.integrations.vllm.WorkerExtension" in found["refused"]
