"""The guard finds what changes in live weights, names it, and takes nothing else for a change."""

from __future__ import annotations

import gc
import random
import threading
import time
import warnings
import weakref

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("blake3")

import integrity_triton as it  # noqa: E402
from guard_support import flip, model, wait_for  # noqa: E402
from integrity_triton.models.guard import Guard, GuardWarning, Metrics, locate  # noqa: E402
from support import has_module  # noqa: E402

CHUNK = 1024
QUERY = "layers.0.weight"


def guard_of(source, **options):
    return Guard(source, chunk_size=CHUNK, **{"start": False, **options})


@pytest.mark.parametrize("key", [None, b"k" * 32], ids=["unkeyed", "keyed"])
@pytest.mark.parametrize("hashed_by", ["blake3", "sha256", "xxh3_128", "hmac_sha256", "poly1305"])
def test_a_flipped_bit_is_named_to_the_bit(hashed_by, key):
    if hashed_by in ({"hmac_sha256", "poly1305"} if key is None else {"sha256", "xxh3_128"}):
        with pytest.raises(ValueError, match="key"):
            guard_of(model(), algorithm=hashed_by, key=key)
        return
    if hashed_by == "poly1305" and not has_module("cryptography"):
        pytest.skip("not applicable: cryptography is absent")
    source = model()
    guard = guard_of(source, algorithm=hashed_by, key=key)
    assert guard.check() == ()
    flip(source.layers[0].weight, 5 * CHUNK + 17, 0b101)
    (finding,) = guard.check()
    assert (finding.kind, finding.name, finding.chunk) == ("content", QUERY, 5)
    assert finding.flips == ((5 * CHUNK + 17, 0b101),)
    assert finding.bits == 2
    assert (finding.start, finding.end) == (5 * CHUNK + 17, 5 * CHUNK + 18)
    assert "bit 0 of byte 5137, bit 2 of byte 5137" in str(finding)
    assert guard.failed and not guard.status().ok
    with pytest.raises(it.IntegrityError, match=QUERY):
        guard.__exit__(None)


def test_the_thread_finds_it_within_the_period_and_calls_back():
    source, found = model(), []
    with (
        warnings.catch_warnings(),
        guard_of(source, period=0.5, on_mismatch=found.append, start=True) as guard,
    ):
        warnings.simplefilter("error")
        wait_for(lambda: guard.status().passes)
        assert not found
        flip(source.embed.weight, 70000, 0x80)
        wait_for(lambda: found)
        assert found[0].names == ("embed.weight", "head.weight")
        flip(source.embed.weight, 70000, 0x80)
        passes = guard.status().passes
        wait_for(lambda: guard.status().passes > passes + 1)
        assert guard.failed, "a change that was undone does not make a guard good again"
        assert len(found) == 1, "a lasting change is told once"
        guard.reset()
        assert guard.status().ok


