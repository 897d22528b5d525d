"""The registry of backends: probes, which backend is chosen, and entry points of other packages."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.backends import registry
from integrity_triton.backends.base import Backend, Probe
from integrity_triton.messages.from_caller import batch_messages


class FakeBackend(Backend):
    name = "fake"
    summary = "for tests"
    device_types = ("cpu",)
    available = True
    default = True
    probed = 0

    def probe(self):
        type(self).probed += 1
        if self.available is None:
            raise OSError("driver is on fire")
        return Probe(self.available, "batteries are flat")

    def unsupported(self, algorithm):
        return "only sha256" if algorithm.name != "sha256" else None

    def is_default(self, algorithm, device_type, *, messages):
        return self.default and device_type == "cpu" and messages is not None

    def digest_batch(self, algorithm, parameters, messages, length):
        import torch

        return torch.full((messages.count, length), 7, dtype=torch.uint8)

    def stream(self, algorithm, parameters, device=None):
        raise NotImplementedError


@pytest.fixture
def fake(scratch_registries):
    cls = type("Fake", (FakeBackend,), {"probed": 0})
    registry.register(cls)
    # Automatic selection asks the backends in order: this one is to be asked before native.
    registry._backends = {"fake": registry._backends["fake"], **registry._backends}
    return cls


def test_backends_are_probed_once_and_not_before_they_are_asked_for(fake):
    assert fake.probed == 0
    for _ in range(3):
        it.hash_batch([b"x", b"y"], "sha256")
    assert fake.probed == 1


def test_backends_are_listed_with_reasons(fake):
    fake.available = False
    listed = {b.name: b for b in it.backends()}
    assert {"cuda", "hip", "xpu", "interpreter", "native", "fake"} <= set(listed)
    assert listed["native"].available
    assert (listed["fake"].available, listed["fake"].reason) == (False, "batteries are flat")
    assert all(b.reason for b in listed.values())


def test_an_explicit_request_never_falls_back(fake):
    fake.available = False
    for call in (
        lambda: it.hash_batch([b"x"], "sha256", backend="fake"),
        lambda: it.new("sha256", backend="fake"),
        lambda: it.use_backend("fake"),
    ):
        with pytest.raises(it.BackendUnavailable, match=r"'fake' is not available: batteries are flat"):
            call()


def test_a_backend_that_lacks_the_algorithm_says_so(fake):
    with pytest.raises(it.BackendUnavailable, match="'fake' cannot run blake3: only sha256"):
        it.hash_batch([b"x"], "blake3", backend="fake")


def test_an_unknown_backend_names_those_there_are():
    with pytest.raises(ValueError, match=r"unknown backend 'quantum' \(known: .*native"):
        it.new("sha256", backend="quantum")


def test_automatic_choice_falls_back_and_logs_once(fake, caplog):
    fake.available = None
    with caplog.at_level(logging.INFO, "integrity_triton"):
        for _ in range(3):
            digests = it.hash_batch([b"x", b"y"], "sha256")
    assert digests[0].tolist() == list(it.sha256(b"x").digest())
    (entry,) = caplog.records
    assert entry.levelno == logging.WARNING
    assert "falls back to native" in entry.message
    assert "driver is on fire" in entry.message


def test_automatic_choice_is_logged_once(fake, caplog):
    with caplog.at_level(logging.INFO, "integrity_triton"):
        for _ in range(3):
            assert it.hash_batch([b"x", b"y"], "sha256")[0, 0] == 7
    assert [r.message for r in caplog.records] == ["sha256 on cpu data runs on fake"]


def test_one_message_and_many_are_chosen_for_apart(fake):
    assert it.sha256(b"x").digest()[0] != 7
    assert it.hash_batch([b"x"], "sha256")[0, 0] == 7


def test_use_backend_and_the_environment(fake, monkeypatch):
    fake.default = False
    assert it.hash_batch([b"x"], "sha256")[0, 0] != 7
    with it.use_backend("fake"):
        assert it.hash_batch([b"x"], "sha256")[0, 0] == 7
        assert it.hash_batch([b"x"], "sha256", backend="native")[0, 0] != 7
        with it.use_backend(None):
            assert it.hash_batch([b"x"], "sha256")[0, 0] != 7
    assert it.hash_batch([b"x"], "sha256")[0, 0] != 7
    monkeypatch.setenv("INTEGRITY_TRITON_BACKEND", "fake")
    assert it.hash_batch([b"x"], "sha256")[0, 0] == 7
    fake.available = False
    registry._probes.pop("fake")
    with pytest.raises(it.BackendUnavailable, match="batteries"):
        it.hash_batch([b"x"], "sha256")


def test_a_duplicate_backend_is_refused(fake):
    with pytest.raises(ValueError, match="'fake' is taken"):
        registry.register(fake)
    with pytest.raises(TypeError, match="Backend subclass"):
        registry.register("fake")


def test_entry_points(tmp_path):
    """A package that declares them adds an algorithm and a backend without touching this one."""
    (tmp_path / "thirdparty.py").write_text(
        "import dataclasses\n"
        "from integrity_triton import algorithms\n"
        "from integrity_triton.backends.native import NativeBackend\n"
        "RECORD = dataclasses.replace(algorithms.get('sha256'), name='theirs', aliases=('t-1',))\n"
        "class Theirs(NativeBackend):\n    name = 'their_backend'\n"
    )
    info = tmp_path / "thirdparty-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[integrity_triton.algorithms]\ntheirs = thirdparty:RECORD\n"
        "[integrity_triton.backends]\ntheirs = thirdparty:Theirs\n"
    )
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import integrity_triton as it\n"
        "assert 'theirs' in it.algorithms_available\n"
        "assert it.new('T-1', b'x', backend='their_backend').digest() == it.sha256(b'x').digest()\n"
        "assert it.theirs(b'x').name == 'theirs'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def fake_gpu(monkeypatch, module: str, **attributes):
    """Make torch's device module say that there are two GPUs."""
    torch = pytest.importorskip("torch")
    devices = getattr(torch, module)
    monkeypatch.setattr(devices, "is_available", lambda: True)
    monkeypatch.setattr(devices, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "get_device_name", lambda i: f"card {i}")
    for name, value in attributes.items():
        monkeypatch.setattr(torch.version, name, value)


