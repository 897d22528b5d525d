"""vLLM's digest of every weight, computed where the weight is.

The definition is that of ``vllm/model_executor/model_loader/weight_checksum.py`` of vLLM 0.33.0: SHA-256 of
the bytes of each parameter, for ``model.named_parameters()``, in hexadecimal. vLLM copies every parameter to
the host and hashes it there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ...files import Progress


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
    from ..named_tensors import hex_digests

    return hex_digests(named_weights(model), algorithm, backend=backend, progress=progress)


def _parts(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    outer: Any = tensor
    if is_shared(outer):
        for index, partition in outer.partitions.items():
            yield from _parts(f"{name}.{index}", partition)
    elif is_traceable_wrapper_subclass(outer):
        for attribute in outer.__tensor_flatten__()[0]:
            yield from _parts(f"{name}.{attribute}", getattr(outer, attribute))
    else:
        yield name, tensor


def is_shared(tensor: Any) -> bool:
    """Whether a tensor is a ``SharedWeightParameter``: an empty parameter whose partitions hold the elements.

    There is none before the module that defines the class has been imported.
    """
    shared = getattr(sys.modules.get("vllm.model_executor.parameter"), "SharedWeightParameter", None)
    return shared is not None and isinstance(tensor, shared)
