"""Copies within the memory of a batch, compared with torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from integrity_triton.messages import copying
from integrity_triton.messages.copying import (
    bytes_of_rows,
    bytes_reversed,
    clear,
    copy_beginnings,
    copy_rows,
    exclusive_or,
    one_after_another,
    put,
    repeated,
    side_by_side,
    taken,
)
from integrity_triton.messages.layout import Rows

WORDS = torch.arange(24, dtype=torch.int64).view(4, 6) * 0x0123456789ABCDEF


@pytest.mark.parametrize(("start", "stop"), [(0, 48), (0, 32), (5, 13), (47, 48), (3, 3)])
@pytest.mark.parametrize("rows", [WORDS, WORDS[:1], WORDS[:0]])
def test_bytes_of_rows(rows, start, stop):
    found = bytes_of_rows(rows, start, stop)
    assert found.is_contiguous()
    assert found.equal(rows.view(torch.uint8)[:, start:stop])


def test_rows_of_any_strides_are_copied():
    memory = torch.arange(60, dtype=torch.uint8)
    for source in (
        memory.view(6, 10)[1:4, 2:9],
        memory[:21].view(7, 3).t(),
        memory[:7].expand(3, 7),
        memory[:27].as_strided((3, 7), (5, 1)),
    ):
        to = torch.full((5, 9), 0xA5, dtype=torch.uint8)
        copy_rows(to[1:4, 1:8], source)
        assert to[1:4, 1:8].equal(source)
        assert int((to == 0xA5).sum()) >= 45 - 21
        assert (to[0] == 0xA5).all()
        assert (to[:, 0] == 0xA5).all()
        assert (to[:, 8] == 0xA5).all()


def test_rows_side_by_side():
    parts = [torch.randint(0, 256, (4, width), dtype=torch.uint8) for width in (3, 0, 5)]
    parts.append(torch.tensor([7, 8], dtype=torch.uint8).expand(4, 2))
    assert side_by_side(parts).equal(torch.cat(parts, dim=1))

    out = torch.full((4, 12), 0xA5, dtype=torch.uint8)
    assert side_by_side(parts, out[:, 1:11]).equal(torch.cat(parts, dim=1))
    assert (out[:, [0, 11]] == 0xA5).all()


@pytest.fixture(params=["one thread", "torch"])
def either_way(request, monkeypatch):
    """Copies as on a CPU, and as on an accelerator, both on the CPU."""
    if request.param == "torch":
        monkeypatch.setattr(copying, "by_one_thread", lambda x: False)
        monkeypatch.setattr(copying, "_STACKED", 2)


@pytest.mark.parametrize("indices", [[3, 0, 3], [], [1]])
def test_rows_at_indices(either_way, indices):
    rows = WORDS.view(torch.uint8)
    places = np.array(indices, np.int64)
    assert taken(rows, places).equal(rows[indices])
    to = torch.full((4, 48), 0xA5, dtype=torch.uint8)
    distinct = np.unique(places)
    put(to, distinct, rows[: len(distinct)])
    assert to[distinct.tolist()].equal(rows[: len(distinct)])
    assert int((to == 0xA5).all(dim=1).sum()) == 4 - len(distinct)


@pytest.mark.parametrize("rows", [WORDS, WORDS[:1], WORDS[:, 1:4]])
def test_bytes_that_change_places_or_bits(either_way, rows):
    rows = rows.view(torch.uint8)
    row = torch.arange(rows.shape[1], dtype=torch.uint8)[None] * 5
    assert exclusive_or(rows, row).equal(rows ^ row)
    assert exclusive_or(rows, 0x5C).equal(rows ^ 0x5C)
    words = [bytes(word.tolist())[::-1] for row in rows.contiguous() for word in row.view(-1, 8)]
    assert bytes(bytes_reversed(rows.contiguous()).view(-1).tolist()) == b"".join(words)


def test_tensors_one_after_the_other(either_way):
    memory = torch.arange(60, dtype=torch.uint8)
    parts = [memory[5:9], memory[:0], memory[3:50], memory[59:]]
    assert one_after_another(parts).equal(torch.cat(parts))
    assert one_after_another(parts[1:2]).numel() == 0


@pytest.mark.parametrize("size", [0, 1, 7])
def test_beginnings_are_copied_to_rows(either_way, size):
    memory = torch.arange(60, dtype=torch.uint8)
    sources = [memory[start : start + 7 + start] for start in (3, 0, 20, 11, 5)]
    to = torch.full((5, 9), 0xA5, dtype=torch.uint8)
    copy_beginnings(to[:, 1 : 1 + size], sources)
    assert to[:, 1 : 1 + size].equal(torch.stack([source[:size] for source in sources]))
    assert (to[:, 0] == 0xA5).all()
    assert (to[:, 1 + size :] == 0xA5).all()


@pytest.mark.parametrize("dtype", [torch.uint64, torch.uint32, torch.uint8])
def test_repeated_rows(dtype):
    rows = WORDS.view(dtype)
    found = repeated(rows, 3)
    assert found.dtype == dtype
    assert found.view(torch.uint8).equal(rows.view(torch.uint8).repeat(3, 1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_nothing_but_the_memory_is_cleared(dtype):
    memory = torch.full((4, 6), 5, dtype=dtype)
    assert clear(memory[1:3, 2:4]).sum() == 0
    assert int((memory == 0).sum()) == 4
    assert clear(memory) is memory
    assert int((memory == 0).sum()) == 24


def test_a_table_holds_the_messages():
    data = torch.arange(100, dtype=torch.uint8)
    rows = Rows(data[3:], data.data_ptr() + 3, 4, 10, 7, 37)
    assert rows.table().equal(torch.stack([rows.view(i) for i in range(4)]))
    rows = Rows.of(data.view(10, 10)).only(4)
    assert rows.table().equal(data[40:50].view(1, 10))
    words = Rows(WORDS, WORDS.data_ptr(), 4, 48, 48, 192)
    assert words.table().equal(torch.stack([words.view(i) for i in range(4)]))
