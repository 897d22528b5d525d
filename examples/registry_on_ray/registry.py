"""Check every model of a registry in object storage against its manifest, on Ray.

    python registry.py s3://registry/models --manifests s3://registry/manifests --results results/

Each folder below the first URL is a model; ``NAME.json`` below the second is its manifest. Without it, the
manifests are made. Each model is one task, whose result is one file: a run that was interrupted goes on where
it stopped, and a task that a killed worker had begun is run again by another. A result replaces that of the
same model, so that nothing is counted twice.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import ray

from integrity_triton.models import Manifest
from integrity_triton.output_files import write_file
from integrity_triton.remote_files import Url

IN_FLIGHT = 4
"""Tasks that are submitted for each processor: the driver's memory does not grow with the registry."""


def models(registry: str) -> list[str]:
    """The names of the models, in order."""
    return sorted({name.partition("/")[0] for name in Url(registry).files() if "/" in name})


@ray.remote(num_cpus=1, max_retries=5)
def check(registry: str, manifests: str | None, name: str, results: str) -> str:
    """Check one model, and write what was found to its file. Returns the name."""
    start = time.perf_counter()
    found: dict[str, object] = {"name": name, "pid": os.getpid()}
    sizes: list[int] = []
    try:
        model = f"{registry}/{name}"
        if manifests is None:
            manifest = Manifest.build(model, progress=sizes.append)
            write_file(Path(results, f"{name}.manifest"), manifest.to_json().encode())
            found.update(ok=True, root=manifest.root.hex())
        else:
            expected = Manifest.load(f"{manifests}/{name}.json")
            report = expected.verify(model, progress=sizes.append)
            found.update(ok=report.ok, root=expected.root.hex(), report=str(report))
    except (OSError, ValueError) as error:
        found.update(ok=False, report=f"{type(error).__name__}: {error}")
    found.update(bytes=sum(sizes), seconds=time.perf_counter() - start)
    write_file(Path(results, f"{name}.json"), json.dumps(found).encode())
    return name


def finished(results: Path) -> dict[str, dict[str, object]]:
    """The results that are there, by model."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}


def run(registry: str, manifests: str | None, results: Path) -> Iterator[str]:
    """Run the tasks that have no result yet, and yield the names as they end."""
    done = finished(results)
    left = [name for name in models(registry) if name not in done][::-1]
    processors = max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: list[ray.ObjectRef] = []
    while left or pending:
        while left and len(pending) < IN_FLIGHT * processors:
            pending.append(check.remote(registry, manifests, left.pop(), str(results)))
        ended, pending = ray.wait(pending)
        yield from ray.get(ended)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("registry", help="the URL of the folder of models")
    parser.add_argument("--manifests", help="the URL of the folder of manifests")
    parser.add_argument("--results", required=True, type=Path, help="a folder that all workers share")
    parser.add_argument("--address", help="of a Ray cluster; by default one is started here")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    ray.init(address=arguments.address, log_to_driver=False, include_dashboard=False)
    start = time.perf_counter()
    ended = list(run(arguments.registry.rstrip("/"), arguments.manifests, arguments.results.resolve()))
    seconds = time.perf_counter() - start
    found = finished(arguments.results)
    bad = {name: result for name, result in found.items() if not result["ok"]}
    for name, result in bad.items():
        print(f"{name}: {result['report']}")
    size = sum(int(str(found[name]["bytes"])) for name in ended)
    print(
        f"{len(found)} models, {len(bad)} of them bad; {len(ended)} in this run, {size} bytes "
        f"in {seconds:.1f} s: "
        f"{size / 1e6 / seconds:.1f} MB/s, {len(ended) / seconds:.1f} models/s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
