"""Launching through Triton's JIT on a torch device: what NVIDIA, AMD and Intel GPUs share."""

from __future__ import annotations

from collections.abc import Mapping

from ..algorithms import load_reference
from .language import language_lock
from .triton_host import Launch, TritonBackend


class JitBackend(TritonBackend):
    """A subclass adds its probe and, where it needs one, its import of a torch extension."""

    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        import torch

        kernel = load_reference(launch.kernel)
        constants = {
            name: load_reference(value) if isinstance(value, str) else value
            for name, value in launch.constants.items()
        }
        programs = -(-launch.lanes // options["BLOCK_MSGS"])
        # The guard makes the tensors' device current; Triton takes that device's current stream.
        with language_lock, torch.get_device_module(launch.device).device(launch.device):
            kernel[(programs,)](**launch.arguments, **constants, **options)
