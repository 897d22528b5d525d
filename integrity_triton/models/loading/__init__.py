"""Verified loading: tensors whose resident bytes were found to be what was expected, or an error.

``load.py`` has the functions, ``expectations.py`` what a model is checked against, ``plan.py`` what is read,
``host.py`` and ``ring.py`` how it gets to the CPU and to an accelerator. Importing this package imports
no torch.
"""

from __future__ import annotations

from .errors import LoadError, Mismatch
from .expectations import Signed, TensorDigests
from .lazy import safe_open
from .load import load_file, load_verified

__all__ = ["LoadError", "Mismatch", "Signed", "TensorDigests", "load_file", "load_verified", "safe_open"]
