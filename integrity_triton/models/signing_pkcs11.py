"""Keys in PKCS #11 tokens, such as smart cards and hardware security modules, named by URIs (RFC 7512).

Needs the ``pkcs11`` extra, which is PyKCS11, as model_signing uses it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ..strict_json import shown
from .regular_files import read_regular
from .signing_keys import curve_hash, signature_algorithm

__all__ = ["TokenKey", "Uri", "parse_uri"]

_LONGEST_URI = 4096
_LONGEST_PIN = 4096
_MODULE_FOLDERS = (
    "/usr/lib64/pkcs11",
    "/usr/lib/pkcs11",
    "/usr/lib/x86_64-linux-gnu/pkcs11",
    "/usr/lib/aarch64-linux-gnu/pkcs11",
    "/usr/lib/softhsm",
)
# The object identifiers of the curves as CKA_EC_PARAMS has them, in DER (RFC 5480, section 2.1.1.1).
_CURVES: dict[bytes, ec.EllipticCurve] = {
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("06052b81040022"): ec.SECP384R1(),
    bytes.fromhex("06052b81040023"): ec.SECP521R1(),
}
_PATH = {"token", "manufacturer", "serial", "model", "object", "id", "type", "slot-id"}
_QUERY = {"module-path", "module-name", "pin-value", "pin-source"}
# Attributes of RFC 7512 that say more about a library or slot than is needed to find a key.
_UNUSED = {"library-manufacturer", "library-description", "library-version"}
_UNUSED |= {"slot-manufacturer", "slot-description"}
_ESCAPED = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&/?|]|%[0-9A-Fa-f]{2})*\Z")


@dataclass(frozen=True)
class Uri:
    """The attributes of a PKCS #11 URI, decoded. Only ``id`` has bytes that need not be text."""

    text: dict[str, str]
    id: bytes | None = None

    def get(self, name: str) -> str | None:
        return self.text.get(name)


def parse_uri(uri: str) -> Uri:
    """Parse a URI of RFC 7512. Raises ValueError, which does not repeat a PIN, if it is malformed or has an
    attribute that is not known."""
    if not uri.startswith("pkcs11:"):
        raise ValueError(f"a PKCS #11 URI begins with 'pkcs11:', unlike {shown(uri[:20])}")
    if len(uri) > _LONGEST_URI:
        raise ValueError(f"a PKCS #11 URI has at most {_LONGEST_URI} characters, not {len(uri)}")
    path, _, query = uri.removeprefix("pkcs11:").partition("?")
    found: dict[str, bytes] = {}
    for part, separator, known in ((path, ";", _PATH | _UNUSED), (query, "&", _QUERY)):
        for attribute in filter(None, part.split(separator)):
            name, equals, value = attribute.partition("=")
            if name not in known or not equals:
                raise ValueError(f"the PKCS #11 URI has an attribute that is not known: {shown(name)}")
            if name in found:
                raise ValueError(f"the PKCS #11 URI has {name} twice")
            if not _ESCAPED.match(value):
                raise ValueError(f"the value of {name} in the PKCS #11 URI must be percent-encoded")
            found[name] = unquote_to_bytes(value)
    if {"pin-value", "pin-source"} <= found.keys():
        raise ValueError("a PKCS #11 URI must not have both pin-value and pin-source")
    if found.get("type", b"private") != b"private":
        raise ValueError("the PKCS #11 URI must name a private key: its type is not 'private'")
    if not {"object", "id"} & found.keys():
        raise ValueError("the PKCS #11 URI must name the key by object (its label) or id")
    identifier = found.pop("id", None)
    try:
        text = {name: value.decode("utf-8") for name, value in found.items()}
    except UnicodeDecodeError:
        raise ValueError("the attributes of a PKCS #11 URI other than id must be UTF-8") from None
    if not re.fullmatch(r"[0-9]{1,9}", text.get("slot-id", "0")):
        raise ValueError("slot-id in the PKCS #11 URI must be a number")
    if not os.path.isabs(text.get("module-path", "/")):
        raise ValueError("module-path in the PKCS #11 URI must be an absolute path")
    return Uri(text, identifier)


