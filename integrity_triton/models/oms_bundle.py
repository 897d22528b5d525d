"""The signature of OpenSSF Model Signing 1.0 as a file: what it states, and how that is written and read.

A Sigstore bundle holds a DSSE envelope, which holds an in-toto statement. What is read is untrusted: the
signature over the statement is verified before any byte of the statement is parsed. Sections are those of
``spec/v1.0.md`` in ossf/model-signing-spec, of 15 May 2026.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from .. import algorithms
from ..errors import IntegrityTritonError
from ..strict_json import parse_object, shown
from .dsse import IN_TOTO, pre_authentication_encoding
from .file_kinds import JSON, mistaken_for
from .model_tree import SINGLE_FILE

LARGEST_SHARD = (1 << 63) - 1
"""Bytes."""

MAX_CERTIFICATES = 16
"""How many certificates a bundle may have."""

MAX_CERTIFICATE_SIZE = 64 << 10
"""Bytes of one certificate in a bundle."""

GIT_PATHS = (".git", ".gitattributes", ".github", ".gitignore")
"""What OMS leaves out of every model (section 6.2)."""

_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
# The types of versions 0.1 to 0.3; version 0.3 has two spellings.
_BUNDLE_TYPES = re.compile(r"application/vnd\.dev\.sigstore\.bundle(\+json;version=0\.[123]|\.v0\.3\+json)")
# The member of the verification material that each signing method of section 4.1 has.
_METHODS = {"publicKey": "key", "x509CertificateChain": "certificate", "certificate": "sigstore"}
# OMS's name of a hash, which is also its name here, and the size of its digests in bytes.
_DIGEST_SIZES = {"sha256": 32, "blake2b": 64, "blake3": 32}
_SHARD_NAME = re.compile(r"(?P<path>.+):(?P<start>0|[1-9][0-9]{0,18}):(?P<end>[1-9][0-9]{0,18})\Z", re.DOTALL)
_EMPTY_FILES = "integrity_triton:empty_files"


class SignatureFormatError(IntegrityTritonError, ValueError):
    """A signature that is not a well-formed OMS bundle, or of a kind that is not supported."""


def supported_hashes() -> list[str]:
    """The hashes of OMS that this package has and trusts."""
    secure = {r.name for r in algorithms.all_algorithms() if r.security is algorithms.Security.SECURE}
    return [name for name in _DIGEST_SIZES if name in secure]


def stock_label(algorithm: str, shard_size: int | None) -> str:
    """The name of a resource's hash as model_signing 1.1.1 writes it. The specification (section 6.3.2) has
    only the hash's own name, for shards as for files."""
    return algorithm if shard_size is None else f"{algorithm}-sharded-{shard_size}"


@dataclass(frozen=True)
class Statement:
    """What a signature says about a model.

    ``digests`` maps the names of the resources, which are files or shards, to digests in lower-case
    hexadecimal. ``shard_size`` is in bytes, and None for the method "files".

    ``empty_files`` names the files without content, for which OMS has no shards. It is None for the method
    "files", which lists every file, and for a signature by another program, which does not name them.
    """

    method: str
    algorithm: str
    shard_size: int | None
    allow_symlinks: bool
    ignore_paths: tuple[str, ...]
    digests: Mapping[str, str]
    empty_files: tuple[str, ...] | None = None

    @property
    def root(self) -> str:
        """SHA-256 over the digests in the order of the specification, in hexadecimal (section 6.5.1)."""
        return _root(digest for _, digest in sorted(self.digests.items()))

    @property
    def files(self) -> dict[str, dict[str, str]]:
        """The digests of each file's resources, by the name of the file."""
        found: dict[str, dict[str, str]] = {name: {} for name in self.empty_files or ()}
        for resource, digest in self.digests.items():
            found.setdefault(file_of(self.method, resource), {})[resource] = digest
        return found


def file_of(method: str, resource: str) -> str:
    """The name of the file that a resource is, or is a shard of."""
    path = resource
    if method == "shards":
        match = _SHARD_NAME.match(resource)
        if match is None:
            raise SignatureFormatError(f"shard {shown(resource)} is not named path:start:end")
        path = match["path"]
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\0" in path:
        raise SignatureFormatError(f"path {shown(path)} leaves the model folder")
    if path != SINGLE_FILE and not {"", "."}.isdisjoint(parts):
        raise SignatureFormatError(f"path {shown(path)} is not in its shortest form")
    return path


