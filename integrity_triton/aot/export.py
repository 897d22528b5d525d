"""Exporting kernels for programs that have neither Python nor Triton."""

from __future__ import annotations

import errno
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..algorithms import Algorithm
from ..backends.opencl import prebuilt
from ..backends.opencl.prebuilt import Specialization
from ..output_files import check_output_file, write_file
from .compiling import PORTABLE, Target, compile_all, sidecar, specializations


@dataclass(frozen=True)
class Exported:
    name: str
    files: tuple[Path, ...]
    """The sidecar is the last of them."""
    sidecar: Mapping[str, Any]


def variants(
    algorithm: Algorithm, target: Target, *, kernel: str | None = None, where: Mapping[str, str] | None = None
) -> dict[str, Specialization]:
    """The kernels that are launched for ``algorithm`` on ``target``, by the names of their artifacts.

    ``kernel`` selects those with this function's name. ``where`` selects those whose compile-time constants
    have the given values, which are compared as text. Raises ValueError if none is left, or if no kernel runs
    the algorithm.
    """
    found = specializations([algorithm], target)
    if not found:
        raise ValueError(f"no kernel runs {algorithm.name}")
    kernels = {_short(asked.kernel) for asked in found.values()}
    if kernel is not None and kernel not in kernels:
        raise ValueError(f"{algorithm.name} has no kernel {kernel!r} (it has {', '.join(sorted(kernels))})")
    found = {n: a for n, a in found.items() if kernel in (None, _short(a.kernel))}
    constants = {constant for asked in found.values() for constant in asked.constants}
    for constant, text in (where or {}).items():
        if constant not in constants:
            raise ValueError(f"no constant {constant!r} (there are {', '.join(sorted(constants))})")
        found = {n: a for n, a in found.items() if _text(a.constants.get(constant)) == text.lower()}
    if not found:
        wanted = ", ".join(f"{constant}={text}" for constant, text in (where or {}).items())
        raise ValueError(f"no kernel of {algorithm.name} for {target.name} has {wanted}")
    return found


def describe(asked: Specialization) -> str:
    """The name and the constants of a kernel, on one line."""
    constants = " ".join(f"{k}={_text(v)}" for k, v in asked.constants.items())
    options = {
        "num_warps": asked.num_warps,
        "threads_per_warp": asked.threads_per_warp,
        "grf_mode": asked.grf_mode,
    }
    chosen = " ".join(f"{name}={value}" for name, value in options.items() if value is not None)
    return f"{_short(asked.kernel)} {constants} {chosen}"


def export(
    wanted: Mapping[str, Specialization], target: Target, out: Path, *, compiler: Path | None = None
) -> list[Exported]:
    """Write the binaries and the JSON sidecar of each kernel to the folder ``out``, which is made if it does
    not exist.

    For ``xpu`` and ``xpu:avx512``, the prebuilt kernels are written, unless ``compiler`` is a folder that
    holds a Triton with Intel's backend. Raises CompileError if a kernel does not compile, and
    BackendUnavailable if a prebuilt kernel is missing, altered or stale. Raises OSError, before anything is
    compiled, if the folder or a file in it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "this is a file, and a folder is needed", str(out)) from None
    stems = {name: out / f"{name}.{target.name.replace(':', '-')}" for name in wanted}
    files = {
        name: tuple(_path(stem, kind) for kind in (*target.binaries, "json")) for name, stem in stems.items()
    }
    for path in itertools.chain(*files.values()):
        check_output_file(path)
    exported = []
    for (name, paths), (binaries, described) in zip(
        files.items(), _made(wanted, target, compiler), strict=True
    ):
        contents = *binaries, (json.dumps(described, indent=1) + "\n").encode()
        for path, content in zip(paths, contents, strict=True):
            write_file(path, content)
        exported.append(Exported(name, paths, described))
    return exported


def _made(
    wanted: Mapping[str, Specialization], target: Target, compiler: Path | None
) -> Iterator[tuple[list[bytes], dict[str, Any]]]:
    """The binaries of each kernel, in the order of ``target.binaries``, and its sidecar."""
    if target.name in PORTABLE and compiler is None:
        for name in wanted:
            artifact = prebuilt.load(name)
            yield [artifact.binary], dict(artifact.sidecar)
        return
    with tempfile.TemporaryDirectory() as scratch:
        stems = [Path(scratch, name) for name in wanted]
        results = compile_all(list(wanted.values()), target, stems, compiler=compiler)
        for asked, stem, result in zip(wanted.values(), stems, results, strict=True):
            binaries = [_path(stem, kind).read_bytes() for kind in target.binaries]
            yield binaries, sidecar(asked, target, result)


def _path(stem: Path, kind: str) -> Path:
    return Path(f"{stem}.{kind}")


def _short(reference: str) -> str:
    return reference.partition(":")[2]


def _text(value: Any) -> str:
    return (_short(value) if isinstance(value, str) else str(value)).lower()
