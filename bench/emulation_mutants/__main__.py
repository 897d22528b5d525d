"""Change compiled GPU code and see whether its emulation notices:
``python -m bench.emulation_mutants [KERNEL]... [--target T] [--count N] [--seed S] [--write]``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence

from integrity_triton.backends.emulation.faults import EmulationError, Unmodelled
from integrity_triton.self_tests.catalogue import Trial

from .changes import Change, draw_changes
from .report import RESULTS, Entry, load, share, write
from .trials import SUBJECTS, EveryLength, Laboratory, Replaceable, Subject, baseline

TARGETS = ("sm_90", "gfx942")
EVERY_WAY = (
    "no way through the kernel uses a register before what fills it has ended, or passes a barrier with a "
    "store to shared memory under way"
)
UNREAD = "nothing reads what the instruction writes"


def survey(subject: Subject, target: str, count: int, seed: int) -> Entry:
    """Change ``count`` instructions of a subject's kernels, and run its trials on each mutant."""
    laboratory = Laboratory(target)
    trials = laboratory.trials(subject)
    start = time.perf_counter()
    known = baseline(laboratory, subject, trials)
    print(
        f"{subject.name} on {target}: {len(trials)} trials, {len(known.programs)} compiled kernels, "
        f"{time.perf_counter() - start:.0f} s",
        flush=True,
    )
    further = laboratory.further(subject)
    for algorithm, batch in further:
        if failed := laboratory.failure(algorithm, batch):
            raise RuntimeError(f"{algorithm}: a batch of every length fails as it is: {failed}")
    known.limit()
    killed: Counter[str] = Counter()
    kinds: dict[str, list[int]] = {}
    survivors: list[Entry] = []
    by_further = 0
    for number, (program, runs) in enumerate(known.programs):
        share_of = [
            count // len(known.programs) + (k < count % len(known.programs)) for k in range(number + 1)
        ][-1]
        for change in _changes(laboratory, program, share_of, f"{seed} {subject.name} {target} {number}"):
            chosen: list[tuple[str, Trial | EveryLength]] = [(subject.algorithm, trials[n]) for n in runs]
            cause = _cause(laboratory, program, change, chosen)
            late = ""
            if cause is None and not laboratory.code(program).unread(change):
                cause, late = _cause(laboratory, program, change, further), ", by further batches"
            by_further += bool(cause and late)
            kinds.setdefault(change.kind, [0, 0])[1] += 1
            where = f"{change.kind} {change.before!r} -> {change.after!r} at {change.line}"
            if cause is not None:
                killed[cause] += 1
                kinds[change.kind][0] += 1
                print(f"  {cause}{late}: {where}", flush=True)
                continue
            why = UNREAD if laboratory.code(program).unread(change) else ""
            if change.kind == "wait" and "cp.async" not in change.before and "proxy" not in change.before:
                why = EVERY_WAY
            survivors.append(
                {
                    "kind": change.kind,
                    "line": change.line.partition(",")[0],
                    "before": change.before,
                    "after": change.after,
                    "equivalent": bool(why),
                    "why": why,
                }
            )
            print(f"  SURVIVES {why or '(not explained)'}: {where}", flush=True)
    return {
        "kernel": subject.name,
        "function": subject.kernel,
        "target": target,
        "seed": seed,
        "killed": dict(sorted(killed.items())),
        "by_further": by_further,
        "kinds": dict(sorted(kinds.items())),
        "survivors": survivors,
        "seconds": round(time.perf_counter() - start),
    }


def _changes(laboratory: Laboratory, program: Replaceable, count: int, seed: str) -> list[Change]:
    code = laboratory.code(program)

    def runs(change: Change) -> bool:
        """Whether the emulator knows the other instruction. A fault that is found before the kernel runs
        counts as killed."""
        try:
            code.changed(change)
        except Unmodelled:
            return False
        except EmulationError:
            return True
        except (KeyError, IndexError, ValueError, TypeError, AttributeError):
            return False  # not an instruction of the language
        return True

    return draw_changes(code, sorted(program.steps.blocks), count, seed, runs)


def _cause(
    laboratory: Laboratory,
    program: Replaceable,
    change: Change,
    trials: Sequence[tuple[str, Trial | EveryLength]],
) -> str | None:
    """What kills a mutant, or None if it survives all trials."""
    try:
        program.current = laboratory.code(program).changed(change)
        for algorithm, trial in trials:
            if cause := laboratory.failure(algorithm, trial):
                return cause
    except EmulationError as error:
        return type(error).__name__
    finally:
        program.current = program.original
    return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.emulation_mutants", description=__doc__)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=f"by default all: {', '.join(SUBJECTS)}")
    parser.add_argument("--target", action="append", choices=TARGETS, help="by default both")
    parser.add_argument("--count", type=int, default=40, help="mutants of each kernel and target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--write", action="store_true", help=f"write {RESULTS.name} and the tables of the page"
    )
    parser.add_argument("--tables", action="store_true", help="only write the tables of the page anew")
    options = parser.parse_args()
    if unknown := set(options.kernels) - set(SUBJECTS):
        parser.error(f"no kernel {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    import triton

    versions = {"triton": triton.__version__, "python": sys.version.partition(" ")[0]}
    if options.tables:
        write([], versions)
        return
    os.environ["INTEGRITY_TRITON_SELF_TEST"] = "off"  # their trials are what is run here
    entries = []
    for name in options.kernels or SUBJECTS:
        for target in options.target or TARGETS:
            entries.append(survey(SUBJECTS[name], target, options.count, options.seed))
            if options.write:
                write(entries[-1:], versions)
    known = load() if options.write else []
    print(
        f"{share(entries):.1%} killed of those that are not equivalent"
        + (f"; {share(known):.1%} of all" if known else "")
    )


if __name__ == "__main__":
    main()
