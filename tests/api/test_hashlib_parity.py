"""What hashlib has as well behaves as in hashlib: attributes, parameters, errors and digests.

If a difference is intended, a test says so and gives the reason (``test_wanted_differences``).
"""

from __future__ import annotations

import array
import copy
import hashlib
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm
from integrity_triton.backends import registry
from support import kernel_family, pattern, rows_as_bytes

# Names as hashlib spells them, whether or not the OpenSSL of this machine has them. md5-sha1 is the pair of
# hashes of TLS 1.1.
NAMES = sorted(hashlib.algorithms_guaranteed | {"sm3", "ripemd160", "sha512_224", "sha512_256"})
REGISTERED = [name for name in NAMES if name in it.algorithms_available]
HERE = [name for name in REGISTERED if name in hashlib.algorithms_available]
BLAKE2 = [name for name in HERE if name.startswith("blake2")]
EXAMPLES = {"interpreter": 4, "native": 150}
# Sizes of keys and salts around their limits, and numbers at the ends of their ranges and beyond.
AROUND = [-1, 0, 1, 2, 31, 32, 33, 63, 64, 65, 255, 256, (1 << 32) - 1, 1 << 32, (1 << 48) - 1, 1 << 48]


def theirs(name: str, *args: Any, **kwargs: Any) -> Any:
    """The constructor of hashlib; if only its OpenSSL has the hash, ``hashlib.new``."""
    make = getattr(hashlib, name, None)
    return make(*args, **kwargs) if make else hashlib.new(name, *args, **kwargs)


def ours(name: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(it, name)(*args, **kwargs)


def outcome(call: Any) -> Any:
    """What a call returns, or the type of its error."""
    try:
        return call()
    except (TypeError, BufferError) as error:
        return type(error)
    except (ValueError, OverflowError):
        return ValueError


def output(hasher: Any, length: int = 32) -> bytes:
    return hasher.digest() if hasher.digest_size else hasher.digest(length)


def record(name: str) -> Algorithm:
    return algorithms.get(name)


def test_every_algorithm_of_hashlib_is_here():
    assert REGISTERED == NAMES


def test_the_names_are_hashlibs():
    ours_of_theirs = hashlib.algorithms_available & it.algorithms_available
    assert ours_of_theirs >= set(HERE)
    for name in ours_of_theirs:
        assert it.new(name).name == hashlib.new(name).name == name
    assert isinstance(it.algorithms_available, frozenset)
    assert it.algorithms_available == {record.name for record in algorithms.all_algorithms()}


@pytest.mark.parametrize("name", HERE)
def test_attributes(name):
    a, b = ours(name), theirs(name)
    assert (a.name, a.digest_size, a.block_size) == (b.name, b.digest_size, b.block_size)
    for attribute in ("name", "digest_size", "block_size"):
        with pytest.raises(AttributeError):
            setattr(a, attribute, 1)
        with pytest.raises(AttributeError):
            setattr(b, attribute, 1)
    with pytest.raises(AttributeError):
        a.other = 1
    assert a != ours(name)
    assert isinstance(hash(a), int)
    assert a.update(b"x") is None
    assert type(a.copy()) is type(a)


@pytest.mark.parametrize("name", HERE)
def test_spellings(name):
    """new() takes the arguments that hashlib.new() takes, under the same names."""
    spellings = {name, *record(name).aliases}
    spellings |= {s.upper() for s in spellings} | {name.replace("_", "-"), name.title()}
    for spelling in spellings:
        found = outcome(lambda spelling=spelling: hashlib.new(spelling).name)
        if found is not ValueError:
            assert found == it.new(spelling).name == name, spelling
    for call in (lambda new: new(), lambda new: new(5), lambda new: new(name.encode())):
        assert (
            outcome(lambda call=call: call(it.new))
            is outcome(lambda call=call: call(hashlib.new))
            is TypeError
        )
    assert (
        outcome(lambda: it.new("no such hash")) is outcome(lambda: hashlib.new("no such hash")) is ValueError
    )


INPUTS = {
    "bytes": b"abcdefgh",
    "bytearray": bytearray(b"abcdefgh"),
    "memoryview": memoryview(b"abcdefgh"),
    "array of bytes": array.array("B", b"abcdefgh"),
    "array of ints": array.array("I", [1, 2, 1 << 31]),
    "array of doubles": array.array("d", [0.5]),
    "two dimensions": memoryview(b"abcdefgh").cast("B", (2, 4)),
    "two dimensions of ints": memoryview(bytes(range(16))).cast("I", (2, 2)),
    "numpy, big-endian": np.arange(5, dtype=">i4"),
    "numpy, no dimension": np.array(3.5),
    "numpy, a zero in the shape": np.ones((2, 0)),
    "numpy, records": np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
    "strided": memoryview(b"abcdefgh")[::2],
    "reversed": memoryview(b"abcdefgh")[::-1],
    "strided ints": memoryview(array.array("I", [1, 2, 3, 4]))[::2],
    "str": "abcdefgh",
    "int": 5,
    "None": None,
    "list": [1, 2],
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", HERE)
def test_inputs(name, kind):
    data = INPUTS[kind]

    def update(make):
        hasher = make(name)
        hasher.update(data)
        return output(hasher)

    expected = outcome(lambda: output(theirs(name, data)))
    assert outcome(lambda: output(ours(name, data))) == expected
    assert outcome(lambda: output(it.new(name, data))) == expected
    assert outcome(lambda: update(ours)) == outcome(lambda: update(theirs)) == expected


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in INPUTS
        if not isinstance(outcome(lambda kind=kind: hashlib.sha256(INPUTS[kind])), type)
    ],
)
def test_inputs_of_batches(kind, backend):
    data = INPUTS[kind]
    expected = hashlib.sha256(data).digest()
    (digest,) = rows_as_bytes(it.hash_batch([data], "sha256", backend=backend))
    assert digest == expected
    chunks = rows_as_bytes(it.hash_chunks(data, "sha256", chunk_size=1000, backend=backend))
    assert chunks == ([expected] if memoryview(data).nbytes else [])


