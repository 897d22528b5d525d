"""SGLang's tensor hash and its answers about weights, beside SGLang's own code."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import integrity_triton as it
from integrity_triton.integrations import sglang
from support import pattern

KERNEL = "sglang/kernels/ops/memory/gpu_tensor_hash.py"
CHECKER = "sglang/srt/utils/weight_checker.py"
# The lengths in bytes around a word, a block of SGLang's kernel, its tile, and several tiles.
LENGTHS = (
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    1023,
    1024,
    1028,
    4 * 8191,
    4 * 8192 - 3,
    4 * 8192,
    4 * 8192 + 1,
    3 * 4 * 8192 + 6,
)

# SGLang's function asserts that its tensor is on CUDA. Python's -O leaves out assertions, so that its kernels
# can run in Triton's interpreter, from the unchanged file.
HASH = """
import importlib.util, json, sys, torch
spec = importlib.util.spec_from_file_location("gpu_tensor_hash", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
hashes = [module.gpu_tensor_hash(tensor, **options) for tensor, options in torch.load(sys.argv[2])]
print(json.dumps(hashes))
"""


@pytest.fixture(scope="module")
def theirs(other_project, tmp_path_factory):
    """A function that gives the hashes that SGLang's kernels compute of (tensor, options)."""
    pytest.importorskip("triton", reason="absent: triton")
    kernel = other_project("sglang") / KERNEL
    file = tmp_path_factory.mktemp("sglang") / "tensors.pt"

    def run(cases):
        torch.save(cases, file)
        result = subprocess.run(
            [sys.executable, "-O", "-c", HASH, kernel, file],
            env={**os.environ, "TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    return run


def random_bytes(length: int) -> torch.Tensor:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length)).to(torch.uint8)


@pytest.mark.slow
def test_the_tensor_hash(theirs):
    """Of all lengths around the borders of words, blocks and tiles; dtypes; layouts; seeds."""
    values = torch.arange(300, dtype=torch.float32) * 1.7 - 40
    cases = [(make(length), {}) for make in (random_bytes, known) for length in LENGTHS]
    cases += [
        (torch.full((length,), byte, dtype=torch.uint8), {}) for length in (5, 33000) for byte in (0, 255)
    ]
    cases += [
        (values.to(dtype), {})
        for dtype in (
            torch.float16,
            torch.bfloat16,
            torch.float64,
            torch.float8_e4m3fn,
            torch.int8,
            torch.int64,
        )
    ]
    cases += [(values.view(20, 15).t(), {}), (values[::3], {}), (values[7], {}), (values[:0], {})]
    cases += [(values.bool(), {}), (random_bytes(70_001)[1:], {}), (random_bytes(70_003)[2:70_000], {})]
    cases += [(random_bytes(40_000), {"seed": seed}) for seed in (0, 1, 0xFFFFFFFF, 0x80000000)]
    ours = [sglang.tensor_hash(tensor, **options) for tensor, options in cases]
    # SGLang refuses bytes that do not begin at a word of their storage.
    aligned = [
        (x if x.storage_offset() * x.element_size() % 4 == 0 else x.clone(), options) for x, options in cases
    ]
    assert ours == theirs(aligned)
    assert sglang.tensor_hashes([tensor for tensor, options in cases if not options]) == ours[:-4]


@pytest.mark.slow
def test_a_tensor_of_several_blocks_of_ours(theirs):
    """More words than are hashed at the same time on the CPU, and not a whole number of tiles."""
    tensor = random_bytes(4 * (sglang._HOST_WORDS + 8192 + 77) + 2)
    assert [sglang.tensor_hash(tensor)] == theirs([(tensor, {})])


def known(length: int) -> torch.Tensor:
    return torch.frombuffer(bytearray(pattern(length)), dtype=torch.uint8)


# Computed by SGLang 0.5.23's kernels in Triton's interpreter, as above.
KNOWN = {
    1: "3d93a6540b54ef2a",
    2: "8efee666c814e8db",
    3: "0a97cf45c78490e5",
    4: "d5c10aceba95ba56",
    5: "5378e41554869438",
    7: "d9e9661b18c29da2",
    8: "74a1eedacef3a978",
    1023: "93578475dd77eacb",
    1024: "e1aab4d479e890e9",
    1028: "2f328921011dfa63",
    32764: "792b0ad3bbc2d9f0",
    32765: "e2010e9660960881",
    32768: "8255c2cc6a5a1f27",
    32769: "78d2ea5d936b3ef4",
    98310: "346e3dfe01c26ba1",
}


@pytest.mark.parametrize("length", LENGTHS)
def test_known_hashes(length):
    assert f"{sglang.tensor_hash(known(length)):016x}" == KNOWN[length]


def test_blocks_of_any_size_give_one_hash(monkeypatch):
    tensor = random_bytes(4 * 8192 * 7 + 13)
    expected = sglang.tensor_hash(tensor)
    for words in (8192, 3 * 8192):
        monkeypatch.setattr(sglang, "_HOST_WORDS", words)
        assert sglang.tensor_hash(tensor) == expected


def test_a_tensor_that_is_too_long():
    long = torch.empty(1, dtype=torch.uint8).expand((8 << 30) + 1)
    with pytest.raises(
        ValueError, match="at most 2147483648 words of 4 bytes, and the tensor has 2147483649"
    ):
        sglang.tensor_hash(long)


def test_tensors_without_bytes():
    with pytest.raises(ValueError, match="a meta tensor has no data"):
        sglang.tensor_hash(torch.empty(3, device="meta"))
    with pytest.raises(ValueError, match=r"tensor 'weight': a meta tensor has no data"):
        sglang.model_checksums(nn.Linear(2, 2, device="meta"))


def test_zero_bytes_at_the_end_do_not_count():
    """The first weakness that the module's docstring names."""
    assert len({sglang.tensor_hash(torch.tensor([7, *[0] * n], dtype=torch.uint8)) for n in range(4)}) == 1


def _contributions(words: np.ndarray, position: int) -> np.ndarray:
    """What SGLang's kernel adds for each of ``words`` at a position of the first tile: two columns."""
    u = np.uint32
    columns = []
    for factor, seed, distance in ((0x27D4EB2D, 0x243F6A88, 15), (0x165667B1, None, 13)):
        offset = seed if seed is not None else (0x243F6A88 * 0x9E3779B1 ^ 0xDEADBEEF) & 0xFFFFFFFF
        place = (position * factor + offset) & 0xFFFFFFFF
        place ^= (position << distance | position >> (32 - distance)) & 0xFFFFFFFF
        x = words ^ u(place)
        for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            x = (x ^ (x >> u(shift))) * u(multiplier)
        columns.append(x)
    return np.stack(columns, 1)


def test_a_second_preimage_takes_seconds():
    """The second weakness: other words for the first eight of a tensor, by merging sorted lists (Wagner)."""
    target = random_bytes(4 * 9000)
    words = target.view(torch.int32).numpy().view(np.uint32)
    generator = np.random.default_rng(1)

    def merged(a, b, column, low, bits):
        """Sums of an element of each list that are 0 in some bits of a column, with their choices."""
        (sums_a, from_a), (sums_b, from_b) = a, b
        keys = (sums_b[:, column] >> np.uint32(low)) & np.uint32((1 << bits) - 1)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        needed = np.uint32(0) - sums_a[:, column]
        # The bits below are equal already, so that no carry from them gets lost.
        needed = (needed >> np.uint32(low)) & np.uint32((1 << bits) - 1)
        first, last = np.searchsorted(keys, needed, "left"), np.searchsorted(keys, needed, "right")
        counts = last - first
        left = np.repeat(np.arange(len(sums_a)), counts)
        right = order[
            np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
        ]
        return sums_a[left] + sums_b[right], np.concatenate([from_a[left], from_b[right]], 1)

    with np.errstate(over="ignore"):
        lists = []
        for position in range(8):
            choices = generator.integers(0, 1 << 32, 1 << 17, dtype=np.uint32)
            lists.append((_contributions(choices, position), choices[:, None]))
        goal = sum(_contributions(words[i : i + 1], i)[0] for i in range(8)).astype(np.uint32)
        lists[0] = (lists[0][0] - goal, lists[0][1])
        pairs = [merged(lists[i], lists[i + 1], 0, 0, 17) for i in range(0, 8, 2)]
        fours = [merged(pairs[0], pairs[1], 0, 17, 15), merged(pairs[2], pairs[3], 0, 17, 15)]
        _, found = merged(*fours, 1, 0, 32)
    assert len(found)
    forged = target.clone()
    forged.view(torch.int32)[:8] = torch.from_numpy(found[0].view(np.int32))
    assert not torch.equal(forged, target)
    assert sglang.tensor_hash(forged) == sglang.tensor_hash(target)
    assert it.blake3(forged).digest() != it.blake3(target).digest()


def _functions(path: Path, *names: str) -> list[ast.stmt]:
    """The functions and methods of these names in a file, as functions."""
    tree = ast.parse(path.read_text("utf-8"))
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in names
    ]
    assert sorted(node.name for node in found) == sorted(names)
    return found


