"""The parts of the device report, on the backends that every machine has."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

import integrity_triton as it
from bench import device_layouts, device_report
from bench.device_layouts import Confirmation, Product
from bench.device_report import DeviceReport, Measurement, Verdict
from integrity_triton import algorithms
from integrity_triton.self_tests.admission import VARIABLE

ROOT = Path(__file__).resolve().parents[2]
GREEN = '<testsuites><testsuite tests="5" failures="0" errors="0" skipped="2"/></testsuites>'


@pytest.mark.parametrize(
    ("text", "counts", "green"),
    [
        (GREEN, (3, 0, 2), True),
        (GREEN.replace('failures="0"', 'failures="1"'), (2, 1, 2), False),
        (GREEN.replace('errors="0"', 'errors="1"'), (2, 1, 2), False),
        (GREEN.replace('tests="5"', 'tests="2"'), (0, 0, 2), False),
        ("<testsuites/>", (0, 0, 0), False),
        ("<testsuites", (0, 0, 0), False),
        ("", (0, 0, 0), False),
    ],
)
def test_verdicts(tmp_path, text, counts, green):
    path = tmp_path / "tests.xml"
    path.write_text(text)
    verdict = device_report.read_verdict(path)
    assert (verdict.passed, verdict.failed, verdict.absent) == counts
    assert verdict.green is green


def test_no_results_file_is_red(tmp_path):
    assert not device_report.read_verdict(tmp_path / "nowhere.xml").green


# The algorithms that run in the interpreter, which takes up to a tenth of a second for a block: one without a
# default length of output, trees, hashes that no CPU library has, and a hash of tuples.
FEW = ("sha256", "blake3", "shake_128", "kt128", "blake2bp", "tuplehash_128")
# The algorithms of the tests of what a report says. Another test measures all algorithms.
REPORTED = ("sha224", "sha256", "blake3", "shake_128", "crc32")
CHECKED = {"equal to the CPU library", "equal to the tests' oracle"}


@pytest.mark.parametrize("name", ["native", "interpreter"])
def test_every_algorithm_is_timed_and_checked(name, tmp_path, self_tests_off, monkeypatch):
    monkeypatch.setattr(device_report, "REPETITIONS", 1)
    if name == "interpreter":
        monkeypatch.setattr(algorithms, "all_algorithms", lambda: tuple(map(algorithms.get, FEW)))
    options = ["--backend", name, "--quick", "--no-tests", "--out", str(tmp_path), "--budget", "500"]
    assert device_report.main(options) == 1  # if no tests ran, no figure counts
    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text())
    assert report["headline"].startswith("RED")
    assert report["environment"]["backend"] == name
    timed = {m["algorithm"] for m in report["measurements"]}
    assert timed == {record.name for record in algorithms.all_algorithms()}
    checked = []
    for m in report["measurements"]:
        reason = device_report.not_timed(algorithms.get(m["algorithm"]), name)
        if reason is not None:
            assert m["not_run"] == reason
        else:
            assert m["rate"] > 0, m
            checked.append(m["checked"])
    assert set(checked) == (CHECKED if name == "interpreter" else {"equal to the CPU library"})
    page = path.with_suffix(".md").read_text()
    assert "RED" in page.splitlines()[0]
    assert report["figures_count"] is False
    assert "did not finish" not in page
    assert page.count("| equal to ") == len(checked)


def run_native(tmp_path, monkeypatch, *options):
    """The status of ``main``, the JSON and the page of a quick run whose tests are reported as passed."""
    monkeypatch.setattr(device_report, "run_tests", lambda *_: Verdict(passed=7))
    monkeypatch.setattr(device_report, "REPETITIONS", 2)
    monkeypatch.setattr(algorithms, "all_algorithms", lambda: tuple(map(algorithms.get, REPORTED)))
    status = device_report.main(["--backend", "native", "--quick", "--out", str(tmp_path), *options])
    (path,) = tmp_path.glob("*.json")
    return status, json.loads(path.read_text()), path.with_suffix(".md").read_text()


def test_a_green_run(tmp_path, monkeypatch):
    status, report, page = run_native(tmp_path, monkeypatch)
    assert status == 0
    assert report["figures_count"] is True
    assert page.startswith("# GREEN: 7 ")


def break_digests(monkeypatch, calls):
    """Flip a bit in the first digest of the batch calls with these numbers. They are counted from 1."""
    real, made = it.hash_batch, []

    def hash_batch(*args, **kwargs):
        made.append(None)
        digests = real(*args, **kwargs)
        if calls is None or len(made) in calls:
            digests[0, 0] ^= 1
        return digests

    monkeypatch.setattr(device_report.it, "hash_batch", hash_batch)


@pytest.mark.parametrize("calls", [{1}, {2}, None], ids=["compiling", "timed", "all"])
def test_a_wrong_digest_makes_the_report_red(tmp_path, monkeypatch, calls):
    break_digests(monkeypatch, calls)
    status, report, page = run_native(tmp_path, monkeypatch)
    assert status == 1
    assert report["figures_count"] is False
    assert page.startswith("# RED, so no figure counts: ")
    first = report["measurements"][0]
    assert first["failed"].startswith("WrongDigest")
    assert first["rate"] is None


def test_messages_that_are_not_checked_must_not_change(monkeypatch):
    """The CPU library checks only one message. For the other messages, the same digests must come again."""
    turn = iter(range(100))

    def unsteady(messages, name, **options):
        digests = it.hash_batch(messages, name, **options)
        digests[-1, 0] ^= next(turn) % 2
        return digests

    layout = dataclasses.replace(device_report._rows(64), hash=unsteady)
    monkeypatch.setattr(device_report, "REPETITIONS", 2)
    device = device_report.Device(torch.device("cpu"))
    record = algorithms.get("sha256")
    data = torch.zeros(640, dtype=torch.uint8)
    with pytest.raises(device_report.WrongDigest, match="same messages"):
        device_report.measure(record, layout, [data], device, "native", 1.0)


def test_a_failure_hides_no_other_figure(tmp_path, monkeypatch):
    real = device_report.measure

    def measure(record, layout, *rest):
        if record.name == "sha224" and layout.name.startswith("chunks"):
            raise RuntimeError("out of memory | made up")
        return real(record, layout, *rest)

    monkeypatch.setattr(device_report, "measure", measure)
    status, report, page = run_native(tmp_path, monkeypatch)
    assert status == 1
    assert report["figures_count"] is True
    assert [m["failed"] for m in report["measurements"] if m["failed"]] == [
        "RuntimeError: out of memory / made up"
    ]
    assert all(m["rate"] or m["failed"] or m["not_run"] for m in report["measurements"])
    assert "failed: RuntimeError: out of memory" in page


def test_what_was_measured_before_the_machine_went_is_kept(tmp_path, monkeypatch):
    real, done = device_report.measure, []

    def measure(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(None)
        return real(*arguments)

    monkeypatch.setattr(device_report, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        run_native(tmp_path, monkeypatch)
    report = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert len(report["measurements"]) == 2
    assert report["finished"] is False
    assert "did not finish" in next(tmp_path.glob("*.md")).read_text()


def test_rates_count_the_bytes_that_were_hashed():
    device = device_report.Device(torch.device("cpu"))
    record = algorithms.get("sha256")
    data = torch.zeros(1000, dtype=torch.uint8)
    done = device_report.measure(record, device_report._rows(64), [data], device, "native", 1.0)
    assert done.gigabytes == 960 / 1e9
    done = device_report.measure(record, device_report._rows(4096), [data], device, "native", 1.0)
    assert (done.rate, done.not_run) == (None, "too little data for one message")


def test_messages_of_one_layout_share_no_bytes():
    layout = device_report._rows(64, most_bytes=128)
    buffers = [torch.zeros(300, dtype=torch.uint8) for _ in range(2)]
    cuts = layout.cuts(buffers)
    addresses = [cut.data_ptr() for cut in cuts]
    assert addresses == [b.data_ptr() + offset for b in buffers for offset in (0, 128)]
    assert {tuple(cut.shape) for cut in cuts} == {(2, 64)}


class FakeDevices:
    """A device module like those of torch. Its work takes no time, and its memory is that of the host."""

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = time.perf_counter()

        def elapsed_time(self, other):
            return (other.at - self.at) * 1e3

    def __init__(self):
        self.synchronized = 0

    def synchronize(self, device):
        self.synchronized += 1

    def mem_get_info(self, device):
        return 3000, 9000

    def get_device_properties(self, device):
        return types.SimpleNamespace(total_memory=9000, multi_processor_count=7, uuid=object())

    def get_device_name(self, device):
        return "A GPU"


def test_a_device_is_timed_with_events(monkeypatch):
    device = device_report.Device(torch.device("cpu"))
    device.module = FakeDevices()
    filled = []
    monkeypatch.setattr(device_report, "occupy", lambda *arguments: filled.append(arguments))
    monkeypatch.setattr(device_report, "REPETITIONS", 2)
    record = algorithms.get("sha256")
    data = torch.zeros(1280, dtype=torch.uint8)
    done = device_report.measure(record, device_report._rows(64), [data], device, "native", 1.0)
    assert done.rate > 0
    assert done.call_rate > 0
    assert len(filled) == 2  # in each repetition, one run waits behind other work
    assert device.module.synchronized >= 4
    assert device.free_memory() == 3000
    status = {s.name: s for s in it.backends()}["native"]
    facts = device_report.environment(status, device)
    assert facts["device"] == "A GPU"
    assert facts["multi_processor_count"] == 7
    json.dumps(facts)


def test_a_timed_call_does_not_wait_for_the_work_before_it():
    device = device_report.Device(torch.device("cpu"))
    device.module = FakeDevices()
    timing = device.time(lambda: None, lambda: time.sleep(0.05))
    assert max(timing.device, timing.host, timing.whole) < 0.05


def test_what_git_does_not_tell_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(device_report, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    status = {s.name: s for s in it.backends()}["native"]
    facts = device_report.environment(status, device_report.Device(torch.device("cpu")))
    assert facts["commit"] == facts["uncommitted changes"] == "not known"


@pytest.mark.slow_if(lambda self_tests: self_tests == "on")
@pytest.mark.parametrize(("self_tests", "error"), [("on", "SelfTestError"), ("off", "WrongDigest")])
def test_a_sweep_reports_the_best_configuration_that_is_right(tmp_path, monkeypatch, self_tests, error):
    monkeypatch.setenv(VARIABLE, self_tests)
    monkeypatch.setattr(device_report, "TILES", [(32, 1, 1), (32, 2, 1), (64, 1, 1)])
    monkeypatch.setattr(algorithms, "all_algorithms", lambda: (algorithms.get("sha256"),))
    backend = device_report.get_backend("interpreter")
    launch = backend.launch

    def wrong_with_two_warps(request, options):
        launch(request, options)
        if options.get("num_warps") == 2:
            request.arguments["out_ptr"][0] = 0

    monkeypatch.setattr(backend, "launch", wrong_with_two_warps)
    options = ["--backend", "interpreter", "--quick", "--no-tests", "--sweep", "--out", str(tmp_path)]
    monkeypatch.setattr(device_report, "layouts", lambda quick: [])
    device_report.main(options)
    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text())
    good, wrong, other = report["sweep"]
    assert "rate" in good
    assert "rate" in other
    assert wrong["not_run"].startswith(error)
    assert report["best"]["sha256"] in (good, other)
    assert "- fastest for sha256: BLOCK_MSGS" in path.with_suffix(".md").read_text()


def test_a_sweep_of_a_backend_without_tiles_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no tiles"):
        device_report.main(["--backend", "native", "--sweep", "--out", str(tmp_path)])


@pytest.mark.parametrize("name", ["cuda:0", "no device"])
def test_a_device_of_another_backend_is_refused(tmp_path, name):
    with pytest.raises(SystemExit, match="device_report: device"):
        device_report.main(["--backend", "native", "--device", name, "--out", str(tmp_path)])


def test_registers_of_what_a_call_compiled(self_tests_off, monkeypatch):
    kernel = device_report.load_reference("integrity_triton.kernels.batch:hash_messages")
    old, new = (types.SimpleNamespace(n_regs=r, n_spills=0) for r in (40, 56))
    cache = {"old": old}
    monkeypatch.setattr(kernel, "device_caches", {0: (cache,)})
    backend = device_report.get_backend("interpreter")
    monkeypatch.setattr(backend, "launch", lambda request, options: cache.update(new=new))
    with device_report.compiling("interpreter") as found:
        it.hash_batch([b"abc"], "sha256", backend="interpreter")
    assert found == [{"kernel": "hash_messages", "registers": 56, "spills": 0}]


def test_an_algorithm_that_needs_a_key_gets_one():
    record = dataclasses.replace(algorithms.get("blake3"), keyed="required")
    assert len(device_report.parameters_of(record)["key"]) == 32
    assert device_report.parameters_of(algorithms.get("blake3")) == {}


def test_an_output_without_a_default_length_gets_one():
    assert device_report.parameters_of(algorithms.get("shake_128")) == {"length": 32}


def test_a_digest_that_no_library_has_is_compared_with_the_oracle(self_tests_off):
    def wrong(messages, name, **options):
        return it.hash_batch(messages, name, **options) ^ 1

    layout = dataclasses.replace(device_report._rows(64), hash=wrong)
    device = device_report.Device(torch.device("cpu"))
    data = torch.zeros(64, dtype=torch.uint8)
    with pytest.raises(device_report.WrongDigest, match="oracle"):
        device_report.measure(algorithms.get("keccak_256"), layout, [data], device, "interpreter", 1.0)
    long = torch.zeros(device_report.ORACLE_BYTES + 1, dtype=torch.uint8)
    digest, remark = device_report.expected_digest(algorithms.get("keccak_256"), long, {})
    assert digest is None
    assert remark == "not checked here: too long for the tests' oracle"


def test_red_tests_leave_nothing_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(device_report, "run_tests", lambda *_: Verdict(passed=7, failed=1))
    assert device_report.main(["--backend", "native", "--quick", "--out", str(tmp_path)]) == 1
    report = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert report["measurements"] == []
    assert "1 failed" in report["headline"]


def test_what_time_did_not_allow_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(device_report, "run_tests", lambda *_: Verdict(passed=7))
    options = ["--backend", "native", "--quick", "--out", str(tmp_path), "--budget", "1"]
    assert device_report.main(options) == 0
    report = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert {
        m["not_run"]
        for m in report["measurements"]
        if device_report.not_timed(algorithms.get(m["algorithm"]), "native") is None
    } == {"out of time"}
    assert "not run: out of time" in next(tmp_path.glob("*.md")).read_text()


def test_the_tests_run_in_a_process_of_their_own_on_the_backend_alone(monkeypatch):
    seen = {}

    def run(command, **options):
        seen["command"] = command
        Path(command[-1].partition("=")[2]).write_text(GREEN)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(device_report.subprocess, "run", run)
    verdict = device_report.run_tests("xpu", 5)
    assert seen["command"][:3] == [sys.executable, "-m", "pytest"]
    assert seen["command"][seen["command"].index("--backend") + 1] == "xpu"
    assert not verdict.green  # the exit status of pytest counts as well
    assert "status 1" in verdict.note


def test_chosen_tests_do_not_make_figures_count(monkeypatch):
    def run(command, **options):
        assert command[-2:] == ["-k", "sha256"]
        Path(command[-3].partition("=")[2]).write_text(GREEN)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(device_report.subprocess, "run", run)
    verdict = device_report.run_tests("xpu", 5, "sha256")
    assert verdict.passed == 3
    assert not verdict.green
    assert "only the tests of -k 'sha256' ran" in verdict.note


class Multiplied:
    """In place of the kernel: a product whose rows come out in another order if ``order`` says so."""

    def __init__(self, order=None, error=None):
        self.order, self.error = order, error
        self.asm = {"ptx": "wgmma.mma_async.sync.aligned.m64n16k32.s32.s8.s8 {%r1};\nmma.sync.x.y {%r1};"}

    def __getitem__(self, grid):
        return self.launch

    def launch(self, left, right, result, turns, **constants):
        if self.error is not None:
            raise self.error
        product = left.int() @ right.int().T
        result.copy_(product if self.order is None else product[self.order])
        return self


def test_a_product_in_another_place_is_found(monkeypatch):
    product = Product(16, 16, 32, 1)
    order = list(range(16))
    for kernel, wrong in (
        (Multiplied(), 0),
        (Multiplied([1, 0, *order[2:]]), 32),
        (Multiplied(error=ValueError("no such thing\nat all")), None),
    ):
        monkeypatch.setattr(device_layouts, "multiply", kernel)
        (found,) = device_layouts.confirm(torch.device("cpu"), (product,))
        assert found.name == "16x16x32, 1 warps"
        if wrong is None:
            assert found.wrong is None
            assert found.failed == "ValueError: no such thing"
        else:
            assert wrong - 1 <= found.wrong <= wrong  # two random rows may agree in a place
            assert found.instructions == [
                "mma.sync.x.y",
                "wgmma.mma_async.sync.aligned.m64n16k32.s32.s8.s8",
            ]


def test_a_product_in_another_place_makes_the_report_red(tmp_path, monkeypatch):
    found = [Confirmation("16x16x32", wrong=3), Confirmation("32x32x32", wrong=0)]
    monkeypatch.setattr(device_report, "confirm_places", lambda *_, **__: found)
    status, report, page = run_native(tmp_path, monkeypatch)
    assert status == 1
    assert report["figures_count"] is False
    assert page.startswith("# RED, so no figure counts: matrix products are wrong: 16x16x32 (")
    assert "| 16x16x32 | not known | WRONG in 3 places |" in page


def test_a_product_that_fails_makes_the_status_1(tmp_path, monkeypatch):
    monkeypatch.setattr(
        device_report, "confirm_places", lambda *_, **__: [Confirmation("16x16x32", failed="none")]
    )
    status, report, _ = run_native(tmp_path, monkeypatch)
    assert status == 1
    assert report["figures_count"] is True


def test_rates_are_shown_beside_the_counted_ones():
    assert device_report.counted_rate("sha256", "NVIDIA H100 80GB HBM3") == (794, "alu")
    assert device_report.counted_rate("sha256", "NVIDIA H200")[0] == 794
    assert device_report.counted_rate("poly1305", "NVIDIA H200") == (4800, "memory")
    assert device_report.counted_rate("sha256", "NVIDIA GH200") is None
    assert device_report.counted_rate("sha224", "NVIDIA H200") is None


class EmulatedDevice(device_report.Device):
    """An emulated device that answers as torch's module of a GPU does."""

    def __init__(self, device):
        super().__init__(device)
        self.module = FakeDevices()


