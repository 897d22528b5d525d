"""``integrity-triton aot`` compiles kernels for programs without Python. Such a program is tested, too."""

from __future__ import annotations

import ctypes.util
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

import torch

import integrity_triton as it
from integrity_triton import algorithms, cli
from integrity_triton.aot import compiling, export, worker
from integrity_triton.backends.opencl import prebuilt
from integrity_triton.drivers.run import Run
from integrity_triton.messages.from_caller import batch_messages
from integrity_triton.messages.per_message import PerMessage
from integrity_triton.self_tests.catalogue import Recorder
from support import pattern

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "aot_opencl"
ROWS = ["--kernel", "hash_messages", "--where", "TABLE=false", "--where", "FINAL=true"]


def run(capfd, *arguments: object, status: int = 0):
    capfd.readouterr()
    assert cli.main(["aot", *map(str, arguments)]) == status
    return capfd.readouterr()


def test_a_file_is_no_folder_for_kernels(capfd, tmp_path):
    path = tmp_path / "file"
    path.write_text("kept")
    shown = run(capfd, "sha256", "cuda:90", "-o", path, status=2)
    assert shown == ("", f"integrity-triton: {path}: this is a file, and a folder is needed\n")
    assert path.read_text() == "kept"


@pytest.mark.slow_if(lambda name: name != "cuda:90")
@pytest.mark.parametrize(
    ("name", "kinds", "threads"),
    [("cuda:90", ["cubin", "ptx"], 128), ("hip:gfx942", ["hsaco"], 256)],
)
def test_a_kernel_for_a_gpu(capfd, tmp_path, name, kinds, threads):
    where = ["--where", "ALIGN=16"]
    out = run(capfd, "sha256", name, "-o", tmp_path, *ROWS, *where, "--json").out
    (kernel,) = json.loads(out)["kernels"]
    paths = [Path(path) for path in kernel["files"]]
    assert [path.suffix[1:] for path in paths] == [*kinds, "json"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}
    assert paths[0].read_bytes()[:4] == b"\x7fELF"
    sidecar = json.loads(paths[-1].read_text())
    assert sidecar["target"] == name
    assert sidecar["entry"].encode() in paths[0].read_bytes()
    assert [a["name"] for a in sidecar["arguments"]][:4] == [
        "table_ptr",
        "state_ptr",
        "constants_ptr",
        "out_ptr",
    ]
    assert {a["type"] for a in sidecar["arguments"]} == {"*i64", "*u32", "i64"}
    assert all(a == {"type": "null"} for a in sidecar["trailing_arguments"])
    assert sidecar["threads_per_program"] == threads
    assert sidecar["pointer_alignment"] == 16
    if "ptx" in kinds:
        ptx = paths[1].read_text()
        parameters = re.findall(r"\.param \.u64", ptx.partition(")")[0])
        assert len(parameters) == len(sidecar["arguments"]) + len(sidecar["trailing_arguments"])
        assert f".entry {sidecar['entry']}(" in ptx


def test_all_kernels_of_an_algorithm_for_xpu_are_the_prebuilt_ones(capfd, tmp_path):
    run(capfd, "blake3", "xpu", "-o", tmp_path)
    wanted = compiling.specializations([algorithms.get("blake3")])
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.xpu.{kind}" for name in wanted for kind in ("spv", "json")
    }
    for name in wanted:
        assert (tmp_path / f"{name}.xpu.spv").read_bytes() == prebuilt.load(name).binary
        assert json.loads((tmp_path / f"{name}.xpu.json").read_text()) == prebuilt.load(name).sidecar


def test_a_list_compiles_nothing(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "compile_all", None)
    lines = run(capfd, "sha256", "cuda:80", "-o", tmp_path / "none", "--list").out.splitlines()
    assert len(lines) == len(
        compiling.specializations([algorithms.get("sha256")], compiling.Target.parse("cuda:80"))
    )
    assert any("BLOCK=sha256_block" in line and "TABLE=true" in line for line in lines)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sha256", "cuda"], "unknown target 'cuda'"),
        (["sha256", "hip:90"], "unknown target"),
        (["nonsense", "xpu"], "nonsense"),
        (["sha256", "xpu", "--kernel", "nonsense"], "it has hash_messages"),
        (["sha256", "xpu", "--where", "NONSENSE=1"], "there are ALIGN, "),
        (["sha256", "xpu", "--where", "ALIGN=3"], "has ALIGN=3"),
        (["sha256", "xpu", "--where", "ALIGN"], "CONSTANT=VALUE"),
        (["sha256", "xpu", "--compiler", "/nonexistent"], "/nonexistent holds no Triton"),
        (["sha256", "xpu", "-o", "/dev/null/x"], "/dev/null"),
    ],
)
def test_bad_use(capfd, arguments, message):
    assert message in run(capfd, *arguments, status=2).err


