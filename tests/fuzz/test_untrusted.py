"""Everything that parses untrusted bytes gets the files of a corpus, and random changes of them.

For any bytes, the result is a value or one of the errors that the function documents. Each target runs for
``INTEGRITY_TRITON_FUZZ_SECONDS`` (3 if it is not set), always with the same seed unless
``INTEGRITY_TRITON_FUZZ_SEED`` gives another. ``tests/fuzz/corpus/`` has a folder with the first inputs of
each target. Inputs that a target failed on belong there, too.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import known_answers
from integrity_triton.backends.opencl import prebuilt
from integrity_triton.models import regular_files
from integrity_triton.models.errors import ManifestError
from integrity_triton.models.safetensors_file import SafetensorsFile

CORPUS = Path(__file__).with_name("corpus")
SECONDS = float(os.environ.get("INTEGRITY_TRITON_FUZZ_SECONDS", "3"))
SEED = int(os.environ.get("INTEGRITY_TRITON_FUZZ_SEED", "1"))
TOKENS = [
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e400",
    b"NaN",
    b"18446744073709551616",
    b'""',
    b"[]",
    b"{}",
    b"\\ud800",
    b"\0",
    b"\xff\xfe",
    b"../",
    b"/",
    b'"',
    b",",
    b":",
    b"[" * 2000,
    b'{"a":' * 2000,
    b"9" * 5000,
    b"00" * 32,
]


def seeds(target: str) -> list[bytes]:
    found = [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]
    assert found
    return found


def changed(data: bytes, others: list[bytes], pick: random.Random) -> bytes:
    """Make one to four changes: of bits, slices, tokens or digits, or by pieces of another file of the
    corpus."""
    out = bytearray(data)
    for _ in range(pick.randint(1, 4)):
        at = pick.randrange(len(out) + 1)
        size = pick.choice((1, 1, 4, 30, 400))
        change = pick.randrange(7)
        if change == 0 and out:
            out[at % len(out)] ^= 1 << pick.randrange(8)
        elif change == 1:
            del out[at : at + size]
        elif change == 2:
            out[at:at] = out[at : at + size]
        elif change == 3:
            out[at : at + pick.choice((0, 1, size))] = pick.choice(TOKENS)
        elif change == 4:
            other = pick.choice(others)
            start = pick.randrange(len(other) + 1)
            out[at:at] = other[start : start + size]
        elif change == 5:
            out = out[:at]
        else:
            out[at : at + 1] = str(pick.choice((0, 1, -1, 255, 2**31, 2**63, 2**64))).encode()
    return bytes(out[: 1 << 20])


def fuzz(target: str, attempt: Callable[[bytes], object], allowed: tuple[type[BaseException], ...]) -> int:
    """Run ``attempt`` on the corpus and on changed files. Returns the number of inputs that it accepted."""
    corpus, pick, taken = seeds(target), random.Random(SEED), 0
    kept = list(corpus)
    end = time.monotonic() + SECONDS
    for n in range(1_000_000):
        data = corpus[n] if n < len(corpus) else changed(pick.choice(kept), corpus, pick)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                attempt(data)
        except allowed:
            pass
        except BaseException as error:
            raise AssertionError(f"{target}: {type(error).__name__} for {data[:2000]!r}") from error
        else:
            taken += 1
            if n >= len(corpus) and len(kept) < 200:  # accepted although it was changed: a base for more
                kept.append(data)
        if n >= len(corpus) and time.monotonic() > end:
            break
    assert taken, "not even the corpus is taken"
    return taken


def test_manifests():
    def attempt(data: bytes) -> None:
        manifest = it.models.Manifest.from_json(data)
        assert it.models.Manifest.from_json(manifest.to_json()) == manifest

    fuzz("manifest", attempt, (ManifestError,))


def test_safetensors_headers(tmp_path, monkeypatch):
    monkeypatch.setattr(regular_files, "_TICK", 0)  # these files need not rest before they are read
    path = tmp_path / "model.safetensors"

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        file = SafetensorsFile.read(path)
        assert sum(t.nbytes for t in file.tensors) <= len(data)

    fuzz("safetensors", attempt, (ManifestError,))


@pytest.fixture
def signed(tmp_path):
    """A key of the corpus, and the folder that the bundles of the corpus sign."""
    pytest.importorskip("model_signing")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"weights")
    (tmp_path / "key.pub").write_bytes((CORPUS / "oms_key.pub").read_bytes())
    return folder, tmp_path / "key.pub", tmp_path / "model.sig"


def test_signed_bundles(signed):
    from integrity_triton.models import oms

    folder, key, path = signed

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        oms.verify(folder, path, public_key=key)

    fuzz("oms_bundle", attempt, (it.IntegrityError, oms.SignatureFormatError))


def test_bundles_with_certificates(signed):
    from datetime import datetime, timezone

    from integrity_triton.models import oms

    folder, _, path = signed
    root, at = CORPUS / "oms_root.pem", datetime(2026, 6, 1, tzinfo=timezone.utc)

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        oms.verify(folder, path, certificate_chain=[root], at=at)

    fuzz("oms_certificates", attempt, (it.IntegrityError, oms.SignatureFormatError))


def test_signed_statements():
    """The contents behind a valid signature are fuzzed as well, since the owner of a key may be careless."""
    pytest.importorskip("model_signing")
    from integrity_triton.models import oms

    fuzz("oms_statement", oms.parse_statement, (it.IntegrityError, oms.SignatureFormatError))


def test_public_keys(signed):
    from integrity_triton.models import oms

    _, key, _ = signed

    def attempt(data: bytes) -> None:
        key.write_bytes(data)
        oms.load_public_key(key)

    fuzz("public_key", attempt, (ValueError,))


def test_stored_tags():
    def attempt(data: bytes) -> None:
        tags = it.TensorTags.from_json(data)
        assert it.TensorTags.from_json(tags.to_json()).names == tags.names

    fuzz("tensor_tags", attempt, (ValueError,))


def test_locks_of_artifacts(tmp_path, monkeypatch):
    """The lock leads to archives. An archive is unpacked only if it is locked."""
    shutil.copytree(prebuilt.folder(), tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(prebuilt, "folder", lambda: tmp_path)

    def attempt(data: bytes) -> None:
        (tmp_path / prebuilt.LOCK).write_bytes(data)
        prebuilt.lock.cache_clear()
        prebuilt.unpacked.cache_clear()
        for entry in prebuilt.lock()["archives"].values():
            for name in entry["artifacts"]:
                with contextlib.suppress(it.BackendUnavailable):
                    prebuilt.load(name)

    try:
        fuzz("lock", attempt, (it.BackendUnavailable,))
    finally:
        monkeypatch.undo()
        prebuilt.lock.cache_clear()
        prebuilt.unpacked.cache_clear()


def test_known_answers():
    record = algorithms.get("blake2s")

    def attempt(data: bytes) -> None:
        known_answers.parse(data.decode("utf-8", "replace"), record, "fuzz")

    fuzz("answers", attempt, (ValueError,))


def test_attestations():
    """Documents, statements behind a valid signature, and policies: each input is read as all three."""
    pytest.importorskip("cryptography")
    from integrity_triton.models.attest import Attestation, AttestationError, Policy, statement

    def statements(data: bytes) -> None:
        read = statement.from_payload(data)
        assert statement.from_payload(statement.to_payload(read)) == read

    def documents(data: bytes) -> None:
        read = Attestation.from_json(data)
        assert Attestation.from_json(read.to_json()) == read
        statements(read.payload)

    def attempt(data: bytes) -> None:
        first_that_takes(data, AttestationError, documents, statements, Policy.from_json)

    fuzz("attestation", attempt, (AttestationError,))


def test_evidence():
    """Reports, quotes, certificates and tables of them."""
    pytest.importorskip("cryptography")
    from integrity_triton.models.attest import AttestationError, certificates, sev_snp, tdx

    def attempt(data: bytes) -> None:
        parsers = (
            sev_snp.parse_report,
            tdx.check_structure,
            certificates.parse_certificates,
            sev_snp.parse_certificate_table,
        )
        first_that_takes(data, AttestationError, *parsers)

    fuzz("attestation_evidence", attempt, (AttestationError,))


def first_that_takes(data: bytes, error: type[Exception], *attempts: Callable[[bytes], object]) -> None:
    """Try each in turn. Raises the last one's error if none takes the data."""
    *others, last = attempts
    for attempt in others:
        with contextlib.suppress(error):
            attempt(data)
            return
    last(data)


