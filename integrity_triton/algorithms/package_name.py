"""The name under which this package was imported, and the name that references give it.

The package is usually installed, and imported as ``integrity_triton``. A copy of it can also be imported from
any folder and under any other name, and several copies in one process, each as a package of its own: Hugging
Face's ``kernels`` does this with what it downloads (docs/guide/kernel_hub.md), and so do projects that vendor
their dependencies. No file of the package therefore imports another one by an absolute name.

References such as ``"integrity_triton.kernels.sha2:sha256_block"`` are data, and the names and digests of
prebuilt kernels depend on their text. So they are spelled in one way everywhere, and ``integrity_triton`` in
a reference means the copy of the package that reads it.
"""

from __future__ import annotations

NAME = "integrity_triton"
"""The name under which the package is installed."""
IMPORTED_AS = __name__.removesuffix(".algorithms.package_name")
"""The name under which this copy was imported."""
IS_INSTALLED = IMPORTED_AS == NAME
"""Whether this copy was imported as ``integrity_triton``. Entry points of other packages belong to that one:
they derive from its classes, and not from those of another copy."""
OPERATORS = IMPORTED_AS.replace(".", "_")
"""The namespace of the torch operators of this copy, which no other copy in the process has."""


def module_here(module: str) -> str:
    """Return the name in ``sys.modules`` of a module that a reference names."""
    if module == NAME or module.startswith(f"{NAME}."):
        return IMPORTED_AS + module.removeprefix(NAME)
    return module