def test_probes_of_gpus_that_are_there(monkeypatch):
    from integrity_triton.backends.cuda import CudaBackend
    from integrity_triton.backends.hip import HipBackend
    from integrity_triton.backends.xpu import XpuBackend

    fake_gpu(monkeypatch, "cuda", cuda="13.0", hip=None)
    probe = CudaBackend().probe()
    assert probe.available
    assert probe.devices == ("cuda:0 card 0", "cuda:1 card 1")
    assert "ROCm" in HipBackend().probe().reason
    fake_gpu(monkeypatch, "cuda", cuda=None, hip="7.0")
    assert HipBackend().probe().devices == ("cuda:0 card 0", "cuda:1 card 1")
    assert "CUDA" in CudaBackend().probe().reason
    fake_gpu(monkeypatch, "xpu")
    assert "no Intel backend" in XpuBackend().probe().reason
    import triton

    monkeypatch.setitem(triton.backends.backends, "intel", object())
    assert XpuBackend().probe().devices == ("xpu:0 card 0", "xpu:1 card 1")


def test_data_of_a_gpu_goes_to_its_backend(monkeypatch):
    """Selection by device type, on a machine that has the device and on one that has not."""
    fake_gpu(monkeypatch, "cuda", cuda="13.0", hip=None)
    monkeypatch.setattr(registry, "_probes", {})
    sha256, blake3 = algorithms.get("sha256"), algorithms.get("blake3")
    assert registry.select(sha256, "cuda", messages=batch_messages([b"a", b"b"])).name == "cuda"
    assert registry.select(blake3, "cuda", messages=None).name == "cuda"
    assert registry.select(sha256, "cuda", messages=None).name == "native"
    assert registry.select(sha256, "mps", messages=batch_messages([b"a", b"b"])).name == "native"
    monkeypatch.setattr(registry, "_probes", {})
    fake_gpu(monkeypatch, "cuda", cuda=None, hip="7.0")
    assert registry.select(sha256, "cuda", messages=batch_messages([b"a", b"b"])).name == "hip"
