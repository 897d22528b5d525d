"""Parses the PTX that Triton emits: one entry, its registers and its basic blocks.

The language is that of NVIDIA's "Parallel Thread Execution ISA", which is cited by the names of its
instructions, directives and sections: numbers of sections differ between its versions.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..emulation.faults import Unmodelled

SPECIAL = {
    **{f"%{name}.{axis}": f"{name}_{axis}" for name in ("tid", "ctaid", "ntid", "nctaid") for axis in "xyz"},
    "%laneid": "laneid",
}
"""Special registers that are read, and the names under which they are executed. All have 32
bits."""

_WIDTHS = {"pred": 1, "b8": 8, "b16": 16, "b32": 32, "b64": 64, "f32": 32, "f64": 64} | {
    f"{kind}{bits}": bits for kind in "us" for bits in (8, 16, 32, 64)
}
_NAME = r"[$_%A-Za-z][$_A-Za-z0-9]*"
_INTEGER = re.compile(r"-?(0[xX][0-9a-fA-F]+|\d+)U?")
_FLOAT = re.compile(r"0([fFdD])([0-9a-fA-F]+)")
_STATEMENT = re.compile(rf"\s*(?:({_NAME}):(?!:)|([^;{{}}]*(?:\{{[^{{}}]*\}}[^;{{}}]*)*);)", re.DOTALL)
_LOC = re.compile(
    r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)"
    r"(?:\s*,\s*function_name\s+\S+\s*,\s*inlined_at\s+(\d+)\s+(\d+)\s+(\d+))?[^\n]*\n"
)
ENDS = {"bra", "ret", "exit"}
"""Opcodes that end a block."""
BARRIERS = {"bar", "barrier"}
SHARED_START = 1024
"""The address at which the shared memory of a program begins. CUDA keeps the bytes before it for itself from
compute capability 8.0 on (CUDA C++ Programming Guide, "Compute Capability 8.x"). Since it is not 0, an offset
that is used as an address, without that of its variable, leads to an error."""

Place = tuple[int, int, int]


@dataclass(frozen=True)
class Operand:
    """``kind`` is one of ``register immediate address vector pair label special sink``."""

    kind: str
    name: str = ""
    value: int = 0
    """Of an immediate, or the offset of an address."""
    parts: tuple[Operand, ...] = ()


@dataclass(eq=False)
class Instruction:
    """One instruction. Its ``str()`` names it and the line of the kernel's source, for messages."""

    op: str
    operands: list[Operand]
    predicate: str | None
    negated: bool
    text: str
    line: str = ""
    used_bytes: int = -1
    """Which bytes of a load the program uses, one bit each, as a pragma of the compiler tells; all bits are
    set if it does not."""

    def __post_init__(self) -> None:
        self.parts = self.op.split(".")

    def __str__(self) -> str:
        return f"{self.text!r} at {self.line}" if self.line else repr(self.text)


@dataclass
class Module:
    entry: str
    parameters: list[tuple[str, int]]
    """Names, and sizes in bytes."""
    threads: int
    widths: dict[str, int]
    """Bits of each register."""
    shared: dict[str, int]
    """Addresses of the names in shared memory."""
    static_shared: int
    """Bytes of shared memory that the text declares."""
    blocks: list[list[Instruction]]
    labels: dict[str, int]
    """The block that each label starts."""

    def successors(self, number: int) -> set[int]:
        """The blocks that may run after a block; beyond the last one if the text does not end the kernel."""
        block = self.blocks[number]
        last = block[-1] if block else None
        if last is None or last.parts[0] not in ENDS:
            return {number + 1}
        after = {number + 1} if last.predicate else set()
        if last.parts[0] == "bra":
            after.add(self.labels[last.operands[0].name])
        return after


