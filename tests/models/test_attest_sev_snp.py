"""Reports of SEV-SNP: a published one, and those of an imagined processor with a root of its own."""

from __future__ import annotations

import datetime
import random
import struct

import pytest

pytest.importorskip("cryptography", reason="not applicable: the extra 'attestation' is absent")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attest_support import DER, PEM, processor, samples, stand_in
from integrity_triton import IntegrityError
from integrity_triton.models.attest import AttestationError, SnpPolicy, load_certificates, verify_report
from integrity_triton.models.attest.certificates import (
    MAX_CERTIFICATE,
    parse_certificates,
    parse_crl,
    parse_der,
)
from integrity_triton.models.attest.sev_snp import parse_certificate_table, parse_report

UTC = datetime.timezone.utc
AT = datetime.datetime(2026, 11, 29, tzinfo=UTC)
DATA = bytes(range(64))


@pytest.fixture(scope="module")
def made():
    return processor()


@pytest.fixture
def published():
    folder = samples("sev-snp")
    intermediate, root = load_certificates(folder / "milan.testcer")
    (chip,) = load_certificates(folder / "vcek.testcer")
    return (folder / "attestation.bin").read_bytes(), [chip, intermediate], [root]


def verified(made, report, *, certificates=None, roots=None, at=AT):
    return verify_report(report, certificates or [made.chip, made.intermediate], roots or [made.root], at)


def test_a_published_report(published):
    report, certificates, roots = published
    found = verify_report(report, certificates, roots, AT)
    assert (found.product, found.key) == ("Milan-B0", "VCEK")
    assert found.root.startswith("CN=ARK-Milan,")
    assert found.reported_tcb == {"bootloader": 2, "tee": 0, "snp": 5, "microcode": 0x44}
    assert found.report.report_data == bytes([1, 2, 3, 4, 5]) + bytes(59)
    assert found.report.measurement == report[0x90:0xC0]
    assert found.report.current_version == (1, 49, 3)
    with pytest.raises(IntegrityError, match="debug True, not False"):
        SnpPolicy({"measurement": (report[0x90:0xC0],)}).check(found)


def test_every_flipped_bit_of_a_published_report_is_refused(published):
    report, certificates, roots = published
    for at in range(len(report)):
        for mask in (1, 0x80):
            changed = bytearray(report)
            changed[at] ^= mask
            with pytest.raises((AttestationError, IntegrityError)):
                verify_report(bytes(changed), certificates, roots, AT)


def test_a_published_report_has_its_dates(published):
    report, certificates, roots = published
    for at, match in (
        (datetime.datetime(2021, 1, 1, tzinfo=UTC), "is valid from"),
        (datetime.datetime(2030, 1, 1, tzinfo=UTC), "expired on"),
    ):
        with pytest.raises(IntegrityError, match=match):
            verify_report(report, certificates, roots, at)


def test_a_report_and_each_of_its_fields(made):
    report = made.report(DATA)
    assert verified(made, report).report.report_data == DATA
    for at in range(len(report)):
        changed = bytearray(report)
        changed[at] ^= 1 << at % 8
        with pytest.raises((AttestationError, IntegrityError)):
            verified(made, bytes(changed))


def test_truncated_and_extended(made):
    report = made.report(DATA)
    for size in range(len(report)):
        with pytest.raises(AttestationError, match="has 1184 bytes"):
            parse_report(report[:size])
    with pytest.raises(AttestationError, match="has 1184 bytes, not 1185"):
        parse_report(report + b"\0")


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_versions(made, version):
    found = verified(made, made.report(DATA, version=version))
    assert found.report.version == version
    assert found.report.cpuid_family == (0x19 if version > 2 else None)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({0x00: struct.pack("<I", 1)}, "version 1 is not supported"),
        ({0x00: struct.pack("<I", 6)}, "version 6 is not supported"),
        ({0x34: struct.pack("<I", 2)}, "signature algorithm 2"),
        ({0x08: bytes(8)}, "bit 17"),
        ({0x08: struct.pack("<Q", 1 << 17 | 1 << 26)}, "reserved bit"),
        ({0x48: struct.pack("<I", 1 << 5)}, "reserved bit"),
        ({0x4C: b"\1"}, "reserved, and not zero"),
        ({0x188: b"\x19"}, "reserved, and not zero"),
        ({0x1F8: b"\1"}, "reserved, and not zero"),
        ({0x29F: b"\1"}, "reserved, and not zero"),
        ({0x48: struct.pack("<I", 7 << 2)}, "no key of the chip"),
        ({0x48: struct.pack("<I", 1 << 2)}, "there is no VLEK certificate"),
        ({0x48: struct.pack("<I", 2)}, "masked"),
        ({0x1A0: b"another"}, "another chip"),
        ({0x180: b"\4"}, "TCB version"),
        ({0x182: b"\1"}, "reserved byte"),
    ],
)
def test_signed_reports_that_are_refused(made, changes, match):
    with pytest.raises((AttestationError, IntegrityError), match=match):
        verified(made, made.report(DATA, changes=changes))


