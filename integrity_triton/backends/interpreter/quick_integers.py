"""Operations on integers of one type, for Triton's interpreter, without its hundred steps each.

The interpreter takes every ``a ^ b`` through Triton's type promotion, broadcasting and overflow checks, as
the compiler would, and only then to NumPy. Where both operands have one integer type and one shape, or one of
them is a single number that the type holds, all of that changes nothing, and that is nearly all of a hash.
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
_OF_FLAGS = ("and_", "or_", "xor_")
_OPERATORS = {
    "__add__": "add",
    "__sub__": "sub",
    "__mul__": "mul",
    "__and__": "and_",
    "__or__": "or_",
    "__xor__": "xor_",
    "__lshift__": "shl",
    "__rshift__": "lshr",
    "__eq__": "equal",
    "__ne__": "not_equal",
    "__lt__": "less_than",
    "__le__": "less_equal",
    "__gt__": "greater_than",
    "__ge__": "greater_equal",
}


@cache
def _limits() -> dict[int, tuple[int, int]]:
    """The least and the greatest number of each type that is taken the short way, by the type's id."""
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
    arrays = {id(t): np.dtype(t.name) for t in (tl.uint8, tl.int32, tl.uint32, tl.int64, tl.uint64)}
    tensor = tl.tensor

    def operands(left: Any, right: Any) -> tuple[Any, Any, Any] | None:
        """What the result is like, and both arrays; none where the operands need Triton's rules."""
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
        if not right.shape:
            return left, a, b
        if not left.shape:
            return right, a, b
        return (left, a, b) if of_one_shape(left, right) else None

    def of_one_shape(left: Any, right: Any) -> bool:
        # A single number has an array of one element, as has a block of one.
        same: bool = left.handle.data.shape == right.handle.data.shape
        return same and len(left.shape) == len(right.shape)

    def arithmetic(name: str, operation: Any) -> Any:
        plain = getattr(TritonSemantic, name)
        of_flags = name in _OF_FLAGS

        def method(self: Any, left: Any, right: Any, *rest: Any, **options: Any) -> Any:
            found = operands(left, right)
            if found is None and of_flags and type(left) is type(right) is tensor and left.dtype is tl.int1:
                found = alike(left, right)
            if found is None:
                return plain(self, left, right, *rest, **options)
            like, a, b = found
            result = tensor.__new__(tensor)
            result.__dict__.update(like.__dict__)
            result.handle = TensorHandle(operation(a, b), like.dtype)
            return result

        return method

    def comparison(name: str, operation: Any) -> Any:
        plain = getattr(TritonSemantic, name)

        def method(self: Any, left: Any, right: Any) -> Any:
            found = operands(left, right)
            if found is None:
                return plain(self, left, right)
            like, a, b = found
            # Of the operands' type, as the interpreter has it.
            return tensor(TensorHandle(operation(a, b), like.dtype), self._bool_like(like))

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
        if of_one_shape(lhs, rhs):
            return lhs, rhs
        return TritonSemantic.broadcast_impl_value(self, lhs, rhs)

    members: dict[str, Any] = {n: arithmetic(n, getattr(np, v)) for n, v in _ARITHMETIC.items()}
    members |= {n: comparison(n, getattr(np, v)) for n, v in _COMPARISONS.items()}
    members |= {"cast": cast, "bitcast": bitcast, "broadcast_impl_value": broadcast}
    return type("QuickSemantic", (TritonSemantic,), members)


@cache
def _operators() -> dict[str, Any]:
    """For each operator a function that makes one of a tensor's own: one that does what is short, and leaves
    the rest to it."""
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    limits = _limits()
    tensor, constexpr, int1 = tl.tensor, tl.constexpr, tl.int1
    flags: dict[Any, Any] = {}

    def made(members: dict[str, Any], data: Any, dtype: Any) -> Any:
        # A tensor and its handle as their classes make them, of what those would work out again.
        handle = TensorHandle.__new__(TensorHandle)
        handle.__dict__.update(data=data, dtype=dtype, attr={})
        result = tensor.__new__(tensor)
        result.__dict__.update(members)
        result.handle = handle
        return result

    def compared(like: Any, data: Any) -> Any:
        shape = like.type.shape if like.shape else None
        members = flags.get(shape and tuple(shape))
        if members is None:
            type_ = like.type.with_element_ty(int1) if like.shape else int1
            members = vars(tensor(TensorHandle(data, like.dtype), type_))
            flags[shape and tuple(shape)] = members
        # Of the operands' type, as the interpreter has it.
        return made(members, data, like.dtype)

    def short(name: str, operation: Any) -> Any:
        of_flags, comparing = name in _OF_FLAGS, name in _COMPARISONS

        def of(plain: Any) -> Any:
            def operator(self: Any, other: Any) -> Any:
                kind = type(other)
                if kind is constexpr:
                    other = other.value
                    kind = type(other)
                dtype = self.dtype
                bounds = limits.get(id(dtype))
                like, a = self, self.handle.data
                if kind is tensor and other.dtype is dtype and (bounds or (of_flags and dtype is int1)):
                    b = other.handle.data
                    if not self.shape and other.shape:
                        like = other
                    elif other.shape and a.shape != b.shape:
                        return plain(self, other)
                elif kind is int and bounds and bounds[0] <= other <= bounds[1]:
                    b = a.dtype.type(other)
                else:
                    return plain(self, other)
                data = operation(a, b)
                return compared(like, data) if comparing else made(like.__dict__, data, dtype)

            operator.of_triton = plain  # type: ignore[attr-defined]
            return operator

        return of

    functions = {**_ARITHMETIC, **_COMPARISONS}
    return {operator: short(name, getattr(np, functions[name])) for operator, name in _OPERATORS.items()}


def _shorten_operators(tensor: Any) -> None:
    """Of a tensor class that the interpreter has put its own operators in; it puts back what it found."""
    for name, short in _operators().items():
        plain = getattr(tensor, name)
        setattr(tensor, name, short(getattr(plain, "of_triton", plain)))


@contextmanager
def quick_integers() -> Iterator[None]:
    """The interpreter with the short ways. Triton 3.3 has no semantics to replace, and goes its own."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, *args: Any) -> Any:
        result = patch(tensor, *args)
        _shorten_operators(tensor)
        return result

    # Up to 3.6 it makes semantics anew; later it has one.
    names = ("TritonSemantic", "interpreter_semantic")
    plain = {name: getattr(interpreter, name) for name in names if hasattr(interpreter, name)}
    if plain:
        interpreter.TritonSemantic = semantic = _semantic()
    if "interpreter_semantic" in plain:
        interpreter.interpreter_semantic = semantic(plain["interpreter_semantic"].builder)
    interpreter._patch_lang_tensor = patched
    try:
        yield
    finally:
        interpreter._patch_lang_tensor = patch
        for name, value in plain.items():
            setattr(interpreter, name, value)
