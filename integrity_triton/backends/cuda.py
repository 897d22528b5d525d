"""NVIDIA GPUs, through torch's CUDA device."""

from __future__ import annotations

from .jit import JitBackend


class CudaBackend(JitBackend):
    name = "cuda"
    summary = "NVIDIA GPUs: the kernels compiled by Triton"
    device_types = ("cuda",)
    torch_device_type = "cuda"
    device_kind = "NVIDIA GPU"

    def unfit(self) -> str | None:
        import torch

        if torch.version.cuda is not None:
            return None
        return f"torch {torch.__version__} is built without CUDA; install a CUDA build of torch"
