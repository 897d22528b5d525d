"""Makes the known answers of integrity_triton/algorithms/answers/ from the tests' oracles.

    python tests/make_answers.py            # write them
    python tests/make_answers.py --check    # fail if the files differ from what would be written

Nothing here runs a kernel or a backend of this package.
"""

from __future__ import annotations

import ast
import importlib.metadata
import platform
import ssl
import sys
from importlib import import_module
from pathlib import Path

from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm, known_answers, load_reference
from integrity_triton.algorithms.known_answers import Question

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "integrity_triton" / "algorithms" / "answers"
COMMAND = "python tests/make_answers.py"
# The words of the file that depend on the machine, not on the algorithm.
CHANGING = (' "version": ',)


def records() -> list[Algorithm]:
    """The built-in records. Another package ships the answers for its records itself."""
    modules = [import_module(f"{algorithms.__name__}.{name}") for name in algorithms._BUILTIN_MODULES]
    names = {record.name for module in modules for record in module.RECORDS}
    names |= {f"hmac_{name}" for name in names}
    return [record for record in algorithms.all_algorithms() if record.name in names]


def ask(record: Algorithm, question: Question) -> bytes:
    make = load_reference(record.oracle)
    parameters = question.values(record)
    hasher = make(question.content(), **parameters)
    if not record.xof:
        return hasher.digest()
    length = question.length or record.size(parameters)
    return hasher.digest(length, seek=question.seek) if question.seek else hasher.digest(length)


def version(record: Algorithm) -> str:
    """The versions of Python and of the libraries that the module of the oracle imports."""
    found = [f"Python {platform.python_version()}"]
    for top in sorted(_imported(record)):
        if top in ("hashlib", "integrity_triton"):
            found.append(ssl.OPENSSL_VERSION)
        elif top not in sys.stdlib_module_names:
            names = sorted(set(importlib.metadata.packages_distributions()[top]))
            found += [f"{name} {importlib.metadata.version(name)}" for name in names]
    return ", ".join(dict.fromkeys(found))


def _imported(record: Algorithm) -> set[str]:
    """The top-level modules that an oracle needs. For an oracle of ``tests/oracles/``, these are the modules
    that its file imports."""
    if record.construction.hmac_of is not None:
        return _imported(algorithms.get(record.construction.hmac_of))
    module = record.oracle.partition(":")[0]
    if not module.startswith("oracles."):
        return {module.partition(".")[0]}
    tree = ast.parse((ROOT / "tests" / f"{module.replace('.', '/')}.py").read_text("utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level
    }
    return {name.partition(".")[0] for name in names} - {"", "oracles", "__future__", "typing"}


def text(record: Algorithm) -> str:
    source = record.oracle
    if source.startswith("oracles."):
        source = f"tests/{source.replace('.', '/', 1).replace(':', '.py:')}"
    return known_answers.make(record, ask, source=source, version=version(record), made=COMMAND)


def lasting(file: str) -> list[str]:
    """The lines that are the same on every machine."""
    return [line for line in file.splitlines() if not line.startswith(CHANGING)]


def main(arguments: list[str]) -> int:
    check = arguments == ["--check"]
    if arguments and not check:
        print(__doc__)
        return 2
    wrong = []
    for record in records():
        path, made = FOLDER / f"{record.name}.json", text(record)
        there = path.read_text("utf-8") if path.exists() else ""
        if lasting(there) != lasting(made):
            wrong.append(record.name)
        if not check and there != made:
            path.write_text(made, "utf-8")
    known = {f"{record.name}.json" for record in records()}
    for path in FOLDER.glob("*.json"):
        if path.name not in known:
            wrong.append(path.stem)
            if not check:
                path.unlink()
    print(f"{'differ' if check else 'changed'}: {', '.join(wrong) or 'none'}")
    return 1 if check and wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
