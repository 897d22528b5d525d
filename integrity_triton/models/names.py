"""Which tensors of a model are compared with a manifest, and under which names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from .entry import check_name
from .errors import ManifestError, shown

Rename = Mapping[str, str] | Callable[[str], str]


@dataclass(frozen=True)
class Names:
    """The choice that a caller makes for a verification; by default all names as they are.

    ``ignore`` holds names and patterns of :mod:`fnmatch`. ``rename`` gives the manifest's name for a name of
    the model. It is a function, or a mapping: each key is replaced by its value wherever it stands in a name
    as one or several whole parts. Parts are separated by dots and slashes. An empty key stands for
    the beginning of the name, where its value is put.
    """

    ignore: tuple[str, ...] = ()
    rename: Callable[[str], str] = field(default=lambda name: name)

    @classmethod
    def of(cls, ignore: str | Iterable[str], rename: Rename | None) -> Names:
        """Raises TypeError for an argument of another type."""
        patterns = (ignore,) if isinstance(ignore, str) else tuple(ignore)
        if not all(isinstance(pattern, str) for pattern in patterns):
            raise TypeError("ignore must be a sequence of names or patterns, which are str")
        if rename is None:
            return cls(patterns)
        if isinstance(rename, Mapping):
            return cls(patterns, _replacing(rename))
        if not callable(rename):
            raise TypeError(f"rename must be a mapping or a function, not {type(rename).__name__}")
        return cls(patterns, rename)

    def ignores(self, name: str) -> bool:
        """Whether a tensor that the manifest calls ``name`` is left out."""
        return any(name == pattern or fnmatchcase(name, pattern) for pattern in self.ignore)

    def select(self, names: Iterable[str]) -> tuple[dict[str, str], set[str]]:
        """The manifest's names of those of a model's tensors that are compared, by the model's names; and the
        manifest's names of the others.

        Raises ManifestError for two names that become one, and TypeError for a name that is not a str.
        """
        compared: dict[str, str] = {}
        ignored = set()
        origins: dict[str, str] = {}
        for name in names:
            check_name(name)
            renamed = self.rename(name)
            check_name(renamed)
            if self.ignores(renamed):
                ignored.add(renamed)
                continue
            if renamed in origins:
                raise ManifestError(
                    f"tensors {shown(origins[renamed])} and {shown(name)} are both renamed to "
                    f"{shown(renamed)}"
                )
            origins[renamed] = name
            compared[name] = renamed
        return compared, ignored


def _replacing(parts: Mapping[str, str]) -> Callable[[str], str]:
    for old, new in parts.items():
        if not isinstance(old, str) or not isinstance(new, str):
            raise TypeError("rename must map parts of names, which are str, to their replacements")
    beginning = parts.get("", "")
    keys = sorted((re.escape(key) for key in parts if key), key=len, reverse=True)
    if not keys:
        return lambda name: beginning + name
    # Each match begins and ends where a part does. A key may end with the separator itself.
    pattern = re.compile(rf"(?:\A|(?<=[./]))(?:{'|'.join(keys)})(?:(?<=[./])|(?=[./])|\Z)")
    return lambda name: beginning + pattern.sub(lambda match: parts[match[0]], name)
