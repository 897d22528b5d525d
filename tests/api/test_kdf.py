"""Compares HKDF and PBKDF2 with the vectors of the RFCs and with other implementations."""

from __future__ import annotations

import hashlib
import hmac

import pytest
import torch

import integrity_triton as it
from integrity_triton.backends import registry
from support import device_of, guard, has_module, on_device, rows_as_bytes
from vector_files import vector_lines

# One hash for each word size and byte order, one whose digest ends within a word, a sponge, and a tree.
HASHES = ["sha256", "sha512", "sha512_224", "sha1", "md5", "sha3_256", "blake2b", "sm3", "blake3"]
PASSWORDS = [b"password", b"", b"x" * 200]


@pytest.fixture(autouse=True)
def guarded(request, monkeypatch):
    if "backend" not in request.fixturenames:
        yield
        return
    yield from guard(monkeypatch, request.getfixturevalue("backend"))


@pytest.fixture(params=HASHES)
def name(request, backend):
    if backend == "interpreter" and request.param not in ("sha256", "sha512_224", "blake2b"):
        pytest.skip("not applicable: the same kernels as another's")
    reason = registry.get(backend).unsupported(it.algorithms.get(f"hmac_{request.param}"))
    if reason is not None:
        pytest.skip(f"absent: {reason}")
    return request.param


# The default tier runs one hash in the interpreter. On other backends it runs one hash for each word size and
# for each way to finish.
BY_DEFAULT = {"interpreter": ("sha256",)}
slow_for_others = pytest.mark.slow_if(
    lambda name, backend: name not in BY_DEFAULT.get(backend, ("sha1", "sha256", "sha512", "blake2b"))
)


def mac(name: str, key: bytes, data: bytes) -> bytes:
    if name == "blake3":
        return hmac.new(key, data, pytest.importorskip("blake3").blake3).digest()
    return hmac.new(key, data, name).digest()


