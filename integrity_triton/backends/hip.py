"""AMD GPUs, through torch's ROCm build, in which the device type is "cuda" as well."""

from __future__ import annotations

from functools import cached_property

from ..launching.launch import tuned
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

    @cached_property
    def tuned_for(self) -> str:
        """The name under which ``tuning.json`` has the configurations for this machine's GPUs.

        Wavefronts have 64 threads in the CDNA family and 32 in the RDNA family, where the configurations of
        CDNA would give each thread two lanes and so twice the registers. A machine that has GPUs of both
        kinds gets the configurations of CDNA, which run on all.
        """
        import torch

        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return "hip:wave32" if devices and all(device.warp_size == 32 for device in devices) else "hip"

    def tuned(self, kernel: str, block: str | None = None) -> dict[str, int]:
        return tuned(self.tuned_for, kernel, block)
