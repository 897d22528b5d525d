"""Runs tests on every backend, and ends with a table that shows what ran where.

A test that takes ``backend`` runs on every registered backend. A test that also takes ``algorithm`` runs with
every algorithm, and one that also takes ``mac`` with every keyed algorithm. A backend that this machine does
not have is reported as "absent", with the reason. If ``--backend`` asked for it, its absence fails the run.
Tests that the choice of a tier (``-m``) left out are reported as "deselected".
"""

from __future__ import annotations

import gc
import json
import os
import pickle
from collections import Counter
from pathlib import Path

# There is a process of pytest-xdist for each core. If torch's threads in each of them waited for one another
# in busy loops, everything would take two to three times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
from filelock import FileLock

import tiers
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm
from integrity_triton.aot import compiling
from integrity_triton.backends import registry
from integrity_triton.backends.emulation.backend import EmulatedBackend
from integrity_triton.backends.interpreter import InterpreterBackend
from integrity_triton.backends.opencl.prebuilt import Specialization
from integrity_triton.backends.triton_backend import TritonBackend
from integrity_triton.drivers import driver_class
from integrity_triton.self_tests.admission import VARIABLE
from support import driver_family, few_lanes, first_of, kernel_family

DESELECTED = pytest.StashKey[Counter]()
COUNTED = {"deselected": DESELECTED, "resting": tiers.RESTING}
BEGAN = pytest.StashKey[float]()

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help="run the device tests on this backend only (repeatable), and fail if it is absent",
    )
    parser.addoption(
        "--times", metavar="FILE", help="write what each test took, in seconds of processor time (tiers.py)"
    )
    parser.addoption(
        "--turn",
        type=int,
        default=0,
        metavar="NUMBER",
        help="which of the rotating tests are slow and not exhaustive (default: 0)",
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"rotating tests: --turn {config.option.turn}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = metafunc.config.getoption("--backend") or [
        # An emulator runs the tests if it is asked for.
        b.name
        for b in registry.statuses()
        if not isinstance(registry.get(b.name) if b.available else None, EmulatedBackend)
    ]
    on_backends = "backend" in metafunc.fixturenames
    records = list(algorithms.all_algorithms())
    if "algorithm" in metafunc.fixturenames:
        # Hashes of tuples are tested in test_tuplehash.py.
        subject, records = "algorithm", [record for record in records if not record.takes_tuples]
    elif "mac" in metafunc.fixturenames:
        subject, records = "mac", [record for record in records if record.keyed != "no"]
    elif on_backends:
        metafunc.parametrize("backend", names, indirect=True)
        return
    else:
        return
    if not on_backends:
        metafunc.parametrize(subject, records, ids=[record.name for record in records])
        return
    test = metafunc.function.__name__
    cells = [
        pytest.param(name, record, marks=_marks(name, record, test), id=f"{name}-{record.name}")
        for name in names
        for record in _applicable(name, records, test)
    ]
    metafunc.parametrize(("backend", subject), cells, indirect=["backend"])


def _applicable(backend: str, records: list[Algorithm], test: str) -> list[Algorithm]:
    """The algorithms with which a test runs on a backend. If the backend is absent, one test reports this for
    every algorithm, and each other test reports it once."""
    status = {b.name: b for b in registry.statuses()}.get(backend)
    if (status is None or not status.available) and test not in EDGES:
        return records[:1]
    if backend == "native":
        records = [record for record in records if record.native is not None]
    runs = _runs_interpreted if backend == "interpreter" else _runs_compiled
    return [record for record in records if runs(record, test)]


