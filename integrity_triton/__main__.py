"""``python -m integrity_triton``."""

import sys

from .cli import main

if __name__ == "__main__":  # and not where a process that it starts imports it
    sys.exit(main())
