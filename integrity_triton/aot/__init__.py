"""Compiling kernels ahead of time: those that ship in ``artifacts/``, and those that a user exports.

``python -m integrity_triton.aot --compiler FOLDER`` rebuilds ``artifacts/``. FOLDER holds the compiler that
the lock file names (``pip install --no-deps --target FOLDER triton-xpu==3.3.0b1``). The artifacts are read by
``backends/opencl/prebuilt.py``.
"""