def _marks(backend: str, record: Algorithm, test: str) -> list[pytest.MarkDecorator]:
    """The marks ``slow`` and ``rotating``, if the test shows with this algorithm only what the default tier
    shows with another algorithm of the same driver: how it reads messages. In the default tier, the tests
    of lengths run with every algorithm. The tests of modes and keys run with one of the algorithms that
    have the same driver and the same parameters; those of keys run with one HMAC of each driver of a hash. In
    the interpreter, the default tier tests the lengths of one of the algorithms that launch the same kernels
    with the same block function, and the modes of streams with one algorithm of each driver."""
    repeats = [pytest.mark.slow, pytest.mark.rotating(TURNS)]
    if backend == "interpreter":
        if test in EDGES:
            return [] if first_of(record, _of_launches) is record else repeats
        if test == "test_modes_of_a_stream" and first_of(record, driver_class) is record:
            return []
        return [] if record.name in INTERPRETED and test not in MODES else repeats
    if test in EDGES:
        return []
    if test in MODES or (test in MACS and record.construction.hmac_of is None):
        # The libraries of the native backend are quick.
        return [] if backend == "native" or first_of(record, _of_driver_and_modes) is record else repeats
    if first_of(record, driver_family) is not record:
        return repeats
    return [] if first_of(record, driver_class) is record else [pytest.mark.slow, pytest.mark.rotating(2)]


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    if not config.getoption("--backend"):
        items[:] = _once_if_absent(items)
    for item in items:
        if "backend" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.device)
        tiers.mark(item)


