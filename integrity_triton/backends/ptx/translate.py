"""Writes Python for the basic blocks of a PTX module.

Each block becomes a function over arrays that hold a register of every thread. Values are unsigned integers,
whatever an instruction takes them for; predicates are booleans. ``X`` is the run (see :mod:`.execution`),
``R`` has the registers that live across blocks, ``M`` is the mask of the threads that execute the block (None
stands for all), and ``W`` has the instructions, for messages.

What an instruction does is defined under its name in NVIDIA's "Parallel Thread Execution ISA".
"""

from __future__ import annotations

from collections.abc import Callable

from ..emulation.faults import Unmodelled
from .arithmetic import PERMUTATIONS
from .effects import effects, named_registers
from .parser import ENDS, Instruction, Module, Operand
from .registers import DefiniteWrites, decisive, only_computes, selector_of_prmt

_TYPES = {1: "bool_", 8: "u8", 16: "u16", 32: "u32", 64: "u64"}
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_UNSIGNED_COMPARISONS = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
_ATOMICS = {"add", "and", "or", "xor", "min", "max", "exch", "cas"}
_SCOPES = {"relaxed", "acquire", "release", "acq_rel", "gpu", "cta", "sys", "volatile", "weak"}
_CACHING = {"ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "L1::evict_first", "L1::evict_last"} | {
    "L1::no_allocate",
    "L1::evict_normal",
    "L2::cache_hint",
    "L2::128B",
    "L2::64B",
    "L2::256B",
}


