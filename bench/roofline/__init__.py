"""How fast each kernel can be, counted in its machine code: ``python -m bench.roofline``. No GPU is needed,
and nothing is measured.

- ``families``: which kernels are counted, and how many bytes a turn of their loop hashes
- ``minimum``: the operations that each algorithm needs, derived from its standard
- ``listing``: a disassembly as basic blocks, their loops, and how often each block runs
- ``vendors``: what an instruction of each vendor is, and how many registers a multiprocessor holds
- ``devices``: published clocks, units and bandwidths
- ``counting``: the counts of one kernel, and the rates that follow from them
- ``report``: the JSON file and the table in ``docs/internals/roofline.md``
"""
