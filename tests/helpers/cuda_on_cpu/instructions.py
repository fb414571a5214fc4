"""Arithmetic, logic, comparisons and selections, as C."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cuda_on_cpu.ptx import bits
from cuda_on_cpu.table import instruction

if TYPE_CHECKING:
    from cuda_on_cpu.translate import Translation

OPERATOR = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&", "or": "|", "xor": "^", "rem": "%"}
COMPARISON = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
UNSIGNED_COMPARISON = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
# Of two floats: `ne` is false and its opposite, `equ`, true where one is a NaN; so with the others.
OPPOSITE = {"equ": "ne", "neu": "eq", "ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt", "nan": "num"}


def wide(type_name: str) -> str:
    return f"{type_name[0]}{2 * bits(type_name)}"


# Floating point ---------------------------------------------------------------------------------------------


@instruction(r"(?P<name>add|sub|mul|div)\.rn(?P<ftz>\.ftz)?\.(?P<t>f32|f64)")
def float_arithmetic(c: Translation, name: str, ftz: str | None, t: str) -> None:
    c.expect(3)
    c.write_float(0, t, f"{c.read_float(1, t, ftz)} {OPERATOR[name]} {c.read_float(2, t, ftz)}", ftz)


@instruction(r"add\.rz\.f32")
def added_toward_zero(c: Translation) -> None:
    c.expect(3)
    c.write(0, "f32", f"added_toward_zero({c.read(1, 'f32')}, {c.read(2, 'f32')})")


@instruction(r"fma\.rn(?P<ftz>\.ftz)?\.(?P<t>f32|f64)")
def fused(c: Translation, ftz: str | None, t: str) -> None:
    c.expect(4)
    name = "__builtin_fmaf" if t == "f32" else "__builtin_fma"
    c.write_float(0, t, f"{name}({', '.join(c.read_float(k, t, ftz) for k in (1, 2, 3))})", ftz)


@instruction(r"(?P<name>sqrt|rcp)\.rn(?P<ftz>\.ftz)?\.(?P<t>f32|f64)")
def root(c: Translation, name: str, ftz: str | None, t: str) -> None:
    c.expect(2)
    x = c.read_float(1, t, ftz)
    made = f"1 / {x}" if name == "rcp" else f"__builtin_sqrt{'f' if t == 'f32' else ''}({x})"
    c.write_float(0, t, made, ftz)


@instruction(r"(?P<name>rsqrt|rcp)\.approx\.ftz\.f32")
def approximation(c: Translation, name: str) -> None:
    """The rounded result or a neighbour of it, as the operand's bits have it: nothing may rely on which."""
    c.expect(2)
    x = c.read_float(1, "f32", ".ftz")
    exact = "1 / (f64)x" if name == "rcp" else "1 / __builtin_sqrt((f64)x)"
    c.do(f"{{ f32 x = {x};")
    c.write_float(0, "f32", f"approximate(x, (f32)({exact}))", ".ftz")
    c.do("}")


@instruction(r"(?P<name>neg|abs)(?P<ftz>\.ftz)?\.(?P<t>f32|f64)")
def float_sign(c: Translation, name: str, ftz: str | None, t: str) -> None:
    c.expect(2)
    x = c.read_float(1, t, ftz)
    c.write(0, t, f"-{x}" if name == "neg" else f"__builtin_fabs{'f' if t == 'f32' else ''}({x})")


@instruction(r"(?P<name>min|max)(?P<ftz>\.ftz)?\.(?P<t>f32|f64)")
def float_extreme(c: Translation, name: str, ftz: str | None, t: str) -> None:
    c.expect(3)
    c.write(0, t, f"{name}_{t}({c.read_float(1, t, ftz)}, {c.read_float(2, t, ftz)})")


@instruction(r"(?P<name>min|max)\.(?P<t>f16|bf16)x2")
def extremes_of_halves(c: Translation, name: str, t: str) -> None:
    """Of the lower halves, and of the upper ones; the results are operands, so that nothing is rounded."""
    c.expect(3)
    a, b = (c.read(k, "b32") for k in (1, 2))
    parts = [f"(u32){name}_{t}((u16)({a} >> {by}), (u16)({b} >> {by})) << {by}" for by in (0, 16)]
    c.write(0, "b32", " | ".join(parts))


