"""The cross table of the guide is what signing and verifying every form gives."""

from __future__ import annotations

import pytest

pytest.importorskip("model_signing")

import oms_table


@pytest.mark.slow
def test_the_cross_table_of_the_guide():
    page = oms_table.PAGE.read_text()
    assert page.partition(oms_table.BEGIN)[2].partition(oms_table.END)[0] == oms_table.table()
