"""What the tests of the guard share."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def model(*, seed: int = 0) -> torch.nn.Module:
    """A small model with tied weights, a buffer that is not stored, and a tensor of several chunks."""
    torch.manual_seed(seed)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(300, 64)
            self.layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
            self.head = torch.nn.Linear(64, 300, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("mask", torch.ones(7, dtype=torch.bool))
            self.register_buffer("angles", torch.rand(33), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layers(self.embed(x)))

    return Model().eval()


def flip(x: torch.Tensor, byte: int, mask: int = 1) -> None:
    """Flip bits of a tensor in place, which must be contiguous."""
    x.detach().reshape(-1).view(torch.uint8)[byte] ^= mask


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition holds; fail after ``seconds``, which are many times what it takes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
