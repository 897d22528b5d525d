"""Kernels compiled ahead of time: building what ships in ``artifacts/``.

``python -m integrity_triton.aot --compiler FOLDER`` rebuilds it, where FOLDER holds the compiler that
the lock file names (``pip install --no-deps --target FOLDER triton-xpu==3.3.0b1``). Reading artifacts
is ``backends/opencl/prebuilt.py``'s part.
"""
