"""Programs in AMD's assembly: control flow, waits, uninitialised registers, LDS, layouts of matrices."""

from __future__ import annotations

import numpy as np
import pytest

from integrity_triton.backends.amdgcn.kernel import AmdProgram
from integrity_triton.backends.emulation.coverage import KernelCoverage
from integrity_triton.backends.emulation.faults import (
    EmulationError,
    MemoryFault,
    Race,
    Uninitialised,
    Unmodelled,
)
from integrity_triton.backends.emulation.memory import GlobalMemory
from integrity_triton.backends.emulation.program import KernelLaunch

WAIT = {
    "gfx942": "s_waitcnt vmcnt(0) lgkmcnt(0)",
    "gfx1100": "s_waitcnt lgkmcnt(0)",
    "gfx1201": "s_wait_kmcnt 0x0",
}
LANES = {"gfx942": 64, "gfx1100": 32, "gfx1201": 32}
LOAD = {"gfx942": "s_load_dwordx2 s[2:3], s[0:1], 0x0"}


def assemble(body: str, target: str = "gfx942", waves: int = 1, shared: int = 0) -> AmdProgram:
    """A kernel with one argument, an address that is in ``s[2:3]`` when ``body`` starts. ``v0`` is the number
    of the lane in its group, ``v1`` is four times that."""
    lines = "\n".join("\t" + line.strip() for line in body.strip().split("\n"))
    shift = "v_lshlrev_b32_e32 v1, 2, v0"
    return AmdProgram.parsed(
        f"""
	.amdgcn_target "amdgcn-amd-amdhsa--{target}"
kernel:
	.file 1 "/somewhere" "example.py"
	.loc 1 7 3
	{LOAD.get(target, "s_load_b64 s[2:3], s[0:1], 0x0")}
	{WAIT[target]}
	{shift}
	.loc 1 12 5                   ; example.py:12:5 @[ user.py:34:1 ]
{lines}
	s_endpgm
.Lfunc_end0:
	.amdhsa_kernel kernel
		.amdhsa_group_segment_fixed_size {shared}
		.amdhsa_kernarg_size 8
		.amdhsa_user_sgpr_count 2
		.amdhsa_user_sgpr_kernarg_segment_ptr 1
		.amdhsa_system_sgpr_workgroup_id_x 1
		.amdhsa_system_sgpr_workgroup_id_y 0
		.amdhsa_system_sgpr_workgroup_id_z 0
	.end_amdhsa_kernel
	.amdgpu_metadata
  - .args:
      - .offset:         0
        .size:           8
        .value_kind:     global_buffer
    .max_flat_workgroup_size: {LANES[target] * waves}
    .wavefront_size: {LANES[target]}
	.end_amdgpu_metadata
""",
        "kernel",
    )


def run(program: AmdProgram, memory: np.ndarray, seed: int = 0) -> KernelCoverage:
    given = GlobalMemory()
    given.register(memory.ctypes.data, memory.nbytes, "the array")
    coverage = KernelCoverage("kernel", program.blocks, program.matrices)
    program.run(KernelLaunch((1, 1, 1), [memory.ctypes.data], 1, 0, given, coverage, seed, 4096))
    given.finish()
    return coverage


STORE = {
    "gfx942": "global_store_dword v1, v2, s[2:3]",
    "gfx1100": "global_store_b32 v1, v2, s[2:3]",
    "gfx1201": "global_store_b32 v1, v2, s[2:3]",
}


