"""Signatures that were made with Sigstore, verified offline against a trusted root that the caller gives.

The package ``sigstore``, which ``model_signing`` needs as well, verifies the certificate, its transparency
log entry and its time. No network is used: the trusted root is a file, and nothing is looked up.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import IntegrityError
from ..strict_json import StrictJsonError, parse_object, shown
from .dsse import IN_TOTO
from .oms_bundle import Bundle, SignatureFormatError
from .regular_files import read_regular

if TYPE_CHECKING:
    from sigstore.models import TrustedRoot

PathLike = str | os.PathLike[str]

MAX_TRUSTED_ROOT_SIZE = 4 << 20
"""Bytes. That of Sigstore's public instance has less than 10 KiB."""

_TRUSTED_ROOT = "application/vnd.dev.sigstore.trustedroot"
_CLIENT_TRUST_CONFIG = "application/vnd.dev.sigstore.clienttrustconfig"


class SigstoreVerifier:
    """Trusts one identity, as one identity provider vouched for it, under one trusted root.

    ``trusted_root`` is a file of JSON: a trusted root, or a client's trust configuration, which has one.

    Raises ValueError for a file that is neither, or if the identity or its provider is empty; OSError if the
    file cannot be read; and ImportError if the package ``sigstore`` is missing.
    """

    def __init__(self, trusted_root: PathLike, identity: str, identity_provider: str) -> None:
        if not identity or not identity_provider:
            raise ValueError("a Sigstore signature needs the signer's identity and its identity provider")
        from sigstore.verify import Verifier, policy

        self._verifier = Verifier(trusted_root=_load_trusted_root(trusted_root))
        self._policy = policy.Identity(identity=identity, issuer=identity_provider)

    def verify(self, bundle: Bundle) -> None:
        if bundle.method != "sigstore":
            kind = "key" if bundle.method == "key" else "certificate"
            raise SignatureFormatError(f"signed with a {kind}, not with Sigstore")
        from sigstore.errors import Error
        from sigstore.models import Bundle as SigstoreBundle

        try:
            parsed = SigstoreBundle.from_json(bundle.data)
        except Exception as error:  # those of sigstore, and those of the parsers of what is in the bundle
            raise SignatureFormatError(f"not a Sigstore bundle: {_line(error)}") from None
        try:
            kind, payload = self._verifier.verify_dsse(parsed, self._policy)
        except Error as error:
            raise IntegrityError(f"the Sigstore signature is not trusted: {_line(error)}") from None
        except Exception as error:  # of a parser that sigstore calls, at something malformed in the bundle
            raise IntegrityError(
                f"the Sigstore signature cannot be verified: {type(error).__name__}: {_line(error)}"
            ) from None
        # The library takes more spellings of a bundle's members than are read here.
        if kind != IN_TOTO:
            raise IntegrityError(f"what was signed is {shown(kind)}, not {IN_TOTO}")
        if payload != bundle.payload:
            raise IntegrityError("the signed payload is not the one that was read from the bundle")


def _load_trusted_root(path: PathLike) -> TrustedRoot:
    from sigstore.models import ClientTrustConfig, TrustedRoot

    data = read_regular(path, MAX_TRUSTED_ROOT_SIZE, "a trusted root")
    where = os.fspath(path)
    try:
        media_type = parse_object(data, floats=True).get("mediaType")
    except StrictJsonError as error:
        raise ValueError(f"{where}: not a trusted root of Sigstore: {error}") from None
    try:
        if isinstance(media_type, str) and media_type.startswith(_CLIENT_TRUST_CONFIG):
            return ClientTrustConfig.from_json(data.decode()).trusted_root
        if isinstance(media_type, str) and media_type.startswith(_TRUSTED_ROOT):
            return TrustedRoot.from_file(where)
    except Exception as error:  # those of sigstore, and those of the parsers of what is in the file
        raise ValueError(f"{where}: not a trusted root of Sigstore: {_line(error)}") from None
    raise ValueError(f"{where}: not a trusted root of Sigstore: its mediaType is {shown(str(media_type))}")


def _line(error: Exception) -> str:
    """The first line of an error's text, which can be long and have parts of the bundle in it."""
    return shown(str(error).strip().split("\n", 1)[0])