CALLS = {
    "two positional": lambda make: make(b"", b""),
    "unknown keyword": lambda make: make(b"", rounds=3),
    "security off": lambda make: make(b"abc", usedforsecurity=False),
    "security on": lambda make: make(b"abc", usedforsecurity=True),
    "security None": lambda make: make(b"abc", usedforsecurity=None),
    "security text": lambda make: make(b"abc", usedforsecurity="no"),
    "security undecided": lambda make: make(b"abc", usedforsecurity=np.ones(2)),
    "no data": lambda make: make(),
    "update of nothing": lambda make: make().update(),
    "update of two": lambda make: make().update(b"", b""),
    "update by keyword": lambda make: make().update(data=b""),
    "copy of something": lambda make: make().copy(1),
    "copy module": lambda make: copy.copy(make()),
    "deepcopy": lambda make: copy.deepcopy(make()),
    "pickle": lambda make: pickle.dumps(make()),
    "length": lambda make: make(b"abc").digest(5),
    "no length": lambda make: make(b"abc").digest(),
    "length by keyword": lambda make: make(b"abc").digest(length=5),
    "length zero": lambda make: make(b"abc").digest(0),
    "length of a float": lambda make: make(b"abc").digest(5.0),
    "length of text": lambda make: make(b"abc").digest("5"),
    "length too large": lambda make: make(b"abc").digest(1 << 64),
    "hexadecimal length": lambda make: make(b"abc").hexdigest(5),
    "no hexadecimal length": lambda make: make(b"abc").hexdigest(),
}
REFUSED = {TypeError, ValueError}


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("name", HERE)
def test_calls(name, kind):
    def made(make):
        def result():
            found = CALLS[kind](make)
            return output(found) if hasattr(found, "update") else found

        return outcome(result)

    expected = made(lambda *a, **k: theirs(name, *a, **k))
    found = [made(lambda *a, **k: ours(name, *a, **k)), made(lambda *a, **k: it.new(name, *a, **k))]
    if kind == "unknown keyword":  # a ValueError that names what is allowed
        assert expected is TypeError
        expected = ValueError
    assert found == [expected, expected]


