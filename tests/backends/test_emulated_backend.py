"""The emulated backends: what they launch, what a launch may access, and that they run only if they are asked
for."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.backends import registry
from integrity_triton.backends.emulation.backend import EmulatedBackend, _memory
from integrity_triton.backends.emulation.coverage import Coverage
from integrity_triton.backends.emulation.driver import EmulatedDriver
from integrity_triton.backends.emulation.faults import EmulationError, MemoryFault
from integrity_triton.conformance.cells import Request
from integrity_triton.drivers.poly1305 import Poly1305Driver
from integrity_triton.launching.launch import Address, Launch
from integrity_triton.messages.layout import Addressed, Ragged, Rows
from integrity_triton.self_tests.admission import VARIABLE
from support import oracle, pattern, required, rows_as_bytes

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def ptx(monkeypatch: pytest.MonkeyPatch) -> EmulatedBackend:
    """Self-tests are off, since each of them takes longer than a test."""
    monkeypatch.setenv(VARIABLE, "off")
    backend = registry.get("ptx")
    assert isinstance(backend, EmulatedBackend)
    return backend


def test_it_is_listed_as_emulated_and_never_chosen():
    status = {s.name: s for s in it.backends()}["ptx"]
    assert status.for_tests and "emulated" in status.reason and "emulated" in status.summary
    assert status.devices == ("emulated sm_90",)
    backend = registry.get("ptx")
    for record in algorithms.all_algorithms():
        assert not backend.is_default(record, "cpu", messages=None)
    plain = Request((), (), (), "quick", 0)
    assert "asked for" in str(plain.obstacle(status))
    assert Request(("ptx",), (), (), "quick", 0).obstacle(status) is None


@pytest.mark.slow_if(lambda name: name == "crc32")
@pytest.mark.parametrize("name", ["crc32", "siphash_2_4"])
def test_digests_are_those_of_the_algorithm(ptx, name):
    record = algorithms.get(name)
    messages = [pattern(n) for n in (0, 1, 3, 15, 16, 17, 63, 64, 65, 200)]
    found = it.hash_batch(messages, name, backend="ptx", **required(record))
    assert rows_as_bytes(found) == [oracle(record, m, **required(record)) for m in messages]
    assert any(kernel.blocks[0] for kernel in ptx.coverage.kernels())


def test_a_launch_may_access_what_it_names_and_no_more():
    data = torch.zeros(100, dtype=torch.uint8)
    out = torch.zeros(4, dtype=torch.int32)
    rows = Rows.single(data[16:53])
    for owner in (rows, Ragged([data[16:53]], data.device), data[16:53]):
        launch = Launch("k:k", 1, {"out": out, "n": 3}, {}, data.device, (owner,))
        memory = _memory(launch)

        def load(at: int, size: int, memory=memory) -> None:
            memory.load(np.array([at], np.uint64), size, np.zeros(1, np.int64), "a load")

        start = data.data_ptr() + 16
        load(start, 1)
        load(start + 36, 1)
        load(out.data_ptr() + 12, 4)
        for at in (start - 1, start + 37, out.data_ptr() + 16):
            with pytest.raises(MemoryFault):
                load(at, 1)
        if owner is not launch.memory[0] or hasattr(owner, "data_ptr"):
            continue
        # An aligned vector that holds a byte of a message may be read; messages are not written.
        end = (start + 36) // 16 * 16
        for at in (start // 16 * 16, end):
            memory.load(np.array([at], np.uint64), 4, np.zeros(1, np.int64), "a load", 4)
        for at in (start // 16 * 16 - 16, end + 16):
            with pytest.raises(MemoryFault):
                memory.load(np.array([at], np.uint64), 4, np.zeros(1, np.int64), "a load", 4)
        with pytest.raises(MemoryFault):
            memory.store(
                np.array([start], np.uint64), [np.ones(1, np.uint8)], np.zeros(1, np.int64), "a store"
            )


def test_memory_at_addresses_is_that_of_its_owner():
    owner = torch.zeros(10, dtype=torch.int64)
    assert Address.of(owner).owner is owner
    with pytest.raises(TypeError, match="owned by a str"):
        _memory(Launch("k:k", 1, {}, {}, owner.device, ("text",)))


def _given(attributes: dict[tuple[int, ...], list[Any]]) -> dict[tuple[int, ...], list[Any]]:
    """Attributes without empty lists. The hook that ends the compilation early adds one."""
    return {place: attribute for place, attribute in attributes.items() if attribute}


def test_blocks_apart_from_each_other_are_memory_and_what_is_between_them_is_not():
    """The leaves of BLAKE2bp and BLAKE2sp take blocks of a message in turn."""
    whole = torch.zeros(40, dtype=torch.uint8)
    first = whole.data_ptr()
    places = Addressed(np.array([first, first + 4]), np.array([10, 0]), torch.device("cpu"), whole)
    arguments, constants = {"address": first, "step": 16}, {"BLOCK_BYTES": 4}
    launch = Launch("k:k", 1, arguments, constants, torch.device("cpu"), (places,))
    memory = _memory(launch)

    def load(at: int) -> None:
        memory.load(np.array([first + at], np.uint64), 1, np.zeros(1, np.int64), "a load")

    for at in (0, 3, 16, 19, 32, 33):
        load(at)
    for at in (4, 15, 20, 34, 36):
        with pytest.raises(MemoryFault):
            load(at)


def test_what_is_executed_is_what_the_jit_specialises(ptx, monkeypatch):
    """Triton's own functions bind the arguments of a launch for the target; the kernel that the emulator gets
    has been compiled with just these types, constants and attributes."""
    from triton import knobs
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    launches: list[tuple[Launch, dict[str, int]]] = []
    launch = EmulatedBackend.launch
    monkeypatch.setattr(
        EmulatedBackend,
        "launch",
        lambda self, asked, options: (launches.append((asked, dict(options))), launch(self, asked, options)),
    )
    compiled = []
    load = EmulatedDriver.launcher_cls

    def noted(self: EmulatedDriver, source, metadata):
        compiled.append((source, metadata))
        return load(self, source, metadata)

    monkeypatch.setattr(EmulatedDriver, "launcher_cls", noted)
    messages = [pattern(n) for n in (5, 16, 33)]
    from integrity_triton.algorithms import load_reference
    from integrity_triton.kernels import crc

    for kernel in vars(crc).values():
        if hasattr(kernel, "device_caches"):
            kernel.device_caches.pop(ptx._driver.get_current_device(), None)
    it.hash_batch(messages, "crc32", backend="ptx")
    assert launches and compiled
    target = ptx._driver.get_current_target()
    backend = make_backend(target)
    seen = {}
    for source, metadata in compiled:
        seen.setdefault(source.fn.__name__, []).append((source, metadata))
    for asked, options in launches:
        kernel = load_reference(asked.kernel)
        constants = {k: load_reference(v) if isinstance(v, str) else v for k, v in asked.constants.items()}
        given = {"debug": False, **asked.arguments, **constants, **options}
        binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        given |= {
            name: getattr(knobs.compilation, name)
            for name in ("instrumentation_mode", "fpsan_homomorphic_casts")
            if hasattr(knobs.compilation, name)
        }
        bound, specialization, rest = binder(**given)
        parsed, signature, constexprs, attributes = kernel._pack_args(
            backend, dict(given), bound, specialization, rest
        )
        assert any(
            source.signature == signature
            and source.constants == constexprs
            and _given(source.attrs) == _given(attributes)
            and metadata.num_warps == parsed.num_warps == options.get("num_warps", 4)
            for source, metadata in seen[kernel.__name__]
        ), asked.kernel


def test_a_kernel_is_parsed_once_for_all_its_launches(ptx):
    made = []
    target = ptx.target()
    driver = EmulatedDriver(replace(target, program=lambda *of: made.append(of) or object()), Coverage())
    for text in (b"first", b"second", b"first"):
        module, program, *_ = driver.load_binary("k", text, 0, None)
        assert module is None and program is not None
    assert made == [("first", "k"), ("second", "k")]


def test_text_is_not_cached_as_a_binary(ptx, monkeypatch):
    """The keys of Triton 3.6's cache do not tell a kernel that ends as text from a binary."""
    from triton import knobs
    from triton.compiler import compiler

    before, variable = knobs.cache.dir, os.environ.get("TRITON_CACHE_DIR")
    for compile_, inner in (
        (lambda: knobs.runtime.add_stages_inspection_hook, before),
        (lambda: None, os.path.join(before, "emulated")),
    ):
        monkeypatch.setattr(compiler, "compile", compile_)
        with ptx.driver_of().active():
            assert knobs.cache.dir == inner
        assert (knobs.cache.dir, os.environ.get("TRITON_CACHE_DIR")) == (before, variable)


