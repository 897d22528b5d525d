"""The command line is compared with sha256sum of coreutils and with the Rust blake3, and runs on a real
terminal."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import pty
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

blake3 = pytest.importorskip("blake3")
pytest.importorskip("click")
pytest.importorskip("rich")

from integrity_triton import cli  # noqa: E402
from support import has_module, interruptible, pattern  # noqa: E402

SHA256SUM = shutil.which("sha256sum")
needs_sha256sum = pytest.mark.skipif(SHA256SUM is None, reason="not applicable: coreutils is absent")
needs_signing = pytest.mark.skipif(
    not has_module("model_signing"), reason="not applicable: the extra 'signing' is absent"
)

NAMES = [
    b"plain",
    b" leading space",
    b"*star",
    b"trailing space ",
    b"new\nline",
    b"back\\slash",
    b"carriage\rreturn",
    b"\\\n\r\\n",
    b"not utf-8 \xff\xfe",
    "grüße".encode(),
    b"paren) = (",
    b"x",
]


@dataclass
class Result:
    status: int
    out: bytes
    err: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.out)  # fails unless there is exactly one document


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary) -> Run:
    """Runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTEGRITY_TRITON_BACKEND", raising=False)

    def run(*arguments: str | bytes | Path, stdin: bytes | io.TextIOWrapper = b"") -> Result:
        if isinstance(stdin, bytes):
            stdin = io.TextIOWrapper(io.BytesIO(stdin))
        monkeypatch.setattr(sys, "stdin", stdin)
        capsysbinary.readouterr()
        status = cli.main([os.fsdecode(argument) for argument in arguments])
        captured = capsysbinary.readouterr()
        return Result(status, captured.out, captured.err)

    return run


def sha256sum(*arguments: str | bytes, stdin: bytes = b"") -> Result:
    done = subprocess.run(
        ["sha256sum", *arguments],
        executable=SHA256SUM,
        input=stdin,
        capture_output=True,
        env={"LC_ALL": "C"},
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr.replace(b"sha256sum:", b"integrity-triton:"))


def process(*arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    command = interruptible([sys.executable, "-m", "integrity_triton", *map(str, arguments)])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    usual = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": {**environment, "TERM": "xterm-256color", "COLUMNS": "100"},
    }
    return subprocess.Popen(command, **{**usual, **options})


def write_files() -> None:
    for i, name in enumerate(NAMES):
        Path(os.fsdecode(name)).write_bytes(pattern(100 * i))


@needs_sha256sum
@pytest.mark.parametrize("options", [[], ["--tag"], ["--zero"], ["-z", "--tag"]])
def test_lines_are_those_of_sha256sum(run: Run, options: list[str]) -> None:
    write_files()
    expected = sha256sum(*options, "--", *NAMES)
    assert expected.status == 0
    got = run("hash", "sha256", *options, "--", *NAMES)
    assert (got.status, got.out, got.err) == (0, expected.out, b"")


@needs_sha256sum
@pytest.mark.parametrize("arguments", [[], ["-"], ["plain", "-"], ["--tag", "-"]])
def test_standard_input(run: Run, arguments: list[str]) -> None:
    write_files()
    data = pattern(70_000)
    assert run("hash", "sha256", *arguments, stdin=data).out == sha256sum(*arguments, stdin=data).out


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 300_000])
@pytest.mark.parametrize("length", [None, 1, 32, 131])
@pytest.mark.parametrize("keyed", [False, True])
def test_blake3(run: Run, size: int, length: int | None, keyed: bool) -> None:
    Path("data").write_bytes(pattern(size))
    Path("key").write_bytes(pattern(32))
    options = [] if length is None else ["--length", str(length)]
    options += ["--key-file", "key"] if keyed else []
    reference = blake3.blake3(pattern(size), **({"key": pattern(32)} if keyed else {}))
    digest = reference.digest(length=length or 32).hex()
    line = f"{digest}  data\n".encode()
    assert run("hash", "BLAKE3", *options, "data").out == line
    Path("list").write_bytes(line)
    assert run("hash", "blake3", "--check", *options, "list").out == b"data: OK\n"
    tagged = run("hash", "blake3", "--tag", *options, "data")
    assert tagged.out == f"BLAKE3 (data) = {digest}\n".encode()
    assert run("hash", "blake3", "-c", *options, stdin=tagged.out).out == b"data: OK\n"


def test_checksums_are_printed_but_prove_nothing(run: Run) -> None:
    Path("data").write_bytes(b"123456789")
    assert run("hash", "crc32", "data").out == b"cbf43926  data\n"
    Path("list").write_bytes(b"cbf43926  data\n")
    got = run("hash", "crc32", "--check", "list")
    assert got.status == 2
    assert re.search(rb"crc32 is a checksum, .*--check takes .*sha256", got.err)
    got = run("manifest", "create", "data", "--algorithm", "crc32")
    assert got.status == 2
    assert re.search(rb"crc32 is not collision resistant enough .* takes .*sha256", got.err)


def test_check_suggests_what_hash_takes(run: Run) -> None:
    got = run("hash", "crc32", "--check", "list")
    assert got.status == 2
    suggested = got.err.decode().strip().partition("--check takes ")[2].split(", ")
    assert {"sha256", "blake3", "hmac_sha256"} <= set(suggested)
    Path("list").write_bytes(b"")
    for name in suggested:
        got = run("hash", name, "--check", "list")
        assert b"takes" not in got.err, name
    assert not [name for name in suggested if "tuplehash" in name or name in ("gmac_aes", "poly1305_aes")]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sha265", b"'sha256'"),
        ("sha3-265", b"'sha3_256'"),
        ("Blake-3", b"'blake3'"),
        ("sha512_265", b"'sha512_256'"),
        ("hmac_sha265", b"'hmac_sha256'"),
        ("xxhsh64", b"'xxh64'"),
    ],
)
def test_did_you_mean(run: Run, given: str, meant: bytes) -> None:
    got = run("hash", given, "data")
    assert got.status == 2
    assert meant in re.findall(rb"did you mean ([^?]*)\?", got.err)[0]
    assert b"did you mean" not in run("hash", "nonsense", "data").err


