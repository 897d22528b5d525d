"""Every kernel builds for every GPU target, on a machine without a GPU. What is compiled are the launches
that the host code makes.

Compiling proves neither that a kernel runs nor that it is right. It finds what a vendor's compiler refuses,
spilled registers, lost vector loads, and compile times that nobody would wait for.
"""

from __future__ import annotations

import itertools
import re
from functools import cache

import pytest

from bench import compile_time
from bench.compile_time import TARGETS, build, compiling_for, cuobjdump, launches, yardstick
from integrity_triton import algorithms
from integrity_triton.algorithms import IteratedHash
from integrity_triton.launching.launch import form_of

# The default tier compiles two kernels for the first target, and one for the first target of AMD. The slow
# tests compile one kernel of each algorithm for the first target, all variants for some algorithms, and one
# kernel of each kind for the other targets, a quarter of these a day. The exhaustive tests compile the rest:
# other variants, the other kernels for the other targets, and the loop of HMAC for each hash, except for two
# hashes.
FIRST = "cuda:90"
BY_DEFAULT = {FIRST: ("siphash_2_4", "md5"), "hip:gfx942": ("siphash_2_4",)}
LAYOUTS = {"cuda:90": compile_time.LAYOUTS, "hip:gfx942": ("rows", "ragged")}
VARIED = ("md5", "blake3", "xxh64", "siphash_2_4", "cmac_aes", "poly1305")
KINDS = (
    *("md5", "sha384", "sha3_224", "shake_128", "blake2bp", "blake2xb", "blake3", "crc64_nvme", "xxh64"),
    *("xxh3_128", "siphash_2_4", "highwayhash_64", "cmac_aes", "gmac_aes", "poly1305", "hmac_md5"),
)
# The algorithms whose kernels are compiled. They are written here because listing the launches takes seconds,
# which every process that collects tests would take.
LISTED = (
    *("sha224", "sha384", "blake3", "sha1", "md5", "sm3", "ripemd160", "sha3_224", "shake_128", "blake2b"),
    *("blake2s", "blake2bp", "blake2sp", "blake2xb", "blake2xs", "crc32", "crc64_nvme", "xxh64", "xxh3_64"),
    *("xxh3_128", "siphash_2_4", "siphash_1_3", "siphash_4_8", "cmac_aes", "gmac_aes", "highwayhash_64"),
    *("poly1305", "hmac_sha224", "hmac_sha256", "hmac_sha384", "hmac_sha512", "hmac_sha512_224", "hmac_sha1"),
    *("hmac_md5", "hmac_sm3", "hmac_ripemd160", "hmac_sha3_224", "hmac_sha3_384", "hmac_sha3_512"),
    *("hmac_blake2b", "hmac_blake2s"),
)
LISTED_IN_LAYOUTS = (*LISTED, "kt128", "kmac_128")
LOOPS = ("hmac_md5", "hmac_sha512")
# The limit of the time that a kernel takes to compile, as a multiple of the time that the yardstick takes at
# the same moment, since machines differ and may be busy. Large kernels usually take 4 to 12 times as long as
# the yardstick. The yardstick takes half a second, so it is run only if the limit may be exceeded.
MOST_YARDSTICKS = 20


def plan(target: str, layouts: tuple[str, ...] = ("rows",)):
    return launched(compile_time.tuning(target), layouts)


@cache
def launched(tuning: str, layouts: tuple[str, ...]):
    return launches(tuning, layouts)


def case(target: str, layouts: tuple[str, ...], name: str, *, asked: bool):
    variants = "-variants" if len(layouts) > 1 else ""
    by_default = not variants and name in BY_DEFAULT.get(target, ())
    marks = [] if by_default else [pytest.mark.slow if asked else pytest.mark.exhaustive]
    if target != FIRST:  # what is slow for the first target shows the same for another
        marks += [pytest.mark.rotating(4)]
    return pytest.param(target, layouts, name, id=f"{target}{variants}-{name}", marks=marks)


