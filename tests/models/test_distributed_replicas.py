"""Copies of a model that are compared: which ranks and tensors differ, and where first. All ranks are threads
of one process."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import integrity_triton as it
from distributed_support import InThreads, in_threads
from guard_support import flip
from integrity_triton.backends import native
from integrity_triton.models.distributed import replicas, watch
from integrity_triton.models.distributed.exchange import Alone
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


def run(sources: list[dict[str, torch.Tensor]], algorithm: str = "sha256") -> tuple[list[object], list[int]]:
    """What all ranks report, and the bytes of each gathering."""
    gathered: list[int] = []

    def one(exchange: InThreads) -> object:
        found = compare(Copies.of(sources[exchange.rank], check_algorithm(algorithm), None), exchange)
        if exchange.rank == 0:
            gathered.extend(exchange.gathered)
        return found

    return in_threads(len(sources), one), gathered


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=3).filter(lambda shape: math.prod(shape) < 20000),
    st.sampled_from(["sha256", "blake3"]),
    st.data(),
)
def test_the_first_chunk(shape, algorithm, data):
    size = math.prod(shape)
    wrong = data.draw(st.integers(0, 2))
    places = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=3))
    sources = [{"w": torch.zeros(shape, dtype=torch.uint8), "x": torch.ones(3)} for _ in range(3)]
    for place in set(places):
        flip(sources[wrong]["w"], place)
    reports, gathered = run(sources, algorithm)
    (difference,) = reports[0].differences
    assert reports == [reports[0]] * 3
    expected = next((a, b) for a, b in leaves(tuple(shape)) if a <= min(places) < b)
    assert (difference.start, difference.stop) == expected
    others = tuple(rank for rank in range(3) if rank != wrong)
    assert difference.ranks == (wrong,) and difference.groups == (others, (wrong,))
    assert gathered[0] == 32
    assert len(gathered) <= 3 + math.ceil(math.log2(max(size, 2)))


def test_equal_copies():
    reports, gathered = run([{"w": torch.arange(9000)}] * 4)
    assert all(report.ok for report in reports) and gathered == [32]
    assert str(reports[0]) == "1 tensors are equal in 4 ranks"
    reports[0].raise_for_mismatch()


@pytest.mark.parametrize("hash_name", ["sha256", "blake3"])
def test_the_order_of_names_does_not_matter(hash_name):
    names = {name: torch.full((100,), ord(name)) for name in "abc"}
    reports, gathered = run([names, dict(reversed(names.items()))], hash_name)
    assert all(report.ok for report in reports) and gathered == [32]


def test_a_chunk_of_the_most_bytes_is_not_divided():
    sources = [{"w": torch.zeros(512, dtype=torch.uint8)} for _ in range(2)]
    flip(sources[0]["w"], 400)
    (difference,) = run(sources)[0][0].differences
    assert (difference.start, difference.stop) == (256, 512)


def test_many_tensors_that_differ():
    """The first difference is looked for in some of them, and is in another place in each."""
    sources = [{f"{i:02}": torch.zeros(640) for i in reversed(range(20))} for _ in range(2)]
    for i in range(20):
        sources[1][f"{i:02}"][32 * i :] = 1
    sources[1] = dict(sorted(sources[1].items()))
    report = run(sources)[0][0]
    assert [d.name for d in report.differences] == [f"{i:02}" for i in range(20)]
    places = [(d.start, d.stop) for d in report.differences]
    expected = [(128 * i // 160 * 160, 128 * i // 160 * 160 + 160) for i in range(16)]  # 16 leaves
    assert places == expected + [(None, None)] * 4
    text = str(report).splitlines()
    assert text[1] == (
        "  tensor '00': there is no majority: rank 0 and rank 1 differ, first in bytes 0 to 160"
    )
    assert text[20] == "  tensor '19': there is no majority: rank 0 and rank 1 differ"
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


def test_other_tensors_in_more_than_two_ways():
    """The two largest groups are told apart."""
    x = torch.ones(2)
    found, _ = run([{"w": x}, {"w": x, "v": x}, {"w": x, "u": x}, {"w": x, "u": x}, {"w": x}])
    assert {str(error) for error in found} == {
        "the ranks do not hold the same tensors: 'u' is absent on ranks 0, 4 and F32 [2] on ranks 2-3"
    }


def test_alone():
    model = torch.nn.Linear(3, 4)
    assert distributed.check_replicas(model).ok
    assert distributed.check_replicas({}).ok
    with pytest.raises(TypeError, match="replicas are compared of"):
        distributed.check_replicas(torch.ones(3))
    with pytest.raises(ValueError, match="tensor 'a': a meta tensor"):
        distributed.check_replicas({"a": torch.empty(2, device="meta")})


def test_a_hash_that_is_a_tree_takes_each_tensor_as_one_message(monkeypatch):
    """And names of the same memory once."""
    batches = []

    def hash_batch(messages, *args, **options):
        batches.append([x.data_ptr() for x in messages])
        return it.hash_batch(messages, *args, **options)

    monkeypatch.setattr(replicas, "hash_batch", hash_batch)
    x, y, z = torch.randn(60, 60), torch.randn(9).double(), torch.randn(40, dtype=torch.complex64)
    source = {"x": x, "again": x, "across": x.t(), "unlike": torch.randn(60, 60), "y": y, "one": y[3]}
    source |= {"empty": x[:0], "z": z, "conjugate": z.conj(), "negative": torch._neg_view(z)}
    copies = Copies.of(source, check_algorithm("blake3"), None)
    assert copies.digests == {
        name: it.new("blake3", t.resolve_conj().resolve_neg().numpy().tobytes()).digest()
        for name, t in source.items()
    }
    assert len(batches) == 1 and batches[0].count(x.data_ptr()) == 2  # as it is, and across
    content = {name: distributed.tensor_digest(t, algorithm="sha256") for name, t in source.items()}
    assert Copies.of(source, check_algorithm("sha256"), None).digests == content


def test_the_summary_counts_everything():
    """Tensors of the same bytes under another name, dtype or shape are other copies."""
    x = torch.zeros(6)
    sources = [{"a": x}, {"b": x}, {"a": x.int()}, {"a": x.view(2, 3)}, {"a": x + 1}, {"a": x, "b": x}, {}]
    for name in ("blake3", "sha256"):
        copies = [Copies.of(source, check_algorithm(name), None) for source in sources]
        assert len({x.summary for x in copies}) == len(sources)
        assert all(len(x.summary) == 32 for x in copies)
    assert len(Copies.of({}, check_algorithm("sha512"), None).summary) == 32


def test_every_byte_of_a_digest_counts():
    """And what lies above the digests is not worth more than they are."""
    copies = Copies.of({"v": torch.ones(3), "w": torch.ones(300)}, check_algorithm("blake3"), None)
    digest = copies.digests["w"]
    other = replace(copies, digests={**copies.digests, "w": digest[:-1] + bytes([digest[-1] ^ 1])})
    found = in_threads(3, lambda exchange: compare(other if exchange.rank == 2 else copies, exchange))
    assert [(d.name, d.ranks) for d in found[0].differences] == [("w", (2,))]

    class Damaged(Copies):
        summary = bytes(32)

    damaged = Damaged(copies.held, copies.digests, copies.hash_, None)
    found = in_threads(2, lambda exchange: compare(damaged if exchange.rank else copies, exchange))
    assert [str(error) for error in found] == [
        "the ranks' digests of all copies are equal, and those over them were damaged"
    ] * 2


def test_a_rank_that_fails_tells_the_others(monkeypatch):
    monkeypatch.setattr(replicas, "exchange_for", lambda group, timeout: group)

    def one(exchange: InThreads) -> str:
        source = {"w": torch.ones(3, device="meta" if exchange.rank else "cpu")}
        with pytest.raises((ValueError, threading.BrokenBarrierError)):
            distributed.check_replicas(source, exchange)
        return str(exchange.given_up)

    assert in_threads(2, one) == ["['BrokenBarrierError']", "['ValueError']"]


def test_the_digests_are_those_of_the_step(monkeypatch):
    """Forward and backward passes run while nothing has been hashed yet, and the optimizer changes nothing
    before all is."""
    at_the_step = threading.Event()
    found = []

    class Late(Copies):
        @classmethod
        def of(cls, *args):
            assert at_the_step.wait(60)
            found.append(Copies.of(*args))
            return found[-1]

    class Hashing(watch._Hashing):
        def result(self):
            at_the_step.set()  # the optimizer is about to change the parameters, and waits
            return super().result()

    monkeypatch.setattr(watch, "Copies", Late)
    monkeypatch.setattr(watch, "_Hashing", Hashing)
    model = torch.nn.Linear(40, 30)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = distributed.ReplicaWatch(model, every=2)
    watched.attach(optimizer)
    for count in range(1, 8):
        optimizer.zero_grad()
        model(torch.randn(1, 40)).sum().backward()
        assert len(found) == (count - 1) // 2 - (count % 2 and count > 1)
        optimizer.step()
        assert len(found) == (count - 1) // 2
        if count % 2 == 0:
            announced = {name: x.detach().clone() for name, x in model.named_parameters()}
        elif count > 1:
            assert found[-1].digests == Copies.of(announced, check_algorithm("blake3"), None).digests
            assert found[-1].digests != Copies.of(model, check_algorithm("blake3"), None).digests
        at_the_step.clear()
    watched.close()


def test_a_watch_takes_one_processor(monkeypatch):
    """The library hashes in the thread of the watch alone."""
    seen = []

    class Noted(Copies):
        @classmethod
        def of(cls, *args):
            seen.append((native._alone(), threading.current_thread().name))
            return Copies.of(*args)

    monkeypatch.setattr(watch, "Copies", Noted)
    watched = distributed.ReplicaWatch(torch.nn.Linear(2, 2), every=1)
    watched.after_step()
    watched.close()
    assert seen == [(True, "integrity_triton replicas")] and not native._alone()


def test_a_watch():
    """Steps are counted, hooks are called by an optimizer and removed, errors of the thread are raised."""
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reports = []
    watched = distributed.ReplicaWatch(model, every=3, on_report=reports.append).attach(optimizer)

    def step() -> None:
        model(torch.ones(1, 8)).sum().backward()
        optimizer.step()

    for count in range(1, 11):
        step()
        assert len(reports) == (count - 1) // 3
    step()
    watched.close()
    assert len(reports) == 3
    for _ in range(3):
        step()
    assert len(reports) == 3 and all(report.ok and report.tensors == 2 for report in reports)

    with torch.no_grad():
        watched.after_step()  # the twelfth
        model.weight += 1
    with pytest.raises(distributed.DistributedError, match="'weight' was changed between two steps"):
        watched.before_step()
    model.weight.untyped_storage().resize_(0)
    for _ in range(3):
        watched.after_step()
    with pytest.raises(ValueError, match="tensor 'weight': the tensor's elements end at"):
        watched.close()
    with pytest.raises(ValueError, match="every must be a positive"):
        distributed.ReplicaWatch(model, every=0)


def test_a_watch_passes_on_what_it_is_told(monkeypatch):
    asked, given_up = [], []

    class Noted(Alone):
        def give_up(self, error):
            given_up.append(type(error))

    def exchange_for(*args):
        asked.append(args)
        return Noted()

    monkeypatch.setattr(watch, "exchange_for", exchange_for)
    model = torch.nn.Linear(2, 2)
    watched = distributed.ReplicaWatch(model, "a group", every=1, timeout=7.0, algorithm="sha256")
    watched.after_step()
    watched.close()
    assert asked == [("a group", 7.0)] and not given_up
    watched = distributed.ReplicaWatch(model, every=1, backend="no such")
    watched.after_step()
    with pytest.raises(ValueError, match="no such") as caught:
        watched.close()
    assert given_up == [caught.type]
    with pytest.raises(it.models.ManifestError):
        distributed.ReplicaWatch(model, algorithm="md5")


def test_a_watch_of_tied_parameters_and_of_such_as_count_no_versions():
    reports = []
    with torch.inference_mode():
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    watched = distributed.ReplicaWatch(model, every=1, on_report=reports.append)
    watched.after_step()
    watched.close()
    assert [report.tensors for report in reports] == [4]


def test_a_watch_that_nobody_told_what_to_do_raises(monkeypatch):
    """Out of a step, before anything is changed; and each comparison is made once."""
    report = distributed.ReplicaReport(1, 2, (distributed.Difference("w", ((0,), (1,))),))
    monkeypatch.setattr(watch, "compare", lambda *_: report)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    watched = distributed.ReplicaWatch(model, every=1).attach(optimizer)
    for x in model.parameters():
        x.grad = torch.ones_like(x)
    optimizer.step()
    before = model.weight.detach().clone()
    with pytest.raises(distributed.ReplicaMismatch, match="tensor 'w'"):
        optimizer.step()
    assert torch.equal(before, model.weight)
    optimizer.step()
    assert not torch.equal(before, model.weight)
    with pytest.raises(distributed.ReplicaMismatch):
        watched.close()
    optimizer.step()


def test_a_watch_drops_no_comparison():
    """If a loop announces two steps without a word between them, the first is compared then."""
    reports = []
    watched = distributed.ReplicaWatch(torch.nn.Linear(2, 2), every=1, on_report=reports.append)
    for count in range(3):
        watched.after_step()
        assert len(reports) == count
    watched.close()
    assert len(reports) == 3


def test_a_watch_compares_what_is_left_when_it_is_closed():
    reports = []
    watched = distributed.ReplicaWatch(torch.nn.Linear(2, 2), every=1, on_report=reports.append)
    watched.after_step()
    watched.close()
    watched.close()
    assert len(reports) == 1
