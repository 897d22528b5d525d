"""Evaluates the pseudocode with which AMD's instruction set documents define arithmetic instructions.

tinygrad's wheel carries it, extracted from the documents. What the text of an instruction needs beyond
expressions, loops and conditions (lanes, memory, rounding) is not evaluated here: :class:`NotEvaluated`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any


class NotEvaluated(Exception):
    """A construct that this evaluator does not have."""


@dataclass(frozen=True)
class Value:
    """An integer of so many bits. ``kind`` is ``u``, ``i`` or ``b``; ``f`` holds the bits of a float."""

    bits: int
    width: int = 32
    kind: str = "u"

    @property
    def number(self) -> Any:
        if self.kind == "f":
            return struct.unpack("<f", self.bits.to_bytes(4, "little"))[0]
        if self.kind == "i" and self.bits >> (self.width - 1):
            return self.bits - (1 << self.width)
        return self.bits


def value(number: int, width: int = 32, kind: str = "u") -> Value:
    return Value(number & ((1 << width) - 1), width, kind)


_TOKEN = re.compile(
    r"\s*(?:(?P<cast>\d+'[UIB])\(|(?P<sized>\d+'(?:0x[0-9a-fA-F]+|\d+)U?)"
    r"|(?P<number>0x[0-9a-fA-F]+(?:U?LL|U)?|\d+(?:U?LL|U)?)(?![\w.])"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<operator><<|>>|<=|>=|==|!=|&&|\|\||[-+*/&|^~!<>?:()\[\]{},.=]))"
)
_PRECEDENCE = (
    ("||",),
    ("&&",),
    ("|",),
    ("^",),
    ("&",),
    ("==", "!="),
    ("<", "<=", ">", ">="),
    ("<<", ">>"),
    ("+", "-"),
    ("*",),
)


class _Expression:
    def __init__(self, text: str, names: dict[str, Value]) -> None:
        self.names, self.at, self.tokens = names, 0, []
        position, text = 0, text.strip()
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise NotEvaluated(text[position:])
            self.tokens.append((found.lastgroup, found[found.lastgroup]))
            position = found.end()

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, wanted: str) -> None:
        if self.peek() != wanted:
            raise NotEvaluated(f"{self.peek()} instead of {wanted}")
        self.at += 1

    def whole(self) -> Value:
        found = self.ternary()
        if self.at != len(self.tokens):
            raise NotEvaluated(str(self.tokens[self.at :]))
        return found

    def ternary(self) -> Value:
        condition = self.binary(0)
        if self.peek() != "?":
            return condition
        self.at += 1
        yes = self.ternary()
        self.take(":")
        no = self.ternary()
        return yes if condition.number else no

    def binary(self, level: int) -> Value:
        if level == len(_PRECEDENCE):
            return self.unary()
        left = self.binary(level + 1)
        while self.peek() in _PRECEDENCE[level]:
            operator = self.peek()
            self.at += 1
            left = _apply(operator, left, self.binary(level + 1))
        return left

    def unary(self) -> Value:
        operator = self.peek()
        if operator in ("~", "-", "!"):
            self.at += 1
            inner = self.unary()
            if operator == "!":
                return value(not inner.bits, 1)
            return value(~inner.bits if operator == "~" else -inner.number, inner.width, inner.kind)
        return self.postfix(self.primary())

    def postfix(self, found: Value) -> Value:
        while self.peek() in (".", "["):
            self.at += 1
            if self.tokens[self.at - 1][1] == ".":
                kind = self.peek()
                self.at += 1
                if not re.fullmatch(r"[uibf]\d+", kind):
                    raise NotEvaluated(kind)
                found = value(found.bits, int(kind[1:]), kind[0])
                continue
            high = self.ternary()
            low = high
            if self.peek() == ":":
                self.at += 1
                low = self.ternary()
            self.take("]")
            if high.number >= low.number:
                found = value(found.bits >> low.number, high.number - low.number + 1)
            else:  # written from the lowest bit: the order of the bits is reversed
                width = low.number - high.number + 1
                found = value(int(f"{found.bits:0{width}b}"[::-1], 2), width)
        return found

    def primary(self) -> Value:
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            digits = re.sub(r"(U?LL|U)$", "", text)
            return value(int(digits, 0), 64 if "LL" in text else 32, "u" if "U" in text else "i")
        if kind == "sized":
            width, digits = text.rstrip("U").split("'")
            return value(int(digits, 0), int(width))
        if kind == "cast":
            inner = self.ternary()
            self.take(")")
            width, letter = text.split("'")
            return value(inner.number, int(width), letter.lower())
        if text == "(":
            inner = self.ternary()
            self.take(")")
            return inner
        if text == "{":
            parts = [self.ternary()]
            while self.peek() == ",":
                self.at += 1
                parts.append(self.ternary())
            self.take("}")
            total, width = 0, 0
            for part in parts:
                total, width = total << part.width | part.bits, width + part.width
            return value(total, width)
        if kind == "name" and self.peek() == "(":
            self.at += 1
            arguments = [self.ternary()]
            while self.peek() == ",":
                self.at += 1
                arguments.append(self.ternary())
            self.take(")")
            return _call(text, arguments)
        if kind == "name" and text in self.names:
            return self.names[text]
        raise NotEvaluated(text)


def _apply(operator: str, a: Value, b: Value) -> Value:
    if "f" in (a.kind, b.kind):
        raise NotEvaluated("floating point")
    if operator in ("<<", ">>"):
        if b.number >= 128:
            raise NotEvaluated("a shift by more than the width")
        moved = a.number << b.number if operator == "<<" else a.number >> b.number
        return value(moved, a.width, a.kind)
    if operator in ("==", "!=", "<", "<=", ">", ">=", "&&", "||"):
        x, y = a.number, b.number
        outcome = {
            "==": x == y, "!=": x != y, "<": x < y, "<=": x <= y, ">": x > y, ">=": x >= y,
            "&&": bool(x and y), "||": bool(x or y),
        }[operator]  # fmt: skip
        return value(outcome, 1)
    width = max(a.width, b.width)
    kind = "i" if a.kind == b.kind == "i" else "u"
    x, y = a.number, b.number
    return value(
        {"+": x + y, "-": x - y, "*": x * y, "&": x & y, "|": x | y, "^": x ^ y}[operator], width, kind
    )


def _call(name: str, arguments: list[Value]) -> Value:
    if name == "signext":
        return value(arguments[0].number, 64, "i")
    if name == "signext_from_bit":
        field, width = arguments
        bits = width.number
        if bits == 0:
            return value(0, field.width, "i")
        low = field.bits & ((1 << bits) - 1)
        return value(low - (1 << bits if low >> (bits - 1) else 0), field.width, "i")
    if name in {"u32_to_f32", "i32_to_f32"}:
        # Every word of 32 bits is a double exactly, whose conversion rounds to the nearest even number.
        whole = value(arguments[0].bits, 32, name[0]).number
        return value(int.from_bytes(struct.pack("<f", float(whole)), "little"), 32)
    if found := re.fullmatch(r"v_(max3|max|min)_([ui])32", name):
        choose = min if found[1] == "min" else max
        return value(choose(value(a.bits, 32, found[2]).number for a in arguments), 32, found[2])
    raise NotEvaluated(name)


def evaluate(text: str, sources: dict[str, Value]) -> dict[str, Value]:
    """The names after the pseudocode has run, ``D0`` and ``SCC`` among them."""
    names = dict(sources)
    lines = [
        line.strip().rstrip(";") for line in re.sub(r"//[^\n]*", "", text).replace("<>", "!=").split("\n")
    ]
    _run([line for line in lines if line], names)
    return names


class _Break(Exception):
    pass


def _end(lines: list[str], start: int, opening: str, closing: str) -> int:
    depth = 0
    for n in range(start, len(lines)):
        depth += lines[n].startswith(opening)
        depth -= lines[n] == closing
        if depth == 0:
            return n
    raise NotEvaluated(f"no {closing}")


def _run(lines: list[str], names: dict[str, Value]) -> None:
    n = 0
    while n < len(lines):
        line = lines[n]
        if found := re.fullmatch(r"for (\w+) in (.+) : (.+) do", line):
            end = _end(lines, n, "for ", "endfor")
            first, last = (_Expression(found[k], names).whole().number for k in (2, 3))
            try:
                for i in range(first, last + 1):
                    names[found[1]] = value(i)
                    _run(lines[n + 1 : end], names)
            except _Break:
                pass
            n = end + 1
        elif line.startswith("if "):
            end = _end(lines, n, "if ", "endif")
            branches, depth = [n], 0
            for k in range(n + 1, end):
                depth += lines[k].startswith("if ")
                depth -= lines[k] == "endif"
                if depth == 0 and lines[k].startswith(("elsif ", "else")):
                    branches.append(k)
            for start, stop in zip(branches, [*branches[1:], end], strict=True):
                condition = re.sub(r"^(els)?if | then$", "", lines[start])
                if lines[start] == "else" or _Expression(condition, names).whole().number:
                    _run(lines[start + 1 : stop], names)
                    break
            n = end + 1
        elif line == "break":
            raise _Break
        else:
            _assign(line, names)
            n += 1


def _assign(line: str, names: dict[str, Value]) -> None:
    found = re.fullmatch(r"(\w+)(?:\.([uibf])(\d+))?(?:\[\d+ : 0\])? (\+?)= (.+)", line)
    if found is None:
        raise NotEvaluated(line)
    result = _Expression(found[5], names).whole()
    if found[4]:
        result = _apply("+", names[found[1]], result)
    if found[2]:
        result = value(result.number if result.kind != "f" else result.bits, int(found[3]), found[2])
    names[found[1]] = result