@pytest.mark.parametrize("typed", [b"", b"abc\n", b"abc\n" * 100])
def test_one_end_of_input_ends_a_terminal(tmp_path: Path, typed: bytes) -> None:
    """Ctrl-D is the character 4. The terminal turns it into a read of no bytes."""
    controller, terminal = pty.openpty()
    with process("hash", "sha256", stdin=terminal, cwd=tmp_path) as running:
        os.write(controller, typed + b"\x04")
        try:
            out, _ = running.communicate(timeout=60)
        finally:
            running.kill()
    os.close(terminal)
    os.close(controller)
    assert out.split()[0].decode() == hashlib.sha256(typed).hexdigest()


def test_a_shortened_digest_does_not_pass(run: Run) -> None:
    Path("data").write_bytes(b"abc")
    for line in (
        b"64  data\n",
        b"BLAKE3 (data) = 64\n",
        blake3.blake3(b"abc").hexdigest()[:-2].encode() + b"  data\n",
    ):
        got = run("hash", "blake3", "--check", stdin=line)
        assert (got.status, got.out) == (2, b"")


@needs_sha256sum
def test_files_without_a_true_size(run: Run) -> None:
    if os.path.exists("/proc/version"):
        assert run("hash", "sha256", "/proc/version").out == sha256sum("/proc/version").out
    os.mkfifo("pipe")
    with subprocess.Popen(["sh", "-c", "printf hello > pipe"]):
        got = run("hash", "sha256", "pipe")
    assert got.out == sha256sum(stdin=b"hello").out.replace(b"-", b"pipe")


def digest_of(name: bytes) -> bytes:
    return sha256sum("--", name).out.split(b" ")[0].removeprefix(b"\\")


def lists() -> dict[str, bytes]:
    """Lists as sha256sum and other programs write them, and lists that no program should write."""
    digest = digest_of(b"plain")
    good = sha256sum("--", *NAMES).out
    bad = digest.replace(digest[:4], b"0000")
    return {
        "good": good,
        "tagged": sha256sum("--tag", "--", *NAMES).out,
        "mismatch": bad + b"  plain\n" + good,
        "newline mismatch": b"\\" + bad + b"  new\\nline\n",
        "unreadable": digest + b"  nowhere\n" + digest + b"  folder\n" + good,
        "missing": digest + b"  nowhere\n",
        "missing and others": digest + b"  nowhere\n" + good,
        "misformatted": good + b"nonsense\n" + digest + b"\n" + digest[:-1] + b"  plain\n",
        "only nonsense": b"nonsense\n",
        "empty": b"",
        "comments": b"# a comment\n\n" + good + b"\n#\n",
        "upper case": digest.upper() + b" *plain\n",
        "carriage returns": digest + b"  plain\r\n",
        "no final newline": digest + b"  plain",
        "leading blanks": b" \t " + digest + b"  plain\n",
        "reversed": digest + b" plain\n" + digest + b"  plain\n",
        "reversed after usual": digest + b"  plain\n" + digest + b" plain\n",
        "one character": digest_of(b"x") + b" x\n" + digest + b" plain\n",
        "bad escape": b"\\" + digest + b"  pl\\ain\n" + b"\\" + digest + b"  plain\\\n" + good,
        "escape without need": b"\\" + digest + b"  plain\n",
        "tag without space": b"SHA256(plain)= " + digest + b"\n",
        "tag of another": b"SHA512 (plain) = " + digest + b"\n",
        "tag, bad digest": b"SHA256 (plain) = " + digest + b"0\n" + b"SHA256 (plain = " + digest + b"\n",
        "standard input": digest + b"  -\n",
        "all at once": bad + b"  plain\n" + b"nonsense\n" + digest + b"  nowhere\n" + good,
    }


CHECK_OPTIONS = [[], ["--quiet"], ["--status"], ["--strict"], ["--ignore-missing"], ["--warn", "--strict"]]


@needs_sha256sum
@pytest.mark.parametrize("options", CHECK_OPTIONS, ids=" ".join)
def test_check_reports_as_sha256sum(run: Run, options: list[str]) -> None:
    write_files()
    Path("folder").mkdir()
    for label, content in lists().items():
        Path("list").write_bytes(content)
        expected = sha256sum("--check", *options, "list")
        got = run("hash", "sha256", "--check", *options, "list")
        assert got.out == expected.out, label
        assert got.err == expected.err.replace(b"'", b""), label  # sha256sum quotes odd names
        assert (got.status == 0) == (expected.status == 0), label


@needs_sha256sum
def test_check_of_lists_on_standard_input(run: Run) -> None:
    write_files()
    for label in ("good", "standard input", "misformatted", "empty"):
        content = lists()[label] + lists()["standard input"]
        expected = sha256sum("--check", "--warn", "-", stdin=content)
        got = run("hash", "sha256", "--check", "--warn", stdin=content)
        assert got.out == expected.out, label
        assert got.err == expected.err.replace(b"'", b""), label


@needs_sha256sum
def test_check_of_garbled_lists_reports_as_sha256sum(run: Run) -> None:
    write_files()
    source = random.Random(3)
    seeds = [content for label, content in lists().items() if label != "empty"]
    ours = theirs = 0
    for _ in range(150):
        content = bytearray(source.choice(seeds))
        for _ in range(source.randint(1, 4)):
            position = source.randrange(len(content))
            piece = source.choice(
                [b" ", b"  ", b"\\", b"\n", b"*", b"(", b")", b"=", b"0", b"\r", b"", b"#", b"\t"]
            )
            content[position : position + source.randint(0, 2)] = piece
            content = content or bytearray(b"\n")
        Path("list").write_bytes(content)
        expected = sha256sum("--check", "--warn", "list")
        got = run("hash", "sha256", "--check", "--warn", "list")
        assert (got.out, got.status == 0) == (expected.out, expected.status == 0), bytes(content)
        ours, theirs = ours + got.out.count(b"OK"), theirs + expected.out.count(b"OK")
    assert ours == theirs > 100


