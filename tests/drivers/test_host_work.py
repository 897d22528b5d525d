"""How much the host does for a batch. Nothing is run."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from integrity_triton import algorithms
from integrity_triton.backends.interpreter import InterpreterBackend
from integrity_triton.drivers.run import Run
from integrity_triton.messages.layout import Messages, Ragged, Rows


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def operations(name: str, messages: Messages) -> int:
    run = Run(InterpreterBackend(), algorithms.get(name), lambda launch, options: None)
    with _Operations() as counted:
        run.execute({}, messages, 32)
    return counted.count


@pytest.mark.parametrize("name", ["kt128", "parallelhash_128"])
def test_more_messages_of_a_tree_need_no_more_operations(name):
    """Each operation of torch takes the host as long as the kernels take for some kilobytes."""
    few, many = (torch.zeros((n, 20000), dtype=torch.uint8) for n in (40, 120))
    assert operations(name, Rows.of(few)) == operations(name, Rows.of(many))
    assert operations(name, Ragged(list(few), few.device)) == operations(
        name, Ragged(list(many), many.device)
    )
    mixed = [row[:n] for n in (9000, 20000, 30) for row in many]
    assert operations(name, Ragged(mixed[::3], few.device)) == operations(name, Ragged(mixed, few.device))
