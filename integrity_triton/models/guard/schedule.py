"""How much a guard checks at once, and how long it waits afterwards. Nothing here reads a clock or memory.

``docs/guide/guard.md`` has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass

AIM = 0.8
"""The share of a stated period after which a pass is meant to be complete. The rest is for a busy machine."""
LATE = 2.0
"""A period that was not stated is this many times what a pass is expected to take."""
LEAST_PASS = 0.5
"""Seconds. A pass over a small model does not begin earlier after the one before, unless the period is
shorter."""
SLICE_SECONDS = 0.002
MOST_SLICE = 256 << 20


@dataclass(frozen=True)
class Schedule:
    """The pace of a guard.

    ``nbytes`` is the size of the model and ``rate`` the bytes a second at which it is checked. ``budget`` is
    a share of time; ``stated`` is the period that the caller asked for, or None. ``fixed`` are the seconds
    that a pass takes besides, to look at where all tensors are.
    """

    nbytes: int
    rate: float
    budget: float
    stated: float | None
    fixed: float = 0.0

    @property
    def busy(self) -> float:
        """Seconds of work in a pass."""
        return self.nbytes / self.rate + self.fixed

    @property
    def aim(self) -> float:
        """Seconds from the beginning of one pass to that of the next one."""
        if self.stated is not None:
            return AIM * self.stated
        return max(LEAST_PASS, self.busy / self.budget)

    @property
    def period(self) -> float:
        """Seconds within which every byte is checked again."""
        return self.stated if self.stated is not None else LATE * self.aim

    @property
    def share(self) -> float:
        """The share of time for which the guard is busy."""
        return self.busy / self.aim

    @property
    def conflict(self) -> str | None:
        """Why the budget cannot be kept together with the stated period, with the numbers; None if it can."""
        if self.stated is None or self.share <= self.budget:
            return None
        return (
            f"checking {self.nbytes} bytes every {self.stated:g} s at the measured {self.rate / 1e9:.3g} "
            f"GB/s takes {self.share:.2%} of the time, more than the budget of {self.budget:.2%}; the period "
            "is kept and the budget is not; within the budget, a period of "
            f"{self.busy / self.budget / AIM:.3g} s is possible"
        )

    def check_possible(self) -> None:
        """Raise ValueError if the stated period is shorter than a pass that never waits."""
        if self.stated is not None and self.share > 1:
            raise ValueError(
                f"period is {self.stated:g} s, but checking {self.nbytes} bytes at the measured "
                f"{self.rate / 1e9:.3g} GB/s takes {self.busy:.3g} s; state at least {self.busy / AIM:.3g} s"
            )

    @property
    def slice_size(self) -> int:
        """Bytes that are checked without a pause. They are few enough that other work hardly waits."""
        return int(min(MOST_SLICE, max(1.0, self.rate * SLICE_SECONDS)))

    def wait(self, *, done: int, busy: float, since: float) -> float:
        """Seconds to wait after a slice.

        ``done`` bytes of this pass are checked, the slice took ``busy`` seconds, and the pass began ``since``
        seconds ago. A stated period is kept even if the guard has to go on without waiting. Without one, the
        wait keeps the budget whatever the slice took.
        """
        due = self.aim * done / self.nbytes - since if self.nbytes else self.aim - since
        if self.stated is not None:
            return max(0.0, due)
        return max(due, busy * (1 / self.budget - 1))
