"""Captured graphs, on a backend that records operations on the CPU and replays them. No GPU is needed, and
nothing here shows what a driver does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.backends import registry
from integrity_triton.messages import copying, moving
from integrity_triton.self_tests.admission import VARIABLE
from support import oracle, pattern, required, rows_as_bytes

LENGTHS = (0, 3, 130, 1100)


class Graph(TorchDispatchMode):
    """Records torch's operations and the launches of a backend. Nothing on the host but uploads is copied."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[Any] = []
        self.uploads: list[torch.Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))

        def again() -> None:
            for old, new in zip(tree_leaves(found), tree_leaves(func(*args, **(kwargs or {}))), strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)

        self._steps.append(again)
        return found

    def launching(self, launch):
        def record(*arguments: Any) -> None:
            with _disable_current_modes():
                launch(*arguments)
            self._steps.append(lambda: launch(*arguments))

        return record

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        with _disable_current_modes():
            self.uploads.append(tensor.clone())
        return self.uploads[-1]

    def release(self) -> None:
        """Let others write to all host memory that the package does not keep."""
        kept = {tensor.data_ptr() for tensor in moving._captured}
        for upload in self.uploads:
            if upload.data_ptr() not in kept:
                upload.view(torch.uint8).fill_(0xA5)

    def replay(self) -> None:
        for step in self._steps:
            step()


@pytest.fixture
def graph(monkeypatch):
    graph = Graph()
    monkeypatch.setenv(VARIABLE, "off")
    monkeypatch.setattr(moving, "_captured", [])
    monkeypatch.setattr(moving, "_pinned", graph.pinned)
    monkeypatch.setattr(moving, "_is_upload", lambda tensor, device: True)
    monkeypatch.setattr(moving, "capturing", lambda device: True)
    monkeypatch.setattr(copying, "by_one_thread", lambda tensor: False)  # as for memory of a device
    return graph


@pytest.mark.parametrize("layout", ["ragged", "rows"])
@pytest.mark.parametrize(
    "name",
    ["sha256", "blake3", "kmac_128", "hmac_sha256", "poly1305", "gmac_aes", "crc32", "parallelhash_128"],
)
def test_a_replay_hashes_what_the_tensors_hold(graph, monkeypatch, name, layout):
    record = algorithms.get(name)
    available = {status.name for status in registry.statuses() if status.available}
    backend = registry.get("opencl" if "opencl" in available else "interpreter")
    parameters = required(record)
    if layout == "rows":
        memory = torch.zeros((4, 300), dtype=torch.uint8)
        messages, views = memory, list(memory)
    else:
        memory = torch.zeros(sum(LENGTHS), dtype=torch.uint8)
        messages = views = list(memory.split(LENGTHS))
    monkeypatch.setattr(backend, "launch", graph.launching(backend.launch))
    with graph:
        digests = it.hash_batch(messages, name, backend=backend.name, **parameters)
    assert graph.uploads or layout == "rows"  # constants are on the CPU already
    graph.release()
    for turn in range(2):  # keys have been overwritten on the device by then
        memory.view(-1).copy_(
            torch.frombuffer(bytearray(pattern(memory.numel() + turn)[turn:]), dtype=torch.uint8)
        )
        digests.fill_(0)
        graph.replay()
        expected = [oracle(record, bytes(view.tolist()), **parameters) for view in views]
        assert rows_as_bytes(digests) == expected


def test_what_a_replay_could_not_repeat_is_refused(monkeypatch):
    from integrity_triton.drivers import run
    from integrity_triton.messages import stream

    monkeypatch.setenv(VARIABLE, "off")
    for module in (run, stream):
        monkeypatch.setattr(module, "capturing", lambda device: True)
    interpreter = registry.get("interpreter")
    with pytest.raises(RuntimeError, match="cannot be updated while a graph is being captured"):
        it.new("sha256", b"data", backend="interpreter")
    monkeypatch.setattr(interpreter, "device_for", lambda device: torch.device("meta"))
    with pytest.raises(RuntimeError, match="messages on cpu cannot be hashed on meta while a graph"):
        it.hash_batch([b"data"], "sha256", backend="interpreter")


def test_outside_of_a_capture_nothing_is_kept(graph, monkeypatch):
    monkeypatch.setattr(moving, "capturing", lambda device: False)
    found = moving.moved(torch.arange(3), torch.device("cpu"))
    assert found.tolist() == [0, 1, 2]
    assert moving._captured == []
