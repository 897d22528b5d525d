"""Files that a caller names as outputs: what is replaced, what is written into, and what is refused."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from integrity_triton import output_files
from integrity_triton.output_files import check_output_file, write_file


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def written(path) -> None:
    check_output_file(path)
    write_file(path, b"new")


@pytest.mark.parametrize("old", [None, b"", b"old and longer"])
def test_a_file_is_replaced(tmp_path, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
        path.chmod(0o640)
        before = path.stat().st_ino
    check_output_file(path)
    assert path.exists() == (old is not None)
    written(path)
    assert path.read_bytes() == b"new"
    assert left(tmp_path) == {"file"}
    if old is not None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert path.stat().st_ino != before


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, exists):
    folder = tmp_path / "folder"
    folder.mkdir()
    target = folder / "target"
    if exists:
        target.write_bytes(b"old")
    (folder / "second").symlink_to("target")
    link = tmp_path / "link"
    link.symlink_to("folder/second")
    written(link)
    assert os.readlink(link) == "folder/second"
    assert os.readlink(folder / "second") == "target"
    assert target.read_bytes() == b"new"
    assert left(folder) == {"second", "target"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="not applicable: no named pipes")
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_into(tmp_path, linked):
    pipe = path = tmp_path / "pipe"
    os.mkfifo(pipe)
    if linked:
        path = tmp_path / "link"
        path.symlink_to(pipe)
    check_output_file(path)  # does not wait for a reader
    data = os.urandom(200_000)
    writer = threading.Thread(target=write_file, args=(path, data))
    writer.start()
    assert pipe.read_bytes() == data
    writer.join()
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="not applicable: no /dev/null")
def test_a_device_stays_a_device(tmp_path):
    """A root user who writes to /dev/null must not replace it: this test makes a device of its own."""
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_bytes(b"")
    except OSError:  # only root can make one, or use one on this file system
        device = Path("/dev/null")
        if os.geteuid() == 0:
            pytest.skip("absent: no device can be made here, and nobody is to lose /dev/null")
    written(device)
    assert stat.S_ISCHR(device.lstat().st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="not applicable: no /dev/full")
def test_an_error_names_the_path_that_was_given(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write_file(link, b"new")
    assert caught.value.filename == str(link)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="not applicable: no /proc")
@pytest.mark.parametrize("form", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_a_descriptor_is_written_to_where_it_stands(tmp_path, form):
    path = tmp_path / "redirected"
    with open(path, "w+b", buffering=0) as file:
        file.write(b"first ")
        name = form.format(file.fileno())
        if form == "link":
            (tmp_path / "link").symlink_to(f"/proc/self/fd/{file.fileno()}")
            name = str(tmp_path / "link")
        written(name)
        file.write(b" last")
        assert path.samefile(f"/proc/self/fd/{file.fileno()}")
    assert path.read_bytes() == b"first new last"


@pytest.mark.skipif(not os.path.exists("/proc/thread-self/fd"), reason="not applicable: no /proc")
def test_a_descriptor_of_a_thread_is_one_of_the_process(tmp_path):
    with open(tmp_path / "redirected", "w+b", buffering=0) as file:
        file.write(b"first ")
        written(f"/proc/thread-self/fd/{file.fileno()}")
    assert (tmp_path / "redirected").read_bytes() == b"first new"


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="not applicable: no /proc")
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_descriptor_that_only_reads_is_refused_before(tmp_path, kind):
    (tmp_path / "file").write_bytes(b"old")
    other = None
    if kind == "file":
        descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    else:
        descriptor, other = os.pipe()
    try:
        with pytest.raises(OSError, match="open only for reading") as caught:
            check_output_file(f"/dev/fd/{descriptor}")
        assert caught.value.filename == f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)
        if other is not None:
            os.close(other)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="not applicable: no sockets in the file system")
def test_a_socket_is_refused_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket has to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(OSError, match="a socket cannot be written to"):
            check_output_file("socket")


def refuse(number):
    def call(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EPERM, errno.EACCES])
def test_a_file_that_cannot_be_replaced_is_overwritten(tmp_path, monkeypatch, number):
    path = tmp_path / "file"
    path.write_bytes(b"old and longer")
    inode = path.stat().st_ino
    monkeypatch.setattr(os, "replace", refuse(number))
    written(path)
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino == inode
    assert left(tmp_path) == {"file"}
    with pytest.raises(OSError, match=os.strerror(number)):
        write_file(tmp_path / "absent", b"new")
    assert left(tmp_path) == {"file"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_writable_file_in_a_folder_that_is_not(tmp_path, monkeypatch, number):
    path = tmp_path / "file"
    path.write_bytes(b"old and longer")
    system_open, python_open, refused = os.open, open, refuse(number)

    def creating(path, flags, *mode):
        return refused() if flags & os.O_CREAT else system_open(path, flags, *mode)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", creating)
        patched.setattr(
            output_files,
            "open",
            lambda p, m, **o: refused() if m == "xb" else python_open(p, m, **o),
            raising=False,
        )
        written(path)
        with pytest.raises(OSError, match=os.strerror(number)):
            check_output_file(tmp_path / "absent")
    assert path.read_bytes() == b"new"
    assert left(tmp_path) == {"file"}


def circle(folder: Path) -> Path:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    return folder / "a"


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_bytes(b"")
    return folder / "file" / "below"


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda folder: folder, IsADirectoryError),
        (lambda folder: folder / "absent" / "file", FileNotFoundError),
        (lambda folder: folder / ("long" * 100), OSError),
        (lambda folder: Path(f"{folder}/") / "absent/", FileNotFoundError),
        (below_a_file, NotADirectoryError),
        (circle, OSError),
    ],
)
def test_what_cannot_be_written_is_found_before(tmp_path, make, error):
    path = make(tmp_path)
    if path.name == "absent":
        path = f"{path}/"
    before = left(tmp_path)
    for call in (lambda: check_output_file(path), lambda: write_file(path, b"new")):
        with pytest.raises(error) as caught:
            call()
        assert caught.value.filename == os.fspath(path)
        assert left(tmp_path) == before


def test_no_path_at_all():
    with pytest.raises(FileNotFoundError):
        check_output_file("")


def test_the_old_content_survives_an_error(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left") as caught:
        write_file(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert left(tmp_path) == {"file"}


def test_an_input_is_not_replaced(tmp_path):
    source, link = tmp_path / "source", tmp_path / "link"
    source.write_bytes(b"weights")
    link.symlink_to(source)
    for path in (source, link):
        with pytest.raises(ValueError, match="this is an input"):
            check_output_file(path, inputs=[tmp_path / "absent", source])
    check_output_file(tmp_path / "other", inputs=[source])
