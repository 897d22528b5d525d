"""Comparing replicas every few steps of training, while the next step runs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...backends.native import in_calling_thread
from .errors import DistributedError
from .exchange import Exchange, exchange_for
from .records import check_algorithm
from .replicas import Copies, ReplicaReport, compare, local_parts
from .root import TIMEOUT

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist


class ReplicaWatch:
    """Compares the parameters of a model in the ranks that replicate it, every ``every`` steps.

    ``attach(optimizer)`` does all of it: after a step that is due, the parameters are hashed by a thread, on
    an accelerator in a stream of its own and on a CPU with one processor; before the next step changes them,
    the digests are awaited and compared. Forward and backward passes only read parameters, so that all ranks
    hash the weights of the same step. A training loop without such an optimizer calls :meth:`after_step` and
    :meth:`before_step` itself, at the same places in all ranks. Exchanges are made by the caller's thread
    alone.

    If anything else changes the parameters between two steps, the comparison is refused with a
    DistributedError that names the tensor, since the digests may be of neither state.

    ``module`` may be wrapped by ``DistributedDataParallel`` or sharded by FSDP2; ``group`` is as for
    :func:`check_replicas`. ``on_report`` is called with each :class:`ReplicaReport`; the default raises
    ReplicaMismatch if copies differ, out of ``optimizer.step`` and before it has changed anything.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        group: dist.ProcessGroup | None = None,
        *,
        every: int = 100,
        algorithm: str = "blake3",
        timeout: float = TIMEOUT,
        backend: str | None = None,
        on_report: Callable[[ReplicaReport], object] = ReplicaReport.raise_for_mismatch,
    ) -> None:
        """Raises ValueError unless ``every`` is positive, and ManifestError for an unsuitable algorithm."""
        if every < 1:
            raise ValueError(f"every must be a positive number of steps, not {every}")
        self._module = module
        self._group = group
        self._every = every
        self._hash = check_algorithm(algorithm)
        self._timeout = timeout
        self._backend = backend
        self._on_report = on_report
        self._steps = 0
        self._running: _Hashing | None = None
        self._hooks: list[Any] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> ReplicaWatch:
        """Have an optimizer call :meth:`before_step` and :meth:`after_step`. Returns this object."""
        self._hooks += [
            optimizer.register_step_pre_hook(lambda *_: self.before_step()),
            optimizer.register_step_post_hook(lambda *_: self.after_step()),
        ]
        return self

    def after_step(self) -> None:
        """Say that a step has changed the parameters. If it is due, hashing begins."""
        self.before_step()
        self._steps += 1
        if self._steps % self._every == 0:
            self._running = _Hashing(self._parameters(), self._hash, self._backend)

    def before_step(self) -> None:
        """Say that the parameters are about to change. If they were hashed, the ranks compare their digests.

        Raises as :func:`check_replicas` does, and what ``on_report`` raises.
        """
        running, self._running = self._running, None
        if running is None:
            return
        exchange: Exchange = exchange_for(self._group, self._timeout)
        try:
            report = compare(running.result(), exchange)
        except BaseException as error:
            exchange.give_up(error)
            raise
        self._on_report(report)

    def close(self) -> None:
        """Detach from the optimizers, and compare what was still to be compared."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.before_step()

    def _parameters(self) -> dict[str, torch.Tensor]:
        _reshard(self._module)
        return dict(self._module.named_parameters(remove_duplicate=False))


def _reshard(module: torch.nn.Module) -> None:
    """Let FSDP2 put the shards back in the place of the whole parameters that the last pass gathered. These
    are not what an optimizer changes, and are freed while the next pass runs."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None:
        for part in module.modules():
            if isinstance(part, fsdp.FSDPModule):
                part.reshard()


class _Hashing:
    """Parameters that are being hashed by a thread, which ends with its result or with an exception."""

    def __init__(self, parameters: Mapping[str, torch.Tensor], hash_: Any, backend: str | None) -> None:
        self._tensors = {name: x.detach() for name, x in local_parts(parameters).items()}
        # An operation on a DTensor counts in the DTensor alone, and one on its local part in that alone.
        counted = [*parameters.items(), *self._tensors.items()]
        self._versions = [(name, x, x._version) for name, x in counted if not x.is_inference()]
        self._copies: Copies | None = None
        self._error: BaseException | None = None
        ready = _events(self._tensors)
        self._thread = threading.Thread(
            target=self._run, args=(hash_, backend, ready), name="integrity_triton replicas"
        )
        self._thread.start()

    def _run(self, hash_: Any, backend: str | None, ready: Mapping[torch.device, Any]) -> None:
        import contextlib

        import torch

        try:
            with contextlib.ExitStack() as streams:
                for device, event in ready.items():
                    module = torch.get_device_module(device)
                    stream = module.Stream(device)
                    stream.wait_event(event)
                    streams.enter_context(module.stream(stream))
                streams.enter_context(in_calling_thread())
                self._copies = Copies.of(self._tensors, hash_, backend)
        except BaseException as error:
            self._error = error

    def result(self) -> Copies:
        """Wait for the digests. Raises what the thread raised, and DistributedError if a tensor has changed
        meanwhile."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        for name, x, version in self._versions:
            if x._version != version:
                raise DistributedError(
                    f"tensor {name!r} was changed between two steps, while it was hashed; change parameters "
                    "in optimizer.step alone, or call before_step first"
                )
        assert self._copies is not None
        return self._copies


def _events(tensors: Mapping[str, torch.Tensor]) -> dict[torch.device, Any]:
    """For each accelerator, an event after which the step that was queued has ended."""
    import torch

    devices = {x.device for x in tensors.values() if x.device.type != "cpu"}
    return {
        device: torch.get_device_module(device).current_stream(device).record_event() for device in devices
    }