def _execute(path: Path, *names: str, **globals_: object) -> dict:
    module = ast.Module(
        [ast.ImportFrom("__future__", [ast.alias("annotations")], 0), *_functions(path, *names)], []
    )
    exec(compile(ast.fix_missing_locations(module), path, "exec"), globals_)
    return globals_


@pytest.fixture
def checker(other_project, monkeypatch):
    """SGLang's ``weight_checker.py``, from its file, for a process without a group.

    In the place of what it imports of SGLang are: ``tensor_hash``, from the text of its own file; a platform
    that has nothing to wait for; the placement of one rank; and, for the weights of which no module here is
    quantised by SGLang, classes that tell so.
    """
    folder = other_project("sglang")
    pytest.importorskip("pydantic", reason="absent: pydantic")
    names = _execute(folder / "sglang/srt/managers/mm_utils.py", "tensor_hash", hashlib=hashlib, torch=torch)

    class Raw:
        def __init__(self, tensor):
            self.tensor = tensor

        def dequantize(self):
            return self.tensor

    class Block(Raw):
        def __init__(self, tensor, scale, is_shuffled):
            super().__init__((tensor.float() * scale).bfloat16())

    parallel = types.SimpleNamespace(tp_rank=1, tp_size=2, dp_rank=None, attn_dp_size=1, pp_rank=0, pp_size=1)
    fakes = {
        "sglang.srt.managers.mm_utils": {"tensor_hash": names["tensor_hash"]},
        "sglang.srt.mem_cache.storage.mmap.mmap_allocator": {"alloc_mmap": None},
        "sglang.srt.platforms": {"current_platform": types.SimpleNamespace(synchronize=lambda: None)},
        "sglang.srt.runtime_context": {"get_parallel": lambda: parallel},
        "sglang.srt.utils.weight_checker_comparator": {
            "CHUNK_NUMEL": 1,
            "ComparableWeight": Raw,
            "RawComparable": Raw,
            "compare_weights": None,
            "select_comparable_weight": lambda method: Block if method == "fp8 in blocks" else None,
        },
    }
    for name in fakes:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            module = types.ModuleType(".".join(parts[:end]))
            module.__path__ = []
            if module.__name__ not in sys.modules or end == len(parts):
                vars(module).update(fakes.get(module.__name__, {}))
                monkeypatch.setitem(sys.modules, module.__name__, module)
    name = "sglang.srt.utils.weight_checker"
    spec = importlib.util.spec_from_file_location(name, folder / CHECKER)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