class TokenKey:
    """A private key that stays in its token.

    ``uri`` names the token and the key, and with ``module-path`` or ``module-name`` the library of the token.
    The PIN is ``pin``, or comes from ``pin-source`` (a file) or ``pin-value`` of the URI.

    Raises ValueError for a URI that is malformed, if the library, token or key is not there or is not the
    only one that fits, and for a key that OMS does not have; ImportError if PyKCS11 is missing.
    """

    def __init__(self, uri: str, pin: str | None = None) -> None:
        try:
            import PyKCS11
        except ImportError:
            raise ImportError(
                "keys in PKCS #11 tokens need PyKCS11: pip install 'integrity-triton[pkcs11]'"
            ) from None
        self._api = PyKCS11
        self._uri = parse_uri(uri)
        self._pin = _pin(self._uri) if pin is None else pin
        self._library = PyKCS11.PyKCS11Lib()
        path = _module(self._uri)
        try:
            self._library.load(path)
        except PyKCS11.PyKCS11Error as error:
            raise ValueError(f"{path}: not a PKCS #11 library: {error}") from None
        with self._session() as session:
            self._key = self._read_public_key(session, self._find(session, PyKCS11.CKO_PUBLIC_KEY, "public"))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._key

    def sign(self, message: bytes) -> bytes:
        """The signature of a message, in DER. It is verified with the public key before it is returned.

        Raises ValueError if the token does not sign.
        """
        algorithm = signature_algorithm(self._key)
        digest = hashes.Hash(curve_hash(self._key))
        digest.update(message)
        mechanism = self._api.Mechanism(self._api.CKM_ECDSA, None)
        with self._session() as session:
            private = self._find(session, self._api.CKO_PRIVATE_KEY, "private")
            raw = bytes(session.sign(private, digest.finalize(), mechanism))
        half = len(raw) // 2
        numbers = int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
        signature = encode_dss_signature(*numbers)
        try:
            self._key.verify(signature, message, algorithm)
        except InvalidSignature:
            raise ValueError(
                "the private key in the PKCS #11 token does not belong to the public key"
            ) from None
        return signature

    @contextmanager
    def _session(self) -> Iterator[Any]:
        try:
            session = self._library.openSession(self._slot())
            try:
                if self._pin is not None:
                    try:
                        session.login(self._pin)
                    except self._api.PyKCS11Error as error:
                        if error.value != self._api.CKR_USER_ALREADY_LOGGED_IN:
                            raise
                yield session
            finally:
                session.closeSession()
        except self._api.PyKCS11Error as error:
            missing = "; give its PIN" if error.value == self._api.CKR_USER_NOT_LOGGED_IN else ""
            raise ValueError(f"the PKCS #11 token refuses: {error}{missing}") from None

    def _slot(self) -> int:
        wanted = {name: self._uri.get(name) for name in ("token", "serial", "model", "manufacturer")}
        number = self._uri.get("slot-id")
        fitting = []
        for slot in self._library.getSlotList(tokenPresent=True):
            token = self._library.getTokenInfo(slot)
            has = {
                "token": token.label,
                "serial": token.serialNumber,
                "model": token.model,
                "manufacturer": token.manufacturerID,
            }
            same = all(value is None or value == has[name].strip(" \0") for name, value in wanted.items())
            if same and (number is None or int(number) == slot):
                fitting.append(int(slot))
        only: int = self._only(fitting, "a token")
        return only

    def _find(self, session: Any, kind: int, what: str) -> Any:
        template = [(self._api.CKA_CLASS, kind), (self._api.CKA_KEY_TYPE, self._api.CKK_EC)]
        if (label := self._uri.get("object")) is not None:
            template.append((self._api.CKA_LABEL, label))
        if self._uri.id is not None:
            template.append((self._api.CKA_ID, tuple(self._uri.id)))
        login = "" if self._pin is not None else " (no PIN was given)"
        return self._only(session.findObjects(template), f"an elliptic-curve {what} key{login}")

    @staticmethod
    def _only(found: Iterable[Any], what: str) -> Any:
        listed = list(found)
        if len(listed) != 1:
            number = "no such one" if not listed else f"{len(listed)} of them"
            raise ValueError(f"the PKCS #11 URI must name {what}; there is {number}")
        return listed[0]

    def _read_public_key(self, session: Any, public: Any) -> ec.EllipticCurvePublicKey:
        attributes = [self._api.CKA_EC_PARAMS, self._api.CKA_EC_POINT]
        parameters, point = map(bytes, session.getAttributeValue(public, attributes))
        curve = _CURVES.get(parameters)
        if curve is None:
            raise ValueError("the key in the PKCS #11 token must be on P-256, P-384 or P-521")
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(curve, _octets(point))
        except ValueError as error:
            raise ValueError(f"the PKCS #11 token has a malformed public key: {error}") from None


def _octets(der: bytes) -> bytes:
    """The content of an OCTET STRING in DER of less than 64 KiB."""
    if len(der) < 2 or der[0] != 0x04:
        raise ValueError("its point is not an OCTET STRING")
    extra = der[1] & 0x7F if der[1] & 0x80 else 0
    size = int.from_bytes(der[2 : 2 + extra], "big") if extra else der[1]
    if extra > 2 or len(der) != 2 + extra + size:
        raise ValueError("its point has a wrong length")
    return der[2 + extra :]


def _module(uri: Uri) -> str:
    path, name = uri.get("module-path"), uri.get("module-name")
    if path is not None:
        return path
    if name is None:
        raise ValueError("the PKCS #11 URI must name the token's library: module-path or module-name")
    if os.path.basename(name) != name or not name:
        raise ValueError(f"module-name in the PKCS #11 URI must be a name, not the path {shown(name)}")
    files = [f"{folder}/{stem}.so" for folder in _MODULE_FOLDERS for stem in (name, f"lib{name}")]
    found = next((file for file in files if os.path.isfile(file)), None)
    if found is None:
        raise ValueError(
            f"no PKCS #11 library {shown(name)} in {', '.join(_MODULE_FOLDERS)}; use module-path"
        )
    return found


def _pin(uri: Uri) -> str | None:
    source = uri.get("pin-source")
    if source is None:
        return uri.get("pin-value")
    path = source.removeprefix("file://").removeprefix("file:")
    if not os.path.isabs(path):
        raise ValueError("pin-source in the PKCS #11 URI must be an absolute path, or file: and one")
    try:
        return read_regular(path, _LONGEST_PIN, "a PIN").decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: the PIN is not UTF-8") from None
