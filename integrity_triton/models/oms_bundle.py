"""The signature of OpenSSF Model Signing 1.0 as a file: what it states, and how that is written and read.

A Sigstore bundle holds a DSSE envelope, which holds an in-toto statement. What is read is untrusted: the
signature over the statement is verified before any byte of the statement is parsed.
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
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from .. import algorithms
from ..errors import IntegrityError, IntegrityTritonError
from ..strict_json import parse_object, shown
from .dsse import IN_TOTO, pre_authentication_encoding
from .file_kinds import JSON, mistaken_for
from .model_tree import SINGLE_FILE
from .signing_keys import key_hint, signature_algorithm

LARGEST_SHARD = (1 << 63) - 1
"""Bytes."""

GIT_PATHS = (".git", ".gitattributes", ".github", ".gitignore")
"""What OMS leaves out of every model (section 6.2)."""

_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
# The types of versions 0.1 to 0.3; version 0.3 has two spellings.
_BUNDLE_TYPES = re.compile(r"application/vnd\.dev\.sigstore\.bundle(\+json;version=0\.[123]|\.v0\.3\+json)")
_KEY_MATERIAL = ("publicKey", "certificate", "x509CertificateChain")
# OMS's name of a hash, which is also its name here, and the size of its digests in bytes.
_DIGEST_SIZES = {"sha256": 32, "blake2b": 64, "blake3": 32}
_SHARD_NAME = re.compile(r"(?P<path>.+):(?P<start>0|[1-9][0-9]*):(?P<end>[1-9][0-9]*)\Z", re.DOTALL)
_EMPTY_FILES = "integrity_triton:empty_files"


class SignatureFormatError(IntegrityTritonError, ValueError):
    """A signature that is not a well-formed OMS bundle, or of a kind that is not supported."""


def supported_hashes() -> list[str]:
    """The hashes of OMS that this package has and trusts."""
    secure = {r.name for r in algorithms.all_algorithms() if r.security is algorithms.Security.SECURE}
    return [name for name in _DIGEST_SIZES if name in secure]


def shard_algorithm(algorithm: str, shard_size: int | None) -> str:
    """The name of a resource's hash, as model_signing 1.1.1 writes it. For shards, the specification has only
    the hash's own name."""
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


def make_payload(model_name: str, statement: Statement) -> bytes:
    """The in-toto statement as JSON. Resources are in the order of their names as text (section 5.2.1)."""
    form: dict[str, Any] = {
        "method": statement.method,
        "hash_type": statement.algorithm,
        "allow_symlinks": statement.allow_symlinks,
        "ignore_paths": list(statement.ignore_paths),
    }
    if statement.shard_size is not None:
        form["shard_size"] = statement.shard_size
    label = shard_algorithm(statement.algorithm, statement.shard_size)
    digests = sorted(statement.digests.items())
    resources: list[dict[str, Any]] = [
        {"name": name, "algorithm": label, "digest": digest} for name, digest in digests
    ]
    if statement.empty_files is not None:
        # The only place that the specification's schemas leave open, and that every verifier must ignore.
        resources[0]["annotations"] = {_EMPTY_FILES: list(statement.empty_files)}
    subject = {"name": model_name, "digest": {"sha256": _root(digest for _, digest in digests)}}
    members = {
        "_type": _STATEMENT_TYPE,
        "subject": [subject],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {"serialization": form, "resources": resources},
    }
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def make_bundle(payload: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign a payload. The bundle is JSON."""
    signature = key.sign(pre_authentication_encoding(IN_TOTO, payload), signature_algorithm(key))
    envelope = {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": IN_TOTO,
        "signatures": [{"sig": base64.b64encode(signature).decode("ascii"), "keyid": ""}],
    }
    material = {"publicKey": {"hint": key_hint(key.public_key())}, "tlogEntries": []}
    bundle = {"mediaType": _BUNDLE_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
    return json.dumps(bundle).encode("ascii")


def signed_payload(data: bytes, key: ec.EllipticCurvePublicKey) -> bytes:
    """The payload of a bundle, after its signature was verified.

    Raises SignatureFormatError for a malformed bundle, and IntegrityError if ``key`` did not sign it.
    """
    bundle = _parse(data)
    media_type = _member(bundle, "mediaType", str)
    if not _BUNDLE_TYPES.fullmatch(media_type):
        raise SignatureFormatError(
            f"mediaType is {shown(media_type)}, not that of a Sigstore bundle of a version up to 0.3"
        )
    material = _member(bundle, "verificationMaterial", dict)
    if len(given := [name for name in _KEY_MATERIAL if name in material]) > 1:
        raise SignatureFormatError(f"verificationMaterial may have only one of {', '.join(given)}")
    if "publicKey" not in material:
        raise SignatureFormatError(
            "signed with a certificate or Sigstore, not with a key; verify it with model_signing"
        )
    hint = _member(material, "publicKey", dict).get("hint")
    if hint and hint != key_hint(key):
        raise IntegrityError("the model was signed with another key")
    envelope = _member(bundle, "dsseEnvelope", dict)
    if _member(envelope, "payloadType", str) != IN_TOTO:
        raise SignatureFormatError(f"the envelope's payload type must be {IN_TOTO}")
    payload = _base64(_member(envelope, "payload", str), "payload")
    signatures = _member(envelope, "signatures", list)
    if len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise SignatureFormatError("the envelope must have exactly one signature")
    signature = _base64(_member(signatures[0], "sig", str), "signature")
    try:
        key.verify(signature, pre_authentication_encoding(IN_TOTO, payload), signature_algorithm(key))
    except InvalidSignature:
        raise IntegrityError("the signature is not valid for this key") from None
    return payload


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
    if method == "shards" and algorithms.get(algorithm).parallel:
        raise SignatureFormatError(f"shards of {algorithm} are not supported")
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
    names = {algorithm, shard_algorithm(algorithm, shard_size)}
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
        if not re.fullmatch(rf"[0-9a-f]{{{length}}}", digest):
            raise SignatureFormatError(f"resource {shown(name)}: not a {algorithm} digest in hexadecimal")
        digests[name] = digest
    return digests


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
    """The ignored paths in their shortest form.

    A signature from before they were recorded implies git's (section 11.2), unless such a file is signed.
    """
    if "ignore_paths" not in form:
        tops = {name.split("/")[0] for name in files}
        return tuple(path for path in GIT_PATHS if path not in tops)
    ignored = form["ignore_paths"]
    if not isinstance(ignored, list) or not all(isinstance(path, str) for path in ignored):
        raise SignatureFormatError("ignore_paths must be a list of strings")
    for path in ignored:
        if path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise SignatureFormatError(f"ignored path {shown(path)} leaves the model folder")
        if not PurePosixPath(path).parts:
            raise SignatureFormatError(f"ignored path {shown(path)} is the whole folder: nothing is signed")
    return tuple(str(PurePosixPath(path)) for path in ignored)