def test_a_target_that_is_not_emulated_is_refused(ptx, monkeypatch):
    monkeypatch.setenv("INTEGRITY_TRITON_PTX_TARGET", "sm_70")
    with pytest.raises(ValueError, match=r"INTEGRITY_TRITON_PTX_TARGET must be one of sm_80, .* not 'sm_70'"):
        ptx.target()
    assert "sm_70" in type(ptx)().probe().reason
    with pytest.raises(ValueError, match="a target must be one of"), it.emulated("ptx", target="sm_12"):
        pass
    for other in ("native", "cuda"):  # there may be no GPU
        expected = pytest.raises(ValueError, match=f"'{other}' is no emulator: ptx and amdgcn are")
        with expected, it.emulated(other):
            pass


def test_a_users_kernel_is_checked():
    sys.path.insert(0, str(EXAMPLES / "emulated_kernel"))
    try:
        from row_sums import row_sums, row_sums_without_mask, total_without_atomics
    finally:
        sys.path.pop(0)
    x = torch.arange(300, dtype=torch.int32).reshape(3, 100)
    found = torch.zeros(3, dtype=torch.int32)
    with it.emulated("ptx") as coverage:
        row_sums[(3,)](x, found, 100, BLOCK=128)
    assert torch.equal(found, x.sum(1, dtype=torch.int32))
    (kernel,) = coverage.kernels()
    assert kernel.name.startswith("row_sums") and kernel.missed() == ()
    lines = (EXAMPLES / "emulated_kernel" / "row_sums.py").read_text("utf-8").split("\n")
    for faulty, error, text in (
        (row_sums_without_mask, "MemoryFault", "values = tl.load(x + row * columns + at)  # reads"),
        (total_without_atomics, "Race", "tl.store(out, before"),
    ):
        (number,) = [n for n, line in enumerate(lines, 1) if text in line]
        expected = pytest.raises(EmulationError, match=rf"\.py:{number}\b")
        with expected as caught, it.emulated("ptx"):
            faulty[(3,)](x, found, 100, BLOCK=128)
        assert type(caught.value).__name__ == error
    elsewhere = torch.empty(300, dtype=torch.int32, device="meta").reshape(3, 100)
    with pytest.raises(ValueError, match="argument x is on meta: an emulated kernel"), it.emulated("ptx"):
        row_sums[(3,)](elsewhere, found, 100, BLOCK=128)
    with pytest.raises(MemoryFault, match="in 1 thread, the first at"), it.emulated("ptx"):
        row_sums[(1,)](x.reshape(-1)[:99], found, 100, BLOCK=128)