def test_the_family_and_the_product_belong_together(made):
    with pytest.raises(IntegrityError, match="family 0x1a"):
        verified(made, made.report(DATA, version=3, changes={0x188: b"\x1a"}))


def test_turin_has_another_form_of_tcb_and_chip(made):
    hwid = bytes(range(1, 9))
    chip = made.certify_chip(
        product="Turin", hwid=hwid, tcb={"3.9": 1, "3.1": 2, "3.2": 3, "3.3": 4, "3.8": 200}
    )
    tcb = bytes([1, 2, 3, 4, 0, 0, 0, 200])
    changes = {0x188: b"\x1a", 0x1A0: hwid + bytes(56), 0x180: tcb, 0x1F0: tcb}
    report = made.report(DATA, version=3, changes=changes)
    found = verified(made, report, certificates=[chip, made.intermediate])
    assert found.reported_tcb == {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 200}
    SnpPolicy({"measurement": (found.report.measurement,)}, minimum_tcb={"fmc": 1}).check(found)
    changed = made.report(DATA, version=3, changes={**changes, 0x1A8: b"\1"})
    with pytest.raises(IntegrityError, match="another chip"):
        verified(made, changed, certificates=[chip, made.intermediate])


def test_a_key_of_a_provider(made):
    chip = made.certify_chip(common="SEV-VLEK", hwid=None, extra={"5": b"\x16\x03CSP"})
    report = made.report(DATA, changes={0x48: struct.pack("<I", 1 << 2)})
    found = verified(made, report, certificates=[chip, made.intermediate])
    allowed = {"measurement": (found.report.measurement,)}
    assert found.key == "VLEK"
    SnpPolicy(allowed, allow_vlek=True).check(found)
    with pytest.raises(IntegrityError, match="cloud provider's key"):
        SnpPolicy(allowed).check(found)
    nameless = made.certify_chip(common="SEV-VLEK", hwid=None)
    with pytest.raises(IntegrityError, match="names no cloud provider"):
        verified(made, report, certificates=[nameless, made.intermediate])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hwid": None}, "does not name its chip"),
        ({"hwid": b"short"}, "does not name its chip"),
        ({"tcb": {"3.1": 3, "3.2": 0, "3.3": 8}}, "microcode version"),
        ({"tcb": {"3.1": 3, "3.2": 0, "3.3": 7, "3.8": 115}}, "for the TCB version"),
        ({"common": "SEV-OTHER"}, "no VCEK certificate"),
        ({"product": ""}, "product name"),
        ({"begin": datetime.datetime(2027, 1, 1)}, "is valid from"),
        ({"end": datetime.datetime(2026, 2, 1)}, "expired on"),
    ],
)
def test_certificates_of_the_chip_that_are_refused(made, options, match):
    chip = made.certify_chip(**options)
    with pytest.raises(IntegrityError, match=match):
        verified(made, made.report(DATA), certificates=[chip, made.intermediate])


def test_the_chip_may_be_named_by_an_octet_string(made):
    module = stand_in()
    chip = made.certify_chip(hwid=b"\x04\x40" + module.CHIP)
    assert verified(made, made.report(DATA), certificates=[chip, made.intermediate]).key == "VCEK"


def test_keys_that_are_refused(made):
    other = ec.generate_private_key(ec.SECP384R1())
    chip = made.certify_chip(public_key=other.public_key())
    with pytest.raises(IntegrityError, match="signature of the report is not valid"):
        verified(made, made.report(DATA), certificates=[chip, made.intermediate])
    short = ec.generate_private_key(ec.SECP256R1())
    chip = made.certify_chip(public_key=short.public_key())
    with pytest.raises(IntegrityError, match="not on the curve P-384"):
        verified(made, made.report(DATA), certificates=[chip, made.intermediate])