@pytest.mark.parametrize("target", LANES)
def test_lanes_take_different_ways(target: str) -> None:
    """Lanes above 4 double their number, the others add 100; all add 1."""
    wide = LANES[target] == 64
    save, restore = ("s_and_saveexec_b64 s[4:5], vcc", "s_or_b64 exec, exec, s[4:5]") if wide else (
        "s_and_saveexec_b32 s4, vcc_lo", "s_or_b32 exec_lo, exec_lo, s4"
    )  # fmt: skip
    other = "s_xor_b64 exec, exec, s[4:5]" if wide else "s_xor_b32 exec_lo, exec_lo, s4"
    program = assemble(
        f"""
        v_mov_b32_e32 v2, v0
        v_cmp_lt_u32_e32 {"vcc" if wide else "vcc_lo"}, 4, v0
        {save}
        s_cbranch_execz .LBB0_1
        v_lshlrev_b32_e32 v2, 1, v0
        .LBB0_1:
        {other}
        v_add_{"u32" if wide else "nc_u32"}_e32 v2, 0x64, v2
        {restore}
        v_add_{"u32" if wide else "nc_u32"}_e32 v2, 1, v2
        {STORE[target]}
        """,
        target,
    )
    out = np.zeros(LANES[target], np.uint32)
    coverage = run(program, out)
    lane = np.arange(LANES[target])
    assert (out == np.where(lane > 4, 2 * lane, lane + 100) + 1).all()
    assert coverage.missed() == ()


def test_a_block_that_never_runs_is_missed() -> None:
    program = assemble(
        f"""
        s_cmp_eq_u32 0, 1
        s_cbranch_scc0 .LBB0_1
        v_mov_b32_e32 v2, 7
        .LBB0_1:
        v_mov_b32_e32 v2, 8
        {STORE["gfx942"]}
        """
    )
    (missed,) = run(program, np.zeros(64, np.uint32)).missed()
    assert "v_mov_b32_e32 v2, 7" in missed
    assert "example.py:12, called from user.py:34" in missed


@pytest.mark.parametrize("active", [False, True])
def test_a_block_that_runs_for_no_lane_is_missed(active: bool) -> None:
    """A compiler leaves out the branch around a few instructions, which then run with an EXEC of zero, and
    nothing of them is checked. What only has scalar instructions is executed all the same."""
    program = assemble(
        f"""
        v_mov_b32_e32 v2, 8
        v_cmp_gt_u32_e32 vcc, {1 if active else 0}, v0
        s_and_saveexec_b64 s[4:5], vcc
        v_mov_b32_e32 v2, 7
        s_branch .LBB0_1
        .LBB0_1:
        s_mov_b32 s6, 1
        s_mov_b64 exec, s[4:5]
        {STORE["gfx942"]}
        """
    )
    out = np.zeros(64, np.uint32)
    missed = run(program, out).missed()
    assert out.tolist() == [7 if active else 8] + [8] * 63
    assert [m.partition(": ")[2].partition(" at ")[0] for m in missed] == (
        [] if active else ["v_mov_b32_e32 v2, 7"]
    )


def test_the_end_of_a_launch_wherever_its_memory_is() -> None:
    """Ranges of memory are numbered by their addresses, among which that of the arguments comes anywhere."""
    program = assemble("global_load_dword v2, v1, s[2:3]\ns_waitcnt vmcnt(0)\nv_add_u32_e32 v2, 1, v2")
    kept = [np.zeros(64, np.uint32) for _ in range(50)]
    for memory in kept:
        run(program, memory)


def test_a_loop_in_scalar_registers() -> None:
    program = assemble(
        f"""
        v_mov_b32_e32 v2, 0
        s_mov_b32 s6, 10
        .LBB0_1:
        v_add_u32_e32 v2, s6, v2
        s_add_i32 s6, s6, -1
        s_cmp_lg_u32 s6, 0
        s_cbranch_scc1 .LBB0_1
        {STORE["gfx942"]}
        """
    )
    out = np.zeros(64, np.uint32)
    run(program, out)
    assert (out == 55).all()


def test_a_branch_on_a_mask_that_all_waves_have() -> None:
    program = assemble(
        f"""
        s_mov_b64 vcc, 0
        s_cbranch_vccz .LBB0_1
        v_mov_b32_e32 v2, 7
        .LBB0_1:
        v_mov_b32_e32 v2, 8
        {STORE["gfx942"]}
        """,
        waves=2,
    )
    out = np.zeros(128, np.uint32)
    run(program, out)
    assert (out == 8).all()


