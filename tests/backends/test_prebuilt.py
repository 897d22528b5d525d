"""The prebuilt kernels: none is missing, they are up to date and small, and damaged ones are refused."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.aot import build as build_module
from integrity_triton.aot import compiling, spirv
from integrity_triton.backends import opencl, registry
from integrity_triton.backends.opencl import OpenClBackend, prebuilt

XPU = compiling.Target.parse("xpu")
SHA256 = "integrity_triton.kernels.sha2:sha256_block"
# tests/run.sh installs it there.
COMPILER = Path(os.environ.get("INTEGRITY_TRITON_XPU_COMPILER") or Path(sys.prefix, "xpu-compiler"))


@pytest.fixture
def wanted(specializations):
    return specializations


def test_every_launch_has_its_artifact_and_no_other_ships(wanted):
    archives = prebuilt.lock()["archives"]
    locked = {name: archive for archive, entry in archives.items() for name in entry["artifacts"]}
    assert locked == {name: asked.archive for name, asked in wanted.items()}
    shipped = {path.name for path in prebuilt.folder().iterdir()}
    assert shipped == {prebuilt.file_name(archive) for archive in archives} | {prebuilt.LOCK}


def test_no_artifact_is_older_than_its_source():
    stale = [
        archive
        for archive, entry in prebuilt.lock()["archives"].items()
        if prebuilt.source_digest(entry["references"]) != entry["sources"]
    ]
    assert not stale, "rebuild with python -m integrity_triton.aot (see CONTRIBUTING.md)"


def test_what_is_up_to_date_is_not_built_again(wanted, tmp_path, monkeypatch):
    archives = build_module._by_archive(wanted)

    def up_to_date(folder: Path = tmp_path) -> set[str]:
        return set(build_module._up_to_date(folder, archives))

    shutil.copytree(prebuilt.folder(), tmp_path, dirs_exist_ok=True)
    assert up_to_date() == set(archives)
    assert not up_to_date(tmp_path / "none")
    first, second, third, *_ = archives
    _flip(tmp_path / prebuilt.file_name(first))
    (tmp_path / prebuilt.file_name(second)).unlink()
    variants = archives[third]
    archives[third] = {name: variants[name] for name in list(variants)[1:]}
    assert up_to_date() == set(archives) - {first, second, third}
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "source_digest", lambda references: "another")
        assert not up_to_date()
    monkeypatch.setattr(build_module, "builder_digest", lambda: "another")
    assert not up_to_date()


def test_a_build_makes_what_is_missing_and_removes_what_is_not_wanted(wanted, tmp_path, monkeypatch):
    """A build in which the shipped kernels take the place of the compiler's output."""
    archive = wanted[_first_artifact()].archive
    sidecars = {name: prebuilt.load(name).sidecar for name in wanted}

    def compiled(asked, target, outputs, *, compiler):
        for specialization, output in zip(asked, outputs, strict=True):
            Path(f"{output}.spv").write_bytes(prebuilt.load(specialization.name).binary)
        return [{"compiler": compiling.INTEL_COMPILER}] * len(asked)

    monkeypatch.setattr(build_module, "prebuilt_specializations", lambda: wanted)
    monkeypatch.setattr(build_module, "compile_all", compiled)
    monkeypatch.setattr(build_module, "sidecar", lambda asked, target, result: sidecars[asked.name])
    shutil.copytree(prebuilt.folder(), tmp_path, dirs_exist_ok=True)
    (tmp_path / prebuilt.file_name(archive)).unlink()
    (tmp_path / prebuilt.file_name("old")).write_bytes(b"")
    lines = list(build_module.build(COMPILER, tmp_path))
    variants = sum(asked.archive == archive for asked in wanted.values())
    assert lines[0].startswith(f"{variants} kernels")
    assert [line.partition(":")[0] for line in lines[1:]] == [archive, "removed old.tar.xz"]
    for path in prebuilt.folder().iterdir():
        made, shipped = (tmp_path / path.name).read_bytes(), path.read_bytes()
        if path.suffix == ".xz":  # versions of liblzma differ in their output
            made, shipped = lzma.decompress(made), lzma.decompress(shipped)
            assert made == shipped, path.name


def test_equal_members_give_equal_archives():
    members = {"b": bytes(1000), "a": b"", "c": b"abc"}
    packed = build_module.pack(members)
    assert packed == build_module.pack(dict(reversed(members.items())))
    assert prebuilt.unpack(packed) == members
    assert list(prebuilt.unpack(packed)) == ["a", "b", "c"]


def test_a_source_digest_covers_what_the_device_file_imports(monkeypatch):
    kernel = "integrity_triton.kernels.batch:hash_messages"
    before = prebuilt.source_digest([kernel])
    assert prebuilt.source_digest([kernel, SHA256]) != before
    real = prebuilt._source

    def edited(module):
        text, siblings = real(module)
        return (text + b"\n" if module.endswith(".bits") else text), siblings

    monkeypatch.setattr(prebuilt, "_source", edited)
    assert prebuilt.source_digest([kernel]) != before


