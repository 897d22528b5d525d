"""``integrity-triton bench``: what it measures, what it says about the choice, and how it ends."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from integrity_triton import algorithms, cli, hash_batch
from integrity_triton.backends import registry
from integrity_triton.cli import bench
from integrity_triton.cli.terminal import Output
from integrity_triton.errors import BackendUnavailable, SelfTestError
from integrity_triton.messages.layout import Rows

QUICK = ("--size", "64", "--count", "32", "--seconds", "0.2")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: Any) -> Any:
    monkeypatch.delenv("INTEGRITY_TRITON_BACKEND", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(["bench", *arguments])
        captured = capsysbinary.readouterr()
        return status, captured.out.decode(), captured.err.decode()

    return run


def test_the_table(run):
    status, out, err = run("sha256", "md5", "--backend", "native", *QUICK)
    assert (status, err) == (0, "")
    assert "Data on the CPU: 32 messages of 64 bytes. Rates in GB/s" in out
    for name in ("sha256", "md5"):
        assert re.search(rf"^{name} +[\d.e-]+\*? +(native|opencl) +\S", out, re.MULTILINE), out


def test_the_choice_is_that_of_the_registry(run):
    import torch

    status, out, _ = run("sha256", "cshake_128", "--json", *QUICK)
    document = json.loads(out)
    assert (status, document["ok"]) == (0, True)
    (place,) = [place for place in document["places"] if place["data"] == "cpu"]
    assert (place["size"], place["count"]) == (64, 32)
    messages = Rows.of(torch.zeros((32, 64), dtype=torch.uint8))
    for row in place["rows"]:
        record = algorithms.get(row["algorithm"])
        if row["chosen"] is None:
            with pytest.raises(BackendUnavailable):
                registry.select(record, "cpu", messages=messages)
        else:
            assert row["chosen"] == registry.select(record, "cpu", messages=messages).name
        assert set(row["measured"]) | set(row["absent"]) == set(place["backends"])
        for rate in row["measured"].values():
            assert rate["bytes_per_second"] > 0
            assert rate["calls"] >= 1
    without_library = place["rows"][1]
    assert without_library["absent"]["native"] == "no CPU library has it"


def test_every_backend_is_measured_or_listed_with_the_reason(run):
    _, out, _ = run("sha256", "--json", *QUICK)
    document = json.loads(out)
    measured = {name for place in document["places"] for name in place["backends"]}
    for status in registry.statuses():
        if status.name not in measured:
            expected = "for tests" if status.available else status.reason
            assert expected in document["absent"][status.name]


def test_a_backend_for_tests_gets_short_messages():
    pytest.importorskip("triton")
    (place,) = bench._places(["interpreter", "native"], None, None)
    assert (place.backends, place.size, place.count) == (["interpreter", "native"], 64, 16)
    (place,) = bench._places(["interpreter"], 65, 2)
    assert (place.size, place.count) == (65, 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sha257"], "unknown algorithm 'sha257'"),
        (["tuplehash_128"], "tuplehash_128 hashes tuples of messages"),
        (["--backend", "abacus"], "unknown backend 'abacus'"),
        (["--size", "0"], "'--size'"),
        (["--count", "-1"], "'--count'"),
        (["--seconds", "0"], "'--seconds'"),
        (["--seconds", "nan"], "nan is not a finite number of seconds"),
        (["--seconds", "inf"], "inf is not a finite number of seconds"),
        (
            ["--count", "1000000000", "--size", "1000000"],
            "909.5 TiB (1000000000 messages of 976.6 KiB) are more",
        ),
        (["--count", "1", "--size", f"{10**23}"], "86,736 EiB (1 message of 86,736 EiB) are more than half"),
        (["--count", "1000000000", "--size", "1000000"], "choose a smaller --count or --size"),
    ],
)
def test_bad_use(run, arguments, says):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_what_the_time_did_not_allow_is_named(run):
    arguments = ("sha256", "md5", "--backend", "native", *QUICK, "--seconds", "1e-9")
    status, out, err = run(*arguments)
    assert (status, err) == (2, "integrity-triton: nothing was measured\n")
    assert "- native: sha256, md5: the time was over; a larger --seconds measures it" in out
    status, out, _ = run(*arguments, "--json")
    document = json.loads(out)
    assert (status, document["ok"], document["error"]) == (2, False, "nothing was measured")
    assert set(document["places"][0]["rows"][0]["absent"]) == {"native"}


def test_a_part_that_was_measured_is_a_result(run, monkeypatch):
    shares = iter([0.1, None])
    monkeypatch.setattr(bench._Times, "share", lambda *_: next(shares))
    status, out, err = run("sha256", "md5", "--backend", "native", *QUICK)
    assert (status, err) == (0, "")
    assert "- native: md5: the time was over; a larger --seconds measures it" in out


def test_first_calls_take_no_time_from_the_last_measurements():
    times = bench._Times(100.0, [bench._Place("cpu", ["opencl", "native"], 1, 1)], 50)
    share = times.share("opencl")
    assert share == pytest.approx(1.0)
    times.took("opencl", share + 1.5, share)  # 49 are left, which may take 73.5 s
    assert times.share("native") == pytest.approx((100 - 49 * 1.5) / 99, abs=0.01)
    times.took("native", 0.1, 0.3)  # was quicker than its share
    assert times.share("opencl") == pytest.approx((100 - 49 * 1.5) / 98, abs=0.01)
    times.took("opencl", 500.0, share)  # the time is not over, so a measurement gets what makes it one
    assert times.share("native") == bench._LEAST_SECONDS


def test_an_algorithm_is_measured_once_under_all_its_names(run):
    status, out, _ = run("sha256", "SHA-256", "sha256", "--json", "--backend", "native", *QUICK)
    assert status == 0
    assert [row["algorithm"] for row in json.loads(out)["places"][0]["rows"]] == ["sha256"]


def test_columns_have_space_for_any_name(capsysbinary, monkeypatch):
    place = bench._Place("cpu", ["interpreter", "native"], 64, 16)
    monkeypatch.setattr(bench, "_rate", lambda *_: (bench._Rate(1.5e9, 16, 3), hash_batch([b""], "sha256")))
    bench._measure(Output(as_json=False), [place], [algorithms.get("sha256")], bench._Times(9, [place], 1))
    head, line = capsysbinary.readouterr().out.decode().splitlines()[-2:]
    assert re.split(" +", head) == ["algorithm", "interpreter", "native", "chosen", "why"]
    for name, rate in zip(("interpreter", "native"), re.finditer(r"1\.50", line), strict=True):
        assert rate.end() == head.index(name) + len(name)
    assert line.index(re.split(" +", line)[3]) == head.index("chosen")


def test_sizes_in_words():
    assert bench._messages(1, 1) == "1 message of 1 byte"
    assert bench._messages(2, 1536) == "2 messages of 1.5 KiB"
    assert [bench._bytes(n) for n in (0, 1023, 1 << 30, 5 << 40, 999 << 60, 1024 << 60)] == [
        "0 bytes",
        "1023 bytes",
        "1 GiB",
        "5 TiB",
        "999 EiB",
        "1,024 EiB",
    ]


def test_messages_get_their_bytes_when_they_are_used(monkeypatch):
    monkeypatch.setattr(bench, "_RANDOM", 97)
    data = bench._Data(bench._Place("cpu", ["native"], 64, 500))
    first = data.first(3).clone()
    assert data._made == 3 * 64
    every = data.first(500)
    assert every.shape == (500, 64)
    assert every[:3].equal(first)
    assert every.view(-1)[97:].equal(every.view(-1)[:-97])  # the random bytes again and again
    assert len({bytes(row.numpy()) for row in every[:97]}) == 97


def test_a_wrong_digest_is_no_rate(run, monkeypatch):
    real = bench._rate

    def rate(record, backend, *rest):
        found, digests = real(record, "native", *rest)
        return found, digests if backend == "native" else digests ^ 1

    monkeypatch.setattr(bench, "_rate", rate)
    monkeypatch.setattr(bench, "_usable", lambda *_: iter(["native", "native2"]))
    native = registry.get("native")
    monkeypatch.setattr(registry, "get", lambda name: native)
    status = {s.name: s for s in registry.statuses()}["native"]
    monkeypatch.setattr(registry, "statuses", lambda: (status, type(status)("native2", True, "", (), "")))
    status, out, err = run("sha256", *QUICK)
    assert status == 1
    assert "sha256: the digests of native2 differ from those of native" in err
    assert re.search(r"^sha256 +- +- .*WRONG", out, re.MULTILINE)


def test_a_failed_self_test_is_no_rate(run, monkeypatch):
    def rate(*_):
        raise SelfTestError("the kernel gives wrong answers")

    monkeypatch.setattr(bench, "_rate", rate)
    status, _, err = run("sha256", "--backend", "native", *QUICK)
    assert (status, err) == (1, "integrity-triton: sha256: the kernel gives wrong answers\n")


def test_an_interrupt_keeps_what_was_measured(run, monkeypatch):
    real = bench._rate

    def rate(record, *rest):
        if record.name == "md5":
            raise KeyboardInterrupt
        return real(record, *rest)

    monkeypatch.setattr(bench, "_rate", rate)
    arguments = ("sha256", "md5", "--backend", "native", *QUICK)
    status, out, err = run(*arguments)
    assert (status, err) == (130, "integrity-triton: interrupted: these are the results until then\n")
    assert re.search(r"^sha256 +[\d.e-]+", out, re.MULTILINE)
    assert "md5" not in out
    status, out, _ = run(*arguments, "--json")
    document = json.loads(out)
    assert (status, document["ok"], document["error"]) == (130, False, "interrupted")
    assert [row["algorithm"] for row in document["places"][0]["rows"]] == ["sha256"]


def test_a_slower_choice_is_admitted(capsysbinary):
    row = bench._Row("sha256", "opencl", "opencl ~ 1 ms, native ~ 2 ms")
    row.measured = {"opencl": bench._Rate(1e9, 10, 3), "native": bench._Rate(2.5e9, 10, 3)}
    place = bench._Place("cpu", ["opencl", "native"], 1, 10, [row])
    bench._show(Output(as_json=False), place, row, 6)
    assert capsysbinary.readouterr().out == (
        b"sha256    1.00     2.50  opencl  opencl ~ 1 ms, native ~ 2 ms; "
        b"measured: native is 2.50 times as fast\n"
    )
    assert list(bench._summary([place])) == [
        ("", "The chosen backend was the fastest for 0 of 1 algorithms.")
    ]


def test_rates_of_different_batches_are_not_compared(capsysbinary):
    row = bench._Row("sha256", "opencl", "opencl ~ 1 ms, native ~ 2 ms")
    row.measured = {"opencl": bench._Rate(1e9, 5, 3), "native": bench._Rate(2e9, 10, 3)}
    place = bench._Place("cpu", ["opencl", "native"], 1, 10, [row])
    bench._show(Output(as_json=False), place, row, 6)
    assert capsysbinary.readouterr().out == (
        b"sha256    1.00*    2.00  opencl  opencl ~ 1 ms, native ~ 2 ms\n"
    )
    assert list(bench._summary([place])) == [
        ("* ", "measured with fewer messages, since all of them would take too long")
    ]


def test_digests_are_those_of_the_package():
    data = bench._Data(bench._Place("cpu", ["native"], 64, 10))
    rate, digests = bench._rate(algorithms.get("sha256"), "native", data, 0.05)
    assert rate.messages == 10
    assert digests.equal(hash_batch(data.first(10), "sha256", backend="native"))
