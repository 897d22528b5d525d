"""The table of ``docs/reference/algorithms.md``, made from the records.

``python -m docs.algorithm_table [--write]``

Without ``--write`` it says whether the page is up to date, by its exit status.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from integrity_triton.algorithms import Algorithm, all_algorithms
from integrity_triton.algorithms.description import allowed, digest, kind, listed

PAGE = Path(__file__).parent / "reference" / "algorithms.md"
FIRST, LAST = "| name | ", "\n\n"


def table() -> str:
    rows = [
        ("name", "kind", "digest, block", "security", "parameters", "standard"),
        ("---",) * 6,
        *(_row(r) for r in sorted(all_algorithms(), key=listed) if r.construction.hmac_of is None),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _row(record: Algorithm) -> tuple[str, ...]:
    remarks = [kind(record)] + (["parallel within one message"] if record.parallel else [])
    return (
        f"`{record.name}`",
        "; ".join(remarks),
        f"{digest(record)}, {record.block_size}",
        f"**{record.security.value}**: {record.security_note}",
        ", ".join(f"`{p.name}` ({allowed(p)})" for p in record.parameters),
        record.standard,
    )


def renewed(page: str) -> str:
    """``page`` with the table of today. Raises ValueError if it has none."""
    start = page.index(FIRST)
    return page[:start] + table() + page[page.index(LAST, start) :]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.algorithm_table", description=__doc__)
    parser.add_argument("--write", action="store_true", help="bring the page up to date")
    options = parser.parse_args()
    page = PAGE.read_text("utf-8")
    if options.write:
        PAGE.write_text(renewed(page), "utf-8")
    elif renewed(page) != page:
        raise SystemExit(f"{PAGE} is out of date: python -m docs.algorithm_table --write")


if __name__ == "__main__":
    main()
