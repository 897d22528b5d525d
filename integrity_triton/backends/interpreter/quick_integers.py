"""Faster integer operations for Triton's interpreter.

The interpreter takes every ``a ^ b`` through Triton's type promotion, broadcasting and overflow checks, as
the compiler does, and only then calls NumPy. These steps change nothing where both operands have the same
integer type and shape, or where one of them is a single number that the other's type can hold. Nearly all
operations of a hash are of this kind, and for them the operations below call NumPy directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_ARITHMETIC = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "and_": "bitwise_and",
    "or_": "bitwise_or",
    "xor_": "bitwise_xor",
    "shl": "left_shift",
    "lshr": "right_shift",
}
_COMPARISONS = {
    "equal": "equal",
    "not_equal": "not_equal",
    "less_than": "less",
    "less_equal": "less_equal",
    "greater_than": "greater",
    "greater_equal": "greater_equal",
}
_BOOLEAN = ("and_", "or_", "xor_")


@cache
def _limits() -> dict[int, tuple[int, int]]:
    """The least and the greatest number of each integer type that is handled here, by the type's id."""
    import triton.language as tl

    types = (tl.uint8, tl.int32, tl.uint32, tl.int64, tl.uint64)
    return {id(t): (t.get_int_min_value(), t.get_int_max_value()) for t in types}


@cache
def _semantic() -> Any:
    import numpy as np
    import triton.language as tl
    from triton.language.semantic import TritonSemantic
    from triton.runtime.interpreter import TensorHandle

    limits = _limits()
    make_handle = TensorHandle.__new__
    arrays = {id(t): np.dtype(t.name) for t in (tl.uint8, tl.int32, tl.uint32, tl.int64, tl.uint64)}
    tensor = tl.tensor

    def operands(left: Any, right: Any) -> tuple[Any, Any, Any] | None:
        """The operand that the result is like, and both arrays; None if Triton's rules are needed."""
        if type(left) is not tensor:
            found = operands(right, left) if type(right) is tensor else None
            return None if found is None else (found[0], found[2], found[1])
        bounds = limits.get(id(left.dtype))
        if bounds is None:
            return None
        if type(right) is int:
            value = left.handle.data.dtype.type
            return (left, left.handle.data, value(right)) if bounds[0] <= right <= bounds[1] else None
        return alike(left, right) if type(right) is tensor else None

    def alike(left: Any, right: Any) -> tuple[Any, Any, Any] | None:
        if right.dtype is not left.dtype:
            return None
        a, b = left.handle.data, right.handle.data
        if right.type is right.dtype:  # a single number
            return left, a, b
        if left.type is left.dtype:
            return right, a, b
        return (left, a, b) if a.shape == b.shape else None

    def same_shape(left: Any, right: Any) -> bool:
        # The arrays of a single number and of a block with one element have the same shape.
        same: bool = left.handle.data.shape == right.handle.data.shape
        return same and (left.type is left.dtype) == (right.type is right.dtype)

    def handle(data: Any, dtype: Any) -> Any:
        # The constructor would only check that the array's type fits.
        made = make_handle(TensorHandle)
        made.data, made.dtype, made.attr = data, dtype, {}
        return made

    def arithmetic(name: str, operation: Any) -> Any:
        plain = getattr(TritonSemantic, name)
        boolean = name in _BOOLEAN

        def method(self: Any, left: Any, right: Any, *rest: Any, **options: Any) -> Any:
            found = operands(left, right)
            if found is None and boolean and type(left) is type(right) is tensor and left.dtype is tl.int1:
                found = alike(left, right)
            if found is None:
                return plain(self, left, right, *rest, **options)
            like, a, b = found
            result = tensor.__new__(tensor)
            result.__dict__.update(like.__dict__)
            result.handle = handle(operation(a, b), like.dtype)
            return result

        return method

    def comparison(name: str, operation: Any) -> Any:
        plain = getattr(TritonSemantic, name)

        def method(self: Any, left: Any, right: Any) -> Any:
            found = operands(left, right)
            if found is None:
                return plain(self, left, right)
            like, a, b = found
            # The interpreter gives the handle the operands' type, and so does this.
            return tensor(handle(operation(a, b), like.dtype), self._bool_like(like))

        return method

    def cast(self: Any, input: Any, dst_ty: Any, *rest: Any, **options: Any) -> Any:
        scalar = dst_ty.scalar
        if input.dtype is scalar:
            return input
        if id(input.dtype) not in arrays or id(scalar) not in arrays:
            return TritonSemantic.cast(self, input, dst_ty, *rest, **options)
        return of_type(input, scalar, input.handle.data.astype(arrays[id(scalar)]))

    def bitcast(self: Any, input: Any, dst_ty: Any) -> Any:
        scalar = dst_ty.scalar
        known = id(input.dtype) in arrays and id(scalar) in arrays
        if not known or scalar.primitive_bitwidth != input.dtype.primitive_bitwidth:
            return TritonSemantic.bitcast(self, input, dst_ty)
        return of_type(input, scalar, input.handle.data.view(arrays[id(scalar)]))

    def of_type(like: Any, scalar: Any, data: Any) -> Any:
        type_ = like.type.with_element_ty(scalar) if like.shape else scalar
        return tensor(TensorHandle(data, scalar), type_)

    def broadcast(self: Any, lhs: Any, rhs: Any) -> Any:
        if same_shape(lhs, rhs):
            return lhs, rhs
        return TritonSemantic.broadcast_impl_value(self, lhs, rhs)

    members: dict[str, Any] = {n: arithmetic(n, getattr(np, v)) for n, v in _ARITHMETIC.items()}
    members |= {n: comparison(n, getattr(np, v)) for n, v in _COMPARISONS.items()}
    members |= {"cast": cast, "bitcast": bitcast, "broadcast_impl_value": broadcast}
    return type("QuickSemantic", (TritonSemantic,), members)


@cache
def _array_type() -> Any:
    """The interpreter's function that returns NumPy's type for one of Triton's types. The interpreter makes
    its table of all types anew in each call."""
    import triton.language as tl
    from triton.runtime import interpreter

    plain = interpreter._get_np_dtype
    types = (tl.int1, tl.uint8, tl.int32, tl.uint32, tl.int64, tl.uint64)
    known = {id(t): plain(t) for t in types}

    def array_type(type_: Any) -> Any:
        found = known.get(id(type_))
        return plain(type_) if found is None else found

    return array_type


@contextmanager
def quick_integers() -> Iterator[None]:
    """Let the interpreter use these operations. Triton 3.3, which has no semantics class, stays as it is."""
    from triton.runtime import interpreter

    # Triton up to 3.6 makes a semantics object for each kernel; later versions share one.
    names = ("TritonSemantic", "interpreter_semantic")
    plain = {name: getattr(interpreter, name) for name in names if hasattr(interpreter, name)}
    if plain:
        interpreter.TritonSemantic = semantic = _semantic()
        array_type = _array_type()
        plain["_get_np_dtype"], interpreter._get_np_dtype = interpreter._get_np_dtype, array_type
    if "interpreter_semantic" in plain:
        interpreter.interpreter_semantic = semantic(plain["interpreter_semantic"].builder)
    try:
        yield
    finally:
        for name, value in plain.items():
            setattr(interpreter, name, value)
