"""Runs a property as often as the speed of a backend allows, if the backend has the functions that the
property is about."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from integrity_triton import algorithms
from integrity_triton.backends import registry
from support import EXAMPLES

FEW, ALL = "few examples", "all examples"


@pytest.fixture(params=[FEW, pytest.param(ALL, marks=[pytest.mark.slow, pytest.mark.rotating(8)])])
def check(backend, request):
    """A function that runs a property with as many examples as the speed of the backend allows, or with one
    in ``share`` of them. The first example is the smallest possible one. The default tier runs a quarter of
    the examples."""

    def run(*strategies, share=1):
        share *= 4 if request.param == FEW and backend != "interpreter" else 1

        def decorate(prop):
            settings(
                max_examples=max(2, EXAMPLES.get(backend, 24) // share),
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )(given(*strategies)(prop))()

        return decorate

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _repeats(item)]


def _repeats(item: pytest.Item) -> bool:
    """Whether another test has the same examples: a slow test has all of them, and the interpreter always
    has."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    slow_anyway = len(list(item.iter_markers("slow"))) > (parameters.get("check") == ALL)
    return (parameters.get("check") == FEW and slow_anyway) or (
        parameters.get("check") == ALL and parameters["backend"] == "interpreter" and not slow_anyway
    )


@pytest.fixture
def runs(backend, record_property):
    """A function that skips a test if the backend lacks one of the functions that the test is about, and in
    the interpreter unless ``interpreted`` is true. It records the first function for the table at the end."""

    def run(name, *others, interpreted=False):
        record_property("algorithm", name)
        for record in map(algorithms.get, (name, *others)):
            if backend == "native" and record.native is None:
                pytest.skip(f"not applicable: no CPU library has {record.name}")
            reason = registry.get(backend).unsupported(record)
            if reason is not None:
                pytest.skip(f"absent: {record.name}: {reason}")
        if backend == "interpreter" and not interpreted:
            pytest.skip("not applicable: too slow, and the kernels are tested by their answers")

    return run