TRUNCATED = [
    ("sha512_256", "SHA512/256", ["SHA512-256", "SHA2-512/256", "SHA-512/256", "sha512_256"]),
    ("sha512_224", "SHA512/224", ["SHA512-224", "SHA2-512/224", "SHA-512/224", "sha512_224"]),
]


@pytest.mark.parametrize(("name", "written", "others"), TRUNCATED)
def test_truncated_sha512_is_spelled_as_by_openssl(
    run: Run, name: str, written: str, others: list[str]
) -> None:
    Path("data").write_bytes(b"abc")
    line = run("hash", name, "--tag", "data").out
    assert line.startswith(f"{written} (data) = ".encode())
    for label in (written, *others):
        for form in (f"{label} (data) = ", f"{label}(data)= "):
            Path("list").write_bytes(form.encode() + line.partition(b"= ")[2])
            got = run("hash", name, "--check", "--strict", "list")
            assert (got.status, got.out) == (0, b"data: OK\n"), form
    Path("list").write_bytes(line.replace(written.encode(), b"SHA512"))
    assert run("hash", name, "--check", "list").status == 2
    hmac_line = run("hash", f"hmac_{name}", "--key-file", "data", "--tag", "data").out
    assert hmac_line.startswith(f"HMAC-{written} (data) = ".encode())
    assert run("hash", f"hmac_{name}", "--key-file", "data", "-c", "-", stdin=hmac_line).status == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="not applicable: openssl is absent")
def test_lists_of_openssl_are_read(run: Run) -> None:
    from integrity_triton import algorithms

    Path("data").write_bytes(b"abc")
    checked = set()
    for record in algorithms.all_algorithms():
        if record.keyed == "required" or record.xof or record.security is algorithms.Security.CHECKSUM:
            continue
        for name in (record.name.replace("_", "-"), record.name.replace("_", ""), *record.aliases):
            done = subprocess.run(["openssl", "dgst", f"-{name}", "data"], capture_output=True, check=False)
            if done.returncode == 0:
                got = run("hash", record.name, "--check", "--strict", "-", stdin=done.stdout)
                assert (got.status, got.out) == (0, b"data: OK\n"), done.stdout
                checked.add(record.name)
                break
    assert {"sha256", "sha512_256"} <= checked


@pytest.mark.parametrize("form", ["plain", "tagged"])
def test_a_byte_order_mark_does_not_hide_the_first_line(run: Run, form: str) -> None:
    Path("data").write_bytes(b"abc")
    line = run("hash", "sha256", *(["--tag"] if form == "tagged" else []), "data").out
    mark = b"\xef\xbb\xbf"
    got = run("hash", "sha256", "--check", "--strict", "-", stdin=mark + line + line)
    assert (got.status, got.out) == (0, b"data: OK\n" * 2)
    got = run("hash", "sha256", "--check", "--strict", "-", stdin=line + mark + line)
    assert got.status == 2  # the mark belongs at the start


def test_check_exit_status_tells_mismatch_from_trouble(run: Run) -> None:
    Path("data").write_bytes(b"abc")
    good = run("hash", "sha256", "data").out
    wrong = b"0" * 64 + b"  data\n"
    absent = b"0" * 64 + b"  nowhere\n"
    for content, status in [
        (good, 0),
        (wrong, 1),
        (absent, 2),
        (good + absent, 2),
        (wrong + absent, 1),
        (b"nonsense\n", 2),
    ]:
        Path("list").write_bytes(content)
        assert run("hash", "sha256", "--check", "list").status == status, content
    Path("good").write_bytes(good)
    Path("wrong").write_bytes(wrong)
    assert run("hash", "sha256", "--check", "good", "nowhere").status == 2
    assert run("hash", "sha256", "--check", "nowhere", "wrong", "good").status == 1


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="not applicable: no /proc")
def test_a_list_that_cannot_be_read_to_its_end_hides_no_result(run: Run) -> None:
    Path("data").write_bytes(b"abc")
    good = run("hash", "sha256", "data").out
    Path("good").write_bytes(good)
    Path("wrong").write_bytes(b"0" * 64 + b"  data\n")
    broken = "/proc/self/mem"  # it can be opened, and its first page cannot be read
    got = run("hash", "sha256", "--check", "wrong", broken, "good")
    assert got.status == 1
    assert got.out == b"data: FAILED\ndata: OK\n"
    assert f"integrity-triton: {broken}: Input/output error\n".encode() in got.err
    assert b"no properly formatted" not in got.err
    got = run("hash", "sha256", "--check", "--json", "wrong", broken, "good")
    assert got.status == 1
    assert [[file["result"] for file in report["files"]] for report in got.document["lists"]] == [
        ["mismatch"],
        [],
        ["ok"],
    ]
    assert [report.get("error") for report in got.document["lists"]] == [
        None,
        f"{broken}: Input/output error",
        None,
    ]
    assert run("hash", "sha256", "--check", "good", broken).status == 2


