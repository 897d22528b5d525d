"""AMD GPUs, through torch's ROCm build, in which the device type is "cuda" as well."""

from __future__ import annotations

from functools import cached_property

from ..launching.launch import tuned
from .jit import JitBackend


def wavefront_tuning(threads: int) -> str:
    """The name under which ``tuning.json`` has the configurations for GPUs whose wavefronts have so many
    threads: 64 in the CDNA family and 32 in the RDNA family, where the configurations of CDNA would give each
    thread two lanes and so twice the registers."""
    return "hip:wave32" if threads == 32 else "hip"


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

        A machine that has GPUs of several kinds gets the configurations of CDNA, which run on all.
        """
        import torch

        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        kinds = {wavefront_tuning(device.warp_size) for device in devices}
        return kinds.pop() if len(kinds) == 1 else "hip"

    def tuned(self, kernel: str, block: str | None = None) -> dict[str, int]:
        return tuned(self.tuned_for, kernel, block)