# Integers ---------------------------------------------------------------------------------------------------


@instruction(r"(?P<name>add|sub)\.(?P<t>[us](?:16|32|64))")
def integer_sum(c: Translation, name: str, t: str) -> None:
    c.expect(3)
    c.write(0, t, f"{c.read(1, t)} {OPERATOR[name]} {c.read(2, t)}")


@instruction(r"(?P<name>add|sub)(?P<chain>c?)(?P<out>\.cc)?(?<!add|sub)\.[us](?P<n>32|64)")
def carried_sum(c: Translation, name: str, chain: str, out: str | None, n: str) -> None:
    """One limb of a wider sum: `.cc` writes the carry, `addc` reads it; for differences it is the borrow."""
    c.expect(3)
    t = f"u{n}"
    sign, given = OPERATOR[name], "thread->carry" if chain else "0"
    c.do(f"{{ u128 sum = (u128){c.read(1, t)} {sign} {c.read(2, t)} {sign} {given};")
    c.write(0, t, "sum")
    if out:
        c.do(f"thread->carry = (u8)(sum >> {n}) & 1;")
    c.do("}")


@instruction(r"(?P<name>mul|mad)\.(?P<part>lo|hi|wide)\.(?P<t>[us](?:16|32|64))")
def product(c: Translation, name: str, part: str, t: str) -> None:
    c.expect(3 if name == "mul" else 4)
    if part == "wide" and bits(t) == 64:
        raise c.error("unknown instruction")
    made = f"(({wide(t)}){c.read(1, t)} * ({wide(t)}){c.read(2, t)})"
    if part == "hi":
        made = f"({made} >> {bits(t)})"
    result = wide(t) if part == "wide" else t
    c.write(0, result, made if name == "mul" else f"({result}){made} + {c.read(3, result)}")


@instruction(r"(?P<name>div|rem)\.(?P<t>[us](?:16|32|64))")
def quotient(c: Translation, name: str, t: str) -> None:
    c.expect(3)
    a, b = c.read(1, t), c.read(2, t)
    c.trap_if(f"{b} == 0 ? DIVISION_BY_ZERO : 0", "0")
    # In 128 bits the least integer divided by -1 wraps instead of ending the process.
    c.write(0, t, f"(({t[0]}128){a} {OPERATOR[name]} {b})")


@instruction(r"(?P<name>neg|abs)\.(?P<t>s(?:16|32|64))")
def integer_sign(c: Translation, name: str, t: str) -> None:
    c.expect(2)
    x = c.read(1, t)
    c.write(0, t, f"-{x}" if name == "neg" else f"{x} < 0 ? -{x} : {x}")


@instruction(r"(?P<name>min|max)\.(?P<t>[us](?:16|32|64))")
def integer_extreme(c: Translation, name: str, t: str) -> None:
    c.expect(3)
    a, b = c.read(1, t), c.read(2, t)
    c.write(0, t, f"{a} {'<' if name == 'min' else '>'} {b} ? {a} : {b}")


@instruction(r"(?P<name>and|or|xor)\.(?P<t>pred|b16|b32|b64)")
def logic(c: Translation, name: str, t: str) -> None:
    c.expect(3)
    c.write(0, t, f"{c.read(1, t)} {OPERATOR[name]} {c.read(2, t)}")


@instruction(r"not\.(?P<t>pred|b16|b32|b64)")
def inverse(c: Translation, t: str) -> None:
    c.expect(2)
    c.write(0, t, f"{'!' if t == 'pred' else '~'}{c.read(1, t)}")


@instruction(r"lop3\.b32")
def three_operand_logic(c: Translation) -> None:
    c.expect(5)
    x = [c.read(k, "b32") for k in (1, 2, 3)]
    table = c.operand(4)
    choice = getattr(table, "value", -1)
    if not 0 <= choice <= 255:
        raise c.error("expected a truth table of 8 bits")
    terms = [
        " & ".join(f"{'' if row & weight else '~'}{a}" for a, weight in zip(x, (4, 2, 1), strict=True))
        for row in range(8)
        if choice >> row & 1
    ]
    c.write(0, "b32", " | ".join(f"({term})" for term in terms) or "0")


