"""Mutants of the device files: each is a file in which one thing is changed. This module finds the possible
changes and makes the text of each."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[2] / "kernels"

# A table with at least this many words has one mutant for each word; a shorter table has two.
GIANT_TABLE = 64

_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitXor: ast.BitOr,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
# How calls are changed: two arguments are swapped, another function is called, or the call is replaced by its
# argument.
_SWAPPED = {"tl.where": (1, 2), "select": (1, 2), "select_limbs": (1, 2), "join64": (0, 1)}
_REPLACED = {
    "tl.minimum": "tl.maximum",
    "tl.maximum": "tl.minimum",
    "wrap_add": "tl.sub",
    "wrap_sub": "tl.add",
    "wrap_mul": "tl.add",
}
_REMOVED = ("bswap32", "bswap32_apart", "bswap64")
_ROTATIONS = {"rotl32": 32, "rotr32": 32, "rotl64": 64, "rotr64": 64}

# Calls that do not affect what a kernel computes, with the number of arguments that are changed all the same.
_HINTS = {
    # The compiler checks the assertion. Its argument is computed from other constants.
    "tl.static_assert": 0,
    # Divisibility on which the compiler may rely. The first argument is the pointer itself.
    "tl.multiple_of": 1,
}
# An assertion in Triton's debug mode, and a memory order that sums and exclusive ors do not need.
_HINT_KEYWORDS = ("sanitize_overflow", "sem")


@dataclass(frozen=True)
class Mutant:
    """One change of one file. Its text identifies it, and not its line, so that other changes of the file do
    not matter."""

    file: str
    """The name of the module in ``kernels/``."""
    scope: str
    """The name of the function or table."""
    before: str
    after: str
    occurrence: int
    """Its number among the changes of the same scope whose texts before and after are the same."""
    line: int
    column: int
    statement: tuple[int, int]
    """The first and the last line of the statement, or of the head of the function."""

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return self.file, self.scope, self.before, self.after, self.occurrence

    @property
    def of_table(self) -> bool:
        return self.before.startswith("word ")

    def __str__(self) -> str:
        place = f"kernels/{self.file}.py:{self.line}:{self.column + 1}"
        return f"{place} {self.scope}: {self.before} -> {self.after}"


class Source:
    """A device file and its mutants."""

    def __init__(self, file: str, folder: Path = KERNELS) -> None:
        self.file = file
        self.tree = ast.parse((folder / f"{file}.py").read_text("utf-8"))
        self.mutants: list[Mutant] = []
        self._changes: list[tuple[Callable[[], None], Callable[[], None]]] = []
        seen: Counter[tuple[str, str, str]] = Counter()
        for scope, statement, node, focus, change, undo in _changes(self.tree):
            before = _text(focus)
            change()
            after = _text(focus)
            undo()
            number = seen[scope, before, after]
            seen[scope, before, after] += 1
            self.mutants.append(
                Mutant(file, scope, before, after, number, node.lineno, node.col_offset, statement)
            )
            self._changes.append((change, undo))

    def text(self, mutant: Mutant) -> str:
        """The text of the whole file with the change."""
        change, undo = self._changes[self.mutants.index(mutant)]
        change()
        try:
            return ast.unparse(self.tree) + "\n"
        finally:
            undo()


def files() -> list[str]:
    return sorted(path.stem for path in KERNELS.glob("*.py") if path.stem != "__init__")


def _text(focus: ast.AST) -> str:
    if isinstance(focus, _Word):
        return f"word {focus.index}: {ast.unparse(focus.words[focus.index])}"
    if isinstance(focus, _Head):
        return f"if {ast.unparse(focus.branch.test)}"
    return ast.unparse(focus.node if isinstance(focus, _Slot) else focus)


class _Word(ast.AST):
    """A word of a table, identified by its index."""

    _fields = ()

    def __init__(self, words: list[ast.expr], index: int) -> None:
        super().__init__()
        self.words, self.index = words, index


_Change = tuple[str, tuple[int, int], ast.expr, ast.AST, Callable[[], None], Callable[[], None]]


def _changes(tree: ast.Module) -> Iterator[_Change]:
    """The scope, the lines of the statement, the node, the node that shows the change, and functions that
    make and undo it."""
    for top in tree.body:
        if isinstance(top, ast.Assign) and isinstance(top.targets[0], ast.Name):
            name = top.targets[0].id
            if isinstance(top.value, ast.Call) and ast.unparse(top.value.func) == "tl.constexpr":
                yield from _changes_of_table(name, top.value)
        elif isinstance(top, ast.FunctionDef) and any(
            ast.unparse(d).partition("(")[0] in ("triton.jit", "kernel") for d in top.decorator_list
        ):
            head = (top.lineno, top.body[0].lineno - 1)
            for place, default in enumerate(top.args.defaults):
                for change in _changes_of(default, top.args.defaults, place, [], False):
                    yield (top.name, head, *change)
            yield from _changes_of_body(top.name, top.body)


def _changes_of_table(name: str, call: ast.Call) -> Iterator[_Change]:
    value = call.args[0]
    statement = (call.lineno, call.end_lineno or call.lineno)
    if not isinstance(value, ast.Tuple):
        for change in _changes_of(value, call.args, 0, [], False):
            yield (name, statement, *change)
        return
    for i, word in enumerate(value.elts):
        if not isinstance(word, ast.Constant):
            for change in _changes_of(word, value.elts, i, [], False):
                yield (name, statement, *change)
            continue
        bits = (0, 5 if word.value >= 64 else 1)
        for bit in bits[: 1 if len(value.elts) >= GIANT_TABLE else 2]:
            other = ast.copy_location(ast.Constant(word.value ^ 1 << bit), word)
            do, undo = _put(value.elts, i, other)
            yield name, statement, word, _Word(value.elts, i), do, undo


def _changes_of_body(scope: str, body: list[ast.stmt]) -> Iterator[_Change]:
    for node in body:
        own = (node.lineno, node.end_lineno or node.lineno)
        blocks = [getattr(node, name) for name in ("body", "orelse") if getattr(node, name, None)]
        if blocks:
            own = (node.lineno, max(node.lineno, blocks[0][0].lineno - 1))
        if isinstance(node, ast.If) and not _has_opposite(node.test):
            negated = ast.UnaryOp(ast.Not(), node.test)
            do, undo = _set(node, "test", ast.copy_location(negated, node.test))
            yield scope, own, node.test, _Head(node), do, undo
        if isinstance(node, ast.AugAssign) and type(node.op) in _OPERATORS:
            do, undo = _set(node, "op", _OPERATORS[type(node.op)]())
            yield scope, own, node.target, node, do, undo
        for field, value in ast.iter_fields(node):
            if isinstance(value, ast.expr) and field not in ("target", "annotation"):
                for change in _changes_of(value, node, field, [], False):
                    yield (scope, own, *change)
        for block in blocks:
            yield from _changes_of_body(scope, block)


def _has_opposite(test: ast.expr) -> bool:
    """Whether a change of the operator of the condition is the negation of the condition."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return isinstance(test.ops[0], (ast.Eq, ast.NotEq, ast.Is, ast.IsNot))
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)