@dataclass(frozen=True)
class Bundle:
    """A signature that was parsed and not verified.

    ``method`` is the signing method of section 4.1, "key", "certificate" or "sigstore", and ``material`` is
    what the bundle says about the signer. ``data`` is the bundle as it was read.
    """

    method: str
    material: Mapping[str, Any]
    payload: bytes
    signature: bytes
    data: bytes

    @property
    def message(self) -> bytes:
        """What the signature covers."""
        return pre_authentication_encoding(IN_TOTO, self.payload)


class Signer(Protocol):
    """What makes signatures: a key, or a key with its certificates."""

    def sign(self, message: bytes) -> bytes:
        """The signature of a message, as ECDSA in DER."""

    def material(self) -> dict[str, Any]:
        """The verification material of the bundle."""


class Verifier(Protocol):
    """What decides whether a signature is to be trusted."""

    def verify(self, bundle: Bundle) -> None:
        """Raises IntegrityError unless a trusted signer signed the payload of ``bundle``, and
        SignatureFormatError for a bundle that is malformed or of another signing method."""


def make_payload(model_name: str, statement: Statement, *, for_stock: bool = False) -> bytes:
    """The in-toto statement as JSON. Resources are in the order of their names as text (section 5.2.1).

    ``for_stock`` gives the hash of a shard the name that model_signing 1.1.1 expects.
    """
    form: dict[str, Any] = {
        "method": statement.method,
        "hash_type": statement.algorithm,
        "allow_symlinks": statement.allow_symlinks,
        "ignore_paths": list(statement.ignore_paths),
    }
    if statement.shard_size is not None:
        form["shard_size"] = statement.shard_size
    label = stock_label(statement.algorithm, statement.shard_size) if for_stock else statement.algorithm
    resources: list[dict[str, Any]] = [
        {"name": name, "algorithm": label, "digest": digest}
        for name, digest in sorted(statement.digests.items())
    ]
    if statement.empty_files is not None:
        # The only place that the specification's schemas leave open, and that every verifier must ignore.
        resources[0]["annotations"] = {_EMPTY_FILES: list(statement.empty_files)}
    members = {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": model_name, "digest": {"sha256": statement.root}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {"serialization": form, "resources": resources},
    }
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def make_bundle(payload: bytes, signer: Signer) -> bytes:
    """Sign a payload. The bundle is JSON."""
    signature = signer.sign(pre_authentication_encoding(IN_TOTO, payload))
    envelope = {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": IN_TOTO,
        "signatures": [{"sig": base64.b64encode(signature).decode("ascii"), "keyid": ""}],
    }
    bundle = {
        "mediaType": _BUNDLE_TYPE,
        "verificationMaterial": signer.material(),
        "dsseEnvelope": envelope,
    }
    return json.dumps(bundle).encode("ascii")


def parse_bundle(data: bytes) -> Bundle:
    """Parse a bundle as section 8.1 demands, without verifying it. Raises SignatureFormatError if it is
    malformed or of a type that is not supported."""
    bundle = _parse(data)
    media_type = _member(bundle, "mediaType", str)
    if not _BUNDLE_TYPES.fullmatch(media_type):
        raise SignatureFormatError(
            f"mediaType is {shown(media_type)}, not that of a Sigstore bundle of a version up to 0.3"
        )
    material = _member(bundle, "verificationMaterial", dict)
    given = [name for name in _METHODS if name in material]
    if len(given) != 1:
        number = "only one of" if given else "one of"
        raise SignatureFormatError(f"verificationMaterial must have {number} {', '.join(_METHODS)}")
    method = _METHODS[given[0]]
    _member(material, given[0], dict)
    if method == "sigstore" and not _member(material, "tlogEntries", list):
        raise SignatureFormatError(
            "a signature made with Sigstore must have an entry of a transparency log in 'tlogEntries'"
        )
    if "dsseEnvelope" not in bundle and "messageSignature" in bundle:
        raise SignatureFormatError("the bundle signs a message, not a statement in a DSSE envelope")
    envelope = _member(bundle, "dsseEnvelope", dict)
    if _member(envelope, "payloadType", str) != IN_TOTO:
        raise SignatureFormatError(f"the envelope's payload type must be {IN_TOTO}")
    payload = _base64(_member(envelope, "payload", str), "payload")
    signatures = _member(envelope, "signatures", list)
    if len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise SignatureFormatError("the envelope must have exactly one signature")
    signature = _base64(_member(signatures[0], "sig", str), "signature")
    return Bundle(method, material, payload, signature, data)


