"""Quotes of TDX: a published one, and those of an imagined platform with a root of its own."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import struct

import pytest

pytest.importorskip("cryptography", reason="not applicable: the extra 'attestation' is absent")
pytest.importorskip("dcap_qvl", reason="not applicable: the extra 'attestation' is absent")

from attest_support import DER, PEM, Tdx, samples
from integrity_triton import IntegrityError
from integrity_triton.models.attest import AttestationError, TdxPolicy, verify_quote
from integrity_triton.models.attest.certificates import parse_certificates
from integrity_triton.models.attest.tdx import MAX_QUOTE, check_structure

UTC = datetime.timezone.utc
AT = datetime.datetime(2026, 11, 29, tzinfo=UTC)
PUBLISHED_AT = datetime.datetime(2025, 6, 25, tzinfo=UTC)
DATA = bytes(range(64))
BODY = 48


@pytest.fixture(scope="module")
def made():
    return Tdx()


@pytest.fixture(scope="module")
def collateral(made):
    return made.collateral()


@pytest.fixture
def published():
    folder = samples("tdx")
    quote = (folder / "quote_v4.bin").read_bytes()
    return quote, (folder / "quote_v4_collateral.json").read_text(), [check_structure(quote)[1][-1]]


def test_a_published_quote(published):
    quote, collateral, roots = published
    found = verify_quote(quote, collateral, roots, PUBLISHED_AT)
    assert (found.version, found.tcb_status, found.debug) == (4, "UpToDate", False)
    assert found.fields["mr_td"] == quote[BODY + 136 : BODY + 184]
    assert found.fields["report_data"] == quote[BODY + 520 : BODY + 584]
    assert [found.fields[f"rt_mr{i}"] for i in range(4)] == [
        quote[BODY + 328 + 48 * i : BODY + 376 + 48 * i] for i in range(4)
    ]
    allowed = {"mr_td": (found.fields["mr_td"],)}
    TdxPolicy(allowed).check(found)
    with pytest.raises(IntegrityError, match="dynamic_platform True"):
        TdxPolicy(allowed, rejected_platform=("dynamic_platform",)).check(found)
    for at in (PUBLISHED_AT - datetime.timedelta(30), AT):
        with pytest.raises(IntegrityError, match="the quote is not valid"):
            verify_quote(quote, collateral, roots, at)


@pytest.mark.slow
def test_every_flipped_byte_of_a_published_quote_is_refused(published):
    quote, collateral, roots = published
    for at in range(len(quote)):
        changed = bytearray(quote)
        changed[at] ^= 1 << at % 8
        with pytest.raises((AttestationError, IntegrityError)):
            verify_quote(bytes(changed), collateral, roots, PUBLISHED_AT)


def test_a_published_quote_of_version_5_has_a_structure_that_is_known():
    quote = (samples("tdx") / "quote_v5.bin").read_bytes()
    version, chain = check_structure(quote)
    assert version == 5
    assert "Intel SGX Root CA" in chain[-1].subject.rfc4514_string()


@pytest.mark.parametrize("version", [4, 5])
def test_fields(made, collateral, version):
    """The header, and the first and last byte of every field of the TD report."""
    quote = made.quote(DATA, version=version)
    found = verify_quote(quote, collateral, [made.root], AT)
    assert (found.version, found.fields["report_data"]) == (version, DATA)
    assert found.fields["rt_mr3"] == b"\x23" * 48
    body = BODY + (6 if version == 5 else 0)
    starts = [0, 16, 64, 112, 120, 128, 136, 184, 232, 280, 328, 376, 424, 472, 520, 584]
    places = [*range(body), *(body + start - 1 for start in starts[1:]), *(body + s for s in starts[:-1])]
    signature = body + 584
    places += [signature, signature + 4, signature + 67, signature + 68, signature + 131, signature + 132]
    places += range(signature + 132, signature + 140)
    places += range(signature + 138, signature + 138 + 384, 5)
    places += range(signature + 138 + 384, signature + 138 + 384 + 64 + 2 + 32 + 6)
    for place in places:
        changed = bytearray(quote)
        changed[place] ^= 1 << place % 8
        with pytest.raises((AttestationError, IntegrityError)):
            verify_quote(bytes(changed), collateral, [made.root], AT)


def test_truncated_at_every_byte(made, collateral):
    quote = made.quote(DATA)
    for size in range(len(quote)):
        with pytest.raises(AttestationError):
            check_structure(quote[:size])
    check_structure(quote + bytes(64))  # a kernel may give its whole buffer
    with pytest.raises(AttestationError, match="followed by bytes"):
        check_structure(quote + b"\1")
    with pytest.raises(AttestationError, match="at most"):
        check_structure(quote + bytes(MAX_QUOTE))


def test_text_around_the_certificates_is_refused(made):
    quote = made.quote(DATA)
    begin = quote.index(b"-----BEGIN")
    for place, value in ((begin + 27, b" "), (begin + 91, b"\r"), (len(quote) - 2, b" ")):
        changed = bytearray(quote)
        changed[place : place + 1] = value
        with pytest.raises(AttestationError):
            check_structure(bytes(changed))


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [
        (0, struct.pack("<H", 3), "version 3"),
        (0, struct.pack("<H", 6), "version 6"),
        (2, struct.pack("<H", 3), "a key of type 3"),
        (4, bytes(4), "TEE type 0x0"),
        (8, b"\1", "reserved bytes"),
        (12, b"\0", "another quoting enclave"),
        (BODY + 584, struct.pack("<I", 0xFFFFFFFF), "ends in its signature"),
        (BODY + 584 + 4 + 128, struct.pack("<H", 5), "type 5 are not supported"),
        (BODY + 584 + 4 + 130, struct.pack("<I", 0xFFFFFFFF), "another size"),
    ],
)
def test_structures_that_are_refused(made, place, value, match):
    quote = bytearray(made.quote(DATA))
    quote[place : place + len(value)] = value
    with pytest.raises(AttestationError, match=match):
        check_structure(bytes(quote))


@pytest.mark.parametrize("repeat", [0, 2])
def test_chains_of_another_length_are_refused(made, repeat):
    with pytest.raises(AttestationError, match="not the chain of three"):
        check_structure(made.quote(DATA, repeat=repeat))


def test_another_root_is_refused(made, collateral):
    other = Tdx()
    with pytest.raises(IntegrityError, match="none of the roots"):
        verify_quote(made.quote(DATA), collateral, [other.root], AT)
    with pytest.raises(IntegrityError, match="the quote is not valid"):
        verify_quote(made.quote(DATA), other.collateral(), [made.root, other.root], AT)
    # The chain of one platform, the signature of another.
    quote = made.quote(DATA)
    theirs = other.quote(DATA)
    mixed = quote.replace(made.pck.public_bytes(PEM), other.pck.public_bytes(PEM))
    if len(mixed) == len(quote):
        with pytest.raises((AttestationError, IntegrityError)):
            verify_quote(mixed, collateral, [made.root], AT)
    assert check_structure(theirs)[1][-1] == other.root


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"issued": "2026-12-01T00:00:00Z"}, "future"),
        ({"update": "2026-11-01T00:00:00Z"}, "expired"),
        ({"fmspc": bytes(6)}, "the quote is not valid"),
        ({"status": "Revoked"}, "Revoked"),
    ],
)
def test_collateral_that_is_refused(made, options, match):
    with pytest.raises(IntegrityError, match=match):
        verify_quote(made.quote(DATA), made.collateral(**options), [made.root], AT)


def test_a_revoked_platform_is_refused(made):
    with pytest.raises(IntegrityError, match="certificate chain"):
        verify_quote(made.quote(DATA), made.collateral(revoked=(made.pck,)), [made.root], AT)


def test_every_member_of_the_collateral_counts(made, collateral):
    members = json.loads(collateral)
    quote = made.quote(DATA)
    for name, value in members.items():
        flipped = value[:-3] + ("0" if value[-3] != "0" else "1") + value[-2:]
        if not name.endswith("chain"):
            with pytest.raises((AttestationError, IntegrityError)):
                verify_quote(quote, json.dumps({**members, name: flipped}), [made.root], AT)
        less = {other: text for other, text in members.items() if other != name}
        with pytest.raises((AttestationError, IntegrityError)):
            verify_quote(quote, json.dumps(less), [made.root], AT)
    for text in ("", "[]", "{", '{"a":' * 5000, collateral[:-1], collateral + "x", '{"a":1,"a":2}', "\ud800"):
        with pytest.raises(AttestationError):
            verify_quote(quote, text, [made.root], AT)


def test_a_domain_that_may_be_debugged_is_refused(made, collateral):
    with pytest.raises(IntegrityError, match="Debug"):
        verify_quote(made.quote(DATA, changes={120: b"\1"}), collateral, [made.root], AT)


def test_the_policy(made):
    quote = made.quote(DATA)
    found = verify_quote(quote, made.collateral(), [made.root], AT)
    allowed = {"mr_td": (bytes(48), b"\x11" * 48), "rt_mr3": (b"\x23" * 48,)}
    assert "TCB UpToDate" in TdxPolicy(allowed).check(found)
    for options, match in (
        ({"registers": {"mr_td": (bytes(48),)}}, "mr_td is 1111"),
        ({"registers": {**allowed, "rt_mr0": (bytes(48),)}}, "rt_mr0 is 2020"),
        ({"registers": {**allowed, "mr_seam": (b"\1" * 48,)}}, "mr_seam is 0000"),
        ({"minimum_tcb_evaluation": 18}, "TCB evaluation 17"),
    ):
        with pytest.raises(IntegrityError, match=match):
            TdxPolicy(**{"registers": allowed, **options}).check(found)
    fields = {**found.fields, "td_attributes": b"\1" + bytes(7)}
    debugged = dataclasses.replace(found, fields=fields)
    with pytest.raises(IntegrityError, match="may be debugged"):
        TdxPolicy(allowed).check(debugged)
    late = verify_quote(
        quote, made.collateral(status="OutOfDate", advisories=("INTEL-SA-1",)), [made.root], AT
    )
    with pytest.raises(IntegrityError, match="TCB status is OutOfDate"):
        TdxPolicy(allowed).check(late)
    lenient = TdxPolicy(allowed, tcb_status=("UpToDate", "OutOfDate"))
    assert "TCB OutOfDate" in lenient.check(late)
    with pytest.raises(IntegrityError, match="INTEL-SA-1"):
        TdxPolicy(allowed, ("OutOfDate",), ("INTEL-SA-1",)).check(late)


def test_the_certificates_of_a_quote_are_those_of_its_platform(made):
    chain = check_structure(made.quote(DATA))[1]
    assert chain == (made.pck, made.ca, made.root)
    assert parse_certificates(b"".join(c.public_bytes(PEM) for c in chain)) == chain


def test_times_before_1970_are_refused(made, collateral):
    quote = made.quote(bytes(64))
    for year in (1, 1960):
        at = datetime.datetime(year, 1, 2, tzinfo=UTC)
        with pytest.raises(IntegrityError, match="1970"):
            verify_quote(quote, collateral, [made.root], at)


def test_certificates_of_a_version_that_does_not_exist_are_refused(made):
    found = made.root.public_bytes(DER)
    changed = found.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x42", 1)
    text = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(changed) + b"-----END CERTIFICATE-----\n"
    for data in (text, changed):
        with pytest.raises(AttestationError, match=r"not (a )?certificate"):
            parse_certificates(data)