class _Head(ast.AST):
    """A branch, identified by its condition."""

    _fields = ()

    def __init__(self, branch: ast.If) -> None:
        super().__init__()
        self.branch = branch


_Part = tuple[ast.expr, ast.AST, Callable[[], None], Callable[[], None]]


def _changes_of(
    node: ast.expr, holder: ast.AST | list[ast.expr], place: str | int, above: list[ast.expr], shift: bool
) -> Iterator[_Part]:
    """The changes of an expression at ``place`` of ``holder``. ``above`` holds the expressions around it,
    beginning with the outermost. ``shift`` says whether it is the distance of a shift or rotation."""
    focus: ast.AST = above[-1] if above and not isinstance(above[-1], ast.Tuple) else node
    if isinstance(node, ast.Constant):
        if isinstance(node.value, (bool, int)):
            if isinstance(node.value, bool):
                others: list[bool | int] = [not node.value]
            else:
                others = [node.value + 1, node.value - 1] if shift else [node.value ^ 1]
            for value in others:
                if value is False or value is True or value >= 0:
                    other = ast.copy_location(ast.Constant(value), node)
                    if focus is node:
                        focus = _Slot(holder, place)
                    yield (node, focus, *_put(holder, place, other))
        return
    yield from ((node, *rest) for rest in _own(node, holder, place))
    inside = [*above, node]
    if isinstance(node, ast.BinOp):
        shifting = isinstance(node.op, (ast.LShift, ast.RShift))
        yield from _changes_of(node.left, node, "left", inside, False)
        yield from _changes_of(node.right, node, "right", inside, shifting)
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if isinstance(node.func, ast.Attribute):
            yield from _changes_of(node.func.value, node.func, "value", inside, False)
        for i, argument in enumerate(node.args):
            if i < _HINTS.get(name, len(node.args)):
                yield from _changes_of(argument, node.args, i, inside, name in _ROTATIONS and i == 1)
        for keyword in node.keywords:
            if keyword.arg not in _HINT_KEYWORDS:
                yield from _changes_of(keyword.value, keyword, "value", inside, False)
    else:
        for field, value in ast.iter_fields(node):
            if isinstance(value, ast.expr):
                yield from _changes_of(value, node, field, inside, False)
            elif isinstance(value, list):
                for i, element in enumerate(value):
                    if isinstance(element, ast.expr):
                        yield from _changes_of(element, value, i, inside, False)