def test_chains_that_are_refused(made):
    module = stand_in()
    report = made.report(DATA)
    with pytest.raises(IntegrityError, match="no intermediate certificate"):
        verified(made, report, certificates=[made.chip])
    # The chip's certificate as its own issuer, and authorities that issue each other, lead nowhere.
    with pytest.raises(IntegrityError, match="no root"):
        verified(made, report, roots=[made.intermediate])
    name = module.name("SEV-STAND-IN")
    looping = module.authority(name, made.intermediate_key, name, made.intermediate_key, made.begin, made.end)
    with pytest.raises(IntegrityError, match="no root"):
        verified(made, report, certificates=[made.chip, looping])
    with pytest.raises(IntegrityError, match="several candidates"):
        verified(made, report, certificates=[made.chip, made.intermediate, looping])
    # A root of the same name with another key.
    root = module.name("ARK-STAND-IN")
    other = module.authority(root, made.intermediate_key, root, made.intermediate_key, made.begin, made.end)
    with pytest.raises(IntegrityError, match="is not valid for"):
        verified(made, report, roots=[other])
    # The same certificate twice is one.
    assert verified(made, report, certificates=[made.chip, made.intermediate, made.intermediate])


def test_weak_algorithms_of_authorities_are_refused(made):
    builder = x509.CertificateBuilder(
        made.root.subject,
        made.intermediate.subject,
        made.intermediate_key.public_key(),
        7,
        made.begin,
        made.end,
    )
    pkcs1 = builder.sign(made.root_key, hashes.SHA384())
    with pytest.raises(IntegrityError, match="not signed with RSA-PSS"):
        verified(made, made.report(DATA), certificates=[made.chip, pkcs1])
    module = stand_in()
    sha256 = builder.sign(made.root_key, hashes.SHA256(), rsa_padding=module.PSS)
    with pytest.raises(IntegrityError, match="not signed with RSA-PSS and SHA-384"):
        verified(made, made.report(DATA), certificates=[made.chip, sha256])
    no_authority = builder.sign(made.root_key, hashes.SHA384(), rsa_padding=module.PSS)
    with pytest.raises(IntegrityError, match="not that of an authority"):
        verified(made, made.report(DATA), certificates=[made.chip, no_authority])
    small = rsa.generate_private_key(65537, 2048)
    root = module.name("ARK-STAND-IN")
    weak = module.authority(root, small, root, small, made.begin, made.end)
    with pytest.raises(IntegrityError, match="RSA key of 4096"):
        verified(made, made.report(DATA), roots=[weak])


def test_certificates_that_may_not_sign_others_are_refused(made):
    module = stand_in()
    own = made.root_key
    root = x509.CertificateBuilder(
        made.root.subject, made.root.subject, own.public_key(), 7, made.begin, made.end
    )
    bare = root.sign(own, hashes.SHA384(), rsa_padding=module.PSS)
    with pytest.raises(IntegrityError, match="not that of an authority"):
        verified(made, made.report(DATA), roots=[bare])
    for ca, signs in ((False, True), (True, False)):
        builder = root.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        usage = made.root.extensions.get_extension_for_class(x509.KeyUsage).value
        fields = {name.removeprefix("_"): value for name, value in vars(usage).items()}
        fields["key_cert_sign"] = signs
        builder = builder.add_extension(x509.KeyUsage(**fields), critical=True)
        with pytest.raises(IntegrityError, match="may not sign certificates"):
            verified(
                made,
                made.report(DATA),
                roots=[builder.sign(own, hashes.SHA384(), rsa_padding=module.PSS)],
            )


def test_what_a_certificate_says_beside_its_signature_is_checked(made):
    """The algorithm beside the signature and its number of unused bits are not signed."""
    der = made.chip.public_bytes(DER)
    signature = der.rindex(made.chip.signature)
    unused = bytearray(der)
    unused[signature - 1] = 1
    unused[-1] &= 0xFE
    algorithm = bytearray(der)
    algorithm[signature - 6] ^= 1  # the length of the salt
    for changed in (unused, algorithm):
        with pytest.raises(AttestationError, match="not a certificate"):
            parse_der(bytes(changed))