def certificate_chain(bundle: Bundle) -> list[bytes]:
    """The certificates in a bundle of the signing method "certificate", in DER, that of the signer first.
    Raises SignatureFormatError if there is none, if there are more than ``MAX_CERTIFICATES``, and if one is
    larger than ``MAX_CERTIFICATE_SIZE``."""
    listed = _member(_member(bundle.material, "x509CertificateChain", dict), "certificates", list)
    if not 1 <= len(listed) <= MAX_CERTIFICATES:
        raise SignatureFormatError(
            f"a certificate chain has from 1 to {MAX_CERTIFICATES} certificates, not {len(listed)}"
        )
    found = []
    for entry in listed:
        if not isinstance(entry, dict):
            raise SignatureFormatError("a certificate of the chain must be an object")
        certificate = _base64(_member(entry, "rawBytes", str), "certificate")
        if len(certificate) > MAX_CERTIFICATE_SIZE:
            raise SignatureFormatError(
                f"a certificate has {len(certificate)} bytes; at most {MAX_CERTIFICATE_SIZE} are allowed"
            )
        found.append(certificate)
    return found


def parse_statement(payload: bytes) -> Statement:
    """The statement in a payload. Raises SignatureFormatError unless everything in it is as expected."""
    try:
        members = parse_object(payload, floats=True)
    except ValueError as error:
        raise SignatureFormatError(f"the signed statement: {error}") from None
    for name, expected in (("_type", _STATEMENT_TYPE), ("predicateType", _PREDICATE_TYPE)):
        if _member(members, name, str) != expected:
            raise SignatureFormatError(f"{name} is {shown(members[name])}, only {expected!r} is supported")
    subjects = _member(members, "subject", list)
    if len(subjects) != 1 or not isinstance(subjects[0], dict):
        raise SignatureFormatError("the statement must have exactly one subject")
    root = _member(_member(subjects[0], "digest", dict), "sha256", str)
    predicate = _member(members, "predicate", dict)
    form = _member(predicate, "serialization", dict)
    method = _member(form, "method", str)
    if method not in ("files", "shards"):
        raise SignatureFormatError(f"method {shown(method)} is not supported, only 'files' and 'shards'")
    algorithm = _member(form, "hash_type", str)
    if algorithm not in supported_hashes():
        raise SignatureFormatError(
            f"hash {shown(algorithm)} is not supported, only {', '.join(supported_hashes())}"
        )
    shard_size = _shard_size(form) if method == "shards" else None
    if method == "files" and "shard_size" in form:
        raise SignatureFormatError("shard_size must be absent when the method is 'files'")
    resources = _member(predicate, "resources", list)
    digests = _parse_resources(resources, algorithm, shard_size)
    if not digests:
        raise SignatureFormatError("nothing is signed: the signature lists no file")
    allow_symlinks = _member(form, "allow_symlinks", bool)
    # The root depends on the order, which the mapping keeps.
    if _root(digests.values()) != root:
        raise SignatureFormatError("the subject's digest is not that of the resources listed")
    files = {file_of(method, resource) for resource in digests}
    empty_files = _parse_empty_files(resources[0]) if method == "shards" else None
    for name in files.intersection(empty_files or ()):
        raise SignatureFormatError(f"{shown(name)} is listed both as an empty file and with shards")
    ignored = _parse_ignored(form, files)
    return Statement(method, algorithm, shard_size, allow_symlinks, ignored, digests, empty_files)


