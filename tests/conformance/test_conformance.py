"""The conformance suite: it fails where it must fail, and it writes its reports."""

from __future__ import annotations

import dataclasses
import hashlib
import html.parser
import io
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import make_answers
import pytest
import torch

import integrity_triton as it
import tiers
from integrity_triton import algorithms, conformance
from integrity_triton.algorithms import known_answers
from integrity_triton.backends import registry
from integrity_triton.backends.base import Probe
from integrity_triton.backends.interpreter import InterpreterBackend
from integrity_triton.backends.native import NativeBackend
from integrity_triton.conformance import render
from integrity_triton.conformance.checks import CHECKS
from integrity_triton.hashing import Hash
from support import pattern

cli = pytest.importorskip("integrity_triton.cli")
RECORDS = make_answers.records()
# Algorithms that are cheap in the interpreter, which takes up to a tenth of a second for a block.
CHEAP = {"interpreter": ["xxh64", "md5"]}


@pytest.fixture
def run(tmp_path, monkeypatch, capsysbinary):
    """A function that runs the command in this process, in an empty folder, and returns its status, stdout
    and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTEGRITY_TRITON_BACKEND", raising=False)

    def run(*arguments: str):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
        capsysbinary.readouterr()
        status = cli.main(["conformance", *arguments])
        captured = capsysbinary.readouterr()
        return status, captured.out.decode(), captured.err.decode()

    return run


@pytest.fixture
def plant(monkeypatch):
    """A function that registers a backend for one test."""
    registry.statuses()
    for table in ("_backends", "_probes"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    return registry.register


@pytest.fixture
def register_algorithm(monkeypatch):
    """A registry of algorithms to which a test may add."""
    algorithms.all_algorithms()
    for table in ("_records", "_names"):
        monkeypatch.setattr(algorithms, table, dict(getattr(algorithms, table)))
    return algorithms.register


# Known answers


@pytest.mark.parametrize("record", RECORDS, ids=[record.name for record in RECORDS])
def test_answers_are_the_oracles(record):
    path = make_answers.FOLDER / f"{record.name}.json"
    assert path.exists(), f"{record.name} has no known answers: {make_answers.COMMAND}"
    try:
        made = make_answers.text(record)
    except ImportError as error:
        pytest.skip(f"not applicable: {error}")
    assert make_answers.lasting(path.read_text("utf-8")) == make_answers.lasting(made)
    found = known_answers.load(record)
    assert found is not None
    assert found.source and found.version and found.made == make_answers.COMMAND
    assert len({json.dumps(known_answers._question_fields(a)) for a in found.answers}) == len(found.answers)


def test_there_are_no_answers_of_nothing():
    names = {path.name for path in make_answers.FOLDER.iterdir()}
    assert names == {f"{record.name}.json" for record in RECORDS}
    assert sum(path.stat().st_size for path in make_answers.FOLDER.iterdir()) < 360_000


def test_answers_have_every_kind_of_question():
    for record in RECORDS:
        found = known_answers.load(record).answers
        sizes = {a.size for a in found}
        assert 0 in sizes, record.name
        assert any(size > record.block_size for size in sizes) or record.parallel, record.name
        for parameter in record.parameters:
            assert any(parameter.name in a.parameters for a in found), (record.name, parameter.name)
        if record.seekable:
            assert any(a.seek for a in found), record.name
        if record.xof:
            assert len({a.length for a in found}) > 3, record.name


@pytest.mark.parametrize(
    ("name", "message", "digest"),
    [
        # FIPS 180-4 and RFC 1321, the empty message.
        ("sha256", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("md5", 0, "d41d8cd98f00b204e9800998ecf8427e"),
        ("sha3_256", 0, "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"),
        ("blake3", 0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
    ],
)
def test_answers_are_the_published_ones(name, message, digest):
    found = known_answers.load(algorithms.get(name)).answers
    (answer,) = (a for a in found if a.message == message and not a.parameters and a.length is None)
    assert answer.digest.hex() == digest


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format=2),
        lambda d: d.update(algorithm="sha1"),
        lambda d: d.update(answers=[]),
        lambda d: d.update(source=""),
        lambda d: d.pop("made"),
        lambda d: d["answers"][0].update(digest="00"),
        lambda d: d["answers"][0].update(digest="no"),
        lambda d: d["answers"][0].update(message="xyz"),
        lambda d: d["answers"][0].update(salt=1),
        lambda d: d["answers"][0].update(parameters={"key": 3}),
    ],
)
def test_a_file_that_is_not_in_the_format(change):
    record = algorithms.get("sha256")
    document = json.loads((make_answers.FOLDER / "sha256.json").read_text("utf-8"))
    known_answers.parse(json.dumps(document), record, "here")
    change(document)
    with pytest.raises(ValueError, match="here: no known answers"):
        known_answers.parse(json.dumps(document), record, "here")


def test_every_device_file_is_run_by_an_algorithm(specializations):
    from integrity_triton.backends.opencl import prebuilt

    pending = {r.partition(":")[0] for asked in specializations.values() for r in asked.references}
    used: set[str] = set()
    while pending:
        module = pending.pop()
        used.add(module)
        pending |= prebuilt._source(module)[1] - used
    files = {path.stem for path in (make_answers.ROOT / "kernels").glob("*.py")} - {"__init__"}
    assert {f"integrity_triton.kernels.{name}" for name in files} == used


# Runs


@pytest.mark.slow_if(lambda backend: backend not in ("native", "interpreter"))
def test_the_backend_conforms(backend):
    began = tiers.processor_seconds()
    report = conformance.run(
        backends=[backend], algorithms=CHEAP.get(backend, ()), effort="quick", seed=20261125
    )
    assert report.ok, render.to_markdown(report)
    ran = [cell for cell in report.cells if cell.status == "ran"]
    assert ran
    assert all(cell.launches for cell in ran) or backend == "native"
    assert sum(cell.cases for cell in ran) > 40 * len(ran)
    # The time of the clock depends on what else the machine does.
    assert tiers.processor_seconds() - began < 120
    assert report.seconds > 0


def test_every_check_has_cases():
    names = ["sha256", "blake3", "hmac_sha256", "blake2b", "shake_128"]
    report = conformance.run(backends=["native"], algorithms=names, effort="quick", seed=1)
    counted = {check for cell in report.cells for check in cell.checks}
    assert counted == set(CHECKS)


@pytest.mark.parametrize("effort", ["quick", "standard", "full"])
def test_efforts(effort):
    report = conformance.run(backends=["native"], algorithms=["sha256"], effort=effort, seed=1)
    assert report.ok
    assert report.options["effort"] == effort
    (cell,) = report.cells
    assert cell.cases > {"quick": 100, "standard": 300, "full": 3000}[effort]
    with pytest.raises(ValueError, match="unknown effort"):
        conformance.run(effort="enormous")


class Planted(NativeBackend):
    """Gives right digests, except for what a subclass changes."""

    name = "planted"
    summary = "for a test"

    def unsupported(self, algorithm):
        return None if algorithm.native else "no CPU library has it"


class WrongBit(Planted):
    def digest_batch(self, algorithm, parameters, messages, length):
        digests = super().digest_batch(algorithm, parameters, messages, length)
        if digests.numel() and messages.count > 20:
            digests[-1, -1] ^= 1
        return digests


class WrongEdge(Planted):
    """Takes messages that are as long as a block for empty ones."""

    def digest_batch(self, algorithm, parameters, messages, length):
        digests = super().digest_batch(algorithm, parameters, messages, length)
        for i in range(messages.count):
            if messages.view(i).numel() == algorithm.block_size:
                digests[i].zero_()
        return digests


class WrongAlignment(Planted):
    def digest_batch(self, algorithm, parameters, messages, length):
        digests = super().digest_batch(algorithm, parameters, messages, length)
        for i in range(messages.count):
            view = messages.view(i)
            if view.numel() and view.data_ptr() % 16 == 13:
                digests[i] ^= 128
        return digests


class OneKey(Planted):
    """Uses the key of the first message for all messages."""

    def digest_batch(self, algorithm, parameters, messages, length):
        first = {k: v[0] if isinstance(v, algorithms.PerMessage) else v for k, v in parameters.items()}
        return super().digest_batch(algorithm, first, messages, length)


class WrongStream(Planted):
    def stream(self, algorithm, parameters, device=None):
        stream = super().stream(algorithm, parameters, device)
        taken = stream.update
        stream.update = lambda data: taken(data) if len(data) != 3 else None
        return stream


class WrongTree(Planted):
    def digest_batch(self, algorithm, parameters, messages, length):
        digests = super().digest_batch(algorithm, parameters, messages, length)
        if messages.count == 1 and messages.view(0).numel() > 100_000:
            digests ^= 1
        return digests


class Raises(Planted):
    def digest_batch(self, algorithm, parameters, messages, length):
        raise it.BackendUnavailable("the device is on fire")


@pytest.mark.parametrize(
    ("fault", "name", "check"),
    [
        (WrongBit, "sha256", "agreement"),
        (WrongBit, "sha256", "misaligned"),
        (WrongEdge, "sha256", "known answers"),
        (WrongEdge, "shake_128", "known answers"),
        (WrongAlignment, "md5", "misaligned"),
        (OneKey, "hmac_sha256", "keys of their own"),
        (WrongStream, "sha256", "streams"),
        (WrongTree, "blake3", "agreement"),
        (Raises, "sha256", "known answers"),
    ],
)
def test_faults_are_found(plant, run, fault, name, check):
    plant(fault)
    status, out, err = run("--backend", "planted", "--algorithm", name, "--quick", "--report", "r.json")
    assert status == 1
    assert f"{name} failed on planted: FAILED" in err
    assert f"{name} on planted: FAILED" in out
    (cell,) = json.loads(Path("r.json").read_text())["cells"]
    assert check in {failure["check"] for failure in cell["failures"]}
    if fault is WrongEdge:
        failure = next(f for f in cell["failures"] if f["check"] == check)
        record = algorithms.get(name)
        assert f"message of {record.block_size} bytes" in failure["case"]
        hasher = hashlib.new(name, pattern(record.block_size))
        expected = hasher.hexdigest(32) if record.xof else hasher.hexdigest()
        assert (failure["expected"], failure["found"]) == (expected, "00" * 32)
        assert expected in out


def test_a_fault_of_a_backend_fails_it_alone(plant):
    plant(WrongBit)
    report = conformance.run(
        backends=["planted", "native"], algorithms=["sha256", "md5"], effort="quick", seed=1
    )
    assert not report.ok
    status = {(cell.algorithm, cell.backend): cell.status for cell in report.cells}
    assert status["sha256", "planted"] == "failed"
    assert status["sha256", "native"] == status["md5", "native"] == "ran"


def test_a_mac_that_takes_any_tag(monkeypatch):
    monkeypatch.setattr(Hash, "verify", lambda self, tag: None)
    report = conformance.run(backends=["native"], algorithms=["hmac_md5"], effort="quick", seed=1)
    (cell,) = report.cells
    assert {failure.check for failure in cell.failures} == {"forgeries"}
    assert {failure.found for failure in cell.failures} == {"accepted"}
    cases = " ".join(failure.case for failure in cell.failures)
    for part in ("message with", "key with", "tag with", "last byte", "a byte more"):
        assert part in cases


class Hollow(InterpreterBackend):
    """Claims that it runs kernels, but uses a CPU library."""

    name = "hollow"

    def probe(self):
        return Probe(True, "a fallback", ("cpu",))

    def digest_batch(self, algorithm, parameters, messages, length):
        return registry.get("native").digest_batch(algorithm, parameters, messages, length)

    def stream(self, algorithm, parameters, device=None):
        return registry.get("native").stream(algorithm, parameters, device)


class Mute(Hollow):
    """Does the same as ``Hollow``, without calling the backend that the suite watches."""

    name = "mute"

    def digest_batch(self, algorithm, parameters, messages, length):
        return NativeBackend().digest_batch(algorithm, parameters, messages, length)

    def stream(self, algorithm, parameters, device=None):
        return NativeBackend().stream(algorithm, parameters, device)


@pytest.mark.parametrize("fallback", [Hollow, Mute])
def test_a_fallback_is_a_failure(plant, run, fallback):
    plant(fallback)
    status, out, _ = run("--backend", fallback.name, "--algorithm", "sha256", "--quick")
    assert status == 1
    assert "digests, but no kernel was launched" in out
    assert ("work handed to native" in out) == (fallback is Hollow)


def test_watching_leaves_backends_as_they_were(plant):
    plant(Planted)
    before = {name: dict(vars(backend)) for name, backend in registry._backends.items()}
    conformance.run(backends=["planted"], algorithms=["sha256"], effort="quick", seed=1)
    assert {name: vars(backend).keys() for name, backend in registry._backends.items()} == {
        name: found.keys() for name, found in before.items()
    }


# What was asked for


def test_everything_asked_for_ran(run):
    status, out, err = run("--backend", "native", "--algorithm", "SHA-256", "--quick", "--seed", "7")
    assert (status, err) == (0, "")
    assert out.startswith("seed 7\nsha256 on native: ran ")
    assert "passed: " in out and "seed 7" in out.splitlines()[-1]


class Elsewhere(Planted):
    name = "elsewhere"

    def probe(self):
        return Probe(False, "no such device on this bench")


def test_what_was_asked_for_and_is_absent(plant, run):
    plant(Elsewhere)
    status, _, err = run("--backend", "elsewhere", "--quick")
    assert status == 1
    assert "backend elsewhere was asked for and is absent: no such device on this bench" in err
    status, _, err = run("--backend", "elsewhere", "--backend", "native", "--algorithm", "md5", "--quick")
    assert status == 1
    status, _, err = run("--backend", "native", "--algorithm", "kmac_128", "--algorithm", "md5", "--quick")
    assert status == 1
    assert "kmac_128 on native was asked for and is absent: no CPU library has it" in err
    status, _, err = run("--device", "meta:3", "--algorithm", "md5", "--quick")
    assert status == 1
    assert "device meta:3 was asked for, and nothing ran on it" in err


def test_a_run_of_nothing_says_so(plant, run):
    plant(Elsewhere)
    status, out, _ = run("--backend", "elsewhere", "--quick", "--report", "r.md")
    says = "nothing ran, so nothing was checked: no such device on this bench (elsewhere)"
    assert (status, out.splitlines()[-1]) == (1, says)
    assert says in Path("r.md").read_text("utf-8")
    status, out, _ = run("--device", "meta:3", "--algorithm", "md5", "--quick")
    assert status == 1
    last = out.splitlines()[-1]
    assert last.startswith("nothing ran, so nothing was checked: ")
    assert "it has no device meta:3 (" in last


def test_what_was_not_asked_for_may_be_absent(plant, run):
    plant(Elsewhere)
    status, out, _ = run("--algorithm", "md5", "--quick")
    assert status == 0
    assert "absent elsewhere: no such device on this bench" in out
    assert "absent interpreter: runs only if asked for" in out
    status, out, _ = run("--backend", "native", "--quick")
    assert status == 0
    assert "kmac_128" in out and "no CPU library has it" in out
    status, _, _ = run("--backend", "native", "--device", "cpu", "--algorithm", "md5", "--quick")
    assert status == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backend", "quantum"], "unknown backend 'quantum'"),
        (["--algorithm", "sha257"], "unknown algorithm 'sha257'"),
        (["--quick", "--full"], "exclude each other"),
        (["--report", "report.pdf"], "a report is .json, .md, .html, .xml"),
        (["--report", "nowhere/report.md"], "nowhere/report.md: No such file or directory"),
        (["--seed", "-1"], "--seed"),
        (["--compile", "abacus"], "unknown target 'abacus'"),
    ],
)
def test_bad_use(run, arguments, says):
    status, _, err = run(*arguments)
    assert status == 2
    assert says in err


def test_the_seed_makes_the_data(plant):
    plant(WrongBit)

    def found(seed: int | None):
        report = conformance.run(backends=["planted"], algorithms=["sha256"], effort="quick", seed=seed)
        (cell,) = report.cells
        return report.seed, [f for f in cell.failures if f.check == "agreement"]

    assert found(5) == found(5)
    assert found(5) != found(6)
    seed, failures = found(None)
    assert found(seed) == (seed, failures)


def test_a_run_needs_neither_pytest_nor_hypothesis():
    code = (
        "import sys\n"
        "for name in ('pytest', 'hypothesis', 'Crypto', 'cryptography', 'oracles', 'support'):\n"
        "    sys.modules[name] = None\n"
        "from integrity_triton.cli import main\n"
        "sys.exit(main(['conformance', '--backend', 'native', '--algorithm', 'sha256', '--quick']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Reports


class _Page(html.parser.HTMLParser):
    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1] += data


@pytest.fixture
def reports(plant, run):
    """A report of each kind, from a run in which some cells ran, some failed, and some were absent."""
    plant(WrongBit)
    plant(Elsewhere)
    arguments = ["--backend", "planted", "--backend", "native", "--backend", "elsewhere"]
    for kind in ("json", "md", "html", "xml"):
        arguments += ["--report", f"r.{kind}"]
    names = ["sha256", "kmac_128", "blake3"]
    status, out, _ = run(
        *arguments, *[a for n in names for a in ("--algorithm", n)], "--quick", "--seed", "3"
    )
    assert status == 1
    return {kind: Path(f"r.{kind}").read_text("utf-8") for kind in ("json", "md", "html", "xml")} | {
        "out": out
    }


def test_json(reports, run):
    document = json.loads(reports["json"])
    assert document["ok"] is False
    assert document["seed"] == 3
    assert document["problems"]
    for fact in ("package", "python", "torch", "kernel sources", "prebuilt kernels", "backend native"):
        assert document["environment"][fact]
    assert document["environment"]["torch"] == torch.__version__
    cells = {(c["algorithm"], c["backend"]): c for c in document["cells"]}
    assert len(cells) == 9
    assert cells["sha256", "planted"]["status"] == "failed"
    assert cells["kmac_128", "native"]["status"] == "absent"
    assert cells["kmac_128", "native"]["reason"] == "no CPU library has it"
    assert cells["sha256", "native"]["cases"] == sum(cells["sha256", "native"]["checks"].values()) > 0
    _, out, _ = run("--backend", "native", "--algorithm", "md5", "--quick", "--json")
    assert json.loads(out)["ok"] is True


def test_junit(reports):
    root = ElementTree.fromstring(reports["xml"])
    suites = {suite.get("name"): suite for suite in root.iter("testsuite")}
    assert {"planted", "native", "elsewhere"} <= suites.keys()
    planted = {case.get("name"): case for case in suites["planted"].iter("testcase")}
    failure = planted["sha256"].find("failure")
    assert failure is not None
    assert "agreement" in failure.text and "expected" in failure.text
    assert suites["planted"].get("failures") == str(len(suites["planted"].findall("testcase/failure")))
    for case in suites["elsewhere"].iter("testcase"):  # this backend was asked for
        assert "absent: no such device" in case.find("failure").get("message")
    names = {p.get("name") for p in suites["native"].iter("property")}
    assert {"seed", "date", "torch", "kernel sources"} <= names


def test_junit_tells_of_a_run_of_nothing(run):
    run("--device", "meta", "--quick", "--algorithm", "md5", "--report", "r.xml")
    root = ElementTree.fromstring(Path("r.xml").read_text("utf-8"))
    assert "device meta was asked for" in " ".join(f.get("message") for f in root.iter("failure"))


def test_the_page(reports):
    page = _Page()
    page.feed(reports["html"])
    assert page.open == []
    assert reports["html"].startswith("<!DOCTYPE html>")
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe"}
    assert not any({"src", "onclick"} & attributes.keys() for _, attributes in page.tags)
    assert all(a["href"].startswith("#") for _, a in page.tags if "href" in a)
    assert "url(" not in reports["html"] and "@import" not in reports["html"]
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    anchors = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"][1:] for _, a in page.tags if "href" in a} <= anchors
    words = " ".join(page.cells)
    assert "ran " in words and "FAILED " in words and "absent" in words


def test_markdown(reports):
    assert "| sha256 | FAILED" in reports["md"] or "| sha256 | ran" in reports["md"]
    assert "- elsewhere: no such device on this bench" in reports["md"]
    rows = [line for line in reports["md"].splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1


def test_text_from_elsewhere_is_escaped():
    nasty = "<b>&\"'|`\x1b[31m\n</b>"
    failure = conformance.Failure(nasty, nasty, nasty, nasty)
    cell = conformance.Cell(
        "sha256", "planted", "cpu", nasty, "failed", nasty, failed=1, failures=(failure,), asked=True
    )
    report = conformance.Report(
        (cell,), (nasty,), 1, "2026-11-25T00:00:00+00:00", 1.0, {"x": nasty}, {"y": nasty}
    )
    page = _Page()
    page.feed(render.to_html(report))
    assert page.open == []
    assert not any(tag == "b" for tag, _ in page.tags)
    ElementTree.fromstring(render.to_junit(report))
    json.loads(render.to_json(report))
    assert "<b>" not in render.to_markdown(report)


# Algorithms of other packages


def theirs(**changes):
    return dataclasses.replace(algorithms.get("sha256"), name="their_hash", aliases=(), **changes)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a file of known answers for an algorithm."""
    record = theirs(answers="their_package:their_hash.json")
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    text = known_answers.make(record, make_answers.ask, source="hashlib", version="any", made="by a test")
    path = tmp_path / "their_package" / "their_hash.json"
    path.write_text(text)
    yield record, path
    sys.modules.pop("their_package", None)


