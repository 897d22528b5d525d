"""OpenSSF Model Signing (OMS) with hashing on this package's backends.

A signature is a Sigstore bundle around a DSSE envelope around an in-toto statement whose predicate,
``https://model_signing/signature/v1.0``, lists a digest for every file or shard of a model folder.
The signer has an elliptic-curve key in a file or in a PKCS #11 token, with or without certificates;
:func:`verify` also takes signatures that were made with Sigstore. ``docs/guide/signing.md`` says which form
to choose, which of them the stock package ``model_signing`` reads and writes, and what becomes of links and
other things in a folder.

Needs the ``signing`` extra.
"""

from __future__ import annotations

import errno
import functools
import os
import pathlib
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any

try:
    import model_signing.hashing
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from model_signing._hashing.hashing import Digest
    from model_signing.manifest import (
        FileManifestItem,
        Manifest,
        ManifestItem,
        SerializationType,
        ShardedFileManifestItem,
    )

    from . import oms_measurements
    from .oms_bundle import (
        GIT_PATHS,
        LARGEST_SHARD,
        SignatureFormatError,
        Signer,
        Statement,
        Verifier,
        make_bundle,
        make_payload,
        parse_bundle,
        parse_statement,
        stock_label,
        supported_hashes,
    )
    from .oms_signers import (
        CertificateSigner,
        CertificateVerifier,
        FileKey,
        KeySigner,
        KeyVerifier,
        PrivateKey,
    )
    from .signing_certificates import load_certificates
    from .signing_keys import load_private_key, load_public_key
except ImportError as error:
    raise ImportError(
        f"model signing needs a package that is missing ({error.name}): "
        "pip install 'integrity-triton[signing]'"
    ) from error

from .. import algorithms
from ..backends.registry import requested
from ..errors import IntegrityError
from ..files import Progress, read_pieces
from ..hashing import new
from ..output_files import check_output_file, naming, write_file
from ..remote_files import local_path
from ..strict_json import shown
from .file_kinds import HEAD_SIZE, WEIGHTS_ENDINGS, recognise
from .model_tree import LINK, SINGLE_FILE, ModelFile, ModelTree, read_tree
from .regular_files import read_regular, settled
from .threads import SharedProgress, in_threads

__all__ = ["HashingConfig", "SignatureFormatError", "generate_key", "root_digest", "sign", "verify"]

MAX_SIGNATURE_SIZE = 256 << 20
"""Bytes, enough for a million files or shards."""

PathLike = str | os.PathLike[str]

_Digests = dict[str, dict[tuple[int, int], bytes]]  # by the names of files, and by ranges of their bytes

_DEFAULT_SHARD_SIZE = 1_000_000_000
_BUNDLE_TYPE = b"application/vnd.dev.sigstore.bundle"
_HEAD_SIZE = 1 << 16
_WILDCARDS = frozenset("*?[")


