"""One rank of a data-parallel group, in which Megatron-LM's function runs beside ours.

Run as ``python megatron_rank.py RANK RANKS STORE [MEGATRON]``. STORE is the file through which the ranks find
each other, and MEGATRON the folder in which megatron-core is installed. It prints what both functions gave
for each case.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from integrity_triton.integrations import megatron


def chunks() -> list[torch.nn.Module]:
    torch.manual_seed(22)
    dense = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7)).bfloat16()
    dense[1].float()
    mixed = torch.nn.Linear(7, 3, bias=False)
    mixed.expert = torch.nn.Parameter(torch.randn(4, 6, dtype=torch.float16))
    mixed.expert.allreduce = False
    mixed.scale = torch.nn.Parameter(torch.tensor(3.25, dtype=torch.float64))
    return [dense, mixed]


@torch.no_grad()
def change(model: list[torch.nn.Module], name: str) -> None:
    params = dict(model[0].named_parameters()) | dict(model[1].named_parameters())
    raw = params[name].data.reshape(-1).view(torch.uint8)
    raw[-1] ^= 1


def recorded(model: list[torch.nn.Module], check: Callable[..., bool]) -> list[str]:
    """The hashes that Megatron-LM's function sends to the other ranks, in its order."""
    sent: list[str] = []
    original = dist.all_gather

    def all_gather(out: Any, given: torch.Tensor, **options: Any) -> Any:
        sent.extend(row.numpy().tobytes().hex() for row in given)
        return original(out, given, **options)

    dist.all_gather = all_gather
    try:
        check(model)
    finally:
        dist.all_gather = original
    return sent


class Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def main(rank: int, ranks: int, store: str, folder: str | None = None) -> None:
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    found: dict[str, Any] = {}
    theirs: Callable[..., bool] | None = None
    groups: dict[str, Any] = {"group": dist.group.WORLD, "expert_group": dist.group.WORLD}
    messages = Messages()
    logging.getLogger("integrity_triton").addHandler(messages)
    try:
        megatron.check_param_hashes_across_dp_replicas(chunks())
    except ValueError as error:
        found["no group"] = str(error)
    if folder is not None:
        sys.path.insert(0, folder)
        from megatron.core import parallel_state, utils

        parallel_state.initialize_model_parallel()
        torch.Tensor.cuda = lambda self: self  # the one thing that needs a GPU: it sends hashes from there
        theirs = utils.check_param_hashes_across_dp_replicas
        found["sent"] = recorded(chunks(), theirs)
        groups = {}
    for case in ["equal", "0.weight", "1.bias", "expert", "scale"]:
        model = copy.deepcopy(chunks())
        if rank == ranks - 1 and case != "equal":
            change(model, case)
        for cross_check in (False, True):
            messages.texts.clear()
            ours = megatron.check_param_hashes_across_dp_replicas(model, cross_check, **groups)
            found[f"{case} {cross_check}"] = {
                "ours": ours,
                "own bytes": megatron.check_param_hashes_across_dp_replicas(
                    model, cross_check, algorithm="blake3", own_bytes=True, **groups
                ),
                "theirs": None if theirs is None else theirs(model, cross_check),
                "messages": list(messages.texts),
            }
    more, renamed = chunks(), chunks()
    if rank == ranks - 1:
        more[0].register_parameter("another", torch.nn.Parameter(torch.zeros(1)))
        renamed[1].rescale = renamed[1].scale
        del renamed[1].scale
    for case, model, options in [
        ("more", more, {}),
        ("renamed", renamed, {}),
        ("other algorithms", chunks(), {"algorithm": "sha256" if rank else "sha1"}),
    ]:
        try:
            megatron.check_param_hashes_across_dp_replicas(model, **options, **groups)
        except ValueError as error:
            found[case] = str(error)
    dist.destroy_process_group()
    print(json.dumps(found), flush=True)
    # A thread of gloo may still release tensors of torch's own operations, which aborts an interpreter that
    # ends meanwhile (torch 2.13).
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
