"""Evidence from a simulated kernel, in a folder of real files."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="not applicable: the extra 'attestation' is absent")

from integrity_triton import IntegrityError
from integrity_triton.models.attest import EvidenceUnavailable, binding, extend_rtmr, get_evidence
from integrity_triton.models.attest.tsm import Attributes

DATA = bytes(range(64))


class Kernel(Attributes):
    """What configfs-tsm does, after Documentation/ABI/testing/configfs-tsm-report of Linux 6.16."""

    def __init__(self, provider: bytes = b"sev_guest\n", *, levels: bool = True, floor: int = 1) -> None:
        self.provider, self.levels, self.floor = provider, levels, floor
        self.generation = 0
        self.disturbed = 0
        """How many requests another program disturbs."""
        self.removed: list[Path] = []
        self.report = b"report of "
        self.auxiliary = b"table"

    def create(self, folder: Path) -> None:
        super().create(folder)
        self.generation = 0
        self._count(folder, 0)
        (folder / "provider").write_bytes(self.provider)
        (folder / "inblob").write_bytes(b"")
        if self.auxiliary:
            (folder / "auxblob").write_bytes(self.auxiliary)
        if self.levels:
            (folder / "privlevel").write_bytes(b"")
            (folder / "privlevel_floor").write_bytes(b"%d\n" % self.floor)

    def _count(self, folder: Path, number: int) -> None:
        self.generation += number
        (folder / "generation").write_bytes(b"%d\n" % self.generation)

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data)
        self._count(path.parent, 1)
        if path.name == "inblob":
            (path.parent / "outblob").write_bytes(self.report + data)
            if self.disturbed:
                self.disturbed -= 1
                self._count(path.parent, 1)

    def remove(self, folder: Path) -> None:
        for file in folder.iterdir():
            file.unlink()
        super().remove(folder)
        self.removed.append(folder)


def test_evidence_of_a_simulated_kernel(tmp_path):
    kernel = Kernel()
    found = get_evidence(DATA, root=tmp_path, privilege_level=1, attributes=kernel)
    assert (found.provider, found.report, found.auxiliary) == ("sev_guest", b"report of " + DATA, b"table")
    assert found.privilege_level == 1
    assert kernel.removed and not list(tmp_path.iterdir())


def test_a_provider_without_levels_and_without_a_table(tmp_path):
    kernel = Kernel(b"tdx_guest", levels=False)
    kernel.auxiliary = b""
    found = get_evidence(DATA, root=tmp_path, attributes=kernel)
    assert (found.provider, found.auxiliary, found.privilege_level) == ("tdx_guest", b"", None)
    with pytest.raises(ValueError, match="no privilege levels"):
        get_evidence(DATA, root=tmp_path, privilege_level=0, attributes=kernel)


def test_another_program_that_writes_is_noticed(tmp_path):
    kernel = Kernel()
    kernel.disturbed = 2
    assert get_evidence(DATA, root=tmp_path, attributes=kernel).report.endswith(DATA)
    kernel.disturbed = 100
    with pytest.raises(IntegrityError, match="other writes than ours in each of 8"):
        get_evidence(DATA, root=tmp_path, attributes=kernel)
    assert not list(tmp_path.iterdir())


def test_nothing_is_faked_where_the_interface_is_absent(tmp_path):
    with pytest.raises(EvidenceUnavailable, match="no confidential virtual machine"):
        get_evidence(DATA, root=tmp_path / "absent")
    with pytest.raises(EvidenceUnavailable, match="no TDX guest"):
        extend_rtmr(3, bytes(48), root=tmp_path)
    # A folder that is no configfs has no attributes.
    with pytest.raises(EvidenceUnavailable, match="no report"):
        get_evidence(DATA, root=tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EvidenceUnavailable, match="no request"):
        get_evidence(DATA, root=tmp_path / "file")


@pytest.mark.parametrize(
    ("attribute", "value", "match"),
    [
        ("outblob", b"", "empty"),
        ("provider", b"a provider", "not the name of a format"),
        ("provider", b"", "not the name of a format"),
        ("generation", b"many", "not a number"),
        ("generation", b"9" * 30, "not a number"),
    ],
)
def test_attributes_that_make_no_sense(tmp_path, attribute, value, match):
    class Odd(Kernel):
        def read(self, path: Path) -> bytes:
            return value if path.name == attribute else super().read(path)

    with pytest.raises(EvidenceUnavailable, match=match):
        get_evidence(DATA, root=tmp_path, attributes=Odd())


@pytest.mark.parametrize("number", [errno.EFBIG, errno.EINVAL, errno.ENXIO, errno.EIO])
def test_errors_of_the_kernel(tmp_path, number):
    class Failing(Kernel):
        def read(self, path: Path) -> bytes:
            if path.name == "outblob":
                raise OSError(number, os.strerror(number), os.fspath(path))
            return super().read(path)

    with pytest.raises(EvidenceUnavailable, match=r"outblob: .*no report"):
        get_evidence(DATA, root=tmp_path, attributes=Failing())
    assert not list(tmp_path.iterdir())


def test_no_driver_for_the_hardware(tmp_path):
    class Empty(Attributes):
        def create(self, folder: Path) -> None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))

    with pytest.raises(EvidenceUnavailable, match="no driver"):
        get_evidence(DATA, root=tmp_path, attributes=Empty())


def test_arguments(tmp_path):
    for size in (0, 63, 65):
        with pytest.raises(ValueError, match="binds 64 bytes"):
            get_evidence(bytes(size), root=tmp_path)
    for level in (-1, 4):
        with pytest.raises(ValueError, match="from 0 to 3"):
            get_evidence(DATA, root=tmp_path, privilege_level=level)
    with pytest.raises(ValueError, match="runs at privilege level 1"):
        get_evidence(DATA, root=tmp_path, privilege_level=0, attributes=Kernel())
    with pytest.raises(ValueError, match="registers are 0 to 3"):
        extend_rtmr(4, bytes(48), root=tmp_path)
    with pytest.raises(ValueError, match="48 bytes"):
        extend_rtmr(3, bytes(32), root=tmp_path)


def test_a_register_is_extended(tmp_path):
    class Register(Attributes):
        def write(self, path: Path, data: bytes) -> None:
            path.write_bytes(hashlib.sha384(path.read_bytes() + data).digest())

    place = tmp_path / "rtmr3:sha384"
    place.write_bytes(bytes(48))
    first = extend_rtmr(3, b"\1" * 48, root=tmp_path, attributes=Register())
    assert first == hashlib.sha384(bytes(48) + b"\1" * 48).digest() == place.read_bytes()
    # A file that merely stores what is written is no register.
    with pytest.raises(IntegrityError, match="not that of one extension"):
        extend_rtmr(3, b"\1" * 48, root=tmp_path)


def test_the_binding_is_what_the_page_says():
    nonce, payload = b"n" * 16, b"payload"
    parts = (b"integrity_triton attestation v1", nonce, hashlib.sha512(payload).digest())
    whole = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    assert binding(nonce, payload) == hashlib.sha512(whole).digest()
    assert len({binding(b"n" * 16, b"p"), binding(b"n" * 17, b"p"), binding(b"n" * 16, b"q")}) == 3
