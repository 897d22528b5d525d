"""AES on the device: the cipher itself, and its MACs with keys and IVs of every form. No address depends on
anything secret."""

from __future__ import annotations

import itertools
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import integrity_triton as it
from bench.compile_time import TARGETS, build, compiling_for, cuobjdump, launches
from integrity_triton import algorithms
from integrity_triton.algorithms import load_reference
from integrity_triton.backends import registry
from integrity_triton.backends.triton_backend import TritonBackend
from integrity_triton.drivers.aes import encrypt, expand_keys, rounds_of
from integrity_triton.messages.layout import Rows
from support import guard, on_device, oracle, pattern, rows_as_bytes
from vector_files import records


@pytest.fixture
def host(backend, monkeypatch):
    instance = registry.get(backend)
    if not isinstance(instance, TritonBackend):
        pytest.skip("not applicable: runs no kernels")
    reason = instance.unsupported(algorithms.get("gmac_aes"))
    if reason is not None:
        pytest.skip(f"absent: {reason}")
    with_guard = guard(monkeypatch, backend)
    next(with_guard)
    yield instance.driver(algorithms.get("gmac_aes")).host
    assert next(with_guard, None) is None


def blocks_of(path: Path) -> list[tuple[bytes, bytes, bytes]]:
    """The key, the plaintext and the ciphertext of the blocks in a file. Each block of a longer plaintext is
    returned separately."""
    encrypting = path.read_text("ascii").partition("[DECRYPT]")[0].splitlines()
    found = []
    for r in records(encrypting, "COUNT"):
        key, plain, cipher = (bytes.fromhex(r[name]) for name in ("KEY", "PLAINTEXT", "CIPHERTEXT"))
        found += [(key, plain[i : i + 16], cipher[i : i + 16]) for i in range(0, len(plain), 16)]
    return found


@pytest.mark.parametrize("key_size", [16, 24, 32])
def test_the_cipher(key_size, backend, host):
    """All known answers of NIST's AESAVS for single blocks, and the example of FIPS 197, appendix C."""
    spec = find_spec("cryptography_vectors")
    if spec is None or spec.origin is None:
        pytest.skip("absent: cryptography_vectors is not installed")
    folder = Path(spec.origin).parent / "ciphers" / "AES" / "ECB"
    files = sorted(folder.glob(f"ECB*{8 * key_size}.rsp"))
    assert len(files) == 5
    answers = [answer for file in files for answer in blocks_of(file)]
    appendix = {16: "69c4e0d86a7b0430d8cdb78070b4c55a", 24: "dda97ca4864cdfe06eaf70a0ec0d7191"}
    appendix[32] = "8ea2b7ca516745bfeafc49904b496089"
    plain = bytes.fromhex("00112233445566778899aabbccddeeff")
    answers.append((bytes(range(key_size)), plain, bytes.fromhex(appendix[key_size])))
    assert len(answers) > 300
    keys, blocks = (
        on_device(b"".join(a[i] for a in answers), backend).view(len(answers), -1) for i in (0, 1)
    )
    round_keys = expand_keys(host, Rows.of(keys))
    found = encrypt(host, round_keys, blocks, rounds_of(key_size))
    assert rows_as_bytes(found) == [cipher for _, _, cipher in answers]
    one_key = encrypt(host, round_keys[-1:], blocks[-1:].repeat(3, 1), rounds_of(key_size))
    assert rows_as_bytes(one_key) == [answers[-1][2]] * 3


@pytest.mark.slow_if(lambda backend: backend == "interpreter")
@pytest.mark.parametrize("own_keys", [False, True])
@pytest.mark.parametrize("sizes", [(12,), (1,), (16,), (1, 11, 12, 13, 15, 16, 17, 60)])
def test_initialization_vectors(own_keys, sizes, backend):
    record = algorithms.get("gmac_aes")
    reason = registry.get(backend).unsupported(record)
    if reason is not None:
        pytest.skip(f"absent: {reason}")
    messages = [pattern(n) for n in (0, 1, 15, 16, 17, 32, 40, 5)]
    keys = (
        [pattern(40 + i)[i : i + (16, 24, 32)[i % 3]] for i in range(8)]
        if own_keys
        else [bytes(range(16))] * 8
    )
    ivs = [pattern(100 + i)[i : i + sizes[i % len(sizes)]] for i in range(8)]
    digests = it.hash_batch(messages, "gmac_aes", key=keys if own_keys else keys[0], iv=ivs, backend=backend)
    assert rows_as_bytes(digests) == [
        oracle(record, m, key=k, iv=v) for m, k, v in zip(messages, keys, ivs, strict=True)
    ]
    shared = it.hash_batch(
        messages, "gmac_aes", key=keys if own_keys else keys[0], iv=ivs[0], backend=backend
    )
    assert rows_as_bytes(shared) == [
        oracle(record, m, key=k, iv=ivs[0]) for m, k in zip(messages, keys, strict=True)
    ]