class Model(nn.Module):
    """Parameters, buffers, tied weights, names that SGLang leaves out, and a weight quantised in blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight
        self.rope = nn.Module()
        self.rope.register_buffer("inv_freq", torch.arange(3.0))
        self.rope.register_buffer("cos_sin_cache", torch.arange(4.0))
        self.kept = nn.Parameter(torch.ones(2), requires_grad=False)
        self.kept._skip_weight_check = True
        self.a = nn.Linear(4, 4, dtype=torch.bfloat16)

    def quantised(self) -> Model:
        linear = nn.Module()
        linear.weight = nn.Parameter(
            torch.arange(12.0).view(3, 4).to(torch.float8_e4m3fn), requires_grad=False
        )
        linear.weight_scale_inv = nn.Parameter(torch.tensor([[0.25]]), requires_grad=False)
        linear.quant_method = "fp8 in blocks"
        self.fp8 = linear
        return self


def dequantize(weight, scale, module):
    return (weight.float() * scale).bfloat16()


def test_which_tensors_by_which_names(checker):
    model = Model().quantised()
    for skip in ((), ("norm.", "embed"), ("fp8",)):
        theirs = checker.WeightChecker(get_model=lambda: model).handle(
            "checksum", False, list(skip), role="target"
        )
        ours = sglang.model_checksums(model, algorithm="sha256_64", skip=skip, dequantize=dequantize)
        assert list(ours.items()) == list(theirs["checksums"].items())
        assert sglang.checksum_info(ours, tp=(1, 2)) == theirs
        assert "fp8.weight" in ours and "fp8.weight_scale_inv" not in ours and "kept" not in ours
    assert "head.weight" not in sglang.model_checksums(Model())


@pytest.mark.parametrize("name", ["gpu_tensor_hash", "blake3", "sha256"])
def test_the_same_shape_with_another_hash(name):
    model = Model().quantised()
    found = sglang.model_checksums(model, algorithm=name, dequantize=dequantize)
    assert list(found) == list(sglang.model_checksums(model, algorithm="sha256_64", dequantize=dequantize))
    weight = model.a.weight
    expected = (
        f"{sglang.tensor_hash(weight):016x}"
        if name == "gpu_tensor_hash"
        else it.new(name, weight).hexdigest()
    )
    assert found["a.weight"] == expected


def test_the_names_that_are_left_out(other_project):
    path = other_project("sglang") / "sglang/srt/utils/weight_checker.py"
    [patterns] = [
        node.value
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "_NON_PERSISTENT_BUFFER_PATTERNS"
    ]
    assert ast.literal_eval(patterns) == sglang.SKIPPED


def test_a_hash_with_leading_zeros_has_all_digits():
    module = nn.Module()
    module.empty = nn.Parameter(torch.zeros(0))
    assert sglang.model_checksums(module) == {"empty": "0" * 16}


def test_a_quantised_weight_needs_its_dequantisation():
    with pytest.raises(ValueError, match=r"'fp8\.weight' is quantised in blocks.*pass dequantize"):
        sglang.model_checksums(Model().quantised())


def test_in_sglang(checker):
    """SGLang's own checker, with BLAKE3 in the place of its hash."""
    model = Model().quantised()
    with pytest.raises(ValueError, match="needs a key"):
        sglang.hash_in_sglang("siphash24")
    sglang.hash_in_sglang("blake3")
    theirs = checker.WeightChecker(get_model=lambda: model).handle("checksum", role="target")
    assert theirs["checksums"] == sglang.model_checksums(model, algorithm="blake3", dequantize=dequantize)
    sglang.hash_in_sglang("gpu_tensor_hash")
    theirs = checker.WeightChecker(get_model=lambda: model).handle("checksum", role="target")
    assert theirs["checksums"] == sglang.model_checksums(model, dequantize=dequantize)
    del checker._hash_tensor
    with pytest.raises(ImportError, match="has no _hash_tensor"):
        sglang.hash_in_sglang()


