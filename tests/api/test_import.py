"""What ``import integrity_triton`` imports, and how long it takes."""

from __future__ import annotations

import subprocess
import sys


def test_import_is_quick_and_takes_neither_torch_nor_triton():
    # This is processor time, which does not depend on what else the machine does.
    script = (
        "import sys, time; start = time.process_time(); import integrity_triton as it\n"
        "took = time.process_time() - start\n"
        "it.sha256(b'abc').hexdigest(); it.blake3(b'abc').hexdigest(); it.algorithms_available\n"
        "loaded = {'torch', 'triton', 'numpy'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "print(took)\n"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout)
        for _ in range(3)
    ]
    assert min(times) < 0.05
