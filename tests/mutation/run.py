"""The mutation run: finds out which probes notice a change in a device file. ``tests/mutate.py`` is the
command.

Each mutant is one process, forked from a process that has imported everything. It puts the changed file
before the others on the path of ``integrity_triton.kernels``, forgets what was loaded from there, and runs
the checks and tests of ``probes.py`` that reach the changed line, until one fails.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import gc
import hashlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mutation.mutants import KERNELS, Mutant, Source, files

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SURVIVORS = HERE / "survivors.json"
KILLERS = HERE / "killers.json"
PACKAGE = "integrity_triton.kernels"
# The number of bytes of memory that a mutant may take beyond what the process has. One test maps 4 GiB.
MORE_MEMORY = 12 << 30


@dataclass
class Reached:
    """What a probe reaches if nothing is changed."""

    seconds: float
    lines: dict[str, set[int]]
    tables: set[str]


@dataclass
class Result:
    killed: bool
    by: str = ""
    how: str = ""
    tried: int = 0
    seconds: float = 0.0


def forget(folder: str | None) -> None:
    """Have the kernels of the package loaded again, from ``folder`` first."""
    from integrity_triton import algorithms
    from integrity_triton.backends import interpreter, registry
    from integrity_triton.launching import host
    from integrity_triton.self_tests import admission as self_test

    package = import_module(PACKAGE)
    package.__path__ = [*([folder] if folder else []), str(KERNELS)]
    for name in [name for name in sys.modules if name.startswith(PACKAGE + ".")]:
        del sys.modules[name]
        delattr(package, name.rpartition(".")[2])
    algorithms.load_constant.cache_clear()
    host._joined.cache_clear()
    backend = registry.get("interpreter")
    assert isinstance(backend, interpreter.InterpreterBackend)
    backend._twins = interpreter._Twins()
    # Self-tests are not needed, because known answers are among the checks.
    os.environ[self_test.VARIABLE] = "off"


def in_a_process(work: Callable[[Callable[[Any], None]], None]) -> tuple[int, int]:
    """Fork. The child does ``work``, which may send values to its parent, and ends. Returns the child's
    process id and the pipe through which the values come."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    status = 3
    try:
        os.close(reading)
        os.setpgid(0, 0)
        gc.disable()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        sys.dont_write_bytecode = True
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        work(lambda told: (os.write(writing, (json.dumps(told) + "\n").encode()), None)[1])
        status = 0
    except BaseException as error:
        os.write(writing, (json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n").encode())
    finally:
        os._exit(status)


class Pool:
    """Runs processes, a few at a time, and receives what they send."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._running: dict[int, tuple[int, bytearray, Callable[[list[Any], int], None]]] = {}
        self._ended: dict[int, int] = {}

    def start(
        self, work: Callable[[Callable[[Any], None]], None], done: Callable[[list[Any], int], None]
    ) -> None:
        """``done`` is called with what the process sent, and with its status as :func:`os.waitpid` gives
        it."""
        while len(self._running) >= self._size:
            self._wait()
        child, pipe = in_a_process(work)
        self._running[pipe] = child, bytearray(), done

    def finish(self) -> None:
        while self._running:
            self._wait()

    def _wait(self) -> None:
        for pipe in select.select(list(self._running), [], [], 5)[0]:
            child, told, done = self._running[pipe]
            data = os.read(pipe, 1 << 20)
            told += data
            if not data:
                os.close(pipe)
                del self._running[pipe]
                status = self._ended.pop(child) if child in self._ended else os.waitpid(child, 0)[1]
                lines = told.decode().splitlines()
                done([json.loads(line) for line in lines if line.endswith("}")], status)
        # The process may have started others, which keep the pipe open.
        for child in [running[0] for running in self._running.values()]:
            if child not in self._ended:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    self._ended[child] = status
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child, signal.SIGKILL)


def limited(seconds: float) -> None:
    """Have the process killed unless it calls this function again in time. The limit of processor time is
    many times what the work takes. The limit of real time is 20 times as long, since other processes may be
    busy, too; it ends a process that waits forever."""
    for number, timer, factor in (
        (signal.SIGPROF, signal.ITIMER_PROF, 1),
        (signal.SIGALRM, signal.ITIMER_REAL, 20),
    ):
        signal.signal(number, signal.SIG_DFL)
        signal.setitimer(timer, factor * max(10.0, 10 * seconds))


def reach(probe: Any, tell: Callable[[Any], None]) -> None:
    """Run a probe while nothing is changed, and send how long it took and what it reached."""
    from triton.runtime.interpreter import FunctionRewriter

    from integrity_triton import algorithms

    lines: dict[str, set[int]] = {}
    tables: set[str] = set()
    rewrite, value = FunctionRewriter._transform_ast, algorithms._value

    def rewrite_with_notes(self: Any, source: str) -> Any:
        # This is the tree that the interpreter is about to compile. A call is added before every statement.
        tree = rewrite(self, source)
        found = lines.setdefault(Path(self.filename).stem, set())
        number = len(notes)
        notes.append(found.add)
        for node in list(ast.walk(tree)):
            for name in ("body", "orelse"):
                block = getattr(node, name, None)
                if isinstance(block, list) and not isinstance(node, ast.Module):
                    noted = [(ast.parse(f"_notes_[{number}]({s.lineno})").body[0], s) for s in block]
                    setattr(node, name, [s for pair in noted for s in pair])
        return ast.fix_missing_locations(tree)

    def value_with_note(node: Any, reference: str) -> Any:
        tables.add(reference.removeprefix(PACKAGE + "."))
        return value(node, reference)

    notes: list[Callable[[int], None]] = []
    builtins.__dict__["_notes_"] = notes
    FunctionRewriter._transform_ast = rewrite_with_notes
    algorithms._value = value_with_note
    forget(None)
    limited(60)
    began = time.process_time()
    probe.run()
    taken = time.process_time() - began
    numbers = {name: sorted(found) for name, found in lines.items()}
    tell({"seconds": round(taken, 3), "lines": numbers, "tables": sorted(tables)})


def attempt(source: Source, mutant: Mutant, order: list[tuple[Any, float]], folder: str) -> Any:
    """The work of a mutant's process: it runs probes until one fails."""

    def work(tell: Callable[[Any], None]) -> None:
        os.mkdir(folder)
        Path(folder, f"{mutant.file}.py").write_text(source.text(mutant), "utf-8")
        for probe, seconds in order:
            tell({"probe": probe.name})
            limited(seconds)
            forget(folder)
            try:
                probe.run()
            except BaseException as error:
                tell({"killed": f"{type(error).__name__}: {error}"[:300]})
                return
        tell({"survived": True})

    return work


def outcome(told: list[Any], status: int) -> Result:
    """The result, from what a mutant's process has sent."""
    if not told or any("error" in line for line in told):
        raise RuntimeError(f"the process of a mutant failed by itself: {told}, status {status}")
    by = [line["probe"] for line in told if "probe" in line]
    if "survived" in told[-1]:
        return Result(False, tried=len(by))
    if "killed" in told[-1]:
        how = told[-1]["killed"]
    elif os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        how = (
            "timeout"
            if number in (signal.SIGPROF, signal.SIGALRM)
            else f"signal {signal.Signals(number).name}"
        )
    else:
        how = f"exit {status}"
    return Result(True, by[-1], how, len(by))


@dataclass
class Knowledge:
    """Which probes reach which lines and tables."""

    reached: dict[str, Reached] = field(default_factory=dict)
    mentions: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    ends: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    tries: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    kills: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    @classmethod
    def of_sources(cls) -> Knowledge:
        found = cls()
        for file in files():
            tree = ast.parse((KERNELS / f"{file}.py").read_text("utf-8"))
            for top in tree.body:
                if isinstance(top, ast.FunctionDef):
                    found.ends[file, top.name] = top.lineno, top.end_lineno or top.lineno
                    for node in ast.walk(top):
                        if isinstance(node, ast.Name):
                            lines = found.mentions.setdefault(node.id, {}).setdefault(file, set())
                            lines |= set(range(top.lineno, (top.end_lineno or top.lineno) + 1))
        return found

    def reaches(self, probe: str, mutant: Mutant) -> bool:
        found = self.reached[probe]
        if (mutant.file, mutant.scope) not in self.ends:  # the scope is a table
            if f"{mutant.file}:{mutant.scope}" in found.tables:
                return True
            mentioned = self.mentions.get(mutant.scope, {})
            return any(lines & found.lines.get(file, set()) for file, lines in mentioned.items())
        first, last = mutant.statement
        if first == self.ends[mutant.file, mutant.scope][0]:
            last = self.ends[mutant.file, mutant.scope][1]
        return any(first <= line <= last for line in found.lines.get(mutant.file, ()))

    def ways(self, probe: str, mutant: Mutant) -> frozenset[int]:
        """The lines of the mutant's function that a probe reaches."""
        first, last = self.ends.get((mutant.file, mutant.scope), (0, 0))
        lines = self.reached[probe].lines.get(mutant.file, set())
        return frozenset(line for line in lines if first <= line <= last)

    def order(
        self, probes: Iterable[Any], mutant: Mutant, cap: float, most_alike: int
    ) -> list[tuple[Any, float]]:
        """The probes that reach a mutant. Those that are likely to kill it soon come first. Of checks and
        tests that differ only in their parameters and reach the same lines of the mutant's function, at most
        ``most_alike`` are taken."""

        def price(probe: Any) -> float:
            key = mutant.file, mutant.scope, probe.name
            return self.reached[probe.name].seconds * (self.tries[key] + 1) / (self.kills[key] + 0.5)

        found, alike, total = [], Counter[tuple[str, frozenset[int]]](), 0.0
        reaching = [p for p in probes if p.name in self.reached and self.reaches(p.name, mutant)]
        for probe in sorted(reaching, key=price):
            seconds, kind = self.reached[probe.name].seconds, (probe.kind, self.ways(probe.name, mutant))
            if alike[kind] < most_alike and (total + seconds <= cap or not found):
                alike[kind] += 1
                total += seconds
                found.append((probe, seconds))
        return found

    def note(self, mutant: Mutant, order: list[tuple[Any, float]], result: Result) -> None:
        for probe, _ in order[: result.tried]:
            self.tries[mutant.file, mutant.scope, probe.name] += 1
        if result.killed:
            self.kills[mutant.file, mutant.scope, result.by] += 1


class Run:
    """The mutation run, which replaces pytest's loop over the tests that it has collected."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.status = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        import torch

        from integrity_triton.backends import registry
        from mutation import probes

        torch.set_num_threads(1)
        registry.get("interpreter")
        self.of_file = probes.probes(session.items)
        self.probes = {probe.name: probe for found in self.of_file.values() for probe in found}
        self.sources = {file: Source(file) for file in files()}
        self.pool = Pool(self.options.workers)
        self.folder = tempfile.mkdtemp(prefix="mutants-")
        self.results: dict[Mutant, Result] = {}
        gc.collect()
        gc.freeze()
        try:
            if self.options.sample:
                self.sample()
            else:
                self.everything()
        finally:
            shutil.rmtree(self.folder)
        return True

    def wanted(self) -> list[Mutant]:
        chosen = self.options.file or list(self.sources)
        found = [m for file in chosen for m in self.sources[file].mutants]
        if self.options.scope:
            found = [m for m in found if m.scope in self.options.scope]
        return found

    def run(self, mutant: Mutant, order: list[tuple[Any, float]], done: Callable[[Result], None]) -> None:
        folder = os.path.join(self.folder, str(len(self.results)) + f"-{time.monotonic_ns()}")
        began = time.perf_counter()

        def ended(told: list[Any], status: int) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            result = outcome(told, status)
            result.seconds = round(time.perf_counter() - began, 3)
            self.results[mutant] = result
            done(result)

        self.pool.start(attempt(self.sources[mutant.file], mutant, order, folder), ended)

    # Every mutant

    def everything(self) -> None:
        mutants = self.wanted()
        known = Knowledge.of_sources()
        lines: list[Any] = []
        log = Path(self.options.results) if self.options.results else None
        if log and log.exists():
            lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        before = {tuple(line["mutant"]): Result(**line["result"]) for line in lines}
        self.results = {m: before[m.key] for m in mutants if m.key in before}
        for mutant, result in self.results.items():
            if result.killed:
                known.kills[mutant.file, mutant.scope, result.by] += 1
                known.tries[mutant.file, mutant.scope, result.by] += 1
        left = [m for m in mutants if m not in self.results]
        if self.options.again:
            explained = {key for key, text in _explanations().items() if text}
            left += [m for m, r in self.results.items() if not r.killed and m.key not in explained]
        began, done_before = time.perf_counter(), len(self.results)
        # Functions come first, because most survivors are expected there.
        parts: dict[tuple[bool, str], list[Mutant]] = {
            (m.before.startswith("word "), m.file): [] for m in left
        }
        for mutant in left:
            parts[mutant.before.startswith("word "), mutant.file].append(mutant)
        for (_, file), part in sorted(parts.items(), key=lambda item: item[0][0]):
            known.reached |= self.baseline(file)
            for mutant in part:
                self.one(mutant, known, log)
            self.pool.finish()
            taken = time.perf_counter() - began
            print(f"{file}: {len(self.results) - done_before} in {taken:.0f} s", flush=True)
        self.report()

    def one(self, mutant: Mutant, known: Knowledge, log: Path | None) -> None:
        order = known.order(self.of_file[mutant.file], mutant, self.options.cap, self.options.alike)

        def done(result: Result) -> None:
            known.note(mutant, order, result)
            if log:
                with log.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"mutant": mutant.key, "result": vars(result)}) + "\n")
            if not result.killed and self.options.verbose:
                print(f"survived {result.tried}: {mutant}", flush=True)

        if order:
            self.run(mutant, order, done)
        else:
            result = self.results[mutant] = Result(False)
            done(result)

    def baseline(self, file: str) -> dict[str, Reached]:
        """Find out what the probes reach. Probes that fail although nothing is changed are left out and
        reported."""
        digest = hashlib.sha256(b"".join((KERNELS / f"{f}.py").read_bytes() for f in files())).hexdigest()
        cache = Path(self.options.baseline) if self.options.baseline else None
        found: dict[str, Any] = {}
        if cache and cache.exists():
            stored = json.loads(cache.read_text("utf-8"))
            if stored["kernels"] == digest:
                found = stored["reached"]
        wanted = {probe.name: probe for probe in self.of_file[file]}
        for name, probe in wanted.items():

            def done(told: list[Any], status: int, name: str = name) -> None:
                if status or "seconds" not in told[-1]:
                    print(f"fails by itself: {name}: {told[-1:]}, status {status}", flush=True)
                    self.status = 1
                else:
                    found[name] = told[-1]

            if name not in found:
                self.pool.start(lambda tell, probe=probe: reach(probe, tell), done)
        self.pool.finish()
        if cache:
            cache.write_text(json.dumps({"kernels": digest, "reached": found}), "utf-8")
        return {
            name: Reached(x["seconds"], {f: set(n) for f, n in x["lines"].items()}, set(x["tables"]))
            for name, x in found.items()
            if name in self.probes
        }

    def report(self) -> None:
        """A table for each file, and the survivors."""
        explained = {key: text for key, text in _explanations().items() if text}
        rows, kinds = [], Counter[str]()
        for file in self.sources:
            mine = {m: r for m, r in self.results.items() if m.file == file}
            if not mine:
                continue
            killed = sum(r.killed for r in mine.values())
            why = sum(m.key in explained for m, r in mine.items() if not r.killed)
            for result in mine.values():
                if result.killed:
                    kinds[self.probes[result.by].kind if result.by in self.probes else "?"] += 1
            rows.append((file, len(mine), killed, len(mine) - killed, why))
        total = ("all", *(sum(row[i] for row in rows) for i in range(1, 5)))
        names = ("mutants", "killed", "survived", "explained", "of the others")
        print(f"\n{'file':<14}" + "".join(f"{name:>14}" for name in names))
        for name, count, killed, survived, why in (*rows, total):
            rate = f"{killed / (count - why):.2%}" if count > why else "-"
            print(f"{name:<14}{count:>14}{killed:>14}{survived:>14}{why:>14}{rate:>14}")
        print("\nkilled by")
        for kind, count in kinds.most_common():
            print(f"{count:>6}  {kind}")
        unexplained = [m for m, r in self.results.items() if not r.killed and m.key not in explained]
        for mutant in unexplained:
            print(f"survived {self.results[mutant].tried}: {mutant}")
        if unexplained:
            self.status = 1
        if self.options.write:
            self.write()

    def write(self) -> None:
        """The survivors, with the explanations that exist, and the probes that kill mutants in each
        function."""
        explanations = _explanations()
        others = [key for key in explanations if key[0] not in {m.file for m in self.results}]
        mine = [m.key for m, r in self.results.items() if not r.killed]
        entries = [
            dict(zip(("file", "scope", "before", "after", "occurrence"), key, strict=True))
            | {"why": explanations.get(key, "")}
            for key in sorted([*others, *mine])
        ]
        rows = ",\n".join(f" {json.dumps(entry, ensure_ascii=False)}" for entry in entries)
        SURVIVORS.write_text(f"[\n{rows}\n]\n", "utf-8")
        killers: dict[str, dict[str, list[str]]] = {}
        if KILLERS.exists():
            killers = json.loads(KILLERS.read_text("utf-8"))
        counts: dict[tuple[str, str], Counter[str]] = {}
        for mutant, result in self.results.items():
            if result.killed:
                counts.setdefault((mutant.file, mutant.scope), Counter())[result.by] += 1
        for file in {file for file, _ in counts}:
            killers[file] = {}
        for (file, scope), names in counts.items():
            killers[file][scope] = [name for name, _ in names.most_common()]
        KILLERS.write_text(json.dumps(dict(sorted(killers.items())), indent=1) + "\n", "utf-8")

    # A sample

    def sample(self) -> None:
        """Run some random mutants, each against the probes that killed other mutants of its function. The run
        fails if a mutant survives, or if one of these probes fails although nothing is changed."""
        killers = json.loads(KILLERS.read_text("utf-8"))
        survivors = set(_explanations())
        known = {name for scopes in killers.values() for names in scopes.values() for name in names}
        for name in sorted(known - self.probes.keys()):
            self.status = 1
            print(f"NO SUCH CHECK OR TEST: {name}", flush=True)
        able = [m for m in self.wanted() if m.key not in survivors and m.scope in killers.get(m.file, {})]
        drawn = random.Random(self.options.seed).sample(able, self.options.sample)
        used: set[str] = set()
        for mutant in drawn:
            names = [name for name in killers[mutant.file][mutant.scope] if name in self.probes]

            def done(result: Result, mutant: Mutant = mutant) -> None:
                if result.killed:
                    used.add(result.by)
                    print(f"killed by {result.by}: {mutant}", flush=True)
                else:
                    self.status = 1
                    print(f"SURVIVED: {mutant}", flush=True)

            self.run(mutant, [(self.probes[name], 3.0) for name in names], done)
        self.pool.finish()
        for name in sorted(used):

            def passed(told: list[Any], status: int, name: str = name) -> None:
                if status:
                    self.status = 1
                    print(f"FAILS BY ITSELF: {name}: {told}", flush=True)

            def work(tell: Callable[[Any], None], name: str = name) -> None:
                forget(None)
                self.probes[name].run()

            self.pool.start(work, passed)
        self.pool.finish()
        killed = sum(r.killed for r in self.results.values())
        print(f"{killed} of {len(drawn)} killed, by {len(used)} checks and tests")


def _explanations() -> dict[tuple[str, str, str, str, int], str]:
    if not SURVIVORS.exists():
        return {}
    fields = ("file", "scope", "before", "after", "occurrence")
    return {tuple(e[f] for f in fields): e["why"] for e in json.loads(SURVIVORS.read_text("utf-8"))}


def main(arguments: list[str], description: str | None) -> int:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", nargs="*", default=[], choices=files(), metavar="NAME")
    parser.add_argument("--scope", nargs="*", default=[], metavar="NAME", help="functions and tables")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--cap", type=float, default=60, help="seconds for one mutant, of the processor")
    parser.add_argument(
        "--alike", type=int, default=2, help="how many checks or tests that differ in parameters alone"
    )
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", metavar="FILE", help="keep results there, and go on from those")
    parser.add_argument(
        "--again", action="store_true", help="with --results, run survivors again of which nothing says why"
    )
    parser.add_argument("--baseline", metavar="FILE", help="keep there what the checks and tests reach")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    from mutation import probes

    run = Run(options)
    os.chdir(ROOT)
    wanted = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if path.name in probes.FILES]
    quiet = ["-q", "-s", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist"]
    quiet += ["-m", "not exhaustive or rotating"]
    status = pytest.main([*wanted, "--backend", probes.BACKEND, *quiet], plugins=[run])
    return int(status) or run.status