@pytest.mark.slow
@pytest.mark.rotating(2)
@pytest.mark.parametrize("name", ["ptx", "amdgcn"])
def test_the_whole_run_on_an_emulated_device(name, tmp_path, monkeypatch):
    """The rehearsal of a run on a GPU: compiled code, events, properties, the tests, and the page."""
    status = next(s for s in it.backends() if s.name == name)
    if not status.available:
        pytest.skip(f"absent: {status.reason}")
    monkeypatch.setattr(device_report, "Device", EmulatedDevice)
    monkeypatch.setattr(device_report, "REPETITIONS", 1)
    monkeypatch.setattr(algorithms, "all_algorithms", lambda: tuple(map(algorithms.get, ("sha256", "kt128"))))
    options = ["--backend", name, "--quick", "--out", str(tmp_path), "--budget", "500"]
    # The tests of SHA-224 are those of its driver that no turn leaves out.
    options += ["--tests", "test_equal_rows and sha224 and not hmac"]
    assert device_report.main(options) == 1  # since not all tests ran
    (path,) = tmp_path.glob("emulated-*.json")
    report = json.loads(path.read_text())
    assert report["finished"]
    assert report["tests"]["passed"] > 0
    assert report["tests"]["failed"] == 0
    assert "only the tests of" in report["headline"]
    assert report["environment"]["device"] in status.devices
    assert report["environment"]["multi_processor_count"] == 7
    assert report["places"]
    for found in report["places"]:
        assert found["wrong"] == 0, found
        assert re.search(r"mf?ma", " ".join(found["instructions"]))
    measured = [m for m in report["measurements"] if not m["not_run"]]
    assert len(measured) > 5
    assert [m for m in measured if m["failed"] or not m["rate"]] == []
    assert "as expected" in path.with_suffix(".md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "target"), [("ptx", "sm_80"), ("ptx", "sm_90"), ("amdgcn", "gfx942"), ("amdgcn", "gfx1100")]
)
def test_products_of_all_shapes_in_the_emulators(name, target):
    status = next(s for s in it.backends() if s.name == name)
    if not status.available:
        pytest.skip(f"absent: {status.reason}")
    with it.emulated(name, target=target):
        for found in device_layouts.confirm(torch.device("cpu")):
            assert found.good, found


