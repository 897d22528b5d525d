"""Building the kernels that ship in the package."""

from __future__ import annotations

import hashlib
import json
import lzma
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..backends.opencl.prebuilt import FORMAT, LOCK, Specialization, folder, source_digest
from .compiling import INTEL_COMPILER, CompileError, Target, compile_all, sidecar, specializations


def builder_digest() -> str:
    """A digest of what makes a binary out of device files: the compiler's name, and how it is used."""
    digest = hashlib.sha256(INTEL_COMPILER.encode())
    for name in ("spirv.py", "worker.py"):
        digest.update(Path(__file__).with_name(name).read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def _up_to_date(out: Path, wanted: Mapping[str, Specialization]) -> dict[str, Any]:
    """The entries of ``out``'s lock whose artifacts building would give again: the same builder made them
    from the same sources, and both files are what was locked."""
    try:
        lock = json.loads((out / LOCK).read_text("utf-8"))
        if (lock["format"], lock["builder"]) != (FORMAT, builder_digest()):
            return {}
        entries: dict[str, Any] = lock["artifacts"]
        return {
            name: entry
            for name, entry in entries.items()
            if name in wanted
            and entry["sources"] == source_digest(wanted[name].references)
            and entry["sidecar"] == hashlib.sha256((out / f"{name}.json").read_bytes()).hexdigest()
            and entry["binary"] == hashlib.sha256((out / f"{name}.spv.xz").read_bytes()).hexdigest()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def build(compiler: Path, out: Path | None = None, *, everything: bool = False) -> Iterator[str]:
    """Write every artifact and the lock file to ``out``; yields what was done, for a person to read. Without
    ``everything``, those are kept that building would give again.

    Raises CompileError if a kernel does not compile, or the compiler is not the one asked for.
    """
    out = folder() if out is None else out
    target = Target.parse("xpu")
    asked_for = specializations(target=target)
    out.mkdir(parents=True, exist_ok=True)
    entries = {} if everything else _up_to_date(out, asked_for)
    wanted = {name: asked for name, asked in asked_for.items() if name not in entries}
    yield f"{len(wanted)} kernels with {INTEL_COMPILER}; {len(entries)} are up to date"
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [Path(scratch, name) for name in wanted]
        results = compile_all(list(wanted.values()), target, outputs, compiler=compiler)
        binaries = [Path(f"{output}.spv").read_bytes() for output in outputs]
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
        {
            "format": FORMAT,
            "compiler": INTEL_COMPILER,
            "builder": builder_digest(),
            "artifacts": entries,
        },
        indent=1,
        sort_keys=True,
    )
    (out / LOCK).write_text(text + "\n", "utf-8")
    kept = {f"{name}{end}" for name in entries for end in (".json", ".spv.xz")} | {LOCK}
    for path in out.iterdir():
        if path.name not in kept and path.suffix in (".json", ".xz"):
            path.unlink()
            yield f"removed {path.name}"
