"""Conversions, moves, memory and control, as C."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cuda_on_cpu.ptx import Vector, bits
from cuda_on_cpu.table import instruction

if TYPE_CHECKING:
    from cuda_on_cpu.translate import Translation

CACHE = r"\.(?:ca|cg|cs|lu|cv|wb|wt|nc|L1::\w+|L2::\w+)"
# Conversions ------------------------------------------------------------------------------------------------

TO_INTEGER = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}


@instruction(r"cvt\.(?P<d>[us](?:8|16|32|64))\.(?P<s>[us](?:8|16|32|64))")
def integer_conversion(c: Translation, d: str, s: str) -> None:
    c.expect(2)
    c.write(0, d, c.read(1, s, loose=True), loose=True)


@instruction(r"cvt\.rn\.(?P<d>f32|f64)\.(?P<s>[us](?:8|16|32|64))")
def float_of_integer(c: Translation, d: str, s: str) -> None:
    c.expect(2)
    c.write(0, d, f"({d}){c.read(1, s, loose=True)}")


@instruction(r"cvt\.(?P<mode>rni|rzi|rmi|rpi)(?P<ftz>\.ftz)?\.(?P<d>[us](?P<n>32|64))\.(?P<s>f32|f64)")
def integer_of_float(c: Translation, mode: str, ftz: str | None, d: str, n: str, s: str) -> None:
    """Saturated; a NaN gives zero, or the top bit where 64 bits are on either side."""
    c.expect(2)
    nan = f"(u{n})1 << {int(n) - 1}" if n == "64" or s == "f64" else "0"
    c.write(0, f"u{n}", f"to_{d}({TO_INTEGER[mode]}({c.read_float(1, s, ftz)}), {nan})")


@instruction(r"cvt\.(?P<mode>rni|rzi|rmi|rpi)(?P<ftz>\.ftz)?\.(?P<t>f32|f64)\.(?P=t)")
def whole_float(c: Translation, mode: str, ftz: str | None, t: str) -> None:
    c.expect(2)
    c.write_float(0, t, f"{TO_INTEGER[mode]}{'f' if t == 'f32' else ''}({c.read_float(1, t, ftz)})", ftz)


@instruction(r"cvt(?P<ftz>\.ftz)?\.sat\.f32\.f32")
def saturation(c: Translation, ftz: str | None) -> None:
    """Into [0, 1]; a NaN becomes 0."""
    c.expect(2)
    c.write_float(0, "f32", f"saturated({c.read_float(1, 'f32', ftz)})", ftz)


@instruction(r"cvt(?P<ftz>\.ftz)?\.f64\.f32")
def widening(c: Translation, ftz: str | None) -> None:
    c.expect(2)
    c.write(0, "f64", f"(f64){c.read_float(1, 'f32', ftz)}")


@instruction(r"cvt\.rn(?P<ftz>\.ftz)?\.f32\.f64")
def narrowing(c: Translation, ftz: str | None) -> None:
    c.expect(2)
    c.write_float(0, "f32", f"(f32){c.read(1, 'f64')}", ftz)


@instruction(r"cvt\.rn(?P<ftz>\.ftz)?\.(?P<d>f16|bf16)\.f32")
def half_of_float(c: Translation, ftz: str | None, d: str) -> None:
    c.expect(2)
    c.write(0, "b16", f"{d}_of_f32({c.read_float(1, 'f32', ftz)})")


@instruction(r"cvt\.rn\.(?P<d>f16|bf16)x2\.f32")
def halves_of_floats(c: Translation, d: str) -> None:
    """The first source goes to the upper half."""
    c.expect(3)
    high, low = (f"(u32){d}_of_f32({c.read_float(k, 'f32', None)})" for k in (1, 2))
    c.write(0, "b32", f"{high} << 16 | {low}")


@instruction(r"cvt\.rn\.satfinite\.(?P<d>e4m3|e5m2)x2\.f32")
def bytes_of_floats(c: Translation, d: str) -> None:
    """The first source goes to the upper byte; what lies beyond the largest value becomes it."""
    c.expect(3)
    high, low = (f"(u32){d}_of_f32({c.read_float(k, 'f32', None)})" for k in (1, 2))
    c.write(0, "b16", f"{high} << 8 | {low}")


@instruction(r"cvt(?P<ftz>\.ftz)?\.f32\.(?P<s>f16|bf16)")
def float_of_half(c: Translation, ftz: str | None, s: str) -> None:
    c.expect(2)
    c.write_float(0, "f32", f"f32_of_{s}({c.read(1, 'b16')})", ftz)


# Moves, memory and control ----------------------------------------------------------------------------------


@instruction(r"mov\.(?P<t>pred|[bus](?:16|32|64)|f32|f64)")
def move(c: Translation, t: str) -> None:
    """A copy of bits; a vector on either side packs or unpacks, its first element being the lowest."""
    c.expect(2)
    for k in (0, 1):
        x = c.operand(k)
        if isinstance(x, Vector):
            count = len(x.parts)
            if t not in ("b32", "b64") or count not in (2, 4):
                raise c.error("unknown instruction")
            n = bits(t) // count
            if k == 0:
                for place, part in enumerate(x.parts):
                    c.write(part, f"b{n}", f"{c.read(1, t)} >> {place * n}")
            else:
                parts = (f"(u64){c.read(part, f'b{n}')} << {place * n}" for place, part in enumerate(x.parts))
                c.write(0, t, " | ".join(parts))
            return
    c.write(0, t, c.read(1, t))


@instruction(r"cvta\.to\.global\.u64")
def to_global(c: Translation) -> None:
    """Global memory is at its generic address."""
    c.expect(2)
    c.write(0, "u64", c.read(1, "u64"))


@instruction(r"ld\.param(?:\.v(?P<count>2|4))?\.(?P<t>[bus](?:8|16|32|64)|f32|f64)")
def load_param(c: Translation, count: str | None, t: str) -> None:
    c.expect(2)
    load(c, "refused_param(launch, {}, {})", "launch->params + address", int(count or 1), t)


@instruction(rf"ld\.global(?:{CACHE})*(?:\.v(?P<count>2|4))?\.(?P<t>[bus](?:8|16|32|64)|f32|f64)")
def load_global(c: Translation, count: str | None, t: str) -> None:
    c.expect(2)
    load(c, "refused(launch, {}, {})", "(const u8 *)address", int(count or 1), t)


def load(c: Translation, refused: str, source: str, count: int, t: str) -> None:
    size = bits(t) // 8
    parts = c.vector(0, count)
    plain = t if t[0] == "s" else f"u{8 * size}"
    c.do(f"{{ u64 address = {c.address(1)};")
    c.trap_if(refused.format("address", size * count), "address")
    c.do(f"{plain} loaded[{count}]; memcpy(loaded, {source}, sizeof loaded);")
    for k, part in enumerate(parts):
        c.write(part, plain, f"loaded[{k}]", loose=t[0] != "f")
    c.do("}")


@instruction(rf"st\.global(?:{CACHE})*(?:\.v(?P<count>2|4))?\.(?P<t>[bus](?:8|16|32|64)|f32|f64)")
def store_global(c: Translation, count: str | None, t: str) -> None:
    c.expect(2)
    size, places = bits(t) // 8, int(count or 1)
    values = [c.read(part, f"b{8 * size}", loose=t[0] != "f") for part in c.vector(1, places)]
    c.do(f"{{ u64 address = {c.address(0)};")
    c.trap_if(f"refused(launch, address, {size * places})", "address")
    c.do(f"u{8 * size} stored[] = {{{', '.join(values)}}}; memcpy((u8 *)address, stored, sizeof stored); }}")


@instruction(r"atom\.global\.add\.(?P<t>u64)")
def atomic_sum(c: Translation, t: str) -> None:
    """Host threads may share a launch's blocks."""
    c.expect(3)
    c.do(f"{{ u64 address = {c.address(1)};")
    c.trap_if(f"refused(launch, address, {bits(t) // 8})", "address")
    c.write(0, t, f"__atomic_fetch_add(({t} *)address, {c.read(2, t)}, __ATOMIC_RELAXED)")
    c.do("}")


@instruction(r"bra(?:\.uni)?")
def branch(c: Translation) -> None:
    c.expect(1)
    c.go_to(0)


@instruction(r"(?:ret(?:\.uni)?|exit)")
def end(c: Translation) -> None:
    c.expect(0)
    c.do("return 0;")
