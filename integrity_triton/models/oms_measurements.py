"""Digests of files from an earlier signature, so that signing again reads only the files that changed.

A file counts as unchanged if it is the same inode of the same device, with the same size and the same times
of modification and of status change, to the nanosecond. That is no proof. It trusts that nobody can set back
the time of status change, which takes the privilege to set the clock or to write to the device beneath the
file system; that the file system stamps changes, which it may do late for a file that is mapped for writing;
and that its clock is the one of this machine. A file that changed less than two seconds before it was read
is not kept, since a further change could have the same times.

The file of measurements is trusted because the key that signs the model has signed it, too: who could write
it could otherwise make the signer sign digests of files that were never read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature

from ..strict_json import StrictJsonError, parse_object
from .dsse import Envelope, pre_authentication_encoding, read_envelope, write_envelope
from .model_tree import ModelFile
from .oms_signers import PrivateKey
from .regular_files import Identity, read_regular
from .signing_keys import signature_algorithm

PathLike = str | os.PathLike[str]
Digests = dict[tuple[int, int], bytes]

MAX_FILE = 512 << 20
"""Bytes, enough for a million files or shards."""

_PAYLOAD_TYPE = "application/vnd.integrity-triton.measurements+json"
_VERSION = 1
_RECENT = 2_000_000_000  # nanoseconds; FAT, the coarsest of the usual file systems, stamps every two seconds
_IDENTITY = 5  # numbers


@dataclass(frozen=True)
class Measurements:
    """The digests of files, by names in the model and by ranges of bytes, with which file each was."""

    algorithm: str
    shard_size: int | None
    files: Mapping[str, tuple[Identity, Digests]]

    def of(self, name: str, file: ModelFile, ranges: Iterable[tuple[int, int]]) -> Digests | None:
        """The digests of a file if it counts as unchanged, and None if it has to be read."""
        identity, digests = self.files.get(name, ((), {}))
        same = identity == file.identity and list(digests) == list(ranges)
        return dict(digests) if same else None


def kept(
    algorithm: str,
    shard_size: int | None,
    files: Mapping[str, ModelFile],
    digests: Mapping[str, Digests],
    measured_at: int,
) -> Measurements:
    """The measurements of files that did not change shortly before ``measured_at``, when the first of them
    was read, in nanoseconds since the epoch."""
    settled = {
        name: (file.identity, digests[name])
        for name, file in files.items()
        if max(file.identity[3:]) < measured_at - _RECENT
    }
    return Measurements(algorithm, shard_size, settled)


def write(measurements: Measurements, key: PrivateKey) -> bytes:
    """A signed file of measurements."""
    members: dict[str, Any] = {
        "version": _VERSION,
        "algorithm": measurements.algorithm,
        "files": {
            name: {
                "identity": [str(number) for number in identity],  # an inode's number may need all 64 bits
                "digests": {f"{start}:{end}": digest.hex() for (start, end), digest in digests.items()},
            }
            for name, (identity, digests) in measurements.files.items()
        },
    }
    if measurements.shard_size is not None:
        members["shard_size"] = measurements.shard_size
    payload = json.dumps(members, separators=(",", ":")).encode("ascii")
    signature = key.sign(pre_authentication_encoding(_PAYLOAD_TYPE, payload))
    return json.dumps(write_envelope(Envelope(_PAYLOAD_TYPE, payload, signature, ""))).encode("ascii")


def read(path: PathLike, key: PrivateKey) -> Measurements | None:
    """The measurements in a file; None if there is no such file.

    Raises ValueError if the file is malformed or another key signed it, and OSError if it cannot be read.
    """
    if not os.path.lexists(path):
        return None
    try:
        envelope = read_envelope(parse_object(read_regular(path, MAX_FILE, "measurements")), _PAYLOAD_TYPE)
        public = key.public_key()
        message = pre_authentication_encoding(_PAYLOAD_TYPE, envelope.payload)
        public.verify(envelope.signature, message, signature_algorithm(public))
        return _parse(parse_object(envelope.payload))
    except InvalidSignature:
        reason = "another key than the signing key signed them"
    except (StrictJsonError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"they are malformed ({error})"
    raise ValueError(f"{os.fspath(path)}: not measurements to rely on: {reason}; delete the file to read all")


def _parse(members: Mapping[str, Any]) -> Measurements:
    if members["version"] != _VERSION:
        raise ValueError(f"version {members['version']!r} is not supported")
    files: dict[str, tuple[Identity, Digests]] = {}
    for name, entry in members["files"].items():
        identity = tuple(int(number) for number in entry["identity"])
        if len(identity) != _IDENTITY:
            raise ValueError("an identity has five numbers")
        digests: Digests = {}
        for part, digest in entry["digests"].items():
            start, end = part.split(":")
            digests[int(start), int(end)] = bytes.fromhex(digest)
        files[name] = identity, digests
    return Measurements(members["algorithm"], members.get("shard_size"), files)