def test_a_compiler_that_fails_is_quoted(capfd, tmp_path):
    """A Triton that cannot be imported stands for all failures of the worker."""
    folder = tmp_path / "triton"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('this Triton is broken')\n")
    caught = run(
        capfd,
        "sha256",
        "xpu",
        "-o",
        tmp_path / "out",
        *ROWS,
        "--where",
        "ALIGN=1",
        "--compiler",
        tmp_path,
        status=2,
    )
    assert "compiling for xpu failed" in caught.err
    assert "this Triton is broken" in caught.err


@pytest.mark.parametrize("name", ["cuda:90", "cuda:100", "hip:gfx942", "hip:gfx1100", "xpu"])
def test_targets(name):
    target = compiling.Target.parse(name)
    assert target.name == name
    assert target.threads_per_warp == {"cuda": 32, "xpu": None}.get(
        target.backend, 64 if "gfx9" in name else 32
    )


def test_hidden_parameters_are_not_counted():
    text = """
    .amdgpu_metadata
    amdhsa.kernels:
      - .args:
          - .offset: 0
            .value_kind: global_buffer
          - .offset: 8
            .value_kind: by_value
          - .offset: 16
            .value_kind: hidden_block_count_x
        .name: k
    .end_amdgpu_metadata"""
    assert worker._amdgcn_parameters(text, "k") == 2
    assert (
        worker._ptx_parameters(".visible .entry k(\n.param .u64 a,\n.param .u64 .ptr b\n)\n.param x", "k")
        == 2
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The compiled example, and the environment in which it runs."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("absent: no C compiler")
    status = {s.name: s for s in it.backends()}["opencl"]
    if not status.available:
        pytest.skip(f"absent: {status.reason}")
    library = Path(sys.prefix, "lib", "libOpenCL.so")
    if not library.exists() and ctypes.util.find_library("OpenCL") is None:
        pytest.skip("absent: no OpenCL loader to link with")
    folder = tmp_path_factory.mktemp("aot")
    link = (
        [str(library), f"-Wl,--disable-new-dtags,-rpath,{library.parent}"]
        if library.exists()
        else ["-lOpenCL"]
    )
    flags = ["-O1", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined"]
    subprocess.run(
        [compiler, *flags, "-o", folder / "chunks", EXAMPLE / "sha256_chunks.c", *link], check=True
    )
    environment = dict(os.environ)
    runtime = Path(sys.prefix, "lib", "libintelocl.so")
    if "OCL_ICD_VENDORS" not in environment and runtime.exists():
        (folder / "runtime.icd").write_text(f"{runtime}\n")
        environment["OCL_ICD_VENDORS"] = str(folder)
    return folder / "chunks", environment


@pytest.fixture
def exported(capfd, tmp_path):
    run(capfd, "sha256", "xpu", "-o", tmp_path, *ROWS, "--where", "ALIGN=1")
    (path,) = tmp_path.glob("*.json")
    return path


@pytest.mark.slow_if(lambda chunk: chunk != 63)
@pytest.mark.parametrize("chunk", [1, 63, 1000, 4096, 100_000])
def test_a_c_program_launches_an_exported_kernel(program, exported, tmp_path, chunk):
    data = pattern(5000)
    (tmp_path / "data").write_bytes(data)
    executable, environment = program
    command = [executable, exported.with_suffix(""), tmp_path / "data", str(chunk)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    expected = [hashlib.sha256(data[i : i + chunk]).hexdigest() for i in range(0, len(data), chunk)]
    assert done.stdout.split() == expected


def test_the_c_program_refuses_another_kernel(program, exported, tmp_path):
    exported.write_text(exported.read_text().replace('"FINAL": true', '"FINAL": false'))
    executable, environment = program
    command = [executable, exported.with_suffix(""), exported, "64"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "FINAL is not true" in done.stderr


@pytest.mark.parametrize("name", ["kmac_128", "hmac_sha256", "hmac_blake3", "blake2b"])
def test_keys_of_several_lengths_need_no_other_kernels(name):
    record = algorithms.get(name)
    recorder = Recorder("opencl")
    messages = batch_messages([torch.zeros(n, dtype=torch.uint8) for n in (300, 0, 1)])
    keys = PerMessage([torch.zeros(n, dtype=torch.uint8) for n in (1, 20, 33)])
    Run(recorder, record).execute({"key": keys}, messages, record.digest_size)
    needed = {prebuilt.Specialization.of(*launched).name for launched in recorder.recorded.values()}
    assert needed
    assert needed <= compiling.specializations([record]).keys()
