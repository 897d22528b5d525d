"""Makes the known answers of integrity_triton/conformance/answers/ from the tests' oracles.

    python tests/make_answers.py            # write them
    python tests/make_answers.py --check    # fail if they are not what would be written

Nothing here runs a kernel of this package, nor one of its backends.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import ssl
import sys
from pathlib import Path

from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm, load_reference
from integrity_triton.conformance import known_answers
from integrity_triton.conformance.known_answers import Question

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "integrity_triton" / "conformance" / "answers"
COMMAND = "python tests/make_answers.py"
# The words of the file that depend on the machine, not on the algorithm.
CHANGING = (' "version": ',)


def records() -> list[Algorithm]:
    """What is built in: everything that brings no answers of its own."""
    return [r for r in algorithms.all_algorithms() if r.answers is None]


def ask(record: Algorithm, question: Question) -> bytes:
    make = load_reference(record.oracle)
    parameters = question.values(record)
    hasher = make(question.content(), **parameters)
    if not record.xof:
        return hasher.digest()
    length = question.length or record.size(parameters)
    return hasher.digest(length, seek=question.seek) if question.seek else hasher.digest(length)


def version(reference: str) -> str:
    """Of the library that an oracle is in."""
    module = reference.partition(":")[0]
    top = module.partition(".")[0]
    if module.startswith("oracles."):
        return f"plain Python from the standard, run by Python {platform.python_version()}"
    if top in ("hashlib", "zlib", "integrity_triton"):
        return f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}"
    names = importlib.metadata.packages_distributions()[top]
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(names)))


def text(record: Algorithm) -> str:
    source = record.oracle
    if source.startswith("oracles."):
        source = f"tests/{source.replace('.', '/', 1).replace(':', '.py:')}"
    return known_answers.make(record, ask, source=source, version=version(record.oracle), made=COMMAND)


def lasting(file: str) -> list[str]:
    """The lines that are the same wherever a file is made."""
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
            if not check:
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