@instruction(r"(?P<name>shl|shr)\.(?P<kind>[bus])(?P<n>16|32|64)")
def shift(c: Translation, name: str, kind: str, n: str) -> None:
    c.expect(3)
    if name == "shl" and kind != "b":
        raise c.error("unknown instruction")
    function = f"shl_{n}" if name == "shl" else f"shr_{'s' if kind == 's' else 'u'}{n}"
    c.write(0, f"b{n}", f"{function}({c.read(1, f'b{n}')}, {c.read(2, 'u32')})")


@instruction(r"shf\.(?P<side>l|r)\.(?P<mode>wrap|clamp)\.b32")
def funnel(c: Translation, side: str, mode: str) -> None:
    c.expect(4)
    name = "funnel_left" if side == "l" else "funnel_right"
    by = f"{'wrapped' if mode == 'wrap' else 'clamped'}({c.read(3, 'u32')})"
    c.write(0, "b32", f"{name}({c.read(1, 'b32')}, {c.read(2, 'b32')}, {by})")


@instruction(r"prmt\.b32")
def permutation(c: Translation) -> None:
    c.expect(4)
    c.write(0, "b32", f"prmt({', '.join(c.read(k, 'b32') for k in (1, 2, 3))})")


@instruction(r"bfe\.(?P<t>[us](?P<n>32|64))")
def extraction(c: Translation, t: str, n: str) -> None:
    c.expect(4)
    c.write(0, f"b{n}", f"bfe_{t}({c.read(1, f'b{n}')}, {c.read(2, 'u32')}, {c.read(3, 'u32')})")


@instruction(r"bfi\.b(?P<n>32|64)")
def insertion(c: Translation, n: str) -> None:
    c.expect(5)
    a, b = c.read(1, f"b{n}"), c.read(2, f"b{n}")
    c.write(0, f"b{n}", f"bfi_{n}({a}, {b}, {c.read(3, 'u32')}, {c.read(4, 'u32')})")


@instruction(r"clz\.b(?P<n>32|64)")
def leading_zeros(c: Translation, n: str) -> None:
    c.expect(2)
    x = c.read(1, f"b{n}")
    c.write(0, "u32", f"{x} ? __builtin_clz{'ll' if n == '64' else ''}({x}) : {n}")


# Comparisons and selections ---------------------------------------------------------------------------------


def comparison(c: Translation, name: str, t: str, a: str, b: str) -> str:
    if t[0] != "f":
        if name in UNSIGNED_COMPARISON and t[0] == "u":
            return f"{a} {UNSIGNED_COMPARISON[name]} {b}"
        if name in COMPARISON and (t[0] != "b" or name in ("eq", "ne")):
            return f"{a} {COMPARISON[name]} {b}"
        raise c.error(f"no comparison {name} of {t}")
    if name in OPPOSITE:
        return f"!({comparison(c, OPPOSITE[name], t, a, b)})"
    if name == "num":
        return f"!__builtin_isunordered({a}, {b})"
    if name == "ne":
        return f"__builtin_islessgreater({a}, {b})"
    if name in COMPARISON:
        return f"{a} {COMPARISON[name]} {b}"
    raise c.error(f"no comparison {name} of {t}")


@instruction(
    r"setp\.(?P<name>[a-z]+)(?:\.(?P<join>and|or|xor))?(?P<ftz>\.ftz)?\.(?P<t>[us](?:16|32|64)|b(?:16|32|64)|f32|f64)"
)
def compare(c: Translation, name: str, join: str | None, ftz: str | None, t: str) -> None:
    """p = (a ? b) join d, q = not (a ? b) join d."""
    c.expect(4 if join else 3)
    if ftz and t != "f32":
        raise c.error("unknown instruction")
    p, q = c.pair(0)
    test = comparison(c, name, t, c.read_float(1, t, ftz), c.read_float(2, t, ftz))
    joined = f" {OPERATOR[join]} {c.read(3, 'pred')}" if join else ""
    c.do(f"{{ u8 holds = {test}, fails = !holds; holds = holds{joined}; fails = fails{joined};")
    c.write(p, "pred", "holds")
    c.write(q, "pred", "fails")
    c.do("}")


@instruction(r"selp\.(?P<t>[bus](?:16|32|64)|f32|f64)")
def selection(c: Translation, t: str) -> None:
    c.expect(4)
    c.write(0, t, f"{c.read(3, 'pred')} ? {c.read(1, t)} : {c.read(2, t)}")
