"""What a results file says about the machine and the run that it comes from."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from integrity_triton.backends.native import usable_cpus
from integrity_triton.conformance.environment import describe

ROOT = Path(__file__).resolve().parents[1]
_CPU = Path("/sys/devices/system/cpu/cpu0/cache")
_INSTRUCTIONS = ("avx2", "avx512f", "sha_ni", "aes", "vaes", "sha2", "sve")


def machine() -> dict[str, Any]:
    """The device and the versions of the software, for the results of CPUs."""
    found = describe()
    found["processor instructions"] = " ".join(_instructions())
    found["processors"] = usable_cpus()
    found["caches"] = caches()
    with suppress(ValueError, OSError, AttributeError):
        found["memory bytes"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return found


def run(command: Sequence[str], note: str) -> dict[str, str]:
    """When and how this run was started. ``note`` says what else the machine did."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "date": now.isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", *command]),
        "commit": commit(),
        "load": f"{os.getloadavg()[0]:.1f}",  # processes that wanted to run in the minute before
        "note": note,
    }


def commit() -> str:
    """The commit of the working tree, with a plus sign if files differ from it."""
    try:
        head, changes = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "not known"
    return head.strip() + "+" * bool(changes.strip())


def caches() -> dict[str, int]:
    """The sizes of the data caches of a processor in bytes, by their levels."""
    found = {}
    for index in sorted(_CPU.glob("index*")):
        with suppress(OSError, ValueError):
            level, kind, size = (
                (index / name).read_text("ascii").strip() for name in ("level", "type", "size")
            )
            if kind != "Instruction":
                found[f"L{level}"] = int(size.removesuffix("K")) << 10
    return found


def _instructions() -> Iterator[str]:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.lower().startswith(("flags", "features")):
                given = line.partition(":")[2].split()
                yield from (name for name in _INSTRUCTIONS if name in given)
                return


def write(path: Path, kind: str, run: dict[str, str], sections: dict[str, list[dict[str, Any]]]) -> None:
    """Write the results of a run to a JSON file, or add them to those of earlier runs in it.

    A new result takes the place of an old one of the same section whose member ``key`` is equal. Raises
    SystemExit for a file with results of another kind or of another processor.
    """
    document: dict[str, Any] = {"kind": kind, "environment": machine(), "runs": []}
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        about = [(d["kind"], d["environment"]["processor"]) for d in (before, document)]
        if about[0] != about[1]:
            raise SystemExit(f"{path} holds results of {about[0]}, and these are of {about[1]}: name another")
        document = {**before, "environment": document["environment"]}
    if run not in document["runs"]:
        document["runs"].append(run)
    for section, results in sections.items():
        found = {json.dumps(result["key"]): result for result in [*document.get(section, []), *results]}
        document[section] = [found[key] for key in sorted(found)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
