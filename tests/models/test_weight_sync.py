"""Weight syncs: digests of what a trainer sends and of what an engine holds."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed_support import InThreads, in_threads
from integrity_triton.models import ManifestError
from integrity_triton.models.distributed import (
    LocalShard,
    Part,
    SyncMismatch,
    SyncStatement,
    WeightSync,
    fused,
    resolve,
    root,
    weight_sync,
)

HERE = Path(__file__).resolve().parent
SENT = {
    "q": torch.arange(24.0).view(6, 4),
    "k": torch.arange(8.0).view(2, 4) + 100,
    "v": torch.arange(8.0).view(2, 4) + 200,
    "gate": torch.arange(20.0).view(5, 4) + 300,
    "up": torch.arange(20.0).view(5, 4) + 400,
    "out": torch.arange(12.0).view(3, 4).to(torch.bfloat16),
}
RULES = {
    "qkv_proj": fused([Part("q", 6), Part("k", 2), Part("v", 2)]),
    "gate_up_proj": fused([Part("gate", 5), Part("up", 5)]),
    "o_proj": "out",
}


def engine() -> dict[str, torch.Tensor]:
    """The engine's parameters after a sync."""
    return {
        "qkv_proj": torch.cat([SENT["q"], SENT["k"], SENT["v"]]),
        "gate_up_proj": torch.cat([SENT["gate"], SENT["up"]]),
        "o_proj": SENT["out"].clone(),
    }


def statement(step: int = 3) -> SyncStatement:
    trainer = WeightSync(step)
    for names in (["q", "out"], ["k", "v", "gate"], ["up"]):
        trainer.sent({name: SENT[name] for name in names})
    return trainer.statement()


def receiver(names: Any = SENT, **options: Any) -> WeightSync:
    sync = WeightSync(3, **options)
    for name in names:
        sync.arrived([name])
    return sync


def mismatch(parameters: Any, names: Any = SENT, stated: SyncStatement | None = None) -> Any:
    with pytest.raises(SyncMismatch) as caught:
        receiver(names).check(stated or statement(), resolve(parameters, RULES))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.report == caught.value.report and str(copy) == str(caught.value)
    return caught.value.report


def test_buckets_in_any_order() -> None:
    stated = statement()
    assert stated.root == root(SENT).root and set(stated.digests) == set(SENT)
    for order in (sorted(SENT), sorted(SENT, reverse=True)):
        report = receiver(order).check(stated.to_json(), resolve(engine(), RULES))
        assert report is not None and report.ok and report.compared == 6
    assert str(report) == "step 3: all 6 tensors are what was sent"


@pytest.mark.parametrize("row", range(10))
def test_one_flipped_bit_in_a_fused_parameter(row: int) -> None:
    parameters = engine()
    parameters["qkv_proj"].view(torch.uint8)[row, 5] ^= 1
    report = mismatch(parameters)
    assert report.changed == ("q" if row < 6 else "k" if row < 8 else "v",)
    assert (report.lost, report.repeated, report.unexpected, report.unmapped) == ((), (), (), ())


def test_lost_repeated_and_unexpected() -> None:
    assert mismatch(engine(), ["q", "k", "v", "gate", "up"]).lost == ("out",)
    report = mismatch(engine(), [*SENT, "up", "other"])
    assert report.repeated == ("up",) and report.unexpected == ("other",) and report.changed == ()
    stale = {**engine(), "o_proj": torch.zeros(3, 4, dtype=torch.bfloat16)}
    report = mismatch(stale, ["q", "k", "v", "gate", "up"])
    assert report.lost == report.changed == ("out",)
    assert "did not arrive: 'out'" in str(report) and "are not what was sent: 'out'" in str(report)


def test_one_fault_alone_is_a_mismatch() -> None:
    assert mismatch(engine(), [*SENT, "up"]).repeated == ("up",)
    assert mismatch(engine(), [*SENT, "other"]).unexpected == ("other",)
    stated = statement()
    digest = stated.digests["q"]
    altered = {**stated.digests, "q": digest[:-1] + bytes([digest[-1] ^ 1])}
    assert mismatch(engine(), stated=SyncStatement("blake3", 3, altered)).changed == ("q",)


def test_dtype_shape_and_place_count() -> None:
    assert mismatch({**engine(), "o_proj": SENT["out"].to(torch.float16)}).changed == ("out",)
    assert mismatch({**engine(), "o_proj": SENT["out"].view(4, 3)}).changed == ("out",)
    swapped = {**engine(), "gate_up_proj": torch.cat([SENT["up"], SENT["gate"]])}
    assert mismatch(swapped).changed == ("gate", "up")


def test_what_the_map_leaves_out() -> None:
    parameters = engine()
    del parameters["o_proj"]
    rules = {name: rule for name, rule in RULES.items() if name != "o_proj"}
    with pytest.raises(SyncMismatch) as caught:
        receiver().check(statement(), resolve(parameters, rules))
    assert caught.value.report.unmapped == ("out",) and caught.value.report.changed == ()


