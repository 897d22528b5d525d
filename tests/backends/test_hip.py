"""The choice of configurations for AMD GPUs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from integrity_triton.aot.compiling import Target
from integrity_triton.backends.hip import HipBackend
from integrity_triton.launching import launch


@pytest.mark.parametrize(
    ("lanes", "name"),
    [([32], "hip:wave32"), ([32, 32], "hip:wave32"), ([64], "hip"), ([32, 64], "hip"), ([], "hip")],
)
def test_the_gpus_determine_the_configurations(monkeypatch, lanes, name):
    devices = [SimpleNamespace(warp_size=count) for count in lanes]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(devices))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: devices[i])
    backend = HipBackend()
    for kernel in ("default", *launch._tuning()["hip"]):
        assert backend.tuned(f"module:{kernel}") == launch.tuned(name, f"module:{kernel}")


@pytest.mark.parametrize(("target", "lanes"), [("hip:gfx942", 64), ("hip:gfx1100", 32), ("hip:gfx1201", 32)])
def test_a_thread_has_one_lane(target, lanes):
    """Twice the lanes take twice the registers, and on RDNA they spilled."""
    parsed = Target.parse(target)
    assert parsed.threads_per_warp == lanes
    for kernel in ("hash_messages", "blake3_chunks", "crc_fold", "poly1305_messages", "poly1305_parts"):
        tuned = launch.tuned(parsed.tuning, f"module:{kernel}")
        assert tuned["BLOCK_MSGS"] == lanes * tuned["num_warps"], kernel
