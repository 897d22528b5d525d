"""Running hashes as users interleave them: several at a time, of several algorithms. They are copied, fed
with bytes and tensors, and asked for digests in between. The model of a running hash is the bytes that it was
given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    rule,
    run_state_machine_as_test,
)

import integrity_triton as it
from inputs import message_bytes
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm
from integrity_triton.backends import registry
from support import kernel_family, new, on_device, oracle, required, rows_as_bytes, variants

FEW, ALL = "few examples", "all examples"
# The number of examples, and of steps in each.
STEPS = {FEW: (8, 15), ALL: (25, 25)}
INTERPRETED = {FEW: (4, 8), ALL: (8, 12)}


def able(backend: str) -> list[Algorithm]:
    """One algorithm of each family of kernels that the backend can run."""
    found = {}
    for record in algorithms.all_algorithms():
        if not record.takes_tuples and registry.get(backend).unsupported(record) is None:
            found.setdefault(str(kernel_family(record)), record)
    return list(found.values())


def machine(backend: str) -> type[RuleBasedStateMachine]:
    records = able(backend)
    if backend == "interpreter":  # a block takes up to a tenth of a second there
        records = [r for r in records if r.name in ("sha256", "blake2s", "blake3", "siphash_2_4", "crc32")]

    class Hashes(RuleBasedStateMachine):
        running = Bundle("running")

        @initialize()
        def start(self) -> None:
            self.batch: list[tuple[Algorithm, bytes]] = []

        @rule(
            target=running,
            record=st.sampled_from(records),
            data=message_bytes(backend, 70),
            pick=st.randoms(),
        )
        def begin(self, record: Algorithm, data: bytes, pick: Any) -> Any:
            parameters = {**required(record), **pick.choice(variants(record))}
            return [new(record.name, data, backend=backend, **parameters), record, parameters, data]

        @rule(
            one=running, data=message_bytes(backend, 300), kind=st.sampled_from(["bytes", "tensor", "reused"])
        )
        def update(self, one: Any, data: bytes, kind: str) -> None:
            if kind == "tensor":
                one[0].update(on_device(data, backend))
            else:
                buffer = bytearray(data)
                one[0].update(buffer)
                if kind == "reused":  # after update() the caller may change the memory
                    buffer[:] = bytes(len(buffer))
            one[3] += data

        @rule(target=running, one=running)
        def copy(self, one: Any) -> Any:
            return [one[0].copy(), *one[1:]]

        @rule(one=running)
        def digest(self, one: Any) -> None:
            hasher, record, parameters, data = one
            assert hasher.digest() == oracle(record, data, **parameters)

        @rule(one=consumes(running))
        def end(self, one: Any) -> None:
            """The last digest. After that, what the hash held on the device is freed."""
            self.digest(one)

        @rule(messages=st.lists(message_bytes(backend, 80), max_size=5), record=st.sampled_from(records))
        def batch_in_between(self, messages: list[bytes], record: Algorithm) -> None:
            length = {} if record.digest_size else {"length": 32}
            digests = it.hash_batch(messages, record.name, backend=backend, **length, **required(record))
            assert rows_as_bytes(digests) == [oracle(record, m) for m in messages]

    return Hashes


@pytest.mark.rotating_if(lambda backend: backend == "interpreter", 3)
@pytest.mark.parametrize("share", [FEW, pytest.param(ALL, marks=pytest.mark.slow)])
def test_interleaved_hashes(backend, share):
    examples, steps = (INTERPRETED if backend == "interpreter" else STEPS)[share]
    run_state_machine_as_test(
        machine(backend),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("name", ["sha256", "sha3_256", "blake2b", "blake3", "crc32", "xxh3_64"])
def test_the_model_notices_a_lost_byte(name):
    record = algorithms.get(name)
    hasher = new(name, b"abc", backend="native" if record.native else "interpreter")
    hasher.update(torch.tensor([1, 2, 3], dtype=torch.uint8))
    assert hasher.digest() == oracle(record, b"abc\x01\x02\x03")
    assert hasher.digest() != oracle(record, b"abc\x01\x02")