def test_roles_and_ranks(other_project, checker):
    """SGLang's own merge of a target with its drafts, and of ranks."""
    srt = other_project("sglang") / "sglang/srt/managers"
    merge = _execute(
        srt / "scheduler_components/weight_updater.py",
        "_merge_checksum_payloads",
        overall_checksum=checker.overall_checksum,
    )["_merge_checksum_payloads"]
    roles = {"target": {"b": "02", "a": "01"}, "draft": {"a": "03"}, "draft_step_1": {"a": "04"}}
    theirs = merge([(role, sglang.checksum_info(sums, role=role)) for role, sums in roles.items()])
    ours = sglang.merge_roles(roles)
    assert list(ours.items()) == list(theirs["checksums"].items())
    assert sglang.overall_checksum(ours) == theirs["per_gpu_checksum"]
    clash = {"target": {"draft.a": "01"}, "draft": {"a": "02"}}
    with pytest.raises(ValueError, match=r"two tensors are named 'draft\.a'"):
        sglang.merge_roles(clash)

    ranks = [types.SimpleNamespace(per_gpu_checksum=sglang.overall_checksum({"w": str(i)})) for i in range(3)]
    check = _execute(
        srt / "tokenizer_control_mixin.py",
        "check_weights",
        hashlib=hashlib,
        msgspec_to_builtins=vars,
        FanOutCommunicator=types.SimpleNamespace(merge_results=lambda results: (True, "")),
    )["check_weights"]

    async def communicator(_):
        return [types.SimpleNamespace(payload=ranks[:2]), types.SimpleNamespace(payload=ranks[2:])]

    manager = types.SimpleNamespace(
        auto_create_handle_loop=lambda: None, check_weights_communicator=communicator
    )
    *_, engine = asyncio.run(check(manager, None))
    assert sglang.engine_checksum(rank.per_gpu_checksum for rank in ranks) == engine
