"""Compares tags with those of the command ``openssl mac``, an implementation that no other test uses."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.backends import registry
from support import oracle, pattern

KEY16, KEY32 = pattern(17)[1:], pattern(35)[3:]
# Our name and parameters, and the name and the options of the command, without the key.
CASES = [
    ("hmac_sha1", {"key": KEY16}, "HMAC", ["digest:SHA1"]),
    ("hmac_sha256", {"key": KEY32}, "HMAC", ["digest:SHA256"]),
    ("hmac_sha512_256", {"key": KEY32}, "HMAC", ["digest:SHA512-256"]),
    ("hmac_sha3_384", {"key": KEY32}, "HMAC", ["digest:SHA3-384"]),
    ("hmac_blake2b", {"key": pattern(200)}, "HMAC", ["digest:BLAKE2B-512"]),
    ("kmac_128", {"key": KEY32}, "KMAC-128", []),
    ("kmac_128", {"key": KEY16, "customization": b"weights", "digest_size": 20}, "KMAC-128", None),
    ("kmac_256", {"key": KEY32, "digest_size": 100}, "KMAC-256", ["size:100"]),
    ("kmacxof_256", {"key": KEY32}, "KMAC-256", ["xof:1"]),
    ("blake2b", {"key": KEY32}, "BLAKE2BMAC", []),
    ("blake2s", {"key": KEY16, "digest_size": 16}, "BLAKE2SMAC", ["size:16"]),
    ("siphash_2_4", {"key": KEY16}, "SIPHASH", ["size:8"]),
    ("siphash_2_4", {"key": KEY16, "digest_size": 16}, "SIPHASH", ["size:16"]),
    ("cmac_aes", {"key": KEY16}, "CMAC", ["cipher:AES-128-CBC"]),
    ("cmac_aes", {"key": KEY32}, "CMAC", ["cipher:AES-256-CBC"]),
    ("gmac_aes", {"key": KEY16, "iv": pattern(12)}, "GMAC", ["cipher:AES-128-GCM"]),
    ("gmac_aes", {"key": KEY32, "iv": pattern(60)}, "GMAC", ["cipher:AES-256-GCM"]),
    ("poly1305", {"key": KEY32}, "POLY1305", []),
]


def command(parameters, kind, options):
    found = ["openssl", "mac", "-macopt", f"hexkey:{parameters['key'].hex()}"]
    if options is None:
        options = [f"size:{parameters['digest_size']}", f"custom:{parameters['customization'].decode()}"]
    if "iv" in parameters:
        options = [*options, f"hexiv:{parameters['iv'].hex()}"]
    for option in options:
        found += ["-macopt", option]
    return [*found, kind]


@pytest.fixture
def openssl():
    if shutil.which("openssl") is None:
        pytest.skip("absent: there is no command openssl")

    def run(arguments, message):
        # Only some versions of the command read standard input for "-in -"; all versions read a file.
        done = subprocess.run(
            [*arguments[:2], "-in", "/dev/stdin", *arguments[2:]],
            input=message,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"absent: openssl has no such MAC: {done.stderr.decode()[-120:]}")
        return bytes.fromhex(done.stdout.decode().strip())

    return run


@pytest.mark.parametrize(
    ("name", "parameters", "kind", "options"),
    [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(CASES)],
)
def test_tags_are_openssls(name, parameters, kind, options, openssl):
    record = algorithms.get(name)
    able = [b.name for b in registry.statuses() if b.available and not b.for_tests]
    able = [b for b in able if registry.get(b).unsupported(record) is None]
    for n in (0, 1, 16, 63, 300):
        tag = openssl(command(parameters, kind, options), pattern(n))
        assert oracle(record, pattern(n), **parameters) == tag, n
        for backend in able:
            assert it.new(name, pattern(n), backend=backend, **parameters).digest() == tag, (n, backend)
