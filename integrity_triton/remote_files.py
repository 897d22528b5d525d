"""Files in object stores and on servers, by the URLs that fsspec takes: ``s3://``, ``hf://``, ``memory://``.

Everything that takes the path of a file or folder asks :func:`located` what the path leads to, and nothing
else looks at how it is spelled. A URL needs fsspec (the extra ``remote``) and the package of its store, which
are imported when the first URL is met. Options and credentials are those of the store's package and of
fsspec's own configuration (fsspec 2026.9.0, ``docs/source/features.rst``, section "Configuration").

A remote file is read in ranges. What tells its versions apart is noted when it is found, so that a change is
noticed afterwards, as far as the store tells.
"""

from __future__ import annotations

import errno
import io
import os
import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from .workers import Pending, Workers

PIECE_SIZE = 4 << 20
"""Bytes of one request."""
READ_AHEAD = 4
"""Pieces that a stream holds at most: one with its caller, and the others being read."""

_FIRST_READ = 256 << 10  # bytes: the header of most safetensors files fits
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:://|::.*://)")  # one URL, or a chain of them
_LOCAL = frozenset({"file", "local"})
_VERSION_FIELDS = frozenset(
    {"ETag", "etag", "e_tag", "generation", "VersionId", "version_id", "Content-MD5", "content_md5", "Digest"}
    | {"md5Hash", "crc32c", "blob_id", "xet_hash", "sha256", "LastModified", "Last-Modified", "last_modified"}
    | {"mtime", "modified", "updated", "created"}
)
"""The fields with which fsspec's file systems tell the version of a file, or when it was changed."""

# Of the file systems that are not asynchronous, those whose reads may run in several threads at once. That of
# the Hugging Face Hub looks at a listing which it keeps whenever it opens a file, and only then.
_CONCURRENT = frozenset({"hf", "memory"})
_OPENED_ALONE = frozenset({"hf"})


class Url:
    """The URL of a file or folder that is not in the local file system."""

    def __init__(self, text: str) -> None:
        """Raises ValueError for a chained URL."""
        if "::" in text:
            raise ValueError(
                f"{_without_secrets(text)}: a chained URL is not taken, since what is read would not come "
                "from the store alone; name the file itself"
            )
        self._text = text.rstrip("/") if urlsplit(text).path.rstrip("/") else text

    def __str__(self) -> str:
        """The URL without a password or a query, which may be a signature, so that it can be shown."""
        return _without_secrets(self._text)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return unquote(urlsplit(self._text).path).rpartition("/")[2] or str(self)

    def is_folder(self) -> bool:
        """Raises FileNotFoundError if nothing is there; ImportError, which names the URL and what is to be
        installed; ValueError for a scheme that fsspec does not know; OSError for any other failure."""
        return bool(self._look()["type"] == "directory")

    def file(self) -> RemoteFile:
        """The file at the URL. Raises as :meth:`is_folder`, and IsADirectoryError for a folder."""
        info = self._look()
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self))
        if not isinstance(info.get("size"), int):
            raise OSError(errno.ENOTSUP, "the server does not tell the size of the file", str(self))
        return RemoteFile(self, info["size"], _version(info))

    def files(self) -> dict[str, int]:
        """The names of all files in the folder and its subfolders, which are their paths in it, with slashes;
        and their sizes in bytes. Raises as :meth:`is_folder`, and ValueError for a name that no folder could
        have."""
        system, path = self._system()
        with self._naming():
            system.invalidate_cache()
            found = system.find(path, detail=True)
        start = path.rstrip("/") + "/"
        files = {}
        for each, info in sorted(found.items()):
            name = each[len(start) :]
            if not each.startswith(start) or any(part in {"", ".", ".."} for part in name.split("/")):
                raise ValueError(f"{self}: {each!r} is not the path of a file in this folder")
            files[name] = info.get("size") or 0
        return files

    def within(self, name: str) -> Url:
        """The URL of a file in the folder. ``name`` is one of :meth:`files`."""
        return Url(f"{self._text.rstrip('/')}/{name}")

    def _look(self) -> Mapping[str, Any]:
        system, path = self._system()
        with self._naming():
            system.invalidate_cache()  # a listing that was kept would hide a change
            info: Mapping[str, Any] = system.info(path)
        return info

    def _system(self) -> tuple[Any, str]:
        """fsspec's file system, and the path in it."""
        scheme = self._text.partition(":")[0]
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise ImportError(
                f"{self}: URLs need fsspec and the package of the store; pip install "
                "'integrity-triton[remote]', and s3fs, gcsfs, adlfs or huggingface_hub besides"
            ) from None
        try:
            system, path = url_to_fs(self._text)
        except ImportError as error:
            raise ImportError(f"{self}: {self._cleaned(str(error))}") from None
        except ValueError as error:
            reason = self._cleaned(str(error))
            raise ValueError(f"{self}: fsspec does not take the scheme {scheme!r}: {reason}") from None
        except Exception:  # some connect to their server here
            with self._naming():
                raise
        return system, path

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Let every error of the store name the URL. Errors that are no OSError become one."""
        try:
            yield
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            code = error.errno if isinstance(error, OSError) and error.errno else None
            if isinstance(error, FileNotFoundError):
                code = errno.ENOENT
            elif isinstance(error, PermissionError):
                code = errno.EACCES
            if code in {errno.ENOENT, errno.EACCES}:
                raise OSError(code, os.strerror(code), str(self)) from self._cause(error)
            reason = " ".join(self._cleaned(str(error)).split()) or type(error).__name__
            raise OSError(code or errno.EIO, f"the store failed: {reason}", str(self)) from self._cause(error)

    def _cause(self, error: Exception) -> Exception | None:
        """An error of the store to be shown beside ours; None if the URL has secrets, since what the store's
        package says may have them in any spelling."""
        return None if str(self) != self._text else error

    def _cleaned(self, reason: str) -> str:
        """What the store's package says, which often has the URL in it, without its secrets."""
        for secret in _secrets(self._text):
            reason = reason.replace(secret, "***")
        return reason


