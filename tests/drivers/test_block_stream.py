"""Which bytes a stream absorbs as whole blocks, and which it keeps, however the message is cut into
pieces."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch

from integrity_triton import algorithms
from integrity_triton.backends.interpreter import InterpreterBackend
from integrity_triton.drivers.base import BlockStream, PendingBytes
from integrity_triton.drivers.run import Run


class _Recording(BlockStream):
    def __init__(self, block: int, held_back: int) -> None:
        driver = SimpleNamespace(
            pending=lambda device: PendingBytes(device, secret=True),
        )
        super().__init__(driver, torch.device("cpu"), block, held_back)
        self.absorbed = b""

    def _absorb(self, view):
        assert view.numel() > 0
        assert view.numel() % self._block == 0
        self.absorbed += bytes(view.tolist())

    def digest(self, length, seek):
        return bytes(self._pending.data.tolist())


@pytest.mark.parametrize(
    ("block", "held_back"), [(4, 0), (4, 1), (4, 3), (4, 9), (1, 0), (1, 1), (3, 1), (16, 13)]
)
def test_blocks_go_as_soon_as_enough_follows(block, held_back):
    choice = random.Random(0)
    for _ in range(100):
        stream, message = _Recording(block, held_back), b""
        for _ in range(choice.randint(1, 8)):
            before = stream.copy()
            held = before.digest(0, 0)
            piece = choice.randbytes(choice.choice([0, 1, block - 1, block, block + 1, 5 * block]))
            stream.update(piece)
            message += piece
            whole = max(0, len(message) - held_back) // block * block
            assert stream.absorbed == message[:whole]
            assert stream.digest(0, 0) == message[whole:]
            assert before.digest(0, 0) == held


@pytest.mark.parametrize("name", ["parallelhash_128", "kt128"])
def test_a_long_stream_of_a_tree_keeps_few_tensors(name):
    """Each of them would be looked at in every update. Nothing is run."""
    run = Run(InterpreterBackend(), algorithms.get(name), lambda launch, options: None)
    stream = run.stream({"block_size": 8}, torch.device("cpu"))
    for _ in range(200):
        stream.update(memoryview(bytes(stream._block)))
    assert sum(len(values) for values in stream._values) == 200 - (name == "kt128")
    assert len(stream._values) <= 8
