"""The guard: what its caller sees of it, and the order in which its parts work."""

from __future__ import annotations

import logging
import math
import threading
import time
import warnings
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ...errors import IntegrityError
from ..manifest import Manifest
from ..names import Names, Rename
from .baseline import LEAST_CHUNK, MOST_CHUNK, Baseline, Unit, digester
from .findings import Finding, GuardStatus, GuardWarning, State
from .metrics import Metrics
from .passes import Moving, Passes
from .schedule import Schedule
from .tensors import Look, check_can_be_guarded, look, plain_name
from .worker import Worker, after_fork

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger("integrity_triton")
_MOST_FINDINGS = 1000
_IDLE_SECONDS = 0.02  # between two looks at a guard that is suspended
_MOST_RESTARTS = 10
_SAME: Any = object()


class Guard:
    """Checks the weights of a model again and again, while they are used.

    ``source`` is an ``nn.Module`` or a mapping from names to tensors, on any devices. Of a module, all
    parameters and buffers are guarded, also those buffers that are not stored, except the running statistics
    of modules in training. A mapping is guarded as it is: if a module moves, a dict of its former tensors
    does not. The guard holds a module by a weak reference only.

    The baseline is taken when the guard is made: a digest of each chunk of ``chunk_size`` bytes (a multiple
    of 1024, from 1024 to 64 MiB). ``algorithm`` is a hash, or with ``key`` a keyed one; with ``"poly1305"``
    and a key of 32 bytes, the digests are the tags of chunks of :func:`integrity_triton.mac_tensors`. With
    ``against``, a :class:`Manifest`, the model is then compared with the manifest. Since the baseline is
    taken first, a change between the two readings makes a later check fail; there is no time in which a
    change goes unnoticed.

    After that, a thread checks one slice after the other. ``budget`` is the share of time for which it is
    busy (on the CPU the share of one thread). ``period`` is the time in seconds within which every byte is
    checked again; without it, the guard goes as fast as the budget permits, and :meth:`status` tells the
    period. If both are stated and cannot both be kept, the period is kept, and a :class:`GuardWarning` tells
    the numbers.

    ``on_mismatch`` is called with each :class:`Finding`, by the thread. A finding whose ``fails`` is true
    makes the guard fail, until :meth:`reset`. With ``raise_at_forward``, a forward of the module raises
    IntegrityError as long as the guard has failed, or does not run because the process was forked.

    ``ignore`` holds names and patterns of names that are not guarded, and ``rename`` gives the manifest's
    name for a name of the model, both as for :meth:`Manifest.verify`. ``metrics`` are objects such as
    :class:`PrometheusMetrics`, and ``name`` stands for the model in them. ``backend`` is as for
    :func:`integrity_triton.hash_batch`; by default, data on the CPU are hashed by the CPU libraries. With
    ``start=False``, the thread begins with :meth:`start`.

    Raises IntegrityError if the model is not the one of ``against``; ValueError for a budget, period, chunk
    size, algorithm or key that is impossible, for a model without tensors, and, with the name, for a tensor
    without memory; TypeError for a source of another type, and, with the name, for a tensor without dense
    bytes. Otherwise raises as :func:`integrity_triton.hash_batch` does.
    """

    def __init__(
        self,
        source: torch.nn.Module | Mapping[str, torch.Tensor],
        *,
        against: Manifest | None = None,
        key: Any = None,
        algorithm: str = "blake3",
        budget: float = 0.01,
        period: float | None = None,
        chunk_size: int = 256 << 10,
        on_mismatch: Callable[[Finding], object] | None = None,
        raise_at_forward: bool = False,
        ignore: str | Iterable[str] = (),
        rename: Rename | None = None,
        metrics: Metrics | Iterable[Metrics] = (),
        name: str = "model",
        backend: str | None = None,
        start: bool = True,
    ) -> None:
        module = _checked_source(source)
        _check_numbers(budget, period, chunk_size)
        if against is not None and not isinstance(against, Manifest):
            raise TypeError(
                f"against must be a Manifest, as Manifest.load gives, not {type(against).__name__}"
            )
        if on_mismatch is not None and not callable(on_mismatch):
            raise TypeError(f"on_mismatch must be a function, not {type(on_mismatch).__name__}")
        if raise_at_forward and not module:
            raise TypeError("raise_at_forward needs an nn.Module, which has a forward; tensors have none")
        self._source: Any = weakref.ref(source) if module else (lambda: source)
        self._names = Names.of(ignore, rename)
        self._manifest = against
        self._backend = backend
        self._budget, self._stated = budget, period
        self._callback = on_mismatch
        self._metrics = (metrics,) if isinstance(metrics, Metrics) else tuple(metrics)
        self._name = name
        self._lock = threading.RLock()
        self._findings: deque[Finding] = deque(maxlen=_MOST_FINDINGS)
        self._counts: Counter[str] = Counter()
        self._failed = self._closed = self._forked = self._late = False
        self._error: BaseException | None = None
        self._suspended: dict[Any, State] = {}
        self._declared: list[tuple[str, ...] | None] = []
        self._completed = self._checked_bytes = 0
        self._busy = 0.0
        self._worker: Worker | None = None
        self._hooks: list[Any] = []
        self._unsigned: tuple[str, ...] = ()
        self._next = self._done = 0
        self._pass_began = time.monotonic()
        baseline = Baseline(digester(algorithm, key, chunk_size, backend), chunk_size)
        self._passes = Passes(baseline, {})
        self._schedule = Schedule(0, math.inf, budget, period)
        self._take(self._look(), keep={})
        if raise_at_forward:
            self._hooks.append(source.register_forward_pre_hook(_forward_hook(self)))  # type: ignore[union-attr]
        _guards.add(self)
        self._tell(lambda metrics: metrics.guarding(name, False))
        if start:
            self.start()

    # What the caller does.

    @property
    def failed(self) -> bool:
        """Whether a finding has made the guard fail."""
        return self._failed

    def start(self) -> None:
        """Start the thread, unless it is running. In a forked process this starts a thread of its own.

        Raises ValueError for a guard that was closed.
        """
        with self._lock:
            if self._closed:
                raise ValueError(f"guard {self._name!r} was closed")
            if self._worker is not None and self._worker.running:
                return
            self._forked = False
            self._restart_clock()
            self._worker = Worker(self, f"integrity_triton guard {self._name}")
            self._worker.start()

    def check(self) -> tuple[Finding, ...]:
        """Check everything now, with all threads of the CPU, and return what is wrong.

        Findings that were told before are returned again, but the callback is called for new ones only. The
        call waits for the devices. Raises RuntimeError while checks are suspended, and if the model keeps
        moving.
        """
        told: list[Finding] = []
        with self._lock:
            if self._suspended:
                raise RuntimeError(f"the guard is {self._state()}; nothing can be checked before that ends")
            for _ in range(_MOST_RESTARTS):
                try:
                    found = self._whole_pass(told)
                    break
                except Moving:
                    continue
            else:
                raise RuntimeError("the model moved in memory again and again while it was checked")
        self._deliver(told)
        return tuple(found)

    def status(self) -> GuardStatus:
        """What the guard knows now. This does not wait for a check."""
        now = time.monotonic()
        state = self._state()
        schedule = self._schedule
        age = now - self._passes.oldest
        running = state in ("guarding", "updating", "asleep")
        late = state in ("guarding", "updating") and age > schedule.period
        return GuardStatus(
            name=self._name,
            state=state,
            ok=running and not self._failed and not late,
            failed=self._failed,
            findings=tuple(self._findings),
            counts=dict(self._counts),
            tensors=len(self._passes.baseline.units),
            nbytes=schedule.nbytes,
            chunk_size=self._passes.baseline.chunk_size,
            passes=self._completed,
            checked_bytes=self._checked_bytes,
            busy_seconds=self._busy,
            rate=schedule.rate,
            period=schedule.period,
            share=schedule.share,
            age=age,
            signed=self._manifest is not None,
            unsigned=self._unsigned,
            excluded=self._passes.excluded,
            offloaded=self._passes.offloaded,
        )

    def raise_for_failure(self) -> None:
        """Raise IntegrityError, which says what was found, if the guard has failed, or if it does not run
        because the process was forked."""
        if self._forked:
            raise IntegrityError(
                f"guard {self._name!r} does not run in this process, which was forked; call start() in it"
            )
        if self._failed:
            found = [str(finding) for finding in self._findings if finding.fails]
            more = f"; and {len(found) - 8} more" if len(found) > 8 else ""
            raise IntegrityError(
                f"guard {self._name!r} has failed: {'; '.join(found[:8])}{more}"
            ) from self._error

    def reset(self) -> None:
        """Check everything now, and if all is as in the baseline, let the guard no longer count as failed. A
        thread that has ended after a fault is started again.

        Raises IntegrityError, which says what is wrong, if something still is.
        """
        wrong = [finding for finding in self.check() if finding.fails]
        if wrong:
            raise IntegrityError(f"guard {self._name!r} stays failed: {'; '.join(map(str, wrong[:8]))}")
        with self._lock:
            self._failed, self._error = False, None
        self._tell(lambda metrics: metrics.guarding(self._name, False))
        if not self._closed:
            self.start()

    @contextmanager
    def updating(
        self, *, only: str | Iterable[str] | None = None, against: Manifest | None = _SAME
    ) -> Iterator[None]:
        """A context in which the model may be changed. Checks are suspended until it ends.

        Then a new baseline is taken, by the calling thread, of the tensors whose names match ``only``, or of
        all. The others have to be what they were. If the guard has a manifest, the model has to match it
        again, or the one that ``against`` gives from now on; None means that it is no longer compared.

        If the block raises an exception, the old baseline stays, so that whatever was changed will be found.
        Raises IntegrityError, and the guard fails, if the model does not match the manifest.
        """
        token = object()
        patterns = (only,) if isinstance(only, str) else None if only is None else tuple(only)
        self._suspend(token, "updating")
        try:
            yield
        except BaseException:
            self._resume(token)
            raise
        with self._lock:
            self._declared.append(patterns)
        self._resume(token, against=against)

    def follow_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Declare each ``step`` of an optimizer as an update of the parameters that it has.

        The baseline of these parameters is taken again in every step, which reads and hashes all of them.
        """
        token = ("optimizer", id(optimizer))

        def before(optimizer: Any, *_: Any) -> None:
            self._suspend(token, "updating")

        def after(optimizer: Any, *_: Any) -> None:
            places = {id(p) for group in optimizer.param_groups for p in group["params"]}
            seen = self._look().tensors
            changed = tuple(name for name, tensor in seen.items() if id(tensor.ref()) in places)
            with self._lock:
                self._declared.append(_escaped(changed))
            self._resume(token)

        self._hooks.append(optimizer.register_step_pre_hook(before))
        self._hooks.append(optimizer.register_step_post_hook(after))

    def follow_load_state_dict(self) -> None:
        """Declare each ``load_state_dict`` of the module as an update.

        Raises TypeError for a guard of a mapping.
        """
        module = self._source()
        if isinstance(module, Mapping):
            raise TypeError("a mapping of tensors has no load_state_dict; declare updates with updating()")
        token = ("load_state_dict", id(self))

        def before(*_: Any) -> None:
            self._suspend(token, "updating")

        def after(*_: Any) -> None:
            with self._lock:
                self._declared.append(None)
            self._resume(token)

        self._hooks.append(module.register_load_state_dict_pre_hook(before))
        self._hooks.append(module.register_load_state_dict_post_hook(after))

    def sleep(self) -> tuple[Finding, ...]:
        """Check everything a last time, and suspend the guard while the memory of the weights is given away.

        Returns what :meth:`check` returns.
        """
        found = self.check()
        self._suspend("sleep", "asleep")
        return found

    def wake(self) -> tuple[Finding, ...]:
        """End the sleep, and check everything against the baseline from before it, wherever the tensors are
        now. Returns what is wrong, and the notices of what has moved."""
        self._resume("sleep")
        return self.check()

    def close(self) -> None:
        """End the thread and remove all hooks. A guard that has failed stays failed."""
        if self._closed:
            return
        self._closed = True
        for hook in self._hooks:
            hook.remove()
        if self._worker is not None:
            self._worker.stop()

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        if kind is None:
            self.raise_for_failure()

    def __del__(self) -> None:
        worker = getattr(self, "_worker", None)
        if worker is not None and not self._closed:
            worker.stop()
            warnings.warn(
                f"guard {self._name!r} was dropped and not closed", ResourceWarning, stacklevel=2, source=self
            )

    def __repr__(self) -> str:
        return f"<{self.status()}>"

    # What the thread does.

    def turn(self) -> float:
        """Check one slice. This is for the thread of the guard."""
        told: list[Finding] = []
        with self._lock:
            if self._source() is None:
                self.close()  # the model was deleted, and there is nothing left to guard
                return 0.0
            if self._suspended:
                wait = _IDLE_SECONDS
                self._note_lateness(told)
            else:
                try:
                    wait = self._one_slice(told)
                except Moving:
                    self._next, wait = 0, 0.0
        self._deliver(told)
        return wait

    def died(self, error: BaseException) -> None:
        """Take note of an exception in the thread, which ends after that."""
        self._surface(error, "the thread of the guard")

    def _one_slice(self, told: list[Finding]) -> float:
        began = time.perf_counter()
        if self._next == 0:
            self._pass_began, self._done = time.monotonic(), 0
            told += self._passes.new(self._passes.survey(self._look()))
        self._note_lateness(told)
        size = self._passes.check(self._next, told, alone=True) if len(self._passes) else 0
        busy = time.perf_counter() - began
        self._count(size, busy)
        self._done += size
        self._next += 1
        since = time.monotonic() - self._pass_began
        # What cannot be checked now, because it is offloaded, counts as done.
        last = self._next >= len(self._passes)
        done = self._schedule.nbytes if last else self._done
        wait = self._schedule.wait(done=done, busy=busy, since=since)
        if last:
            self._finish_pass(since)
        return wait

    def _finish_pass(self, seconds: float) -> None:
        self._next = 0
        self._completed += 1
        self._late = False
        self._tell(lambda metrics: metrics.completed(self._name, seconds))

    def _whole_pass(self, told: list[Finding]) -> list[Finding]:
        """See :meth:`check`; ``told`` receives the findings that are new."""
        began = time.monotonic()
        found = self._passes.survey(self._look())
        told += self._passes.new(found)
        before = len(told)
        for i in range(len(self._passes)):
            start = time.perf_counter()
            size = self._passes.check(i, told, alone=False)
            self._count(size, time.perf_counter() - start)
        self._finish_pass(time.monotonic() - began)
        read_twice = [finding for finding in told[before:] if finding.kind == "transient"]
        return [*found, *read_twice, *self._passes.wrong.values()]

    # What is guarded.

    def _look(self) -> Look:
        source = self._source()
        if source is None:
            raise RuntimeError(f"the model of guard {self._name!r} was deleted")
        return look(source, self._names)

    def _take(self, seen: Look, *, keep: Mapping[str, Unit], against: Any = _SAME) -> None:
        """Take a baseline of what ``seen`` shows, except of the units in ``keep``, and compare the model with
        the manifest after that. The guard is as before if this raises an exception."""
        check_can_be_guarded(seen)
        old = self._passes
        baseline = Baseline(old.baseline.digester, old.baseline.chunk_size)
        baseline.take(seen, keep=keep)
        manifest = self._manifest if against is _SAME else against
        unsigned = () if manifest is None else self._compare_with(manifest, seen)
        places = {name: tensor.place for name, tensor in seen.tensors.items() if tensor.place is not None}
        # Where kept tensors were stays known, so that a move during the update is told.
        passes = Passes(baseline, {**places, **{n: old.places[n] for n in keep if n in old.places}})
        passes.wrong = {key: f for key, f in old.wrong.items() if all(name in keep for name in key[0])}
        told: list[Finding] = []
        began = time.perf_counter()
        structure = passes.new(passes.survey(self._look()))
        fixed = time.perf_counter() - began
        rate = passes.measured_rate(told)
        schedule = Schedule(passes.nbytes, rate, self._budget, self._stated, fixed)
        schedule.check_possible()
        passes.cut(schedule.slice_size)
        self._passes, self._schedule = passes, schedule
        self._manifest, self._unsigned = manifest, unsigned
        self._restart_clock()
        self._deliver([*structure, *told])
        if schedule.conflict is not None:
            warnings.warn(schedule.conflict, GuardWarning, stacklevel=3)

    def _compare_with(self, manifest: Manifest, seen: Look) -> tuple[str, ...]:
        """Raise IntegrityError unless the model is the one that the manifest lists. Returns the guarded names
        that it does not list because they are not stored."""
        source = self._source()
        stored = source if isinstance(source, Mapping) else look_at_stored(source)
        report = manifest.verify(
            stored, ignore=self._names.ignore, rename=self._names.rename, backend=self._backend
        )
        report.raise_for_mismatch()
        listed = {name for entry in manifest.entries for name in entry.names}
        listed |= {name for name, _ in report.tied}
        names = seen.manifest_names
        return tuple(sorted(name for name in seen.tensors if names.get(name, name) not in listed))

    # Updates.

    def _suspend(self, token: Any, state: State) -> None:
        with self._lock:  # waits until the present slice is done
            self._suspended[token] = state

    def _resume(self, token: Any, *, against: Any = _SAME) -> None:
        told: list[Finding] = []
        try:
            with self._lock:
                if self._suspended.pop(token, None) is None:
                    return
                if against is not _SAME and against is not None and not isinstance(against, Manifest):
                    raise TypeError(f"against must be a Manifest, not {type(against).__name__}")
                if self._suspended:
                    return
                self._next = 0
                declared, self._declared = self._declared, []
                if not declared:
                    return
                patterns = None if None in declared else [p for group in declared for p in group or ()]
                keep = {} if patterns is None else self._undeclared(patterns)
                try:
                    self._take(self._look(), keep=keep, against=against)
                except IntegrityError as error:
                    told.append(Finding("manifest", f"after a declared update, {error}"))
                    raise
        finally:
            self._deliver(told)

    def _undeclared(self, patterns: Sequence[str]) -> dict[str, Unit]:
        def declared(unit: Unit) -> bool:
            return any(fnmatchcase(name, pattern) for name in unit.names for pattern in patterns)

        return {name: unit for name, unit in self._passes.baseline.by_name.items() if not declared(unit)}

    # What is told.

    def _note_lateness(self, told: list[Finding]) -> None:
        age = time.monotonic() - self._passes.oldest
        asleep = "asleep" in self._suspended.values()
        if age > self._schedule.period and not self._late and not asleep:
            self._late = True
            told.append(
                Finding(
                    "overrun",
                    f"bytes were not checked for {age:.3g} s, longer than the period of "
                    f"{self._schedule.period:.3g} s; the machine was busy, the process was stopped, or an "
                    "update has not ended",
                )
            )

    def _count(self, nbytes: int, busy: float) -> None:
        self._checked_bytes += nbytes
        self._busy += busy
        self._tell(lambda metrics: metrics.checked(self._name, nbytes, busy))

    def _deliver(self, findings: Iterable[Finding]) -> None:
        """Note findings, and tell everyone who wants to know. Nothing is locked meanwhile, so that a callback
        may do what it likes."""
        for untimed in findings:
            finding = replace(untimed, time=time.time())
            self._note(finding)
            if self._callback is not None:
                try:
                    self._callback(finding)
                except Exception as error:
                    self._surface(error, "on_mismatch")

    def _note(self, finding: Finding) -> None:
        first = finding.fails and not self._failed
        self._failed = self._failed or finding.fails
        self._findings.append(finding)
        self._counts[finding.kind] += 1
        level = logging.ERROR if finding.fails else logging.WARNING
        _logger.log(level, "guard %r: %s: %s", self._name, finding.kind, finding)
        if finding.kind != "error":  # the metrics may be what has failed
            self._tell(lambda metrics: metrics.found(self._name, finding))
        if first:
            self._tell(lambda metrics: metrics.guarding(self._name, True))

    def _surface(self, error: BaseException, where: str) -> None:
        """Make an exception that has no caller known: the guard fails, and says why."""
        self._error = error
        _logger.error("guard %r: %s raised an exception", self._name, where, exc_info=error)
        self._note(
            replace(Finding("error", f"{where} raised {type(error).__name__}: {error}"), time=time.time())
        )

    def _tell(self, call: Callable[[Metrics], None]) -> None:
        for metrics in self._metrics:
            try:
                call(metrics)
            except Exception as error:
                if self._error is None:  # once: every slice would raise it again
                    self._surface(error, "metrics")

    def _state(self) -> State:
        if self._closed:
            return "ended" if self._source() is None else "closed"
        if self._forked:
            return "forked"
        if self._worker is None or not self._worker.running:
            return "stopped"
        return next(iter(self._suspended.values()), "guarding")

    def _restart_clock(self) -> None:
        self._next, self._late = 0, False
        self._passes.restart_clock()

    def after_fork(self) -> None:
        """The parent's thread may have held the lock, and does not exist here."""
        self._lock = threading.RLock()
        if self._worker is not None:
            self._worker, self._forked = None, True


