"""Declared updates are accepted. What else happens to tensors is told as what it is, not as flipped bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("blake3")

import integrity_triton as it  # noqa: E402
from guard_support import flip, model, wait_for  # noqa: E402
from integrity_triton.models.guard import Guard  # noqa: E402

WEIGHT = "layers.0.weight"


def guard_of(source, **options):
    return Guard(source, chunk_size=1024, **{"start": False, **options})


def told(guard):
    """The kinds of what a check finds, by the names of the tensors."""
    return {finding.name: finding.kind for finding in guard.check()}


def test_declared_updates_are_accepted_and_others_are_not():
    source = model()
    guard = guard_of(source)
    with guard.updating(), torch.no_grad():
        source.layers[0].weight.add_(1)
    assert told(guard) == {} and guard.status().ok is False  # there is no thread
    with torch.no_grad():
        source.layers[0].weight.add_(1)
    assert set(told(guard).values()) == {"content"}
    assert guard.failed


def test_an_update_of_named_tensors_leaves_the_others_as_they_were():
    source = model()
    guard = guard_of(source)
    with guard.updating(only="layers.0.*"), torch.no_grad():
        source.layers[0].weight.add_(1)
        flip(source.layers[1].weight, 0)
    (finding,) = guard.check()
    assert (finding.name, finding.flips) == ("layers.1.weight", ((0, 1),))


def test_an_update_that_raises_is_not_accepted():
    source = model()
    guard = guard_of(source)

    def update():
        with guard.updating():
            flip(source.layers[0].weight, 0)
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half"):
        update()
    assert told(guard) == {WEIGHT: "content"}


def test_an_update_has_to_match_the_manifest_or_brings_its_own():
    source, other = model(), model(seed=1)
    guard = guard_of(source, against=it.models.Manifest.build(source))
    with pytest.raises(it.IntegrityError, match=r"layers.0.weight"), guard.updating():
        source.load_state_dict(other.state_dict())
    assert guard.failed and guard.status().counts == {"manifest": 1}
    with guard.updating(against=it.models.Manifest.build(other)):
        pass
    guard.reset()
    assert not guard.failed


def test_checks_wait_for_nested_updates():
    source = model()
    guard = guard_of(source, start=True, period=0.5)
    with guard.updating():
        with guard.updating():
            assert guard.status().state == "updating"
            flip(source.layers[0].weight, 0)
        time.sleep(0.1)
        flip(source.layers[0].weight, 1)
        with pytest.raises(RuntimeError, match="updating"):
            guard.check()
    assert told(guard) == {}
    guard.close()


def test_an_optimizer_declares_its_steps():
    source = model()
    guard = guard_of(source)
    optimizer = torch.optim.SGD(source.layers[0].parameters(), lr=0.1)
    guard.follow_optimizer(optimizer)
    source(torch.arange(3)).sum().backward()
    before = source.layers[0].weight.clone()
    optimizer.step()
    assert not torch.equal(before, source.layers[0].weight)
    assert told(guard) == {}
    flip(source.layers[1].bias, 0)
    optimizer.step()
    assert told(guard) == {"layers.1.bias": "content"}


def test_load_state_dict_declares_itself_and_a_broken_load_is_told():
    source = model()
    guard = guard_of(source, period=0.5, start=True)
    guard.follow_load_state_dict()
    source.load_state_dict(model(seed=2).state_dict())
    assert told(guard) == {}

    def broken(*_):
        raise OSError("the disk is gone")

    hook = source.layers[0].register_load_state_dict_pre_hook(broken)
    with pytest.raises(OSError, match="disk"):
        source.load_state_dict(model(seed=3).state_dict())
    hook.remove()
    wait_for(lambda: guard.status().counts.get("overrun"))
    assert not guard.status().ok
    source.load_state_dict(model(seed=3).state_dict())
    assert told(guard) == {} and not guard.failed
    guard.close()


def test_what_moves_is_told_and_its_bytes_are_still_compared():
    source = model()
    guard = guard_of(source)
    source.layers[0].weight.data = source.layers[0].weight.data.clone()
    (finding,) = guard.check()
    assert (finding.kind, finding.name) == ("moved", WEIGHT)
    assert not guard.failed and guard.check() == ()
    flip(source.layers[0].weight, 5)
    assert told(guard) == {WEIGHT: "content"}, "it was found right in its new memory before"


def test_other_content_in_other_memory_was_replaced():
    source = model()
    guard = guard_of(source)
    source.layers[0].weight = torch.nn.Parameter(torch.rand(64, 64))
    kinds = [finding.kind for finding in guard.check()]
    assert kinds[0] == "moved" and set(kinds[1:]) == {"replaced"}
    assert guard.failed


def test_a_module_that_moves_and_comes_back():
    source = model()
    guard = guard_of(source, start=True, period=0.5)
    state = {name: x.clone() for name, x in source.state_dict().items()}
    angles = source.angles.clone()
    source.to("meta")
    wait_for(lambda: guard.status().offloaded)
    assert WEIGHT in guard.status().offloaded
    assert set(guard.status().counts) == {"offloaded"}
    source.to_empty(device="cpu")
    source.head.weight = source.embed.weight
    with guard.updating(only=()):  # nothing may be checked until the bytes are back
        source.load_state_dict(state)
        source.angles.copy_(angles)
    assert {finding.kind for finding in guard.check()} <= {"moved"}
    assert not guard.failed and guard.status().offloaded == ()
    guard.close()


def test_storage_that_is_freed_and_filled_again():
    source = model()
    guard = guard_of(source)
    weight = source.layers[0].weight
    kept = weight.detach().clone()
    weight.untyped_storage().resize_(0)
    assert told(guard) == {WEIGHT: "offloaded"}
    weight.untyped_storage().resize_(kept.nbytes)
    weight.data.copy_(kept)
    assert set(told(guard).values()) <= {"moved"}
    assert not guard.failed


def test_another_dtype_is_no_flipped_bit():
    source = model()
    guard = guard_of(source)
    source.layers[0].half()
    assert told(guard) == {WEIGHT: "form", "layers.0.bias": "form"}
    assert "float16[64, 64] on cpu, and was float32[64, 64]" in str(guard.check()[-1])
    assert guard.failed


def test_tensors_that_appear_and_vanish():
    source = model()
    guard = guard_of(source)
    source.layers[0].register_parameter("lora_a", torch.nn.Parameter(torch.zeros(3)))
    del source.layers[1].bias
    source.layers[1].bias = None
    assert told(guard) == {"layers.0.lora_a": "appeared", "layers.1.bias": "vanished"}
    assert guard.failed
    with guard.updating():
        pass
    guard.reset()
    assert not guard.failed and told(guard) == {}


def test_ties_that_are_made_and_broken():
    source = model()
    guard = guard_of(source)
    source.head.weight = torch.nn.Parameter(source.embed.weight.detach().clone())
    findings = guard.check()
    assert [f.kind for f in findings] == ["retied"]
    assert "no longer share their memory" in str(findings[0])
    assert not guard.failed, "the bytes are the same"
    flip(source.head.weight, 3)
    assert told(guard)["head.weight"] == "replaced" or guard.failed
    source = model()
    with torch.no_grad():
        source.layers[1].weight.copy_(source.layers[0].weight)
    guard = guard_of(source)
    source.layers[1].weight = source.layers[0].weight
    (finding,) = guard.check()
    assert finding.kind == "retied" and "now share their memory" in finding.detail


def test_a_merged_adapter_and_compilation_in_place():
    """What peft does when it merges a LoRA, with its one tensor named."""
    source = model()
    guard = guard_of(source, raise_at_forward=True)
    a, b = torch.rand(4, 64), torch.rand(64, 4)
    with guard.updating(only=WEIGHT), torch.no_grad():
        source.layers[0].weight += b @ a
    source.layers[0] = torch.compile(source.layers[0], backend="eager")
    source(torch.arange(3))
    assert told(guard) == {}
    torch.compiler.reset()


def test_sleep_and_wake():
    source = model()
    guard = guard_of(source, start=True, period=0.3)
    assert guard.sleep() == ()
    kept = source.layers[0].weight.detach().clone()
    source.layers[0].weight.untyped_storage().resize_(0)
    time.sleep(0.5)
    assert guard.status().state == "asleep"
    assert guard.status().ok and guard.status().counts == {}
    source.layers[0].weight.untyped_storage().resize_(kept.nbytes)
    source.layers[0].weight.data.copy_(kept)
    flip(source.layers[1].weight, 2048)
    content = [f for f in guard.wake() if f.fails]
    assert [(f.name, f.chunk) for f in content] == [("layers.1.weight", 2)]
    assert guard.failed
    guard.close()


def test_quantised_weights_are_guarded_by_their_parts():
    quantization = pytest.importorskip("torchao.quantization")
    source = torch.nn.Sequential(torch.nn.Linear(64, 64))
    quantization.quantize_(source, quantization.Int8WeightOnlyConfig())
    guard = guard_of(source)
    assert told(guard) == {}
    parts = [name for name in guard._passes.baseline.by_name if name != "0.bias"]
    assert len(parts) > 1
    flip(source[0].weight.qdata, 7)
    (finding,) = guard.check()
    assert finding.name in parts and finding.flips == ((7, 1),)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="not applicable: this system has no fork")
def test_a_forked_child_has_no_thread_and_says_so():
    source = model()
    guard = guard_of(source, start=True, period=0.3, raise_at_forward=True)
    wait_for(lambda: guard.status().passes)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            assert guard.status().state == "forked" and not guard.status().ok
            with pytest.raises(it.IntegrityError, match=r"forked; call start\(\)"):
                source(torch.arange(3))
            assert guard.check() == ()
            guard.start()
            passes = guard.status().passes
            wait_for(lambda: guard.status().passes > passes)
            source.layers[0].bias.data[0] += 1
            wait_for(lambda: guard.failed)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert guard.status().ok, "the parent's memory is its own"
    guard.close()


_STOPPED = """
import sys, time
import torch
from integrity_triton.models import Guard
source = {"w": torch.rand(100_000)}
guard = Guard(source, period=0.5, on_mismatch=lambda finding: print(finding.kind, flush=True))
time.sleep(0.6)
print("ready", flush=True)
sys.stdin.readline()
status = guard.status()
print("failed" if status.failed else "good", status.passes > 2, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="not applicable: no process can be stopped")
def test_a_process_that_was_stopped_reports_an_overrun_and_no_change():
    """It also ends at once, although the guard was not closed."""
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _STOPPED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdin is not None
    while child.stdout.readline() != "ready\n":  # a loaded machine may be late before
        assert child.poll() is None
    child.send_signal(signal.SIGSTOP)
    time.sleep(1.0)
    child.send_signal(signal.SIGCONT)
    assert child.stdout.readline() == "overrun\n"
    time.sleep(0.6)
    out, _ = child.communicate("\n", timeout=60)
    assert out.splitlines()[-1] == "good True"
    assert set(out.splitlines()[:-1]) <= {"overrun"}
    assert child.returncode == 0