def _once_if_absent(items: list[pytest.Item]) -> list[pytest.Item]:
    """The tests, of which those on an absent backend are there once for each function; see _applicable."""
    absent = {status.name for status in registry.statuses() if not status.available}
    kept, functions = [], set()
    for item in items:
        backend = (_cell(item) or ("", ""))[1]
        function = tiers.function_of(item.nodeid)
        if backend in absent and function.partition("::")[2] not in EDGES:
            if (function, backend) in functions:
                continue
            functions.add((function, backend))
        kept.append(item)
    return kept


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count the tests that a tier leaves out. With ``-k`` they are not counted, since tests that ``-k``
    leaves out cannot be told from tests of another tier."""
    if items and not items[0].config.option.keyword:
        items[0].config.stash.setdefault(DESELECTED, Counter()).update(
            "\t".join(_cell(item)) for item in items if _cell(item) is not None
        )


def _cell(item: pytest.Item) -> tuple[str, str] | None:
    """The names of the algorithm and the backend of a test in the table at the end."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if "backend" not in parameters:
        return None
    record = parameters.get("algorithm") or parameters.get("mac")
    return "(other)" if record is None else record.name, parameters["backend"]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # this is a process of pytest-xdist
        for name, key in COUNTED.items():
            session.config.workeroutput[name] = dict(session.config.stash.get(key, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    # All processes of pytest-xdist have collected, and left out, the same tests.
    for name, key in COUNTED.items():
        node.config.stash[key] = Counter(getattr(node, "workeroutput", {}).get(name, {}))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    # Thousands of collected tests, and torch, live until the end, so garbage collection need not visit them.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item):
    # This is the hook of a phase, since the runner of mutants calls the phases of a test and not
    # pytest_runtest_protocol.
    item.stash[BEGAN] = tiers.processor_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item):
    result = yield
    seconds = tiers.processor_seconds() - item.stash[BEGAN]
    item.user_properties.append(("took", (round(seconds, 3), item.get_closest_marker("slow") is not None)))
    return result


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    status = {b.name: b for b in registry.statuses()}.get(name)
    if status is None:
        pytest.fail(f"backend {name!r} is not registered")
    if not status.available:
        if request.config.getoption("--backend"):
            pytest.fail(f"backend {name!r} was asked for and is absent: {status.reason}")
        pytest.skip(f"absent: {status.reason}")
    if name == "interpreter":
        # Nothing is compiled here, so a self-test would take seconds to show only what the test itself shows.
        request.getfixturevalue("monkeypatch").setenv(VARIABLE, "off")
    return name


@pytest.fixture
def small_tiles(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, a program takes four messages, so that a few messages need several programs."""
    instance = registry.get(backend)
    if isinstance(instance, InterpreterBackend):
        monkeypatch.setattr(instance, "options", few_lanes(instance.options))


@pytest.fixture(scope="session")
def specializations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Specialization]:
    """All kernels that are compiled ahead of time, by the names of their artifacts. To list them takes many
    seconds, so that the processes of pytest-xdist share one list through a file."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    file = folder / "specializations.pickle"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            partial = tmp_path_factory.mktemp("specializations") / file.name
            partial.write_bytes(pickle.dumps(compiling.prebuilt_specializations()))
            partial.replace(file)
    found: dict[str, Specialization] = pickle.loads(file.read_bytes())
    return found


@pytest.fixture
def scratch_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is removed at the end of the test."""
    for name in ("_records", "_names"):
        monkeypatch.setattr(algorithms, name, dict(getattr(algorithms, name)))
    registry.statuses()
    for name in ("_backends", "_probes"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.setattr(registry, "_logged", set())


@pytest.fixture
def self_tests_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that name the interpreter: its self-tests would take several times as long as the test, and
    show only what the test itself shows."""
    monkeypatch.setenv(VARIABLE, "off")


@pytest.fixture
def wide(request: pytest.FixtureRequest, self_tests_off: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter loads and stores ``request.param`` words at a time."""
    kernels = registry.get("interpreter")
    assert isinstance(kernels, TritonBackend)
    options = type(kernels).options
    monkeypatch.setattr(
        kernels, "options", lambda asked: {**options(kernels, asked), "VECTOR": request.param}
    )


def _of_modes(record: Algorithm) -> object:
    return kernel_family(record), record.xof, [p.name for p in record.parameters]


def _of_driver_and_modes(record: Algorithm) -> object:
    return driver_family(record), record.xof, record.keyed, [p.name for p in record.parameters]


def _of_launches(record: Algorithm) -> object:
    return driver_family(record), kernel_family(record)


def _runs_compiled(record: Algorithm, test: str) -> bool:
    """Whether a test runs with an algorithm on a backend other than the interpreter. One HMAC of each driver
    of a hash runs all tests. The others run only the tests of what differs between HMACs, since the driver
    is the same."""
    return (
        record.construction.hmac_of is None
        or test in {*EDGES, *MODES, *MACS}
        or first_of(record, driver_family) is record
    )


def _runs_interpreted(record: Algorithm, test: str) -> bool:
    """Whether a test runs with an algorithm in the interpreter, which takes up to a tenth of a second for a
    block. One algorithm of each driver kernel runs all tests, one of each block function the tests of its
    modes, and the others only the tests of their lengths."""
    modes = {*EDGES, *MODES, *MACS}
    first_of_driver = first_of(record, driver_family) is record
    if record.construction.hmac_of is not None:
        # The kernels are those of the hash, which runs the tests. Since an HMAC has at least four blocks to
        # hash, one with long blocks takes seconds.
        return first_of_driver and test in modes and record.block_size <= LONGEST_BLOCK
    if test in MACS and record.keyed == "optional" and record.name not in ("blake2s", "blake3"):
        return False  # The other keyed modes run the same kernels.
    if test in EDGES:
        return True
    # A chunk of many blocks takes seconds.
    long_chunks = (record.construction.chunk_size or 0) > MOST_BLOCKS * record.block_size
    if first_of_driver and not long_chunks:
        return True
    first_of_kernel = first_of(record, kernel_family) is record
    return test in modes and (first_of_kernel or (not long_chunks and first_of(record, _of_modes) is record))


# In so many days, the slow tests of all algorithms come round.
TURNS = 8
LONGEST_BLOCK = 128
MOST_BLOCKS = 16
# The default tier runs these in the interpreter in all layouts and with keys: hashes with words of 32 and of
# 64 bits, a tree, and an HMAC.
INTERPRETED = ("md5", "siphash_2_4", "blake3", "hmac_sha224")
EDGES = {"test_edge_lengths_in_one_ragged_batch"}
MODES = {
    "test_extendable_output",
    "test_many_long_outputs",
    "test_modes_in_a_batch",
    "test_modes_of_a_stream",
}
MACS = {
    "test_every_message_has_its_own_key",
    "test_keys_of_different_lengths",
    "test_a_bit_anywhere_changes_the_tag",
    "test_shorter_tags",
    "test_device_memory_with_keys_is_overwritten",
    "test_no_key_is_told",
}


@pytest.fixture(autouse=True)
def _note_cell(request: pytest.FixtureRequest, record_property) -> None:
    cell = _cell(request.node)
    if cell is not None:
        name, backend = cell
        record_property("backend", backend)
        record_property("algorithm", name)
        if name != "(other)" and backend == "native":
            reason = registry.get("native").unsupported(algorithms.get(name))
            if reason is not None:  # an optional library is not installed
                pytest.skip(f"absent: {name}: {reason}")


def pytest_terminal_summary(terminalreporter) -> None:
    _write_times(terminalreporter)
    _summarise_compilation(terminalreporter)
    cells: dict[tuple[str, str], Counter] = {}
    reasons: dict[str, str] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(getattr(report, "user_properties", ()))
            if "backend" not in properties or (report.when != "call" and outcome == "passed"):
                continue
            name = properties["backend"]
            count = cells.setdefault((properties["algorithm"], name), Counter())
            if outcome == "skipped":
                reason = str(report.longrepr[2]).removeprefix("Skipped: ")
                if reason.startswith("not applicable"):
                    continue
                reasons.setdefault(name, reason.removeprefix("absent: "))
                count["absent"] += 1
            else:
                count["failed" if outcome == "error" else outcome] += 1
    if not cells:
        return
    config = terminalreporter.config
    for cell, count in config.stash.get(DESELECTED, {}).items():
        algorithm, _, backend = cell.partition("\t")
        cells.setdefault((algorithm, backend), Counter())["deselected"] = count
    write = terminalreporter.write_line
    terminalreporter.section(f"algorithm x backend, of the tier -m {config.option.markexpr!r}")
    columns = sorted({name for _, name in cells})
    rows = sorted({algorithm for algorithm, _ in cells})
    width = max(len(row) for row in rows) + 2
    write(" " * width + "".join(f"{name:<34}" for name in columns))
    for row in rows:
        texts = []
        for name in columns:
            count = cells.get((row, name), Counter())
            if count["failed"]:
                text = f"FAILED {count['failed']} of {count['failed'] + count['passed']}"
            elif count["passed"]:
                text = f"ran {count['passed']}" + (f", {count['absent']} absent" if count["absent"] else "")
            else:
                text = "absent" if count["absent"] else "" if count["deselected"] else "-"
            if count["deselected"]:
                text = ", ".join(filter(None, (text, f"{count['deselected']} deselected")))
            texts.append(f"{text:<34}")
        write(f"{row:<{width}}" + "".join(texts))
    whole = {name for name in columns if not any(cells[c]["passed"] for c in cells if c[1] == name)}
    for name in sorted(whole & reasons.keys()):
        write(f"absent {name}: {reasons[name]}")


def _write_times(terminalreporter) -> None:
    file = terminalreporter.config.getoption("--times")
    if file:
        reports = [report for found in terminalreporter.stats.values() for report in found]
        took = {
            report.nodeid: dict(report.user_properties)["took"]
            for report in reports
            if getattr(report, "when", None) == "teardown" and "took" in dict(report.user_properties)
        }
        resting = terminalreporter.config.stash.get(tiers.RESTING, {})
        Path(file).write_text(json.dumps({"times": took, "resting": resting}, indent=0), "utf-8")


def _summarise_compilation(terminalreporter) -> None:
    """Write what test_compile.py recorded: the seconds of processor time for each target, and the slowest
    kernels."""
    seconds: dict[str, list[tuple[float, str]]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for target, kernel, taken in dict(getattr(report, "user_properties", ())).get("compiled", ()):
                seconds.setdefault(target, []).append((taken, kernel))
    if seconds:
        terminalreporter.section("cold compile times, seconds of processor time")
    for target, found in seconds.items():
        slowest = "; ".join(f"{kernel} {taken:.1f}" for taken, kernel in sorted(found, reverse=True)[:3])
        total = sum(taken for taken, _ in found)
        terminalreporter.write_line(f"{target}: {len(found)} kernels, {total:.0f}; slowest {slowest}")