def test_a_statement_of_another_step() -> None:
    report = mismatch(engine(), stated=statement(2))
    assert report.wrong_step == 2 and "the statement is that of step 2" in str(report)


def test_a_side_of_one_process() -> None:
    sync = WeightSync(3, "alone")
    for name, x in SENT.items():
        sync.sent({name: x})
    assert sync.statement() == statement()
    alone = WeightSync(3, "alone")
    alone.arrived(SENT)
    report = alone.check(sync.statement(), resolve(engine(), RULES))
    assert report is not None and report.ok


def test_modes(caplog: pytest.LogCaptureFixture) -> None:
    parameters = {**engine(), "o_proj": torch.zeros(3, 4, dtype=torch.bfloat16)}
    with caplog.at_level(logging.ERROR, "integrity_triton"):
        report = receiver(mode="log").check(statement(), resolve(parameters, RULES))
    assert report is not None and report.changed == ("out",) and "'out'" in caplog.text
    off = receiver(mode="off")
    off.sent({"x": object()})
    off.arrived(["x"])
    assert not off._arrived
    assert off.check(b"nothing", {}) is None and off.statement().digests == {}
    with pytest.raises(ValueError, match="mode must be"):
        WeightSync(3, mode="of")  # type: ignore[arg-type]
    for step in ("3", True):
        with pytest.raises(TypeError, match="step must be an int"):
            WeightSync(step)  # type: ignore[arg-type]


def test_shards_of_a_fused_parameter() -> None:
    """What fused says of two ranks' parameters, put together by hand."""
    for rank in range(2):
        own = torch.cat([SENT["q"][3 * rank : 3 * rank + 3], SENT["k"][rank : rank + 1]])
        rule = fused([Part("q", 3, 6, 3 * rank), Part("k", 1, 2, rank)])
        found = rule(own)
        assert found["q"].runs == ([(3 * rank, 3 * rank + 3)], None) and found["q"].shape == (6, 4)
        assert torch.equal(found["k"].data, SENT["k"][rank : rank + 1])
        assert found["k"].data.data_ptr() == own[3:].data_ptr()
    across = fused([Part("q", 2, 4, 2)], dim=1)(SENT["q"][:, 2:])
    assert across["q"].runs == (None, [(2, 4)]) and across["q"].shape == (6, 4)


def test_a_shard_alone_is_refused() -> None:
    parameters = {"q": LocalShard.along(SENT["q"][:3], 0, 0, 6)}
    sync = WeightSync(1)
    sync.sent({"q": SENT["q"]})
    with pytest.raises(ManifestError, match="a part of tensor 'q' is held by no rank"):
        receiver(["q"]).check(sync.statement(), parameters)


def test_maps() -> None:
    assert resolve({"model.a": 1, "b": 2}, {"b": "c"}, rename={"model.": ""}) == {"a": 1, "c": 2}
    with pytest.raises(ManifestError, match="a rule for 'x', and no such parameter"):
        resolve({}, {"x": "y"})
    with pytest.raises(ManifestError, match="two parameters hold the tensor 'c'"):
        resolve({"b": 1, "c": 2}, {"b": "c"})
    with pytest.raises(ManifestError, match="parameter 'p': the parts 'q', 'k' have 8 indices"):
        resolve({"p": torch.zeros(9, 4)}, {"p": fused([Part("q", 6), Part("k", 2)])})
    with pytest.raises(ManifestError, match="two parts of a parameter are called 'q'"):
        resolve({"p": torch.zeros(8, 4)}, {"p": fused([Part("q", 6), Part("q", 2)])})


def test_what_is_sent_twice() -> None:
    sync = WeightSync(1)
    sync.sent({"q": SENT["q"]})
    with pytest.raises(ValueError, match="'q' was sent before in step 1"):
        sync.sent({"q": SENT["q"]})


def test_statements_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    good = json.loads(statement().to_json())
    assert SyncStatement.from_json(json.dumps(good)) == statement()
    other = good["tensors"] | {"q": good["tensors"]["k"]}
    for changes, message in [
        ({"tensors": other}, "the statement was altered"),
        ({"tensors": {"q": "00"}}, "has 1 bytes"),
        ({"format": "x"}, "'format' must be"),
        ({"version": 2}, "'version' 1"),
        ({"algorithm": "md5"}, "md5"),
        ({"step": "3"}, "step"),
        ({"more": 1}, "more"),
        ({"tensors": {"q\ud800": good["tensors"]["q"]}}, "surrogate"),
        ({"root": "00" * 32}, "the statement was altered"),
    ]:
        with pytest.raises(ManifestError, match=message):
            SyncStatement.from_json(json.dumps(good | changes))
    monkeypatch.setattr(weight_sync, "MAX_SIZE", len(json.dumps(good)) - 1)
    with pytest.raises(ManifestError, match="not a statement: larger than"):
        SyncStatement.from_json(json.dumps(good))
    with pytest.raises(ManifestError, match="the sender digests with sha256, and the receiver with blake3"):
        receiver().check(WeightSync(3, algorithm="sha256").statement(), {})


