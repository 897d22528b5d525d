"""The guard of a worker of vLLM, and the calls of the worker that it has to know about."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from ...errors import IntegrityError
from ...models import Guard, Manifest
from ...models.names import Names
from .digests import is_shared

_KNOWN = (
    "sleep",
    "wake_up",
    "discard",
    "load_model",
    "reload_weights",
    "reset_weights",
    "start_weight_update",
    "update_weights",
    "finish_weight_update",
    "execute_model",
)
"""The methods of ``vllm/v1/worker/gpu_worker.py`` of vLLM 0.33.0 that use, change or give away the weights. A
worker without one of them does something in another way, which the guard would not notice."""


class WorkerGuard:
    """A guard over the model of a worker. The worker's calls are told to it until :meth:`stop`.

    The calls are replaced on the worker object alone: an extension comes after the worker's class in the
    order of base classes, and cannot override its methods.
    """

    def __init__(
        self,
        worker: Any,
        *,
        manifest: str | None,
        raise_at_forward: bool,
        ignore: str | Iterable[str],
        **options: Any,
    ) -> None:
        missing = [name for name in _KNOWN if not callable(getattr(worker, name, None))]
        if missing:
            raise RuntimeError(
                f"this worker has no method {missing[0]}; the guard follows the workers of vLLM 0.33.0"
            )
        if getattr(getattr(worker, "parallel_config", None), "enable_eplb", False):
            raise ValueError(
                "with enable_eplb, vLLM moves weights of experts while it serves, and a guard would take "
                "each move for damage; turn one of the two off"
            )
        model = worker.model_runner.get_model()
        names = Names.of(ignore, None)
        for name, parameter in model.named_parameters():
            if is_shared(parameter) and not names.ignores(name):
                raise ValueError(
                    f"parameter {name!r} is a SharedWeightParameter, whose partitions a guard does not see; "
                    "leave it out with ignore"
                )
        self._worker = worker
        self._raises = raise_at_forward
        self._asleep = False
        self._awaiting = False
        self._update: AbstractContextManager[None] | None = None
        self._before: dict[str, Any] = {}
        self.guard = Guard(
            model,
            against=None if manifest is None else Manifest.load(manifest_path(worker, manifest)),
            ignore=ignore,
            name=rank_of(worker),
            **options,
        )
        for name, call in self._calls().items():
            self._replace(name, call)

    def status(self) -> dict[str, Any]:
        """The status of the guard as plain values, with what only the worker knows."""
        found = self.guard.status().to_dict()
        return {**found, "ok": found["ok"] and not self._awaiting, "awaiting_weights": self._awaiting}

    def check(self) -> list[dict[str, Any]]:
        """What is wrong now. Raises RuntimeError while the weights are not there or are being updated."""
        self._refuse_discarded(RuntimeError)
        return [finding.to_dict() for finding in self.guard.check()]

    def stop(self) -> None:
        """End the guard, and give the worker its own calls back."""
        self.guard.close()
        for name, before in self._before.items():
            delattr(self._worker, name)
            if before is not None:  # somebody else had replaced it on the object, too
                setattr(self._worker, name, before)
        self._before.clear()

    def _replace(self, name: str, call: Callable[..., Any]) -> None:
        original = getattr(self._worker, name)

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return call(original, *args, **kwargs)

        self._before[name] = vars(self._worker).get(name)
        setattr(self._worker, name, replacement)

    def _calls(self) -> dict[str, Callable[..., Any]]:
        calls: dict[str, Callable[..., Any]] = {
            "sleep": self._sleep,
            "wake_up": self._wake_up,
            "discard": self._discard,
            "load_model": self._load_model,
            "reload_weights": self._declared,
            "reset_weights": self._declared,
            "start_weight_update": self._start_update,
            "update_weights": self._part_of_update,
            "finish_weight_update": self._finish_update,
        }
        if self._raises:
            calls["execute_model"] = self._execute_model
        return calls

    # Sleep. Memory that vLLM has unmapped cannot be read, so that the guard sleeps first and wakes last.

    def _sleep(self, original: Callable[..., Any], level: int = 1) -> Any:
        self._fall_asleep()
        self._awaiting = self._awaiting or level > 1
        return original(level)

    def _discard(self, original: Callable[..., Any], tags: tuple[str, ...]) -> Any:
        if "weights" in tags:
            self._fall_asleep()
            self._awaiting = True
        return original(tags)

    def _fall_asleep(self) -> None:
        if self._update is not None:
            raise RuntimeError("finish the weight update before the worker sleeps; its guard is suspended")
        if not self._asleep and not self._awaiting:
            self.guard.sleep()
        self._asleep = True

    def _wake_up(self, original: Callable[..., Any], tags: list[str] | None = None) -> Any:
        result = original(tags)
        if self._asleep and (tags is None or "weights" in tags):
            self._asleep = False
            # What level 2 has discarded is undefined until weights are loaded.
            if not self._awaiting:
                self.guard.wake()
        return result

    # Updates.

    def _declared(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A call that is an update of its own, or a part of the one that is open."""
        if self._update is not None:
            return original(*args, **kwargs)
        self._open()
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            self._end(error)
            raise
        self._end()
        return result

    def _start_update(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # vLLM may begin to change weights here, so that the guard is told before.
        opened = self._update is None
        if opened:
            self._open()
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            if opened:
                self._end(error)
            raise

    def _part_of_update(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """vLLM gives up an update whose part fails."""
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            self._end(error)
            raise

    def _finish_update(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # If this fails, the update stays open in vLLM, which can finish it later.
        result = original(*args, **kwargs)
        self._end()
        return result

    def _open(self) -> None:
        update = self.guard.updating()
        update.__enter__()
        self._update = update

    def _end(self, error: BaseException | None = None) -> None:
        update, self._update = self._update, None
        if update is None:  # an update of the draft model, which is not guarded
            return
        if error is not None:
            update.__exit__(type(error), error, error.__traceback__)
            return
        update.__exit__(None, None, None)
        if self._awaiting and not self._asleep:
            self._awaiting = False
            self.guard.wake()

    # The rest.

    def _load_model(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("stop_guard() has to come before load_model, which makes another model")

    def _execute_model(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._refuse_discarded(IntegrityError)
        self.guard.raise_for_failure()
        return original(*args, **kwargs)

    def _refuse_discarded(self, kind: type[Exception]) -> None:
        if self._awaiting:
            raise kind("the weights were discarded by a sleep of level 2, and have not been loaded since")


def rank_of(worker: Any) -> str:
    """The ranks of a worker, as ``compute_weight_checksums`` writes them: ``dp0:pp0:pcp0:tp0``."""
    return str(worker._weight_checksum_prefix()).rstrip(":")


def manifest_path(worker: Any, path: str) -> str:
    """A path in which ``{rank}`` is replaced by the ranks of the worker, as in ``dp0-pp0-pcp0-tp0``."""
    return path.replace("{rank}", rank_of(worker).replace(":", "-"))
