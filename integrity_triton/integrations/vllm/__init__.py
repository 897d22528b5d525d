"""vLLM: its digest of every weight, a guard over the weights of its workers, and the plug-in for both.

- :func:`compute_tensor_digests`, :func:`named_weights`: vLLM's digests, each on the device of its weight;
- :class:`WorkerExtension`: methods for ``collective_rpc``, among them those of the guard;
- :func:`register`: the plug-in, which does what ``INTEGRITY_TRITON_VLLM`` asks for.

Importing this package imports neither torch nor vLLM. Only what plugs in to vLLM imports it, when it is asked
for.
"""

from __future__ import annotations

from .digests import compute_tensor_digests, named_weights
from .plugin import GUARD_OPTIONS, SWITCH, register
from .worker import WorkerExtension

__all__ = [
    "GUARD_OPTIONS",
    "SWITCH",
    "WorkerExtension",
    "compute_tensor_digests",
    "named_weights",
    "register",
]
