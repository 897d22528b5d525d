"""The methods that vLLM's workers get, for ``collective_rpc``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .digests import compute_tensor_digests
from .plugin import start_guard_after_warm_up

if TYPE_CHECKING:
    from .guarding import WorkerGuard

_GUARD = "_integrity_triton_guard"  # the attribute of a worker that has a guard


class WorkerExtension:
    """Methods for ``collective_rpc``, by vLLM's ``--worker-extension-cls``.

    Its full name is ``integrity_triton.integrations.vllm.WorkerExtension``. vLLM makes it a base class of its
    worker class, so that ``self`` is a worker. It needs neither the plug-in nor ``VLLM_SERVER_DEV_MODE``::

        llm = LLM(model, worker_extension_cls="integrity_triton.integrations.vllm.WorkerExtension")
        llm.collective_rpc("weight_digests", args=("blake3",))
    """

    def weight_digests(self, algorithm: str = "sha256", backend: str | None = None) -> dict[str, str]:
        """The result of :func:`compute_tensor_digests` for this worker's model.

        Each name begins with the worker's ranks, as in vLLM's ``compute_weight_checksums``
        (``dp0:pp0:pcp0:tp0:``), so that the results of several workers have different names.
        """
        worker: Any = self
        digests = compute_tensor_digests(
            worker.model_runner.get_model(), algorithm=algorithm, backend=backend
        )
        prefix = worker._weight_checksum_prefix()
        return {prefix + name: digest for name, digest in digests.items()}

    def differing_weights(
        self, expected: Mapping[str, str], algorithm: str = "sha256", backend: str | None = None
    ) -> list[str]:
        """The sorted names of this worker's weights whose digest is not the one in ``expected``, or that are
        not in it, and of those in ``expected`` that begin with this worker's ranks and that it does not have.

        ``expected`` may be the union of :meth:`weight_digests` of all workers.
        """
        worker: Any = self
        found = self.weight_digests(algorithm, backend)
        prefix = worker._weight_checksum_prefix()
        mine = {name: digest for name, digest in expected.items() if name.startswith(prefix)}
        return sorted(name for name in found.keys() | mine.keys() if found.get(name) != mine.get(name))

    def start_guard(
        self,
        *,
        budget: float = 0.01,
        period: float | None = None,
        manifest: str | None = None,
        ignore: str | Iterable[str] = (),
        raise_at_forward: bool = False,
        algorithm: str = "blake3",
        chunk_size: int = 256 << 10,
        backend: str | None = None,
    ) -> dict[str, Any]:
        """Start a ``Guard`` over the parameters and buffers of this worker's model, and return
        :meth:`guard_status`.

        The worker's calls are told to the guard. It is suspended before ``sleep`` and ``discard`` and checks
        everything after ``wake_up``. After a sleep of level 2, which discards the weights, it waits until
        weights have been loaded; ``ok`` is false meanwhile. ``reload_weights``, ``reset_weights`` and what
        is between ``start_weight_update`` and ``finish_weight_update`` are declared updates: what they leave
        is the new baseline, or has to match the manifest. Any other change is damage.

        ``manifest`` is the path of a manifest that :meth:`save_weight_manifest` wrote, in which ``{rank}``
        stands for the worker's ranks. With ``raise_at_forward``, ``execute_model`` raises IntegrityError as
        long as the guard has failed or waits for weights, which ends vLLM's engine. A hook of the module's
        forward would not be called for a captured CUDA graph. The other arguments are those of the guard.

        Raises RuntimeError if a guard was started before, or if the worker lacks a method that the guard has
        to follow; ValueError for expert parallelism with load balancing, which moves weights, and for
        parameters whose elements a guard cannot see; and as ``Guard`` and ``Manifest.load`` do,
        which is IntegrityError if the model is not the one of the manifest.
        """
        from .guarding import WorkerGuard

        worker: Any = self
        if getattr(worker, _GUARD, None) is not None:
            raise RuntimeError("this worker has a guard; call stop_guard before another is started")
        guard = WorkerGuard(
            worker,
            budget=budget,
            period=period,
            manifest=manifest,
            ignore=ignore,
            raise_at_forward=raise_at_forward,
            algorithm=algorithm,
            chunk_size=chunk_size,
            backend=backend,
        )
        setattr(worker, _GUARD, guard)
        return guard.status()

    def guard_status(self) -> dict[str, Any]:
        """``GuardStatus.to_dict`` of this worker's guard, whose ``name`` is the worker's ranks; and
        ``awaiting_weights``, which is true between a sleep of level 2 and the loading of weights.

        Raises RuntimeError if no guard was started.
        """
        return _guard_of(self).status()

    def check_guard(self) -> list[dict[str, Any]]:
        """Check all weights of this worker now: ``Finding.to_dict`` of everything that is wrong.

        Raises RuntimeError if no guard was started, while it is suspended, and after a sleep of level 2.
        """
        return _guard_of(self).check()

    def reset_guard(self) -> dict[str, Any]:
        """Check all weights, let a guard that has failed count as sound again if they are what they should
        be, and return its status. Raises IntegrityError if they are not, and as :meth:`check_guard` does."""
        guard = _guard_of(self)
        guard.guard.reset()
        return guard.status()

    def stop_guard(self) -> dict[str, Any]:
        """End the guard, and return its last status. Raises RuntimeError if no guard was started."""
        guard = _guard_of(self)
        guard.stop()
        setattr(self, _GUARD, None)
        return guard.status()

    def save_weight_manifest(self, path: str, algorithm: str = "blake3", backend: str | None = None) -> str:
        """Write a manifest of the state dict of this worker's model, and return the path.

        The names, shapes and bytes are those that vLLM has made of the checkpoint, which differ with the
        model, the version of vLLM, the quantisation and the parallelism. ``{rank}`` in ``path`` is replaced
        by the worker's ranks; without it, several workers would write the same file. Take it where the
        weights are trusted, for example after they were loaded verified.
        """
        from ...models import Manifest
        from .guarding import manifest_path

        worker: Any = self
        target = manifest_path(worker, path)
        model = worker.model_runner.get_model()
        Manifest.from_module(model, algorithm, backend=backend).save(target)
        return target

    def init_worker_extension(self) -> None:
        """vLLM's hook after the device of a worker is ready: prepares for the guard that the environment asks
        for; see :func:`register`."""
        start_guard_after_warm_up(self, self.start_guard)

    def destroy_worker_extension(self) -> None:
        """vLLM's hook before a worker shuts down: ends the guard."""
        if getattr(self, _GUARD, None) is not None:
            self.stop_guard()


def _guard_of(worker: Any) -> WorkerGuard:
    guard: WorkerGuard | None = getattr(worker, _GUARD, None)
    if guard is None:
        raise RuntimeError("no guard was started in this worker; call start_guard")
    return guard
