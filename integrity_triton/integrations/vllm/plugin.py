"""The plug-in: what vLLM calls in every process, and what it then does if it is asked for."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .digests import compute_tensor_digests

if TYPE_CHECKING:
    import torch

SWITCH = "INTEGRITY_TRITON_VLLM"
"""The environment variable that tells the plug-in what to do: ``digests``, ``guard`` or ``loader``, or
several of them with commas between; or ``off``."""
GUARD_OPTIONS = "INTEGRITY_TRITON_VLLM_GUARD"
"""The environment variable with the arguments of ``start_guard`` for ``guard``, as a JSON object."""

_PLUGIN = "integrity_triton"  # the name of the entry point in the group vllm.general_plugins
_DEFINITION = "vllm.model_executor.model_loader.weight_checksum"
_FUNCTION = "compute_tensor_digests"
_WORKER = "vllm.v1.worker.worker_base"
_EXTENSION = "integrity_triton.integrations.vllm.WorkerExtension"
_READY = "_integrity_triton_guard_is_to_start"  # the attribute of a worker whose extension was prepared
_logger = logging.getLogger("integrity_triton")


def register() -> None:
    """Plug in to vLLM: the entry point ``integrity_triton`` of the group ``vllm.general_plugins``.

    vLLM loads the plug-ins of this group in every process, in some processes more than once, and all of them
    unless ``VLLM_PLUGINS`` says otherwise. This one does nothing unless it is asked for by
    ``INTEGRITY_TRITON_VLLM``, which lists what to do with commas between; its name in ``VLLM_PLUGINS`` asks
    for ``digests``. ``INTEGRITY_TRITON_VLLM=off`` turns it off whatever ``VLLM_PLUGINS`` says.

    With ``digests``, vLLM's ``compute_tensor_digests`` is replaced by the one above in the module that
    defines it and in every vLLM module that has imported it. Both hash a small module first, and vLLM's
    function stays where it is unless they agree.

    With ``guard``, each worker starts a guard when it has warmed up, with the arguments of
    :meth:`WorkerExtension.start_guard` that the JSON object in ``INTEGRITY_TRITON_VLLM_GUARD`` gives. The
    workers need :class:`WorkerExtension` for it, and do not start without.

    With ``loader``, vLLM gets the load format ``integrity_triton``, which hands out verified weights only;
    ``docs/integrations/vllm.md`` says how it is used.

    A second call changes nothing.

    Raises ValueError for another value of ``INTEGRITY_TRITON_VLLM`` or for options that are no JSON object,
    ImportError if this vLLM lacks what is replaced, and RuntimeError if the two functions do not agree. vLLM
    does not start then, rather than without what was asked for.
    """
    asked = requested()
    if "digests" in asked:
        _replace()
    if "guard" in asked:
        guard_options()
        _require_the_extension()
    if "loader" in asked:
        from .loader import register_load_format

        register_load_format()


def requested() -> frozenset[str]:
    """What the environment asks for, of ``digests``, ``guard`` and ``loader``."""
    value = os.environ.get(SWITCH, "").strip().lower()
    if value in {"off", "0"}:
        return frozenset()
    if value:
        parts = frozenset(part.strip() for part in value.split(","))
        if not parts <= _PARTS:
            unknown = sorted(parts - _PARTS)[0]
            raise ValueError(
                f"{SWITCH} is {value!r}; it takes 'off', or one or more of "
                f"{', '.join(map(repr, sorted(_PARTS)))} with commas between, not {unknown!r}"
            )
        return parts
    plugins = os.environ.get("VLLM_PLUGINS", "").split(",")
    return frozenset({"digests"} if _PLUGIN in (name.strip() for name in plugins) else ())


_PARTS = frozenset({"digests", "guard", "loader"})


def guard_options() -> dict[str, Any]:
    """The arguments of ``start_guard`` in the environment. Raises ValueError if they are no JSON object."""
    text = os.environ.get(GUARD_OPTIONS, "").strip() or "{}"
    try:
        options = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{GUARD_OPTIONS} is not JSON ({error}); it is {text!r}") from None
    if not isinstance(options, dict):
        raise ValueError(f"{GUARD_OPTIONS} must be a JSON object of arguments of start_guard, not {text!r}")
    return options


def start_guard_after_warm_up(worker: Any, start: Callable[..., object]) -> None:
    """Have a worker start its guard at the end of ``compile_or_warm_up_model``, if the environment asks for
    it.

    That call is the last one before vLLM serves. While it captures CUDA graphs, no other thread may use the
    device.
    """
    if "guard" not in requested():
        return
    options = guard_options()
    original = worker.compile_or_warm_up_model

    @functools.wraps(original)
    def compile_or_warm_up_model(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        del worker.compile_or_warm_up_model
        start(**options)
        return result

    worker.compile_or_warm_up_model = compile_or_warm_up_model
    setattr(worker, _READY, True)


def _require_the_extension() -> None:
    """Have vLLM refuse workers that would not start a guard: those without the extension, and, in a vLLM
    without hooks for extensions, all."""
    from importlib import import_module

    try:
        wrapper = import_module(_WORKER).WorkerWrapperBase
        original = wrapper.init_device
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"{_WORKER}.WorkerWrapperBase.init_device cannot be found ({error}); {SWITCH}=guard needs vLLM "
            "0.33 or a later version that has it"
        ) from error
    if getattr(original, _READY, False):
        return

    @functools.wraps(original)
    def init_device(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if not getattr(self.worker, _READY, False):
            raise RuntimeError(
                f"{SWITCH} asks for a guard in every worker, and this worker would not start one; run vLLM "
                f"0.33 or later with --worker-extension-cls {_EXTENSION}"
            )
        return result

    setattr(init_device, _READY, True)
    wrapper.init_device = init_device


def _replace() -> None:
    from importlib import import_module

    try:
        original = getattr(import_module(_DEFINITION), _FUNCTION)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"{_DEFINITION}.{_FUNCTION} cannot be imported ({error}); {SWITCH}=digests needs vLLM 0.33 or a "
            f"later version that has it, and {SWITCH}=off starts vLLM without it"
        ) from error
    if original is compute_tensor_digests:
        return
    _check_agreement(original)
    # Who imported the function by name has a reference of their own.
    places = [
        name
        for name, module in list(sys.modules.items())
        if name.startswith("vllm.") and vars(module).get(_FUNCTION) is original
    ]
    for name in places:
        setattr(sys.modules[name], _FUNCTION, compute_tensor_digests)
    _logger.info("vLLM computes weight digests with integrity_triton: %s", ", ".join(sorted(places)))


def _check_agreement(original: Callable[[torch.nn.Module], dict[str, str]]) -> None:
    """Raise RuntimeError unless vLLM's function gives the same digests in the same order for a small module.

    A later version of vLLM may define its digests differently.
    """
    import torch

    class Sample(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            values = torch.arange(60, dtype=torch.float32, device="cpu")
            for name, parameter in {
                "matrix": values.view(5, 12).t(),
                "shared": values.bfloat16(),
                "scalar": values[7],
                "empty": values[:0],
                "float8": values.to(torch.float8_e4m3fn),
                "integers": values.to(torch.int8),
            }.items():
                self.register_parameter(name, torch.nn.Parameter(parameter, requires_grad=False))
            self.tied = self.shared
            self.register_buffer("buffer", values)

    sample = Sample()
    theirs, ours = original(sample), compute_tensor_digests(sample)
    if list(theirs.items()) != list(ours.items()):
        raise RuntimeError(
            f"{_DEFINITION}.{_FUNCTION} of this vLLM gives other digests than those of vLLM 0.33.0, which "
            f"integrity_triton computes; set {SWITCH}=off to start vLLM with its own function"
        )
