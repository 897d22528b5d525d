"""A lock on ``triton.language``, whose builtins the interpreter replaces while it runs."""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import Any

_SHARED = "_integrity_triton_shared"


def _of_the_process() -> Any:
    """The one lock of this process. Every copy of the package that is imported in it (see
    ``algorithms/package_name.py``) has modules of its own, but ``triton.language`` is the same for all."""
    shared = sys.modules.setdefault(
        _SHARED, ModuleType(_SHARED, "What all copies of integrity_triton in a process share.")
    )
    return vars(shared).setdefault("language_lock", threading.RLock())


language_lock = _of_the_process()
"""It is held while a kernel is interpreted or compiled, so that these never happen at the same time."""