def test_an_algorithm_that_is_asked_for() -> None:
    for group in (None, "alone"):
        sync = WeightSync(3, group, algorithm="sha256")  # type: ignore[arg-type]
        sync.sent(SENT)
        assert sync.statement().root == root(SENT, algorithm="sha256").root
        report = receiver(algorithm="sha256").check(sync.statement(), resolve(engine(), RULES))
        assert report is not None and report.ok
    with pytest.raises(ManifestError):
        WeightSync(3, algorithm="md5")
    with pytest.raises(ValueError, match="no such"):
        WeightSync(3, backend="no such").sent(SENT)


def test_other_parameters_of_the_receiver_are_not_looked_at() -> None:
    parameters = engine() | {"rotary": torch.empty(3, device="meta")}
    report = receiver().check(statement(), resolve(parameters, RULES))
    assert report is not None and report.ok


def test_names_are_in_order_and_not_too_many() -> None:
    names = [f"{i:02}" for i in range(23)]
    sync = WeightSync(3)
    sync.sent({name: torch.ones(1) for name in reversed(names)})
    with pytest.raises(SyncMismatch) as caught:
        WeightSync(3).check(sync.statement(), {})
    assert list(caught.value.report.unmapped) == names and caught.value.report.lost == ()
    assert str(caught.value).endswith(f"{', '.join(map(repr, names[:20]))} and 3 more")
    with pytest.raises(SyncMismatch) as caught:
        WeightSync(3).check(sync.statement(), {name: torch.zeros(1) for name in reversed(names)})
    assert list(caught.value.report.lost) == list(caught.value.report.changed) == names


def together(monkeypatch: pytest.MonkeyPatch, call: Callable[[InThreads], Any]) -> list[Any]:
    """What ``call`` finds in each of two ranks of the receiver, which are threads."""
    for module in (weight_sync, sys.modules["integrity_triton.models.distributed.root"]):
        monkeypatch.setattr(module, "exchange_for", lambda group, timeout: group if timeout == 7 else None)
    return in_threads(2, call)


@pytest.mark.parametrize("one", [0, 1])
def test_what_one_rank_of_the_receiver_counts(monkeypatch: pytest.MonkeyPatch, one: int) -> None:
    stated = statement()

    def check(exchange: Any, names: Any, parameters: Any) -> Any:
        with pytest.raises(SyncMismatch) as caught:
            receiver(names, group=exchange, timeout=7.0).check(stated, resolve(parameters, RULES))
        return caught.value.report

    def counted(exchange: InThreads) -> Any:
        names = ["q", "q", "k", "v", "gate", "up", "other"] if exchange.rank == one else SENT
        return check(exchange, names, engine())

    reports = together(monkeypatch, counted)
    assert reports == [reports[0]] * 2
    assert (reports[0].lost, reports[0].repeated) == (("out",), ("q",))
    assert (reports[0].unexpected, reports[0].changed, reports[0].copies) == (("other",), (), "")

    def unlike(exchange: InThreads) -> Any:
        parameters = engine()
        if exchange.rank == one:
            parameters["o_proj"][0] += 1
        return check(exchange, SENT, parameters)

    reports = together(monkeypatch, unlike)
    assert reports == [reports[0]] * 2 and reports[0].changed == ()
    assert "tensor 'out': there is no majority: rank 0 and rank 1 differ" in reports[0].copies
    assert reports[0].copies in str(reports[0])


def test_a_rank_of_the_receiver_that_fails_tells_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = statement()

    def one(exchange: Any) -> list[str]:
        sync = receiver(group=exchange, timeout=7.0)
        if exchange.rank:
            sync.arrived([b"q"])  # type: ignore[list-item]
        with pytest.raises((TypeError, threading.BrokenBarrierError)):
            sync.check(stated, resolve(engine(), RULES))
        return list(exchange.given_up)

    assert together(monkeypatch, one) == [["BrokenBarrierError"], ["TypeError"]]


@pytest.mark.slow
def test_trainer_and_engine_in_processes(tmp_path: Path) -> None:
    """Two ranks of a trainer with FSDP's sharding send to two ranks of an engine with tensor parallelism."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("absent: torch.distributed with gloo")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    command += [str(HERE / "weight_sync_worker.py"), str(tmp_path)]
    path = os.pathsep.join([str(HERE), *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (2, 3)]
    assert found[0] == found[1]
    report = found[0]
    assert report["clean"] == report["reordered"] == "step 1: all 8 tensors are what was sent"
    assert report["flipped"].splitlines()[1:] == ["  are not what was sent: 'layers.0.k_proj.weight'"]
    assert "did not arrive: 'layers.0.gate_proj.weight', 'layers.0.up_proj.weight'" in report["lost"]
    assert "are not what was sent: 'layers.0.gate_proj.weight', 'layers.0.up_proj.weight'" in report["lost"]
    assert "did not arrive: 'norm.weight'" in report["lost at one rank"]
    assert "copies of the model differ: " in report["lost at one rank"]
    assert "arrived more than once: 'layers.0.o_proj.weight'" in report["twice"]
    assert "are not what was sent: 'layers.0.o_proj.weight'" in report["twice"]
