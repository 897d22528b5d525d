"""The figures are what the committed results give, and say where these come from."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from bench import plot

ABOUT = {
    "processor": "Abacus <9>",
    "processor instructions": "avx2",
    "processors": 2,
    "system": "Linux",
    "package": "integrity-triton 0",
    "torch": "2.7",
}
RUN = {"date": "2026-01-02T03:04:05+00:00", "command": "python -m bench.growth sha256 --only bytes"}
RUN |= {"commit": "0123456789abcdef", "load": "1.5", "note": "it was busy"}
TAIL = {"environment": ABOUT, "runs": [RUN]}


def growth(knee=4096, cause="a cache & more"):
    points = [{"n": 1024 * 4**i, "seconds": 1e-6 * 4**i, "backend": "native"} for i in range(3)]
    series = {"algorithm": "sha256", "points": points, "knee": knee, "cause": cause}
    return {**TAIL, "bytes": [series, {**series, "algorithm": "rare"}, {"algorithm": "x", "absent": "y"}]}


def throughput(rates):
    return {
        **TAIL,
        "throughput": [
            {"work": "one message", "algorithm": name, "who": who, "bytes": 10**9, "median_seconds": 1 / rate}
            for (name, who), rate in rates.items()
        ],
    }


ROOFLINE = {
    "label": "counted, not measured",
    "triton": "3.9.0",
    "families": {
        "sha256": {"counts": {"cuda:90": {"ratio": 1.2}, "xpu:pvc": {"ratio": 2.0}}},
        "crc": {"counts": {"cuda:90": {"ratio": None}}},
    },
}


def words(svg: str) -> str:
    return " | ".join(ElementTree.fromstring(svg).itertext())


def test_the_committed_figures_are_what_the_committed_results_give():
    found, _ = plot.figures(plot.RESULTS)
    for name, svg in found.items():
        assert (plot.FIGURES / name).read_text("utf-8") == svg, "python -m bench.plot"
    drawn = {path.name for path in plot.FIGURES.glob("*.svg")} - {"what_runs_where.svg"}
    assert drawn == set(found)


def test_every_figure_says_where_it_comes_from():
    rates = {("sha256", "library"): 1.0, ("sha256", "opencl"): 2.5, ("kt128", "opencl"): 0.2}
    (svg,) = plot.throughput(throughput(rates)).values()
    (growing,) = plot.growth(growth()).values()
    for text in (words(svg), words(growing)):
        for expected in ("Abacus <9> (avx2), 2 threads", "integrity-triton 0; torch 2.7", "2026-01-02"):
            assert expected in text
        assert "commit 0123456789; it was busy; load average before the runs 1.5 to 1.5" in text
        assert "Command: python -m bench.growth" in text
    assert "2.50 x" in words(svg)
    assert "no library" in words(svg)
    assert "sha256: linear from 4 KiB on (cause: a cache & more)" in words(growing)
    (counted,) = plot.roofline(ROOFLINE).values()
    assert "counted, not measured" in words(counted)
    assert "Triton 3.9.0" in words(counted)
    assert "crc" not in words(counted)


def test_what_is_not_linear_is_not_called_so():
    (svg,) = plot.growth(growth(knee=None, cause=None)).values()
    assert "sha256: not linear within 10 %" in words(svg)
    assert "<circle" not in svg


def test_kinds_without_results_are_named(tmp_path):
    assert plot.figures(tmp_path)[0] == {}
    lacking = plot.figures(tmp_path)[1]
    assert [line.partition(":")[0] for line in lacking] == ["throughput", "growth", "roofline"]
    (tmp_path / "roofline.json").write_text(json.dumps({**ROOFLINE, "families": {}}))
    assert plot.figures(tmp_path)[0] == {}


def test_figures_are_written_and_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plot, "ROOT", tmp_path)
    monkeypatch.setattr(plot, "RESULTS", tmp_path)
    monkeypatch.setattr(plot, "FIGURES", tmp_path)
    (tmp_path / "growth-here.json").write_text(json.dumps(growth()))
    assert plot.main(["--check"]) == 1
    assert plot.main([]) == 0
    assert plot.main(["--check"]) == 0
    assert "growth-bytes-here.svg: the same" in capsys.readouterr().out
    path = tmp_path / "growth-bytes-here.svg"
    path.write_text(path.read_text("utf-8").replace("4 KiB", "8 KiB"), "utf-8")
    assert plot.main(["--check"]) == 1


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_class_has_a_colour_in_both_modes(mode):
    light, _, dark = plot._STYLE.partition("@media (prefers-color-scheme: dark)")
    style = light if mode == "light" else dark
    for i in range(len(plot._LIGHT)):
        assert f".s{i} {{" in style
    for name in ("svg", "text", ".dim", ".grid", ".link", ".other", ".ring"):
        assert name in style
