#!/usr/bin/env python3
"""Builds the repository that Hugging Face's Kernel Hub serves, from the files that are installed.

    python3 .ci/kernel_hub.py [FOLDER] [--repository OWNER/NAME]     # build/kernel_hub, if no folder is given

FOLDER gets ``build/torch-cpu``, ``build/torch-cuda``, ``build/torch-rocm`` and ``build/torch-xpu``, which are
the variants of a kernel without compiled extensions, and ``build/CARD.md``. The layout and the metadata are
those that ``kernels`` 0.17.2 reads (``kernels/importer.py``, ``kernels/variants.py``) and that the page
"Kernel requirements" of its documentation describes. No file is rewritten: the package can be imported from
any folder under any name (``integrity_triton/algorithms/package_name.py``). It is an error if a file imports
another one by its absolute name.

The bytes depend on the files alone. Needs Python's standard library, and ``tomli`` with Python 3.10.
"""

from __future__ import annotations

import argparse
import ast
import base64
import functools
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "integrity_triton"
NAME = "integrity-triton"
BACKENDS = ("cpu", "cuda", "rocm", "xpu")
"""The backends, in the spelling of ``kernels``, on which the package runs kernels of its own."""
LEFT_OUT = tuple(f"{PACKAGE}.{room}" for room in ("aot", "cli", "conformance"))
"""Rooms that start processes under the name of the installed package, or need packages that ``kernels`` does
not let a kernel depend on."""
LEFT_OUT_FILES = frozenset({"__main__.py"})
BACKENDS_ON_THE_CARD = ("cuda", "hip", "xpu", "opencl", "native")

_BY_NAME = frozenset({"__import__", "files", "find_spec", "import_module"})
"""Functions whose first argument is the name of a module that they find or import."""

_COMPATIBILITY = '''\
"""The package, for versions of ``kernels`` that look for it in a folder with its name."""

import importlib.util
import sys
from pathlib import Path

_NAME = "{id}"

if _NAME not in sys.modules:
    _spec = importlib.util.spec_from_file_location(_NAME, Path(__file__).parents[1] / "__init__.py")
    _module = sys.modules[_NAME] = importlib.util.module_from_spec(_spec)
    try:
        _spec.loader.exec_module(_module)
    except BaseException:
        del sys.modules[_NAME]
        raise

_package = sys.modules[_NAME]
__all__ = _package.__all__
__version__ = _package.__version__


def __getattr__(name):
    return getattr(_package, name)


def __dir__():
    return dir(_package)
'''

_CARD = """\
---
library_name: kernels
license: apache-2.0
tags:
- triton
- cryptography
- hash
- integrity
---

# {name} {version}

{count} hashes, MACs and checksums as Triton kernels that run where the data is, bit-exact with their
standards, and verification of model weights on top of them. Their security grades: {grades}.

```python
from kernels import get_kernel

it = get_kernel("{repository}", version={hub_version}, trust_remote_code=["{repository}"])

digests = it.hash_batch(list(model.parameters()), "blake3")   # uint8 [n, 32], on their device
tags = it.mac_tensors(model.state_dict(), key)                # key = os.urandom(32)
tags.verify(model.state_dict(), key)                          # raises, and names what differs
```

Device functions can be called in a Triton kernel of your own:

```python
from importlib import import_module

sha2 = import_module(f"{{it.__name__}}.kernels.sha2")         # sha2.sha256_compress, sha2.SHA256_IV
```

A kernel gives no digest before it has given known answers on its device, in each process; one that gives a
wrong answer raises `it.SelfTestError`.

## Backends

| name | runs on | checked by |
| --- | --- | --- |
{backends}

The variants {variants} hold the same code. The `opencl` backend needs the packages `pyopencl` and
`intel-opencl-rt`; without them, hashlib and other CPU libraries serve on CPUs.

## Algorithms

| name | standard | bytes | security |
| --- | --- | ---: | --- |
{algorithms}
"""


