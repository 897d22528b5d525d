"""Every kernel builds for every GPU target, without a GPU: the host code's own launches, compiled.

Compiling proves neither that a kernel runs nor that it is right; it catches what a vendor's
compiler refuses, spilled registers, lost vector loads and compile times that nobody would wait for.
"""

from __future__ import annotations

import itertools
import re
from functools import cache

import pytest

from bench import compile_time
from bench.compile_time import TARGETS, build, compiling_for, cuobjdump, launches
from integrity_triton import algorithms
from integrity_triton.algorithms import IteratedHash

# NVIDIA's commonest target gets one of each kernel, and of one kernel of each kind all variants; the others
# get one of each kernel, and those of FEW one of each kind. The rest is among the slow tests: other variants,
# and elsewhere than on that first target HMAC's loops, one for each hash, but for two of them.
LAYOUTS = {"cuda:90": compile_time.LAYOUTS}
VARIANTS = {"hip:gfx942": ("rows", "ragged")}
FEW = ("cuda:80", "hip:gfx1100")
KINDS = (
    *("md5", "sha384", "sha3_224", "shake_128", "blake2bp", "blake2xb", "blake3", "crc64_nvme", "xxh64"),
    *("xxh3_128", "siphash_2_4", "highwayhash_64", "cmac_aes", "gmac_aes", "poly1305", "hmac_md5"),
)
LOOPS = ("hmac_md5", "hmac_sha512")
# Twice what is allowed: of processors that are shared, a process has less in a second.
MOST_SECONDS = 2 * compile_time.MOST_SECONDS


@cache
def plan(target: str, layouts: tuple[str, ...] | None = None):
    return launches(TARGETS[target].backend, layouts or LAYOUTS.get(target, ("rows",)))


def cases():
    for target in TARGETS:
        rows = plan(target, ("rows",))
        for name in plan(target):
            if target in LAYOUTS and name in rows and name not in KINDS:
                yield pytest.param(target, ("rows",), name, id=f"{target}-{name}")
                yield pytest.param(target, None, name, id=f"{target}-all-{name}", marks=pytest.mark.slow)
                continue
            loop = name.startswith("hmac_") and name not in LOOPS and target != "cuda:90"
            slow = loop or (target in FEW and name not in KINDS)
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(target, None, name, id=f"{target}-{name}", marks=marks)
    for target, layouts in VARIANTS.items():
        for name in plan(target, layouts):
            yield pytest.param(target, layouts, name, id=f"{target}-variants-{name}", marks=pytest.mark.slow)


@pytest.fixture
def compile_cold(tmp_path):
    """Compiles a launch, with nothing in Triton's caches."""
    counter = itertools.count()

    def compile_(target: str, launch, options):
        with compiling_for(target, tmp_path / str(next(counter))):
            return build(launch, options)

    return compile_


@pytest.mark.parametrize(("target", "layouts", "name"), cases())
def test_every_kernel_builds(target, layouts, name, compile_cold, record_property):
    built = []
    for launch, options in plan(target, layouts)[name]:
        done = compile_cold(target, launch, options)
        for _ in range(2):  # a machine that is busy at the moment is no fault of the kernel's
            if done.seconds > MOST_SECONDS:
                again = compile_cold(target, launch, options)
                done = min(done, again, key=lambda d: d.seconds)
        built.append(done)
    record_property("compiled", [(target, done.kernel, done.seconds) for done in built])
    for done in built:
        assert len(done.binary) > 1000, done.kernel
        # 64-bit arithmetic whatever the values, or addresses past 2 GiB go wrong.
        signature = done.compiled.src.signature
        for argument in ("address", "count", "stride", "length", "total", "nodes", "counter"):
            assert signature.get(argument, "i64") == "i64", (done.kernel, argument, signature)
        if TARGETS[target].backend == "cuda":
            assert not done.spilled, f"{done.kernel} spills {done.spilled} bytes"
            assert done.seconds <= MOST_SECONDS, f"{done.kernel} takes {done.seconds:.1f} s to compile"
            if "ALIGN=16" in done.kernel:
                sass = cuobjdump("-sass", done.binary)
                vectors = sass is None or re.search(r"LDG(STS)?\.E(\.BYPASS)?\.128", sass)
                assert vectors, f"{done.kernel} has lost its vector loads"


@pytest.mark.parametrize("target", TARGETS)
def test_no_block_function_is_left_out(target):
    compiled = {launch.constants.get("BLOCK") for built in plan(target).values() for launch, _ in built}
    for record in algorithms.all_algorithms():
        if isinstance(record.construction, IteratedHash):
            assert record.construction.block in compiled, record.name


@pytest.mark.parametrize("target", FEW)
def test_the_kinds_are_all_there_are(target):
    kernels = {name: {launch.kernel for launch, _ in built} for name, built in plan(target).items()}
    assert set(KINDS) <= set(kernels)
    assert set().union(*(kernels[name] for name in KINDS)) == set().union(*kernels.values())


def test_debug_mode_asserts_no_overflow_in_hash_arithmetic(compile_cold):
    asked = launches("cuda", records=[algorithms.get("blake3")])
    for launch, options in asked["blake3"]:
        done = compile_cold("cuda:90", launch, {**options, "debug": True})
        assert "uint32 overflow detected for operation add" not in done.compiled.asm["ttir"], done.kernel
