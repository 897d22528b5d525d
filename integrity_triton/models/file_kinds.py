"""Naming what a file is that was given in place of another, from the bytes at its beginning."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..strict_json import shown

HEAD_SIZE = 1024
"""Bytes from the beginning of a file that :func:`recognise` looks at."""

_ZIP_NAME = slice(30, 30 + 256)  # a ZIP archive begins with the header of its first member
_LONGEST_FIRST_LINE = 60


@dataclass(frozen=True)
class FileKind:
    """What a file is, and what to do about it. ``stands_in`` marks what holds the place of another file, such
    as a pointer or the error page of a server."""

    name: str
    remedy: str = ""
    stands_in: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.remedy}" if self.remedy else self.name


JSON = FileKind("JSON text")
SAFETENSORS = FileKind("a safetensors file")

WEIGHTS_ENDINGS = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".gguf", ".ggml", ".onnx", ".h5"}
    | {".hdf5", ".keras", ".tflite", ".npz", ".npy"}
)
"""How the names of files with weights end, in lower case."""

_PICKLE = "it can run code when it is loaded, so convert it to safetensors"
_DOWNLOAD = "download the file itself"

# The order matters only where one beginning contains another.
_BEGINNINGS: tuple[tuple[bytes, FileKind], ...] = (
    (
        b"version https://git-lfs.github.com/spec/",
        FileKind("a Git LFS pointer", "run git lfs pull", stands_in=True),
    ),
    (
        b"version https://hawser.github.com/spec/",
        FileKind("a Git LFS pointer", "run git lfs pull", stands_in=True),
    ),
    (
        b"# xet version",
        FileKind("a Git Xet pointer", "run git xet checkout, or download the file itself", stands_in=True),
    ),
    (b"GGUF", FileKind("a GGUF model")),
    (b"tjgg", FileKind("a GGML model")),
    (b"lmgg", FileKind("a GGML model")),
    (b"\x89HDF\r\n\x1a\n", FileKind("an HDF5 file, as Keras writes it")),
    (b"\x93NUMPY", FileKind("a NumPy array")),
    (b"\x1f\x8b", FileKind("a gzip archive", "unpack it")),
    (b"\x28\xb5\x2f\xfd", FileKind("a Zstandard archive", "unpack it")),
    (b"\xfd7zXZ\x00", FileKind("an XZ archive", "unpack it")),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a 7-Zip archive", "unpack it")),
    (b"-----BEGIN PGP", FileKind("an OpenPGP key or signature")),
    (b"-----BEGIN SSH SIGNATURE", FileKind("an OpenSSH signature")),
    (b"untrusted comment:", FileKind("a minisign key or signature")),
)


def recognise(head: bytes) -> FileKind | None:
    """The kind of the file that begins with ``head``, which is cut to :data:`HEAD_SIZE`; None if unknown.

    The answer is a guess for an error message. Nothing is accepted because of it.
    """
    head = head[:HEAD_SIZE]
    if not head:
        return FileKind("an empty file", _DOWNLOAD)
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if head.startswith(b"PK\x03\x04"):
        return _zip(head)
    if head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return FileKind("a pickle", _PICKLE)
    if head[4:8] == b"TFL3":
        return FileKind("a TensorFlow Lite model")
    if head[257:262] == b"ustar":
        return FileKind("a tar archive", "unpack it")
    if _is_safetensors(head):
        return SAFETENSORS
    if _is_onnx(head):
        return FileKind("an ONNX model")
    return _text(head)


def mistaken_for(expected: str, head: bytes, form: FileKind) -> str | None:
    """A message that a file is not what was ``expected`` but of the kind that its beginning ``head`` shows.

    ``form`` is the kind that the expected file has. None if the file is of this kind or of an unknown one.
    """
    kind = recognise(head)
    return None if kind in (None, form) else f"not {expected} but {kind}"


def _zip(head: bytes) -> FileKind:
    name = head[_ZIP_NAME][: int.from_bytes(head[26:28], "little")]
    if b"/" in name and name.rpartition(b"/")[2] in {
        b"data.pkl",
        b".format_version",
        b"byteorder",
        b"version",
    }:
        return FileKind("a PyTorch checkpoint, that is, a ZIP archive with a pickle", _PICKLE)
    if name.endswith(b".npy"):
        return FileKind("a NumPy archive (.npz)")
    return FileKind("a ZIP archive", "unpack it")


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and head[5:8] == b"\0\0\0"


def _is_onnx(head: bytes) -> bool:
    # A ModelProto in the usual order: ir_version (field 1), then the producer's name (2), the graph (7) or
    # the operator sets (8). https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
    if not re.match(rb"(?s)\x08[\x01-\x20][\x12\x3a\x42].", head):
        return False
    return head[2] != 0x12 or bytes(head[4 : 4 + head[3]]).isascii()


def _text(head: bytes) -> FileKind | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return FileKind("UTF-16 text")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lowered = start[:256].lower()
    if lowered.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return FileKind("an HTML page, such as a server's error or login page", _DOWNLOAD, stands_in=True)
    if lowered.startswith((b"<?xml", b"<error>")):
        return FileKind("an XML document, such as a server's error message", _DOWNLOAD, stands_in=True)
    if lowered.startswith((b"{", b"[")):
        return JSON if b"\0" not in head else None
    try:
        text = start.decode("utf-8") if len(head) < HEAD_SIZE else start.decode("utf-8", "ignore")
    except UnicodeDecodeError:
        return None
    line = text.splitlines()[0] if text else ""
    if not line or not all(c.isprintable() or c in "\t\r\n" for c in text):
        return None
    return FileKind(f"text that begins with {shown(line[:_LONGEST_FIRST_LINE])}")