def parse(text: str, entry: str) -> Module:
    """Raises Unmodelled for what Triton does not emit."""
    files = dict(re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text))
    lines = _Lines({int(number): posixpath.basename(path) for number, path in files.items()})
    # Within inline assembly LLVM counts the lines of the assembly on from that of the source.
    for word in ("begin", "end"):
        text = text.replace(f"// {word} inline asm", f".assembly {word};")
    text = re.sub(r"//[^\n]*", "", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))
    found = re.search(rf"\.entry\s+{re.escape(entry)}\s*\((.*?)\)([^{{]*)\{{", text, re.DOTALL)
    if found is None:
        raise Unmodelled(f"the PTX has no entry {entry}")
    parameters = [
        (match[2], int(match[1]) // 8)
        for match in re.finditer(rf"\.param\s+\.[a-z](\d+)[^,]*?({_NAME})\s*(?:,|$)", found[1].strip())
    ]
    if len(parameters) != found[1].count(".param"):
        raise Unmodelled(f"{entry} has parameters that are no numbers")
    threads = re.search(r"\.reqntid\s+(\d+)(\s*,\s*1)*\s", found[2] + " ")
    if threads is None:
        raise Unmodelled(f"{entry} does not say how many threads it needs")
    body = _body(text, found.end())
    shared, size = _shared(text)
    widths: dict[str, int] = {}
    body = re.sub(r"\.reg\s+\.([a-z0-9]+)\s+([^;]+);", lambda m: _declare(m, widths), body)
    blocks, labels = _blocks(body, widths, shared, lines)
    return Module(entry, parameters, int(threads[1]), widths, shared, size, blocks, labels)


def _body(text: str, start: int) -> str:
    """The text from ``start`` to the brace that closes what was opened before it."""
    depth, end = 1, start
    for match in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        end = match.start()
        if depth == 0:
            return text[start:end]
    raise Unmodelled("the text ends within a function")


def _shared(text: str) -> tuple[dict[str, int], int]:
    """Addresses of variables in shared memory, and bytes that they take."""
    places: dict[str, int] = {}
    size = 0
    pattern = rf"\.shared\s+\.align\s+(\d+)\s+\.[a-z](\d+)\s+({_NAME})\[(\d*)\]"
    for match in re.finditer(pattern, text):
        align, bits, name, count = int(match[1]), int(match[2]), match[3], int(match[4] or 0)
        size = -(-size // align) * align
        places[name] = SHARED_START + size
        size += count * bits // 8
    return places, size


def _declare(match: re.Match[str], widths: dict[str, int]) -> str:
    if match[1] not in _WIDTHS:
        raise Unmodelled(f"registers of type .{match[1]}")
    for item in match[2].split(","):
        many = re.fullmatch(rf"\s*({_NAME})<(\d+)>\s*", item)
        names = [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [item.strip()]
        for name in names:
            if widths.setdefault(name, _WIDTHS[match[1]]) != _WIDTHS[match[1]]:
                raise Unmodelled(f"{name} is declared twice, with different widths")
    return ""


class _Lines:
    """The lines of source that ``.loc`` directives name."""

    def __init__(self, files: dict[int, str]) -> None:
        self._files = files
        self._callers: dict[Place, Place | None] = {}
        self.now = ""

    def directive(self, match: re.Match[str]) -> None:
        numbers = [int(n) for n in match.groups() if n is not None]
        place: Place = (numbers[0], numbers[1], numbers[2])
        caller: Place | None = (numbers[3], numbers[4], numbers[5]) if len(numbers) == 6 else None
        self._callers[place] = caller
        self.now = self._text(place)
        seen = {place}
        outermost = caller
        while outermost is not None and outermost not in seen:
            seen.add(outermost)
            if self._callers.get(outermost) is None:
                self.now += f", called at {self._text(outermost)}"
                break
            outermost = self._callers[outermost]

    def _text(self, place: Place) -> str:
        return f"{self._files.get(place[0], place[0])}:{place[1]}"


def _blocks(
    body: str, widths: dict[str, int], shared: dict[str, int], lines: _Lines
) -> tuple[list[list[Instruction]], dict[str, int]]:
    targets = set(re.findall(rf"\bbra(?:\.uni)?\s+({_NAME})\s*;", body))
    blocks: list[list[Instruction]] = [[]]
    labels: dict[str, int] = {}
    used_bytes = -1
    for kind, value, line in _statements(body, lines):
        if kind == "label":
            if value in targets:
                if blocks[-1]:
                    blocks.append([])
                labels[value] = len(blocks) - 1
        elif mask := re.fullmatch(r'\.pragma "used_bytes_mask (0x[0-9a-fA-F]+)"', value):
            used_bytes = int(mask[1], 16)
        elif value.startswith("."):
            if not value.startswith((".pragma", ".shared")):
                raise Unmodelled(f"directive {value!r}")
        else:
            instruction = _instruction(value, widths, shared, line)
            instruction.used_bytes, used_bytes = used_bytes, -1
            blocks[-1].append(instruction)
            if instruction.parts[0] in ENDS | BARRIERS:
                blocks.append([])
    if not blocks[-1] and len(blocks) - 1 not in labels.values():
        blocks.pop()
    missing = targets - labels.keys()
    if missing:
        raise Unmodelled(f"there is no label {min(missing)}")
    return blocks, labels


def _statements(body: str, lines: _Lines) -> Iterator[tuple[str, str, str]]:
    """Labels and statements with their lines of source. Braces that only open or close a scope are skipped:
    inline assembly has them, and its registers have names of their own."""
    position, in_assembly = 0, False
    while rest := body[position:].lstrip():
        position = len(body) - len(rest)
        if rest[0] in "{}":
            position += 1
        elif rest.startswith(".loc"):
            match = _LOC.match(body, position)
            if match is None:
                raise Unmodelled(f"cannot parse {rest[:60]!r}")
            if not in_assembly:
                lines.directive(match)
            position = match.end()
        elif match := re.compile(r"\s*\.assembly (begin|end);").match(body, position):
            in_assembly = match[1] == "begin"
            position = match.end()
        else:
            match = _STATEMENT.match(body, position)
            if match is None:
                raise Unmodelled(f"cannot parse {rest[:60]!r}")
            position = match.end()
            if match[1]:
                yield "label", match[1], ""
            elif match[2].strip():
                yield "statement", " ".join(match[2].split()), lines.now


def _instruction(text: str, widths: dict[str, int], shared: dict[str, int], line: str) -> Instruction:
    guard = re.match(rf"@(!?)({_NAME})\s+", text)
    rest = text[guard.end() :] if guard else text
    op, _, arguments = rest.partition(" ")
    if guard and widths.get(guard[2]) != 1:
        raise Unmodelled(f"{text!r}: {guard[2]} is no predicate")
    operands = [_operand(part, widths, shared) for part in _split(arguments)]
    return Instruction(op, operands, guard[2] if guard else None, bool(guard and guard[1]), text, line)


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def _operand(text: str, widths: dict[str, int], shared: dict[str, int]) -> Operand:
    if text.startswith("{"):
        parts = tuple(_operand(part, widths, shared) for part in _split(text[1:-1]))
        return Operand("vector", parts=parts)
    if text.startswith("["):
        return _address(text[1:-1].replace(" ", ""), widths, shared)
    if "|" in text:
        return Operand(
            "pair", parts=tuple(_operand(part.strip(), widths, shared) for part in text.split("|"))
        )
    if text == "_":
        return Operand("sink")
    if text in widths:
        return Operand("register", text)
    if text in SPECIAL:
        return Operand("special", SPECIAL[text])
    if _INTEGER.fullmatch(text):
        return Operand("immediate", value=int(text.rstrip("U"), 0))
    if number := _FLOAT.fullmatch(text):  # the bits of a float ("Floating-Point Constants")
        return Operand("immediate", value=int(number[2], 16))
    if text in shared:
        return Operand("immediate", value=shared[text])
    return Operand("label", text)


def _address(text: str, widths: dict[str, int], shared: dict[str, int]) -> Operand:
    base, _, offset = text.partition("+")
    if offset and not _INTEGER.fullmatch(offset):
        raise Unmodelled(f"address [{text}]")
    value = int(offset or "0", 0)
    if base in widths:
        return Operand("address", base, value)
    if base in shared:
        return Operand("address", "", shared[base] + value)
    if _INTEGER.fullmatch(base):
        return Operand("address", "", int(base, 0) + value)
    return Operand("address", base, value)  # a parameter
