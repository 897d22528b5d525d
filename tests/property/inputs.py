"""The inputs of the properties: bytes, lengths and parameters."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from integrity_triton.algorithms import Algorithm, Parameter

LONGEST_VALUE = 300  # bytes of a parameter without a limit: more than any block


def near(*sizes: int, by: int = 2) -> st.SearchStrategy[int]:
    return st.builds(lambda size, offset: max(0, size + offset), st.sampled_from(sizes), st.integers(-by, by))


def randoms() -> st.SearchStrategy[random.Random]:
    """Like Hypothesis's own strategy, which however draws every byte by itself and so takes longer than
    hashing the bytes."""
    return st.builds(random.Random, st.integers(0, 2**32 - 1))


def random_bytes(lengths: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda n, rng: rng.randbytes(n), lengths, randoms())


def any_bytes(most: int, least: int = 0) -> st.SearchStrategy[bytes]:
    """Bytes, with all lengths equally likely. ``binary`` by itself hardly ever gives more than thirty bytes,
    which is less than a block."""
    few = st.binary(min_size=least, max_size=max(least, min(most, 20)))
    return few | random_bytes(st.integers(least, most))


def message_bytes(backend: str, most: int = 5000) -> st.SearchStrategy[bytes]:
    """In the interpreter, which takes up to a tenth of a second for a block, few messages have more than one
    block."""
    return st.binary(max_size=most) if backend == "interpreter" else any_bytes(most)


def values(parameter: Parameter) -> st.SearchStrategy:
    if parameter.choices is not None:
        return st.sampled_from(parameter.choices)
    if parameter.sizes is not None:
        return st.one_of([st.binary(min_size=n, max_size=n) for n in parameter.sizes])
    if parameter.type is bytes:
        return any_bytes(parameter.max_size or LONGEST_VALUE, parameter.min_size or 0)
    if parameter.type is str:
        return st.text(max_size=40)
    if parameter.type is bool:
        return st.booleans()
    most = parameter.maximum
    if parameter.name in ("digest_size", "block_size"):
        most = min(most, LONGEST_VALUE)
    return st.integers(parameter.minimum, most)


def parameters(record: Algorithm, *, without: tuple[str, ...] = ()) -> st.SearchStrategy[dict]:
    """Any values for the parameters that an algorithm needs, and for some of its other parameters."""
    known = {p.name: p for p in record.parameters if p.name not in without}
    needed = {name: values(p) for name, p in known.items() if name in record.required}
    others = {name: values(p) for name, p in known.items() if name not in needed}
    return st.fixed_dictionaries(needed, optional=others).filter(
        lambda given: not any(other in given for name in given for other in known[name].excludes)
    )
