"""Mutants of compiled GPU code: does the emulated run of a kernel notice that one instruction is another?

:mod:`.ptx` and :mod:`.amdgcn` change one instruction of a kernel's text, :mod:`.trials` runs the known-answer
trials of the kernel's self-test on the result, and :mod:`.report` keeps what was found.
"""
