"""The interpreter's short ways give what Triton's own semantics gives: values, types, errors."""

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
OPERATORS = (
    *("__add__", "__sub__", "__mul__", "__and__", "__or__", "__xor__", "__lshift__", "__rshift__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
)


def block(dtype, shape, seed):
    """A tensor as the interpreter holds it: a single number is an array of one element."""
    rng = np.random.default_rng(seed)
    data = np.frombuffer(rng.bytes(8 * max(1, int(np.prod(shape)))), dtype=np.uint64)
    kind = np.dtype({"int1": "bool", "fp32": "float32"}.get(dtype.name, dtype.name))
    data = (data % 40 if len(shape) % 2 else data).astype(kind).reshape(shape or (1,))
    handle = interpreter.TensorHandle(data, dtype)
    return tl.tensor(handle, tl.block_type(dtype, list(shape)) if shape else dtype)


def fresh(operand):
    """A copy, as some operations change their operands up to Triton 3.6."""
    if not isinstance(operand, tl.tensor):
        return operand
    return tl.tensor(interpreter.TensorHandle(operand.handle.data.copy(), operand.dtype), operand.type)


def outcome(semantic, name, *operands, **options):
    return outcome_of(getattr(semantic, name), *operands, **options)


def outcome_of(operation, *operands, **options):
    """What an operation gave, to be compared: of every tensor its bytes, their type, and its own."""
    try:
        with np.errstate(all="ignore"):
            found = operation(*operands, **options)
    except Exception as error:
        return type(error)
    found = found if isinstance(found, tuple) else (found,)
    return [
        (str(t.type), str(t.dtype), tuple(map(int, t.shape)), int(t.numel))
        # Of what a comparison gives, up to Triton 3.6 the operands' type is that before they are compared.
        + (str(t.handle.dtype) if t.dtype is not tl.int1 else "",)
        + ((t.handle.data.dtype, t.handle.data.tobytes()) if hasattr(t, "handle") else ())
        for t in found
    ]


@pytest.fixture
def semantics():
    """Triton's, and ours, as the interpreter finds them while it runs a kernel."""
    triton = interpreter.interpreter_semantic
    scope = interpreter._LangPatchScope()
    interpreter._patch_lang_core(tl, scope)
    with quick_integers():
        yield triton, interpreter.interpreter_semantic
    scope.restore()


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


@pytest.fixture
def operators():
    """A tensor's, by name: the interpreter's, and the short ones that it puts in their place."""
    triton = interpreter.interpreter_semantic
    scope = interpreter._LangPatchScope()
    interpreter._patch_lang_core(tl, scope)
    interpreter._patch_builtin(tl.tensor, interpreter.interpreter_builder, scope)
    plain = {name: getattr(tl.tensor, name) for name in OPERATORS}
    with quick_integers():
        interpreter._patch_lang_tensor(tl.tensor, scope)
        short = {name: getattr(tl.tensor, name) for name in OPERATORS}
        interpreter.interpreter_semantic = triton
        yield {name: (plain[name], short[name]) for name in OPERATORS}
    scope.restore()


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(operators, name):
    plain, short = operators[name]
    assert plain is not short
    blocks = [block(t, s, i) for i, (t, s) in enumerate(itertools.product(TYPES, SHAPES))]
    others = [*blocks, *NUMBERS, *map(tl.constexpr, NUMBERS), None]
    results = 0
    for left, right in itertools.product(blocks, others):
        expected, found = (outcome_of(operator, fresh(left), fresh(right)) for operator in (plain, short))
        assert found == expected, (left.type, left.handle, getattr(right, "type", right))
        results += isinstance(found, list)
    assert results > 100


@pytest.mark.parametrize("name", ["cast", "bitcast"])
def test_conversions(semantics, name):
    for i, (source, shape) in enumerate(itertools.product(TYPES, SHAPES)):
        for target in TYPES:
            expected, found = (outcome(s, name, block(source, shape, i), target) for s in semantics)
            assert found == expected, (source, shape, target)


def test_the_interpreter_is_restored():
    before = interpreter.interpreter_semantic, interpreter.TritonSemantic, interpreter._patch_lang_tensor
    with contextlib.suppress(KeyError), quick_integers():
        assert interpreter.interpreter_semantic is not before[0]
        raise KeyError
    after = interpreter.interpreter_semantic, interpreter.TritonSemantic, interpreter._patch_lang_tensor
    assert after == before