def test_what_the_root_has_revoked(made):
    module = stand_in()
    report = made.report(DATA)

    def crl(*serials, key=made.root_key, padding=module.PSS, begin=made.begin, end=made.end):
        builder = x509.CertificateRevocationListBuilder(made.root.subject, begin, end)
        for serial in serials:
            builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, begin).build())
        return builder.sign(key, hashes.SHA384(), rsa_padding=padding)

    def check(*crls):
        return verify_report(report, [made.chip, made.intermediate], [made.root], AT, crls)

    allowed = {"measurement": (module.MEASUREMENT,)}
    SnpPolicy(allowed, require_crl=True).check(check(crl(7)))
    with pytest.raises(IntegrityError, match="no list of revoked"):
        SnpPolicy(allowed, require_crl=True).check(check())
    # The chip's certificate has another issuer, so that its number counts for nothing here.
    assert check(crl(made.chip.serial_number)).revocation_checked
    for revoked, match in (
        (crl(made.intermediate.serial_number), "was revoked"),
        (crl(key=made.intermediate_key), "is not valid for"),
        (crl(padding=None), "RSA-PSS"),
        (crl(end=datetime.datetime(2026, 2, 1)), "is valid from"),
        (crl(begin=datetime.datetime(2027, 1, 1)), "is valid from"),
    ):
        with pytest.raises(IntegrityError, match=match):
            check(crl(7), revoked)
    der = crl(7).public_bytes(DER)
    assert parse_crl(der) == parse_crl(parse_crl(der).public_bytes(PEM))
    for size in range(len(der)):
        with pytest.raises(AttestationError):
            parse_crl(der[:size])


def test_the_table_of_certificates(made):
    table = made.certificate_table()
    assert parse_certificate_table(table) == (made.chip, made.intermediate)
    for size in range(0, len(table) - 1, 7):
        with pytest.raises(AttestationError):
            parse_certificate_table(table[:size])
    with pytest.raises(AttestationError, match="more than"):
        parse_certificate_table(b"\1" * 16 + bytes(8) + (b"\1" * 16 + bytes(8)) * 40)
    with pytest.raises(AttestationError, match="does not have"):
        parse_certificate_table(b"\1" * 16 + struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + bytes(24))


def test_what_is_no_certificate(made):
    der = made.chip.public_bytes(DER)
    for size in range(len(der)):
        with pytest.raises(AttestationError):
            parse_der(der[:size])
    with pytest.raises(AttestationError, match="at most"):
        parse_der(b"\x30\x84\x7f\xff\xff\xff" + bytes(MAX_CERTIFICATE))
    for nest in (b"\x30\x80" * 5000, b"\x30\x82\x40\x00" * 4000, b"\x30\x84\xff\xff\xff\xff"):
        with pytest.raises(AttestationError):
            parse_der(nest)
    with pytest.raises(AttestationError, match="more than 16"):
        parse_certificates(made.chip.public_bytes(PEM) * 17)
    with pytest.raises(AttestationError, match="not certificates in PEM"):
        parse_certificates(b"-----BEGIN CERTIFICATE-----\nAAAA\n")


def test_changed_certificates_are_refused(made):
    """The errors of the library, whatever they are, become errors of this package."""
    der = made.chip.public_bytes(serialization.Encoding.DER)
    report = made.report(DATA)
    pick = random.Random(1)
    accepted = 0
    for _ in range(600):
        changed = bytearray(der)
        for _ in range(pick.randint(1, 3)):
            changed[pick.randrange(len(changed))] ^= 1 << pick.randrange(8)
        if bytes(changed) == der:
            continue
        try:
            verified(made, report, certificates=[parse_der(bytes(changed)), made.intermediate])
        except (AttestationError, IntegrityError):
            continue
        accepted += 1
    assert accepted == 0


def test_the_policy(made):
    module = stand_in()
    found = verified(made, made.report(DATA))
    allowed = {"measurement": (module.MEASUREMENT,)}
    assert "measurement as the policy allows" in SnpPolicy(allowed).check(found)
    for options, match in (
        ({"values": {"measurement": (bytes(48),)}}, "measurement is"),
        ({"values": {**allowed, "host_data": (b"\1" * 32,)}}, "host_data is"),
        ({"guest_policy": {"smt": False}}, "smt True, not False"),
        ({"minimum_tcb": {"snp": 9}}, "snp 8, the policy"),
        ({"minimum_tcb": {"fmc": 0}}, "fmc absent"),
        ({"minimum_guest_svn": 2}, "security version is 1"),
        ({"products": ("Genoa",)}, "product is Milan-B0"),
    ):
        with pytest.raises(IntegrityError, match=match):
            SnpPolicy(**{"values": allowed, **options}).check(found)
    low = verified(made, made.report(DATA, changes={0x30: struct.pack("<I", 2)}))
    for options in ({}, {"maximum_vmpl": 1}):
        with pytest.raises(IntegrityError, match="VMPL 2"):
            SnpPolicy(allowed, **options).check(low)
    SnpPolicy(allowed, maximum_vmpl=2).check(low)
    old = verified(made, made.report(DATA, changes={0x1F0: bytes(8)}))
    with pytest.raises(IntegrityError, match="launch TCB"):
        SnpPolicy(allowed, minimum_tcb={"snp": 8}).check(old)
