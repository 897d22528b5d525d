"""For which values of its arguments Triton specializes a kernel."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from integrity_triton.algorithms import load_reference


def test_integers_of_kernels_are_not_specialized(specializations):
    """A kernel is compiled once for all values of its lengths, counts and strides, including 1 and 16."""
    for reference in sorted({asked.kernel for asked in specializations.values()}):
        parameters = load_reference(reference).params
        integers = {p.name for p in parameters if p.annotation_type == "i64"}
        assert integers == {
            p.name for p in parameters if p.do_not_specialize and not p.name.endswith("_ptr")
        }, reference
        assert not any(p.do_not_specialize for p in parameters if p.is_constexpr)