def test_a_machine_without_an_accelerator_is_told_so():
    command = [sys.executable, "-m", "bench.device_report", "--backend", "xpu"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode == 1 and "device_report: backend 'xpu'" in result.stderr:
        assert "Traceback" not in result.stderr
    else:
        pytest.skip("not applicable: this machine has an Intel GPU")


@pytest.mark.slow
def test_the_report_needs_few_packages():
    """A machine with a GPU and no network has only torch, triton, numpy, pytest and hypothesis."""
    script = (
        "import sys\n"
        "ABSENT = ('blake3', 'safetensors', 'click', 'rich', 'cryptography', 'model_signing',\n"
        "          'pytest_benchmark', 'cryptography_vectors')\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ABSENT:\n"
        "            raise ModuleNotFoundError('not installed', name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from bench import device_report\n"
        "import tempfile\n"
        "device_report.REPETITIONS = 1\n"
        "out = tempfile.mkdtemp()\n"
        "from integrity_triton import algorithms\n"
        "all_of_them = algorithms.all_algorithms\n"
        f"algorithms.all_algorithms = lambda: tuple(map(algorithms.get, {FEW!r}))\n"
        "device_report.main(['--backend', 'interpreter', '--quick', '--no-tests', '--out', out])\n"
        "algorithms.all_algorithms = all_of_them\n"
        "import pytest\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-m', 'device', '--backend', 'interpreter',\n"
        "                      '-k', '(edge_lengths or any_chunk) and (sha256 or kt128) or chunk_counters',\n"
        "                      'tests']))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "not checked here: its CPU library cannot be loaded" in result.stdout
    assert re.search(r"^\d+ passed", result.stdout, re.MULTILINE)


def test_the_page_of_a_whole_report():
    report = DeviceReport(
        {"device": "A GPU", "date": "2026-01-02T03:04:05+00:00"},
        Verdict(passed=9),
        [Confirmation("16x16x32, 1 warps", ["mma.sync"], wrong=0), Confirmation("turned", failed="no such")],
        {"read": 4000.0, "bytes": 1},
        [
            Measurement(
                "sha256",
                "rows",
                rate=800.0,
                rate_lowest=790.0,
                rate_highest=810.0,
                call_rate=700.0,
                percent_of_read=20.0,
                counted=850,
                counted_limit="alu",
                first_call_seconds=8.0,
                host_microseconds=40.0,
                compiled=[{"kernel": "hash_messages", "registers": 56, "spills": 0}],
                checked="equal",
            ),
            Measurement("blake3", "rows", not_run="out of time"),
        ],
        [
            {
                "algorithm": "sha256",
                "layout": "rows",
                "BLOCK_MSGS": 32,
                "num_warps": 1,
                "VECTOR": 4,
                "rate": 5.0,
            }
        ],
    )
    page = device_report.markdown(report)
    assert "| 16x16x32, 1 warps | mma.sync | as expected |" in page
    assert "| turned | not known | failed: no such |" in page
    assert "GREEN: 9 bit-exactness tests passed" in page
    assert (
        "| sha256 | rows | 800 | 790 to 810 | 20 | 850 (alu) | 700 | 8.0 | 40 | hash_messages 56/0 | equal |"
        in page
    )
    assert "| blake3 | rows | not run: out of time |" in page
    assert "| sha256 | rows | 32 | 1 | 4 | 5 |" in page
