"""Compiles one kernel to SPIR-V. A program of its own: the Triton that does so bears the name of the
installed one, and is found before it through PYTHONPATH.

Reads a JSON job from standard input, a list ``[job, ...]`` of kernel, constants, argument types,
num_warps, whether there are matrix units, and the file to write; prints one JSON result a line.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

# What the compiler would ask a device's driver for. Nothing here is of one product: integer kernels
# are the same for all that have sub-groups of 32.
DEVICE = {
    "name": "generic",
    "platform_name": None,
    "vendor": "Intel",
    "version": "",
    "gpu_eu_count": 512,
    "gpu_subslice_count": 64,
    "max_work_group_size": 1024,
    "max_num_sub_groups": 64,
    "sub_group_sizes": [16, 32],
    "has_fp64": True,
    "has_subgroup_2d_block_io": False,
    "has_bfloat16_conversions": True,
    "architecture": 0,
}


class _NoDeviceParser:
    """Stands for the helper that reads a device's architecture, which needs a SYCL compiler."""

    @staticmethod
    def parse_device_arch(_architecture: int) -> str:
        return ""


def _resolve(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def compile_job(job: dict[str, Any]) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from integrity_triton.aot import spirv

    compiler = triton.backends.backends["intel"].compiler
    compiler.__init__.__globals__["compile_module_from_src"] = lambda *_, **__: _NoDeviceParser
    kernel = _resolve(job["kernel"])
    types = dict(job["arguments"])
    constants = {k: _resolve(v) if isinstance(v, str) else v for k, v in job["constants"].items()}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    device = {**DEVICE, "has_subgroup_matrix_multiply_accumulate": job["matrix"]}
    compiled = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants),
        target=GPUTarget("xpu", device, 32),
        options={"num_warps": job["num_warps"], "threads_per_warp": 32},
    )
    Path(job["output"]).write_bytes(spirv.strip(compiled.asm["spv"]))
    return {
        "entry": compiled.metadata.name,
        "shared": compiled.metadata.shared,
        "arguments": [[name, types[name]] for name in kernel.arg_names if name in types],
        "compiler": f"triton-xpu {triton.__version__}",
    }


def main() -> None:
    for job in json.load(sys.stdin):
        print(json.dumps(compile_job(job)), flush=True)


if __name__ == "__main__":
    main()
