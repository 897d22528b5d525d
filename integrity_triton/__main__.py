"""``python -m integrity_triton``."""

import sys

from .cli import main

sys.exit(main())