class HashingConfig(model_signing.hashing.Config):
    """A hashing configuration of the stock package, with the hashing done by this package.

    Pass it to ``set_hashing_config()`` of the stock package's signing and verifying configurations. For a
    model that both packages accept, the manifest is equal to the stock package's. It leaves some things out
    without a word that are errors here: a folder that cannot be listed, the files behind a link to a folder,
    and a model in which there is nothing to sign.

    ``method`` is "files" or "shards", and ``algorithm`` is an OMS hash. ``shard_size``, in bytes, applies
    only to shards. ``allow_symlinks`` includes what links to regular files lead to, if that is within the
    model or, for a snapshot in a Hugging Face cache, in the ``blobs`` of the same repository or of the cache.
    Files are read with bounded memory, several at a time if the hash itself uses one core. ``progress`` is
    called with the number of bytes just hashed, by one thread at a time.

    Raises ValueError, naming what is allowed, for a method, algorithm or shard size that OMS or this
    package does not have; BackendUnavailable as :func:`integrity_triton.new`.
    """

    _complete = False

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
        if algorithm not in supported_hashes():
            raise ValueError(f"OMS hashing knows {', '.join(supported_hashes())}, not {algorithm!r}")
        if method not in ("files", "shards"):
            raise ValueError(f"the OMS method is 'files' or 'shards', not {method!r}")
        if method == "files" and shard_size is not None:
            raise ValueError("shard_size is for the method 'shards'")
        size = _DEFAULT_SHARD_SIZE if shard_size is None else shard_size
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"shard_size must be int, not {type(size).__name__}")
        if not 1 <= size <= LARGEST_SHARD:
            raise ValueError(f"shard_size must be from 1 to {LARGEST_SHARD}, got {size}")
        self._method = method
        self._algorithm = algorithm
        self._shard_size = size if method == "shards" else None
        self._backend = backend
        self._progress = progress
        # One file at a time keeps a device busy, and so it does a tree hash in the CPU library.
        sequential = not algorithms.get(algorithm).parallel and requested(backend) in (None, "native")
        self._workers = None if sequential else 1
        super().__init__()  # type: ignore[no-untyped-call]
        self.set_allow_symlinks(allow_symlinks)
        self._complete = True

    def use_file_serialization(self, **_: Any) -> HashingConfig:
        """Raises TypeError: the constructor of this class chooses the method."""
        if self._complete:
            raise TypeError("the method of a HashingConfig is chosen when it is made")
        return self  # the base class calls this while it is made

    use_shard_serialization = use_file_serialization

    def hash(self, model_path: Any, *, files_to_hash: Iterable[Any] | None = None) -> Manifest:
        """The model's manifest, or that of ``files_to_hash``, which are paths in the model.

        Raises OSError for a path that cannot be read; ValueError for a link if links are not allowed, for
        anything that is neither a file nor a folder, for a name that is not UTF-8 and if there is nothing to
        sign; and IntegrityError if the model changes while it is read.
        """
        model = os.fsdecode(model_path)
        only = None
        if files_to_hash is not None:
            only = {_within(model, os.fsdecode(file)) for file in files_to_hash}
        tree, digests = self._measure(model, only)
        for name in sorted((only or set()) - tree.files.keys() - tree.refused.keys()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.path.join(model, name))
        self._check_signable(model, tree, digests)
        label = stock_label(self._algorithm, self._shard_size)
        items: list[ManifestItem] = []
        for name, resources in digests.items():
            path = pathlib.PurePosixPath(name)
            for (start, end), value in resources.items():
                digest = Digest(label, value)
                if self._shard_size is None:
                    items.append(FileManifestItem(path=path, digest=digest))
                else:
                    items.append(ShardedFileManifestItem(path=path, start=start, end=end, digest=digest))
        form = {
            "method": self._method,
            "hash_type": self._algorithm,
            "allow_symlinks": self._allow_symlinks,
            "ignore_paths": self._ignored(model),
        }
        if self._shard_size is not None:
            form["shard_size"] = self._shard_size
        return Manifest(_name_of(model), items, SerializationType.from_args(form))

    def _ignored(self, model: str) -> list[str]:
        """The ignored paths, relative to the model. As stock does, this leaves out paths beside the model."""
        ignored = set(GIT_PATHS if self._ignore_git_paths else ())
        for path in self._ignored_paths:
            if not path.is_absolute():
                ignored.add(_shortest(path))
            elif path.is_relative_to(os.path.abspath(model)):
                ignored.add(_shortest(path.relative_to(os.path.abspath(model))))
        return sorted(ignored)

    def _measure(
        self,
        model: str,
        only: Collection[str] | None = None,
        expected: Mapping[str, Collection[Any]] | None = None,
        known: oms_measurements.Measurements | None = None,
    ) -> tuple[ModelTree, _Digests]:
        """What is in the model, and the digests of the ranges of its files.

        With ``expected``, a file is read only if it has as many ranges as are expected of its name. Any other
        gets one digest, which is empty and so equal to no other. With ``known``, a file that counts as
        unchanged since then is not read.

        Raises OSError for what cannot be read, and IntegrityError if the model changes meanwhile.
        """

        def listed() -> ModelTree:
            return read_tree(model, ignored=ignored, only=only, allow_symlinks=self._allow_symlinks)

        ignored = frozenset(self._ignored(model))
        tree = settled(listed, lambda tree: tree.changed)
        for file in tree.files.values():
            if file.size == 0:  # it may have no shard that would be read, and not be empty
                os.close(file.open(file.path, os.O_RDONLY))
        digests: _Digests = {name: {} for name in tree.files}
        shared = SharedProgress(self._progress)
        parts = []
        for name, file in tree.files.items():
            if expected is not None and len(expected.get(name, ())) != self._count(file.size):
                digests[name][0, file.size] = b""
                continue
            ranges = list(self._ranges(file.size))
            before = None if known is None else known.of(name, file, ranges)
            if before is not None:
                digests[name] = before
            else:
                parts += [(name, part) for part in ranges]
        calls = [partial(self._digest, tree.files[name], part, shared) for name, part in parts]
        for (name, part), digest in zip(parts, in_threads(self._workers, calls, shared), strict=True):
            digests[name][part] = digest
        if changed := tree.differing(listed()):
            raise IntegrityError(f"{model}: changed while the model was being read: {_list(changed)}")
        return tree, digests

    def _count(self, size: int) -> int:
        return 1 if self._shard_size is None else -(-size // self._shard_size)

    def _ranges(self, size: int) -> Iterable[tuple[int, int]]:
        """The parts of a file that have a digest each: the whole file, or its shards."""
        if self._shard_size is None:
            return [(0, size)]
        return ((start, min(start + self._shard_size, size)) for start in range(0, size, self._shard_size))

    def _digest(self, file: ModelFile, part: tuple[int, int], progress: Progress) -> bytes:
        hasher = new(self._algorithm, backend=self._backend)
        try:
            for piece in read_pieces(file.path, *part, opener=file.open):
                hasher.update(piece)
                progress(len(piece))
        except EOFError as error:
            raise IntegrityError(f"the file was cut while the model was being read: {error}") from None
        return hasher.digest()

    def _check_signable(self, model: str, tree: ModelTree, digests: _Digests) -> None:
        for name, reason in sorted(tree.refused.items()):
            raise ValueError(f"{model}: {shown(name)} is {reason}{_advice(reason)}")
        for name in sorted(tree.files):
            _check_utf8(model, name)
        if not any(digests.values()):
            reason = "it has no files, or all of them are ignored"
            if tree.files:
                reason = "all its files are empty, and empty files have no shards; use the method 'files'"
            raise ValueError(f"{model}: nothing to sign: {reason}")


def _advice(reason: str) -> str:
    """What to do about something that cannot be signed."""
    leave_out = "ignore_paths (--ignore-path) leaves it out"
    if reason == LINK:
        return f"; allow_symlinks (--allow-symlinks) signs what it leads to in the model, and {leave_out}"
    if reason.startswith(LINK):
        return f"; put a copy of what it should lead to in its place, or {leave_out}"
    return f", neither a file nor a folder; {leave_out}"


def _check_utf8(model: str, name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(
            f"{model}: the name {shown(name)} is not UTF-8, so that it cannot be signed"
        ) from None


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(shown, names))


def _name_of(model: str) -> str:
    """The name of a model, which only informs: the last part of its path."""
    name = pathlib.Path(model).name
    if name in {"", ".."}:
        name = os.path.basename(os.path.realpath(model))
    return os.fsencode(name).decode("utf-8", "replace")


def _within(model: str, path: str) -> str:
    """The name of a file of a model, from its path."""
    try:
        return pathlib.Path(path).relative_to(model).as_posix()
    except ValueError:
        raise ValueError(f"{path}: not in the model {model}") from None


def generate_key(private_path: PathLike, public_path: PathLike) -> None:
    """Write a new P-256 key pair as PEM. The private key is in PKCS #8, unencrypted, and only its owner can
    read it; the public key is a SubjectPublicKeyInfo. Raises FileExistsError rather than overwrite a file,
    and OSError if one of them cannot be written; then neither is left behind."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    made: list[PathLike] = []
    try:
        for path, mode, content in ((public_path, 0o666, public), (private_path, 0o600, private)):
            with naming(path), open(path, "xb", opener=functools.partial(os.open, mode=mode)) as file:
                made.append(path)
                file.write(content)
    except BaseException:
        for path in made:
            with suppress(OSError):
                os.unlink(path)
        raise


def sign(
    folder: PathLike,
    signature_path: PathLike,
    *,
    private_key: PathLike | None = None,
    pkcs11_uri: str | None = None,
    certificate: PathLike | None = None,
    certificate_chain: Iterable[PathLike] = (),
    method: str = "files",
    algorithm: str = "blake3",
    shard_size: int | None = None,
    password: str | None = None,
    ignore_paths: Iterable[PathLike] = (),
    allow_symlinks: bool = False,
    for_stock: bool = False,
    measurements: PathLike | None = None,
    backend: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Sign a model folder (or one file) with an elliptic-curve key, offline.

    The key is ``private_key``, a PEM file, or ``pkcs11_uri``, a key in a PKCS #11 token (RFC 7512).
    ``password`` is that of the file, or the PIN of the token. With ``certificate``, the signature has this
    certificate of the key in place of the key's hint, and those of the files ``certificate_chain``, from its
    issuer upwards.

    ``ignore_paths`` are relative to ``folder``; git's own files and the signature itself are always ignored.
    ``allow_symlinks`` is as for :class:`HashingConfig`. ``for_stock`` deviates from the specification where
    model_signing 1.1.1 does: in the name of a shard's hash, and in that of a model which is one file.

    ``measurements`` is a file outside of the model that is made, signed with the same key, and read when the
    model is signed again: then only files that changed are read. What counts as unchanged, and what that
    trusts, is in ``docs/guide/signing.md``. :func:`verify` always reads everything.

    Raises ValueError for a key, certificate, method, algorithm, shard size or ignored path that cannot be
    used, for a file name with a colon that model_signing 1.1.1 cannot read if the signature is ``for_stock``
    and the method "shards", and if the signature would replace a file of the model or one that is not a
    signature; OSError for a file that cannot be read or written. Both come before anything is hashed. Raises
    as :meth:`HashingConfig.hash` does for the model, and ValueError for a file of weights that only holds
    their place, such as a Git LFS pointer.
    """
    model = os.fspath(local_path(folder))
    config = HashingConfig(
        method,
        algorithm,
        shard_size=shard_size,
        backend=backend,
        allow_symlinks=allow_symlinks,
        progress=progress,
    )
    within = _signature_within(model, signature_path)
    ignored = [*_given_ignored(ignore_paths), *within]
    for path in ignored:
        _check_utf8(model, path)
    config.set_ignored_paths(paths=ignored)
    key = _private_key(private_key, pkcs11_uri, password)
    signer = _signer(key, certificate, certificate_chain)
    known = None
    if measurements is not None:
        if _signature_within(model, measurements):
            raise ValueError(f"{os.fspath(measurements)}: measurements must be outside of the model")
        known = oms_measurements.read(measurements, key)
        if known is not None and (known.algorithm, known.shard_size) != (algorithm, config._shard_size):
            known = None
        check_output_file(measurements, inputs=[signature_path])
    listed = read_tree(model, ignored=frozenset(config._ignored(model)), allow_symlinks=allow_symlinks)
    if method == "shards" and for_stock:
        _check_shard_names(model, listed)
    check_output_file(signature_path, inputs=[file.path for file in listed.files.values()])
    _check_replaced(pathlib.Path(signature_path), in_model=bool(within))
    began = time.time_ns()
    tree, digests = config._measure(model, known=known)
    config._check_signable(model, tree, digests)
    for name, file in sorted(tree.files.items()):
        if os.path.splitext(name)[1].lower() in WEIGHTS_ENDINGS and (kind := _standing_in(file)):
            raise ValueError(
                f"{model}: {shown(name)} is {kind}; what it stands for would not be signed, and ignore_paths "
                "(--ignore-path) leaves it out"
            )
    statement = _statement(model, config, tree, digests, for_stock=for_stock)
    payload = make_payload(_name_of(model), statement, for_stock=for_stock)
    write_file(signature_path, make_bundle(payload, signer))
    if measurements is not None:
        found = oms_measurements.kept(algorithm, config._shard_size, tree.files, digests, began)
        write_file(measurements, oms_measurements.write(found, key))


def root_digest(
    folder: PathLike,
    *,
    method: str = "files",
    algorithm: str = "blake3",
    shard_size: int | None = None,
    ignore_paths: Iterable[PathLike] = (),
    allow_symlinks: bool = False,
    backend: str | None = None,
    progress: Progress | None = None,
) -> str:
    """The digest of a model that :func:`sign` would sign: SHA-256 over the digests of its files or shards in
    the order of their names as text (section 6.5.1), in hexadecimal. It depends on the method, the algorithm
    and the size of shards.

    A signature in ``folder`` counts as a file of the model unless ``ignore_paths`` has it. Raises as
    :meth:`HashingConfig.hash` does.
    """
    model = os.fspath(folder)
    config = HashingConfig(
        method,
        algorithm,
        shard_size=shard_size,
        backend=backend,
        allow_symlinks=allow_symlinks,
        progress=progress,
    )
    config.set_ignored_paths(paths=_given_ignored(ignore_paths))
    tree, digests = config._measure(model)
    config._check_signable(model, tree, digests)
    return _statement(model, config, tree, digests).root


def _private_key(private_key: PathLike | None, pkcs11_uri: str | None, password: str | None) -> PrivateKey:
    if pkcs11_uri is not None and private_key is None:
        from .signing_pkcs11 import TokenKey

        return TokenKey(pkcs11_uri, password)
    if private_key is not None and pkcs11_uri is None:
        return FileKey(load_private_key(private_key, password))
    raise ValueError("a signature needs one key: private_key (--key) or pkcs11_uri (--pkcs11-uri)")


def _signer(key: PrivateKey, certificate: PathLike | None, certificate_chain: Iterable[PathLike]) -> Signer:
    issuers = load_certificates(certificate_chain)
    if certificate is None:
        if issuers:
            raise ValueError(
                "a certificate chain needs the certificate of the key: certificate (--signing-certificate)"
            )
        return KeySigner(key)
    own = load_certificates([certificate])
    try:
        return CertificateSigner(key, own[0], [*own[1:], *issuers])
    except ValueError as error:
        raise ValueError(f"{os.fspath(certificate)}: {error}") from None


def _statement(
    model: str, config: HashingConfig, tree: ModelTree, digests: _Digests, *, for_stock: bool = False
) -> Statement:
    """What a signature of a model states."""
    method = config._method
    if not for_stock and SINGLE_FILE in digests:  # section 6.1.2 names a single file, and stock does not
        digests = {_name_of(model): digests[SINGLE_FILE]}
    return Statement(
        method=method,
        algorithm=config._algorithm,
        shard_size=config._shard_size,
        allow_symlinks=config._allow_symlinks,
        ignore_paths=tuple(config._ignored(model)),
        digests=dict(chain.from_iterable(file.items() for file in _resources(method, digests).values())),
        empty_files=_empty(tree) if method == "shards" else None,
    )


def _standing_in(file: ModelFile) -> str | None:
    """What a file is that only holds the place of another one; None for any other file."""
    with open(file.path, "rb", opener=file.open) as opened:
        kind = recognise(opened.read(HEAD_SIZE))
    return str(kind) if kind is not None and kind.stands_in else None


def _check_shard_names(model: str, tree: ModelTree) -> None:
    """Raise ValueError for a name that the stock package cannot tell from the rest of a shard's name."""
    for name in sorted(name for name, file in tree.files.items() if ":" in name and file.size):
        raise ValueError(
            f"{model}: {shown(name)} has a colon in its name, so that model_signing 1.1.1 cannot verify a "
            "signature of its shards; use the method 'files', rename the file, or leave it out with "
            "ignore_paths (--ignore-path)"
        )


def _check_replaced(path: pathlib.Path, *, in_model: bool) -> None:
    """Raise ValueError if ``path`` is a regular file that is not a signature. It may be empty if it is not in
    the model, where an empty file is a part of what is signed."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        head = file.read(_HEAD_SIZE)
    if not head and in_model:
        raise ValueError(f"{path}: this is an input, and the output would replace it; name another file")
    if head and _BUNDLE_TYPE not in head:
        raise ValueError(
            f"{path}: this file is not a signature, and the signature would replace it; name another file"
        )


def _given_ignored(paths: Iterable[PathLike]) -> list[str]:
    """The ignored paths that a caller gave, in their shortest form."""
    shortest = []
    for given in paths:
        path = pathlib.Path(given)
        if path.is_absolute():
            raise ValueError(f"ignored path {str(given)!r} must be relative and inside the folder")
        if not _WILDCARDS.isdisjoint(str(path)):
            raise ValueError(f"ignored path {str(given)!r} has a wildcard; OMS has none, so name each path")
        shortest.append(_shortest(given))
    return shortest


def _shortest(given: PathLike) -> str:
    """A relative path in its shortest form. Raises ValueError for the whole folder and for a path outside."""
    path = pathlib.Path(given)
    if ".." in path.parts:
        raise ValueError(f"ignored path {str(given)!r} must be relative and inside the folder")
    if not path.parts:
        raise ValueError(f"ignored path {str(given)!r} is the whole folder, so that nothing would be signed")
    return path.as_posix()


def _signature_within(model: str, signature_path: PathLike) -> list[str]:
    """The names of the signature in the model, if it is there, whichever links the two paths go through.

    They are two names if the signature's path is a link, which is written through: that of the link, and that
    of the file that it leads to.
    """
    folder, name = os.path.split(os.path.abspath(signature_path))
    paths = {os.path.join(os.path.realpath(folder), name), os.path.realpath(signature_path)}
    root = os.path.join(os.path.realpath(model), "")
    return sorted(path[len(root) :].replace(os.sep, "/") for path in paths if path.startswith(root))


def _resources(method: str, digests: _Digests) -> dict[str, dict[str, str]]:
    """For each file, its digests in hexadecimal by the names that OMS gives to files or shards."""
    return {
        name: {
            name if method == "files" else f"{name}:{start}:{end}": digest.hex()
            for (start, end), digest in parts.items()
        }
        for name, parts in digests.items()
    }


def _empty(tree: ModelTree) -> tuple[str, ...]:
    return tuple(sorted(name for name, file in tree.files.items() if file.size == 0))


def verify(
    folder: PathLike,
    signature_path: PathLike,
    *,
    public_key: PathLike | None = None,
    certificate_chain: Iterable[PathLike] = (),
    at: datetime | None = None,
    trusted_root: PathLike | None = None,
    identity: str | None = None,
    identity_provider: str | None = None,
    ignore_paths: Iterable[PathLike] = (),
    ignore_unsigned_files: bool = False,
    allow_symlinks: bool = False,
    backend: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Verify a model folder against its signature and the signer whom the caller trusts, offline.

    The signer is trusted by one of: ``public_key``, a PEM file; ``certificate_chain``, PEM files of trusted
    certificates, to one of which the signer's certificate must lead, where all have to be valid at the time
    ``at`` (with a time zone; default now); or ``trusted_root``, a file of Sigstore's, with the ``identity``
    of the signer and its ``identity_provider``.

    The signature says how the model was hashed and which paths were ignored. ``ignore_paths`` adds to these
    paths. ``ignore_unsigned_files`` permits anything that the signature does not list; with shards that
    another program signed, only empty files, because such a signature does not say which files were empty.
    ``allow_symlinks`` follows links as :class:`HashingConfig` does, even if the signer did not. This verifies
    a model in a Hugging Face cache that was signed as a folder of files.

    Raises IntegrityError, which names the files, if another key made the signature, the signer is not
    trusted, the model is not the one that was signed or it changes meanwhile; SignatureFormatError (a
    ValueError) for a malformed or unsupported signature, for one of another signing method, and for one of
    nothing; ValueError for a key, certificate, trusted root or ignored path that cannot be used, and unless
    the signer is trusted by exactly one of the three; and OSError for a file or folder that cannot be read.
    """
    model = os.fspath(local_path(folder))
    given = _given_ignored(ignore_paths)
    trusted = tuple(certificate_chain)
    verifier = _verifier(public_key, trusted, at, trusted_root, identity, identity_provider)
    statement = read_signature(signature_path, verifier)
    config = HashingConfig(
        statement.method,
        statement.algorithm,
        shard_size=statement.shard_size,
        backend=backend,
        allow_symlinks=allow_symlinks or statement.allow_symlinks,
        progress=progress,
    )
    ignored = [*statement.ignore_paths, *given, *_signature_within(model, signature_path)]
    config.set_ignored_paths(paths=ignored, ignore_git_paths=False)  # the statement has those it ignores
    signed = statement.files
    complete = statement.method == "files" or statement.empty_files is not None
    only = signed.keys() if ignore_unsigned_files and complete else None
    # The name of a single file is known only when it has been found.
    expected = signed if os.path.isdir(model) else None
    tree, digests = config._measure(model, only, expected)
    if tree.files.keys() == {SINGLE_FILE} and SINGLE_FILE not in signed:
        name = _name_of(model)  # the specification's name of a single file
        tree, digests = ModelTree({name: tree.files[SINGLE_FILE]}), {name: digests[SINGLE_FILE]}
    found = _resources(statement.method, digests)
    if not complete:
        for name in set(_empty(tree)) - signed.keys():
            del found[name]
    changed = (name for name in signed.keys() & found.keys() if signed[name] != found[name])
    remarks = {name: kind for name in changed if (kind := _standing_in(tree.files[name]))}
    if differences := _differences(signed, found, tree.refused, remarks):
        if ignore_unsigned_files and not complete:
            differences += (
                "; the signature does not say which files were empty when the model was signed, so that "
                "unsigned files with content are ignored only by name, with ignore_paths (--ignore-path)"
            )
        raise IntegrityError(f"the model is not the one that was signed; {differences}")


def _verifier(
    public_key: PathLike | None,
    certificate_chain: Collection[PathLike],
    at: datetime | None,
    trusted_root: PathLike | None,
    identity: str | None,
    identity_provider: str | None,
) -> Verifier:
    if [public_key is not None, bool(certificate_chain), trusted_root is not None].count(True) != 1:
        raise ValueError(
            "a signature is verified with one of public_key (--key), certificate_chain (--certificate-chain) "
            "and trusted_root (--trusted-root)"
        )
    if at is not None and not certificate_chain:
        raise ValueError("a time of validity is for certificates: at (--at)")
    if trusted_root is None and (identity is not None or identity_provider is not None):
        raise ValueError("an identity is for Sigstore: give its trusted root, trusted_root (--trusted-root)")
    if public_key is not None:
        return KeyVerifier(load_public_key(public_key))
    if trusted_root is None:
        return CertificateVerifier(load_certificates(certificate_chain), at)
    if identity is None or identity_provider is None:
        raise ValueError(
            "a Sigstore signature is verified with the signer's identity (--identity) and its "
            "identity_provider (--identity-provider)"
        )
    from .oms_sigstore import SigstoreVerifier

    return SigstoreVerifier(trusted_root, identity, identity_provider)


def read_signature(path: PathLike, verifier: Verifier) -> Statement:
    """What a signature says, if ``verifier`` trusts it. Raises as :func:`verify` does; nothing of the model
    is read."""
    try:
        data = read_regular(path, MAX_SIGNATURE_SIZE, "a signature")
    except ValueError as error:
        raise SignatureFormatError(str(error)) from None
    try:
        bundle = parse_bundle(data)
        verifier.verify(bundle)
        return parse_statement(bundle.payload)
    except (SignatureFormatError, IntegrityError) as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from None


def _differences(
    signed: Mapping[str, Mapping[str, str]],
    found: Mapping[str, Mapping[str, str]],
    refused: Mapping[str, str],
    remarks: Mapping[str, str],
) -> str:
    """How a model differs from what was signed; empty if it does not."""
    remarks = {**remarks, **refused}
    present = found.keys() | refused.keys()
    differing = {name for name in signed.keys() & present if name in refused or signed[name] != found[name]}
    lines = [
        f"{label}: {', '.join(shown(name) + _in_brackets(remarks.get(name)) for name in sorted(names))}"
        for label, names in (
            ("changed", differing),
            ("missing", signed.keys() - present),
            ("not signed", present - signed.keys()),
        )
        if names
    ]
    if LINK in refused.values():
        lines.append("allow_symlinks (--allow-symlinks) follows links within the model")
    return "; ".join(lines)


def _in_brackets(reason: str | None) -> str:
    return "" if reason is None else f" ({reason})"
