"""Makes the known answers that ``integrity-triton conformance`` checks, from the oracle.

python make_answers.py
"""

import platform
from pathlib import Path

from integrity_triton_ascon import ASCON_HASH256, oracle

from integrity_triton.algorithms import known_answers


def ask(record, question):
    return oracle.ascon_hash256(question.content(), **question.values(record)).digest()


if __name__ == "__main__":
    text = known_answers.make(
        ASCON_HASH256,
        ask,
        source="integrity_triton_ascon.oracle, plain Python from SP 800-232",
        version=f"Python {platform.python_version()}",
        made="python make_answers.py",
    )
    Path(__file__).with_name("integrity_triton_ascon").joinpath("answers.json").write_text(text, "utf-8")
