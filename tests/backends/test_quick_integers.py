"""The faster operations of the interpreter give the same values, types and errors as Triton's own
semantics."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
import triton.language as tl
from triton.runtime import interpreter

from integrity_triton.backends.interpreter.quick_integers import quick_integers

pytestmark = pytest.mark.skipif(
    not hasattr(interpreter, "interpreter_semantic"), reason="not applicable: a Triton without one semantics"
)

TYPES = (tl.int1, tl.uint8, tl.int32, tl.uint32, tl.int64, tl.uint64, tl.float32)
SHAPES = ((), (1,), (4,), (8,), (1, 4), (2, 4))
NUMBERS = (0, 1, 5, 255, 256, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, -1, -(2**31), True, 2.0)
OPERATIONS = (
    *((name, {"sanitize_overflow": False}) for name in ("add", "sub", "mul")),
    *((name, {}) for name in ("and_", "or_", "xor_", "shl", "lshr", "ashr")),
    *((name, {}) for name in ("equal", "not_equal", "less_than", "less_equal")),
    *((name, {}) for name in ("greater_than", "greater_equal", "broadcast_impl_value")),
)


def block(dtype, shape, seed):
    """A tensor as the interpreter holds it. A single number is an array of one element."""
    rng = np.random.default_rng(seed)
    data = np.frombuffer(rng.bytes(8 * max(1, int(np.prod(shape)))), dtype=np.uint64)
    kind = np.dtype({"int1": "bool", "fp32": "float32"}.get(dtype.name, dtype.name))
    data = (data % 40 if len(shape) % 2 else data).astype(kind).reshape(shape or (1,))
    handle = interpreter.TensorHandle(data, dtype)
    return tl.tensor(handle, tl.block_type(dtype, list(shape)) if shape else dtype)


def outcome(semantic, name, *operands, **options):
    """The result of an operation in a form that can be compared: the type, shape and bytes of each tensor."""
    try:
        with np.errstate(all="ignore"):
            found = getattr(semantic, name)(*operands, **options)
    except Exception as error:
        return type(error)
    found = found if isinstance(found, tuple) else (found,)
    return [
        (str(t.type), str(t.dtype), tuple(map(int, t.shape)), int(t.numel))
        # Up to Triton 3.6, the handle of the result of a comparison has the type of an operand before
        # promotion.
        + (str(t.handle.dtype) if t.dtype is not tl.int1 else "",)
        + ((t.handle.data.dtype, t.handle.data.tobytes()) if hasattr(t, "handle") else ())
        for t in found
    ]


@pytest.fixture
def semantics():
    """Triton's semantics and the package's semantics, as they are while the interpreter runs a kernel."""
    triton = interpreter.interpreter_semantic
    scope = interpreter._LangPatchScope()
    interpreter._patch_lang_core(tl, scope)
    with quick_integers():
        yield triton, interpreter.interpreter_semantic
    scope.restore()


@pytest.mark.slow_if(lambda name: name not in ("add", "lshr", "shl", "less_than", "broadcast_impl_value"))
@pytest.mark.parametrize(("name", "options"), OPERATIONS)
def test_operations(semantics, name, options):
    blocks = [block(t, s, i) for i, (t, s) in enumerate(itertools.product(TYPES, SHAPES))]
    pairs = list(itertools.product(blocks, blocks))
    if name != "broadcast_impl_value":
        pairs += [pair for b, n in itertools.product(blocks, NUMBERS) for pair in ((b, n), (n, b))]
    results = 0
    for pair in pairs:
        expected, found = (outcome(semantic, name, *pair, **options) for semantic in semantics)
        assert found == expected, [(getattr(p, "type", p), getattr(p, "handle", p)) for p in pair]
        results += isinstance(found, list)
    assert results > 100


@pytest.mark.parametrize("name", ["cast", "bitcast"])
def test_conversions(semantics, name):
    for i, (source, shape) in enumerate(itertools.product(TYPES, SHAPES)):
        for target in TYPES:
            expected, found = (outcome(s, name, block(source, shape, i), target) for s in semantics)
            assert found == expected, (source, shape, target)


def test_the_interpreter_is_restored():
    before = interpreter.interpreter_semantic, interpreter.TritonSemantic
    with contextlib.suppress(KeyError), quick_integers():
        assert interpreter.interpreter_semantic is not before[0]
        raise KeyError
    after = interpreter.interpreter_semantic, interpreter.TritonSemantic
    assert after == before