@pytest.mark.slow
def test_the_example_runs():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "emulated_kernel" / "check.py"],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "row_sums_without_mask: MemoryFault" in done.stdout
    assert "total_without_atomics: Race" in done.stdout


@pytest.mark.slow
def test_poly1305_runs_on_matrix_units(ptx, monkeypatch):
    """The rows of a long message fill every row of the accumulators of ``wgmma``, and all columns that are
    used."""
    choice = {
        **Poly1305Driver.choice(ptx.driver(algorithms.get("poly1305"))),
        "PARTS_FROM": 300,
        "ROWS_FROM": 900,
    }
    monkeypatch.setattr(Poly1305Driver, "choice", lambda self: choice)
    messages = [pattern(n) for n in (5, 400, 1000, 300_000)]
    key = bytes(range(32))
    ptx.coverage.take()
    found = it.hash_batch(messages, "poly1305", key=key, backend="ptx")
    assert rows_as_bytes(found) == [oracle(algorithms.get("poly1305"), m, key=key) for m in messages]
    products = [kernel for kernel in ptx.coverage.take() if kernel.name.startswith("poly1305_rows")]
    (kernel,) = products
    missed = [m.partition(" of ") for m in kernel.missed() if m.startswith(("rows", "columns"))]
    unused = {name for what, _, name in missed if what == f"rows {', '.join(map(str, range(64)))}"}
    assert len(unused) < len(kernel.matrices)  # those in a part of the kernel that was not executed
    # A number modulo 2^130 - 5 has 17 digits of 8 bits; the matrix has 32 columns.
    digits = f"columns {', '.join(map(str, range(17, 32)))}"
    assert {what for what, _, name in missed if name not in unused} == {digits}
