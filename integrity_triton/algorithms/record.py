"""A record holds all that the package knows about one algorithm, as frozen, validated data."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from .constructions import Construction, check_reference
from .parameter import Parameter

LEAST_COLLISION_BITS = 112
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_RESOURCE = re.compile(r"[A-Za-z_][\w.]*:[\w][\w./-]*\Z")


class Security(enum.Enum):
    """The grades say how far an algorithm can be trusted today."""

    SECURE = "secure"
    LEGACY = "legacy"  # No practical attack is known, but the algorithm is no longer recommended.
    BROKEN = "broken"  # Collisions or worse attacks are practical.
    CHECKSUM = "checksum"  # The algorithm was never meant to resist an adversary.


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A record describes one hash, MAC or checksum. All sizes are in bytes."""

    name: str
    """The name is spelled as in hashlib if hashlib has the algorithm."""
    aliases: tuple[str, ...] = ()
    standard: str
    """Names the document that defines the algorithm, with the section."""
    digest_size: int
    block_size: int
    security: Security
    security_note: str
    collision_bits: int
    """The base-2 logarithm of the work of the best known collision search; it is 0 for broken algorithms and
    for checksums."""
    xof: bool = False
    """Whether the output can have any length. ``digest_size`` is then the default length, or 0 if the
    algorithm has no default."""
    seekable: bool = False
    """Whether any part of the output can be computed without the parts before it."""
    output_limit: int = 1 << 64
    """The largest number of bytes of extendable output."""
    parallel: bool = False
    """Whether many lanes of a device can share one long message, as in a tree. A sequential hash uses one
    lane for each message."""
    keyed: Literal["no", "optional", "required"] = "no"
    parameters: tuple[Parameter, ...] = ()
    construction: Construction
    native: str | None = None
    """Names the constructor of a hashlib-like object in a CPU library, as ``"module:callable"``. The library
    need not be installed. It is None if no library has the algorithm."""
    native_one_message: Mapping[str, Any] = field(default_factory=dict)
    """The keyword arguments that make the CPU library use all cores for a single long message."""
    oracle: str
    """Names an independent implementation with the same calling convention, which the tests compare with."""
    answers: str | None = None
    """Says where another package keeps the algorithm's known answers, as ``"package:file"``;
    docs/reference/known_answers.md describes the file. It is None for the built-in algorithms, whose answers
    belong to this package."""
    _by_name: Mapping[str, Parameter] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        label = f"algorithm {self.name!r}"
        if not _NAME.match(self.name):
            raise ValueError(f"{label}: a name must consist of lower-case letters, digits and underscores")
        for alias in self.aliases:
            if alias != alias.lower() or not alias:
                raise ValueError(f"{label}: alias {alias!r} must be lower case (look-ups ignore case)")
        if self.digest_size < (0 if self.xof else 1) or self.block_size < 1:
            raise ValueError(f"{label}: digest_size and block_size must be positive")
        if self.seekable and not self.xof:
            raise ValueError(f"{label}: only an algorithm with extendable output can be seekable")
        self.construction.check(self)
        if self.native is not None:
            check_reference(label, "native", self.native)
        check_reference(label, "oracle", self.oracle)
        if self.answers is not None and not _RESOURCE.match(self.answers):
            raise ValueError(f"{label}: answers must look like 'package:file', not {self.answers!r}")
        object.__setattr__(self, "native_one_message", MappingProxyType(dict(self.native_one_message)))
        by_name = {p.name: p for p in self.parameters}
        if len(by_name) != len(self.parameters):
            raise ValueError(f"{label}: there is a duplicate parameter")
        if (self.keyed != "no") != ("key" in by_name):
            raise ValueError(
                f"{label}: a keyed algorithm must have a parameter 'key', and no other algorithm may have one"
            )
        object.__setattr__(self, "_by_name", MappingProxyType(by_name))

    @property
    def collision_resistant(self) -> bool:
        """Whether nobody can find two messages with the same digest. Less than 112 bits of work do not count
        (SP 800-57 part 1, section 5.6.1.1)."""
        return self.security is Security.SECURE and self.collision_bits >= LEAST_COLLISION_BITS

    @property
    def takes_tuples(self) -> bool:
        """Whether a message is a tuple of byte strings."""
        return self.construction.takes_tuples

    @property
    def required(self) -> tuple[str, ...]:
        """The names of the parameters that must be given."""
        return tuple(
            p.name for p in self.parameters if p.required or (p.name == "key" and self.keyed == "required")
        )

    def trial_parameters(self) -> dict[str, bytes]:
        """Return values for the required parameters only, for trials. The keys among them are not secret."""
        sizes = {p.name: p.sizes[-1] if p.sizes else p.min_size or 16 for p in self.parameters}
        return {name: bytes(i % 256 for i in range(sizes[name])) for name in self.required}

    def check_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constructor's keywords after validation. A value of None means "not given" and is left
        out.

        Raises TypeError for a value of the wrong type, and ValueError for an unknown keyword, a value or
        size that is not allowed, a missing parameter, or parameters that exclude each other.
        """
        checked: dict[str, Any] = {}
        for name, value in given.items():
            if value is None:
                continue
            parameter = self._by_name.get(name)
            if parameter is None:
                if name == "key":
                    raise ValueError(f"{self.name} takes no key; use a keyed algorithm for a MAC")
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
        """Return the number of bytes in the digest under ``parameters``. If the output is extendable, this is
        the default length."""
        return int(parameters.get("digest_size", self.digest_size))

    def output_end(self, parameters: Mapping[str, Any]) -> int:
        """Return the largest number of bytes of extendable output. A parameter ``digest_size`` limits it."""
        return min(self.output_limit, int(parameters.get("digest_size", self.output_limit)))

    def check_length(self, length: int | None, parameters: Mapping[str, Any]) -> int:
        """Return the digest's length in bytes for a requested ``length``; None means the default.

        Raises TypeError for a length that is not an int, or if no length is given and the algorithm has no
        default, and ValueError for a length that the algorithm does not offer.
        """
        size = self.size(parameters)
        if length is None:
            if size == 0:
                raise TypeError(f"{self.name} has no default length; pass length= in bytes")
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