@functools.cache
def absolute_imports(source: bytes) -> list[int]:
    """The lines that import this package by its absolute name, which is another copy's or nobody's."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in _BY_NAME:
            names = [str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant)]
        else:
            continue
        found += [node.lineno for name in names if name.partition(".")[0] == PACKAGE]
    return found


def files(root: Path = ROOT) -> dict[str, bytes]:
    """The files of the package by their paths in it, as ``pyproject.toml`` lists what is installed.

    Raises SystemExit if one of them imports the package by its absolute name.
    """
    config = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    found: dict[str, bytes] = {}
    refused = []
    for package in config["packages"]:
        if package.startswith(LEFT_OUT):
            continue
        folder = root / config["package-dir"].get(package, package.replace(".", "/"))
        place = "/".join(package.split(".")[1:])
        for pattern in ("*.py", *config["package-data"].get(package, ())):
            for path in folder.glob(pattern):
                if path.name in LEFT_OUT_FILES:
                    continue
                data = found[f"{place}/{path.relative_to(folder).as_posix()}".lstrip("/")] = path.read_bytes()
                if path.suffix == ".py":
                    refused += [f"{path.relative_to(root).as_posix()}:{n}" for n in absolute_imports(data)]
    if refused:
        sys.exit(f"imports of {PACKAGE} by its absolute name; make them relative: {', '.join(refused)}")
    found["LICENSE"] = (root / "LICENSE").read_bytes()
    return dict(sorted(found.items()))


def digests(content: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each file in base64, as ``metadata.json`` has them."""
    return {
        name: base64.b64encode(hashlib.sha256(data).digest()).decode()
        for name, data in sorted(content.items())
    }


def variant(content: Mapping[str, bytes], backend: str, version: str) -> dict[str, bytes]:
    """The files of the variant for a backend. Its identifier, which is the name of the module and of the
    namespace of the torch operators in a process, has a digest of all its code, so that two versions share it
    only if they are the same."""
    digest = hashlib.sha256(json.dumps(digests(content)).encode()).hexdigest()
    identifier = f"_{PACKAGE}_{backend}_{digest[:10]}"
    built = {**content, f"{PACKAGE}/__init__.py": _COMPATIBILITY.format(id=identifier).encode()}
    metadata: dict[str, Any] = {
        "id": identifier,
        "name": NAME,
        "version": _hub_version(version),
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": backend},
        "digest": {"algorithm": "sha256", "files": digests(built)},
    }
    built["metadata.json"] = (json.dumps(metadata, indent=2) + "\n").encode()
    return built


def card(repository: str, version: str, root: Path = ROOT) -> str:
    """The text of the repository's card. What it says of algorithms comes from their records, and what it
    says of backends from the table in README.md."""
    from integrity_triton.algorithms import all_algorithms

    records = all_algorithms()
    grades = Counter(record.security.value for record in records)
    readme = (root / "README.md").read_text("utf-8").splitlines()
    starts = tuple(f"| `{name}` |" for name in BACKENDS_ON_THE_CARD)
    return _CARD.format(
        name=NAME,
        version=version,
        repository=repository,
        hub_version=_hub_version(version),
        count=len(records),
        grades=", ".join(f"{count} {grade}" for grade, count in grades.items()),
        variants=", ".join(f"`torch-{backend}`" for backend in BACKENDS),
        backends="\n".join(line for line in readme if line.startswith(starts)),
        algorithms="\n".join(
            f"| `{r.name}` | {r.standard} | {r.digest_size or 'any'} | {r.security.value} |" for r in records
        ),
    )


def _hub_version(version: str) -> int:
    """The version of the interface, which names a branch on the Hub: 0 before the package's first."""
    return int(version.partition(".")[0])


def build(target: Path, repository: str, root: Path = ROOT) -> dict[str, dict[str, bytes]]:
    """Write the repository to ``target`` and return the files of each variant. A former ``build`` there is
    replaced; SystemExit is raised if that is not one of ours."""
    content = files(root)
    version = str(ast.literal_eval(content["_version.py"].decode().partition("=")[2].strip()))
    variants = {f"torch-{backend}": variant(content, backend, version) for backend in BACKENDS}
    place = target / "build"
    if place.exists():
        if not (place / "CARD.md").is_file():
            sys.exit(f"{place} was not written by this program; choose another folder")
        shutil.rmtree(place)
    for name, built in variants.items():
        for path, data in built.items():
            file = place / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    (place / "CARD.md").write_text(card(repository, version, root), "utf-8")
    return variants


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the repository that the Kernel Hub serves.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "kernel_hub")
    parser.add_argument("--repository", default=f"OWNER/{NAME}", help="the name that the card's examples use")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    for name, built in build(arguments.folder, arguments.repository).items():
        size = sum(len(data) for data in built.values())
        identifier = json.loads(built["metadata.json"])["id"]
        print(f"{arguments.folder / 'build' / name}: {len(built)} files, {size:,} bytes, module {identifier}")


if __name__ == "__main__":
    main()
