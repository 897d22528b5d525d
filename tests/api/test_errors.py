"""Every exception of the package is the same in another process and after a copy."""

from __future__ import annotations

import copy
import importlib
import multiprocessing
import pickle
import pkgutil
from concurrent.futures import ProcessPoolExecutor

import pytest

import integrity_triton as it


def exceptions() -> list[type[BaseException]]:
    """The exception classes that the modules of the package define."""
    found = set()
    for module in pkgutil.walk_packages(it.__path__, "integrity_triton."):
        if module.name.startswith("integrity_triton.kernels") or module.name.endswith("__main__"):
            continue
        try:
            members = vars(importlib.import_module(module.name))
        except ImportError:  # an optional dependency or a library of a vendor is absent
            continue
        found |= {
            value
            for value in members.values()
            if isinstance(value, type)
            and issubclass(value, BaseException)
            and value.__module__.startswith("integrity_triton")
        }
    assert {it.IntegrityError, it.TagMismatch, it.BackendUnavailable, it.models.ManifestError} <= found
    return sorted(found, key=lambda kind: kind.__qualname__)


def made(kind: type[BaseException]) -> BaseException:
    error = (
        kind("what is wrong", [("a", 1), ("b", None)]) if kind is it.TagMismatch else kind("what is wrong")
    )
    error.extra = "a note"  # add_note() keeps notes in this way, since Python 3.11
    return error


def same(one: BaseException, other: BaseException) -> bool:
    return (type(one), str(one), one.args, vars(one)) == (type(other), str(other), other.args, vars(other))


def test_copies():
    for kind in exceptions():
        error = made(kind)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert same(pickle.loads(pickle.dumps(error, protocol)), error), kind
        assert same(copy.copy(error), error), kind
        assert same(copy.deepcopy(error), error), kind


def _raise(kind: type[BaseException]) -> None:
    raise made(kind)


def test_a_pool_of_processes_reports_them():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        for kind in exceptions():
            with pytest.raises(kind) as caught:
                pool.submit(_raise, kind).result(60)
            error = caught.value
            assert (str(error), vars(error)) == ("what is wrong", vars(made(kind)))
