"""Instructions that move data between the lanes of a wave."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..emulation.faults import Unmodelled
from .arithmetic import u32
from .machine import Array, Machine


def first_lane(machine: Machine, register: int) -> Any:
    """V_READFIRSTLANE_B32: the value of the first active lane, or of lane 0 if none is."""
    value = machine.merged(register)
    if np.ndim(value) == 0 or value.shape[1] == 1:
        return value
    lanes = machine.exec
    value = np.broadcast_to(value, machine.shape)
    return value[np.arange(machine.shape[0]), lanes.argmax(1)][:, None]


def read_lane(machine: Machine, register: int, lane: Any) -> Any:
    """V_READLANE_B32."""
    number = np.broadcast_to(lane, (machine.shape[0], 1))[:, 0].astype(np.int64) % machine.lanes
    return machine.whole(register)[np.arange(machine.shape[0]), number][:, None]


def write_lane(machine: Machine, register: int, value: Any, lane: Any) -> None:
    """V_WRITELANE_B32."""
    waves = machine.shape[0]
    out = machine.whole(register).copy()
    number = np.broadcast_to(lane, (waves, 1))[:, 0].astype(np.int64) % machine.lanes
    out[np.arange(waves), number] = np.broadcast_to(value, (waves, 1))[:, 0]
    machine.set_whole(register, out)
    machine.partial.pop(register, None)


def bpermute(machine: Machine, address: Any, data: Any, offset: int) -> Array:
    """DS_BPERMUTE_B32: each lane reads the lane that its address names; lanes that are not active give 0."""
    where = np.broadcast_to(address, machine.shape) + u32(offset)
    source = (where >> u32(2)).astype(np.int64) % machine.lanes
    given = np.broadcast_to(data, machine.shape)
    if machine.active is not None:
        given = np.where(machine.active, given, u32(0))
    return np.take_along_axis(given, source, axis=1)


def dpp(machine: Machine, value: Any, modifiers: dict[str, str]) -> tuple[Any, Any]:
    """The first source of a DPP instruction, moved between lanes, and the lanes whose result is written."""
    lane, lanes = machine.lane, machine.lanes
    row = lane & ~15
    controls = [
        (key, text)
        for key, text in modifiers.items()
        if key.startswith(("quad_perm", "row_", "wave_")) and key != "row_mask"
    ]
    if len(controls) != 1:
        raise Unmodelled(f"DPP with the controls {controls}")
    ((control, text),) = controls
    everywhere = np.ones(lanes, bool)
    match control:
        case "quad_perm":
            order = np.array([int(x) for x in text.strip("[]").split(",")])
            source, good = (lane & ~3) + order[lane & 3], everywhere
        case "row_shr":
            source = lane - int(text)
            good = source >= row
        case "row_shl":
            source = lane + int(text)
            good = source < row + 16
        case "row_ror":
            source, good = row + ((lane - int(text)) & 15), everywhere
        case "row_bcast":
            if text == "15":
                source, good = (lane & 0x30) - 1, lane > 15
            else:
                source, good = (lane & 0x20) - 1, lane > 31
        case "row_mirror":
            source, good = row + 15 - (lane & 15), everywhere
        case "row_half_mirror":
            source, good = (lane & ~7) + 7 - (lane & 7), everywhere
        case "row_xmask":
            source, good = lane ^ int(text), everywhere
        case "row_share":
            source, good = row + int(text), everywhere
        case _:
            raise Unmodelled(f"DPP with the control {control}")
    source = np.where(good, source, lane)
    valid = np.broadcast_to(good, machine.shape)
    if machine.active is not None and modifiers.get("fi") != "1":
        valid = valid & machine.active[:, source]
    moved = np.where(valid, np.broadcast_to(value, machine.shape)[:, source], u32(0))
    rows, banks = (int(modifiers.get(key, "0xf"), 0) for key in ("row_mask", "bank_mask"))
    enabled = ((rows >> (lane // 16)) & (banks >> (lane // 4 % 4)) & 1).astype(bool)
    written = np.broadcast_to(enabled, machine.shape)
    # Without bound_ctrl a lane whose source is not valid keeps its result.
    if "bound_ctrl" not in modifiers:
        written = written & valid
    return moved, written


def permlanex16(
    machine: Machine, register: int, low: Any, high: Any, old: Any, modifiers: dict[str, str]
) -> Any:
    """V_PERMLANEX16_B32: each lane reads a lane of the other row, which ``{high, low}`` names."""
    if np.ndim(low) or np.ndim(high):
        raise Unmodelled("v_permlanex16_b32 with selectors that differ between waves")
    fetch_inactive, bound = modifiers.get("op_sel", "[0,0]").strip("[]").split(",")[:2]
    select = int(low) | int(high) << 32
    lane = machine.lane
    source = (~lane & 16) | np.array([select >> 4 * (k % 16) & 15 for k in range(machine.lanes)])
    moved = machine.whole(register)[:, source]
    if machine.active is None or fetch_inactive == "1":
        return moved
    return np.where(machine.active[:, source], moved, u32(0) if bound == "1" else old)