def test_a_spilled_scalar_register() -> None:
    program = assemble(
        f"""
        v_cmp_lt_u32_e32 vcc, 63, v0
        s_cbranch_vccnz .LBB0_1
        s_mov_b32 s6, 11
        s_branch .LBB0_2
        .LBB0_1:
        s_mov_b32 s6, 22
        .LBB0_2:
        v_writelane_b32 v9, s6, 3
        s_mov_b32 s6, 0
        v_readlane_b32 s7, v9, 3
        v_mov_b32_e32 v2, s7
        {STORE["gfx942"]}
        """,
        waves=2,
    )
    out = np.zeros(128, np.uint32)
    run(program, out)
    assert (out == np.repeat([11, 22], 64)).all()


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("gfx942", "global_load_dword v2, v1, s[2:3]\nv_add_u32_e32 v3, 1, v2"),
        ("gfx942", "global_load_dword v2, v1, s[2:3]\ns_waitcnt lgkmcnt(0)\nv_add_u32_e32 v3, 1, v2"),
        (
            "gfx942",
            "global_load_dword v2, v1, s[2:3]\nglobal_load_dword v3, v1, s[2:3]\ns_waitcnt vmcnt(1)\n"
            "v_add_u32_e32 v3, 1, v3",
        ),
        (
            "gfx942",
            "s_load_dword s6, s[2:3], 0x0\ns_load_dword s7, s[2:3], 0x4\ns_waitcnt lgkmcnt(1)\n"
            "s_add_u32 s6, s6, 1",
        ),
        ("gfx942", "global_load_dword v2, v1, s[2:3]\nv_mov_b32_e32 v2, 1"),
        ("gfx1201", "global_load_b32 v2, v1, s[2:3]\ns_wait_dscnt 0x0\nv_add_nc_u32_e32 v3, 1, v2"),
    ],
)  # fmt: skip
def test_a_result_that_was_not_waited_for(target: str, body: str) -> None:
    with pytest.raises(Uninitialised, match=r"no wait has made sure that the load into [sv]"):
        assemble(body, target)


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (
            "gfx942",
            "global_load_dword v2, v1, s[2:3]\nglobal_load_dword v3, v1, s[2:3]\ns_waitcnt vmcnt(1)\n"
            "v_add_u32_e32 v4, 1, v2",
        ),
        ("gfx1100", "global_load_b32 v2, v1, s[2:3]\ns_waitcnt vmcnt(0)\nv_add_nc_u32_e32 v3, 1, v2"),
        ("gfx1201", "global_load_b32 v2, v1, s[2:3]\ns_wait_loadcnt 0x0\nv_add_nc_u32_e32 v3, 1, v2"),
        ("gfx1201", "global_load_b32 v2, v1, s[2:3]\ns_wait_loadcnt_dscnt 0x0\nv_add_nc_u32_e32 v3, 1, v2"),
    ],
)  # fmt: skip
def test_a_result_that_was_waited_for(target: str, body: str) -> None:
    run(assemble(body, target), np.zeros(64, np.uint32))


def test_a_wait_on_one_of_two_ways_is_not_enough() -> None:
    with pytest.raises(Uninitialised, match="the load into v2"):
        assemble(
            """
            global_load_dword v2, v1, s[2:3]
            s_cmp_eq_u32 s2, 1
            s_cbranch_scc1 .LBB0_1
            s_waitcnt vmcnt(0)
            .LBB0_1:
            v_add_u32_e32 v3, 1, v2
            """
        )


