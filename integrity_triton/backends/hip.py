"""AMD GPUs, through torch's ROCm build, in which the device type is "cuda" as well."""

from __future__ import annotations

from .base import Probe
from .jit import JitBackend


class HipBackend(JitBackend):
    name = "hip"
    summary = "AMD GPUs: the kernels compiled by Triton"
    device_types = ("cuda",)
    torch_device_type = "cuda"

    def probe(self) -> Probe:
        try:
            import torch
            import triton
        except ImportError as error:
            return Probe(False, f"{error.name} cannot be imported; pip install {error.name}")
        if torch.version.hip is None:
            return Probe(
                False, f"torch {torch.__version__} is built without ROCm; install a ROCm build of torch"
            )
        if not torch.cuda.is_available():
            return Probe(False, "torch finds no usable AMD GPU or driver")
        names = tuple(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))
        return Probe(True, f"torch {torch.__version__}, Triton {triton.__version__}", names)