def test_results_before_an_error_of_their_list_count(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from integrity_triton.models.checksum_lists import Entry, ListReader

    def read(self, stream):
        yield Entry(1, "data", bytes(32))
        raise OSError(5, "Input/output error")

    Path("data").write_bytes(b"abc")
    Path("list").write_bytes(b"")
    monkeypatch.setattr(ListReader, "read", read)
    got = run("hash", "sha256", "--check", "list", "--json")
    assert got.status == 1
    (report,) = got.document["lists"]
    assert report["files"][0]["result"] == "mismatch"
    assert report["error"] == "list: Input/output error"


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["hash", "--help"]])
def test_a_text_that_cannot_be_printed(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it if it is started with a closed stdout
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == "integrity-triton: standard output is closed\n"


def test_an_interrupt_while_the_program_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", interrupt)
    assert cli.main(["devices"]) == 130
    assert capsys.readouterr() == ("", "")


def test_an_endless_line_is_not_held_in_memory(run: Run) -> None:
    Path("data").write_bytes(b"abc")
    good = run("hash", "sha256", "data").out
    Path("list").write_bytes(b"0" * 64 + b"  " + b"a" * 300_000 + b"\n" + good)
    got = run("hash", "sha256", "--check", "--warn", "list")
    assert got.out == b"data: OK\n"
    assert b"list: 1: improperly formatted" in got.err


def test_unreadable_files_do_not_stop_the_others(run: Run) -> None:
    Path("data").write_bytes(b"abc")
    Path("folder").mkdir()
    got = run("hash", "sha256", "folder", "nowhere", "data")
    assert got.status == 2
    assert got.out.endswith(b"  data\n")
    assert got.out.count(b"\n") == 1
    assert got.err == (
        b"integrity-triton: folder: Is a directory\nintegrity-triton: nowhere: No such file or directory\n"
    )


BAD_USE = [
    [],
    ["nonsense"],
    ["hash"],
    ["hash", "nonsense", "data"],
    ["hash", "sha256", "--nonsense", "data"],
    ["hash", "sha256", "--length", "16", "data"],
    ["hash", "blake3", "--length", "0", "data"],
    ["hash", "blake3", "--length", str(1 << 40), "data"],
    ["hash", "sha256", "--key-file", "data", "data"],
    ["hash", "blake3", "--key-file", "data", "data"],
    ["hash", "blake3", "--key-file", "nowhere", "data"],
    ["hash", "blake3", "--key-file", "/dev/zero", "data"],
    ["hash", "sha256", "--quiet", "data"],
    ["hash", "sha256", "--check", "--tag", "data"],
    ["hash", "sha256", "--check", "--zero", "data"],
    ["hash", "sha256", "--backend", "nonsense", "data"],
    ["devices", "--backend", "nonsense"],
    ["algorithms", "--backend", "nonsense"],
    ["manifest"],
    ["manifest", "create", "nowhere"],
    ["manifest", "create", "data"],
    ["manifest", "create", "."],
    ["manifest", "verify", "data", "data"],
    ["manifest", "verify", "nowhere", "data"],
    ["sign", "."],
    ["sign", ".", "--key", "key", "--shard-size", "4096"],
    ["verify", "."],
    ["conformance", "--timeout", "nan"],
    ["conformance", "--timeout", "inf"],
]


@pytest.mark.parametrize("arguments", BAD_USE, ids=" ".join)
@pytest.mark.parametrize("as_json", [False, True])
def test_bad_use_is_one_line_and_status_2(run: Run, arguments: list[str], as_json: bool) -> None:
    Path("data").write_bytes(b"abc")
    got = run(*arguments, *(["--json"] if as_json else []))
    assert got.status == 2
    assert re.fullmatch(rb"integrity-triton: [^\n]+\n", got.err)
    if as_json:
        assert got.document["ok"] is False
        assert got.document["error"]
    else:
        assert got.out == b""


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "fault",
    [RuntimeError("x"), MemoryError("x"), AssertionError("x"), KeyError("x"), SystemExit(0), SystemExit(1)],
    ids=repr,
)
def test_an_internal_error_is_not_a_mismatch(
    run: Run, monkeypatch: pytest.MonkeyPatch, fault: BaseException, as_json: bool
) -> None:
    from integrity_triton import hashing

    def failing(*_: Any, **__: Any) -> None:
        raise fault

    Path("data").write_bytes(b"")
    monkeypatch.setattr(hashing, "new", failing)
    for command in (["hash", "sha256", "data"], ["hash", "sha256", "--check", "data"]):
        got = run(*command, *(["--json"] if as_json else []))
        assert got.status == 2
        last = got.err.splitlines()[-1]
        assert last.startswith(f"integrity-triton: internal error: {type(fault).__name__}: ".encode())
        assert b"Traceback" in got.err  # for the developer who corrects the error
        if as_json:
            assert got.document["ok"] is False


def test_an_incomplete_installation_is_not_a_mismatch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "integrity_triton.cli.program", None)
    got = run("hash", "sha256")
    assert got.status == 2
    assert got.err.startswith(b"integrity-triton: the program cannot be loaded: ")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="not applicable: no /dev/full")
