"""The program that compiles kernels.

It runs in a process of its own, because Intel's backend comes with another Triton, which has the same module
name as the installed one and is found first through PYTHONPATH.

It reads a JSON list of jobs from standard input, as ``compiling.compile_all`` writes it, and prints one line
of JSON for each result.
"""

from __future__ import annotations

import json
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

# The properties that the compiler would ask the driver of a device for. They describe no particular product:
# integer kernels are the same for all devices that have sub-groups of 16 and 32. A job may name other values.
INTEL_DEVICE = {
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
    "has_subgroup_matrix_multiply_accumulate": False,
    "architecture": 0,
}


class _NoDeviceParser:
    """Replaces the helper that reads the architecture of a device, because that needs a SYCL compiler."""

    @staticmethod
    def parse_device_arch(_architecture: int) -> str:
        return ""


def _resolve(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def _intel(job: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    import triton

    compiler = triton.backends.backends["intel"].compiler
    compiler.__init__.__globals__["compile_module_from_src"] = lambda *_, **__: _NoDeviceParser
    return {**INTEL_DEVICE, **job["device"]}, {"threads_per_warp": job["target"][2]}


def compile_job(job: dict[str, Any]) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from integrity_triton.aot import spirv

    backend, architecture, warp = job["target"]
    intel = backend == "xpu"
    if ("intel" if intel else {"cuda": "nvidia", "hip": "amd"}[backend]) not in triton.backends.backends:
        raise SystemExit(
            f"Triton {triton.__version__} has no compiler for {backend}"
            + ("; --compiler FOLDER names the folder of one that has Intel's" if intel else "")
        )
    architecture, options = _intel(job) if intel else (architecture, {})
    kernel = _resolve(job["kernel"])
    types = dict(job["arguments"])
    constants = {k: _resolve(v) if isinstance(v, str) else v for k, v in job["constants"].items()}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    attributes = {}
    if job["pointer_alignment"] % 16 == 0:
        for i, name in enumerate(kernel.arg_names):
            if signature[name].startswith("*"):
                attributes[(i,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes),
        target=GPUTarget(backend, architecture, warp),
        options={"num_warps": job["num_warps"], **options},
    )
    entry, shared = compiled.metadata.name, compiled.metadata.shared
    if getattr(compiled.metadata, "global_scratch_size", 0):
        raise SystemExit(f"{entry} needs scratch memory, which sidecars do not describe")
    for kind, output in job["outputs"].items():
        binary = compiled.asm[kind]
        if kind == "spv" and job["portable"]:
            binary = spirv.without_masks(spirv.strip(binary), job["num_warps"] * warp)
            binary = spirv.with_vector_loads(binary)
        Path(output).write_bytes(binary.encode() if isinstance(binary, str) else binary)
    if intel:
        parameters = spirv.parameters(Path(job["outputs"]["spv"]).read_bytes(), entry)
        trailing = {"type": "local", "bytes": max(16, shared)}
    else:
        count = _ptx_parameters if backend == "cuda" else _amdgcn_parameters
        parameters = count(compiled.asm["ptx" if backend == "cuda" else "amdgcn"], entry)
        trailing = {"type": "null"}
    return {
        "entry": entry,
        "shared": shared,
        # Intel's compiler takes the size of sub-groups that the matrix units need.
        "threads_per_warp": compiled.metadata.threads_per_warp if intel else warp,
        "arguments": [[name, types[name]] for name in kernel.arg_names if name in types],
        "trailing_arguments": [trailing] * (parameters - len(types)),
        "compiler": f"{'triton-xpu' if intel else 'triton'} {triton.__version__}",
    }


def _ptx_parameters(text: str, entry: str) -> int:
    found = re.search(rf"\.entry\s+{entry}\s*\((.*?)\)", text, re.DOTALL)
    if found is None:
        raise SystemExit(f"the PTX has no entry {entry}")
    return len(re.findall(r"\.param\b", found[1]))


def _amdgcn_parameters(text: str, entry: str) -> int:
    """The number of arguments in the metadata of the kernel (LLVM's AMDGPU code object), without hidden
    ones."""
    found = re.search(r"\.amdgpu_metadata(.*?)\.end_amdgpu_metadata", text, re.DOTALL)
    if found is None or entry not in found[1]:
        raise SystemExit(f"the assembly has no metadata of {entry}")
    return len(re.findall(r"\.value_kind:\s*(?!hidden_)\w+", found[1]))


def main() -> None:
    with os.fdopen(os.dup(1), "w") as results:
        os.dup2(2, 1)  # modules and compilers that print do not write among the results
        for job in json.load(sys.stdin):
            print(json.dumps(compile_job(job)), file=results, flush=True)


if __name__ == "__main__":
    main()
