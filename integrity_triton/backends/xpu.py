"""Intel GPUs, through torch's XPU device."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from ..launching.launch import tuned
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

    @cached_property
    def tuned_for(self) -> str:
        """The name under which ``tuning.json`` has the configurations for this machine's GPUs.

        Registers have 32 bytes in the GPUs with sub-groups of 8, and 64 bytes in the others. A configuration
        that suits one kind may spill registers on the other kind, or not run there at all. A machine that has
        GPUs of both kinds gets the configurations that run on every Intel GPU.
        """
        import torch

        devices = [torch.xpu.get_device_properties(i) for i in range(torch.xpu.device_count())]
        sizes = [getattr(device, "sub_group_sizes", ()) for device in devices]
        if not sizes or not all(sizes):
            return "xpu"
        if all(8 in of_device for of_device in sizes):
            return "xpu:acm-g10"
        return "xpu" if any(8 in of_device for of_device in sizes) else "xpu:pvc"

    def tuned(self, kernel: str, block: str | None = None) -> dict[str, int]:
        return tuned(self.tuned_for, kernel, block)

    def compiler_options(self, options: Mapping[str, int]) -> dict[str, Any]:
        from triton.backends import backends

        compiler = backends["intel"].compiler
        found: dict[str, Any] = dict(options)
        # The names are those of triton-xpu 3.3. Later versions renamed first one, then the other.
        # Triton loads the compiler's module without entering it in sys.modules.
        if "warp_size" in compiler.parse_options.__globals__["XPUOptions"].__dataclass_fields__:
            found["warp_size"] = found.pop("threads_per_warp")
        if "grf_mode" in found:
            by_number = "'256'" in inspect.getsource(compiler.make_spv)
            found["grf_mode"] = str(found["grf_mode"]) if by_number else _GRF_MODES[found["grf_mode"]]
        return found


_GRF_MODES = {128: "small", 256: "large"}
