"""Who verifies what: every form of a signature, signed and verified by this package and by model_signing.

python tests/models/oms_table.py --write      # writes the table in docs/guide/signing.md
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from itertools import groupby, product
from pathlib import Path

from certificates import issue, write
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "signing.md"
BEGIN, END = "<!-- cross table: begin -->\n", "<!-- cross table: end -->\n"
SHARD = 1000
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
KINDS = [*CURVES, *(f"{curve}, certificate" for curve in CURVES)]
SIGNERS = ["ours", "ours, for stock", "stock"]
HEAD = (
    "| method | hash | signer | keys | ours verifies | stock verifies | stock, told the hashing |\n"
    "| --- | --- | --- | --- | --- | --- | --- |\n"
)


def model(folder: Path) -> Path:
    """A model in which the order of names as text is neither that of paths nor that of shards' numbers."""
    files = {
        "weights.bin": bytes(range(256)) * 45,
        "a/b": b"x" * 2500,
        "a.txt": b"text",
        "config.json": b"{}",
    }
    for name, data in files.items():
        path = folder / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / "model"


def stock_hashing(method: str, algorithm: str):
    import model_signing

    names = {"blake2b": "blake2"}
    config = model_signing.hashing.Config()
    if method == "files":
        return config.use_file_serialization(hashing_algorithm=names.get(algorithm, algorithm))
    return config.use_shard_serialization(hashing_algorithm=names.get(algorithm, algorithm), shard_size=SHARD)


class Keys:
    """The files of a key of one kind, and how both packages are told of them."""

    def __init__(self, folder: Path, kind: str) -> None:
        import model_signing

        from integrity_triton.models import oms

        curve, _, certified = kind.partition(", ")
        key = ec.generate_private_key(CURVES[curve])
        anchor = issue("root", ca=True)
        leaf = issue("signer", anchor, key=key)
        folder.mkdir()
        paths = write(folder, leaf=leaf, root=anchor)
        public = folder / "key.pub"
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, spki))
        private = folder / "leaf.key"
        self._signing, self._verifying = model_signing.signing, model_signing.verifying
        self._oms, self._certified, self._paths = oms, bool(certified), paths
        self._private, self._public = private, public

    def ours_sign(self, model: Path, signature: Path, **form: object) -> None:
        certificate = self._paths["leaf"] if self._certified else None
        self._oms.sign(model, signature, private_key=self._private, certificate=certificate, **form)

    def ours_verify(self, model: Path, signature: Path) -> None:
        if self._certified:
            self._oms.verify(model, signature, certificate_chain=[self._paths["root"]])
        else:
            self._oms.verify(model, signature, public_key=self._public)

    def stock_sign(self, model: Path, signature: Path, hashing: object) -> None:
        config = self._signing.Config()
        if self._certified:
            config.use_certificate_signer(
                private_key=self._private,
                signing_certificate=self._paths["leaf"],
                certificate_chain=[self._paths["root"]],
            )
        else:
            config.use_elliptic_key_signer(private_key=self._private)
        config.set_hashing_config(hashing).sign(model, signature)

    def stock_verify(self, model: Path, signature: Path, hashing: object | None = None) -> None:
        config = self._verifying.Config()
        if self._certified:
            config.use_certificate_verifier(certificate_chain=[self._paths["root"]])
        else:
            config.use_elliptic_key_verifier(public_key=self._public)
        if hashing is not None:
            config.set_hashing_config(hashing)
        config.verify(model, signature)


def works(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except Exception:  # what model_signing raises for what it does not support is of many types
        return "no"
    return "yes"


def rows() -> list[tuple[str, ...]]:
    """One row for each method, hash, signer and kind of key."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target, signature = model(folder), folder / "model.sig"
        keys = {kind: Keys(folder / str(number), kind) for number, kind in enumerate(KINDS)}
        for method, algorithm, signer, kind in product(
            ("files", "shards"), ("sha256", "blake2b", "blake3"), SIGNERS, KINDS
        ):
            key = keys[kind]
            signature.unlink(missing_ok=True)
            if signer == "stock":
                key.stock_sign(target, signature, stock_hashing(method, algorithm))
            else:
                size = SHARD if method == "shards" else None
                form = {"method": method, "algorithm": algorithm, "shard_size": size}
                key.ours_sign(target, signature, **form, for_stock=signer != "ours")
            results = (
                works(lambda key=key: key.ours_verify(target, signature)),
                works(lambda key=key: key.stock_verify(target, signature)),
                works(
                    lambda key=key, form=(method, algorithm): key.stock_verify(
                        target, signature, stock_hashing(*form)
                    )
                ),
            )
            found.append((method, algorithm, signer, kind, *results))
    return found


def table() -> str:
    """The table in Markdown. Kinds of keys with the same results share a row."""
    text = f"Made with model_signing {version('model-signing')}.\n\n" + HEAD
    ordered = rows()
    for form, group in groupby(ordered, lambda row: row[:3]):
        results: dict[tuple[str, ...], list[str]] = {}
        for row in group:
            results.setdefault(row[4:], []).append(row[3])
        for outcome, kinds in results.items():
            listed = "all six" if kinds == KINDS else "; ".join(kinds)
            text += f"| {' | '.join((*form, listed, *outcome))} |\n"
    return text


if __name__ == "__main__":
    made = table()
    if "--write" in sys.argv[1:]:
        page = PAGE.read_text()
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(before + BEGIN + made + END + rest.partition(END)[2])
    else:
        print(made)
