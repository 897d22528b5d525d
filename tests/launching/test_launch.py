"""A launch keeps alive all memory that its kernel touches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm
from integrity_triton.backends.interpreter import InterpreterBackend
from integrity_triton.drivers import driver_class
from integrity_triton.drivers.run import Run
from integrity_triton.launching.launch import Launch
from integrity_triton.messages.layout import Addressed, Ragged, Rows
from integrity_triton.messages.per_message import PerMessage
from support import driver_family, first_of, required, size_of

CPU = torch.device("cpu")
ADDRESSES = ("address", "rows")
"""The arguments of kernels that are addresses. The first row of a table holds addresses as well."""


def tensors(owner: Any) -> Iterator[torch.Tensor]:
    """The tensors that ``owner`` keeps alive."""
    if isinstance(owner, torch.Tensor):
        yield owner
    elif isinstance(owner, Rows):
        yield owner.data
    elif isinstance(owner, Addressed):
        yield from tensors(owner.memory)
    else:
        for view in owner.views if isinstance(owner, Ragged) else owner:
            yield from tensors(view)


def kept(launch: Launch, address: int, length: int) -> bool:
    for tensor in tensors(launch.memory):
        storage = tensor.untyped_storage()
        start = storage.data_ptr()
        if start <= address and address + length <= start + storage.nbytes():
            return True
    return False


def check(launch: Launch) -> None:
    arguments = launch.arguments
    for name in ADDRESSES:
        if arguments.get(name):
            assert kept(launch, arguments[name], 1), (launch.kernel, name)
    if launch.constants.get("TABLE") and "address" in arguments:
        table = arguments["table_ptr"]
        for address, length in zip(table[0].tolist(), table[1].tolist(), strict=True):
            assert not length or kept(launch, address, length), launch.kernel


def one_of_each_family() -> list[Algorithm]:
    records = algorithms.all_algorithms()
    return [record for record in records if first_of(record, driver_family) is record]


@pytest.mark.parametrize("record", one_of_each_family(), ids=lambda record: record.name)
def test_what_a_kernel_reads_is_kept_alive(record):
    """Batches of tensors, of rows, of one long message, with one key or one for each message; and a stream.
    Nothing is run: the launches are looked at."""
    launched = []

    def start(launch: Launch, options: Any) -> None:
        check(launch)
        launched.append(launch.kernel)

    views = [torch.zeros(n, dtype=torch.uint8) for n in (0, 5, 700, 20_000)]
    batches: list[Rows | Ragged] = [
        Ragged(views, CPU),
        Rows.of(torch.zeros((3, 9000), dtype=torch.uint8)),
        Rows.single(torch.zeros(300_000, dtype=torch.uint8)),
    ]
    given = record.check_parameters({"key": None, **required(record)})
    for way in driver_class(record).ways or (None,):
        run = Run(InterpreterBackend(), record, start, way)
        for messages in batches:
            run.execute(given, messages, size_of(record))
            if record.keyed == "required":
                keys = PerMessage(torch.zeros((messages.count, len(given["key"])), dtype=torch.uint8))
                run.execute({**given, "key": keys}, messages, size_of(record))
    stream = run.stream(given, CPU)
    for view in views:
        stream.update(view)
    stream.digest(size_of(record), 0)
    assert launched