def look_at_stored(module: torch.nn.Module) -> dict[str, Any]:
    """The state dict of a module, by the names that it has without torch.compile."""
    return {plain_name(name): x for name, x in module.state_dict().items()}


def _checked_source(source: Any) -> bool:
    """Whether ``source`` is a module."""
    import torch

    if isinstance(source, torch.nn.Module):
        return True
    if not isinstance(source, Mapping):
        raise TypeError(
            "a guard takes an nn.Module or a mapping from names to tensors, not "
            f"{type(source).__name__}; load files first, for example with safetensors"
        )
    return False


def _check_numbers(budget: float, period: float | None, chunk_size: int) -> None:
    for name, value in (("budget", budget), ("period", period)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not 0 < budget <= 1:
        raise ValueError(f"budget must be a share of time above 0 and at most 1, not {budget}")
    if period is not None and not 0 < period < math.inf:
        raise ValueError(f"period must be a positive number of seconds, not {period}")
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int):
        raise TypeError(f"chunk_size must be int, not {type(chunk_size).__name__}")
    if chunk_size % LEAST_CHUNK or not LEAST_CHUNK <= chunk_size <= MOST_CHUNK:
        raise ValueError(
            f"chunk_size must be a multiple of {LEAST_CHUNK} from {LEAST_CHUNK} to {MOST_CHUNK}, "
            f"not {chunk_size}"
        )


def _escaped(names: Iterable[str]) -> tuple[str, ...]:
    """Patterns that match the names alone."""
    return tuple("".join(f"[{c}]" if c in "*?[" else c for c in name) for name in names)


def _forward_hook(guard: Guard) -> Any:
    import torch

    def before_forward(module: Any, args: Any) -> None:
        guard.raise_for_failure()

    # A traced hook would become a constant of the graph, with the health that the guard had then.
    disable: Any = torch.compiler.disable
    return disable(before_forward)


_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


def _after_fork() -> None:
    for guard in list(_guards):
        guard.after_fork()


after_fork(_after_fork)
