"""Other projects' digests of weights, beside their own code on the CPU: ``python -m bench.integrations``

The state is a module with the parameters of ``--layers`` layers of a small transformer, 7.1 MB each. Each row
is one comparison: the medians of ``--runs`` alternating runs of both, on this machine's CPU, and how many
times as fast as the project's own code ours is. That code is loaded from where the tests have it
(``tests/integrations/requirements-large.txt``); where a project is not on a package index (slime), it is the
library call that it makes.

On an accelerator nothing is measured here: there, the project's code copies each weight to the host first.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import statistics
import sys
import time
import types
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import integrity_triton as it
from bench import environment
from integrity_triton.integrations import megatron, sglang, slime, tensorizer, torch_hash, vllm

OTHERS = Path(
    os.environ.get("INTEGRITY_TRITON_OTHER_PROJECTS") or environment.ROOT / ".venv-test/other-projects"
)


def model(layers: int) -> torch.nn.Module:
    """Layers of a small transformer: matrices of 384 and 1536 rows, vectors of 384 elements."""
    layer = [torch.nn.Linear(384, 384) for _ in range(4)]
    layer += [torch.nn.Linear(384, 1536), torch.nn.Linear(1536, 384)]
    whole = torch.nn.Sequential()
    for _ in range(layers):
        for part in layer:
            whole.append(type(part)(part.in_features, part.out_features))
    return whole.requires_grad_(False)


def vllm_function() -> Callable[[torch.nn.Module], dict[str, str]] | None:
    """vLLM's own function, from its file, with a class in the place of its kind of parameter."""
    found = sorted(OTHERS.glob("vllm==*/vllm/model_executor/model_loader/weight_checksum.py"))
    if not found:
        return None
    for name in ("vllm", "vllm.model_executor", "vllm.model_executor.parameter"):
        sys.modules.setdefault(name, types.ModuleType(name))
    vars(sys.modules["vllm.model_executor.parameter"])["SharedWeightParameter"] = type("None_", (), {})
    spec = importlib.util.spec_from_file_location("weight_checksum", found[-1])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[[torch.nn.Module], dict[str, str]] = module.compute_tensor_digests
    return function


def sha256_64(weights: torch.nn.Module) -> dict[str, str]:
    """What SGLang computes of tensors that are not on CUDA."""
    return {
        name: hashlib.sha256(x.reshape(-1).view(torch.uint8).numpy().data).hexdigest()[:16]
        for name, x in weights.named_parameters()
    }


def libraries(name: str) -> Callable[[torch.nn.Module], dict[str, str]]:
    """What slime computes: one library call for each tensor."""
    import blake3
    import xxhash

    digest: dict[str, Callable[[Any], str]] = {
        "xxh3-128": lambda data: str(xxhash.xxh3_128(data).hexdigest()),
        "blake3": lambda data: str(blake3.blake3(data).hexdigest()),
        "adler32": lambda data: f"{zlib.adler32(data):08x}",
    }
    return lambda weights: {
        key: digest[name](x.reshape(-1).view(torch.uint8).numpy()) for key, x in weights.named_parameters()
    }


def float32_sha1(weights: torch.nn.Module) -> list[bytes]:
    """What Megatron-LM computes of each parameter, by its function's expression."""
    return [
        hashlib.sha1(x.data.to("cpu").float().numpy(force=True).data).digest()
        for _, x in weights.named_parameters()
    ]


def crc32_and_sha256(state: Mapping[str, torch.Tensor]) -> list[tuple[int, bytes]]:
    """The library calls that tensorizer makes for the data of each tensor, without its threads."""
    raw = [x.reshape(-1).view(torch.uint8).numpy().data for x in state.values()]
    return [(zlib.crc32(data), hashlib.sha256(data).digest()) for data in raw]


def each(call: Callable[[torch.Tensor], Any], state: Mapping[str, torch.Tensor]) -> list[Any]:
    return [call(x) for x in state.values()]


def comparisons(weights: torch.nn.Module) -> Iterator[tuple[str, str, Callable[[], Any], Callable[[], Any]]]:
    """For each row: what is compared, how it runs here, the project's function, and ours."""
    state = dict(weights.named_parameters())
    theirs = vllm_function()
    available = {status.name for status in it.backends() if status.available}
    for backend in ("native", "opencl"):
        if backend not in available:
            print(f"absent: {backend}")
            continue
        if theirs is None:
            print(f"absent: vllm is not in {OTHERS}")
        else:
            for name in ("sha256", "blake3"):
                ours = partial(vllm.compute_tensor_digests, weights, algorithm=name, backend=backend)
                yield f"vLLM's digests, by SHA-256 -> {name}", backend, partial(theirs, weights), ours
        for name in ("xxh3-128", "blake3"):
            ours = partial(slime.checksums, state, name, backend=backend)
            yield f"slime's {name} -> the same", backend, partial(libraries(name), weights), ours
        yield (
            "Megatron-LM's SHA-1 of float32 -> the same",
            backend,
            partial(float32_sha1, weights),
            partial(megatron.param_hashes, weights, backend=backend),
        )
        yield (
            "Megatron-LM's SHA-1 of float32 -> blake3",
            backend,
            partial(float32_sha1, weights),
            partial(megatron.param_hashes, weights, "blake3", own_bytes=True, backend=backend),
        )
        yield (
            "tensorizer's CRC-32 and SHA-256 -> the same",
            backend,
            partial(crc32_and_sha256, state),
            partial(tensorizer.tensor_hashes, state, backend=backend),
        )
        yield (
            "torch.hash_tensor -> hash_tensor, BLAKE3",
            backend,
            partial(each, torch.hash_tensor, state),
            partial(each, partial(torch_hash.hash_tensor, backend=backend), state),
        )
    yield (
        "slime's adler32 -> the sums for other devices",
        "torch",
        partial(libraries("adler32"), weights),
        lambda: [slime._adler32_of(x.reshape(-1).view(torch.uint8)) for x in state.values()],
    )
    yield (
        "SGLang's hash of CPU tensors, SHA-256 -> gpu_tensor_hash",
        "torch",
        lambda: sha256_64(weights),
        lambda: sglang.model_checksums(weights),
    )
    yield (
        "SGLang's hash of CPU tensors, SHA-256 -> blake3",
        "native",
        lambda: sha256_64(weights),
        lambda: sglang.model_checksums(weights, algorithm="blake3", backend="native"),
    )


def ratio(theirs: Callable[[], Any], ours: Callable[[], Any], runs: int) -> tuple[float, float]:
    """The median seconds of both, from alternating runs after one that is not measured."""
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(runs + 1):
        for call, seconds in zip((theirs, ours), times, strict=True):
            start = time.perf_counter()
            call()
            if run:
                seconds.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=16, help="the default is 114 MB")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    weights = model(options.layers)
    size = sum(x.nbytes for x in weights.parameters())
    about = environment.machine()
    print(f"{size / 1e6:.0f} MB in {len(list(weights.parameters()))} tensors, {options.runs} runs")
    for key in ("processor", "processors", "processor instructions", "torch"):
        print(f"{key}: {about.get(key)}")
    print("| what | runs on | its own code, GB/s | ours, GB/s | times as fast |")
    print("| --- | --- | ---: | ---: | ---: |")
    for what, where, theirs, ours in comparisons(weights):
        before, after = ratio(theirs, ours, options.runs)
        speeds = f"{size / before / 1e9:.2f} | {size / after / 1e9:.2f} | {before / after:.2f}"
        print(f"| {what} | {where} | {speeds} |", flush=True)


if __name__ == "__main__":
    main()
