"""Interrupts on opencl: no memory is released while a kernel may still touch it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
import types
import weakref
from pathlib import Path

import pytest
import torch

from integrity_triton.backends import opencl, registry
from integrity_triton.backends.opencl.in_flight import InFlight
from integrity_triton.errors import BackendUnavailable
from integrity_triton.launching.launch import Launch
from support import interrupted_at

FOLDER = str(Path(opencl.__file__).parent)


class Owner:
    """Stands for memory: it is released when nothing refers to this object."""


class Device:
    """An OpenCL runtime that runs a kernel from when it is queued until somebody waits."""

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    def __init__(self, interrupted_waits: int = 0):
        self.running = False
        self.interrupted_waits = interrupted_waits
        self.cl = self
        self.event = types.SimpleNamespace(wait=self.idle)

    def enqueue_nd_range_kernel(self, *arguments):
        self.running = True
        return self.event

    def idle(self):
        self.running = False

    def finish(self):
        if self.interrupted_waits:
            self.interrupted_waits -= 1
            raise KeyboardInterrupt
        self.running = False


def runtime_of(device: Device) -> opencl._Runtime:
    runtime = object.__new__(opencl._Runtime)
    runtime.cl, runtime.queue, runtime.label = device, None, "a device"
    kernel = types.SimpleNamespace(set_args=lambda *arguments: None)
    ready = opencl._Ready(lambda: kernel, {}, (), 64, 16)
    runtime.ready = lambda *arguments: ready
    runtime._in_flight = InFlight(device.finish)
    return runtime


def launch_of(owner: object) -> Launch:
    return Launch("module:kernel", 1, {}, {}, torch.device("cpu"), (owner,))


@pytest.mark.parametrize("interrupted_waits", [0, 1])
def test_an_interrupt_at_any_instruction(interrupted_waits):
    """In the second run, another interrupt comes before the wait to which the first one leads."""
    for instruction in itertools.count():
        device = Device(interrupted_waits)
        runtime = runtime_of(device)
        owner, released = Owner(), []
        watch = weakref.ref(
            owner, lambda _, device=device, released=released: released.append(device.running)
        )
        launch = launch_of(owner)
        del owner

        def work(runtime=runtime, launch=launch):
            runtime.execute(launch, {})

        reached = interrupted_at(instruction, work, FOLDER)
        del work, launch
        assert released in ([], [False]), instruction  # the kernel did not run when its memory was released
        device.interrupted_waits = 0
        runtime.execute(launch_of(None), {})
        assert released == [False], instruction  # and nothing is kept forever
        assert watch() is None
        if not reached:
            break
    assert instruction > 50


def test_a_launch_within_a_launch():
    """The handler of a signal may hash as well. It does not treat the interrupted launch as an abandoned
    one."""
    device = Device()
    in_flight = InFlight(device.finish)
    owner = Owner()
    watch = weakref.ref(owner)
    launch = launch_of(owner)
    del owner

    def work():
        in_flight.run(launch_of(None), lambda: None)
        assert [kept.memory for _, kept in in_flight._launches.values()] == [(watch(),)]

    in_flight.run(launch, work)
    assert not in_flight._launches
    del launch
    assert watch() is None


def test_the_end_waits_for_other_threads_only():
    device = Device(interrupted_waits=1)
    in_flight = InFlight(device.finish)
    began, go_on = threading.Event(), threading.Event()

    def work():
        began.set()
        go_on.wait()

    def abandon():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_flight.run(launch_of(None), abandon)  # a launch of this thread, whose wait is interrupted
    other = threading.Thread(target=in_flight.run, args=(launch_of(None), work))
    other.start()
    began.wait()
    threading.Timer(0.05, go_on.set).start()
    start = time.monotonic()
    in_flight.end()
    assert go_on.is_set()
    assert time.monotonic() - start < 4
    other.join()
    with pytest.raises(BackendUnavailable, match="the process is ending"):
        in_flight.run(launch_of(None), work)


STORM = """if True:
    import random, signal, time
    import torch
    import integrity_triton as it

    random.seed(1)
    inside = False

    def interrupt(*_):
        if inside:
            signal.setitimer(signal.ITIMER_REAL, random.choice([2e-5, 1e-4, 1e-3]))  # another one follows
            raise KeyboardInterrupt

    def hashed(name):
        global inside
        messages = list(torch.full((16, 1 << 16), 7, dtype=torch.uint8))
        try:
            inside = True
            digests = it.hash_batch(messages, name, backend="opencl")
            inside = False
            return bytes(digests[-1].tolist())
        finally:
            inside = False

    names = ("sha256", "blake3")
    expected = {name: it.new(name, bytes([7]) * (1 << 16), backend="native").digest() for name in names}
    for name in names:
        assert hashed(name) == expected[name]
    start = time.perf_counter()
    for name in names:
        hashed(name)
    typical = (time.perf_counter() - start) / 2
    signal.signal(signal.SIGALRM, interrupt)
    end = time.monotonic() + 1
    whole = cut = 0
    while time.monotonic() < end or not (whole and cut):
        name = random.choice(names)
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1.5 * typical))
            found = hashed(name)
        except KeyboardInterrupt:
            inside = False
            cut += 1
        else:
            whole += 1
            assert found == expected[name]
    signal.setitimer(signal.ITIMER_REAL, 0)
    for name in names:
        assert hashed(name) == expected[name]
    print("ok")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="not applicable: memory is unmapped as glibc does")
def test_a_storm_of_interrupts():
    """This runs on the real device. The memory of each batch is unmapped when it is freed."""
    status = {s.name: s for s in registry.statuses()}["opencl"]
    if not status.available:
        pytest.skip(f"absent: {status.reason}")
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", STORM],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
    # The end of the process does not wait for an interrupted launch either.
    assert time.monotonic() - start < 50