class Translator:
    """Translates the blocks of one module. Raises Unmodelled for an instruction that it does not know."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._names = {register: f"v{n}" for n, register in enumerate(module.widths)}
        self.instructions: list[Instruction] = []
        """Those that the source refers to by their numbers."""
        self.matrices: dict[str, tuple[int, int]] = {}
        self._definite = DefiniteWrites(module)
        self._live_in, self._defined = [], []
        crossing: set[str] = set()
        for block in module.blocks:
            needed, defined = _needs(block, module)
            crossing |= needed
            self._live_in.append(needed)
            self._defined.append(defined)
        self.crossing = crossing
        """Registers that live across blocks."""

    def source(self) -> str:
        return "\n".join(self._block(n) for n in range(len(self._module.blocks)))

    # Blocks

    def _block(self, n: int) -> str:
        self._lines: list[str] = []
        written = set(self._definite.before[n] or ())
        for instruction, uncertain in self._definite.steps(n, written):
            self._check_written(instruction, uncertain)
            self._instruction(instruction)
            self._note_writes(instruction, uncertain)
        writes = sorted(self._defined[n] & self.crossing)
        body = [f"{self._names[r]} = R[{r!r}]" for r in sorted(self._live_in[n])] + self._lines
        if writes:
            body.append("if M is None:")
            body += [f"    R[{r!r}] = X.full({self._names[r]})" for r in writes]
            body.append("else:")
            body += [f"    R[{r!r}] = where(M, {self._names[r]}, R[{r!r}])" for r in writes]
        body.append(f"return {self._ending(n)}")
        return f"def block_{n}(X, R, M):\n" + "".join(f"    {line}\n" for line in body)

    def _check_written(self, instruction: Instruction, uncertain: set[str]) -> None:
        """Check registers that an instruction reads and that may not have been written."""
        if only_computes(instruction):
            uncertain = uncertain & decisive(instruction)
        for register in sorted(uncertain):
            mask = "M" if register == instruction.predicate else self._mask(instruction)
            if instruction.parts[0] == "wgmma":
                accumulator, *sources = instruction.operands
                others = set().union(*(named_registers(operand) for operand in sources))
                if register in named_registers(accumulator) - others:
                    # Without the scale, the product replaces what the accumulator held.
                    mask = f"both(M, X.full({self._value(sources[-1], 'pred')}))"
            self._lines.append(f"X.written.check({register!r}, {mask}, {self._what(instruction)})")

    def _note_writes(self, instruction: Instruction, uncertain: set[str]) -> None:
        """Note which threads have written the registers that are followed. ``uncertain`` are the sources that
        may not have been written."""
        mask = self._mask(instruction)
        for register in sorted(effects(instruction)[1] & self._definite.suspects):
            sources = tuple(sorted(uncertain - decisive(instruction)))
            if not only_computes(instruction) or not sources:
                self._lines.append(f"X.written.wrote({register!r}, {mask})")
            elif instruction.parts[0] == "selp":
                names = tuple(o.name if o.name in uncertain else None for o in instruction.operands[1:4])
                chooser = f"X.full({self._value(instruction.operands[3], 'pred')})"
                self._lines.append(f"X.written.selected({register!r}, {names!r}, {chooser}, {mask})")
            elif instruction.parts[0] == "shfl":
                self._lines.append(f"X.written.shuffled({register!r}, {sources[0]!r}, {mask})")
            else:
                self._lines.append(f"X.written.computed({register!r}, {sources!r}, {mask})")

    def _ending(self, n: int) -> str:
        block, after = self._module.blocks[n], n + 1
        last = block[-1] if block else None
        if after == len(self._module.blocks) and (
            last is None or last.parts[0] not in ENDS or last.predicate
        ):
            raise Unmodelled("the code runs beyond its end")
        if last is None or last.parts[0] not in ENDS:
            return f"{after}, None, 0"
        target = "DONE" if last.parts[0] != "bra" else str(self._module.labels[last.operands[0].name])
        if last.predicate is None:
            return f"{target}, None, 0"
        return f"{target}, X.full({self._condition(last)}), {after}"

    def _instruction(self, instruction: Instruction) -> None:
        family = instruction.parts[0]
        method: Callable[[Instruction, list[str], list[Operand]], None] | None = getattr(
            self, f"_op_{family}", None
        )
        try:
            if method is None:
                raise Unmodelled("the emulator does not know this instruction")
            method(instruction, instruction.parts[1:], instruction.operands)
        except Unmodelled as error:
            raise Unmodelled(f"{instruction}: {error}") from None
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise Unmodelled(f"{instruction}: the emulator does not know this form: {error!r}") from error

    # Operands

    def _condition(self, instruction: Instruction) -> str:
        assert instruction.predicate is not None
        return ("~" if instruction.negated else "") + self._names[instruction.predicate]

    def _mask(self, instruction: Instruction) -> str:
        if instruction.predicate is None:
            return "M"
        return f"both(M, X.full({self._condition(instruction)}))"

    def _what(self, instruction: Instruction) -> str:
        self.instructions.append(instruction)
        return f"W[{len(self.instructions) - 1}]"

    def _value(self, operand: Operand, kind: str) -> str:
        """The operand as an array, or a scalar, of a type such as ``u32``, ``s64``, ``b16``, ``f32``,
        ``pred``."""
        if kind == "pred":
            if operand.kind == "immediate":
                return "TRUE" if operand.value else "FALSE"
            self._demand(operand, 1)
            return self._names[operand.name]
        if kind[1:] not in ("8", "16", "32", "64"):
            raise Unmodelled(f"the type .{kind}")
        bits = int(kind[1:])
        view = {"s": f".view(i{bits})", "f": f".view(f{bits})"}.get(kind[0], "")
        if operand.kind == "immediate":
            return f"u{bits}({operand.value & ((1 << bits) - 1)}){view}"
        if operand.kind == "special":
            text, width = f"X.{operand.name}", 32
        elif operand.kind == "register":
            text, width = self._names[operand.name], self._module.widths[operand.name]
        else:
            raise Unmodelled(f"an operand of kind {operand.kind} {operand.name}")
        if width != bits:
            if width == 1 or kind[0] == "f":
                raise Unmodelled(f"a register of {width} bits as .{kind}")
            text = f"{text}.astype(u{bits})"
        return text + view

    def _demand(self, operand: Operand, bits: int) -> None:
        if operand.kind != "register" or self._module.widths[operand.name] != bits:
            raise Unmodelled(f"{operand.name or operand.kind} is no register of {bits} bits")

    def _assign(self, instruction: Instruction, target: Operand, expression: str, bits: int) -> None:
        """Assign an unsigned value of ``bits`` (1: a boolean) to a register, which may be wider."""
        if target.kind == "sink":
            return
        if target.kind != "register":
            raise Unmodelled(f"a result in {target.kind}")
        width = self._module.widths[target.name]
        if (bits == 1) != (width == 1) or width < bits:
            raise Unmodelled(f"a result of {bits} bits in a register of {width}")
        if bits != width:
            expression = f"({expression}).astype({_TYPES[width]})"
        name = self._names[target.name]
        if instruction.predicate:
            expression = f"where({self._condition(instruction)}, {expression}, {name})"
        self._lines.append(f"{name} = {expression}")

    def _address(self, operand: Operand, bits: int) -> str:
        """An address operand as an array."""
        if operand.kind != "address":
            raise Unmodelled(f"an address in {operand.kind}")
        offset = f"u{bits}({operand.value & ((1 << bits) - 1)})"
        if not operand.name:
            return f"X.full({offset})"
        if operand.name not in self._names:
            raise Unmodelled(f"the address of {operand.name}")
        text = self._names[operand.name]
        if self._module.widths[operand.name] != bits:
            text = f"{text}.astype(u{bits})"
        return f"X.full({text} + {offset})" if operand.value else f"X.full({text})"

    # Data movement and conversion

    def _space(self, modifiers: list[str], known: set[str]) -> tuple[str, int]:
        """The state space and the number of elements of a load or a store."""
        count, space = 1, ""
        for part in modifiers[:-1]:
            if part in ("global", "shared", "shared::cta", "param"):
                space = part.partition("::")[0]
            elif part in ("v2", "v4", "v8"):
                count = int(part[1])
            elif part not in known:
                raise Unmodelled(f"the modifier .{part}")
        if not space:
            raise Unmodelled("generic addresses")
        return space, count

    def _op_ld(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        kind = modifiers[-1]
        size = int(kind[1:]) // 8
        space, count = self._space(modifiers, _SCOPES | _CACHING)
        targets = list(o[0].parts) if o[0].kind == "vector" else [o[0]]
        if len(targets) != count:
            raise Unmodelled(f"{len(targets)} registers for {count} elements")
        if space == "param":
            if ins.predicate or not any(name == o[1].name for name, _ in self._module.parameters):
                raise Unmodelled("a parameter that the kernel does not have")
            for i, target in enumerate(targets):
                value = f"X.parameter({o[1].name!r}, {o[1].value + i * size}, {size})"
                self._assign(ins, target, value, size * 8)
            return
        address = self._address(o[1], 64 if space == "global" else 32)
        used = "" if ins.used_bytes < 0 or space == "global" else f", {ins.used_bytes}"
        self._lines.append(
            f"got = X.load_{space}({address}, {size}, {count}, {self._mask(ins)}, {self._what(ins)}{used})"
        )
        for i, target in enumerate(targets):
            if target.kind == "sink":
                continue
            width = self._module.widths[target.name]
            value = f"got[{i}]"
            if kind[0] == "s" and width > size * 8:
                value = f"{value}.view(i{size * 8}).astype(i{width}).view(u{width})"
                self._assign(ins, target, value, width)
            else:
                self._assign(ins, target, value, size * 8)

    def _op_st(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        size = int(modifiers[-1][1:]) // 8
        space, count = self._space(modifiers, _SCOPES | _CACHING)
        if space == "param":
            raise Unmodelled("a store to a parameter")
        values = list(o[1].parts) if o[1].kind == "vector" else [o[1]]
        if len(values) != count:
            raise Unmodelled(f"{len(values)} values for {count} elements")
        listed = "".join(f"{self._value(v, f'u{size * 8}')}, " for v in values)
        address = self._address(o[0], 64 if space == "global" else 32)
        self._lines.append(f"X.store_{space}({address}, ({listed}), {self._mask(ins)}, {self._what(ins)})")

    def _op_mov(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        (kind,) = modifiers
        if kind == "pred":
            self._assign(ins, o[0], f"X.full({self._value(o[1], 'pred')})", 1)
            return
        bits = int(kind[1:])
        if o[0].kind == "vector":
            part = bits // len(o[0].parts)
            whole = self._value(o[1], f"u{bits}")
            for i, target in enumerate(o[0].parts):
                self._assign(ins, target, f"({whole} >> u{bits}({i * part})).astype(u{part})", part)
        elif o[1].kind == "vector":
            part = bits // len(o[1].parts)
            terms = [
                f"({self._value(v, f'u{part}')}.astype(u{bits}) << u{bits}({i * part}))"
                for i, v in enumerate(o[1].parts)
            ]
            self._assign(ins, o[0], f"X.full({' | '.join(terms)})", bits)
        else:
            self._assign(ins, o[0], f"X.full({self._value(o[1], f'u{bits}')})", bits)

    def _op_cvta(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        # A generic address of global memory is the same address.
        if modifiers[-2:] != ["global", "u64"]:
            raise Unmodelled("generic addresses of this space")
        self._assign(ins, o[0], f"X.full({self._value(o[1], 'u64')})", 64)

    def _op_cvt(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        *how, to, source = modifiers
        bits = int(to[1:])
        floats = {"f32", "f64"}
        value = self._value(o[1], source)
        if to in floats or source in floats:
            exact = {("f64", "f32"), ("f64", "s32"), ("f64", "u32")}
            if to in floats and (how == ["rn"] or (not how and (to, source) in exact)):
                self._assign(ins, o[0], f"{value}.astype(f{bits}).view(u{bits})", bits)
                return
            if source in floats and to[0] in "su" and how == ["rzi"]:
                self._assign(ins, o[0], f"to_integer({value}, {bits}, {to[0] == 's'})", bits)
                return
            raise Unmodelled("this conversion of floats")
        if how:
            raise Unmodelled(f"the modifier .{how[0]}")
        value += f".astype(i{bits}).view(u{bits})" if source[0] == "s" else f".astype(u{bits})"
        width = self._module.widths[o[0].name]
        if width > bits and to[0] == "s":
            value, bits = f"{value}.view(i{bits}).astype(i{width}).view(u{width})", width
        self._assign(ins, o[0], f"X.full({value})", bits)

    def _op_prmt(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        if modifiers != ["b32"] and (modifiers[0] != "b32" or modifiers[1] not in PERMUTATIONS):
            raise Unmodelled("a mode of prmt")
        fixed = selector_of_prmt(ins)
        if fixed is None:
            a, b, selector = (f"X.full({self._value(x, 'u32')})" for x in o[1:4])
            call = f"permute({a}, {b}, {selector})"
            if len(modifiers) > 1:
                call = f"permute_in_mode({a}, {b}, {selector}, {modifiers[1]!r})"
            self._assign(ins, o[0], call, 32)
            return
        terms = []
        for i in range(4):
            nibble = fixed >> (4 * i) & 15
            source = self._value(o[1] if nibble & 7 < 4 else o[2], "u32")
            at = 8 * (nibble & 3)
            if nibble & 8:
                terms.append(f"((({source} >> u32({at + 7})) & u32(1)) * u32({255 << (8 * i)}))")
            else:
                move = 8 * i - at
                if move:
                    source = f"({source} {'<<' if move > 0 else '>>'} u32({abs(move)}))"
                terms.append(f"({source} & u32({255 << (8 * i)}))")
        self._assign(ins, o[0], f"X.full({' | '.join(terms)})", 32)

    # Integer arithmetic, logic and shifts, comparison and selection

    def _binary(self, ins: Instruction, modifiers: list[str], o: list[Operand], symbol: str) -> None:
        kind = modifiers[-1]
        if kind in ("s16x2", "u16x2") and len(modifiers) == 1:
            a, b = (f"contiguous(X.full({self._value(x, 'u32')})).view(u16)" for x in o[1:3])
            self._assign(ins, o[0], f"({a} {symbol} {b}).view(u32)", 32)
        elif kind == "pred":
            a, b = self._value(o[1], "pred"), self._value(o[2], "pred")
            self._assign(ins, o[0], f"X.full({a} {symbol} {b})", 1)
        elif kind in ("f32", "f64") and set(modifiers[:-1]) <= {"rn"}:
            a, b = self._value(o[1], kind), self._value(o[2], kind)
            self._assign(ins, o[0], f"X.full({a} {symbol} {b}).view(u{kind[1:]})", int(kind[1:]))
        elif len(modifiers) == 1 and kind[0] in "sub":
            a, b = (self._value(x, f"u{kind[1:]}") for x in o[1:3])
            self._assign(ins, o[0], f"X.full({a} {symbol} {b})", int(kind[1:]))
        else:
            raise Unmodelled(f"the modifiers .{'.'.join(modifiers)}")

    def _op_add(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        self._binary(ins, modifiers, o, "+")

    def _op_sub(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        self._binary(ins, modifiers, o, "-")

    def _op_and(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        self._binary(ins, modifiers, o, "&")

    def _op_or(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        self._binary(ins, modifiers, o, "|")

    def _op_xor(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        self._binary(ins, modifiers, o, "^")

    def _op_not(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        (kind,) = modifiers
        value = self._value(o[1], kind if kind == "pred" else f"u{kind[1:]}")
        self._assign(ins, o[0], f"X.full(~{value})", 1 if kind == "pred" else int(kind[1:]))

    def _op_neg(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        (kind,) = modifiers
        bits = kind[1:]
        if kind[0] == "f":
            value = f"(-{self._value(o[1], kind)}).view(u{bits})"
        else:
            value = f"u{bits}(0) - {self._value(o[1], f'u{bits}')}"
        self._assign(ins, o[0], f"X.full({value})", int(bits))

    def _op_abs(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        (kind,) = modifiers
        self._assign(
            ins, o[0], f"X.full(absolute({self._value(o[1], kind)}).view(u{kind[1:]}))", int(kind[1:])
        )

    def _extreme(self, ins: Instruction, modifiers: list[str], o: list[Operand], name: str) -> None:
        (kind,) = modifiers
        # The minimum of a number and a NaN is the number (``min.f32``).
        function = f"f{name}" if kind[0] == "f" else f"{name}imum"
        a, b = self._value(o[1], kind), self._value(o[2], kind)
        self._assign(ins, o[0], f"X.full({function}({a}, {b}).view(u{kind[1:]}))", int(kind[1:]))

    def _op_min(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        self._extreme(ins, modifiers, o, "min")

    def _op_max(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        self._extreme(ins, modifiers, o, "max")

    def _product(self, how: str, kind: str, a: Operand, b: Operand) -> tuple[str, int]:
        bits, letter = int(kind[1:]), "i" if kind[0] == "s" else "u"
        signed = kind[0] == "s"
        x, y = self._value(a, kind), self._value(b, kind)
        view = ".view(u{})" if signed else ""
        if how == "lo":
            return f"({self._value(a, f'u{bits}')} * {self._value(b, f'u{bits}')})", bits
        if how == "wide" and bits < 64:
            wide = 2 * bits
            return f"({x}.astype({letter}{wide}) * {y}.astype({letter}{wide})){view.format(wide)}", wide
        if how == "hi" and bits < 64:
            wide = 2 * bits
            product = f"({x}.astype({letter}{wide}) * {y}.astype({letter}{wide}))"
            return f"({product} >> {letter}{wide}({bits})).astype({letter}{bits}){view.format(bits)}", bits
        if how == "hi":
            return f"multiply_high({x}, {y}, signed={signed})", bits
        raise Unmodelled(f"the product .{how}")

    def _op_mul(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        if modifiers[-1] in ("f32", "f64"):
            self._binary(ins, modifiers, o, "*")
            return
        how, kind = modifiers
        expression, bits = self._product(how, kind, o[1], o[2])
        self._assign(ins, o[0], f"X.full({expression})", bits)

    def _op_mad(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        how, kind = modifiers
        expression, bits = self._product(how, kind, o[1], o[2])
        self._assign(ins, o[0], f"X.full({expression} + {self._value(o[3], f'u{bits}')})", bits)

    def _op_fma(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        if modifiers != ["rn", "f32"]:
            raise Unmodelled(f"fma.{'.'.join(modifiers)}")
        a, b, c = (self._value(x, "f32") for x in o[1:4])
        self._assign(ins, o[0], f"X.full(fused({a}, {b}, {c}).view(u32))", 32)

    def _division(self, ins: Instruction, kind: str, o: list[Operand], part: int) -> None:
        a, b = self._value(o[1], kind), self._value(o[2], kind)
        self._assign(ins, o[0], f"X.full(divide({a}, {b}, signed={kind[0] == 's'})[{part}])", int(kind[1:]))

    def _op_div(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        if modifiers == ["rn", "f32"]:
            a, b = self._value(o[1], "f32"), self._value(o[2], "f32")
            self._assign(ins, o[0], f"X.full({a} / {b}).view(u32)", 32)
            return
        (kind,) = modifiers
        self._division(ins, kind, o, 0)

    def _op_rem(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        (kind,) = modifiers
        self._division(ins, kind, o, 1)

    def _op_sqrt(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        if modifiers != ["rn", "f32"]:
            raise Unmodelled(f"sqrt.{'.'.join(modifiers)}")
        self._assign(ins, o[0], f"X.full(sqrt({self._value(o[1], 'f32')})).view(u32)", 32)

    def _shift(self, ins: Instruction, kind: str, o: list[Operand], symbol: str) -> None:
        bits, signed = int(kind[1:]), kind[0] == "s" and symbol == ">>"
        amount = f"minimum({self._value(o[2], 'u32')}, u32({bits - 1}))"
        if signed:
            # Shifts by more than the width leave the sign in all bits (``shr``).
            value = f"({self._value(o[1], kind)} >> {amount}.astype(i{bits})).view(u{bits})"
            self._assign(ins, o[0], f"X.full({value})", bits)
            return
        plain = self._value(o[1], f"u{bits}")
        if o[2].kind == "immediate":
            kept = 0 <= o[2].value < bits
            value = f"{plain} {symbol} u{bits}({o[2].value})" if kept else f"u{bits}(0)"
        else:
            inside = f"{self._value(o[2], 'u32')} < u32({bits})"
            value = f"where({inside}, {plain} {symbol} {amount}.astype(u{bits}), u{bits}(0))"
        self._assign(ins, o[0], f"X.full({value})", bits)

    def _op_shl(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        (kind,) = modifiers
        self._shift(ins, kind, o, "<<")

    def _op_shr(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        (kind,) = modifiers
        self._shift(ins, kind, o, ">>")

    def _op_shf(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        direction, mode, kind = modifiers
        if direction not in "lr" or mode not in ("wrap", "clamp") or kind != "b32":
            raise Unmodelled(f"shf.{'.'.join(modifiers)}")
        left, wrap = direction == "l", mode == "wrap"
        a, b = self._value(o[1], "u32"), self._value(o[2], "u32")
        if o[3].kind != "immediate":
            given = f"{self._value(o[3], 'u32')}, left={left}, wrap={wrap}"
            self._assign(ins, o[0], f"X.full(funnel({a}, {b}, {given}))", 32)
            return
        n = o[3].value & 31 if wrap else min(o[3].value, 32)
        if n in (0, 32):
            value = b if left == (n == 0) else a
        elif left:
            value = f"({b} << u32({n})) | ({a} >> u32({32 - n}))"
        else:
            value = f"({a} >> u32({n})) | ({b} << u32({32 - n}))"
        self._assign(ins, o[0], f"X.full({value})", 32)

    def _op_bfe(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        (kind,) = modifiers
        value = self._value(o[1], f"u{kind[1:]}")
        if o[2].kind == o[3].kind == "immediate":
            bits, start, size = int(kind[1:]), o[2].value, o[3].value
            if 0 <= start < start + size <= bits:
                moved, rest = f"({value} << u{bits}({bits - start - size}))", bits - size
                field = f"{moved} >> u{bits}({rest})"
                if kind[0] == "s":
                    field = f"({moved}.view(i{bits}) >> i{bits}({rest})).view(u{bits})"
                self._assign(ins, o[0], f"X.full({field})", bits)
                return
        position, length = (self._value(x, "u32") for x in o[2:4])
        given = f"{value}, {position}, {length}, signed={kind[0] == 's'}"
        self._assign(ins, o[0], f"X.full(extract({given}))", int(kind[1:]))

    def _op_bfi(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        (kind,) = modifiers
        a, b = (self._value(x, f"u{kind[1:]}") for x in o[1:3])
        position, length = (self._value(x, "u32") for x in o[3:5])
        self._assign(ins, o[0], f"X.full(insert({a}, {b}, {position}, {length}))", int(kind[1:]))

    def _op_lop3(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        if modifiers != ["b32"]:
            raise Unmodelled("lop3 with a predicate")
        a, b, c = (self._value(x, "u32") for x in o[1:4])
        terms = [
            "(" + " & ".join(f"{'' if i & bit else '~'}({x})" for x, bit in ((a, 4), (b, 2), (c, 1))) + ")"
            for i in range(8)
            if o[4].value >> i & 1
        ]
        self._assign(ins, o[0], f"X.full({' | '.join(terms) or 'u32(0)'})", 32)

    def _op_popc(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        (kind,) = modifiers
        self._assign(ins, o[0], f"X.full(bitwise_count({self._value(o[1], f'u{kind[1:]}')}).astype(u32))", 32)

    def _op_clz(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        (kind,) = modifiers
        self._assign(ins, o[0], f"leading(X.full({self._value(o[1], f'u{kind[1:]}')}))", 32)

    def _op_brev(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        (kind,) = modifiers
        value = f"reverse_bits(X.full({self._value(o[1], f'u{kind[1:]}')}))"
        self._assign(ins, o[0], value, int(kind[1:]))

    def _op_setp(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        comparison, *combine, kind = modifiers
        compared = f"u{kind[1:]}" if kind[0] == "b" else kind
        if kind[0] == "f":
            # Ordered comparisons are false with a NaN; those that end in u are true (``setp``).
            unordered = comparison.endswith("u") and comparison != "nu"
            symbol = _COMPARISONS[comparison.rstrip("u") if unordered else comparison]
        else:
            unordered, symbol = False, (_COMPARISONS | _UNSIGNED_COMPARISONS)[comparison]
        a, b = self._value(o[1], compared), self._value(o[2], compared)
        condition = f"({a} {symbol} {b})"
        if kind[0] == "f" and (unordered or symbol == "!="):
            nan = f"(isnan({a}) | isnan({b}))"
            condition = f"({condition} | {nan})" if unordered else f"({condition} & ~{nan})"
        if combine:
            symbol = {"and": "&", "or": "|", "xor": "^"}[combine[0]]
            condition = f"({condition} {symbol} {self._value(o[3], 'pred')})"
        self._assign(ins, o[0], f"X.full({condition})", 1)

    def _op_selp(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        (kind,) = modifiers
        a, b = (self._value(x, f"u{kind[1:]}") for x in o[1:3])
        self._assign(ins, o[0], f"X.full(where({self._value(o[3], 'pred')}, {a}, {b}))", int(kind[1:]))

    # Control flow and synchronisation

    def _op_bra(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        if modifiers not in ([], ["uni"]):
            raise Unmodelled(f"bra.{'.'.join(modifiers)}")

    def _op_ret(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        """The block's end does it."""

    _op_exit = _op_ret

    def _op_bar(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        if ins.predicate:
            raise Unmodelled("a barrier with a predicate")
        modifiers = [part for part in modifiers if part not in ("cta", "aligned")]
        if modifiers == ["warp", "sync"]:
            self._lines.append(f"X.together(M, 32, {self._what(ins)})")
        elif modifiers == ["sync"] and len(o) == 1 and o[0].kind == "immediate" and o[0].value == 0:
            self._lines.append(f"X.barrier(M, {self._what(ins)})")
        else:
            raise Unmodelled("a barrier of part of the threads")

    _op_barrier = _op_bar

    def _op_fence(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        if modifiers[:1] != ["proxy"]:
            return  # accesses are executed in the order of the program
        if modifiers[1] != "async" or modifiers[2:] not in ([], ["shared::cta"]):
            raise Unmodelled(f"fence.{'.'.join(modifiers)}")
        self._lines.append(f"X.fence_proxy({self._mask(ins)})")

    def _op_membar(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        """Accesses are executed in the order of the program."""

    def _atomic(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> tuple[str, int]:
        """The call of an atomic operation on an address and values."""
        kind = modifiers[-1]
        parts = [part for part in modifiers[:-1] if part not in _SCOPES]
        spaces = [part.partition("::")[0] for part in parts if part.startswith(("global", "shared"))]
        operations = [part for part in parts if part in _ATOMICS]
        if len(spaces) != 1 or len(operations) != 1 or len(parts) != 2 or kind[0] == "f":
            raise Unmodelled("this atomic operation")
        operation, space, bits = operations[0], spaces[0], int(kind[1:])
        if operation in ("min", "max") and kind[0] != "s":
            operation = f"u{operation}"
        values = ", ".join(f"X.full({self._value(x, f'u{bits}')})" for x in o[1:])
        address = self._address(o[0], 64 if space == "global" else 32)
        given = f"{address}, {operation!r}, ({values},), {self._mask(ins)}, {self._what(ins)}"
        return f"X.atomic_{space}({given})", bits

    def _op_red(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        self._lines.append(self._atomic(ins, modifiers, o)[0])

    def _op_atom(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        call, bits = self._atomic(ins, modifiers, o[1:])
        self._assign(ins, o[0], call, bits)

    def _op_cp(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        # Non-bulk asynchronous copies
        if modifiers == ["async", "commit_group"]:
            self._lines.append(f"X.copies.commit({self._mask(ins)})")
        elif modifiers == ["async", "wait_group"]:
            self._lines.append(f"X.copies.wait({o[0].value}, {self._mask(ins)}, {self._what(ins)})")
        elif modifiers == ["async", "wait_all"]:
            self._lines.append(f"X.copies.wait_all({self._mask(ins)}, {self._what(ins)})")
        else:
            plain = [part for part in modifiers[3:] if part not in _CACHING]
            space = modifiers[2].partition("::")[0] if len(modifiers) > 2 else ""
            if (
                modifiers[:1] != ["async"]
                or modifiers[1] not in ("ca", "cg")
                or plain != ["global"]
                or (space != "shared")
            ):
                raise Unmodelled("this asynchronous copy")
            size = o[2].value
            given = f"u32({size})" if len(o) == 3 else self._value(o[3], "u32")
            to, source = self._address(o[0], 32), self._address(o[1], 64)
            rest = f"{size}, X.full({given}), {self._mask(ins)}, {self._what(ins)}"
            self._lines.append(f"X.copies.start({to}, {source}, {rest})")

    def _op_prefetch(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        """It has no effect that a program could see."""

    # Warps

    def _op_shfl(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        sync, mode, kind = modifiers
        if sync != "sync" or kind != "b32" or ins.predicate:
            raise Unmodelled(f"shfl.{'.'.join(modifiers)}")
        targets = o[0].parts if o[0].kind == "pair" else (o[0],)
        given = ", ".join(f"X.full({self._value(x, 'u32')})" for x in o[1:5])
        self._lines.append(f"got = X.shuffle({mode!r}, {given}, M, {self._what(ins)})")
        for i, target in enumerate(targets):
            self._assign(ins, target, f"got[{i}]", 1 if i else 32)

    def _op_redux(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        sync, operation, kind = modifiers
        if sync != "sync" or kind[1:] != "32" or kind[0] not in "bsu" or ins.predicate:
            raise Unmodelled(f"redux.{'.'.join(modifiers)}")
        value = f"X.full({self._value(o[1], kind.replace('b', 'u'))})"
        call = f"X.reduce({operation!r}, {value}, X.full({self._value(o[2], 'u32')}), M, {self._what(ins)})"
        self._assign(ins, o[0], call, 32)

    def _op_vote(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        sync, mode, kind = modifiers
        if sync != "sync" or mode not in ("ballot", "any", "all") or ins.predicate:
            raise Unmodelled(f"vote.{'.'.join(modifiers)}")
        condition = f"X.full({self._value(o[1], 'pred')})"
        if len(o[1].parts):
            raise Unmodelled("a negated predicate")
        call = f"X.vote({mode!r}, {condition}, X.full({self._value(o[2], 'u32')}), M, {self._what(ins)})"
        self._assign(ins, o[0], call, 32 if kind == "b32" else 1)

    # Matrices

    def _matrix_form(self, modifiers: list[str]) -> tuple[int, bool]:
        count = int(modifiers[3][1:])
        rest = [part.partition("::")[0] for part in modifiers[4:] if part != "trans"]
        if modifiers[:3] != ["sync", "aligned", "m8n8"] or rest != ["shared", "b16"]:
            raise Unmodelled("this form of matrices")
        return count, "trans" in modifiers

    def _op_ldmatrix(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        count, transposed = self._matrix_form(modifiers)
        targets = list(o[0].parts) if o[0].kind == "vector" else [o[0]]
        if ins.predicate or len(targets) != count:
            raise Unmodelled("this form of ldmatrix")
        self._lines.append(
            f"got = X.load_matrix({self._address(o[1], 32)}, {count}, {transposed}, M, {self._what(ins)})"
        )
        for i, target in enumerate(targets):
            self._assign(ins, target, f"got[{i}]", 32)

    def _op_stmatrix(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        count, transposed = self._matrix_form(modifiers)
        values = list(o[1].parts) if o[1].kind == "vector" else [o[1]]
        if ins.predicate or len(values) != count:
            raise Unmodelled("this form of stmatrix")
        listed = "".join(f"X.full({self._value(v, 'u32')}), " for v in values)
        given = f"{self._address(o[0], 32)}, ({listed}), {transposed}, M, {self._what(ins)}"
        self._lines.append(f"X.store_matrix({given})")

    def _named(self, ins: Instruction, rows: int, columns: int) -> str:
        name = f"{ins.op} at {ins.line} (number {len(self.matrices)})"
        self.matrices[name] = rows, columns
        return name

    def _op_mma(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        saturate = "satfinite" in modifiers
        form = [part for part in modifiers if part != "satfinite"]
        known = form[:2] == ["sync", "aligned"] and form[3:5] == ["row", "col"]
        if ins.predicate or not known or form[2] not in ("m16n8k32", "m16n8k16"):
            raise Unmodelled("this form of mma")
        to, left, right, addend = form[5:]
        if {to, addend} != {"s32"} or not {left, right} <= {"s8", "u8"}:
            raise Unmodelled("products of matrices other than of 8-bit integers")
        k = int(form[2][6:])
        if [len(x.parts) for x in o] != [4, k // 8, k // 16, 4]:
            raise Unmodelled("fragments of this size")
        a, b, c = ("".join(f"X.full({self._value(v, 'u32')}), " for v in x.parts) for x in o[1:4])
        name = self._named(ins, 16, 8)
        signs = f"{left == 's8'}, {right == 's8'}, {saturate}"
        self._lines.append(f"got = X.mma(({a}), ({b}), ({c}), {signs}, {name!r}, M, {self._what(ins)})")
        for i, target in enumerate(o[0].parts):
            self._assign(ins, target, f"got[{i}]", 32)

    def _op_wgmma(self, ins: Instruction, modifiers: list[str], o: list[Operand]) -> None:
        if ins.predicate:
            raise Unmodelled("wgmma with a predicate")
        what = self._what(ins)
        if modifiers[0] in ("fence", "commit_group"):
            # What they order is checked before the kernel runs, see hazards.py.
            self._lines.append(f"X.together(M, 128, {what})")
            if modifiers[0] == "commit_group":
                self._lines.append("X.products.commit(M)")
            return
        if modifiers[0] == "wait_group":
            self._lines.append(f"X.together(M, 128, {what})")
            self._lines.append(f"X.products.wait({o[0].value}, M)")
            return
        asynchronous, sync, aligned, shape, to, left, right = modifiers
        known = (asynchronous, sync, aligned, to) == ("mma_async", "sync", "aligned", "s32")
        if not known or not shape.startswith("m64n") or not shape.endswith("k32"):
            raise Unmodelled("this form of wgmma")
        if not {left, right} <= {"s8", "u8"} or len(o) != 4:
            raise Unmodelled("this form of wgmma")
        columns = int(shape[4:-3])
        if len(o[0].parts) != columns // 2:
            raise Unmodelled("fragments of this size")
        d = "".join(f"X.full({self._value(v, 'u32')}), " for v in o[0].parts)
        if o[1].kind == "vector":
            a = "(" + "".join(f"X.full({self._value(v, 'u32')}), " for v in o[1].parts) + ")"
        else:
            a = f"X.full({self._value(o[1], 'u64')})"
        name = self._named(ins, 64, columns)
        descriptor, scale = f"X.full({self._value(o[2], 'u64')})", f"X.full({self._value(o[3], 'pred')})"
        signs = f"{left == 's8'}, {right == 's8'}"
        self._lines.append(
            f"got = X.wgmma(({d}), {a}, {descriptor}, {scale}, {columns}, {signs}, {name!r}, M, {what})"
        )
        for i, target in enumerate(o[0].parts):
            self._assign(ins, target, f"got[{i}]", 32)


def _needs(block: list[Instruction], module: Module) -> tuple[set[str], set[str]]:
    """The registers that a block needs from others, and those that it writes."""
    needed: set[str] = set()
    defined: set[str] = set()
    for instruction in block:
        reads, writes = effects(instruction)
        reads, writes = reads & module.widths.keys(), writes & module.widths.keys()
        needed |= reads - defined
        if instruction.predicate:
            needed |= ({instruction.predicate} | writes) - defined  # the old value may remain
        defined |= writes
    return needed, defined
