"""NVIDIA GPUs, through torch's CUDA device."""

from __future__ import annotations

from .base import Probe
from .jit import JitBackend


class CudaBackend(JitBackend):
    name = "cuda"
    summary = "NVIDIA GPUs: the kernels compiled by Triton"
    device_types = ("cuda",)
    torch_device_type = "cuda"

    def probe(self) -> Probe:
        try:
            import torch
            import triton
        except ImportError as error:
            return Probe(False, f"{error.name} cannot be imported; pip install {error.name}")
        if torch.version.cuda is None:
            return Probe(
                False, f"torch {torch.__version__} is built without CUDA; install a CUDA build of torch"
            )
        if not torch.cuda.is_available():
            return Probe(False, "torch finds no usable NVIDIA GPU or driver")
        names = tuple(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))
        return Probe(True, f"torch {torch.__version__}, Triton {triton.__version__}", names)
