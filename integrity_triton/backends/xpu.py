"""Intel GPUs, through torch's XPU device."""

from __future__ import annotations

from .jit import JitBackend


class XpuBackend(JitBackend):
    name = "xpu"
    summary = "Intel GPUs: the kernels compiled by Triton's Intel backend"
    device_types = ("xpu",)
    torch_device_type = "xpu"
    device_kind = "Intel GPU"

    def unfit(self) -> str | None:
        import torch
        import triton

        if not hasattr(torch, "xpu"):
            # Such a torch gets its XPU device only from the extension.
            try:
                import intel_extension_for_pytorch  # noqa: F401
            except ImportError:
                return (
                    f"torch {torch.__version__} has no XPU support; install a newer torch, "
                    "or integrity-triton[ipex]"
                )
        if not torch.xpu.is_available():
            return "torch finds no usable Intel GPU, or is built without XPU support"
        if "intel" not in getattr(triton.backends, "backends", {}):
            return "this Triton has no Intel backend; install the one made for torch's XPU build"
        return None
