"""vLLM's digest of every weight, computed where the weight is, and a plug-in that puts it into vLLM.

The definition is that of ``vllm/model_executor/model_loader/weight_checksum.py`` of vLLM 0.33.0: SHA-256 of
the bytes of each parameter, for ``model.named_parameters()``, in hexadecimal. vLLM copies every parameter to
the host and hashes it there.

Nothing here imports vLLM, except :func:`register` if it is asked for.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ..files import Progress

__all__ = ["SWITCH", "WorkerExtension", "compute_tensor_digests", "named_weights", "register"]

SWITCH = "INTEGRITY_TRITON_VLLM"
"""The environment variable that tells the plug-in what to do."""

_PLUGIN = "integrity_triton"  # the name of the entry point in the group vllm.general_plugins
_DEFINITION = "vllm.model_executor.model_loader.weight_checksum"
_FUNCTION = "compute_tensor_digests"
_logger = logging.getLogger("integrity_triton")


def named_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that vLLM hashes, under the names that it gives them, in its order.

    These are the parameters of ``model.named_parameters()``, so that a shared parameter comes once, and no
    buffers. A parameter that keeps its elements in other tensors is replaced by them, down to tensors that
    hold elements: partition ``index`` of a ``SharedWeightParameter`` of vLLM is ``name.index``, and the
    tensor in the attribute ``attr`` of a wrapper that torch can flatten is ``name.attr``. A ``DTensor`` is
    such a wrapper: its local shard is ``name._local_tensor``.
    """
    for name, parameter in model.named_parameters():
        yield from _parts(name, parameter)


def compute_tensor_digests(
    model: torch.nn.Module,
    *,
    algorithm: str = "sha256",
    backend: str | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """The digests that vLLM's function of the same name computes, each on the device that holds the weight.

    Returns the digest of each tensor of :func:`named_weights` in lower-case hexadecimal, by its name. With
    the default algorithm the result is vLLM's, for every model for which vLLM has one. The bytes are the
    elements of the detached, contiguous tensor; dtype and shape are not hashed. ``algorithm`` is any hash of
    the package without a key; ``backend`` is as for :func:`integrity_triton.hash_batch`; ``progress`` is
    called with numbers of hashed bytes.

    Raises ValueError, which names the parameter, for one without data (on the meta device, fake, not
    initialised, or with freed memory), and TypeError for one that has no dense bytes.
    """
    from .named_tensors import hex_digests

    return hex_digests(named_weights(model), algorithm, backend=backend, progress=progress)


def register() -> None:
    """Plug in to vLLM: the entry point ``integrity_triton`` of the group ``vllm.general_plugins``.

    vLLM loads the plug-ins of this group in every process, in some processes more than once, and all of them
    unless ``VLLM_PLUGINS`` says otherwise. This one does nothing unless it is asked for: by
    ``INTEGRITY_TRITON_VLLM=digests``, or by its name in ``VLLM_PLUGINS``. ``INTEGRITY_TRITON_VLLM=off`` turns
    it off whatever ``VLLM_PLUGINS`` says.

    If it is asked for, vLLM's ``compute_tensor_digests`` is replaced by the one above in the module that
    defines it and in every vLLM module that has imported it. Both hash a small module first, and vLLM's
    function stays where it is unless they agree. A second call changes nothing.

    Raises ValueError for another value of ``INTEGRITY_TRITON_VLLM``, ImportError if this vLLM has no such
    function, and RuntimeError if the two functions do not agree. vLLM does not start then, rather than
    without what was asked for.
    """
    if _asked_for():
        _replace()


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


def _parts(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    outer: Any = tensor
    if _is_shared(outer):
        for index, partition in outer.partitions.items():
            yield from _parts(f"{name}.{index}", partition)
    elif is_traceable_wrapper_subclass(outer):
        for attribute in outer.__tensor_flatten__()[0]:
            yield from _parts(f"{name}.{attribute}", getattr(outer, attribute))
    else:
        yield name, tensor


def _is_shared(tensor: Any) -> bool:
    """Whether a tensor is a ``SharedWeightParameter``: an empty parameter whose partitions hold the elements.

    There is none before the module that defines the class has been imported.
    """
    shared = getattr(sys.modules.get("vllm.model_executor.parameter"), "SharedWeightParameter", None)
    return shared is not None and isinstance(tensor, shared)


def _asked_for() -> bool:
    value = os.environ.get(SWITCH, "").strip().lower()
    if value in {"digests", "off", "0"}:
        return value == "digests"
    if value:
        raise ValueError(f"{SWITCH} is {value!r}; it takes 'digests' or 'off'")
    return _PLUGIN in (name.strip() for name in os.environ.get("VLLM_PLUGINS", "").split(","))


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
