"""Copies of a model that are compared: which ranks and tensors differ, and where first. All ranks are threads
of one process."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import integrity_triton as it
from distributed_support import InThreads, in_threads
from guard_support import flip
from integrity_triton.models.distributed.records import check_algorithm
from integrity_triton.models.distributed.replicas import Copies, compare

distributed = it.models.distributed


def leaves(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Where the leaves of a tensor of bytes begin and end, by cutting the offsets in halves."""

    def cut(offsets: np.ndarray) -> list[tuple[int, int]]:
        if offsets.size <= 256:
            return [(int(offsets.min()), int(offsets.max()) + 1)]
        dim = next(i for i, size in enumerate(offsets.shape) if size > 1)
        first, second = np.split(offsets, [(offsets.shape[dim] + 1) // 2], axis=dim)
        return cut(first) + cut(second)

    return cut(np.arange(math.prod(shape)).reshape(shape))


def run(sources: list[dict[str, torch.Tensor]]) -> tuple[list[object], list[int]]:
    """What all ranks report, and the bytes of each gathering."""
    gathered: list[int] = []

    def one(exchange: InThreads) -> object:
        found = compare(Copies.of(sources[exchange.rank], check_algorithm("sha256"), None), exchange)
        if exchange.rank == 0:
            gathered.extend(exchange.gathered)
        return found

    return in_threads(len(sources), one), gathered


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=3).filter(lambda shape: math.prod(shape) < 20000),
    st.data(),
)
def test_the_first_chunk(shape, data):
    size = math.prod(shape)
    places = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=3))
    sources = [{"w": torch.zeros(shape, dtype=torch.uint8), "x": torch.ones(3)} for _ in range(3)]
    for place in set(places):
        flip(sources[1]["w"], place)
    reports, gathered = run(sources)
    (difference,) = reports[0].differences
    assert reports == [reports[0]] * 3
    expected = next((a, b) for a, b in leaves(tuple(shape)) if a <= min(places) < b)
    assert (difference.start, difference.stop) == expected
    assert difference.ranks == (1,) and difference.groups == ((0, 2), (1,))
    assert gathered[0] == 32
    assert len(gathered) <= 3 + math.ceil(math.log2(max(size, 2)))


def test_equal_copies():
    reports, gathered = run([{"w": torch.arange(9000)}] * 4)
    assert all(report.ok for report in reports) and gathered == [32]
    assert str(reports[0]) == "1 tensors are equal in 4 ranks"
    reports[0].raise_for_mismatch()


def test_many_tensors_that_differ():
    """The first difference is looked for in some of them."""
    sources = [{f"{i:02}": torch.full((300,), rank + i) for i in range(20)} for rank in range(2)]
    report = run(sources)[0][0]
    assert len(report.differences) == 20
    assert [d.start is None for d in report.differences] == [False] * 16 + [True] * 4
    assert report.differences[0].ranks == (0, 1)
    with pytest.raises(distributed.ReplicaMismatch, match="copies of 20 of 20 tensors differ"):
        report.raise_for_mismatch()


def test_groups_without_a_majority():
    sources = [{"w": torch.full((4,), value)} for value in (1, 2, 2, 3)]
    (difference,) = run(sources)[0][0].differences
    assert difference.groups == ((1, 2), (0,), (3,)) and difference.ranks == (0, 1, 2, 3)
    assert "there is no majority: ranks 1-2 and rank 0 and rank 3 differ" in str(difference)


def test_other_tensors():
    found, _ = run([{"w": torch.ones(3)}, {"w": torch.ones(3), "v": torch.ones(1), "u": torch.ones(1)}])
    assert str(found[0]) == (
        "the ranks do not hold the same tensors: 'u' is absent on rank 0 and F32 [1] on rank 1, and 1 more "
        "tensors differ"
    )


def test_alone():
    model = torch.nn.Linear(3, 4)
    assert distributed.check_replicas(model).ok
    assert distributed.check_replicas({}).ok
    with pytest.raises(TypeError, match="replicas are compared of"):
        distributed.check_replicas(torch.ones(3))
    with pytest.raises(ValueError, match="tensor 'a': a meta tensor"):
        distributed.check_replicas({"a": torch.empty(2, device="meta")})


def test_a_watch():
    """Steps are counted, hooks are called by an optimizer and removed, errors of the thread are raised."""
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reports = []
    watch = distributed.ReplicaWatch(model, every=3, on_report=reports.append).attach(optimizer)

    def step() -> None:
        model(torch.ones(1, 8)).sum().backward()
        optimizer.step()

    for count in range(1, 11):
        step()
        assert len(reports) == (count - 1) // 3
    step()
    watch.close()
    assert len(reports) == 3
    for _ in range(3):
        step()
    assert len(reports) == 3 and all(report.ok and report.tensors == 2 for report in reports)

    with torch.no_grad():
        watch.after_step()  # the twelfth
        model.weight += 1
    with pytest.raises(distributed.DistributedError, match="'weight' was changed between two steps"):
        watch.before_step()
    model.weight.untyped_storage().resize_(0)
    for _ in range(3):
        watch.after_step()
    with pytest.raises(ValueError, match="tensor 'weight': the tensor's elements end at"):
        watch.close()
    with pytest.raises(ValueError, match="every must be a positive"):
        distributed.ReplicaWatch(model, every=0)


def test_a_watch_compares_what_is_left_when_it_is_closed():
    reports = []
    watch = distributed.ReplicaWatch(torch.nn.Linear(2, 2), every=1, on_report=reports.append)
    watch.after_step()
    watch.close()
    watch.close()
    assert len(reports) == 1