def _root(digests: Iterable[str]) -> str:
    """The digest of all resources together (section 6.5.1), which is SHA-256 for every hash of files."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _parse(data: bytes) -> dict[str, Any]:
    try:
        # model_signing writes a shard size as 1000.0, so that floats are accepted here and checked later.
        return parse_object(data, floats=True)
    except ValueError as error:
        raise SignatureFormatError(mistaken_for("a signature", data, JSON) or str(error)) from None


def _member(parent: Mapping[str, Any], name: str, kind: type) -> Any:
    value = parent.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SignatureFormatError(f"the signature's {name!r} is missing or not a {kind.__name__}")
    return value


def _base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise SignatureFormatError(f"the {what} is not base64") from None


def _shard_size(form: Mapping[str, Any]) -> int:
    size = form.get("shard_size")
    # model_signing 1.1.1 passes integers through protobuf's only number type, a double.
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST_SHARD:
        raise SignatureFormatError(f"shard_size must be a positive integer, not {shown(repr(size))}")
    return size


def _parse_resources(resources: list[Any], algorithm: str, shard_size: int | None) -> dict[str, str]:
    names = {algorithm, stock_label(algorithm, shard_size)}
    if shard_size is not None:
        names.add(f"{algorithm}-sharded-{float(shard_size)}")
    length = 2 * _DIGEST_SIZES[algorithm]
    digests: dict[str, str] = {}
    for resource in resources:
        if not isinstance(resource, dict):
            raise SignatureFormatError("a resource must be an object")
        name = _member(resource, "name", str)
        digest = _member(resource, "digest", str)
        if name in digests:
            raise SignatureFormatError(f"resource {shown(name)} is listed twice")
        if _member(resource, "algorithm", str) not in names:
            raise SignatureFormatError(
                f"resource {shown(name)} has a digest of another hash than {algorithm}"
            )
        if shard_size is not None and not _is_shard(name, shard_size):
            raise SignatureFormatError(f"resource {shown(name)} is not a shard of {shard_size} bytes")
        if not re.fullmatch(rf"[0-9a-f]{{{length}}}", digest):
            raise SignatureFormatError(f"resource {shown(name)}: not a {algorithm} digest in hexadecimal")
        digests[name] = digest
    return digests


def _is_shard(name: str, shard_size: int) -> bool:
    """Whether a name is one that a shard of this size can have, which only the last of a file may be less."""
    match = _SHARD_NAME.match(name)
    if match is None:
        raise SignatureFormatError(f"shard {shown(name)} is not named path:start:end")
    start, end = int(match["start"]), int(match["end"])
    return start % shard_size == 0 and start < end <= start + shard_size


def _parse_empty_files(resource: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The annotation that :func:`make_payload` writes; None if another program made the signature."""
    annotations = resource.get("annotations")
    if not isinstance(annotations, dict) or _EMPTY_FILES not in annotations:
        return None
    names = annotations[_EMPTY_FILES]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SignatureFormatError(f"{_EMPTY_FILES} must be a list of strings")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise SignatureFormatError(f"{_EMPTY_FILES} names {shown(repeated[0])} twice")
    return tuple(file_of("files", name) for name in names)


def _parse_ignored(form: Mapping[str, Any], files: Collection[str]) -> tuple[str, ...]:
    """The ignored paths in their shortest form, which always include those of git (section 6.2.1).

    A path of git is not ignored if a file of it is signed, which model_signing does on request.
    """
    tops = {name.split("/")[0] for name in files}
    implied = [path for path in GIT_PATHS if path not in tops]
    if "ignore_paths" not in form:
        return tuple(implied)
    ignored = form["ignore_paths"]
    if not isinstance(ignored, list) or not all(isinstance(path, str) for path in ignored):
        raise SignatureFormatError("ignore_paths must be a list of strings")
    for path in ignored:
        if path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise SignatureFormatError(f"ignored path {shown(path)} leaves the model folder")
        if not PurePosixPath(path).parts:
            raise SignatureFormatError(f"ignored path {shown(path)} is the whole folder: nothing is signed")
    return tuple(dict.fromkeys([*(str(PurePosixPath(path)) for path in ignored), *implied]))