@pytest.mark.parametrize("seed", range(40))
def test_any_number_of_flips_anywhere(seed):
    """Each changed chunk is named, no other, and the place is told exactly where one word has changed."""
    random_ = random.Random(seed)
    source = model()
    guard = guard_of(source)
    tensors = dict([*source.named_parameters(), *source.named_buffers()])
    expected: dict[tuple[str, int], dict[int, int]] = {}
    for _ in range(random_.choice([1, 2, 3, 8, 64])):
        name = random_.choice(list(tensors))
        byte, bit = random_.randrange(tensors[name].nbytes), random_.randrange(8)
        if tensors[name].dtype is torch.bool:
            continue
        masks = expected.setdefault((name, byte // CHUNK), {})
        masks[byte] = masks.get(byte, 0) ^ 1 << bit
        flip(tensors[name], byte, 1 << bit)
    expected = {key: {b: m for b, m in masks.items() if m} for key, masks in expected.items()}
    expected = {key: masks for key, masks in expected.items() if masks}
    found = {(f.name, f.chunk): f for f in guard.check()}
    assert found.keys() == expected.keys()
    for key, finding in found.items():
        words = {byte // 4 for byte in expected[key]}
        assert dict(finding.flips) == (expected[key] if len(words) == 1 else {})


def test_places_are_found_in_every_word_and_by_no_guess():
    data = torch.randint(0, 256, (2 * CHUNK + 77,), dtype=torch.uint8)
    sums = locate.sums_of_chunks([data], CHUNK)
    assert sums.shape == (3, 3)
    for offset in (0, 3, CHUNK - 1, CHUNK, 2 * CHUNK, 2 * CHUNK + 76):
        changed = data.clone()
        changed[offset] ^= 0xFF
        chunk = offset // CHUNK
        part, was = (x[chunk * CHUNK : (chunk + 1) * CHUNK].numpy().tobytes() for x in (changed, data))
        assert locate.flips(part, sums[chunk].tolist(), lambda b, was=was: b == was) == (
            (offset % CHUNK, 0xFF),
        )
        assert locate.flips(part, sums[chunk].tolist(), lambda b: False) == ()


def test_no_change_gives_no_finding():
    source = {f"t{i}": torch.rand(n) for i, n in enumerate((0, 1, 255, 256, 257, 100_000))}
    source["strided"] = torch.rand(300, 200).t()
    source["conjugate"] = torch.randn(50, dtype=torch.complex64).conj()
    guard = guard_of(source)
    for _ in range(20):
        assert guard.check() == ()
    source["strided"][150, 3] += 1
    (finding,) = guard.check()
    assert finding.name == "strided" and finding.bits is not None


def test_a_second_reading_tells_a_transient_error():
    source = model()
    guard = guard_of(source)
    baseline = guard._passes.baseline
    true, wrong = baseline.differing, [True]

    def read_badly(pieces):
        return [(pieces[0], 0)] if wrong.pop() else true(pieces)

    baseline.differing = read_badly
    wrong += [False] * 100
    wrong[-1] = True
    (finding,) = guard.check()
    assert finding.kind == "transient" and not finding.fails
    assert not guard.failed and guard.status().counts == {"transient": 1}


def test_damage_to_the_baseline_is_told_apart():
    source = model()
    guard = guard_of(source)
    unit = guard._passes.baseline.by_name[QUERY]
    object.__setattr__(unit, "digests", bytes(32) + unit.digests[32:])
    (finding,) = guard.check()
    assert finding.kind == "baseline" and finding.fails
    assert guard.check() == (finding,)
    assert guard.status().counts == {"baseline": 1}


def test_a_manifest_is_the_baseline():
    signed = it.models.Manifest.build(model())
    source = model()
    with guard_of(source, against=signed) as guard:
        assert guard.status().signed
        assert guard.status().unsigned == ("angles",)
    flip(source.layers[1].bias, 3)
    with pytest.raises(it.IntegrityError, match=r"layers.1.bias"):
        guard_of(source, against=signed)


def test_a_change_between_baseline_and_manifest_is_found(monkeypatch):
    """The baseline comes first. Here the content is changed for it, and changed back for the manifest."""
    signed = it.models.Manifest.build(model())
    source = model()
    verify = it.models.Manifest.verify

    def changed_back(*arguments, **options):
        flip(source.layers[0].weight, 9)
        return verify(*arguments, **options)

    monkeypatch.setattr(it.models.Manifest, "verify", changed_back)
    flip(source.layers[0].weight, 9)
    guard = guard_of(source, against=signed)
    assert guard.failed
    assert [f.name for f in guard.check()] == [QUERY]


def test_ignored_names_and_statistics_in_training():
    source = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    guard = guard_of(source, ignore="0.b*")
    assert guard.status().excluded == ("0.bias", "1.num_batches_tracked", "1.running_mean", "1.running_var")
    source(torch.rand(8, 4))
    flip(source[0].bias, 0)
    assert guard.check() == ()
    source.eval()
    guard = guard_of(source)
    assert guard.status().excluded == ()
    flip(source[1].running_mean, 1)
    assert [f.name for f in guard.check()] == ["1.running_mean"]


def test_forward_raises_while_the_guard_has_failed():
    source = model()
    guard = guard_of(source, raise_at_forward=True)
    source(torch.arange(3))
    flip(source.layers[0].weight, 0)
    guard.check()
    assert str(guard.status()).startswith(f"guard {guard.status().name!r} has failed and is stopped: ")
    with pytest.raises(it.IntegrityError, match=QUERY):
        source(torch.arange(3))
    with pytest.raises(it.IntegrityError, match="stays failed.*" + QUERY):
        guard.reset()
    flip(source.layers[0].weight, 0)
    guard.reset()
    source(torch.arange(3))
    flip(source.layers[0].weight, 0)
    guard.check()
    guard.close()
    source(torch.arange(3))  # the hook is gone


@pytest.mark.parametrize("whole", [True, False])
def test_compiled_modules_raise_too_and_keep_their_names(whole):
    source = model()
    compiled = torch.compile(source, backend="eager")
    guard = guard_of(compiled if whole else source, raise_at_forward=True)
    compiled(torch.arange(3))
    compiled(torch.arange(3))
    assert guard.check() == ()
    flip(source.layers[0].weight, 0)
    assert [f.name for f in guard.check()] == [QUERY]
    with pytest.raises(it.IntegrityError, match=QUERY):
        compiled(torch.arange(3))
    guard.close()
    torch.compiler.reset()


def test_an_error_in_the_thread_is_surfaced_and_the_guard_fails(monkeypatch):
    source = model()
    guard = guard_of(source, raise_at_forward=True)

    def broken(*_, **__):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(guard._passes, "check", broken)
    guard.start()
    wait_for(lambda: guard.failed)
    wait_for(lambda: guard.status().state == "stopped")
    assert not guard.status().ok
    with pytest.raises(it.IntegrityError, match="the device is gone") as raised:
        source(torch.arange(3))
    assert isinstance(raised.value.__cause__, RuntimeError)
    with pytest.raises(RuntimeError, match="the device is gone"):
        guard.check()
    monkeypatch.undo()
    guard.reset()
    wait_for(lambda: guard.status().passes > 1)
    assert guard.status().ok
    guard.close()


def test_an_error_in_a_callback_or_in_metrics_makes_the_guard_fail():
    def broken(*_):
        raise KeyError("nobody listens")

    source = model()
    guard = guard_of(source, on_mismatch=broken)
    flip(source.layers[0].weight, 0)
    guard.check()
    assert guard.status().counts == {"content": 1, "error": 1}
    flip(source.layers[0].weight, 0)

    class Broken(Metrics):
        checked = broken

    guard = guard_of(source, metrics=Broken())
    guard.check()
    assert guard.failed and guard.status().counts == {"error": 1}


def test_the_thread_keeps_neither_the_guard_nor_the_model_alive():
    source = model()
    guard = guard_of(source, start=True)
    gone = weakref.ref(source)
    del source
    gc.collect()
    assert gone() is None
    wait_for(lambda: guard.status().state == "ended")
    assert not guard.status().ok


def test_a_guard_that_is_dropped_ends_its_thread_and_warns():
    source = model()
    guards = [guard_of(source, start=True)]
    name = guards[0]._worker._thread.name

    def drop():
        guards.clear()
        gc.collect()
        time.sleep(0.1)  # the thread may have been at work with it

    with pytest.warns(ResourceWarning, match="not closed"):
        drop()
    wait_for(lambda: name not in {thread.name for thread in threading.enumerate()})


def test_a_callback_may_close_the_guard_and_repair_the_model():
    source = model()
    seen = []

    def repair(finding):
        seen.append(finding)
        with guard.updating():
            flip(source.layers[0].weight, 0)
        guard.reset()
        guard.close()

    guard = guard_of(source, period=2.0, on_mismatch=repair)
    flip(source.layers[0].weight, 0)
    guard.start()
    wait_for(lambda: guard.status().state == "closed")
    assert len(seen) == 1 and not guard.failed
    with pytest.raises(ValueError, match="closed"):
        guard.start()


def test_periods_that_cannot_be_kept_are_told_with_the_numbers():
    source = {"w": torch.zeros(4 << 20, dtype=torch.uint8)}
    with pytest.warns(GuardWarning, match=r"every 0.5 s .* more than the budget of 0.00%.*period"):
        guard = guard_of(source, period=0.5, budget=1e-6)
    assert guard.status().period == 0.5
    assert guard.status().share > 1e-6
    with pytest.raises(ValueError, match=r"period is 1e-06 s, but checking 4194304 bytes .* state at least"):
        guard_of(source, period=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"budget": 0}, ValueError, "budget"),
        ({"budget": 1.5}, ValueError, "budget"),
        ({"budget": "1%"}, TypeError, "budget"),
        ({"period": -1}, ValueError, "period"),
        ({"period": float("inf")}, ValueError, "period"),
        ({"chunk_size": 1000}, ValueError, "chunk_size"),
        ({"chunk_size": 1e6}, TypeError, "chunk_size"),
        ({"against": "model.manifest"}, TypeError, "Manifest.load"),
        ({"on_mismatch": 3}, TypeError, "on_mismatch"),
        ({"algorithm": "md6"}, ValueError, "md6"),
        ({"algorithm": "cshake_128"}, ValueError, "cshake_128"),
        ({"algorithm": "tuplehash_128"}, ValueError, "tuples"),
        ({"algorithm": "poly1305", "key": b"short"}, ValueError, "32 bytes"),
        ({"ignore": "*"}, ValueError, "no tensor"),
        ({"raise_at_forward": True, "source": {"a": torch.zeros(1)}}, TypeError, "forward"),
        ({"source": [torch.zeros(1)]}, TypeError, "mapping"),
        ({"source": {"a": 1}}, TypeError, "'a'"),
        ({"source": {"a": torch.zeros(1, device="meta")}}, ValueError, "a.*meta"),
        ({"source": {"a": torch.eye(3).to_sparse()}}, TypeError, "a.*sparse"),
        ({"source": {}}, ValueError, "no tensor"),
    ],
)
def test_impossible_arguments(options, error, text):
    options = dict(options)
    source = options.pop("source", None)
    with pytest.raises(error, match=text):
        Guard(model() if source is None else source, start=False, **options)


@pytest.mark.slow
def test_a_hundred_thousand_tensors():
    source = {f"layer.{i}.bias": torch.full((8,), i, dtype=torch.int32) for i in range(100_000)}
    guard = Guard(source, start=False)
    source["layer.77777.bias"][5] ^= 1 << 20
    (finding,) = guard.check()
    assert (finding.name, finding.flips) == ("layer.77777.bias", ((22, 1 << 4),))
