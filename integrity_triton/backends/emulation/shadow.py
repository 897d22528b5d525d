"""What is remembered of each byte of memory to find races: who wrote it last, and who has read it since."""

from __future__ import annotations

from typing import Any

import numpy as np

from .faults import Race
from .stamps import ATOMIC, NOBODY, Array, of_several, unordered


class Shadow:
    """The accesses to ``size`` bytes. Places are int64 indices ``[n, width]`` of the bytes of ``n`` accesses,
    and stamps are ``[n]``."""

    def __init__(self, size: int) -> None:
        self.writer = np.full(size, NOBODY, np.int64)
        self._reader = np.full(size, NOBODY, np.int64)
        self._write_site = np.zeros(size, np.int32)
        self._read_site = np.zeros(size, np.int32)
        self._sites: list[Any] = []
        self._numbers: dict[int, int] = {}

    def loaded(self, places: Array, stamp: Array, what: Any) -> None:
        """Note loads. Raises Race if one reads what an unordered access has written."""
        by = np.broadcast_to(stamp[:, None], places.shape)
        self.check_load(places, by, what)
        seen = self._reader[places]
        others = (seen >= 0) & (seen != by)
        others[others] = unordered(seen[others], by[others])
        mine = np.where(others & ((seen ^ by) >> 36 == 0), of_several(by), by)
        self._reader[places] = mine
        together = self._reader[places] != mine  # several warps read the same place in this instruction
        if together.any():
            self._reader[places[together]] = of_several(by[together])
        self._read_site[places] = self._site(what)

    def check_load(self, places: Array, by: Array, what: Any) -> None:
        """Raise Race if a load with the stamps ``by`` reads what an unordered access has written."""
        wrote = self.writer[places]
        bad = wrote >= 0
        if bad.any():
            bad[bad] = unordered(wrote[bad], by[bad])
            if bad.any():
                other = self._sites[int(self._write_site[places[bad][0]])]
                raise Race(f"{what} reads what {other} writes, and no barrier orders the two")

    def stored(self, places: Array, stamp: Array, changed: Array, what: Any) -> None:
        """Note stores. ``changed`` says for each byte whether its value is another than before. Raises Race
        if a store replaces what an unordered access has written or read."""
        by = np.broadcast_to(stamp[:, None], places.shape)
        wrote, seen = self.writer[places], self._reader[places]
        for before, sites, verb in (
            (wrote, self._write_site, "writes"),
            (seen, self._read_site, "reads"),
        ):
            bad = (before >= 0) & changed
            if bad.any():
                bad[bad] = unordered(before[bad], by[bad])
                if bad.any():
                    other = self._sites[int(sites[places[bad][0]])]
                    raise Race(f"{what} writes what {other} {verb}, and no barrier orders the two")
        self.writer[places] = by
        self._write_site[places] = self._site(what)

    def atomic(self, places: Array, what: Any) -> None:
        """Note atomic operations, which are ordered among themselves."""
        self.writer[places] = ATOMIC
        self._write_site[places] = self._site(what)

    def _site(self, what: Any) -> int:
        number = self._numbers.get(id(what))
        if number is None:
            number = self._numbers[id(what)] = len(self._sites)
            self._sites.append(what)  # this keeps the object, and so its id, alive
        return number
