"""Evidence of a confidential virtual machine through the interfaces of Linux that all vendors share.

- configfs-tsm, since Linux 6.7 (``Documentation/ABI/testing/configfs-tsm-report``): a folder that is made
  under ``/sys/kernel/config/tsm/report`` takes 64 bytes in ``inblob``, and gives the signed report in
  ``outblob``.
- The measurement registers of TDX, since Linux 6.16
  (``Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest``): a write of 48 bytes to
  ``rtmrN:sha384`` extends the register.

Where an interface is absent the functions raise EvidenceUnavailable. They have no other source.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import IntegrityError
from .errors import EvidenceUnavailable

REPORTS = "/sys/kernel/config/tsm/report"
MEASUREMENTS = "/sys/devices/virtual/misc/tdx_guest/measurements"

BINDING_SIZE = 64
"""Bytes that a report takes from its caller: ``TSM_REPORT_INBLOB_MAX`` of ``include/linux/tsm.h``, REPORTDATA
of TDX, and REPORT_DATA of SEV-SNP."""
MAX_BLOB = 1 << 20
"""Bytes of a report or of what comes with it. The kernel has at most 32 KiB, or 16 MiB in new versions."""
RTMR_SIZE = 48

_BINDING_DOMAIN = b"integrity_triton attestation v1"
_ATTEMPTS = 8
_NUMBER = re.compile(r"[0-9]{1,19}\n?", re.ASCII)
PROVIDER = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
"""The names of formats that the kernel may have."""

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Evidence:
    """A report of the kernel's, with what a verifier needs besides. Nothing in it is verified."""

    provider: str
    """The format of the report: ``tdx_guest`` or ``sev_guest``."""
    report: bytes
    """``outblob``: the quote, or the attestation report."""
    auxiliary: bytes = b""
    """``auxblob``: for SEV-SNP the table of certificates, if the host has given one."""
    privilege_level: int | None = None
    """What was asked for. The report itself says which level it is of."""


def binding(nonce: bytes, payload: bytes) -> bytes:
    """The 64 bytes that bind a report to a statement and to the verifier's nonce.

    It is SHA-512 over the domain, the nonce and the SHA-512 of the statement's payload; the domain and the
    nonce come after their lengths as 8 bytes, little-endian.
    """
    parts = [_BINDING_DOMAIN, nonce, hashlib.sha512(payload).digest()]
    return hashlib.sha512(b"".join(len(p).to_bytes(8, "little") + p for p in parts)).digest()


class Attributes:
    """How the attributes of the kernel are reached: as files. A test or a simulation overrides the methods,
    which raise OSError."""

    def create(self, folder: Path) -> None:
        """Make a folder, in which the kernel then puts attributes."""
        folder.mkdir(0o700)

    def remove(self, folder: Path) -> None:
        """Remove a folder. In configfs its attributes go with it."""
        folder.rmdir()

    def exists(self, path: Path) -> bool:
        return path.exists()

    def read(self, path: Path) -> bytes:
        """The value of an attribute, of which a folder does not tell the size."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts, size = [], 0
            while part := os.read(descriptor, MAX_BLOB + 1 - size):
                parts.append(part)
                size += len(part)
                if size > MAX_BLOB:
                    raise EvidenceUnavailable(f"{path}: more than {MAX_BLOB} bytes")
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def write(self, path: Path, data: bytes) -> None:
        """Set the value of an attribute in one call, because the kernel takes it as a whole or refuses it."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(descriptor, data)
        finally:
            os.close(descriptor)
        if written != len(data):
            raise EvidenceUnavailable(f"{path}: the kernel took {written} of {len(data)} bytes")


_FILES = Attributes()


