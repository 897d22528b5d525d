"""OCI image layouts and ModelPack: every blob of a stored model against the digest that names it.

OCI image specification 1.1, image-layout.md, descriptor.md, image-index.md and manifest.md; CNCF ModelPack
(modelpack/model-spec), docs/spec.md and docs/config.md, whose layers are the files of a model, one in each
raw layer or several in a tar archive.
"""

from __future__ import annotations

import hmac
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import IntegrityError
from ..files import Progress, hash_file, read_pieces
from ..hashing import new
from ..strict_json import StrictJsonError, parse_object
from .errors import ManifestError, shown
from .file_digests import FileDigest, FileDigests
from .regular_files import open_regular, read_regular

__all__ = ["Descriptor", "Layout", "describe", "describe_file", "verify_layout"]

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
MODEL_LAYER_RAW = "application/vnd.cncf.model.weight.v1.raw"
FILE_PATH = "org.cncf.model.filepath"
"""The annotation of a layer that names its file."""

_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")
_MODEL_LAYER = re.compile(
    r"application/vnd\.cncf\.model\.(weight|weight\.config|doc|code|dataset)\.v1\.(raw|tar|tar\+gzip|tar\+zstd)\Z"
)
_MOST_JSON = 4 << 20  # bytes; registries take no larger manifests
_MOST_BLOBS = 1 << 16
_MOST_DEPTH = 4  # indexes in indexes
_MOST_SIZE = (1 << 63) - 1


@dataclass(frozen=True)
class Descriptor:
    """What the OCI specification says of a blob: its type, digest and size."""

    media_type: str
    digest: str
    """``sha256:`` or ``sha512:`` and lower-case hexadecimal digits."""
    size: int
    """Bytes."""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def algorithm(self) -> str:
        return self.digest.partition(":")[0]

    def to_dict(self) -> dict[str, Any]:
        """The descriptor as a member of a manifest."""
        found: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return {**found, "annotations": dict(self.annotations)} if self.annotations else found


def describe(
    data: Any, media_type: str = MODEL_LAYER_RAW, *, algorithm: str = "sha256", backend: str | None = None
) -> Descriptor:
    """The descriptor of a layer with these bytes: a bytes-like object, or a tensor on any device, which is
    hashed there if ``backend`` names the device's, and by the CPU library otherwise.

    Raises ValueError for a hash that the specification does not have, and as :func:`integrity_triton.new`.
    """
    from ..messages.from_caller import message_view

    _check_algorithm(algorithm)
    digest = new(algorithm, data, backend=backend).hexdigest()
    return Descriptor(media_type, f"{algorithm}:{digest}", message_view(data).nbytes)


def describe_file(
    path: str | os.PathLike[str],
    media_type: str = MODEL_LAYER_RAW,
    *,
    algorithm: str = "sha256",
    backend: str | None = None,
    progress: Progress | None = None,
) -> Descriptor:
    """The descriptor of a layer that is this file: a raw file of a model, or a tar archive. See
    :func:`describe`. Raises OSError if the file cannot be read."""
    _check_algorithm(algorithm)
    sizes: list[int] = []

    def count(size: int) -> None:
        sizes.append(size)
        if progress is not None:
            progress(size)

    digest = hash_file(path, algorithm, backend=backend, progress=count)
    return Descriptor(media_type, f"{algorithm}:{digest.hex()}", sum(sizes))


def _check_algorithm(algorithm: str) -> None:
    if algorithm not in ("sha256", "sha512"):
        raise ValueError(f"OCI digests are of sha256 or sha512, not {algorithm!r}")


@dataclass(frozen=True)
class Layout:
    """A layout that was verified."""

    manifests: tuple[Descriptor, ...]
    """The manifests, in the order in which the index names them."""
    blobs: Mapping[str, int]
    """The digest of each verified blob, with its size."""
    files: Mapping[str, FileDigest]
    """The files of ModelPack's raw layers by their paths."""
    unchecked: tuple[str, ...]
    """What could not be checked, in words: the uncompressed content of layers with zstd."""

    @property
    def file_digests(self) -> FileDigests:
        """The list with which :func:`integrity_triton.models.load_verified` checks a folder with the files of
        the raw layers. Raises ManifestError if there is none."""
        return FileDigests(self.files)