class RemoteFile:
    """A file in a store, as it was when it was found. Immutable, and to be used by any number of threads."""

    def __init__(self, url: Url, size: int, version: tuple[tuple[str, str], ...]) -> None:
        self.url = url
        self.size = size
        """Bytes."""
        self.version = version
        """What the store tells of the version of the file; empty if it tells nothing."""
        self._system, self._path = url._system()
        protocol = self._system.protocol
        protocols = {protocol} if isinstance(protocol, str) else set(protocol)
        self._concurrent = bool(getattr(self._system, "async_impl", False) or protocols & _CONCURRENT)
        self._opened_alone = bool(protocols & _OPENED_ALONE)
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return str(self.url)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.name

    @property
    def identity(self) -> tuple[object, ...]:
        """What changes when another file takes the file's place."""
        return self.url._text, self.size, self.version  # with its query, which str would leave out

    def is_unchanged(self) -> bool:
        """Whether the store still has this file, as far as it tells. Raises as :meth:`Url.file`."""
        return self.url.file().identity == self.identity

    def read_into(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill ``views``, one after the other, from ``offset`` on. Returns the number of bytes, which is
        smaller only at the end of the file. Raises OSError, which names the URL."""
        wanted = min(sum(map(len, views)), max(0, self.size - offset))
        filled = 0
        data = memoryview(b"")
        for view in views:
            at = 0
            while at < len(view) and (data or filled < wanted):
                if not data:
                    size = min(PIECE_SIZE, wanted - filled)
                    data = memoryview(self._fetch(offset + filled, offset + filled + size))
                    filled += size
                length = min(len(data), len(view) - at)
                view[at : at + length] = data[:length]
                data = data[length:]
                at += length
        return filled

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[memoryview]:
        """The bytes ``[start, end)``, as many as the file has, in pieces in their order, while threads read
        the next ones."""
        end = self.size if end is None else min(end, self.size)
        offsets = iter(range(start, end, PIECE_SIZE))
        if end - start <= PIECE_SIZE:
            if start < end:
                yield memoryview(self._fetch(start, end))
            return
        with Workers(READ_AHEAD if self._concurrent else 1) as readers:
            pending: deque[Pending[bytes]] = deque()
            while True:
                # One piece is with the caller, so that all together are READ_AHEAD.
                while len(pending) < READ_AHEAD - 1 and (offset := next(offsets, None)) is not None:
                    pending.append(readers.submit(self._fetch, offset, min(offset + PIECE_SIZE, end)))
                if not pending:
                    return
                yield memoryview(pending.popleft().result())

    def read(self, start: int, end: int) -> memoryview:
        """The bytes ``[start, end)``, as many as the file has, in memory of their own."""
        data = bytearray(max(0, min(end, self.size) - start))
        offset = 0
        for piece in self.pieces(start, end):
            data[offset : offset + len(piece)] = piece
            offset += len(piece)
        return memoryview(data)

    def stream(self) -> io.BufferedReader:
        """The file for code that reads a little from its beginning on."""
        return io.BufferedReader(_Stream(self), _FIRST_READ)

    def _fetch(self, start: int, end: int) -> bytes:
        with self.url._naming():
            if self._opened_alone:
                with self._lock:
                    file = self._system.open(self._path, "rb", cache_type="none")
                with file:
                    file.seek(start)
                    data = file.read(end - start)
            else:
                with nullcontext() if self._concurrent else self._lock:
                    data = self._system.cat_file(self._path, start=start, end=end)
        if len(data) != end - start:
            raise OSError(
                errno.EIO,
                f"the store gave {len(data)} bytes for the range {start} to {end}: it does not serve ranges, "
                "or the file changed while it was being read",
                str(self),
            )
        return bytes(data)


class _Stream(io.RawIOBase):
    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = self._file.read_into([memoryview(buffer).cast("B")], self._position)
        self._position += size
        return size


def located(path: str | os.PathLike[str] | Url | RemoteFile) -> str | os.PathLike[str] | Url | RemoteFile:
    """What a path leads to: a :class:`Url`, or a path in the local file system, which a URL with the scheme
    ``file`` names, too. Only a str is a URL; a file whose relative path looks like one is named with ``./``
    before it.

    Raises ValueError for a URL that names a file of another machine or is chained.
    """
    if not isinstance(path, str) or _URL.match(path) is None:
        return path
    scheme, _, rest = path.partition("://")
    if scheme.lower() not in _LOCAL:
        return Url(path)
    host, slash, name = rest.partition("/")
    if host not in {"", "localhost"} or not slash:
        raise ValueError(f"{_without_secrets(path)}: a local file is named by file:///, and not with a host")
    return url2pathname(unquote("/" + name) if os.name != "nt" else "/" + name)


def is_remote(path: str | os.PathLike[str] | Url | RemoteFile) -> bool:
    """Whether a path is a URL that does not name a local file."""
    return isinstance(located(path), Url | RemoteFile)


def local_path(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The path in the local file system that a path or a URL with the scheme ``file`` names.

    Raises ValueError for any other URL.
    """
    place = located(path)
    if isinstance(place, Url | RemoteFile):
        raise ValueError(f"{place}: a URL is not taken here; copy the file or folder to this machine first")
    return place


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is there, as :func:`os.path.isdir` tells. For a URL, raises as
    :meth:`Url.is_folder`."""
    place = located(path)
    return place.is_folder() if isinstance(place, Url) else os.path.isdir(local_path(path))


def _version(info: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((field, str(info[field])) for field in _VERSION_FIELDS & info.keys() if info[field]))


def _without_secrets(url: str) -> str:
    if "::" in url:
        return "::".join(map(_without_secrets, url.split("::")))
    head, query, _ = url.partition("?")
    fragment = ""
    if head.lower().startswith("http"):  # keys in a store may have the sign in their names
        head, fragment, _ = head.partition("#")
    user = _user(head)
    scheme, separator, rest = head.partition("://")
    shown = f"{scheme}{separator}***{rest[len(user) :]}" if user else head
    return shown + ("?..." if query else "") + ("#..." if fragment else "")


def _user(head: str) -> str:
    """The name and password of a user in a URL, which may be a token without a password."""
    scheme, separator, rest = head.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    # In hf://model@revision the sign has another meaning.
    return user if separator and at and (":" in user or scheme.lower() != "hf") else ""


def _secrets(url: str) -> list[str]:
    """What is not shown of a URL, in the spellings that other programs give it, the longest first."""
    head, _, query = url.partition("?")
    head, _, fragment = head.partition("#")
    user = _user(head)
    found = {query, fragment, user, user.partition(":")[2], *(x.partition("=")[2] for x in query.split("&"))}
    found |= {unquote(secret) for secret in found}
    return sorted((secret for secret in found if len(secret) > 2), key=len, reverse=True)
