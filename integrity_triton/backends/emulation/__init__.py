"""Execution of the code that Triton compiles for GPUs, on the CPU and with NumPy, and its checks.

This package is what the emulators of all vendors share: memory that is exact to the byte (:mod:`.memory`),
the order in which threads run (:mod:`.scheduler`), races (:mod:`.shadow`), coverage (:mod:`.coverage`), a
driver through which Triton's JIT launches (:mod:`.driver`), and the base class of backends
(:mod:`.backend`). A vendor's package parses its text and executes its instructions (see
:class:`.program.Program`).
"""
