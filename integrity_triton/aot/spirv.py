"""As much of the binary form of SPIR-V (SPIR-V 1.4, section 2.3) as changing a module needs."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MAGIC = 0x07230203
_HEADER_WORDS = 5
# Section 3.32: instructions that describe the source code and have no effect on the program.
_DEBUG = frozenset({2, 3, 4, 5, 6, 7, 8, 317, 330})
_OP_ENTRY_POINT, _OP_FUNCTION, _OP_FUNCTION_PARAMETER = 15, 54, 55
_OP_CONSTANT, _OP_LOAD, _OP_DECORATE, _OP_EXTRACT, _OP_COPY = 43, 61, 71, 81, 83
_OP_U_CONVERT, _OP_SELECT, _OP_AND = 113, 169, 199
_BUILTIN, _LOCAL_INVOCATION_ID = 11, 27
_OP_EXTENSION, _OP_EXECUTION_MODE, _OP_CAPABILITY, _OP_EXECUTION_MODE_ID = 10, 16, 17, 331
# SPV_INTEL_kernel_attributes: hints for FPGAs, which CPU runtimes refuse.
_KERNEL_ATTRIBUTES_EXTENSION = b"SPV_INTEL_kernel_attributes"
_KERNEL_ATTRIBUTES_CAPABILITIES = frozenset({5892})
_KERNEL_ATTRIBUTES_MODES = frozenset({5893, 5894, 5895, 5896})


def _instructions(words: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:
    position = _HEADER_WORDS
    while position < len(words):
        count = words[position] >> 16
        if count == 0 or position + count > len(words):
            raise ValueError("malformed SPIR-V: an instruction runs past the end")
        yield words[position] & 0xFFFF, words[position : position + count]
        position += count


def _words(module: bytes) -> tuple[int, ...]:
    if len(module) % 4 or len(module) < 4 * _HEADER_WORDS:
        raise ValueError("malformed SPIR-V: not a whole number of words")
    words = struct.unpack(f"<{len(module) // 4}I", module)
    if words[0] != _MAGIC:
        raise ValueError("not a SPIR-V module")
    return words


def _text(words: tuple[int, ...]) -> bytes:
    return struct.pack(f"<{len(words)}I", *words).partition(b"\0")[0]


def parameters(module: bytes, entry: str) -> int:
    """The number of parameters of the kernel ``entry``.

    Raises ValueError if ``module`` is not a SPIR-V module, or has no such kernel.
    """
    function, inside, count = None, False, 0
    for opcode, instruction in _instructions(_words(module)):
        if opcode == _OP_ENTRY_POINT and _text(instruction[3:]) == entry.encode():
            function = instruction[2]
        elif opcode == _OP_FUNCTION:
            inside = instruction[2] == function
        elif opcode == _OP_FUNCTION_PARAMETER and inside:
            count += 1
    if function is None:
        raise ValueError(f"the SPIR-V module has no kernel {entry}")
    return count


def strip(module: bytes) -> bytes:
    """The module without debug information and without Intel's kernel attributes.

    Raises ValueError if ``module`` is not a SPIR-V module.
    """
    words = _words(module)
    kept = list(words[:_HEADER_WORDS])
    for opcode, instruction in _instructions(words):
        if opcode in _DEBUG:
            continue
        if opcode == _OP_CAPABILITY and instruction[1] in _KERNEL_ATTRIBUTES_CAPABILITIES:
            continue
        if opcode == _OP_EXTENSION and _text(instruction[1:]) == _KERNEL_ATTRIBUTES_EXTENSION:
            continue
        if (
            opcode in (_OP_EXECUTION_MODE, _OP_EXECUTION_MODE_ID)
            and instruction[2] in _KERNEL_ATTRIBUTES_MODES
        ):
            continue
        kept += instruction
    return struct.pack(f"<{len(kept)}I", *kept)


def without_masks(module: bytes, threads: int) -> bytes:
    """The module without masks that leave the local identifier as it is.

    ``threads`` is the size of every work-group, which has one dimension; it is a power of two. So the local
    identifier is below ``threads``, and the bitwise and of it with ``threads - 1`` is replaced by a copy.
    Compilers that gather the work of a sub-group into vectors can then see that neighbours read neighbouring
    words, which they do not see through a mask.

    Raises ValueError if ``module`` is not a SPIR-V module.
    """
    words = _words(module)
    out = list(words[:_HEADER_WORDS])
    variables: set[int] = set()
    numbers: set[int] = set()
    vectors: set[int] = set()
    masks: set[int] = set()
    for opcode, instruction in _instructions(words):
        new = instruction
        if opcode == _OP_DECORATE and instruction[2:] == (_BUILTIN, _LOCAL_INVOCATION_ID):
            variables.add(instruction[1])
        elif opcode == _OP_CONSTANT and instruction[3] == threads - 1 and not any(instruction[4:]):
            masks.add(instruction[2])
        elif opcode == _OP_LOAD and instruction[3] in variables:
            vectors.add(instruction[2])
        elif (
            (opcode == _OP_EXTRACT and instruction[3] in vectors and instruction[4:] == (0,))
            or (opcode == _OP_U_CONVERT and instruction[3] in numbers)
            # The compiler selects one of three dimensions by what is a constant by now.
            or (opcode == _OP_SELECT and instruction[4] in numbers)
        ):
            numbers.add(instruction[2])
        elif opcode == _OP_AND and instruction[3] in numbers and instruction[4] in masks:
            new = (4 << 16 | _OP_COPY, *instruction[1:4])
        out += new
    return struct.pack(f"<{len(out)}I", *out)