def _is(node: ast.expr, value: int) -> bool:
    return isinstance(node, ast.Constant) and node.value == value


class _Slot(ast.AST):
    """A place, which shows a change if no expression is around it."""

    _fields = ()

    def __init__(self, holder: ast.AST | list[ast.expr], place: str | int) -> None:
        super().__init__()
        self.holder, self.place = holder, place

    @property
    def node(self) -> ast.AST:
        if isinstance(self.holder, list):
            return self.holder[self.place]
        return getattr(self.holder, str(self.place))


def _own(
    node: ast.expr, holder: ast.AST | list[ast.expr], place: str | int
) -> Iterator[tuple[ast.AST, Callable[[], None], Callable[[], None]]]:
    """The changes of the operator of the expression itself."""
    slot = _Slot(holder, place)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        # Tuples are joined by +. Another operator would not be defined for them.
        joins = isinstance(node.op, ast.Add) and any(
            isinstance(x, ast.Tuple) for x in (node.left, node.right)
        )
        if not joins:
            yield (slot, *_set(node, "op", _OPERATORS[type(node.op)]()))
    elif isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            yield (slot, *_put(node.ops, i, _COMPARISONS[type(operator)]()))
    elif isinstance(node, ast.BoolOp):
        yield (slot, *_set(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And()))
    elif isinstance(node, ast.UnaryOp):
        yield (slot, *_put(holder, place, node.operand))
    elif isinstance(node, ast.IfExp):
        swapped = ast.IfExp(node.test, node.orelse, node.body)
        yield (slot, *_put(holder, place, ast.copy_location(swapped, node)))
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        other: ast.expr | None = None
        if name in _SWAPPED:
            arguments, (i, j) = list(node.args), _SWAPPED[name]
            arguments[i], arguments[j] = arguments[j], arguments[i]
            other = ast.Call(node.func, arguments, node.keywords)
        elif name in _REPLACED:
            keywords = list(node.keywords)
            if name.startswith("wrap_"):
                keywords.append(ast.keyword("sanitize_overflow", ast.Constant(False)))
            other = ast.Call(ast.parse(_REPLACED[name], mode="eval").body, node.args, keywords)
        elif name in _REMOVED:
            other = node.args[0]
        elif name in _ROTATIONS and not _is(node.args[1], _ROTATIONS[name] // 2):
            back = ast.BinOp(ast.Constant(_ROTATIONS[name]), ast.Sub(), node.args[1])
            other = ast.Call(node.func, [node.args[0], back], [])
        if other is not None:
            yield (slot, *_put(holder, place, ast.copy_location(other, node)))


def _put(
    holder: ast.AST | list[ast.expr] | list[ast.cmpop], place: str | int, new: ast.AST
) -> tuple[Callable[[], None], Callable[[], None]]:
    if not isinstance(holder, list):
        return _set(holder, str(place), new)
    old = holder[int(place)]

    def do() -> None:
        holder[int(place)] = ast.fix_missing_locations(new)

    def undo() -> None:
        holder[int(place)] = old

    return do, undo


def _set(holder: ast.AST, name: str, new: ast.AST) -> tuple[Callable[[], None], Callable[[], None]]:
    old = getattr(holder, name)

    def do() -> None:
        setattr(holder, name, ast.fix_missing_locations(new) if isinstance(new, ast.expr) else new)

    def undo() -> None:
        setattr(holder, name, old)

    return do, undo
