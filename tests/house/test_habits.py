"""Facts that several files repeat must agree: the versions of Python, the commands of CI and of the hooks,
and the torch that scripts install."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

import integrity_triton as it
from integrity_triton.models import folder, manifest, safetensors_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

yaml = pytest.importorskip("yaml", reason="PyYAML, of the dev extra, is absent")

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def workflow(name: str) -> dict[str, Any]:
    # YAML 1.1 reads the key "on" as a boolean.
    return {"on" if key is True else key: value for key, value in yaml.safe_load(text(name)).items()}


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_versions_of_python_agree():
    config = tomllib.loads(text("pyproject.toml"))
    classifiers = " ".join(config["project"]["classifiers"])
    versions = re.findall(r"Programming Language :: Python :: (3\.\d+)", classifiers)
    tests = workflow(".github/workflows/ci.yml")["jobs"]["tests"]
    assert tests["strategy"]["matrix"]["python-version"] == versions
    assert versions == [f"3.{minor}" for minor in range(10, 10 + len(versions))]
    assert config["project"]["requires-python"] == f">={versions[0]}"
    assert config["tool"]["ruff"]["target-version"] == "py" + versions[0].replace(".", "")


def test_the_public_ci_runs_what_our_own_does():
    # One of them writes to a file, in the background.
    own = [line.partition(" >")[0] for line in text(".ci/run").splitlines() if line.startswith("sh ")]
    jobs = workflow(".github/workflows/ci.yml")["jobs"].values()
    assert own
    assert sorted(own) == sorted(command for job in jobs for command in commands(job))


def test_contributing_names_the_commands_of_the_hooks():
    (repository,) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert " && ".join(entries) in text("CONTRIBUTING.md").splitlines()
    assert "pre-commit run --all-files" in text(".ci/lint")


def test_one_torch_is_installed():
    places = [
        ".ci/environment.sh",
        ".ci/distributions",
        "examples/minilm/demo.sh",
        "CONTRIBUTING.md",
        "README.md",
    ]
    assert len({version for place in places for version in re.findall(r"torch==[\w.+]+", text(place))}) == 1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_may_only_read(path: Path):
    steps = [line.split("uses:")[1] for line in path.read_text("utf-8").splitlines() if "uses:" in line]
    assert steps
    for step in steps:
        assert re.fullmatch(r" [\w/-]+@[0-9a-f]{40} # v[\d.]+", step)
    assert workflow(str(path))["permissions"] == {"contents": "read"}


def test_people_start_the_lane_for_gpus_and_it_names_gpu_backends():
    lane = workflow(".github/workflows/gpu.yml")
    assert list(lane["on"]) == ["workflow_dispatch"]
    backends = lane["on"]["workflow_dispatch"]["inputs"]["backend"]["options"]
    assert backends == ["cuda", "hip", "xpu"]
    assert set(backends) <= {status.name for status in it.backends()}
    (command,) = (run for run in commands(lane["jobs"]["conformance"]) if " conformance " in run)
    reports = [word for word in shlex.split(command, comments=True) if word.startswith("report/")]
    assert {Path(report).suffix for report in reports} == {".html", ".json", ".md", ".xml"}


def test_the_security_policy_names_the_limits_of_what_is_read():
    pytest.importorskip("model_signing", reason="model_signing, of the signing extra, is absent")
    from integrity_triton.models import oms, signing_keys

    policy = " ".join(text("SECURITY.md").split())
    assert manifest.MAX_SIZE == folder.MAX_INDEX_SIZE == 64 << 20
    assert "64 MiB for a manifest and for the index of a model" in policy
    assert f"{safetensors_file.MAX_HEADER_SIZE:,} bytes for the header of a safetensors file" in policy
    assert f"{oms.MAX_SIGNATURE_SIZE >> 20} MiB for a signature" in policy
    assert f"{signing_keys.MAX_KEY_SIZE >> 10} KiB for its keys" in policy
