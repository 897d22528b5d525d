"""What the package knows of one algorithm, as frozen, validated data."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from .constructions import Construction, check_reference
from .parameter import Parameter

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_RESOURCE = re.compile(r"[A-Za-z_][\w.]*:[\w][\w./-]*\Z")


class Security(enum.Enum):
    """How far an algorithm can be trusted today."""

    SECURE = "secure"
    LEGACY = "legacy"  # no practical break, but no longer recommended
    BROKEN = "broken"  # collisions or worse are practical
    CHECKSUM = "checksum"  # never meant to resist an adversary


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One hash or MAC. Sizes are in bytes."""

    name: str
    """hashlib's spelling where hashlib has the algorithm."""
    aliases: tuple[str, ...] = ()
    standard: str
    """The document that defines it, with the section."""
    digest_size: int
    block_size: int
    security: Security
    security_note: str
    collision_bits: int
    """log2 of the work of the best known collision search; 0 for broken and checksums."""
    xof: bool = False
    """Output of any length; ``digest_size`` is then the default length, or 0 if there is none."""
    seekable: bool = False
    """Any part of the output can be had without the parts before it."""
    output_limit: int = 1 << 64
    """Bytes of extendable output that there are."""
    parallel: bool = False
    """One long message spreads over a device's lanes (a tree); a sequential hash has one lane."""
    keyed: Literal["no", "optional", "required"] = "no"
    parameters: tuple[Parameter, ...] = ()
    construction: Construction
    native: str | None = None
    """Constructor of a hashlib-like object in a CPU library, ``"module:callable"``; the library may be
    absent. None if there is none."""
    native_one_message: Mapping[str, Any] = field(default_factory=dict)
    """Keywords with which the CPU library spreads a single long message over all cores."""
    oracle: str
    """An independent implementation with the same calling convention, for the tests."""
    answers: str | None = None
    """Where another package has the algorithm's known answers, ``"package:file"``;
    docs/reference/known_answers.md describes the file. None for the built-in algorithms, whose answers come
    with the conformance suite."""
    _by_name: Mapping[str, Parameter] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        label = f"algorithm {self.name!r}"
        if not _NAME.match(self.name):
            raise ValueError(f"{label}: a name is lower-case letters, digits and underscores")
        for alias in self.aliases:
            if alias != alias.lower() or not alias:
                raise ValueError(f"{label}: alias {alias!r} must be lower case (look-ups ignore case)")
        if self.digest_size < (0 if self.xof else 1) or self.block_size < 1:
            raise ValueError(f"{label}: digest_size and block_size must be positive")
        if self.seekable and not self.xof:
            raise ValueError(f"{label}: only extendable output can be seekable")
        self.construction.check(self)
        if self.native is not None:
            check_reference(label, "native", self.native)
        check_reference(label, "oracle", self.oracle)
        if self.answers is not None and not _RESOURCE.match(self.answers):
            raise ValueError(f"{label}: answers must look like 'package:file', not {self.answers!r}")
        object.__setattr__(self, "native_one_message", MappingProxyType(dict(self.native_one_message)))
        by_name = {p.name: p for p in self.parameters}
        if len(by_name) != len(self.parameters):
            raise ValueError(f"{label}: duplicate parameter")
        if (self.keyed != "no") != ("key" in by_name):
            raise ValueError(f"{label}: a keyed algorithm, and only such, has a parameter 'key'")
        object.__setattr__(self, "_by_name", MappingProxyType(by_name))

    @property
    def takes_tuples(self) -> bool:
        """Whether a message is a tuple of byte strings."""
        return self.construction.takes_tuples

    @property
    def required(self) -> tuple[str, ...]:
        """Parameters that have to be given."""
        return tuple(
            p.name for p in self.parameters if p.required or (p.name == "key" and self.keyed == "required")
        )

    def trial_parameters(self) -> dict[str, bytes]:
        """The fewest parameters with which the algorithm runs: keys that are no secret, for trials."""
        sizes = {p.name: p.sizes[-1] if p.sizes else p.min_size or 16 for p in self.parameters}
        return {name: bytes(i % 256 for i in range(sizes[name])) for name in self.required}

    def check_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Validate constructor keywords; None stands for "not given" and is dropped.

        Raises TypeError for a value of the wrong type, ValueError for an unknown keyword, a bad
        size, a missing key, or a combination that the algorithm does not have.
        """
        checked: dict[str, Any] = {}
        for name, value in given.items():
            if value is None:
                continue
            parameter = self._by_name.get(name)
            if parameter is None:
                if name == "key":
                    raise ValueError(f"{self.name} takes no key; for a MAC use a keyed algorithm")
                allowed = ", ".join(self._by_name) or "none"
                raise ValueError(f"{self.name} has no parameter {name!r} (allowed: {allowed})")
            checked[name] = parameter.check(self.name, value)
        for name in checked:
            for other in self._by_name[name].excludes:
                if other in checked:
                    raise ValueError(f"{self.name}: {name} and {other} exclude each other")
        for name in self.required:
            if name not in checked:
                raise ValueError(f"{self.name} needs {'an' if name[0] in 'aeiou' else 'a'} {name}")
        return checked

    def size(self, parameters: Mapping[str, Any]) -> int:
        """Bytes in the digest under ``parameters``, by default where the output is extendable."""
        return int(parameters.get("digest_size", self.digest_size))

    def output_end(self, parameters: Mapping[str, Any]) -> int:
        """Bytes of extendable output that there are; a parameter ``digest_size`` ends it there."""
        return min(self.output_limit, int(parameters.get("digest_size", self.output_limit)))

    def check_length(self, length: int | None, parameters: Mapping[str, Any]) -> int:
        """Digest length in bytes for a requested ``length``; None means the default.

        Raises TypeError or ValueError for a length that cannot be, or where one is needed.
        """
        size = self.size(parameters)
        if length is None:
            if size == 0:
                raise TypeError(f"{self.name} has no default length: give length=, in bytes")
            return size
        if isinstance(length, bool) or not isinstance(length, int):
            raise TypeError(f"length must be int, not {type(length).__name__}")
        if length < 0:
            raise ValueError(f"length must not be negative, got {length}")
        if self.xof and length > self.output_end(parameters):
            raise ValueError(f"{self.name} has {self.output_end(parameters)} bytes of output, not {length}")
        if not self.xof and length != size:
            raise ValueError(f"{self.name} has a fixed digest of {size} bytes, not {length}")
        return length