def test_another_packages_answers(register_algorithm, package, run):
    record, path = package
    register_algorithm(record)
    arguments = ["--backend", "native", "--algorithm", "their_hash", "--quick"]
    assert run(*arguments)[0] == 0
    document = json.loads(path.read_text())
    document["answers"][3]["digest"] = "00" * 32
    path.write_text(json.dumps(document))
    status, out, _ = run(*arguments)
    assert status == 1 and "known answers: message of 3 bytes" in out
    path.write_text("{}")
    status, out, _ = run(*arguments)
    assert status == 1 and "known answers that cannot be read" in out


def test_an_algorithm_without_answers_has_not_passed(register_algorithm, run):
    register_algorithm(theirs())
    status, out, _ = run("--backend", "native", "--algorithm", "their_hash", "--quick")
    assert status == 1
    assert "no known answers; docs/reference/known_answers.md says how" in out


def test_hmac_over_another_packages_hash_is_checked_by_its_definition(register_algorithm, package):
    register_algorithm(package[0])
    report = conformance.run(backends=["native"], algorithms=["hmac_their_hash"], effort="quick", seed=1)
    assert report.ok, render.to_markdown(report)
    (cell,) = report.cells
    assert cell.checks["HMAC's definition"] > 10
    assert "known answers" not in cell.checks


@pytest.mark.slow
def test_compile_only(run):
    if not registry.get("interpreter"):
        pytest.skip("not applicable: no Triton")
    status, out, _ = run("--compile", "cuda:90", "--algorithm", "xxh64", "--report", "r.json")
    assert status == 0, out
    (cell,) = json.loads(Path("r.json").read_text())["cells"]
    assert cell["status"] == "compile-only"
    assert "nothing ran" in cell["reason"]
    assert cell["cases"] == 0