def verify_layout(
    folder: str | os.PathLike[str],
    digest: str | None = None,
    *,
    backend: str | None = None,
    progress: Progress | None = None,
) -> Layout:
    """Verify a local OCI image layout: that each blob which the index, its manifests and their layers name is
    there, and has its size and digest. For a ModelPack manifest, the digests of uncompressed layers in its
    configuration are verified, too.

    ``digest``, such as ``"sha256:..."``, is that of the manifest or index that is trusted; only what it names
    is then verified and returned. Without it the layout is only consistent: whoever can write to it can
    replace all of it.

    Raises :class:`integrity_triton.IntegrityError` for a blob that is missing or differs, and ManifestError
    for documents that are malformed; both name the blob.
    """
    if digest is not None and not isinstance(digest, str):
        raise TypeError(f"digest must be a str such as 'sha256:...', not {type(digest).__name__}")
    if digest is not None and not _DIGEST.match(digest):
        raise ValueError(
            f"{shown(digest)} is not a digest: an algorithm, a colon and lower-case hexadecimal digits"
        )
    return _Verifier(Path(folder), backend, progress).run(digest)


class _Verifier:
    def __init__(self, folder: Path, backend: str | None, progress: Progress | None) -> None:
        self._folder, self._backend, self._progress = folder, backend, progress
        self._blobs: dict[str, int] = {}
        self._manifests: list[Descriptor] = []
        self._files: dict[str, FileDigest] = {}
        self._unchecked: list[str] = []

    def run(self, digest: str | None) -> Layout:
        layout = self._read("oci-layout")
        version = layout.get("imageLayoutVersion")
        if version != "1.0.0":
            raise ManifestError(
                f"oci-layout: imageLayoutVersion is {shown(str(version))}, and 1.0.0 is known"
            )
        index = self._read("index.json")
        if digest is None:
            self._index(index, "index.json", 0)
        else:
            for descriptor in self._descriptors(index, "manifests", "index.json"):
                if descriptor.digest == digest:
                    self._document(descriptor, 0)
                    break
            else:
                raise IntegrityError(f"index.json names no manifest with the digest {digest}")
        return Layout(
            tuple(self._manifests),
            MappingProxyType(self._blobs),
            MappingProxyType(self._files),
            tuple(self._unchecked),
        )

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return parse_object(read_regular(self._folder / name, _MOST_JSON, "JSON"), floats=True)
        except (StrictJsonError, ValueError) as error:
            raise ManifestError(f"{name}: {error}") from None

    def _index(self, index: Mapping[str, Any], where: str, depth: int) -> None:
        if depth > _MOST_DEPTH:
            raise ManifestError(f"{where}: indexes are nested too deeply")
        for descriptor in self._descriptors(index, "manifests", where):
            self._document(descriptor, depth)

    def _document(self, descriptor: Descriptor, depth: int) -> None:
        """Verify an index or a manifest, and what it names. One that was seen before is not read again."""
        if descriptor.digest in self._blobs:
            self._check_size(descriptor)
            return
        where = descriptor.digest
        if descriptor.media_type not in (INDEX, MANIFEST):
            raise ManifestError(
                f"{where}: {shown(descriptor.media_type)} is neither an OCI index nor a manifest"
            )
        if descriptor.size > _MOST_JSON:
            raise ManifestError(f"{where}: a manifest of {descriptor.size} bytes is too large")
        data = self._small(descriptor)
        try:
            value = parse_object(data, floats=True)
        except StrictJsonError as error:
            raise ManifestError(f"{where}: {error}") from None
        if value.get("schemaVersion") != 2:
            raise ManifestError(f"{where}: schemaVersion must be 2")
        if value.get("mediaType", descriptor.media_type) != descriptor.media_type:
            raise ManifestError(f"{where}: its mediaType is not the one with which it is named")
        if descriptor.media_type == INDEX:
            self._index(value, where, depth + 1)
            return
        self._manifests.append(descriptor)
        config = self._descriptor(value.get("config"), f"{where}: config")
        layers = self._descriptors(value, "layers", where)
        content = self._small(config) if config.media_type == MODEL_CONFIG else None
        if content is None:
            self._blob(config)
        for layer in layers:
            self._blob(layer)
            self._name_file(layer, where)
        if content is not None:
            self._model(content, layers, config.digest)

    def _name_file(self, layer: Descriptor, where: str) -> None:
        kind = _MODEL_LAYER.match(layer.media_type)
        path = layer.annotations.get(FILE_PATH)
        if kind is None or kind[2] != "raw" or path is None:
            return
        found = FileDigest(layer.algorithm, bytes.fromhex(layer.digest.partition(":")[2]), layer.size)
        FileDigests({path: found})  # refuses a path that leads out of the folder
        if self._files.setdefault(path, found) != found:
            raise ManifestError(f"{where}: two layers are the file {shown(path)}")

    def _model(self, content: bytes, layers: list[Descriptor], where: str) -> None:
        """Verify the digests of uncompressed layers in a ModelPack configuration."""
        try:
            value = parse_object(content, floats=True)
        except StrictJsonError as error:
            raise ManifestError(f"{where}: {error}") from None
        model = value.get("modelfs")
        if not isinstance(model, dict) or model.get("type") != "layers":
            raise ManifestError(f"{where}: modelfs must be an object of the type 'layers'")
        digests = model.get("diffIds", model.get("diff_ids"))  # the name until 2025 was diff_ids
        if not isinstance(digests, list) or len(digests) != len(layers):
            raise ManifestError(f"{where}: modelfs must have a digest for each of the {len(layers)} layers")
        for layer, digest in zip(layers, digests, strict=True):
            if not isinstance(digest, str) or not _DIGEST.match(digest):
                raise ManifestError(f"{where}: {shown(str(digest))} is not a digest")
            if layer.media_type.endswith("+zstd"):
                self._unchecked.append(f"the uncompressed content of {layer.digest}")
                continue
            hasher = new(digest.partition(":")[0], backend=self._backend)
            gzip = layer.media_type.endswith("+gzip")
            pieces = read_pieces(self._path(layer), opener=_open_blob)
            for piece in _unzipped(pieces, layer.digest) if gzip else pieces:
                hasher.update(piece)
            if not hmac.compare_digest(hasher.hexdigest(), digest.partition(":")[2]):
                raise IntegrityError(
                    f"{layer.digest}: its uncompressed content does not have the digest {digest}"
                )

    # Blobs

    def _path(self, descriptor: Descriptor) -> Path:
        algorithm, _, digits = descriptor.digest.partition(":")
        return self._folder / "blobs" / algorithm / digits

    def _check_size(self, descriptor: Descriptor) -> None:
        if self._blobs[descriptor.digest] != descriptor.size:
            raise IntegrityError(
                f"{descriptor.digest} has {self._blobs[descriptor.digest]} bytes, and "
                f"{descriptor.size} elsewhere"
            )

    def _small(self, descriptor: Descriptor) -> bytes:
        """The content of a document, verified as it was read."""
        if descriptor.size > _MOST_JSON:
            raise ManifestError(f"{descriptor.digest}: a document of {descriptor.size} bytes is too large")
        try:
            data = read_regular(self._path(descriptor), _MOST_JSON, "JSON")
        except FileNotFoundError:
            raise IntegrityError(f"the blob {descriptor.digest} is missing") from None
        except ValueError as error:
            raise IntegrityError(f"the blob {descriptor.digest}: {error}") from None
        found = new(descriptor.algorithm, data, backend=self._backend).hexdigest()
        self._compare(descriptor, len(data), found)
        return data

    def _blob(self, descriptor: Descriptor) -> None:
        if descriptor.digest in self._blobs:
            self._check_size(descriptor)
            return
        path = self._path(descriptor)
        try:
            size = os.stat(path).st_size
            if size != descriptor.size:
                raise IntegrityError(
                    f"{descriptor.digest} has {size} bytes, and {descriptor.size} were expected"
                )
            hasher, read = new(descriptor.algorithm, backend=self._backend), 0
            for piece in read_pieces(path, opener=_open_blob):
                hasher.update(piece)
                read += len(piece)
                if self._progress is not None:
                    self._progress(len(piece))
        except FileNotFoundError:
            raise IntegrityError(f"the blob {descriptor.digest} is missing") from None
        except ValueError as error:
            raise IntegrityError(f"the blob {descriptor.digest}: {error}") from None
        self._compare(descriptor, read, hasher.hexdigest())

    def _compare(self, descriptor: Descriptor, size: int, found: str) -> None:
        if size != descriptor.size:
            raise IntegrityError(f"{descriptor.digest} has {size} bytes, and {descriptor.size} were expected")
        if not hmac.compare_digest(found, descriptor.digest.partition(":")[2]):
            raise IntegrityError(
                f"the blob {descriptor.digest} has the digest {descriptor.algorithm}:{found}"
            )
        if len(self._blobs) >= _MOST_BLOBS:
            raise ManifestError(f"the layout names more than {_MOST_BLOBS} blobs")
        self._blobs[descriptor.digest] = size

    # Descriptors

    def _descriptors(self, value: Mapping[str, Any], name: str, where: str) -> list[Descriptor]:
        given = value.get(name)
        if not isinstance(given, list):
            raise ManifestError(f"{where}: {name} must be an array")
        if len(given) > _MOST_BLOBS:
            raise ManifestError(f"{where}: {name} has more than {_MOST_BLOBS} elements")
        return [self._descriptor(one, f"{where}: {name}[{i}]") for i, one in enumerate(given)]

    @staticmethod
    def _descriptor(value: Any, where: str) -> Descriptor:
        if not isinstance(value, dict):
            raise ManifestError(f"{where} must be a descriptor, which is an object")
        media_type, digest, size = (value.get(key) for key in ("mediaType", "digest", "size"))
        if not isinstance(media_type, str) or not media_type:
            raise ManifestError(f"{where}: mediaType must be a string")
        if not isinstance(digest, str) or not _DIGEST.match(digest):
            raise ManifestError(f"{where}: {shown(str(digest))} is not a digest of sha256 or sha512")
        if type(size) is not int or not 0 <= size <= _MOST_SIZE:
            raise ManifestError(f"{where}: size must be a number of bytes")
        annotations = value.get("annotations", {})
        if not isinstance(annotations, dict) or not all(isinstance(x, str) for x in annotations.values()):
            raise ManifestError(f"{where}: annotations must map names to strings")
        return Descriptor(media_type, digest, size, MappingProxyType(annotations))


def _open_blob(path: str, flags: int) -> int:
    return open_regular(path)


def _unzipped(pieces: Iterator[memoryview], where: str) -> Iterator[bytes]:
    """The content of gzip members, a bounded part at a time."""
    most, decoder, ended = 1 << 20, zlib.decompressobj(31), True
    try:
        for piece in pieces:
            data = bytes(piece)
            while data:
                ended = False
                out = decoder.decompress(data, most)
                data = decoder.unconsumed_tail
                if out:
                    yield out
                if decoder.eof:
                    data, decoder, ended = decoder.unused_data, zlib.decompressobj(31), True
                elif not data and len(out) < most:
                    break
        if not ended:
            raise IntegrityError(f"{where}: the compressed layer is truncated")
    except zlib.error as error:
        raise IntegrityError(f"{where}: the layer is not gzip: {error}") from None