def test_artifacts_are_small_and_stripped(wanted):
    for name in wanted:
        artifact = prebuilt.load(name)
        assert spirv.strip(artifact.binary) == artifact.binary
        # Without a matrix unit, Triton unrolls a matrix product.
        most = (32 if artifact.sidecar["kernel"].endswith(":poly1305_rows") else 16) << 10
        assert len(lzma.compress(artifact.binary)) < most
        capabilities = {i[1] for op, i in spirv._instructions(_words(artifact.binary)) if op == 17}
        assert 6 in capabilities  # Kernel: this is a module for OpenCL
        assert 5892 not in capabilities
        assert not any(mark in artifact.binary for mark in (b".py", b"/home", b"/tmp"))


def _words(binary: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(binary) // 4}I", binary)


def test_sidecars_describe_their_kernels(wanted):
    for name, asked in wanted.items():
        sidecar = prebuilt.load(name).sidecar
        assert sidecar["kernel"] == asked.kernel
        assert sidecar["constants"] == asked.constants
        assert [(a["name"], a["type"]) for a in sidecar["arguments"]] == list(asked.arguments)
        assert sidecar["threads_per_program"] == asked.threads_per_warp * asked.num_warps
        assert sidecar["threads_per_program"] <= opencl._LARGEST_WORK_GROUP
        assert sidecar["threads_per_warp"] in opencl._SUB_GROUPS
        parameters = len(sidecar["arguments"]) + len(sidecar["trailing_arguments"])
        assert parameters == spirv.parameters(prebuilt.load(name).binary, sidecar["entry"])
        assert sidecar["entry"].encode() in prebuilt.load(name).binary


@pytest.mark.parametrize(
    "module",
    [b"", b"abc", bytes(20), struct.pack("<6I", 0x07230203, 0x10400, 0, 1, 0, 0)],
    ids=["empty", "odd", "no magic", "endless instruction"],
)
def test_what_is_no_spirv_is_refused(module):
    with pytest.raises(ValueError, match="SPIR-V"):
        spirv.strip(module)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the artifacts that a test may damage."""
    folder = tmp_path / "artifacts"
    shutil.copytree(prebuilt.folder(), folder)
    monkeypatch.setattr(prebuilt, "folder", lambda: folder)
    for cached in (prebuilt.lock, prebuilt.unpacked):
        cached.cache_clear()
    yield folder
    for cached in (prebuilt.lock, prebuilt.unpacked):
        cached.cache_clear()


def _lock_of(folder: Path) -> dict:
    return json.loads((folder / prebuilt.LOCK).read_text())


def _first_archive() -> str:
    archives = _lock_of(prebuilt.folder())["archives"]
    return next(archive for archive, entry in sorted(archives.items()) if SHA256 in entry["references"])


def _first_artifact() -> str:
    return min(_lock_of(prebuilt.folder())["archives"][_first_archive()]["artifacts"])


def _first(folder: Path) -> Path:
    return folder / prebuilt.file_name(_first_archive())


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _lock_archive_with(folder: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Change members of an archive, and lock the archive's new digest."""
    members = prebuilt.unpack(_first(folder).read_bytes())
    change(members)
    packed = build_module.pack(members)
    _first(folder).write_bytes(packed)
    lock = _lock_of(folder)
    lock["archives"][_first_archive()]["archive"] = hashlib.sha256(packed).hexdigest()
    (folder / prebuilt.LOCK).write_text(json.dumps(lock))


def _change_member(folder: Path, end: str) -> None:
    name = f"{_first_artifact()}{end}"
    _lock_archive_with(folder, lambda members: members.update({name: members[name] + b" "}))


def _remove_member(folder: Path, end: str) -> None:
    _lock_archive_with(folder, lambda members: members.pop(f"{_first_artifact()}{end}"))


def _lock_text(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / prebuilt.LOCK).write_text(text)


def _lock_with(archives: object) -> Callable[[Path], None]:
    return _lock_text(json.dumps({"format": prebuilt.FORMAT, "archives": archives}))


ENTRY = {"archive": "", "sources": "", "references": [], "artifacts": {}}
DAMAGE = {
    "archive": (lambda folder: _flip(_first(folder)), "are not those that were locked"),
    "archive cut": (lambda folder: os.truncate(_first(folder), 100), "are not those that were locked"),
    "missing": (lambda folder: _first(folder).unlink(), "cannot be read"),
    "binary": (lambda folder: _change_member(folder, ".spv"), "its binary is not the one"),
    "sidecar": (lambda folder: _change_member(folder, ".json"), "its sidecar is not the one"),
    "no binary": (lambda folder: _remove_member(folder, ".spv"), "its binary is not the one"),
    "no sidecar": (lambda folder: _remove_member(folder, ".json"), "its sidecar is not the one"),
    "no lock": (lambda folder: (folder / prebuilt.LOCK).unlink(), "cannot be read"),
    "lock no JSON": (_lock_text("{"), "cannot be read"),
    "lock of another format": (_lock_text('{"format": 99, "archives": {}}'), "format 99"),
    "lock without digests": (_lock_with({"a": {}}), "an object has no member 'references'"),
    "lock without an artifact's digests": (
        _lock_with({"a": {**ENTRY, "artifacts": {f"a-{0:016x}": {}}}}),
        "an object has no member 'binary'",
    ),
    "lock with a digest that is a number": (_lock_with({"a": {**ENTRY, "archive": 1}}), "is not a string"),
    "lock with archives in a list": (_lock_with([]), "a member has the wrong type"),
    "lock with another package's source": (
        _lock_with({"a": {**ENTRY, "references": ["os:a"]}}),
        "a reference",
    ),
    "archive elsewhere": (_lock_with({"../a": ENTRY}), "is not the name of an archive"),
    "artifact elsewhere": (
        _lock_with({"a": {**ENTRY, "artifacts": {"../a": {}}}}),
        "is not the name of an artifact",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_artifact_is_refused(copied, damage):
    act, message = DAMAGE[damage]
    act(copied)
    assert message in prebuilt.missing(SHA256)
    instance = OpenClBackend()
    assert message in instance.unsupported(algorithms.get("sha256"))


def test_damage_sends_a_batch_to_the_native_backend_unless_opencl_was_asked_for(copied, monkeypatch, caplog):
    if not {s.name: s for s in it.backends()}["opencl"].available:
        pytest.skip("absent: opencl")
    _flip(_first(copied))
    damage = "are not those that were locked"
    monkeypatch.setattr(registry, "_logged", set())
    messages = [bytes(4096)] * 4096
    with caplog.at_level("WARNING", "integrity_triton"):
        for _ in range(2):
            digests = it.hash_batch(messages, "sha256")
    assert digests[7].numpy().tobytes() == hashlib.sha256(bytes(4096)).digest()
    assert [r.getMessage() for r in caplog.records if damage in r.getMessage()][1:] == []
    assert "falls back to native" in caplog.text
    with pytest.raises(it.BackendUnavailable, match=damage):
        it.hash_batch(messages, "sha256", backend="opencl")


def test_a_stale_artifact_is_refused(copied):
    lock = _lock_of(copied)
    for entry in lock["archives"].values():
        entry["sources"] = "0" * 64
    (copied / prebuilt.LOCK).write_text(json.dumps(lock))
    assert "older than their source" in prebuilt.missing(SHA256)


def test_nothing_is_unpacked_that_was_not_locked(copied, monkeypatch):
    monkeypatch.setattr(prebuilt, "unpack", lambda packed: pytest.fail("unpacked"))
    _flip(_first(copied))
    with pytest.raises(it.BackendUnavailable, match="are not those that were locked"):
        prebuilt.load(_first_artifact())


@pytest.fixture(scope="module")
def compiler():
    if not (COMPILER / "triton" / "__init__.py").exists():
        pytest.skip(f"absent: no {compiling.INTEL_COMPILER} in {COMPILER}")
    return COMPILER


def _one_of_each(wanted):
    found = {asked.kernel: asked for asked in wanted.values()}
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "matrix", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["generic", "matrix units"]
)
def test_every_kernel_builds_for_xpu(compiler, wanted, tmp_path, matrix):
    chosen = _one_of_each(wanted)
    outputs = [tmp_path / asked.name for asked in chosen]
    results = compiling.compile_all(chosen, XPU, outputs, compiler=compiler, matrix=matrix)
    for asked, output, result in zip(chosen, outputs, results, strict=True):
        assert result["compiler"] == compiling.INTEL_COMPILER
        binary = Path(f"{output}.spv").read_bytes()
        assert len(binary) > 1000
        if not matrix:  # shipped binaries can be built again, bit for bit
            assert binary == prebuilt.load(asked.name).binary


def test_a_kernel_that_does_not_compile_says_why(compiler, wanted, tmp_path):
    asked = next(iter(wanted.values()))
    broken = prebuilt.Specialization(
        asked.kernel, {**asked.constants, "BLOCK_MSGS": 3}, asked.arguments, 4, 16
    )
    with pytest.raises(compiling.CompileError, match="power of 2"):
        compiling.compile_all([broken], XPU, [tmp_path / "out"], compiler=compiler)


def _spirv(*instructions: tuple[int, ...]) -> bytes:
    words = [0x07230203, 0x00010400, 0, 100, 0]
    for opcode, *operands in instructions:
        words += [(len(operands) + 1) << 16 | opcode, *operands]
    return struct.pack(f"<{len(words)}I", *words)


def test_a_mask_of_the_local_identifier_that_changes_nothing_is_left_out():
    def module(mask: int, operation: tuple[int, ...], builtin: int = 27) -> bytes:
        return _spirv(
            (71, 5, 11, builtin),  # OpDecorate %5 BuiltIn LocalInvocationId
            (43, 2, 7, mask, 0),  # OpConstant
            (61, 3, 8, 5),  # OpLoad
            (81, 2, 9, 8, 0),  # OpCompositeExtract of the first dimension
            (81, 2, 12, 8, 1),  # and of the second
            (113, 2, 10, 9),  # OpUConvert
            operation,
        )

    masked, copied = (199, 2, 11, 10, 7), (83, 2, 11, 10)  # OpBitwiseAnd, OpCopyObject
    assert spirv.without_masks(module(15, masked), 16) == module(15, copied)
    for other in (
        (module(7, masked), 16),  # the mask selects a part of the work-group
        (module(15, masked), 32),
        (module(15, (199, 2, 11, 12, 7)), 16),
        (module(15, (197, 2, 11, 10, 7)), 16),  # OpBitwiseOr
        (module(15, masked, builtin=26), 16),  # WorkgroupId
    ):
        assert spirv.without_masks(*other) == other[0]


_DECLARED = (
    (17, 6),  # OpCapability Kernel
    (14, 2, 2),  # OpMemoryModel Physical64 OpenCL
    (21, 1, 32, 0),  # OpTypeInt
    (21, 2, 64, 0),
    (21, 3, 8, 0),
    (32, 4, 5, 1),  # OpTypePointer CrossWorkgroup
    (32, 5, 5, 3),
    *((43, 2, 10 + k, 4 * k, 0) for k in range(16)),  # OpConstant
)


def _loading(offsets: tuple[int, ...], between: tuple[int, ...] = (), base: int = 120) -> bytes:
    """A module that loads words at these offsets, in words, from an address. ``between`` is an instruction
    before the last load; ``base`` the instruction that gives the pointer."""
    body: list[tuple[int, ...]] = [(54, 2, 30, 0, 31), (248, 32), (base, 4, 33, 34)]
    for k, offset in enumerate(offsets):
        at = 40 + 4 * k
        body += [between] if between and k == len(offsets) - 1 else []
        body += [
            (124, 5, at, 33),  # OpBitcast to a pointer to bytes
            (70, 5, at + 1, at, 10 + offset),  # OpInBoundsPtrAccessChain
            (124, 4, at + 2, at + 1),
            (61, 1, at + 3, at + 2, 2, 4),  # OpLoad Aligned 4
        ]
    return _spirv(*_DECLARED, *body, (253,), (56,))


def _instructions(module: bytes) -> list[tuple[int, ...]]:
    return [(opcode, *i[1:]) for opcode, i in spirv._instructions(_words(module))]


def test_loads_of_consecutive_words_become_one_of_16_bytes():
    given = _loading((0, 1, 2, 3, 4))
    found = _instructions(spirv.with_vector_loads(given))
    opcodes = [i[0] for i in found]
    assert {i[1] for i in found if i[0] == 17} == {6, 7, 11, 39}  # Kernel, Vector16, Int64 and Int8
    assert opcodes.index(17) < opcodes.index(11) < opcodes.index(14)
    (call,) = [i for i in found if i[0] == 12]
    assert call[4] == 171 and call[7] == 16  # vloadn of 16 bytes
    (vector,) = [i[2:] for i in found if i[0] == 124 and i[3] == call[2]]
    # Each word has the name that its load gave it, and only the fifth is still a load.
    assert [i[2:] for i in found if i[0] == 81] == [(43 + 4 * k, vector[0], k) for k in range(4)]
    assert [i for i in found if i[0] == 61] == [(61, 1, 59, 58, 2, 4)]
    names = [i[2] for i in found if i[0] in (12, 81, 124)] + [i[1] for i in found if i[0] in (21, 23, 32)]
    assert len(names) == len(set(names))
    assert max(names) < _words(spirv.with_vector_loads(given))[3]


@pytest.mark.parametrize(
    "module",
    [
        _loading((0, 1, 2)),
        _loading((0, 1, 2, 4)),
        _loading((1, 0, 2, 3)),  # the first address is not loaded first
        _loading((0, 1, 2, 3), between=(62, 58, 43)),  # OpStore
        _loading((0, 1, 2, 3), between=(248, 90)),  # OpLabel: another basic block
        _loading((0, 1, 2, 3), base=81),  # the pointer is not a number that was computed
    ],
)
def test_other_loads_stay_as_they_are(module):
    assert spirv.with_vector_loads(module) == module