operations = st.lists(
    st.tuples(st.sampled_from(["update", "update", "copy", "digest", "hexdigest"]), st.binary(max_size=400)),
    max_size=6,
)
CONTAINERS = [
    bytes,
    bytearray,
    memoryview,
    lambda data: array.array("B", data),
    lambda data: array.array("H", data[: len(data) // 2 * 2]),
]


@pytest.mark.slow_if(lambda name: name not in ("md5", "sha256", "sha3_256", "shake_128", "blake2b"))
@pytest.mark.rotating(3)
@pytest.mark.parametrize("name", REGISTERED)
def test_chains(name, backend):
    """Any sequence of updates, copies and digests is allowed. A digest changes nothing, and copies are
    independent."""
    if name not in HERE:
        pytest.skip(f"absent: hashlib has no {name}")
    if registry.get(backend).unsupported(record(name)) is not None:
        pytest.skip("absent: the backend does not have it")
    first = next(n for n in REGISTERED if kernel_family(record(n)) == kernel_family(record(name)))
    if backend == "interpreter" and name != first:
        pytest.skip(f"not applicable: runs the kernels of {first}, which are tested")

    @settings(max_examples=EXAMPLES.get(backend, 40), deadline=None)
    @given(st.binary(max_size=300), operations, st.sampled_from(CONTAINERS), st.integers(0, 300))
    def check(start, steps, container, length):
        if backend == "interpreter":
            start, steps = start[:100], [(step, data[:100]) for step, data in steps[:3]]
        a, b = it.new(name, container(start), backend=backend), hashlib.new(name, container(start))
        left_behind = []
        for step, data in steps:
            if step == "update":
                a.update(container(data))
                b.update(container(data))
            elif step == "copy":
                left_behind.append((a, b))
                a, b = a.copy(), b.copy()
            else:
                lengths = () if b.digest_size else (length,)
                assert getattr(a, step)(*lengths) == getattr(b, step)(*lengths)
        for x, y in [*left_behind, (a, b)]:
            assert output(x, length) == output(y, length)

    check()


@pytest.mark.parametrize("name", HERE)
def test_files(name, tmp_path):
    if not hasattr(hashlib, "file_digest"):
        pytest.skip("hashlib.file_digest is Python 3.11's")
    path = tmp_path / "data"
    for size in (0, 1, 1000, (8 << 20) + 5):
        path.write_bytes(pattern(size))
        with path.open("rb") as file:
            expected = hashlib.file_digest(file, name)
        options = {} if expected.digest_size else {"length": 77}
        assert it.hash_file(path, name, **options) == output(expected, 77)


numbers = st.one_of(st.sampled_from(AROUND), st.integers(0, 300), st.sampled_from([1.5, "1", b"1"]))
strings = st.one_of(st.integers(0, 70).map(pattern), st.sampled_from(["text", 5, array.array("I", [7])]))
parameters = st.fixed_dictionaries(
    {},
    optional={
        "digest_size": st.one_of(st.integers(1, 32), numbers),
        "key": strings,
        "salt": st.one_of(st.integers(0, 8).map(pattern), strings),
        "person": st.one_of(st.integers(0, 8).map(pattern), strings),
        "fanout": st.one_of(st.integers(0, 255), numbers),
        "depth": st.one_of(st.integers(1, 255), numbers),
        "leaf_size": numbers,
        "node_offset": numbers,
        "node_depth": st.one_of(st.integers(0, 255), numbers),
        "inner_size": st.one_of(st.integers(0, 32), numbers),
        "last_node": st.booleans(),
        "usedforsecurity": st.booleans(),
    },
)


@pytest.mark.parametrize("name", BLAKE2)
def test_parameters_of_blake2(name):
    """Digests are the same, and so are errors, for any parameters. If there are several mistakes, hashlib may
    report another one first."""

    @settings(max_examples=500, deadline=None)
    @given(st.binary(max_size=300), parameters)
    def check(data, chosen):
        expected = outcome(lambda: theirs(name, data, **chosen).digest())
        found = outcome(lambda: ours(name, data, **chosen).digest())
        if isinstance(expected, bytes):
            assert found == expected
        else:
            mistakes = {outcome(lambda k=k: theirs(name, data, **{k: chosen[k]}).digest()) for k in chosen}
            assert found in mistakes & REFUSED

    check()


@pytest.mark.parametrize("name", BLAKE2)
def test_every_parameter_of_blake2_alone(name):
    size = theirs(name).digest_size
    for key, values in {
        "digest_size": range(-1, size + 2),
        "key": [pattern(n) for n in range(size + 2)],
        "salt": [pattern(n) for n in range(size // 4 + 2)],
        "person": [pattern(n) for n in range(size // 4 + 2)],
        "inner_size": range(-1, size + 2),
        **{key: [*AROUND, 1 << 64] for key in ("fanout", "depth", "leaf_size", "node_offset", "node_depth")},
        "last_node": [False, True],
    }.items():
        for value in values:
            expected = outcome(lambda key=key, value=value: theirs(name, b"abc", **{key: value}).digest())
            found = outcome(lambda key=key, value=value: ours(name, b"abc", **{key: value}).digest())
            assert found == expected, (key, value)
            assert (
                outcome(lambda key=key, value=value: it.new(name, b"abc", **{key: value}).digest()) == found
            )


@pytest.mark.parametrize("name", BLAKE2)
def test_parameters_of_blake2_on_every_backend(name, backend):
    if registry.get(backend).unsupported(record(name)) is not None:
        pytest.skip("absent: the backend does not have it")
    size = theirs(name).digest_size
    chosen: list[dict[str, Any]] = [
        {"digest_size": 1},
        {"digest_size": size - 1, "key": pattern(size), "salt": pattern(size // 4), "person": b"p"},
        {"fanout": 2, "depth": 255, "leaf_size": (1 << 32) - 1, "node_offset": (1 << 48) - 1},
        {"fanout": 0, "node_depth": 255, "inner_size": size, "last_node": True, "key": b"k"},
    ]
    for options in chosen:
        for length in (0, 1, 2 * size, 2 * size + 1, 200):
            digest = it.new(name, pattern(length), backend=backend, **options).digest()
            assert digest == theirs(name, pattern(length), **options).digest(), (options, length)
        batch = it.hash_batch([pattern(n) for n in (0, 129, 5)], name, backend=backend, **options)
        assert rows_as_bytes(batch) == [theirs(name, pattern(n), **options).digest() for n in (0, 129, 5)]


def test_usedforsecurity():
    """The value may be anything with a truth value. It switches nothing off, and batches accept it as
    well."""
    for value in (True, False, None, 0, "no"):
        assert it.md5(b"", usedforsecurity=value).digest() == hashlib.md5(b"").digest()
        assert it.new("md5", usedforsecurity=value).digest() == hashlib.md5(b"").digest()
        (digest,) = rows_as_bytes(it.hash_batch([b""], "md5", usedforsecurity=value))
        assert digest == hashlib.md5(b"").digest()


def test_wanted_differences():
    # The data are a positional argument of every constructor, since the name in hashlib depends on the
    # version.
    with pytest.raises(ValueError, match="no parameter 'data'"):
        it.new("sha256", data=b"")
    # None stands for a parameter that is not given.
    assert it.new("sha256", b"abc", key=None).digest() == hashlib.sha256(b"abc").digest()
    # A truth value is not a number of bytes. A negative number raises ValueError, and not OpenSSL's
    # SystemError.
    for name in REGISTERED:
        if record(name).xof:
            with pytest.raises(TypeError, match="must be int, not bool"):
                ours(name).digest(True)
            with pytest.raises(ValueError, match="must not be negative"):
                ours(name).digest(-1)
    # Pointers are not a message.
    with pytest.raises(TypeError, match="Python objects"):
        it.sha256(np.array([None]))
