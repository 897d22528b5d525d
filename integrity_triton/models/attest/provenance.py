"""Digests in provenance manifests of the Coalition for Content Provenance and Authenticity (C2PA), as Atlas
writes them, compared with weights.

Atlas (https://github.com/IntelLabs/atlas-cli, ``src/manifest/common.rs``) puts an ingredient for each file
into the claim of a manifest: ``title``, and ``data`` with ``alg`` and ``hash`` in hexadecimal
(https://github.com/IntelLabs/atlas-c2pa-lib, ``src/ingredient.rs``). The hash is that of the whole file:
SHA-384 by default, or SHA-256 or SHA-512 (``src/hash/mod.rs``).

Only hashes are checked here. The signature of a manifest is for the tool that made it to verify.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import IntegrityError
from ...files import hash_file
from ...strict_json import check_members, parse_object, shown
from ..regular_files import read_regular
from .errors import AttestationError

MAX_SIZE = 64 << 20
_DIGEST_SIZES = {"sha256": 32, "sha384": 48, "sha512": 64}
_HEX = re.compile(r"[0-9a-fA-F]+", re.ASCII)

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Ingredient:
    """A file that a manifest names."""

    title: str
    url: str
    """Where the file was when the manifest was made. It only informs."""
    algorithm: str
    digest: bytes


def read_ingredients(data: str | bytes) -> tuple[Ingredient, ...]:
    """The ingredients of a manifest in JSON: those of its claims and of the manifest itself.

    Raises AttestationError for anything that is not such a manifest, for one without ingredients, for a
    digest of another algorithm than SHA-256, SHA-384 and SHA-512 or of another length than it has, and for
    two ingredients of one title that differ.
    """
    if len(data) > MAX_SIZE:
        raise AttestationError(f"a provenance manifest has at most {MAX_SIZE} bytes")
    try:
        members = parse_object(data, floats=True)
    except ValueError as error:
        raise AttestationError(f"not a provenance manifest: {error}") from None
    found: dict[str, Ingredient] = {}
    for parent in (members, members.get("claim"), members.get("claim_v2")):
        if parent is None:
            continue
        values = parent.get("ingredients", []) if isinstance(parent, dict) else None
        if not isinstance(values, list):
            raise AttestationError("not a provenance manifest: 'ingredients' must be a list")
        for value in values:
            ingredient = _ingredient(value)
            if found.setdefault(ingredient.title, ingredient) != ingredient:
                raise AttestationError(f"the ingredient {shown(ingredient.title)} is stated in two ways")
    if not found:
        raise AttestationError("the provenance manifest has no ingredients")
    return tuple(found.values())


def load_ingredients(path: PathLike) -> tuple[Ingredient, ...]:
    """Raises as :func:`read_ingredients` does, and names the file; OSError if it cannot be read."""
    try:
        return read_ingredients(read_regular(path, MAX_SIZE, "a provenance manifest"))
    except AttestationError as error:
        raise AttestationError(f"{os.fspath(path)}: {error}") from None


def verify_files(
    ingredients: Iterable[Ingredient], files: Mapping[str, PathLike], *, backend: str | None = None
) -> tuple[str, ...]:
    """Compare files with ingredients, and return the titles that were compared.

    ``files`` maps the titles of ingredients to paths: all of them, or those that are here. ``backend`` is as
    for :func:`integrity_triton.hash_file`.

    Raises IntegrityError, which names them, for files that differ, ValueError for a title that no ingredient
    has or if there is nothing to compare, and OSError for a file that cannot be read.
    """
    listed = {ingredient.title: ingredient for ingredient in ingredients}
    _check_titles(listed, files)
    digests = {
        title: hash_file(path, listed[title].algorithm, backend=backend) for title, path in files.items()
    }
    return verify_digests(listed.values(), digests)


def verify_digests(ingredients: Iterable[Ingredient], digests: Mapping[str, bytes]) -> tuple[str, ...]:
    """Compare digests that were computed elsewhere, for example of a file's bytes on a device with
    :func:`integrity_triton.hash_batch`. Otherwise as :func:`verify_files`."""
    listed = {ingredient.title: ingredient for ingredient in ingredients}
    _check_titles(listed, digests)
    wrong = [t for t, digest in digests.items() if not hmac.compare_digest(digest, listed[t].digest)]
    if wrong:
        names = ", ".join(map(shown, wrong))
        raise IntegrityError(f"not what the provenance manifest states: {names}")
    return tuple(digests)


def _check_titles(listed: Mapping[str, Ingredient], given: Mapping[str, Any]) -> None:
    if not given:
        raise ValueError("there is nothing to compare with the provenance manifest")
    for title in given:
        if title not in listed:
            raise ValueError(f"no ingredient has the title {shown(title)}; there are {_names(listed)}")


def _names(listed: Mapping[str, Any]) -> str:
    names = [shown(title) for title in listed]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _ingredient(value: Any) -> Ingredient:
    if not isinstance(value, dict) or not isinstance(value.get("data"), dict):
        raise AttestationError("an ingredient must be an object with 'data'")
    data = value["data"]
    try:
        check_members({"title": value.get("title")}, {"title": str})
        stated = {name: data.get(name) for name in ("url", "alg", "hash")}
        check_members(stated, dict.fromkeys(stated, str))
    except ValueError as error:
        raise AttestationError(f"an ingredient: {error}") from None
    title, algorithm, digest = value["title"], data["alg"], data["hash"]
    if algorithm not in _DIGEST_SIZES:
        raise AttestationError(
            f"the ingredient {shown(title)} has a digest of {shown(algorithm)}; supported are "
            f"{', '.join(_DIGEST_SIZES)}"
        )
    if not _HEX.fullmatch(digest) or len(digest) != 2 * _DIGEST_SIZES[algorithm]:
        raise AttestationError(f"the ingredient {shown(title)} has no {algorithm} digest in hexadecimal")
    return Ingredient(title, data["url"], algorithm, bytes.fromhex(digest))