def test_keys_of_several_sizes_in_a_batch(backend):
    record = algorithms.get("cmac_aes")
    reason = registry.get(backend).unsupported(record)
    if reason is not None:
        pytest.skip(f"absent: {reason}")
    keys = [pattern(size + i)[i:] for i, size in enumerate((16, 32, 24, 16, 24, 32, 32))]
    messages = [pattern(n) for n in (0, 16, 17, 15, 32, 1, 31)]
    digests = it.hash_batch(messages, "cmac_aes", key=keys, digest_size=9, backend=backend)
    assert rows_as_bytes(digests) == [
        oracle(record, m, key=k, digest_size=9) for m, k in zip(messages, keys, strict=True)
    ]


def loads(sass: str) -> list[str]:
    """The instructions of a kernel that load from memory, except those that load the kernel's arguments."""
    instructions = re.findall(r"\n\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", sass)
    assert len(instructions) > 100
    assert not any(re.search(r"\bBRX|\bJMX", line) for line in instructions), "a branch to a computed place"
    constant = [line for line in instructions if re.search(r"\b(U?LDCU?)\b", line)]
    assert not any(re.search(r"c\[[^\]]*\]\[U?R\d", line) for line in constant), "an indexed constant"
    return [line for line in instructions if re.search(r"\bLD(G|L|S)?\b", line)]


@pytest.mark.slow_if(lambda target: target == "cuda:90")
@pytest.mark.parametrize(
    "target",
    [
        pytest.param(name, marks=() if name == "cuda:90" else pytest.mark.exhaustive)
        for name in TARGETS
        if name.startswith("cuda")
    ],
)
def test_no_address_depends_on_what_is_secret(target, tmp_path):
    """The compiled kernels load a fixed number of words of keys and messages, from addresses that do not
    depend on their values. If the S-box were a table, each round would load from it sixteen times."""
    round_keys = 3 * 8  # for the first round, the last round, and a round of the loop
    expected = {
        "aes_encrypt_blocks": 4 + round_keys,
        "aes_expand_keys": 8,
        "cmac_subkeys": round_keys,
        # These are the state, both subkeys, the round keys, and the block of the message, which is loaded at
        # once.
        "cmac_block": 4 + 8 + round_keys + 1,
        # These are the table and both ends of the program's lengths; the state, the subkey and the mask; and
        # the block, which is loaded at once.
        "gmac_block": 3 + 2 + 2 + 4 + 1,
    }
    found = {}
    wanted = launches("cuda", records=[algorithms.get("cmac_aes"), algorithms.get("gmac_aes")])
    counter = itertools.count()
    for launch, options in itertools.chain(*wanted.values()):
        with compiling_for(target, tmp_path / str(next(counter))):
            done = build(launch, options)
        sass = cuobjdump("-sass", done.binary)
        if sass is None:
            pytest.skip("absent: Triton brings no cuobjdump")
        name = launch.constants.get("BLOCK", launch.kernel).partition(":")[2]
        found[name] = len(loads(sass))
    assert found == expected


def test_the_library_adapters_copy_and_truncate():
    for name, parameters in (("cmac_aes", {}), ("gmac_aes", {"iv": bytes(12)})):
        record = algorithms.get(name)
        assert record.native is not None
        try:
            make = load_reference(record.native)
        except (ImportError, AttributeError):
            pytest.skip(f"absent: no library has {name}")
        hasher = make(key=bytes(24), digest_size=13, **parameters)
        hasher.update(b"ab")
        twin = hasher.copy()
        hasher.update(memoryview(b"c"))
        for data, object_ in ((b"abc", hasher), (b"ab", twin), (b"abc", hasher)):
            expected = oracle(record, data, key=bytes(24), digest_size=13, **parameters)
            assert object_.digest() == expected
