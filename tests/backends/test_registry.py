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
    # Automatic selection asks the backends in order; this one comes before native.
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


def with_package(folder, points: str, source: str, script: str) -> str:
    """What a script prints if a package with these entry points is installed."""
    (folder / "thirdparty.py").write_text(source)
    info = folder / "thirdparty-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1\n")
    (info / "entry_points.txt").write_text(points)
    script = f"import sys; sys.path.insert(0, {str(folder)!r})\nimport integrity_triton as it\n{script}"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


SOURCE = """
import dataclasses
from integrity_triton import algorithms
from integrity_triton.backends.native import NativeBackend
RECORD = dataclasses.replace(algorithms.get('sha256'), name='theirs', aliases=('t-1',))
class Theirs(NativeBackend):
    name = 'their_backend'
"""


def test_entry_points(tmp_path):
    """A package that declares entry points adds an algorithm and a backend, although this package knows
    nothing about it."""
    with_package(
        tmp_path,
        "[integrity_triton.algorithms]\ntheirs = thirdparty:RECORD\n"
        "[integrity_triton.backends]\ntheirs = thirdparty:Theirs\n",
        SOURCE,
        "assert 'theirs' in it.algorithms_available\n"
        "assert it.new('T-1', b'x', backend='their_backend').digest() == it.sha256(b'x').digest()\n"
        "assert it.theirs(b'x').name == 'theirs'\n",
    )


def test_a_package_that_cannot_be_loaded_is_reported_and_disables_itself_only(tmp_path):
    printed = with_package(
        tmp_path,
        "[integrity_triton.algorithms]\nlost = missing:RECORD\nleft = thirdparty:LEFT\n"
        "theirs = thirdparty:RECORD\n"
        "[integrity_triton.backends]\nlost = missing:Lost\ncuda = thirdparty:RECORD\n"
        "ending = thirdparty:ending\ntheirs = thirdparty:Theirs\n",
        SOURCE
        + "LEFT = [dataclasses.replace(algorithms.get('md5'))]\n"
        + "def __getattr__(name):\n    if name == 'ending':\n        raise SystemExit(3)\n"
        + "    raise AttributeError(name)\n",
        "from integrity_triton.backends import base, registry\n"
        "registry._probes.update(dict.fromkeys(registry._BUILTIN, base.Probe(False, 'not asked')))\n"
        "del registry._probes['native']\n"
        "for _ in range(2):\n"
        "    listed = {b.name: b for b in it.backends()}\n"
        "    assert it.sha256(b'x').name == 'sha256'\n"
        "assert it.new('theirs', b'x', backend='their_backend').digest() == it.sha256(b'x').digest()\n"
        "for name in ('lost', 'ending', 'cuda (thirdparty:RECORD)'):\n"
        "    assert not listed[name].available\n"
        "    print('devices', name, listed[name].reason)\n"
        "assert 'NVIDIA' in listed['cuda'].summary\n"
        "try:\n    it.new('sha256', backend='lost')\n"
        "except it.BackendUnavailable as error:\n    print('asked', error)\n"
        "for name in ('lost', 'lost'):\n    try:\n        it.new(name)\n"
        "    except ValueError as error:\n        print('unknown', error)\n",
    )
    missing = "ModuleNotFoundError: No module named 'missing'"
    assert f"devices lost the entry point lost = missing:Lost cannot be loaded: {missing}" in printed
    assert (
        "devices ending the entry point ending = thirdparty:ending cannot be loaded: SystemExit: 3" in printed
    )
    assert "asked backend 'lost' is not available: the entry point lost = missing:Lost" in printed
    assert printed.count("unknown unknown algorithm 'lost'") == 2
    assert f"the entry point lost = missing:RECORD cannot be loaded: {missing}" in printed
    warnings = [line for line in printed.splitlines() if line.startswith("the entry point")]
    assert sorted(line.partition(" cannot")[0] for line in warnings) == [  # once each
        "the entry point cuda = thirdparty:RECORD",
        "the entry point ending = thirdparty:ending",
        "the entry point left = thirdparty:LEFT",
        "the entry point lost = missing:Lost",
        "the entry point lost = missing:RECORD",
    ]


