"""Loads two builds of .ci/kernel_hub.py with Hugging Face's ``kernels`` in one process, in which nothing else
can find this package: ``python -I kernel_hub_process.py KERNELS FIRST SECOND OTHER_PACKAGE``.

It prints what it found as JSON. ``test_kernel_hub_loading.py`` starts it, and compares the digests with those
of hashlib.
"""

from __future__ import annotations

import io
import json
import os
import pkgutil
import sys
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


class _NotInstalled:
    """Stands before the finders of an installation of the package, editable or not."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "integrity_triton":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, _NotInstalled())
kernels, first, second, other_package = (Path(argument) for argument in sys.argv[1:])
sys.path.insert(0, str(kernels))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LOCAL_KERNELS"] = f"someone/integrity-triton={second}"
sys.path.append(str(other_package))  # it has entry points, which have to be ignored, and a vendored copy

import torch  # noqa: E402
import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from kernels._rust import Digest, DigestAlgorithm, Metadata  # noqa: E402
from kernels.backends import CPU, CUDA, XPU, ROCm  # noqa: E402
from kernels.cli.info import print_kernel_info  # noqa: E402
from kernels.variants import _resolve_variant_for_system, get_variants_local  # noqa: E402
from packaging.version import Version  # noqa: E402

from kernels import get_kernel, get_loaded_kernels, get_local_kernel  # noqa: E402

found: dict[str, object] = {}

# What kernels reads of a build without loading it.
found["valid"] = []
for metadata_file in sorted(first.glob("build/*/metadata.json")):
    metadata = Metadata.read_from_file(metadata_file)
    metadata.digest.validate(Digest.hash_variant(DigestAlgorithm.SHA256, metadata_file.parent))
    found["valid"].append([metadata_file.parent.name, str(metadata.backend.backend_type), metadata.id])
printed = io.StringIO()
with redirect_stdout(printed):
    print_kernel_info(str(first), json_output=True)
found["info"] = json.loads(printed.getvalue())
found["chosen"] = {
    backend.name: [
        v.variant_str
        for v in _resolve_variant_for_system(
            get_variants_local(first / "build"), backend, "x86_64", "linux", Version("2.9"), True, None
        )[0]
    ]
    for backend in (CPU(), CUDA(Version("12.8")), ROCm(Version("7.0")), XPU(Version("2025.3")))
}

# Loading needs nothing but the standard library.
before = set(sys.modules)
one = get_local_kernel(first)
found["imported"] = sorted(
    {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names - {one.__name__}
)
two = get_kernel("someone/integrity-triton", version=9)
copies = [one, two]
found["names"] = [copy.__name__ for copy in copies]
found["versions"] = [copy.__version__ for copy in copies]
found["markers"] = [getattr(copy, "MARKER", None) for copy in copies]
found["folders"] = [str(Path(copy.__file__).parent) for copy in copies]
found["loaded"] = [loaded.metadata.id for loaded in get_loaded_kernels()]

rows = (torch.arange(12 * 200) % 251).to(torch.uint8).reshape(12, 200)
found["rows"] = [bytes(row.tolist()).hex() for row in rows]


def digests(result: torch.Tensor) -> list[str]:
    return [bytes(row.tolist()).hex() for row in result]


found["available"] = [status.name for status in one.backends() if status.available]
found["batches"] = {
    f"{copy.__name__} {backend} {algorithm}": digests(copy.hash_batch(rows, algorithm, backend=backend))
    for copy in copies
    for backend in ("native", "opencl")
    if backend in found["available"]
    for algorithm in ("sha256", "sha3_256", "blake2b")
}
found["hashers"] = [copy.sha256(b"abc").hexdigest() for copy in copies]
found["constructors"] = [copy.sha256.__module__ for copy in copies]

# The torch operators of each, called by name and found by torch.compile.
for copy in copies:
    import_module(f"{copy.__name__}.ops")
found["operators"] = [digests(getattr(torch.ops, copy.__name__).hash_rows(rows, "sha256")) for copy in copies]
found["compiled"] = []
for copy in copies:
    graphs = []

    def remember(graph, inputs, graphs=graphs):
        graphs.append({str(node.target) for node in graph.graph.nodes if node.op == "call_function"})
        return graph.forward

    compiled = torch.compile(
        lambda x, copy=copy: copy.hash_batch(x, "sha256"), backend=remember, fullgraph=True
    )
    found["compiled"].append([digests(compiled(rows)), sorted(set().union(*graphs))])
found["installed_operators"] = dir(torch.ops.integrity_triton)

# An exception of one copy is not one of the other. Both hold one lock while they change triton.language.
found["errors_differ"] = one.IntegrityError is not two.IntegrityError
locks = [import_module(f"{copy.__name__}.backends.interpreter.language").language_lock for copy in copies]
found["one_lock"] = locks[0] is locks[1]

# A kernel of one's own calls a device function of each copy. It is compiled for sm_90, and executed by the
# emulator that is in the package.


def kernel_with(sha256_compress, SHA256_IV):
    @triton.jit
    def hash_blocks(blocks_ptr, state_ptr, count, LANES: tl.constexpr):
        lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
        mask = lane < count
        zero = tl.full((LANES,), 0, tl.uint32)
        state = ()
        words = ()
        for i in tl.static_range(8):
            state = state + (zero + SHA256_IV[i],)  # noqa: RUF005  (Triton has no unpacking)
        for i in tl.static_range(16):
            words = words + (tl.load(blocks_ptr + lane * 16 + i, mask=mask, other=0),)  # noqa: RUF005
        state = sha256_compress(state, words)
        for i in tl.static_range(8):
            tl.store(state_ptr + lane * 8 + i, state[i], mask=mask)

    return hash_blocks


padded = [bytes(row[:55].tolist()) + b"\x80" + (55 * 8).to_bytes(8, "big") for row in rows]
blocks = torch.tensor(
    [[int.from_bytes(block[i : i + 4], "big") for i in range(0, 64, 4)] for block in padded]
).to(torch.uint32)
found["device_functions"] = []
for copy in copies:
    sha2 = import_module(f"{copy.__name__}.kernels.sha2")
    kernel = kernel_with(sha2.sha256_compress, sha2.SHA256_IV)
    state = torch.zeros((len(padded), 8), dtype=torch.uint32)
    with copy.emulated("ptx", target="sm_90") as coverage:
        kernel[(1,)](blocks, state, len(padded), LANES=32)
    hashed = [b"".join(word.to_bytes(4, "big") for word in row).hex() for row in state.tolist()]
    executed = [executed.name.split()[0] for executed in coverage.kernels()]
    found["device_functions"].append([executed, sha2.__file__, hashed])

# Every module can be imported, but for packages that are not here; none asks for an installed package.
found["failed"] = []
for copy in copies:
    for module in pkgutil.walk_packages(copy.__path__, f"{copy.__name__}."):
        if module.name.startswith(f"{copy.__name__}.integrity_triton"):
            continue
        try:
            import_module(module.name)
        except ImportError as error:
            if (error.name or "").partition(".")[0] in ("", "integrity_triton", copy.__name__):
                found["failed"].append(f"{module.name}: {error}")
found["algorithms"] = sorted(one.algorithms_available)
found["entry_point_was_loaded"] = "a_package_with_entry_points" in sys.modules
found["files"] = sorted({str(getattr(m, "__file__", None)) for m in list(sys.modules.values())})

# Older versions of kernels load the folder inside the variant, under a name of their own. This variant is new
# to the process.
older_file = first / "build" / "torch-cuda" / "integrity_triton" / "__init__.py"
spec = spec_from_file_location("integrity_triton_older", older_file)
older = module_from_spec(spec)
spec.loader.exec_module(older)
found["older"] = [older.sha256(b"abc").hexdigest(), older.__version__, older.IntegrityError.__module__]
found["older"].append("hash_batch" in older.__all__ and "hash_batch" in dir(older))

# A project that keeps a copy inside itself imports it under a name with dots.
vendored = import_module("theirs.vendor.integrity_triton")
operators = import_module("theirs.vendor.integrity_triton.ops").OPERATORS
found["vendored"] = [operators, digests(getattr(torch.ops, operators).hash_rows(rows, "sha256"))]

# The examples of the card run. The name of the repository in them stands for the second version.
given = {"model": torch.nn.Linear(30, 20), "key": bytes(32)}
for example in (second / "build" / "CARD.md").read_text("utf-8").split("```python\n")[1:]:
    exec(example.partition("```")[0], given)
parameters = [bytes(parameter.detach().numpy()).hex() for parameter in given["model"].parameters()]
own = import_module(f"{two.__name__}.kernels.sha2")
found["card"] = [digests(given["digests"]), parameters, given["sha2"] is own]

json.dump(found, sys.stdout)