@pytest.mark.parametrize(("target", "middle"), [("gfx942", ""), ("gfx1201", "nc_")])
def test_sums_and_differences_with_clamp(target: str, middle: str) -> None:
    largest = 2**32 - 1
    for name, exact in {
        "add": lambda lane, other: lane + other,
        "sub": lambda lane, other: lane - other,
        "subrev": lambda lane, other: other - lane,
    }.items():
        for other in (0, 1, 5, 31, 2**31, largest - 7, largest):
            body = f"""
                s_mov_b32 s6, {other:#x}
                v_{name}_{middle}u32_e64 v2, v0, s6 clamp
                {STORE[target]}
                """
            out = np.zeros(LANES[target], np.uint32)
            run(assemble(body, target), out)
            wanted = [min(max(exact(lane, other), 0), largest) for lane in range(LANES[target])]
            assert out.tolist() == wanted, (name, other)
    with pytest.raises(Unmodelled, match="the modifier clamp"):
        assemble("v_add_i32_e64 v2, v0, v1 clamp")


@pytest.mark.parametrize("register", ["v9", "s9", "a9"])
def test_a_register_that_nothing_has_written(register: str) -> None:
    name = "v_accvgpr_read_b32" if register == "a9" else "v_mov_b32_e32"
    program = assemble(f"{name} v2, {register}")
    with pytest.raises(
        Uninitialised, match=rf"v2, {register} \(example.py:12.* reads {register}, which nothing"
    ):
        run(program, np.zeros(64, np.uint32))


def test_a_register_that_some_lanes_have_not_written() -> None:
    program = assemble(
        """
        v_cmp_gt_u32_e32 vcc, 5, v0
        s_and_saveexec_b64 s[4:5], vcc
        v_mov_b32_e32 v2, 1
        s_or_b64 exec, exec, s[4:5]
        v_add_u32_e32 v3, 1, v2
        """
    )
    with pytest.raises(Uninitialised, match="reads v2, which some of its lanes have not written"):
        run(program, np.zeros(64, np.uint32))


def test_an_access_outside_names_the_line() -> None:
    program = assemble("v_mov_b32_e32 v2, 1\nglobal_store_dword v1, v2, s[2:3] offset:4")
    with pytest.raises(MemoryFault, match=r"example\.py:12, called from user\.py:34.*the end of the array"):
        run(program, np.zeros(64, np.uint32))


@pytest.mark.parametrize(("wait", "barrier"), [(True, True), (True, False), (False, True)])
def test_lds_between_waves(wait: bool, barrier: bool) -> None:
    """Each lane stores its number and reads that of the lane that stands opposite, in the other wave."""
    body = f"""
        ds_write_b32 v1, v0
        {"s_waitcnt lgkmcnt(0)" if wait else "s_nop 0"}
        {"s_barrier" if barrier else "s_nop 0"}
        v_sub_u32_e32 v3, 0x1fc, v1
        ds_read_b32 v2, v3
        s_waitcnt lgkmcnt(0)
        {STORE["gfx942"]}
        """
    out = np.zeros(128, np.uint32)
    if not wait:
        with pytest.raises(Uninitialised, match=r"s_barrier.*stores to LDS"):
            assemble(body, waves=2, shared=512)
        return
    program = assemble(body, waves=2, shared=512)
    if barrier:
        run(program, out)
        assert (out == np.arange(128)[::-1]).all()
    else:
        with pytest.raises((Race, Uninitialised)):
            run(program, out)