WORDS = [
    *"""
    hash manifest create verify sign keygen devices algorithms sha256 blake3 md5 crc32 hmac_sha256
    poly1305 gmac_aes tuplehash_128 shake_128 model.safetensors manifest.json absent . - -- -c --check
    --json --tag -z -l --length 0 -1 32 --key-file key --backend native nonsense --algorithm -o out
    --key --signature --method files shards --strict --warn --status --quiet --ignore-missing --help
    --version --ignore-unsigned-files /dev/null dir
    """.split(),  # noqa: SIM905 - a list of one word a line says no more
    "",
    "9" * 30,
    "\udcff",
    "é\n",
]


def test_command_lines(tmp_path, monkeypatch):
    """Any words in any order give an exit status, and the message is not a traceback."""
    main = pytest.importorskip("integrity_triton.cli").main
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir").mkdir()
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "model.safetensors").write_bytes(seeds("safetensors")[0])
    (tmp_path / "manifest.json").write_bytes(seeds("manifest")[0])
    pick = random.Random(SEED)
    end = time.monotonic() + SECONDS
    statuses = set()
    while time.monotonic() < end:
        words = [pick.choice(WORDS) for _ in range(pick.randint(1, 7))]
        told = io.StringIO()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"abc"), encoding="utf-8"))
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())), contextlib.redirect_stderr(told):
            try:
                status = main(words)
            except BaseException as error:
                raise AssertionError(f"{type(error).__name__} for {words!r}") from error
        assert "Traceback" not in told.getvalue(), words
        statuses.add(status)
    assert statuses <= {0, 1, 2}, statuses
    assert {0, 2} <= statuses


def test_the_corpus_is_small():
    total = sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file())
    assert total < 100_000
    assert json.loads(seeds("tensor_tags")[0])["format"].startswith("integrity_triton mac_tensors")