def hkdf(name: str, material: bytes, length: int, salt: bytes, info: bytes) -> bytes:
    """RFC 5869, section 2."""
    key = mac(name, salt or bytes(it.algorithms.get(name).digest_size), material)
    block, out = b"", b""
    for i in range(-(-length // it.algorithms.get(name).digest_size)):
        block = mac(name, key, block + info + bytes([i + 1]))
        out += block
    return out[:length]


def pbkdf2(name: str, password: bytes, salt: bytes, iterations: int, length: int) -> bytes:
    if name != "blake3":
        return hashlib.pbkdf2_hmac(name, password, salt, iterations, length)
    out = b""
    for i in range(1, length // 32 + 2):
        u = mac(name, password, salt + i.to_bytes(4, "big"))
        total = int.from_bytes(u, "big")
        for _ in range(iterations - 1):
            u = mac(name, password, u)
            total ^= int.from_bytes(u, "big")
        out += total.to_bytes(32, "big")
    return out[:length]


@slow_for_others
@pytest.mark.rotating(3)
def test_hkdf(name, backend):
    material = [b"k" * 22, b"", b"bb" * 100]
    keys = it.hkdf_batch(material, name, length=83, salt=b"salt", info=b"info", backend=backend)
    assert keys.device.type == device_of(backend).type
    assert rows_as_bytes(keys) == [hkdf(name, m, 83, b"salt", b"info") for m in material]
    salts = [b"1", b"2" * 150, b"3"]
    keys = it.hkdf_batch(material, name, length=5, salt=salts, backend=backend)
    assert rows_as_bytes(keys) == [hkdf(name, m, 5, s, b"") for m, s in zip(material, salts, strict=True)]
    rows = on_device(bytes(range(60)), backend).reshape(3, 20)
    keys = it.hkdf_batch(rows, name, length=16, backend=backend)
    assert rows_as_bytes(keys) == [
        hkdf(name, bytes(range(20 * i, 20 * i + 20)), 16, b"", b"") for i in range(3)
    ]


@slow_for_others
@pytest.mark.rotating(3)
def test_pbkdf2(name, backend):
    for iterations, length in ((1, 7), (2, None), (5, 100)):
        keys = it.pbkdf2_batch(
            PASSWORDS, name, salt=b"NaCl", iterations=iterations, length=length, backend=backend
        )
        size = length or it.algorithms.get(name).digest_size
        assert rows_as_bytes(keys) == [pbkdf2(name, p, b"NaCl", iterations, size) for p in PASSWORDS]
    salts = [b"", b"a", b"cc" * 90]
    keys = it.pbkdf2_batch(PASSWORDS, name, salt=salts, iterations=3, length=70, backend=backend)
    expected = [pbkdf2(name, p, s, 3, 70) for p, s in zip(PASSWORDS, salts, strict=True)]
    assert rows_as_bytes(keys) == expected
    rows = on_device(b"12345678abcdefgh", backend).reshape(2, 8)
    keys = it.pbkdf2_batch(rows, name, salt=b"", iterations=2, backend=backend)
    size = keys.shape[1]
    assert rows_as_bytes(keys) == [pbkdf2(name, p, b"", 2, size) for p in (b"12345678", b"abcdefgh")]


def test_many_passwords(backend, small_tiles):
    count = 6 if backend == "interpreter" else 700
    passwords = [f"password {i}".encode() for i in range(count)]
    keys = it.pbkdf2_batch(passwords, "sha256", salt=b"s", iterations=3, backend=backend)
    assert rows_as_bytes(keys) == [hashlib.pbkdf2_hmac("sha256", p, b"s", 3) for p in passwords]


def answers(file: str) -> list[dict[str, str]]:
    """The ``key = value`` records of a file. Each record starts with its COUNT."""
    found: list[dict[str, str]] = []
    for line in vector_lines("cryptography_vectors", f"KDF/{file}"):
        key, equals, value = (part.strip() for part in line.partition("="))
        if key == "COUNT":
            found.append({})
        elif equals and not line.startswith("#"):
            found[-1][key] = value
    return found


HKDF_FILES = ["rfc-5869-HKDF-SHA1.txt", "rfc-5869-HKDF-SHA256.txt", "hkdf-generated.txt"]


@pytest.mark.slow_if(lambda backend: backend == "interpreter")
@pytest.mark.parametrize("file", HKDF_FILES)
def test_vectors_of_hkdf(file, backend):
    if not has_module("cryptography_vectors"):
        pytest.skip("absent: cryptography_vectors is not installed")
    found = answers(file)
    assert len(found) == {"hkdf-generated.txt": 1, "rfc-5869-HKDF-SHA1.txt": 4}.get(file, 3)
    for r in found:
        length = int(r["L"])
        if backend == "interpreter" and length > 100:
            continue
        salt, info = (bytes.fromhex(r.get(k, "")) for k in ("salt", "info"))
        name = r["Hash"].lower().replace("-", "")
        (key,) = it.hkdf_batch(
            [bytes.fromhex(r["IKM"])], name, length=length, salt=salt, info=info, backend=backend
        )
        assert bytes(key.tolist()).hex() == r["OKM"]


def test_vectors_of_pbkdf2(backend):
    if not has_module("cryptography_vectors"):
        pytest.skip("absent: cryptography_vectors is not installed")
    found = answers("rfc-6070-PBKDF2-SHA1.txt")
    assert len(found) == 6
    for r in found:
        iterations = int(r["ITERATIONS"])
        # Sixteen million iterations take ten seconds in OpenSSL, and longer in a lane of a device.
        if iterations > (10 if backend == "interpreter" else 10000):
            continue
        password, salt = (r[k].replace("\\0", "\0").encode() for k in ("PASSWORD", "SALT"))
        (key,) = it.pbkdf2_batch(
            [password], "sha1", salt=salt, iterations=iterations, length=int(r["LENGTH"]), backend=backend
        )
        assert bytes(key.tolist()).hex() == r["DERIVED_KEY"]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: it.hkdf_batch([b""], "crc32", length=1), ValueError, "no HMAC over crc32"),
        (lambda: it.hkdf_batch([b""], "nothing", length=1), ValueError, "unknown algorithm"),
        (lambda: it.hkdf_batch([b""], "sha256", length=0), ValueError, "length must be between 1 and 8160"),
        (lambda: it.hkdf_batch([b""], "sha256", length=8161), ValueError, "length must be between"),
        (lambda: it.hkdf_batch([b""], "sha256", length=1.5), TypeError, "length must be int"),
        (lambda: it.hkdf_batch(b"", "sha256", length=1), TypeError, "a batch is a sequence"),
        (lambda: it.hkdf_batch([b"", b""], "sha256", length=1, salt=[b"s"]), ValueError, "1 values for 2"),
        (lambda: it.hkdf_batch([b"a"], "sha256", length=1, salt=[b""]), ValueError, "a salt is empty"),
        (lambda: it.hkdf_batch([b"a"], "sha256", length=1, info="text"), TypeError, "text must be encoded"),
        (lambda: it.pbkdf2_batch([b""], "sha256", salt=b"", iterations=0), ValueError, "iterations must be"),
        (lambda: it.pbkdf2_batch([b""], "sha256", salt="", iterations=1), TypeError, "text must be encoded"),
        (lambda: it.pbkdf2_batch([b""], "shake_128", salt=b"", iterations=1), ValueError, "no HMAC over"),
    ],
)
def test_what_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_no_passwords():
    assert it.pbkdf2_batch([], "sha256", salt=b"", iterations=1).shape == (0, 32)
    assert it.hkdf_batch([], "sha256", length=9).shape == (0, 9)
    assert it.hkdf_batch(torch.empty((0, 4), dtype=torch.uint8), "sha256", length=9).shape == (0, 9)