def test_lds_has_an_end() -> None:
    program = assemble("ds_write_b32 v1, v0 offset:8", shared=256)
    with pytest.raises(MemoryFault, match="outside the 256 bytes"):
        run(program, np.zeros(64, np.uint32))


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("v_exp_f32_e32 v2, v0", "v_exp_f32"),
        ("v_add_f32_e64 v2, v0, v1 clamp", "clamp"),
        ("v_mfma_f32_32x32x8_f16 a[0:15], v[0:1], v[2:3], a[0:15]", "v_mfma_f32_32x32x8_f16"),
        ("flat_load_dword v2, v[0:1]", "flat_load_dword"),
        ("s_waitcnt 0x70", "s_waitcnt"),
        ("buffer_load_ushort v1, s[4:7], 0 offen lds", "buffer_load_ushort"),
        ("global_load_lds_dwordx2 v[0:1], off", "global_load_lds_dwordx2"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(body: str, what: str) -> None:
    with pytest.raises(Unmodelled, match=rf"{what}.*"):
        assemble(body)


def test_nothing_may_stand_between_signal_and_wait() -> None:
    with pytest.raises(Unmodelled, match="between the signal and the wait"):
        assemble("s_barrier_signal -1\nds_store_b32 v1, v0\ns_barrier_wait -1", "gfx1201")


@pytest.mark.parametrize(("name", "size", "depth"), [("32x32x16", 32, 16), ("16x16x32", 16, 32)])
def test_mfma_layout(name: str, size: int, depth: int) -> None:
    """D = A B + C, as the ISA of MI300 lays them out (V_MFMA): lane n holds 8 elements of row n % size of
    A, and of column n % size of B, from 8 (n / size) on."""
    generator = np.random.default_rng(size)
    a = generator.integers(-128, 128, (size, depth))
    b = generator.integers(-128, 128, (depth, size))
    c = generator.integers(-1000, 1000, (size, size))
    words, lane = size * size // 64, np.arange(64)
    memory = np.zeros((4 + 2 * words, 64), np.uint32)
    for n in range(64):
        first = 8 * (n // size)
        memory[0:2, n] = a[n % size, first : first + 8].astype(np.int8).view(np.uint32)
        memory[2:4, n] = b[first : first + 8, n % size].astype(np.int8).view(np.uint32)
    rows = np.array([
        [8 * (r // 4) + 4 * (n // 32) + r % 4 if size == 32 else 4 * (n // 16) + r for n in lane]
        for r in range(words)
    ])  # fmt: skip
    memory[4 : 4 + words] = c[rows, lane % size].astype(np.int32).view(np.uint32)
    loads = [f"global_load_dword v{4 + k}, v1, s[2:3] offset:{256 * k}" for k in range(4 + words)]
    stores = [f"global_store_dword v1, v{8 + k}, s[2:3] offset:{256 * (4 + words + k)}" for k in range(words)]
    last = 8 + words - 1
    program = assemble(
        "\n".join([
            *loads,
            "s_waitcnt vmcnt(0)",
            f"v_mfma_i32_{name}_i8 v[8:{last}], v[4:5], v[6:7], v[8:{last}]",
            *stores,
        ])
    )  # fmt: skip
    coverage = run(program, memory)
    found = memory[4 + words :].view(np.int32)
    assert (found == (a @ b + c)[rows, lane % size]).all()
    assert coverage.missed() == ()


@pytest.mark.parametrize("target", ["gfx1100", "gfx1201"])
def test_wmma_layout(target: str) -> None:
    """V_WMMA of RDNA 3: both halves of a wave hold 16 elements of a row of A or a column of B. RDNA 4: lanes
    16 to 31 hold the upper 8 of them."""
    generator = np.random.default_rng(1)
    a, b = generator.integers(-128, 128, (2, 16, 16))
    lane, words = np.arange(32), 4 if target == "gfx1100" else 2
    memory = np.zeros((2 * words + 8, 32), np.uint32)
    for n in range(32):
        part = slice(0, 16) if words == 4 else slice(8 * (n // 16), 8 * (n // 16) + 8)
        memory[0:words, n] = a[n % 16, part].astype(np.int8).view(np.uint32)
        memory[words : 2 * words, n] = np.ascontiguousarray(b[part, n % 16].astype(np.int8)).view(np.uint32)
    loads = [f"global_load_b32 v{4 + k}, v1, s[2:3] offset:{128 * k}" for k in range(2 * words)]
    stores = [f"global_store_b32 v1, v{12 + k}, s[2:3] offset:{128 * (2 * words + k)}" for k in range(8)]
    first, second = f"v[4:{3 + words}]", f"v[{4 + words}:{3 + 2 * words}]"
    wait = "s_wait_loadcnt 0x0" if target == "gfx1201" else "s_waitcnt vmcnt(0)"
    program = assemble(
        "\n".join([
            *loads,
            wait,
            f"v_wmma_i32_16x16x16_iu8 v[12:19], {first}, {second}, 5 neg_lo:[1,1,0]",
            *stores,
        ]),
        target,
    )  # fmt: skip
    run(program, memory)
    rows = np.array([2 * r + lane // 16 if target == "gfx1100" else r + 8 * (lane // 16) for r in range(8)])
    assert (memory[2 * words :].view(np.int32) == (a @ b + 5)[rows, lane % 16]).all()


def test_a_group_that_has_another_number_of_arguments() -> None:
    program = assemble("s_nop 0")
    given = GlobalMemory()
    coverage = KernelCoverage("kernel", program.blocks, program.matrices)
    with pytest.raises(EmulationError, match="takes 1 arguments, and the launch has 2"):
        program.run(KernelLaunch((1, 1, 1), [0, 0], 1, 0, given, coverage, 0, 4096))


@pytest.mark.parametrize("table", [0xEC, 0x96, 0x01])
def test_any_operation_on_three_halves(table: int) -> None:
    """V_BITOP3_B16 in the ISA of CDNA 4: bit 4 a + 2 b + c of the table, for each of 16 bits."""
    program = assemble(
        f"""
        global_load_dword v3, v1, s[2:3]
        global_load_dword v4, v1, s[2:3] offset:4
        s_movk_i32 s4, 0x6b35
        s_waitcnt vmcnt(0)
        v_bitop3_b16 v2, v3, v4, s4 bitop3:{table:#x}
        global_store_dword v1, v2, s[2:3] offset:512
        """
    )
    memory = np.concatenate(
        [(np.arange(128, dtype=np.uint32) * np.uint32(0x9E3779B1)), np.zeros(64, np.uint32)]
    )
    run(program, memory)
    for lane in range(64):
        a, b, c = int(memory[lane]), int(memory[lane + 1]), 0x6B35
        bits = [(a >> k & 1) * 4 + (b >> k & 1) * 2 + (c >> k & 1) for k in range(16)]
        assert memory[128 + lane] == sum((table >> index & 1) << k for k, index in enumerate(bits))


LDS_SOURCE = (np.arange(64 * 8, dtype=np.uint32) * np.uint32(0x9E3779B1)).astype(np.uint32)
DESCRIPTOR = """
        s_mov_b32 s4, s2
        s_mov_b32 s5, s3
        s_movk_i32 s6, 0x280
        s_mov_b32 s7, 0x27000
        """


def loaded_to_lds(load: str, words: int, *, wait: str = "s_waitcnt vmcnt(0)", m0: int = 0) -> np.ndarray:
    """What lies in LDS from byte 16 on after a load. ``v[4:5]`` is an address for each lane, in steps of
    ``4 * words`` from the array's byte 16 on, and ``v6`` its distance from the array."""
    size = 4 * words
    stores = "\n".join(
        f"""
        ds_read_b32 v9, v8 offset:{16 + 4 * k}
        s_waitcnt lgkmcnt(0)
        global_store_dword v8, v9, s[2:3] offset:{2048 + 4 * k}"""
        for k in range(words)
    )
    program = assemble(
        f"""
        {DESCRIPTOR}
        v_mul_u32_u24_e32 v8, {size}, v0
        v_add_u32_e32 v6, 16, v8
        v_mov_b32_e32 v5, s3
        v_add_co_u32_e32 v4, vcc, s2, v6
        v_addc_co_u32_e32 v5, vcc, 0, v5, vcc
        s_mov_b32 m0, {m0}
        {load}
        {wait}
        {stores}
        """,
        shared=4096,
    )
    memory = np.concatenate([LDS_SOURCE, np.zeros(512, np.uint32)])
    run(program, memory)
    return memory[512 : 512 + 64 * words]


@pytest.mark.parametrize(("name", "words"), [("dword", 1), ("dwordx3", 3), ("dwordx4", 4)])
@pytest.mark.parametrize("m0", [16, 12])
@pytest.mark.parametrize("way", ["address", "scalar base", "buffer"])
def test_loads_to_lds(name: str, words: int, m0: int, way: str) -> None:
    """CDNA 4 ISA, "Memory Buffer Load to LDS": LDS_ADDR = LDS_base + M0 + inst_offset + ThreadID * the bytes
    of a lane. The offset is added to the address in memory as well."""
    offset = 16 - m0
    load = {
        "address": f"global_load_lds_{name} v[4:5], off",
        "scalar base": f"global_load_lds_{name} v6, s[2:3]",
        "buffer": f"buffer_load_{name} v6, s[4:7], 0 offen",
    }[way]
    load += f" offset:{offset}" * bool(offset) + " lds" * (way == "buffer")
    first = 4 + offset // 4
    source = LDS_SOURCE[first : first + 64 * words].copy()
    if way == "buffer":  # which ends after 0x280 bytes
        source[0x280 // 4 - first :] = 0
        if words > 1 and (0x280 - 4 * first) % (4 * words):
            with pytest.raises(Unmodelled, match="across the end of a buffer"):
                loaded_to_lds(load, words, m0=m0)
            return
    assert (loaded_to_lds(load, words, m0=m0) == source).all()


def test_lanes_that_are_off_load_nothing_to_lds() -> None:
    """The others keep their places."""
    program = assemble(
        """
        v_mov_b32_e32 v2, 7
        ds_write_b32 v1, v2
        s_waitcnt lgkmcnt(0)
        s_mov_b32 m0, 0
        v_cmp_gt_u32_e32 vcc, 60, v0
        s_and_saveexec_b64 s[4:5], vcc
        global_load_lds_dword v1, s[2:3]
        s_or_b64 exec, exec, s[4:5]
        s_waitcnt vmcnt(0)
        ds_read_b32 v2, v1
        s_waitcnt lgkmcnt(0)
        global_store_dword v1, v2, s[2:3]
        """,
        shared=256,
    )
    memory = np.arange(100, 164, dtype=np.uint32)
    run(program, memory)
    assert (memory == np.where(np.arange(64) < 60, np.arange(100, 164), 7)).all()


@pytest.mark.parametrize(
    ("more", "wait", "arrived"),
    [
        ("", "s_nop 0", False),
        ("", "s_waitcnt lgkmcnt(0)", False),
        ("", "s_waitcnt vmcnt(1)", False),
        ("global_load_dword v7, v[4:5], off", "s_waitcnt vmcnt(1)", True),
        ("global_store_dword v6, v8, s[2:3] offset:2800", "s_waitcnt vmcnt(1)", True),
        ("ds_read_b32 v7, v8 offset:3000", "s_waitcnt vmcnt(1)", False),
    ],
)
def test_loads_to_lds_arrive_in_their_order(more: str, wait: str, arrived: bool) -> None:
    load = "global_load_lds_dword v[4:5], off\n" + more
    if arrived:
        assert (loaded_to_lds(load, 1, wait=wait, m0=16) == LDS_SOURCE[4:68]).all()
    else:
        with pytest.raises(Uninitialised):
            loaded_to_lds(load, 1, wait=wait, m0=16)


def test_a_store_may_not_overtake_a_load_to_lds() -> None:
    with pytest.raises(Race, match="asynchronous copy is under way"):
        loaded_to_lds("global_load_lds_dword v[4:5], off\n ds_write_b32 v8, v6 offset:16", 1, m0=16)


def test_a_load_to_lds_beyond_its_end() -> None:
    with pytest.raises(MemoryFault, match="outside the 4096 bytes of shared memory"):
        loaded_to_lds("global_load_lds_dwordx4 v[4:5], off", 4, m0=4096 - 64 * 16 + 4)
