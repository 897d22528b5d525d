"""OpenSSF Model Signing (OMS) with hashing on this package's backends.

A signature is a Sigstore bundle around a DSSE envelope around an in-toto statement whose predicate,
``https://model_signing/signature/v1.0``, lists a digest for every file or shard of a model folder.
What :func:`sign` writes, stock ``model_signing`` verifies; what that signs with an elliptic-curve
key, :func:`verify` verifies. ``docs/guide/signing.md`` says which form to choose.

Needs the ``signing`` extra.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import pathlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

try:
    import model_signing.hashing
    import model_signing.signing
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from model_signing._hashing import hashing as _stock_hashing
    from model_signing._hashing import io as _stock_io
    from model_signing._hashing import memory as _stock_memory
    from model_signing.manifest import Manifest
except ImportError as error:
    raise ImportError(
        f"model signing needs a package that is missing ({error.name}): "
        "pip install 'integrity-triton[signing]'"
    ) from error

from .. import algorithms
from ..backends.registry import requested
from ..errors import IntegrityError, IntegrityTritonError
from ..files import Progress, hash_file
from ..output_files import check_output_file, write_file
from ..strict_json import parse_object, shown

__all__ = ["HashingConfig", "SignatureFormatError", "generate_key", "sign", "verify"]

MAX_SIGNATURE_SIZE = 256 << 20
"""Bytes, enough for a million files or shards."""

PathLike = str | os.PathLike[str]

_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_BUNDLE_TYPE = b"application/vnd.dev.sigstore.bundle"
_HEAD_SIZE = 1 << 16
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_DEFAULT_SHARD_SIZE = 1_000_000_000
_LARGEST_SHARD = (1 << 63) - 1
# OMS's name of a hash, which is also its name here, and the keyword of the model_signing package for it.
_STOCK_KEYWORDS = {"sha256": "sha256", "blake2b": "blake2", "blake3": "blake3"}
_SHARD_NAME = re.compile(r"(?P<path>.+):(?P<start>0|[1-9][0-9]*):(?P<end>[1-9][0-9]*)\Z", re.DOTALL)


class SignatureFormatError(IntegrityTritonError, ValueError):
    """A signature that is not a well-formed OMS bundle, or of a kind that is not supported."""


def _supported() -> list[str]:
    """The hashes of OMS that this package has and trusts."""
    secure = {r.name for r in algorithms.all_algorithms() if r.security is algorithms.Security.SECURE}
    return [name for name in _STOCK_KEYWORDS if name in secure]


class _Hasher:
    """How a configuration hashes. Its file and shard hashers, which run in threads, share this object."""

    def __init__(self, algorithm: str, backend: str | None, progress: Progress | None) -> None:
        self.algorithm = algorithm
        self._backend = backend
        self._progress = progress
        self._lock = threading.Lock()

    def _report(self, nbytes: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._progress(nbytes)

    def __call__(self, path: pathlib.Path, start: int, end: int | None) -> bytes:
        return hash_file(
            path, self.algorithm, start=start, end=end, backend=self._backend, progress=self._report
        )


class _FileHasher(_stock_io.SimpleFileHasher):
    def __init__(self, path: pathlib.Path, content_hasher: Any, hasher: _Hasher) -> None:
        super().__init__(path, content_hasher, digest_name_override=hasher.algorithm)
        self._hash = hasher

    def compute(self) -> Any:
        return _stock_hashing.Digest(self.digest_name, self._hash(self._file, 0, None))


class _ShardHasher(_stock_io.ShardedFileHasher):
    def __init__(
        self, path: pathlib.Path, start: int, end: int, content_hasher: Any, hasher: _Hasher, shard_size: int
    ) -> None:
        super().__init__(path, content_hasher, start=start, end=end, shard_size=shard_size)
        self._hash = hasher
        self._range = start, end

    def compute(self) -> Any:
        return _stock_hashing.Digest(self.digest_name, self._hash(self._file, *self._range))


class HashingConfig(model_signing.hashing.Config):
    """Stock's hashing configuration, with the hashing done by this package.

    Pass it to ``set_hashing_config()`` of stock's signing or verifying configuration. Files, shards,
    symbolic links and ignored paths are enumerated by stock's own code, so that the resulting
    manifests are equal to stock's.

    ``method`` is "files" or "shards", and ``algorithm`` is an OMS hash. ``shard_size``, in bytes, applies
    only to shards. Files are read with bounded memory, several at a time if the hash itself uses one core.
    ``progress`` is called with the number of bytes just hashed, by one thread at a time.

    Raises ValueError, naming what is allowed, for a method, algorithm or shard size that OMS or this
    package does not have; BackendUnavailable as :func:`integrity_triton.new`.
    """

    def __init__(
        self,
        method: str = "files",
        algorithm: str = "blake3",
        *,
        shard_size: int | None = None,
        backend: str | None = None,
        allow_symlinks: bool = False,
        progress: Progress | None = None,
    ) -> None:
        if algorithm not in _supported():
            raise ValueError(f"OMS hashing knows {', '.join(_supported())}, not {algorithm!r}")
        if method not in ("files", "shards"):
            raise ValueError(f"the OMS method is 'files' or 'shards', not {method!r}")
        if method == "files" and shard_size is not None:
            raise ValueError("shard_size is for the method 'shards'")
        if method == "shards" and algorithm == "blake3":
            raise ValueError("OMS has shards only for sequential hashes; use 'files' with blake3")
        shard_size = _DEFAULT_SHARD_SIZE if shard_size is None else shard_size
        if isinstance(shard_size, bool) or not isinstance(shard_size, int):
            raise TypeError(f"shard_size must be int, not {type(shard_size).__name__}")
        if not 1 <= shard_size <= _LARGEST_SHARD:
            raise ValueError(f"shard_size must be from 1 to {_LARGEST_SHARD}, got {shard_size}")
        self._hasher = _Hasher(algorithm, backend, progress)
        # One file at a time keeps a device busy, and so it does a tree hash in the CPU library.
        sequential = not algorithms.get(algorithm).parallel and requested(backend) in (None, "native")
        workers = None if sequential else 1
        super().__init__()  # type: ignore[no-untyped-call]
        self._shard_size = shard_size
        keyword: Any = _STOCK_KEYWORDS[algorithm]
        if method == "files":
            self.use_file_serialization(hashing_algorithm=keyword, max_workers=workers)
        else:
            self.use_shard_serialization(
                hashing_algorithm=keyword, shard_size=shard_size, max_workers=workers
            )
        self.set_allow_symlinks(allow_symlinks)

    def _content_hasher(self) -> Any:
        """Gives digests their names and sizes, and hashes nothing."""
        if self._hasher.algorithm == "blake3":
            return _stock_memory.BLAKE3()
        keyword: Any = _STOCK_KEYWORDS[self._hasher.algorithm]
        return self._build_stream_hasher(keyword)

    def _build_file_hasher_factory(self, *_: Any, **__: Any) -> Callable[..., Any]:
        if not hasattr(
            self, "_shard_size"
        ):  # the base class calls this in its constructor, before a choice was made
            return super()._build_file_hasher_factory()
        return lambda path: _FileHasher(path, self._content_hasher(), self._hasher)

    def _build_sharded_file_hasher_factory(self, *_: Any, **__: Any) -> Callable[..., Any]:
        return lambda path, start, end: _ShardHasher(
            path, start, end, self._content_hasher(), self._hasher, self._shard_size
        )

    def hash(self, model_path: Any, *, files_to_hash: Iterable[Any] | None = None) -> Manifest:
        """The model's manifest. Raises OSError for a path that cannot be read, and ValueError for a symbolic
        link if these are not allowed and for anything that is neither a file nor a folder."""
        path = pathlib.Path(os.fsdecode(model_path))
        path.stat()  # raises FileNotFoundError with the path's name
        if files_to_hash is not None:
            files_to_hash = [pathlib.Path(os.fsdecode(file)) for file in files_to_hash]
        return super().hash(path, files_to_hash=files_to_hash)


def generate_key(private_path: PathLike, public_path: PathLike) -> None:
    """Write a new P-256 key pair as PEM. The private key is in PKCS #8, unencrypted, and only its owner can
    read it; the public key is a SubjectPublicKeyInfo. Raises FileExistsError rather than overwrite a file."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with open(public_path, "xb") as public_file:
        try:
            descriptor = os.open(private_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError:
            os.unlink(public_path)
            raise
        with os.fdopen(descriptor, "wb") as private_file:
            private_file.write(private)
        public_file.write(public)


def sign(
    folder: PathLike,
    signature_path: PathLike,
    *,
    private_key: PathLike,
    method: str = "files",
    algorithm: str = "blake3",
    shard_size: int | None = None,
    password: str | None = None,
    ignore_paths: Iterable[PathLike] = (),
    backend: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Sign a model folder (or one file) with an elliptic-curve key, offline.

    ``private_key`` is a PEM file. ``ignore_paths`` are relative to ``folder``; git's own files and the
    signature itself are always ignored. Raises ValueError for a key, method, algorithm or shard size that
    cannot be used, and OSError for a file that cannot be read or written. Both come before anything is
    hashed. Raises ValueError also if the signature would replace a file that is not a signature.
    """
    folder, signature_path = pathlib.Path(folder), pathlib.Path(signature_path)
    config = HashingConfig(method, algorithm, shard_size=shard_size, backend=backend, progress=progress)
    config.set_ignored_paths(paths=_ignored(folder, signature_path, ignore_paths))
    key_path = pathlib.Path(private_key)
    key_path.stat()
    check_output_file(signature_path)
    _check_replaced(signature_path)
    # model_signing declares a str here and needs bytes.
    secret: Any = None if password is None else password.encode()
    try:
        signing = model_signing.signing.Config()  # type: ignore[no-untyped-call]
        signing.use_elliptic_key_signer(private_key=key_path, password=secret)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{key_path}: not a usable elliptic-curve private key: {error}") from None
    with tempfile.TemporaryDirectory() as scratch:
        made = pathlib.Path(scratch, "model.sig")
        signing.set_hashing_config(config).sign(folder, made)
        write_file(signature_path, made.read_bytes())


def _check_replaced(path: pathlib.Path) -> None:
    """Raise ValueError if ``path`` is a regular file that is neither empty nor a signature."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        head = file.read(_HEAD_SIZE)
    if head and _BUNDLE_TYPE not in head:
        raise ValueError(
            f"{path}: this file is not a signature, and the signature would replace it; name another file"
        )


def _ignored(
    folder: pathlib.Path, signature_path: pathlib.Path, ignore_paths: Iterable[PathLike]
) -> list[pathlib.Path]:
    paths = [pathlib.Path(path) for path in ignore_paths]
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"ignored path {str(path)!r} must be relative and inside the folder")
    inside = signature_path.absolute()
    root = folder.absolute()
    if inside.is_relative_to(root) and inside != root:
        paths.append(inside.relative_to(root))
    return paths


@dataclass(frozen=True)
class _Statement:
    """The content of a signature, after all checks."""

    method: str
    algorithm: str
    shard_size: int | None
    allow_symlinks: bool
    ignore_paths: tuple[str, ...]
    digests: Mapping[str, str]  # the digest of each file or shard, in lower-case hexadecimal


def verify(
    folder: PathLike,
    signature_path: PathLike,
    *,
    public_key: PathLike,
    ignore_paths: Iterable[PathLike] = (),
    ignore_unsigned_files: bool = False,
    backend: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Verify a model folder against its signature and the signer's public key.

    The signature says how the model was hashed and which paths were ignored. ``ignore_paths`` adds to these
    paths, and ``ignore_unsigned_files`` permits files that the signature does not list.

    Raises IntegrityError, which names the files, if another key made the signature or the model is not the
    one that was signed; SignatureFormatError (a ValueError) for a malformed or unsupported signature;
    ValueError for an unusable key or a symbolic link; and OSError for a file that cannot be read.
    """
    folder, signature_path = pathlib.Path(folder), pathlib.Path(signature_path)
    key = _load_public_key(pathlib.Path(public_key))
    payload = _signed_payload(signature_path, key)
    statement = _parse_statement(payload)
    config = HashingConfig(
        statement.method,
        statement.algorithm,
        shard_size=statement.shard_size,
        backend=backend,
        allow_symlinks=statement.allow_symlinks,
        progress=progress,
    )
    ignored = [*statement.ignore_paths, *ignore_paths]
    # The signature's own list has the git files that were ignored when signing.
    config.set_ignored_paths(paths=_ignored(folder, signature_path, ignored), ignore_git_paths=False)
    files = None
    if ignore_unsigned_files:
        names = {_file_of(statement, resource) for resource in statement.digests}
        files = [folder / name for name in sorted(names) if (folder / name).exists()]
    manifest = config.hash(folder, files_to_hash=files)
    found = {d.identifier: d.digest.digest_hex for d in manifest.resource_descriptors()}
    _compare(statement, found)


def _load_public_key(path: pathlib.Path) -> ec.EllipticCurvePublicKey:
    data = path.read_bytes()
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path}: not a PEM public key: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.key_size not in _CURVE_HASHES:
        raise ValueError(f"{path}: the key must be an elliptic-curve key on P-256, P-384 or P-521")
    return key


_CURVE_HASHES: dict[int, hashes.HashAlgorithm] = {
    256: hashes.SHA256(),
    384: hashes.SHA384(),
    521: hashes.SHA512(),
}


def _signed_payload(path: pathlib.Path, key: ec.EllipticCurvePublicKey) -> bytes:
    """The payload of a bundle, whose signature is verified before any byte of the payload is parsed."""
    size = path.stat().st_size
    if size > MAX_SIGNATURE_SIZE:
        raise SignatureFormatError(f"{path}: {size} bytes; a signature has at most {MAX_SIGNATURE_SIZE}")
    bundle = _parse(path.read_bytes(), f"{path}")
    material = _member(bundle, "verificationMaterial", dict)
    if "publicKey" not in material:
        raise SignatureFormatError(f"{path}: signed with a certificate or Sigstore, not with a key")
    hint = _member(material, "publicKey", dict).get("hint")
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    if hint and hint != hashlib.sha256(pem).hexdigest():
        raise IntegrityError(f"{path}: the model was signed with another key")
    envelope = _member(bundle, "dsseEnvelope", dict)
    if _member(envelope, "payloadType", str) != _PAYLOAD_TYPE:
        raise SignatureFormatError(f"the envelope's payload type must be {_PAYLOAD_TYPE}")
    payload = _base64(_member(envelope, "payload", str), "payload")
    signatures = _member(envelope, "signatures", list)
    if len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise SignatureFormatError("the envelope must have exactly one signature")
    signature = _base64(_member(signatures[0], "sig", str), "signature")
    # DSSE v1, pre-authentication encoding.
    signed = b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)
    try:
        key.verify(signature, signed, ec.ECDSA(_CURVE_HASHES[key.curve.key_size]))
    except InvalidSignature:
        raise IntegrityError(f"{path}: the signature is not valid for this key") from None
    return payload


def _parse(data: bytes, what: str) -> dict[str, Any]:
    try:
        # model_signing writes a shard size as 1000.0, so that floats are accepted here and checked later.
        return parse_object(data, floats=True)
    except ValueError as error:
        raise SignatureFormatError(f"{what}: {error}") from None


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


def _parse_statement(payload: bytes) -> _Statement:
    statement = _parse(payload, "the signed statement")
    for name, expected in (("_type", _STATEMENT_TYPE), ("predicateType", _PREDICATE_TYPE)):
        if _member(statement, name, str) != expected:
            raise SignatureFormatError(f"{name} is {shown(statement[name])}, only {expected!r} is supported")
    subjects = _member(statement, "subject", list)
    if len(subjects) != 1 or not isinstance(subjects[0], dict):
        raise SignatureFormatError("the statement must have exactly one subject")
    root = _member(_member(subjects[0], "digest", dict), "sha256", str)
    predicate = _member(statement, "predicate", dict)
    form = _member(predicate, "serialization", dict)
    method = _member(form, "method", str)
    if method not in ("files", "shards"):
        raise SignatureFormatError(f"method {shown(method)} is not supported, only 'files' and 'shards'")
    algorithm = _member(form, "hash_type", str)
    if algorithm not in _supported():
        raise SignatureFormatError(
            f"hash {shown(algorithm)} is not supported, only {', '.join(_supported())}"
        )
    shard_size = _shard_size(form) if method == "shards" else None
    if method == "shards" and algorithms.get(algorithm).parallel:
        raise SignatureFormatError(f"shards of {algorithm} are not supported")
    ignored = form.get("ignore_paths", [])
    if not isinstance(ignored, list) or not all(isinstance(path, str) for path in ignored):
        raise SignatureFormatError("ignore_paths must be a list of strings")
    for path in ignored:
        _check_path(path)
    checked = _Statement(
        method=method,
        algorithm=algorithm,
        shard_size=shard_size,
        allow_symlinks=_member(form, "allow_symlinks", bool),
        ignore_paths=tuple(ignored),
        digests=_parse_resources(_member(predicate, "resources", list), algorithm, shard_size),
    )
    # The root depends on the order, which the mapping keeps.
    concatenated = b"".join(bytes.fromhex(digest) for digest in checked.digests.values())
    if hashlib.sha256(concatenated).hexdigest() != root:
        raise SignatureFormatError("the subject's digest is not that of the resources listed")
    for resource in checked.digests:
        _file_of(checked, resource)
    return checked


def _shard_size(form: Mapping[str, Any]) -> int:
    size = form.get("shard_size")
    # model_signing 1.1.1 passes integers through protobuf's only number type, a double.
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _LARGEST_SHARD:
        raise SignatureFormatError(f"shard_size must be a positive integer, not {shown(repr(size))}")
    return size


def _parse_resources(resources: list[Any], algorithm: str, shard_size: int | None) -> dict[str, str]:
    # The specification has only the hash's name here; model_signing 1.1.1 adds the shard size.
    names = {algorithm} if shard_size is None else {algorithm, f"{algorithm}-sharded-{shard_size}"}
    if shard_size is not None:
        names.add(f"{algorithm}-sharded-{float(shard_size)}")
    length = 2 * (64 if algorithm == "blake2b" else 32)
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


def _check_path(path: str) -> None:
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\0" in path:
        raise SignatureFormatError(f"path {shown(path)} leaves the model folder")


def _file_of(statement: _Statement, resource: str) -> str:
    """The path of a resource's file, relative to the folder."""
    path = resource
    if statement.method == "shards":
        match = _SHARD_NAME.match(resource)
        if match is None:
            raise SignatureFormatError(f"shard {shown(resource)} is not named path:start:end")
        path = match["path"]
    _check_path(path)
    return path


def _compare(statement: _Statement, found: Mapping[str, str]) -> None:
    signed_files = {_file_of(statement, resource) for resource in statement.digests}
    found_files = {_file_of(statement, resource) for resource in found}
    differing = statement.digests.items() ^ found.items()
    changed = {_file_of(statement, resource) for resource, _ in differing} & signed_files & found_files
    lines = [
        f"{label}: {', '.join(shown(name) for name in sorted(names))}"
        for label, names in (
            ("changed", changed),
            ("missing", signed_files - found_files),
            ("not signed", found_files - signed_files),
        )
        if names
    ]
    if differing:
        raise IntegrityError("the model is not the one that was signed; " + "; ".join(lines))
