"""As much of the binary form of SPIR-V (SPIR-V 1.4, section 2.3) as changing a module needs."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MAGIC = 0x07230203
_HEADER_WORDS = 5
# Section 3.32: instructions that describe the source code and have no effect on the program.
_DEBUG = frozenset({2, 3, 4, 5, 6, 7, 8, 317, 330})
_OP_ENTRY_POINT, _OP_FUNCTION, _OP_FUNCTION_PARAMETER = 15, 54, 55
_OP_IMPORT, _OP_CALL_IMPORTED, _OP_MEMORY_MODEL, _OP_LABEL = 11, 12, 14, 248
_OP_TYPE_INT, _OP_TYPE_VECTOR, _OP_TYPE_POINTER = 21, 23, 32
_OP_CONVERT_TO_POINTER, _OP_BITCAST = 120, 124
_OP_POINTER_ACCESS_CHAINS = frozenset({67, 70})
# Calls, stores, copies of memory and barriers. Atomic instructions do not occur.
_MAY_WRITE = frozenset({57, 62, 63, 64, 224, 225})
_VECTOR16, _INT64, _INT8 = 7, 11, 39  # capabilities
_CROSS_WORKGROUP = 5  # the storage class of global memory
_VLOADN = 171  # OpenCL Extended Instruction Set, section 2.8
_VECTOR_BYTES = 16
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


def with_vector_loads(module: bytes) -> bytes:
    """The module in which loads of consecutive words, 16 bytes at an address that the kernel has computed as
    an integer, are one ``vloadn`` of 16 bytes. Such a load may lie at any address.

    Intel's compiler for CPUs makes one instruction of what the work-items of a sub-group do. It gathers the
    words of ordinary loads one by one. The vectors of ``vloadn`` it loads whole, and transposes them in
    registers.

    Raises ValueError if ``module`` is not a SPIR-V module.
    """
    words = _words(module)
    instructions = list(_instructions(words))
    groups = _consecutive_loads(instructions)
    if not groups:
        return module
    bound = words[3]
    sections: dict[str, list[int]] = {"capabilities": [], "imports": [], "declarations": []}

    def declared(section: str, opcode: int, *operands: int, result: int = 0) -> int:
        """The identifier of what an instruction with these operands declares, which is put into them at the
        position ``result``. The instruction is added if the module has none."""
        nonlocal bound
        for known, i in instructions:
            if known == opcode and i[1 : 1 + result] + i[2 + result :] == operands:
                return i[1 + result]
        bound += 1
        operands = (*operands[:result], bound - 1, *operands[result:])
        sections[section] += (len(operands) + 1) << 16 | opcode, *operands
        return bound - 1

    for capability in (_VECTOR16, _INT64, _INT8):
        if not any(opcode == _OP_CAPABILITY and i[1] == capability for opcode, i in instructions):
            sections["capabilities"] += 2 << 16 | _OP_CAPABILITY, capability
    library = declared("imports", _OP_IMPORT, *struct.unpack("<3I", b"OpenCL.std\0\0"))
    byte = declared("declarations", _OP_TYPE_INT, 8, 0)
    sixteen = declared("declarations", _OP_TYPE_VECTOR, byte, _VECTOR_BYTES)
    pointer = declared("declarations", _OP_TYPE_POINTER, _CROSS_WORKGROUP, byte)
    size = declared("declarations", _OP_TYPE_INT, 64, 0)
    zero = declared("declarations", _OP_CONSTANT, size, 0, 0, result=1)
    counts = {instructions[place][1][1]: len(group) for place, group in groups.items()}
    integers = {i[1] for opcode, i in instructions if opcode == _OP_TYPE_INT}
    # A load may give two words of 32 bits in one vector. It is then taken as a word of 64 bits.
    elements = {kind: kind if kind in integers else size for kind in counts}
    vectors = {
        kind: declared("declarations", _OP_TYPE_VECTOR, elements[kind], count)
        for kind, count in counts.items()
    }
    out = list(words[:_HEADER_WORDS])
    before = {_OP_MEMORY_MODEL: "imports", _OP_FUNCTION: "declarations"}
    merged = {place for group in groups.values() for place in group}
    for place, (opcode, i) in enumerate(instructions):
        section = before.get(opcode, "capabilities" if opcode != _OP_CAPABILITY else "")
        out += sections.pop(section, ())
        if place in groups:
            kind, element = i[1], elements[i[1]]
            out += 4 << 16 | _OP_BITCAST, pointer, bound, i[3]
            out += 8 << 16 | _OP_CALL_IMPORTED, sixteen, bound + 1, library
            out += _VLOADN, zero, bound, _VECTOR_BYTES
            out += 4 << 16 | _OP_BITCAST, vectors[kind], bound + 2, bound + 1
            words_at = bound + 2
            bound += 3
            for k, other in enumerate(groups[place]):
                result = instructions[other][1][2]
                if element == kind:
                    out += 5 << 16 | _OP_EXTRACT, kind, result, words_at, k
                else:
                    out += 5 << 16 | _OP_EXTRACT, element, bound, words_at, k
                    out += 4 << 16 | _OP_BITCAST, kind, result, bound
                    bound += 1
        elif place not in merged:
            out += i
    out[3] = bound
    return struct.pack(f"<{len(out)}I", *out)


def _consecutive_loads(instructions: list[tuple[int, tuple[int, ...]]]) -> dict[int, list[int]]:
    """Which loads are one of 16 bytes: the places of their instructions in the order of their addresses, by
    the first place. The loads of a group are in one basic block, which writes nothing between them."""
    sizes: dict[int, int] = {}  # of integers and vectors of integers, in bytes
    pointees: dict[int, int] = {}
    numbers: dict[int, int] = {}
    addresses: dict[int, tuple[int, int]] = {}
    loads: dict[tuple[int, int], dict[int, int]] = {}
    groups: dict[int, list[int]] = {}

    def end() -> None:
        for (_, kind), places in loads.items():
            size = sizes[kind]
            for offset in sorted(places):
                group = [places.get(offset + k, -1) for k in range(0, _VECTOR_BYTES, size)]
                if min(group) >= 0 and group[0] == min(group):
                    groups[group[0]] = group
                    for k in range(0, _VECTOR_BYTES, size):
                        places[offset + k] = -1
        loads.clear()

    for place, (opcode, i) in enumerate(instructions):
        if opcode == _OP_TYPE_INT:
            sizes[i[1]] = i[2] // 8
        elif opcode == _OP_TYPE_VECTOR and i[2] in sizes:
            sizes[i[1]] = sizes[i[2]] * i[3]
        elif opcode == _OP_TYPE_POINTER and i[2] == _CROSS_WORKGROUP and i[3] in sizes:
            pointees[i[1]] = sizes[i[3]]
        elif opcode == _OP_CONSTANT and i[1] in sizes:
            numbers[i[2]] = int.from_bytes(struct.pack(f"<{len(i) - 3}I", *i[3:]), "little", signed=True)
        elif opcode == _OP_CONVERT_TO_POINTER:
            addresses[i[2]] = i[2], 0
        elif opcode == _OP_BITCAST and i[3] in addresses:
            addresses[i[2]] = addresses[i[3]]
        elif opcode in _OP_POINTER_ACCESS_CHAINS and len(i) == 5 and i[3] in addresses and i[4] in numbers:
            base, offset = addresses[i[3]]
            addresses[i[2]] = base, offset + numbers[i[4]] * pointees[i[1]]
        elif opcode == _OP_LOAD and i[3] in addresses and sizes.get(i[1]) in (4, 8):
            base, offset = addresses[i[3]]
            loads.setdefault((base, i[1]), {}).setdefault(offset, place)
        elif opcode == _OP_LABEL or opcode in _MAY_WRITE:
            end()
    end()
    return groups
