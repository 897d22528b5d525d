"""Proof that the backend which was asked for did the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..backends.base import Backend
from ..backends.emulation.backend import EmulatedBackend
from ..backends.triton_backend import TritonBackend

if TYPE_CHECKING:
    from ..backends.emulation.coverage import KernelCoverage


class Watch:
    """Counts the kernels that a backend launches for its callers, without those of self-tests, and notes
    which other backends are used.

    A backend that hands its work to another one returns correct digests and proves nothing.
    """

    def __init__(self, backend: Backend, others: Sequence[Backend]) -> None:
        self._backend = backend
        self._others = others
        self.launches = 0
        self.configurations: dict[tuple[Any, ...], dict[str, KernelCoverage]] = {}
        """The configurations of the kernels that ran, self-tests included; on an emulated backend, with the
        coverage of the compiled kernels of each, by name."""
        self.strangers: set[str] = set()
        """The names of the other backends that were used."""

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Watch while the block runs, and restore the backends' methods after it."""
        replaced: list[tuple[Backend, str, Any]] = []

        def nothing(*_: Any) -> None:
            pass

        def intercept(
            instance: Backend,
            method: str,
            before: Callable[..., object] = nothing,
            after: Callable[..., object] = nothing,
        ) -> None:
            called = getattr(instance, method)

            def noted(*arguments: Any, **keywords: Any) -> Any:
                before(*arguments)
                result = called(*arguments, **keywords)
                after(*arguments)
                return result

            replaced.append((instance, method, instance.__dict__.get(method)))
            setattr(instance, method, noted)

        backend = self._backend
        if isinstance(backend, TritonBackend):
            configuration = backend.configuration

            def admitted(*_: Any) -> None:
                self.launches += 1

            def launched(*of: Any) -> None:
                kernels = self.configurations.setdefault(configuration(*of), {})
                latest = backend.coverage.latest if isinstance(backend, EmulatedBackend) else None
                if latest is not None:
                    kernels[latest.name] = latest

            intercept(backend, "admit", admitted)
            intercept(backend, "launch", after=launched)
        for other in self._others:
            for method in ("digest_batch", "stream"):
                intercept(other, method, lambda *_, name=other.name: self.strangers.add(name))
        try:
            yield
        finally:
            for instance, method, before in replaced:
                if before is None:
                    delattr(instance, method)
                else:
                    setattr(instance, method, before)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Forget what is noted while the block runs, which uses another backend on purpose."""
        launches, strangers = self.launches, set(self.strangers)
        try:
            yield
        finally:
            self.launches, self.strangers = launches, strangers
