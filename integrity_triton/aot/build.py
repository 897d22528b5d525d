"""Building the kernels that ship in the package."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..backends.opencl.prebuilt import FORMAT, LOCK, Specialization, file_name, folder, source_digest
from .compiling import INTEL_COMPILER, CompileError, Target, compile_all, prebuilt_specializations, sidecar

# A kernel's variants repeat each other; no archive is much larger than the window. A reader needs as much
# memory as the window is large.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 20}]


def builder_digest() -> str:
    """A digest of the compiler's name and of the code that calls it: what makes binaries from sources."""
    digest = hashlib.sha256(INTEL_COMPILER.encode())
    for name in ("spirv.py", "worker.py"):
        digest.update(Path(__file__).with_name(name).read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def pack(members: Mapping[str, bytes]) -> bytes:
    """A ``.tar.xz`` archive of ``members`` by name. It has no times and no owners, and its order is that of
    the names, so that equal members give equal archives (with one version of liblzma)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in sorted(members.items()):
            information = tarfile.TarInfo(name)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
    return lzma.compress(stream.getvalue(), filters=_FILTERS)


def _by_archive(wanted: Mapping[str, Specialization]) -> dict[str, dict[str, Specialization]]:
    """``wanted``, grouped by the archives that hold them."""
    archives: dict[str, dict[str, Specialization]] = {}
    for name, asked in wanted.items():
        archives.setdefault(asked.archive, {})[name] = asked
    return archives


def _references(variants: Mapping[str, Specialization]) -> list[str]:
    return sorted({reference for asked in variants.values() for reference in asked.references})


def _up_to_date(out: Path, wanted: Mapping[str, Mapping[str, Specialization]]) -> dict[str, Any]:
    """The entries of ``out``'s lock file whose archives a build would make again: they hold the same
    variants, the same builder made them from the same sources, and the files are those that were locked."""
    try:
        lock = json.loads((out / LOCK).read_text("utf-8"))
        if (lock["format"], lock["builder"]) != (FORMAT, builder_digest()):
            return {}
        entries: dict[str, Any] = lock["archives"]
        return {
            archive: entry
            for archive, entry in entries.items()
            if archive in wanted
            and entry["artifacts"].keys() == wanted[archive].keys()
            and entry["sources"] == source_digest(_references(wanted[archive]))
            and entry["archive"] == _file_digest(out / file_name(archive))
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def build(compiler: Path, out: Path | None = None, *, everything: bool = False) -> Iterator[str]:
    """Write every archive and the lock file to ``out``; yields lines that tell a person what was done.
    Archives that are up to date are kept, unless ``everything`` is true.

    Raises CompileError if a kernel does not compile, or if ``compiler`` holds another compiler than
    ``INTEL_COMPILER``.
    """
    out = folder() if out is None else out
    target = Target.parse("xpu")
    archives = _by_archive(prebuilt_specializations())
    out.mkdir(parents=True, exist_ok=True)
    entries = {} if everything else _up_to_date(out, archives)
    stale = {archive: variants for archive, variants in archives.items() if archive not in entries}
    wanted = {name: asked for variants in stale.values() for name, asked in variants.items()}
    yield f"{len(wanted)} kernels with {INTEL_COMPILER}; {len(entries)} archives are up to date"
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [Path(scratch, name) for name in wanted]
        results = compile_all(list(wanted.values()), target, outputs, compiler=compiler)
        binaries = [Path(f"{output}.spv").read_bytes() for output in outputs]
    members: dict[str, bytes] = {}
    for (name, asked), result, binary in zip(wanted.items(), results, binaries, strict=True):
        if result["compiler"] != INTEL_COMPILER:
            raise CompileError(
                f"{compiler} holds {result['compiler']}; artifacts are built with {INTEL_COMPILER}"
            )
        members[f"{name}.spv"] = binary
        members[f"{name}.json"] = (json.dumps(sidecar(asked, target, result), indent=1) + "\n").encode()
    for archive, variants in stale.items():
        packed = pack(
            {f"{name}.{end}": members[f"{name}.{end}"] for name in variants for end in ("spv", "json")}
        )
        (out / file_name(archive)).write_bytes(packed)
        entries[archive] = {
            "references": _references(variants),
            "sources": source_digest(_references(variants)),
            "archive": hashlib.sha256(packed).hexdigest(),
            "artifacts": {
                name: {
                    "binary": hashlib.sha256(members[f"{name}.spv"]).hexdigest(),
                    "sidecar": hashlib.sha256(members[f"{name}.json"]).hexdigest(),
                }
                for name in variants
            },
        }
        yield f"{archive}: {len(variants)} variants, {len(packed)} bytes"
    lock = {
        "format": FORMAT,
        "compiler": INTEL_COMPILER,
        "builder": builder_digest(),
        "archives": entries,
    }
    (out / LOCK).write_text(json.dumps(lock, indent=1, sort_keys=True) + "\n", "utf-8")
    kept = {file_name(archive) for archive in entries} | {LOCK}
    for path in out.iterdir():
        if path.name not in kept and path.suffix in (".json", ".xz"):
            path.unlink()
            yield f"removed {path.name}"
