"""Weight syncs: digests of what a trainer sends and of what an engine holds."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

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
    assert off.check(b"nothing", {}) is None and off.statement().digests == {}
    with pytest.raises(ValueError, match="mode must be"):
        WeightSync(3, mode="of")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="step must be an int"):
        WeightSync("3")  # type: ignore[arg-type]


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


def test_statements_are_checked() -> None:
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
    ]:
        with pytest.raises(ManifestError, match=message):
            SyncStatement.from_json(json.dumps(good | changes))
    with pytest.raises(ManifestError, match="the sender digests with sha256, and the receiver with blake3"):
        receiver().check(WeightSync(3, algorithm="sha256").statement(), {})


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