def test_messages_that_cannot_be_written_do_not_look_like_a_mismatch(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        running = process("hash", "sha256", tmp_path / "nowhere", stderr=full)
        assert running.wait(timeout=60) == 2


def test_an_error_names_the_file_that_it_concerns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from integrity_triton import files

    def failing(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "/another/file")

    Path("data").write_bytes(b"x")
    monkeypatch.setattr(files, "update_from_file", failing)
    got = run("hash", "sha256", "data")
    assert got.err == b"integrity-triton: data: /another/file: Permission denied\n"


def test_a_backend_that_is_absent_is_named_with_its_reason(run: Run) -> None:
    absent = [b for b in run("devices", "--json").document["backends"] if not b["available"]]
    for backend in absent:
        got = run("hash", "sha256", "--backend", backend["name"])
        assert got.status == 2
        assert backend["reason"].encode() in got.err
    assert {b["name"] for b in absent} < {"cuda", "hip", "xpu", "interpreter"}


def test_backend_option_reaches_the_backend(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from integrity_triton import hashing

    asked = []
    select = hashing.select

    def spy(*arguments: Any, **options: Any) -> Any:
        asked.append(options["backend"])
        return select(*arguments, **options)

    monkeypatch.setattr(hashing, "select", spy)
    Path("data").write_bytes(b"abc")
    assert run("hash", "sha256", "data", "--backend", "native").status == 0
    assert asked
    assert set(asked) == {"native"}


def test_names_cannot_drive_the_terminal(run: Run) -> None:
    got = run("hash", "sha256", "evil\x1b[2J\nname")
    assert got.status == 2
    assert got.err == b"integrity-triton: evil\\x1b[2J name: No such file or directory\n"


def test_hash_json(run: Run) -> None:
    Path("data").write_bytes(b"abc")
    got = run("hash", "SHA-256", "--json", "data", b"\xff")
    assert got.status == 2
    good, bad = got.document["files"]
    assert good == {"name": "data", "digest": sha256sum("data").out[:64].decode()} if SHA256SUM else good
    assert bad["name"] == "\udcff"
    assert "No such file" in bad["error"]
    assert got.document["ok"] is False
    assert run("hash", "sha256", "--json", "--", "data", "--json").status == 2
    assert run("hash", "sha256", "--json", "data").document["ok"] is True


def test_check_json(run: Run) -> None:
    Path("data").write_bytes(b"abc")
    digest = run("hash", "sha256", "data").out[:64].decode()
    Path("list").write_text(f"{digest}  data\n{'0' * 64}  data\n{digest}  nowhere\nnonsense\n")
    got = run("hash", "sha256", "--check", "--json", "list", "absent")
    assert got.status == 1
    assert got.document["ok"] is False
    checked, absent = got.document["lists"]
    assert checked["improperly_formatted"] == 1
    assert [file["result"] for file in checked["files"]] == ["ok", "mismatch", "unreadable"]
    assert checked["files"][1]["found"] == digest
    assert "No such file" in absent["error"]


def test_listings(run: Run) -> None:
    import integrity_triton

    document = run("devices", "--json").document
    assert [b["name"] for b in document["backends"]] == [b.name for b in integrity_triton.backends()]
    text = run("devices").out.decode()
    for backend in integrity_triton.backends():
        assert re.search(rf"^{backend.name} +{'available' if backend.available else 'absent'}$", text, re.M)
        assert backend.reason in text
    assert run("devices", "--backend", "native").out.decode().count("available") == 1


def test_the_list_of_algorithms(run: Run) -> None:
    from integrity_triton import algorithms
    from integrity_triton.backends import registry

    records = {record.name: record for record in algorithms.all_algorithms()}
    document = run("algorithms", "--json").document
    assert sorted(a["name"] for a in document["algorithms"]) == sorted(records)
    *lines, derived = run("algorithms").out.decode().splitlines()[1:]
    told = [a["name"] for a in document["algorithms"]]
    assert [line.split()[0] for line in lines] == [n for n in told if not n.startswith("hmac_")]
    assert derived.startswith("hmac_* ")
    hashes = derived.partition(" of ")[2].partition(";")[0].split(", ")
    assert [f"hmac_{name}" for name in hashes] == [n for n in told if n.startswith("hmac_")]
    grades = [line.split()[1] for line in lines]
    assert list(dict.fromkeys(grades)) == [g.value for g in algorithms.Security if g.value in grades]
    for line in lines:
        record = records[line.split()[0]]
        assert line.split()[1] == record.security.value
        assert line.split()[2] in (str(record.digest_size), f"{record.digest_size}+", "any")
        assert (record.security_note in line) == (record.security is not algorithms.Security.SECURE)
        assert all(alias in line for alias in record.aliases)
    names = [a["name"] for a in run("algorithms", "--backend", "native", "--json").document["algorithms"]]
    native = registry.get("native")
    assert set(names) == {name for name, record in records.items() if native.unsupported(record) is None}


def test_all_about_an_algorithm(run: Run) -> None:
    from integrity_triton import algorithms

    text = run("algorithms", "SHA-1", "blake2b", "shake_128").out.decode()
    first, second, third = text.split("\n\n")
    assert first.startswith("sha1\n")
    assert "  security  broken: " in first
    assert first.endswith("  also      sha-1")
    record = algorithms.get("blake2b")
    assert all(f"  parameter {p.name} (" in second for p in record.parameters)
    assert "digest_size (1 to 64)" in second
    assert "key (up to 64 bytes)" in second
    assert "  digest    any size\n" in third
    (fields,) = run("algorithms", "blake2b", "--json").document["algorithms"]
    assert [p["name"] for p in fields["parameters"]] == [p.name for p in record.parameters]
    assert fields["block_size"] == 128
    missing = next(r for r in algorithms.all_algorithms() if r.native is None)
    got = run("algorithms", missing.name, "--backend", "native")
    assert got.status == 2
    assert b"no CPU library has it" in got.err


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_fits_a_terminal(columns: int) -> None:
    got = on_terminal("algorithms", columns=columns)
    lines = got.out.decode().splitlines()
    assert max(map(len, lines)) <= columns
    start = lines[0].index("kind")
    assert all(line[:start].strip() == "" or line[start - 1] == " " for line in lines[1:])
    assert any(line.startswith(" " * start) for line in lines)


def test_version_and_help(run: Run) -> None:
    import integrity_triton

    assert run("--version").out.decode() == f"integrity-triton {integrity_triton.__version__}\n"
    for command in ["devices", "algorithms", "hash", "manifest create", "manifest verify", "sign", "verify"]:
        got = run(*command.split(), "--help")
        assert got.status == 0
        assert b"--json" in got.out
        assert b"--backend" in got.out


def test_hashing_on_the_cpu_imports_no_torch_and_help_next_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"abc")
    script = (
        "import sys; from integrity_triton import cli; cli.main(['--help']);"
        "late = {'torch', 'triton', 'numpy', 'rich', 'blake3', 'integrity_triton.hashing'} & {*sys.modules};"
        "assert not late, late;"
        f"cli.main(['hash', 'blake3', {str(tmp_path / 'data')!r}]);"
        f"cli.main(['hash', 'sha256', {str(tmp_path / 'data')!r}]);"
        "late = {'torch', 'triton', 'numpy', 'rich'} & {*sys.modules}; assert not late, late"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="not applicable: no /proc")
def test_memory_is_bounded(tmp_path: Path) -> None:
    with open(tmp_path / "data", "wb") as file:
        file.truncate(600 << 20)  # sparse
    script = (
        "from integrity_triton import cli;"
        f"assert cli.main(['hash', 'blake3', {str(tmp_path / 'data')!r}, '-']) == 0;"
        "print(open('/proc/self/status').read())"
    )
    with open(tmp_path / "data", "rb") as stdin:
        done = subprocess.run(
            [sys.executable, "-c", script], stdin=stdin, capture_output=True, text=True, check=True
        )
    named, piped = done.stdout.splitlines()[:2]
    assert named[:64] == piped[:64]
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert peak is not None
    assert int(peak[1]) < 100 << 10


def test_interrupt_is_quiet(tmp_path: Path) -> None:
    with process("hash", "sha256", "pipe", "-", stdin=subprocess.PIPE, cwd=tmp_path) as running:
        assert running.stderr.readline() == b"integrity-triton: pipe: No such file or directory\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
        assert running.stderr.read() == b""


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    (tmp_path / "data").write_bytes(b"abc")
    with process("hash", "sha256", *["data"] * 20, stdout=write_end, cwd=tmp_path) as running:
        os.close(write_end)
        assert running.wait(20) == 141
        assert running.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="not applicable: no /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_disk_is_one_line(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "data").write_bytes(b"abc")
    with (
        open("/dev/full", "wb") as full,
        process("hash", "sha256", "data", *options, stdout=full, cwd=tmp_path) as running,
    ):
        assert running.wait(20) == 2
        assert running.stderr.read() == b"integrity-triton: No space left on device\n"


def on_terminal(*arguments: str | Path, columns: int = 0) -> Result:
    """Runs with stderr on a terminal; with ``columns``, stdout on another one of that width, otherwise in
    a pipe."""
    controllers, terminals = zip(*(pty.openpty() for _ in range(2)), strict=True)
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    options: dict[str, Any] = {"stderr": terminals[0]}
    if columns:
        fcntl.ioctl(terminals[1], termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        options |= {"stdout": terminals[1], "env": environment}
    with process(*arguments, **options) as running:
        for terminal in terminals:
            os.close(terminal)
        out = read_terminal(controllers[1]).replace(b"\r\n", b"\n") if columns else b""
        seen = read_terminal(controllers[0])
        out = out or running.stdout.read()
    for controller in controllers:
        os.close(controller)
    return Result(running.wait(20), out, seen)


def read_terminal(controller: int) -> bytes:
    seen = b""
    while True:
        try:
            piece = os.read(controller, 1 << 16)
        except OSError:  # Linux reports in this way that the last writer has closed the terminal
            break
        if not piece:
            break
        seen += piece
    return seen


@pytest.mark.parametrize(
    ("size", "options", "shown"),
    [(300 << 20, [], True), (300 << 20, ["--json"], False), (1 << 20, [], False)],
    ids=["long", "long, json", "short"],
)
def test_progress_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, options: list[str], shown: bool
) -> None:
    # Only the size must decide, since on a busy machine even short work takes so long that a bar is shown.
    folder = tmp_path / "imported_at_start"
    folder.mkdir()
    folder.joinpath("sitecustomize.py").write_text(
        "from integrity_triton.cli import terminal\nterminal._LONG_SECONDS = 3600\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
    with open(tmp_path / "data", "wb") as file:
        file.truncate(size)
    got = on_terminal("hash", "blake3", tmp_path / "data", *options)
    assert got.status == 0
    assert b"\x1b" not in got.out
    assert got.out.startswith(b"{" if options else blake3.blake3(bytes(size)).hexdigest().encode())
    if shown:
        assert re.search(rb"[0-9.]+/314\.6 MB", got.err)
        assert b"MB/s" in got.err or b"GB/s" in got.err
        assert got.err.rstrip().endswith(b"\x1b[2K")  # the bar is erased at the end
    else:
        assert got.err == b""


def write_model(folder: Path) -> Path:
    safetensors = pytest.importorskip("safetensors.torch", reason="not applicable: safetensors is absent")
    import torch

    folder.mkdir()
    path = folder / "model.safetensors"
    tensors = {"first.weight": torch.arange(6.0).reshape(2, 3), "second.bias": torch.ones(4)}
    safetensors.save_file(tensors, path)
    return path


def flip_last_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def last_tensor(path: Path) -> str:
    """The name of the tensor that holds a safetensors file's last byte."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header.pop("__metadata__", None)
    return max(header, key=lambda name: header[name]["data_offsets"][1])


def test_manifest(run: Run) -> None:
    weights = write_model(Path("model"))
    made = run("manifest", "create", "model")
    assert made.status == 0
    document = json.loads(made.out)
    assert len(document["tensors"]) == 2
    saved = run("manifest", "create", weights, "-o", "manifest.json", "--json").document
    assert saved["root"] == document["root"]
    assert Path("manifest.json").read_bytes() == made.out
    assert document["root"] in run("manifest", "create", weights, "-o", "again.json").out.decode()
    assert (
        run("manifest", "create", weights, "--algorithm", "sha256", "--json").document["algorithm"]
        == "sha256"
    )

    for source in ("model", weights):
        assert run("manifest", "verify", "manifest.json", source).status == 0
    flip_last_bit(weights)
    changed = last_tensor(weights)
    got = run("manifest", "verify", "manifest.json", weights)
    assert got.status == 1
    assert changed.encode() in got.out
    got = run("manifest", "verify", "manifest.json", "model", "--json")
    assert got.status == 1
    assert got.document["ok"] is False
    assert [change["name"] for change in got.document["changed"]] == [changed]


OUTPUTS = [
    (["manifest", "create", "model", "-o"], "json"),
    (["conformance", "--quick", "--backend", "native", "--algorithm", "sha256", "--report"], "json"),
]


@pytest.mark.parametrize(("command", "suffix"), OUTPUTS)
def test_outputs_are_checked_before_the_work(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str], suffix: str
) -> None:
    from integrity_triton import conformance, models

    write_model(Path("model"))
    Path(f"folder.{suffix}").mkdir()
    Path("file").write_bytes(b"")
    with monkeypatch.context() as patched:
        patched.setattr(models.Manifest, "build", pytest.fail)
        patched.setattr(conformance, "run", pytest.fail)
        for path, why in (
            (f"folder.{suffix}", "Is a directory"),
            (f"nowhere/x.{suffix}", "No such file or directory"),
            (f"file/x.{suffix}", "Not a directory"),
        ):
            got = run(*command, path)
            assert (got.status, got.err) == (2, f"integrity-triton: {path}: {why}\n".encode())


@pytest.mark.parametrize(("command", "suffix"), OUTPUTS)
def test_outputs_go_through_links_and_into_pipes(run: Run, command: list[str], suffix: str) -> None:
    write_model(Path("model"))
    Path("target").write_bytes(b"old")
    link, pipe = Path(f"link.{suffix}"), Path(f"pipe.{suffix}")
    link.symlink_to("target")
    os.mkfifo(pipe)
    assert run(*command, link).status == 0
    assert link.is_symlink()
    assert json.loads(Path("target").read_bytes())
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    assert run(*command, pipe).status == 0
    assert json.loads(reader.communicate(timeout=60)[0])
    assert pipe.is_fifo()


def test_a_manifest_does_not_replace_its_weights(run: Run) -> None:
    weights = write_model(Path("model"))
    before = weights.read_bytes()
    Path("link").symlink_to(weights)
    for source, output in ((weights, weights), ("model", weights), ("model", "link")):
        got = run("manifest", "create", source, "-o", output)
        assert (got.status, b"this is an input" in got.err) == (2, True)
    assert weights.read_bytes() == before
    for name in ("model.safetensors.index.json", "model.safetensors.fp16.index.json"):
        index = Path("model") / name
        index.write_text(json.dumps({"weight_map": {}}))
        got = run("manifest", "create", "model", "-o", index)
        assert (got.status, b"this is an input" in got.err) == (2, True)
        assert index.read_text() == json.dumps({"weight_map": {}})


def test_overlays_are_permitted_by_an_option(run: Run) -> None:
    weights = write_model(Path("model"))
    assert run("manifest", "create", "model", "-o", "m.json").status == 0
    name = json.loads(Path("m.json").read_bytes())["tensors"][0]["name"]
    copy = weights.with_name("other.safetensors")
    header = {
        "more": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        name: {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]},
    }
    text = json.dumps(header).encode()
    copy.write_bytes(struct.pack("<Q", len(text)) + text + b"ab")
    weight_map = {name: weights.name, "more": copy.name}
    Path("model/model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for command in (["create", "model"], ["verify", "m.json", "model"]):
        got = run("manifest", *command)
        assert (got.status, b"(--overlays)" in got.err) == (2, True)
    assert run("manifest", "create", "model", "-o", "m.json", "--overlays").status == 0
    got = run("manifest", "verify", "m.json", "model", "--overlays", "--json")
    assert (got.status, got.document["overlaid"]) == (0, [{"name": name, "file": str(copy)}])


@needs_signing
def test_a_signature_does_not_replace_another_file(run: Run) -> None:
    write_model(Path("model"))
    Path("model/config.json").write_text("{}")
    assert run("keygen", "key.pem", "key.pub").status == 0
    for output in ("model/config.json", "key.pem", "model/model.safetensors"):
        before = Path(output).read_bytes()
        got = run("sign", "model", "--key", "key.pem", "-o", output)
        assert (got.status, b"not a signature" in got.err) == (2, True), got.err
        assert Path(output).read_bytes() == before
    Path("empty").touch()
    Path("link").symlink_to("empty")
    for _ in range(2):  # the second run replaces a signature
        assert run("sign", "model", "--key", "key.pem", "-o", "link").status == 0
    assert Path("link").is_symlink()
    assert run("verify", "model", "--key", "key.pub", "--signature", "link").status == 0
    for output, why in (("nowhere/x", b"No such file"), (".", b"Is a directory")):
        got = run("sign", "model", "--key", "key.pem", "-o", output)
        assert (got.status, why in got.err) == (2, True)
        assert got.err.startswith(f"integrity-triton: {output}: ".encode())


def test_manifest_options(run: Run) -> None:
    weights = write_model(Path("model"))
    made = run("manifest", "create", weights, "-o", "m.json", "--algorithm", "shake_128", "--length", "32")
    assert made.status == 0, made.err
    document = json.loads(Path("m.json").read_text())
    assert (document["version"], document["length"], len(document["root"])) == (2, 32, 64)
    name, other = (tensor["name"] for tensor in document["tensors"])
    verify = ["manifest", "verify", "m.json", weights]
    assert run(*verify).status == 0
    got = run(*verify, "--ignore", name, "--json")
    assert (got.status, got.document["ignored"], got.document["tensors"]) == (0, [name], 1)
    assert run(*verify, "--ignore", "*").status == 2
    assert run(*verify, "--rename", f"{name}=x").status == 1
    assert run(*verify, "--rename", f"{name}=x", "--ignore", "x").status == 1
    assert run(*verify, "--rename", f"{name}=x", "--ignore", "x", "--partial").status == 0
    for odd in (["--rename", "x"], ["--rename", "x=1", "--rename", "x=2"]):
        assert run(*verify, *odd).status == 2
    tied = json.loads(run("manifest", "create", weights, "--tie", f"copy={other}").out)["tensors"]
    assert {n for t in tied for n in [t["name"], *t.get("tied", [])]} == {"copy", name, other}
    assert len(tied) == 2
    assert run("manifest", "create", weights, "--tie", "copy=absent").status == 2
    assert run("manifest", "create", weights, "--algorithm", "shake_128").status == 2


@needs_signing
def test_signing(run: Run) -> None:
    weights = write_model(Path("model"))
    assert run("keygen", "key.pem", "key.pub").status == 0
    again = run("keygen", "key.pem", "other.pub")
    assert again.status == 2  # a private key is never overwritten
    assert run("manifest", "create", weights, "-o", "manifest.json").status == 0
    verify = ["verify", "model", "--key", "key.pub", "--manifest", "manifest.json"]
    for options in (
        [],
        ["--algorithm", "sha256"],
        ["--method", "shards", "--shard-size", "64"],
    ):
        signed = run("sign", "model", "--key", "key.pem", *options, "--json")
        assert signed.status == 0, signed.err
        assert signed.document["signature"] == "model/model.sig"
        assert signed.document["algorithm"] == ("sha256" if options else "blake3")
        got = run(*verify)
        assert (got.status, got.out) == (0, b"model: OK\n")
        assert run(*verify, "--json").document["ok"] is True

    elsewhere = ["--signature", "elsewhere.sig", "--ignore-path", "model.sig"]
    assert run("sign", "model", "--key", "key.pem", *elsewhere).status == 0
    assert run("verify", "model", "--key", "key.pub", *elsewhere).status == 0

    Path("model/stranger").write_bytes(b"x")  # OMS shards have no empty files
    assert run(*verify).status == 1
    assert run(*verify, "--ignore-unsigned-files").status == 0
    Path("model/stranger").unlink()

    flip_last_bit(weights)
    got = run(*verify)
    assert got.status == 1
    assert got.out.startswith(b"model: FAILED\n")
    assert last_tensor(weights).encode() in got.out
    assert re.fullmatch(rb"integrity-triton: [^\n]+\n", got.err)
    got = run(*verify, "--json")
    assert got.status == 1
    assert [change["name"] for change in got.document["tensors"]["changed"]] == [last_tensor(weights)]

    weights.write_bytes(b"")
    got = run(*verify)  # nothing is left to diagnose, but it is still a mismatch
    assert got.status == 1
    assert run("verify", "model", "--key", "nowhere").status == 2
    assert run("verify", "model", "--key", "key.pub", "--signature", "nowhere").status == 2
    assert run("verify", "nowhere", "--key", "key.pub", "--signature", "model/model.sig").status == 2
    assert run("sign", "nowhere", "--key", "key.pem").status == 2
    assert run("sign", "model", "--key", "key.pub").status == 2


@needs_signing
def test_signing_takes_urls_of_local_folders_only(run: Run) -> None:
    write_model(Path("model"))
    assert run("keygen", "key.pem", "key.pub").status == 0
    url = Path("model").absolute().as_uri()
    assert run("sign", url, "--key", "key.pem").status == 0
    assert Path("model/model.sig").is_file()
    assert run("verify", url, "--key", "key.pub").status == 0
    assert run("digest", url).out.split()[0] == run("digest", "model").out.split()[0]
    for command in (
        ["sign", "s3://models/tiny", "--key", "key.pem"],
        ["sign", "s3://models/tiny", "--key", "key.pem", "--signature", "model.sig"],
        ["verify", "s3://models/tiny", "--key", "key.pub", "--signature", "model/model.sig"],
        ["digest", "s3://models/tiny"],
    ):
        got = run(*command)
        assert got.status == 2
        assert b"s3://models/tiny: a URL is not taken here" in got.err


@pytest.mark.slow  # seventeen processes
def test_documented_examples(run: Run) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```console\n(.*?)^```$", page, re.M | re.S)
    assert examples
    tool = f"{sys.executable} -m integrity_triton"
    for example in examples:
        transcript = ""
        for command in re.findall(r"^\$ (.*)$", example, re.M):
            shell = command.replace("integrity-triton", tool)
            done = subprocess.run(
                shell, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
            transcript += f"$ {command}\n{done.stdout}"
            transcript += f"[status {done.returncode}]\n" if done.returncode else ""
        assert transcript == example


@pytest.mark.parametrize("sent", [b"", b"some data", b"a\nb"])
@pytest.mark.parametrize("options", [(), ("--check",)], ids=["hash", "check"])
def test_input_that_does_not_wait_is_not_taken_for_its_end(
    run: Run, sent: bytes, options: tuple[str, ...]
) -> None:
    """The writer has not closed the pipe. coreutils fail in the same way."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.write(writer, sent)
    with open(reader) as stdin, open(writer, "wb"):
        got = run("hash", "sha256", *options, stdin=stdin)
    assert got.status == 2
    assert got.out == b""
    assert b"Resource temporarily unavailable" in got.err


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="not applicable: no /dev/stdout")
def test_an_output_on_stdout_is_where_the_caller_reads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    script = """
import sys
from integrity_triton.cli.terminal import stdout_for_report
from integrity_triton.output_files import check_output_file, write_file
with stdout_for_report():
    print("noise")
    for path in sys.argv[1:]:
        check_output_file(path)
        write_file(path, path.encode())
write_file(sys.argv[1], b" after")
"""
    paths = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"]
    done = subprocess.run(
        [sys.executable, "-c", script, *paths], cwd=tmp_path, capture_output=True, check=True
    )
    assert done.stdout.decode() == "".join(paths) + " after"
    assert done.stderr == b"noise\n"