def get_evidence(
    data: bytes,
    *,
    root: PathLike = REPORTS,
    privilege_level: int | None = None,
    attributes: Attributes = _FILES,
) -> Evidence:
    """Ask the kernel for a report over ``data``, which has 64 bytes.

    ``root`` is where configfs has its reports. ``privilege_level`` is for providers that have several, such
    as the VMPL of SEV-SNP.

    Raises EvidenceUnavailable where the interface is absent or gives no report, ValueError for a privilege
    level that it does not have, and IntegrityError if another program used the request again and again.
    """
    if len(data) != BINDING_SIZE:
        raise ValueError(f"a report binds {BINDING_SIZE} bytes, not {len(data)}")
    if privilege_level is not None and not 0 <= privilege_level <= 3:
        raise ValueError(f"a privilege level is from 0 to 3, not {privilege_level}")
    place = Path(root)
    if not attributes.exists(place):
        raise EvidenceUnavailable(
            f"{place} does not exist: this machine is no confidential virtual machine, or its kernel has no "
            "configfs-tsm (Linux 6.7), or configfs is not mounted"
        )
    folder = place / f"integrity_triton-{os.getpid()}-{secrets.token_hex(8)}"
    try:
        attributes.create(folder)
    except OSError as error:
        reason = " (no driver for the hardware is loaded)" if error.errno == errno.ENXIO else ""
        raise EvidenceUnavailable(
            f"{place}: no request for a report can be made: {error.strerror}{reason}"
        ) from None
    try:
        return _request(attributes, folder, data, privilege_level)
    except OSError as error:
        raise EvidenceUnavailable(f"{error.filename or folder}: {error.strerror}: no report") from None
    finally:
        with suppress(OSError):
            attributes.remove(folder)


def _request(attributes: Attributes, folder: Path, data: bytes, privilege_level: int | None) -> Evidence:
    for _ in range(_ATTEMPTS):
        before = _number(attributes, folder / "generation")
        writes = 1
        if privilege_level is not None:
            _check_privilege_level(attributes, folder, privilege_level)
            attributes.write(folder / "privlevel", str(privilege_level).encode("ascii"))
            writes += 1
        attributes.write(folder / "inblob", data)
        report = attributes.read(folder / "outblob")
        table = folder / "auxblob"
        auxiliary = attributes.read(table) if attributes.exists(table) else b""
        provider = attributes.read(folder / "provider").decode("ascii", "replace").removesuffix("\n")
        if not PROVIDER.fullmatch(provider):
            raise EvidenceUnavailable(f"{folder / 'provider'}: not the name of a format: {provider!r}")
        # Every write of an option counts, and if others than ours were counted, the report may be another's.
        if _number(attributes, folder / "generation") != before + writes:
            continue
        if not report:
            raise EvidenceUnavailable(f"{folder / 'outblob'}: the report is empty")
        return Evidence(provider, report, auxiliary, privilege_level)
    raise IntegrityError(
        f"{folder}: the kernel counted other writes than ours in each of {_ATTEMPTS} attempts; another "
        "program uses this request"
    )


def _check_privilege_level(attributes: Attributes, folder: Path, level: int) -> None:
    if not attributes.exists(folder / "privlevel"):
        raise ValueError("the provider of reports has no privilege levels")
    floor = _number(attributes, folder / "privlevel_floor")
    if level < floor:
        raise ValueError(f"this system runs at privilege level {floor}, so that {level} cannot be had")


def extend_rtmr(
    index: int, digest: bytes, *, root: PathLike = MEASUREMENTS, attributes: Attributes = _FILES
) -> bytes:
    """Extend a run-time measurement register of TDX with 48 bytes, and return its new value.

    A register then holds SHA-384 of its old value and what it was extended with. Firmware and boot loaders
    extend registers 0 to 2 (UEFI specification 2.10, table 38.3), so that 3 is left for programs.

    Raises EvidenceUnavailable where the interface is absent, ValueError for a wrong index or size, and
    IntegrityError if the register does not have the value that the extension must give, for example because
    another program extended it at the same time.
    """
    if index not in (0, 1, 2, 3):
        raise ValueError(f"the registers are 0 to 3, not {index}")
    if len(digest) != RTMR_SIZE:
        raise ValueError(
            f"a register is extended with {RTMR_SIZE} bytes, a SHA-384 digest, not {len(digest)}"
        )
    register = Path(root) / f"rtmr{index}:sha384"
    if not attributes.exists(register):
        raise EvidenceUnavailable(
            f"{register} does not exist: this machine is no TDX guest, or its kernel has no measurement "
            "registers in sysfs (Linux 6.16)"
        )
    try:
        before = attributes.read(register)
        attributes.write(register, digest)
        after = attributes.read(register)
    except OSError as error:
        raise EvidenceUnavailable(f"{register}: {error.strerror}: not extended") from None
    if after != hashlib.sha384(before + digest).digest():
        raise IntegrityError(f"{register}: the value is not that of one extension of the value before it")
    return after


def _number(attributes: Attributes, path: Path) -> int:
    text = attributes.read(path).decode("ascii", "replace")
    if not _NUMBER.fullmatch(text):
        raise EvidenceUnavailable(f"{path}: not a number: {text[:40]!r}")
    return int(text)
