"""AMD GPUs, through torch's ROCm build, in which the device type is "cuda" as well."""

from __future__ import annotations

from .jit import JitBackend


class HipBackend(JitBackend):
    name = "hip"
    summary = "AMD GPUs: the kernels compiled by Triton"
    device_types = ("cuda",)
    torch_device_type = "cuda"
    device_kind = "AMD GPU"

    def unfit(self) -> str | None:
        import torch

        if torch.version.hip is not None:
            return None
        return f"torch {torch.__version__} is built without ROCm; install a ROCm build of torch"
