"""Which threads run next: those at the lowest program counter, so that threads that took different ways come
together again, and warps of a program in an order that a seed determines, where only barriers order them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .faults import Deadlock
from .stamps import Array, stamps

DONE = 1 << 30
"""The program counter of a unit that has ended."""
LIMIT = 10_000_000
"""The most blocks that a scheduler executes, which takes about ten minutes."""
Step = Callable[[int, Array | None], tuple[int, Array | None, int]]
"""Executes the block at a program counter for the units in a mask; None stands for all. It returns a program
counter, the units that go there, or None for all, and the program counter of the others."""


class Scheduler:
    """Runs several programs side by side. A program has ``units``, threads or whole warps; ``width`` units
    make a warp."""

    def __init__(
        self,
        programs: int,
        units: int,
        width: int,
        *,
        seed: int = 0,
        reorder: int = 0,
        first_program: int = 0,
    ) -> None:
        """If ``reorder`` is not 0, groups of so many units run in a random order between barriers: some of
        them, which ``seed`` chooses anew after each barrier, run up to the next one before the others start.
        A group is one or more warps."""
        self._programs, self._units = programs, units
        self._generator = np.random.default_rng(seed)
        self._reorder = 0 < reorder < units
        lane = np.arange(programs * units)
        self._program = lane // units
        """The program of each unit, from 0."""
        self._warp = lane % units // width
        self._group = lane % units // max(1, reorder)
        self._numbers = self._program + first_program
        self.epoch = np.zeros(programs, np.int64)
        self.stamp = stamps(self._numbers, self._warp, 0)
        """The stamp of each unit's accesses."""
        self.counter: Array = np.zeros(programs * units, np.int64)
        self._waiting = np.zeros(programs * units, np.bool_)
        self._late = np.zeros(programs * units, np.bool_)
        if self._reorder:
            self._draw(np.ones(programs, np.bool_))

    def _draw(self, programs: Array) -> None:
        groups = int(self._group.max()) + 1
        late = self._generator.integers(0, 2, (self._programs, groups)).astype(np.bool_)
        drawn = late[self._program, self._group]
        chosen = programs[self._program]
        self._late[chosen] = drawn[chosen]

    def barrier(self, mask: Array | None) -> None:
        """Let the units in the mask wait, after the block that they execute, until all units of their program
        have come here or have ended."""
        if mask is None:
            self._waiting[:] = True
        else:
            self._waiting |= mask

    def run(self, step: Step) -> None:
        """Run until all units have ended. Raises Deadlock, and what ``step`` raises."""
        together: int | None = 0  # the program counter of all units, while it is the same and none waits
        executed = 0
        plain = not self._reorder
        while True:
            if together == DONE:
                return
            if together is not None and plain:
                now, mask = together, None
            else:
                if together is not None:
                    self.counter[:] = together
                    together = None
                found = self._next()
                if found is None:
                    return
                now, mask = found
            executed += 1
            if executed > LIMIT:
                raise Deadlock(f"the kernel has not ended after {LIMIT} basic blocks")
            target, condition, other = step(now, mask)
            if mask is None and (condition is None or condition.all()):
                together = target
            elif mask is None and condition is not None and not condition.any():
                together = other
            else:
                together = None
                next_ = target if condition is None else np.where(condition, target, other)
                if mask is None:
                    self.counter[:] = next_
                else:
                    self.counter = np.where(mask, next_, self.counter)
            if self._waiting.any():
                if together is not None:
                    self.counter[:] = together
                    together = None
                self._release()
                if plain and not self._waiting.any() and (self.counter == self.counter[0]).all():
                    together = int(self.counter[0])

    def _next(self) -> tuple[int, Array | None] | None:
        """The lowest program counter and the units there, all of which run next; None if all have ended."""
        ready = ~self._waiting & (self.counter != DONE)
        if not ready.any():
            if (self.counter == DONE).all():
                return None
            raise Deadlock("a barrier waits for threads that have reached another one")
        if self._reorder:
            early = ready & ~self._late
            # A program whose early units all wait lets the late ones run.
            blocked = ~early.reshape(self._programs, self._units).any(1)
            ready = early | (ready & blocked[self._program])
        now = int(self.counter[ready].min())
        mask = ready & (self.counter == now)
        return now, None if mask.all() else mask

    def _release(self) -> None:
        waiting = self._waiting.reshape(self._programs, self._units)
        ended = (self.counter == DONE).reshape(self._programs, self._units)
        passed = (waiting | ended).all(1) & waiting.any(1)
        if passed.any():
            self._waiting[passed[self._program]] = False
            self.epoch[passed] += 1
            self.stamp = stamps(self._numbers, self._warp, self.epoch[self._program])
            if self._reorder:
                self._draw(passed)
