"""Intel GPUs, through torch's XPU device."""

from __future__ import annotations

from .base import Probe
from .jit import JitBackend


class XpuBackend(JitBackend):
    name = "xpu"
    summary = "Intel GPUs: the kernels compiled by Triton's Intel backend"
    device_types = ("xpu",)
    torch_device_type = "xpu"

    def probe(self) -> Probe:
        try:
            import torch
            import triton
        except ImportError as error:
            return Probe(False, f"{error.name} cannot be imported; pip install {error.name}")
        if not hasattr(torch, "xpu"):
            # torch before 2.4 has its XPU device from the extension alone.
            try:
                import intel_extension_for_pytorch  # noqa: F401
            except ImportError:
                return Probe(
                    False,
                    f"torch {torch.__version__} has no XPU support; install a newer torch, "
                    "or integrity-triton[ipex]",
                )
        if not torch.xpu.is_available():
            return Probe(False, "torch finds no usable Intel GPU, or is built without XPU support")
        if "intel" not in getattr(triton.backends, "backends", {}):
            return Probe(
                False, "this Triton has no Intel backend; install the one made for torch's XPU build"
            )
        names = tuple(f"xpu:{i} {torch.xpu.get_device_name(i)}" for i in range(torch.xpu.device_count()))
        return Probe(True, f"torch {torch.__version__}, Triton {triton.__version__}", names)