INTERRUPTED = """
import importlib.metadata, itertools
from integrity_triton import algorithms
from integrity_triton.backends import registry
RECORDS, NAMES = dict(algorithms._records), dict(algorithms._names)
POINTS = importlib.metadata.entry_points()
importlib.metadata.entry_points = lambda group: POINTS.select(group=group)  # finding them is slow

def trace(frame, event, argument):
    if frame.f_code.co_filename not in (algorithms.__file__, registry.__file__):
        return None
    if event == 'line' and next(counter) == at:
        raise KeyboardInterrupt
    return trace

for at in itertools.count():
    registry._backends, registry._probes, registry._loaded, registry._loading = {}, {}, False, False
    algorithms._records, algorithms._names = dict(RECORDS), dict(NAMES)
    algorithms._entry_points_loaded = False
    counter, whole = itertools.count(), False
    sys.settrace(trace)
    try:
        registry._load()
        algorithms.all_algorithms()
        whole = True
    except KeyboardInterrupt:
        pass
    sys.settrace(None)
    registry._load()
    names = set(registry._backends)
    assert {*registry._BUILTIN, 'their_backend'} == names, (at, names)
    assert {'theirs', 'hmac_theirs'} <= {r.name for r in algorithms.all_algorithms()}, at
    assert algorithms.get('T-1').name == 'theirs'
    if whole:
        break
print('places', at)
"""


def test_an_interrupt_anywhere_leaves_no_half_of_a_registry(tmp_path):
    printed = with_package(
        tmp_path,
        "[integrity_triton.algorithms]\ntheirs = thirdparty:RECORD\n"
        "[integrity_triton.backends]\ntheirs = thirdparty:Theirs\n",
        SOURCE,
        INTERRUPTED,
    )
    assert int(printed.removeprefix("places ")) > 50


def test_a_backend_of_another_package_that_fails_when_it_is_asked_ends_no_call(fake, monkeypatch, caplog):
    def failing(*arguments, **keywords):
        raise ZeroDivisionError("flat")

    monkeypatch.setattr(fake, "is_default", failing)
    with caplog.at_level(logging.WARNING, "integrity_triton"):
        for _ in range(2):
            digests = it.hash_batch([b"x"], "sha256")
    assert digests[0].tolist() == list(it.sha256(b"x").digest())
    (record,) = caplog.records
    assert "fake: ZeroDivisionError: flat" in record.getMessage()


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
    """Selection by the type of the device, on a machine that has the device and on one that does not have
    it."""
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


@pytest.mark.parametrize(
    ("name", "available", "default", "reason"),
    [
        ("sha256", True, True, "opencl ~ "),
        ("sha256", False, True, "fake: batteries are flat"),
        ("sha256", True, False, "opencl ~ "),
        ("cshake_128", True, False, "native: no CPU library has it"),
    ],
)
def test_the_choice_is_explained_by_what_decided(fake, name, available, default, reason):
    import torch

    fake.available, fake.default = available, default
    record = algorithms.get(name)
    messages = batch_messages(torch.zeros((2, 8), dtype=torch.uint8))
    try:
        chosen, words = registry.explain(record, "cpu", messages=messages)
    except it.BackendUnavailable:
        assert name == "cshake_128"  # a machine without opencl
        return
    assert chosen is registry.select(record, "cpu", messages=messages)
    assert reason in words


def test_a_request_explains_the_choice(fake, monkeypatch):
    record = algorithms.get("sha256")
    monkeypatch.setenv(registry.ENVIRONMENT_VARIABLE, "native")
    assert registry.explain(record, "cpu", messages=None)[1] == "INTEGRITY_TRITON_BACKEND asks for it"
    with registry.use_backend("fake"):
        assert registry.explain(record, "cpu", messages=None)[1] == "use_backend asks for it"
