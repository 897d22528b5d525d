"""The emulator of AMD GPUs: it executes, with NumPy, the assembly that Triton's compiler writes for them.

:mod:`.text` parses a kernel, :mod:`.effects` checks its waits for memory, and :mod:`.translate` makes
functions of its blocks, with the meaning of the instructions in :mod:`.arithmetic`, :mod:`.crosslane`,
:mod:`.matrix` and :mod:`.accesses`. :mod:`.kernel` runs them on a :mod:`.machine`. The page
docs/internals/emulation.md
says what is modelled.
"""

from .backend import AmdgcnBackend

__all__ = ["AmdgcnBackend"]