def cases():
    for target in TARGETS:
        layouts = LAYOUTS.get(target, ("rows",))
        varied = VARIED if target == FIRST else ()
        for name in LISTED:
            loop = name.startswith("hmac_") and name not in LOOPS
            asked = name not in varied and not loop if target == FIRST else name in KINDS
            yield case(target, ("rows",), name, asked=asked)
        if len(layouts) > 1:
            for name in LISTED_IN_LAYOUTS:
                yield case(target, layouts, name, asked=name in varied)


@pytest.fixture
def compile_cold(tmp_path):
    """A function that compiles a launch while Triton's caches are empty."""
    counter = itertools.count()

    def compile_(target: str, launch, options):
        with compiling_for(target, tmp_path / str(next(counter))):
            return build(launch, options)

    return compile_


@pytest.mark.parametrize(("target", "layouts", "name"), list(cases()))
def test_every_kernel_builds(target, layouts, name, compile_cold, record_property):
    built = []
    for launch, options in plan(target, layouts)[name]:
        done = compile_cold(target, launch, options)
        built.append(done)
        if TARGETS[target].backend == "cuda" and done.seconds > compile_time.MOST_SECONDS:
            times = done.seconds / yardstick(target)
            if times > MOST_YARDSTICKS:  # a single measurement may be an outlier
                times = compile_cold(target, launch, options).seconds / yardstick(target)
            assert times <= MOST_YARDSTICKS, f"{done.kernel} takes {times:.0f} yardsticks to compile"
    record_property("compiled", [(target, done.kernel, done.seconds) for done in built])
    for done in built:
        assert len(done.binary) > 1000, done.kernel
        # Arithmetic must have 64 bits for all values; otherwise addresses beyond 2 GiB go wrong.
        signature = done.compiled.src.signature
        for argument in ("address", "count", "stride", "length", "total", "nodes", "counter"):
            assert signature.get(argument, "i64") == "i64", (done.kernel, argument, signature)
        if TARGETS[target].backend == "cuda":
            assert not done.spilled, f"{done.kernel} spills {done.spilled} bytes"
            if "ALIGN=16" in done.kernel:
                sass = cuobjdump("-sass", done.binary)
                vectors = sass is None or re.search(r"LDG(STS)?\.E(\.BYPASS)?\.128", sass)
                assert vectors, f"{done.kernel} has lost its vector loads"


@pytest.mark.parametrize("target", TARGETS)
def test_every_algorithm_with_kernels_of_its_own_is_listed(target):
    assert set(plan(target)) == set(LISTED)
    if target in LAYOUTS:
        assert set(plan(target, LAYOUTS[target])) == set(LISTED_IN_LAYOUTS)


@pytest.mark.parametrize("target", TARGETS)
def test_no_block_function_is_left_out(target):
    compiled = {launch.constants.get("BLOCK") for built in plan(target).values() for launch, _ in built}
    # Other forms give the same as the functions without these ends of their names.
    compiled |= {form_of(block)[0] for block in compiled - {None}}
    for record in algorithms.all_algorithms():
        if isinstance(record.construction, IteratedHash):
            assert record.construction.block in compiled, record.name


@pytest.mark.parametrize("target", TARGETS)
def test_the_kinds_are_all_there_are(target):
    kernels = {name: {launch.kernel for launch, _ in built} for name, built in plan(target).items()}
    assert set(KINDS) <= set(kernels)
    assert set().union(*(kernels[name] for name in KINDS)) == set().union(*kernels.values())


@pytest.mark.slow
def test_debug_mode_asserts_no_overflow_in_hash_arithmetic(compile_cold):
    asked = launches("cuda", records=[algorithms.get("blake3")])
    for launch, options in asked["blake3"]:
        done = compile_cold("cuda:90", launch, {**options, "debug": True})
        assert "uint32 overflow detected for operation add" not in done.compiled.asm["ttir"], done.kernel
