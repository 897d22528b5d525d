"""Building the kernels that ship in the package."""

from __future__ import annotations

import hashlib
import json
import lzma
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..backends.prebuilt import FORMAT, LOCK, folder, source_digest
from .compiling import INTEL_COMPILER, CompileError, Target, compile_all, sidecar, specializations


def build(compiler: Path, out: Path | None = None) -> Iterator[str]:
    """Write every artifact and the lock file to ``out``; yields what was done, for a person to read.

    Raises CompileError if a kernel does not compile, or the compiler is not the one asked for.
    """
    out = folder() if out is None else out
    target = Target.parse("xpu")
    wanted = specializations(target=target)
    out.mkdir(parents=True, exist_ok=True)
    yield f"{len(wanted)} kernels with {INTEL_COMPILER}"
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [Path(scratch, name) for name in wanted]
        results = compile_all(list(wanted.values()), target, outputs, compiler=compiler)
        binaries = [Path(f"{output}.spv").read_bytes() for output in outputs]
    entries = {}
    for (name, asked), result, binary in zip(wanted.items(), results, binaries, strict=True):
        if result["compiler"] != INTEL_COMPILER:
            raise CompileError(
                f"{compiler} holds {result['compiler']}; artifacts are built with {INTEL_COMPILER}"
            )
        packed = lzma.compress(binary, preset=9 | lzma.PRESET_EXTREME)
        described = (json.dumps(sidecar(asked, target, result), indent=1) + "\n").encode()
        (out / f"{name}.json").write_bytes(described)
        (out / f"{name}.spv.xz").write_bytes(packed)
        entries[name] = {
            "references": sorted(asked.references),
            "sources": source_digest(asked.references),
            "sidecar": hashlib.sha256(described).hexdigest(),
            "binary": hashlib.sha256(packed).hexdigest(),
        }
        yield f"{name}: {len(binary)} bytes of SPIR-V, {len(packed)} packed"
    text = json.dumps(
        {"format": FORMAT, "compiler": INTEL_COMPILER, "artifacts": entries}, indent=1, sort_keys=True
    )
    (out / LOCK).write_text(text + "\n", "utf-8")
    kept = {f"{name}{end}" for name in entries for end in (".json", ".spv.xz")} | {LOCK}
    for path in out.iterdir():
        if path.name not in kept and path.suffix in (".json", ".xz"):
            path.unlink()
            yield f"removed {path.name}"
