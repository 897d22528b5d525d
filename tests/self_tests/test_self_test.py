"""Self-tests at first use: which kernels they test, and that a wrong kernel never gives a digest."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import sys
import threading
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm, Hmac, known_answers
from integrity_triton.aot import compiling
from integrity_triton.backends import registry
from integrity_triton.backends.interpreter import InterpreterBackend
from integrity_triton.backends.opencl import OpenClBackend, prebuilt
from integrity_triton.backends.triton_backend import TritonBackend
from integrity_triton.drivers.run import Run
from integrity_triton.launching.launch import Launch
from integrity_triton.launching.request import Request
from integrity_triton.messages.layout import Messages, Ragged, Rows
from integrity_triton.messages.per_message import PerMessage
from integrity_triton.self_tests import admission as self_test
from integrity_triton.self_tests.catalogue import Recorder, Trial, placed
from integrity_triton.self_tests.trials import trials
from support import driver_family, first_of, kernel_family

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
CPU = torch.device("cpu")
MESSAGE = torch.arange(200, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def scratch(scratch_registries, monkeypatch):
    """The setting of the environment does not affect a test, and what a test registers is removed."""
    monkeypatch.delenv(self_test.VARIABLE, raising=False)


def backend_of(name: str, kernels: str = "integrity_triton.kernels") -> type[InterpreterBackend]:
    """A backend like that of another package: the interpreter with its own copy of the kernels. It counts its
    launches."""

    class Other(InterpreterBackend):
        tuning = "interpreter"
        launches = 0

        def launch(self, launch, options):
            def moved(value):
                if not isinstance(value, str):
                    return value
                return value.replace("integrity_triton.kernels", kernels)

            type(self).launches += 1
            constants = {k: moved(v) for k, v in launch.constants.items()}
            launch = dataclasses.replace(launch, kernel=moved(launch.kernel), constants=constants)
            super().launch(launch, options)

    Other.name = name
    return Other


def registered(name: str, kernels: str = "integrity_triton.kernels") -> InterpreterBackend:
    registry.register(backend_of(name, kernels))
    return registry.get(name)


@pytest.fixture
def broken_kernels(tmp_path, monkeypatch):
    """A copy of the kernels with a change in one file, as a package with another name."""

    def broken(file: str, before: str, after: str) -> str:
        name = f"broken_{tmp_path.name.replace('-', '_')}"
        folder = tmp_path / name
        folder.mkdir()
        for path in KERNELS.glob("*.py"):
            text = path.read_text("utf-8")
            if path.stem == file:
                assert text.count(before) >= 1
                text = text.replace(before, after, 1)
            (folder / path.name).write_text(text, "utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return broken


def backends_with_kernels() -> list[str]:
    """The available backends that compile kernels; if there are none, the interpreter."""
    found = [b for b in registry.statuses() if b.available and b.self_test is not None]
    return [b.name for b in found if not b.for_tests] or [b.name for b in found if b.name == "interpreter"]


# Reach


class LaneRecorder(Recorder):
    """Records the kernels that a backend with this tuning launches, and how many lanes of a program it used
    at most. Its trials are as large as those of the backend."""

    def __init__(self, tuning: str) -> None:
        super().__init__(tuning)
        self.trial_size = TritonBackend.trial_size
        self.lanes: dict[str, int] = {}
        self._names: dict[Any, str] = {}

    def launch(self, launch: Launch, options: Any) -> None:
        key = self.configuration(launch, options)
        if key not in self._names:
            self._names[key] = prebuilt.Specialization.of(launch, options).name
        name = self._names[key]
        super().launch(launch, options)
        self.lanes[name] = max(self.lanes.get(name, 0), self_test._lanes(launch, options))

    def described(self, name: str) -> tuple[str, Any]:
        launch, _ = self.recorded[next(key for key, other in self._names.items() if other == name)]
        return launch.kernel, dict(launch.constants)


@cache
def _reached(name: str, tuning: str) -> LaneRecorder:
    """What the known-answer tests of an algorithm launch."""
    record = algorithms.get(name)
    recorder = LaneRecorder(tuning)
    for trial in trials(record, recorder, CPU):
        for _ in trial.run(Run(recorder, record, recorder.launch, trial.way), CPU):
            pass
    return recorder


def launched_family(record: Algorithm) -> Any:
    """A value that is equal for algorithms whose driver launches the same kernels in the same cases."""
    return driver_family(record), kernel_family(record)


def skip_unless_first(algorithm: Algorithm) -> None:
    """One of the algorithms that launch the same kernels is enough."""
    first = first_of(algorithm, launched_family)
    if algorithm is not first:
        pytest.skip(f"not applicable: the same launches as {first.name}'s")


@pytest.mark.slow_if(
    lambda target, algorithm: target != "xpu" or first_of(algorithm, launched_family) is not algorithm
)
@pytest.mark.rotating(8)
@pytest.mark.parametrize("target", ["xpu", "cuda:90", "hip:gfx942"])
def test_every_kernel_that_is_launched_has_a_trial(target, algorithm):
    """Every kernel that the recording of all launches contains has a trial."""
    if target != "xpu":
        skip_unless_first(algorithm)
    parsed = compiling.Target.parse(target)
    wanted = compiling.specializations([algorithm], parsed)
    reached = _reached(algorithm.name, parsed.tuning)
    missing = wanted.keys() - reached.lanes.keys()
    assert not missing, [(wanted[name].kernel, wanted[name].constants) for name in missing]
    # And the reverse: no test needs a kernel that is not compiled ahead of time.
    more = reached.lanes.keys() - wanted.keys()
    assert not more, [reached.described(name) for name in more]


MEMORY = torch.zeros(1 << 21, dtype=torch.uint8)
MEMORY = MEMORY[-MEMORY.data_ptr() % 64 :]


def any_view(random: Random, size: int) -> torch.Tensor:
    start = 64 * random.randrange(100) + random.choice((0, 1, 2, 3, 4, 5, 8, 12, 16))
    return MEMORY[start : start + size]


def any_size(random: Random, record: Algorithm) -> int:
    block = record.block_size
    sizes = (random.randrange(3 * block + 2), block * random.randrange(70), int(2 ** random.uniform(0, 19)))
    return random.choice(sizes)


def any_parameters(random: Random, record: Algorithm, count: int) -> dict[str, Any]:
    """Values for the required parameters and for some of the others. A value of bytes is sometimes one for
    each of ``count`` messages."""
    found: dict[str, Any] = {}
    for parameter in record.parameters:
        if parameter.name not in record.required and random.random() < 0.7:
            continue
        if parameter.type is bytes:
            low, high = parameter.min_size or 1, parameter.max_size or 200
            near = [min(high, max(low, record.block_size + n)) for n in (0, 1)]
            sizes = parameter.sizes or (low, high, random.randint(low, high), *near)
            if count and parameter.per_message and random.random() < 0.5:
                same = random.choice((sizes, [random.choice(sizes)]))
                found[parameter.name] = PerMessage(
                    [any_view(random, random.choice(same)) for _ in range(count)]
                )
            else:
                found[parameter.name] = bytes(random.choice(sizes))
        elif parameter.choices is not None:
            found[parameter.name] = random.choice(parameter.choices)
        elif parameter.type is int:
            low, high = parameter.minimum or 0, min(parameter.maximum or 1000, 1000)
            if low <= high:
                found[parameter.name] = random.randint(low, high)
        else:
            found[parameter.name] = parameter.type(1)
    return found


@pytest.mark.slow_if(
    lambda tuning, algorithm: tuning != "opencl" or first_of(algorithm, launched_family) is not algorithm
)
@pytest.mark.rotating(8)
@pytest.mark.parametrize("tuning", ["opencl", "cuda"])
def test_whatever_is_launched_has_a_trial(tuning, algorithm):
    """Batches, rows and streams of any sizes, alignments and parameters."""
    if tuning != "opencl":
        skip_unless_first(algorithm)
    random, recorder = Random(f"{tuning} {algorithm.name}"), LaneRecorder(tuning)
    run = Run(recorder, algorithm)
    for _ in range(30):
        shape = random.choice(("rows", "ragged", "alone", "stream"))
        count = {"rows": random.randint(1, 5), "ragged": random.randint(2, 6), "alone": 1, "stream": 0}[shape]
        try:
            parameters = algorithm.check_parameters(any_parameters(random, algorithm, count))
        except ValueError:
            continue  # parameters that exclude each other
        length = algorithm.size(parameters) or 32
        if algorithm.xof and "digest_size" not in parameters:
            length = random.choice((length, 1, 33, 200, 1000))
        if shape == "stream":
            stream = run.stream(parameters)
            for _ in range(random.randint(1, 4)):
                stream.update(any_view(random, 1 + any_size(random, algorithm)))
            stream.digest(length, 0)
            continue
        views = [any_view(random, any_size(random, algorithm)) for _ in range(count)]
        messages: Messages = Ragged(views, CPU)
        if shape == "rows":
            size = views[0].numel()
            stride = size + random.choice((0, 0, 1, 4, 16, -size % 64))
            total = (count - 1) * stride + size - random.choice((0, 0, min(1, size), size // 2))
            data = MEMORY[random.choice((0, 1, 3, 4, 16)) :]
            if total > data.numel():
                continue
            messages = Rows(data, data.data_ptr(), count, stride, size, total)
        run.execute(parameters, messages, length)
    reached = _reached(algorithm.name, tuning).lanes
    missing = recorder.lanes.keys() - reached.keys()
    assert not missing, [recorder.described(name) for name in missing]
    if algorithm.construction.hmac_of is not None and algorithm.parallel:
        return  # docs/guide/self_tests.md says how little a stream of HMAC over a tree reaches
    narrow = [name for name, lanes in recorder.lanes.items() if lanes > reached[name]]
    assert not narrow, [(*recorder.described(name), recorder.lanes[name], reached[name]) for name in narrow]


@pytest.mark.parametrize("start", [0, 4, 1])
def test_the_bytes_around_messages_are_set(start):
    """A kernel that reads beyond a message must not find zeros by chance."""
    contents = [bytes(range(1, n + 1)) for n in (3, 0, 64, 70, 1)]
    for _ in range(3):
        views = placed(contents, start, CPU)
        assert [bytes(view.tolist()) for view in views] == contents
        begin = views[0].data_ptr() - views[0].storage_offset()
        base = -begin % 64
        memory = bytes(views[0].untyped_storage())[base:]
        expected = bytearray(b"\xff" * len(memory))
        for view, content in zip(views, contents, strict=True):
            place = view.storage_offset() - base
            assert place % 64 == 0 or start
            expected[place : place + len(content)] = content
        assert memory == bytes(expected)
        views[0].untyped_storage().fill_(0)  # the next memory may be the same


def test_a_trial_is_quick(algorithm):
    """The time of a test is bounded by what it hashes: few messages, of which only one is long. Only BLAKE3
    and CRCs, which divide a message among many lanes, need more than 66,001 bytes for all of their cases."""
    known = known_answers.load(algorithm)
    assert known is not None
    most = 308_000 if algorithm.construction.leaf_size is not None else 141_000
    assert max(answer.size for answer in known.answers) < (most if algorithm.parallel else 67_000)
    assert len(known.answers) < 200


def test_known_answers_are_long_enough(algorithm):
    """A length needs more than 16 bits, and the number of leaves in a tree more than 8."""
    known = known_answers.load(algorithm)
    assert known is not None
    assert algorithm.takes_tuples or max(answer.size for answer in known.answers) > 1 << 16
    leaf = algorithm.construction.leaf_size
    if leaf is not None:
        assert max(answer.size for answer in known.answers) > 257 * leaf
    if any(parameter.name == "block_size" for parameter in algorithm.parameters):
        sizes = [(a.size, a.parameters["block_size"]) for a in known.answers if "block_size" in a.parameters]
        assert any(size > 257 * leaf for size, leaf in sizes)


# Faults

FAULTS = {
    "a rotation": ("sha2", "ROTR(x, 11)", "ROTR(x, 12)", "sha256"),
    "a rotation in a schedule": ("sha2", "ROTR(x, 61)", "ROTR(x, 60)", "sha512"),
    "a constant": ("blake3", "0x6A09E667", "0x6A09E666", "blake3"),
    "a permutation": ("blake3", "2, 6, 3, 10", "2, 6, 10, 3", "blake3"),
    "a dropped carry": ("poly1305_limbs", "    d2 += d1 >> 26\n", "", "poly1305"),
    "a dropped carry of a sum": ("poly1305_limbs", "    g3 = h3 + (g2 >> 26)\n", "    g3 = h3\n", "poly1305"),
    "a tail mask": (
        "batch",
        "tl.maximum(remaining, 0), 3) * 8",
        "tl.maximum(remaining, 0), 2) * 8",
        "sha256",
    ),
    "a tail mask of words": ("batch", "tl.where(remaining >= 4,", "tl.where(remaining >= 3,", "sha256"),
    "a padding": ("padding", "if i == WORDS - 1:", "if i == WORDS - 3:", "sha256"),
    "an operator": ("sha2", "g ^ (e & (f ^ g))", "g ^ (e | (f ^ g))", "sha256"),
    "a rotation of 64 bits": ("xxhash", "rotl64(acc, 31)", "rotl64(acc, 32)", "xxh64"),
    "a mask of lanes": (
        "batch",
        "valid = lane < count",
        "valid = (lane < count) & (lane - first < 40)",
        "md5",
    ),
    "a counter of 8 bits": (
        "blake3_tree",
        "number = counter + chunk",
        "number = (counter + chunk) & 0xFF",
        "blake3",
    ),
    "parents from level 7 on": (
        "blake3_tree",
        "has_right = in_range & (2 * index + 1 < children)",
        "has_right = in_range & (2 * index + 1 < children) & (level < 7)",
        "blake3",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_gives_no_digest(fault, broken_kernels):
    file, before, after, name = FAULTS[fault]
    broken = registered("broken", broken_kernels(file, before, after))
    given = algorithms.get(name).trial_parameters()
    with pytest.raises(it.SelfTestError, match=rf"broken on cpu fails its self-test.*{name}, message of \d+"):
        it.hash_batch([MESSAGE], name, backend="broken", **given)
    launches = type(broken).launches
    assert launches
    # The backend is not used any more, and the self-test is not repeated.
    with pytest.raises(it.SelfTestError, match="fails its self-test"):
        it.hash_batch([MESSAGE], name, backend="broken", **given)
    assert type(broken).launches == launches


STORES = {
    "md5": ("bits", "tl.store(pointer + i, words[i], mask=mask)", ", mask=mask"),
    "siphash_2_4": ("siphash", "tl.store(out_ptr + row * out_words, out[0], mask=valid)", ", mask=valid"),
    "xxh64": ("xxhash", "tl.store(out_ptr + row, bswap64(h), mask=valid)", ", mask=valid"),
    "xxh3_64": ("xxhash", "tl.store(out_ptr + row, bswap64(low), mask=valid)", ", mask=valid"),
}


@pytest.mark.parametrize("name", STORES)
def test_a_store_without_its_mask_gives_no_digest(name, broken_kernels):
    """Lanes without a message then store the digest of an empty message in the row of the first message.
    Therefore the first message of a trial is not empty."""
    file, store, mask = STORES[name]
    broken = registered("broken", broken_kernels(file, store, store.replace(mask, "")))
    given = algorithms.get(name).trial_parameters()
    failure = rf"broken on cpu fails its self-test.*{name}, message of [1-9]"
    with pytest.raises(it.SelfTestError, match=failure):
        it.hash_batch([MESSAGE, MESSAGE[:3]], name, backend="broken", **given)
    assert type(broken).launches


def _length_of(bits: int) -> Any:
    def changed(launch: Launch, options: dict[str, int]) -> Launch:
        arguments, mask = dict(launch.arguments), (1 << bits) - 1
        if launch.constants["TABLE"]:
            arguments["table_ptr"] = table = arguments["table_ptr"].clone()
            table[1] &= mask
        else:
            arguments["total"] -= arguments["length"] - (arguments["length"] & mask)
            arguments["length"] &= mask
        return dataclasses.replace(launch, arguments=arguments)

    return changed


def _one_program(launch: Launch, options: dict[str, int]) -> Launch:
    return dataclasses.replace(launch, lanes=min(launch.lanes, options["BLOCK_MSGS"]))


def _few_keys(launch: Launch, options: dict[str, int]) -> Launch:
    if not launch.kernel.endswith(":aes_expand_keys"):
        return launch
    count = min(launch.arguments["count"], 40)
    return dataclasses.replace(launch, arguments={**launch.arguments, "count": count})


def _first_row(launch: Launch, options: dict[str, int]) -> Launch:
    arguments = {**launch.arguments}
    arguments["stride"], arguments["total"] = 0, arguments["length"]
    return dataclasses.replace(launch, arguments=arguments)


ARGUMENTS = {
    "a length of 13 bits": (_length_of(13), "md5", "table"),
    "a length of 13 bits in rows": (_length_of(13), "md5", "rows"),
    "a length of 16 bits": (_length_of(16), "siphash_2_4", "table"),
    "the second program": (_one_program, "sha256", "table"),
    "the second program of rows": (_one_program, "sha3_256", "rows"),
    "the first row for all": (_first_row, "md5", "rows"),
    "the keys of lanes from 40 on": (_few_keys, "cmac_aes", "keys"),
}


@pytest.mark.parametrize("fault", ARGUMENTS)
def test_a_fault_beyond_short_messages_and_few_lanes_gives_no_digest(fault):
    """A sound kernel with wrong arguments stands for a kernel that uses a part of them. The messages of the
    call are short and few."""
    changed, name, shape = ARGUMENTS[fault]

    class Faulty(OpenClBackend):
        def launch(self, launch, options):
            super().launch(changed(launch, options), options)

    faulty, record = Faulty(), algorithms.get(name)
    if not faulty.probe().available:
        pytest.skip("absent: no OpenCL device")
    parameters: dict[str, Any] = record.trial_parameters()
    messages: Messages = Rows.of(MESSAGE.view(2, 100))
    if shape != "rows":
        messages = Ragged([MESSAGE[:100], MESSAGE[:50]], CPU)
    if shape == "keys":
        parameters = {"key": PerMessage([MESSAGE[:16], MESSAGE[16:32]])}
    with pytest.raises(it.SelfTestError, match="opencl on cpu fails its self-test"):
        faulty.digest_batch(record, parameters, messages, record.digest_size)


def test_more_lanes_need_a_test_with_more_lanes():
    """A stream tests one lane. Rows that launch the same kernel are not taken for tested."""

    class Faulty(OpenClBackend):
        def launch(self, launch, options):
            super().launch(_one_program(launch, options), options)

    faulty, record = Faulty(), algorithms.get("md5")
    if not faulty.probe().available:
        pytest.skip("absent: no OpenCL device")
    stream = faulty.stream(record, {})
    stream.update(MESSAGE[:3])
    assert stream.digest(16, 0) == it.md5(bytes(range(3)), backend="native").digest()
    with pytest.raises(it.SelfTestError, match="fails its self-test"):
        faulty.digest_batch(record, {}, Rows.of(MESSAGE.view(2, 100)), 16)


def test_a_fault_in_a_stream_gives_no_digest(broken_kernels):
    registered("broken", broken_kernels("sha2", "ROTR(x, 11)", "ROTR(x, 12)"))
    hasher = it.new("sha256", backend="broken")
    with pytest.raises(it.SelfTestError):
        hasher.update(MESSAGE)
    with pytest.raises(RuntimeError, match="broken off by an exception"):
        hasher.digest()


def test_a_fault_is_refused_where_a_backend_is_chosen_automatically(broken_kernels, monkeypatch):
    """If another backend took over, nobody would notice that the device computes wrongly."""
    broken = registered("broken", broken_kernels("sha2", "ROTR(x, 11)", "ROTR(x, 12)"))
    monkeypatch.setattr(broken, "is_default", lambda *_, **__: True)
    monkeypatch.setattr(registry, "_backends", {"broken": broken, "native": registry.get("native")})
    with pytest.raises(it.SelfTestError):
        it.hash_batch([MESSAGE], "sha256")
    assert it.hash_batch([MESSAGE], "sha256", backend="native").shape == (1, 32)


def test_what_is_sound_goes_on(broken_kernels):
    registered("broken", broken_kernels("sha2", "ROTR(x, 11)", "ROTR(x, 12)"))
    with pytest.raises(it.SelfTestError):
        it.hash_batch([MESSAGE], "sha256", backend="broken")
    expected = it.hash_batch([MESSAGE], "md5", backend="native")
    assert torch.equal(it.hash_batch([MESSAGE], "md5", backend="broken"), expected)


def test_a_record_with_a_wrong_constant_gives_no_digest(tmp_path, monkeypatch):
    """A constant belongs to a record and not to the kernel, and the same kernel has given right digests
    before."""
    sha256 = algorithms.get("sha256")
    wrong = [*algorithms.load_constant(sha256.construction.constants)]
    wrong[63] ^= 1 << 30
    answers = json.loads((Path(known_answers.__file__).parent / "answers" / "sha256.json").read_text("utf-8"))
    (tmp_path / "other_hash").mkdir()
    (tmp_path / "other_hash" / "answers.json").write_text(json.dumps({**answers, "algorithm": "other_hash"}))
    (tmp_path / "other_hash" / "__init__.py").write_text(
        f"import triton.language as tl\nK = tl.constexpr({tuple(wrong)})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    construction = dataclasses.replace(sha256.construction, constants="other_hash:K")
    other = dataclasses.replace(
        sha256, name="other_hash", aliases=(), construction=construction, answers="other_hash:answers.json"
    )
    algorithms.register(other)
    for name in backends_with_kernels():
        it.hash_batch([MESSAGE], "sha256", backend=name)
        with pytest.raises(it.SelfTestError, match="other_hash"):
            it.hash_batch([MESSAGE], "other_hash", backend=name)
        # If a hash has no known answers, an HMAC over it has none either.
        with pytest.raises(it.SelfTestError, match="other_hash"):
            it.hash_batch([MESSAGE], "hmac_other_hash", key=b"key", backend=name)


def test_hmac_without_answers_is_tested_by_its_definition(tmp_path, monkeypatch):
    """The hash of such an HMAC comes from another package."""
    sha256 = algorithms.get("sha256")
    text = (Path(known_answers.__file__).parent / "answers" / "sha256.json").read_text("utf-8")
    (tmp_path / "sound_hash").mkdir()
    (tmp_path / "sound_hash" / "__init__.py").touch()
    (tmp_path / "sound_hash" / "answers.json").write_text(
        text.replace('"algorithm": "sha256"', '"algorithm": "sound_hash"')
    )
    monkeypatch.syspath_prepend(tmp_path)
    algorithms.register(
        dataclasses.replace(sha256, name="sound_hash", aliases=(), answers="sound_hash:answers.json")
    )
    assert isinstance(algorithms.get("hmac_sound_hash").construction, Hmac)
    for name in backends_with_kernels():
        expected = it.hash_batch([MESSAGE], "hmac_sha256", key=b"key", backend="native")
        assert torch.equal(it.hash_batch([MESSAGE], "hmac_sound_hash", key=b"key", backend=name), expected)


def test_hmacs_definition_gives_the_known_answers():
    """The answers that are computed for an HMAC without known answers are right. An HMAC that has known
    answers shows it."""
    from integrity_triton.self_tests.trials import _by_definition

    record = algorithms.get("hmac_sha1")
    name = backends_with_kernels()[0]
    made = _by_definition(record, algorithms.get("sha1"), registry.get(name), CPU)
    known = {a.described(): a.digest for a in known_answers.load(record).answers}
    if name == "interpreter":  # which makes no answers to long messages
        known = {a.described(): a.digest for a in known_answers.load(record).answers if a.size <= 1024}
    assert {a.described(): a.digest for a in made} == known


def test_a_hash_without_answers_gives_no_digest():
    algorithms.register(dataclasses.replace(algorithms.get("sha256"), name="other_hash", aliases=()))
    with pytest.raises(it.SelfTestError, match=r"other_hash has no known answers.*`answers`"):
        it.hash_batch([MESSAGE], "other_hash", backend="interpreter")


def test_damaged_answers_give_no_digest(tmp_path, monkeypatch):
    (tmp_path / "damaged_hash").mkdir()
    (tmp_path / "damaged_hash" / "__init__.py").touch()
    (tmp_path / "damaged_hash" / "answers.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    sha256 = algorithms.get("sha256")
    algorithms.register(
        dataclasses.replace(sha256, name="damaged_hash", aliases=(), answers="damaged_hash:answers.json")
    )
    for _ in range(2):
        with pytest.raises(it.SelfTestError, match=r"damaged_hash: .*no known answers of format"):
            it.hash_batch([MESSAGE], "damaged_hash", backend="interpreter")


def test_a_trial_that_compares_nothing_proves_nothing(monkeypatch):
    registered("other")

    def run(host, device):
        host.execute({}, Rows.of(MESSAGE.view(1, 200)), 16)
        yield from ()

    monkeypatch.setattr(self_test, "trials", lambda *_: [Trial("nothing", "rows", 0, False, False, run)])
    for _ in range(2):
        with pytest.raises(it.SelfTestError, match="compared no digest of this kernel with a known answer"):
            it.hash_batch([MESSAGE], "md5", backend="other")


# A binary that is not what its source says

COMPILER = Path(os.environ.get("INTEGRITY_TRITON_XPU_COMPILER") or Path(sys.prefix, "xpu-compiler"))


def test_a_miscompiled_binary_gives_no_digest(broken_kernels, monkeypatch, tmp_path):
    """A compiled kernel with one wrong rotation, under the name of the sound one."""
    if not (COMPILER / "triton" / "__init__.py").exists():
        pytest.skip(f"absent: no {compiling.INTEL_COMPILER} in {COMPILER}")
    opencl = OpenClBackend()
    if not opencl.probe().available:
        pytest.skip("absent: no OpenCL device")
    record = algorithms.get("sha256")
    names = []
    sound = prebuilt.load
    monkeypatch.setattr(prebuilt, "load", lambda name: names.append(name) or sound(name))
    right = opencl.digest_batch(record, {}, Rows.of(MESSAGE.view(2, 100)), 32)
    assert bytes(right[0].tolist()) == it.sha256(bytes(range(100)), backend="native").digest()
    (name,) = set(names)
    target = next(n for n, tuning in compiling.PORTABLE.items() if tuning == opencl.tuned_for)
    wanted = compiling.specializations([record], compiling.Target.parse(target))[name]
    broken = broken_kernels("sha2", "ROTR(x, 11)", "ROTR(x, 12)")
    moved = {
        k: v.replace("integrity_triton.kernels", broken) if isinstance(v, str) else v
        for k, v in wanted.constants.items()
    }
    wrong = dataclasses.replace(
        wanted, kernel=wanted.kernel.replace("integrity_triton.kernels", broken), constants=moved
    )
    (result,) = compiling.compile_all(
        [wrong], compiling.Target.parse("xpu"), [tmp_path / "wrong"], compiler=COMPILER
    )
    assert result["entry"] == sound(name).sidecar["entry"]
    binary = (tmp_path / "wrong.spv").read_bytes()
    monkeypatch.setattr(
        prebuilt, "load", lambda name: dataclasses.replace(sound(name), name="broken", binary=binary)
    )
    miscompiled = OpenClBackend()
    assert miscompiled.probe().available
    with pytest.raises(it.SelfTestError, match="opencl on cpu fails its self-test"):
        miscompiled.digest_batch(record, {}, Rows.of(MESSAGE.view(2, 100)), 32)


# Once, and before


def test_a_kernel_is_tested_before_its_first_result_and_once():
    other = registered("other")
    tested = []
    run = self_test.SelfTests._run

    class Watched(self_test.SelfTests):
        def _run(self, trial, algorithm, device):
            tested.append(trial.label)
            run(self, trial, algorithm, device)

    other.self_tests = Watched(other)
    it.hash_batch([MESSAGE], "md5", backend="other")
    first = type(other).launches
    assert len(tested) == 1
    assert first > 1  # the launches of the trial come before that of the message
    it.hash_batch([MESSAGE], "md5", backend="other")
    assert type(other).launches == first + 1
    it.hash_batch([MESSAGE, MESSAGE[:3]], "md5", backend="other")  # a table needs another binary
    assert len(tested) == 2


def test_threads_share_one_test():
    other = registered("other")
    expected = it.hash_batch([MESSAGE], "md5", backend="native")
    runs, found = [], []
    run = other.self_tests._run
    other.self_tests._run = lambda *arguments: runs.append(1) or run(*arguments)

    def work():
        found.append(it.hash_batch([MESSAGE], "md5", backend="other"))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1
    assert all(torch.equal(digest, expected) for digest in found)
    assert len(found) == 6


def test_an_interrupt_loses_no_trial(monkeypatch):
    """Otherwise no known answer would be left to test the kernels with."""
    registered("other")
    launched, interrupts = self_test._Reach._launched, [KeyboardInterrupt] * 40

    def interrupted(*arguments):
        found = launched(*arguments)
        if interrupts:
            raise interrupts.pop()
        return found

    monkeypatch.setattr(self_test._Reach, "_launched", interrupted)
    while interrupts:
        with pytest.raises(KeyboardInterrupt):
            it.hash_batch([MESSAGE], "md5", backend="other")
    assert it.hash_batch([MESSAGE], "md5", backend="other").equal(
        it.hash_batch([MESSAGE], "md5", backend="native")
    )


def test_a_graph_that_is_captured_has_its_kernels_tested_before(monkeypatch):
    """A capture of a graph would end if the host waited for the device."""
    from integrity_triton.backends.cuda import CudaBackend

    cuda = CudaBackend()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    launch = Launch("integrity_triton.kernels.batch:hash_messages", 1, {}, {}, torch.device("cuda", 0))
    with pytest.raises(it.SelfTestError, match="while a graph is being captured"):
        cuda.admit(Request(algorithms.get("sha256"), "table"), launch, {})


# The setting


def test_off_is_explicit_and_told(broken_kernels, monkeypatch, caplog):
    registered("broken", broken_kernels("sha2", "ROTR(x, 11)", "ROTR(x, 12)"))
    monkeypatch.setenv(self_test.VARIABLE, "off")
    self_test._warn.cache_clear()
    with caplog.at_level(logging.WARNING, "integrity_triton"):
        wrong = it.hash_batch([MESSAGE], "sha256", backend="broken")
    assert "self-tests are OFF" in caplog.text
    assert not torch.equal(wrong, it.hash_batch([MESSAGE], "sha256", backend="native"))
    statuses = {status.name: status for status in it.backends()}
    assert statuses["broken"].self_test.startswith("OFF because of INTEGRITY_TRITON_SELF_TEST")
    assert statuses["native"].self_test is None
    monkeypatch.setenv(self_test.VARIABLE, "on")
    # Nothing was proven while self-tests were off.
    with pytest.raises(it.SelfTestError):
        it.hash_batch([MESSAGE], "sha256", backend="broken")


@pytest.mark.parametrize("value", ["0", "false", "OFF", "no"])
def test_a_setting_that_is_neither_is_an_error(monkeypatch, value):
    other = registered("other")
    monkeypatch.setenv(self_test.VARIABLE, value)
    with pytest.raises(ValueError, match=f"INTEGRITY_TRITON_SELF_TEST must be on or off, not '{value}'"):
        it.hash_batch([MESSAGE], "md5", backend="other")
    assert not type(other).launches


def test_devices_shows_the_setting(monkeypatch, capsys):
    cli = pytest.importorskip("integrity_triton.cli")

    def shown():
        assert cli.main(["devices"]) == 0
        return re.findall(r"self-tests (.*)", capsys.readouterr().out)

    available = [s for s in it.backends() if s.available and s.self_test is not None]
    assert shown() == ["at first use"] * len(available)
    monkeypatch.setenv(self_test.VARIABLE, "off")
    off = "OFF because of INTEGRITY_TRITON_SELF_TEST: kernels run untested"
    assert shown() == [off] * len(available)
