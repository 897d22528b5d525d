"""Changes constants, rotations and operators of the device files, one at a time, and looks which tests fail.

    python tests/mutate.py                      # every mutant of every file; takes an hour or two
    python tests/mutate.py --file sha2 keccak   # the mutants of some files
    python tests/mutate.py --sample 40          # 40 random mutants; runs what killed others of their function
    python tests/mutate.py --write              # also write survivors.json and killers.json

Mutants run in Triton's interpreter, which compiles nothing; docs/internals/mutations.md describes them.
"""

from __future__ import annotations

import sys

from mutation.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], __doc__))
