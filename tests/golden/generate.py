#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Writes the golden vectors of bits_version 1: `generate.py > vectors.txt` those of the layer,
`generate.py matmul > matmul_vectors.txt` those of all_reduce_matmul.

An implementation of the arithmetic in docs/design.md with Python's fractions, independent of the library and
of the C++ oracle. Every exact value is a Fraction; every rounding goes through `rounded`. Needs nothing but
Python 3. The output is the same on every machine: the random numbers are our own, too.
"""

import math
import struct
import sys
from fractions import Fraction

NAN = math.nan
INF = math.inf


class Format:
    """A binary interchange format."""

    def __init__(self, name, bits, precision, max_exponent):
        self.name = name
        self.bits = bits
        self.precision = precision
        self.quantum = Fraction(2) ** (2 - max_exponent - precision)  # smallest subnormal
        self.largest = (2 - Fraction(2) ** (1 - precision)) * Fraction(2) ** max_exponent


HALF = Format("float16", 16, 11, 15)
BRAIN = Format("bfloat16", 16, 8, 127)
SINGLE = Format("float32", 32, 24, 127)
DOUBLE = Format("float64", 64, 53, 1023)
FORMATS = [HALF, BRAIN, SINGLE, DOUBLE]


def rounded(value, fmt):
    """A Fraction rounded once to nearest even; as a Python float, which holds every format's values."""
    if value == 0:
        return 0.0
    magnitude = abs(value)
    # 2^exponent <= magnitude < 2^(exponent + 1)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = max(Fraction(2) ** (exponent - fmt.precision + 1), fmt.quantum)
    result = round(magnitude / unit) * unit  # round() of a Fraction is to nearest even
    as_float = INF if result > fmt.largest else float(result)  # float() is exact here
    return math.copysign(as_float, 1 if value > 0 else -1)


def narrowed(value, fmt):
    """A float rounded once to `fmt`, special values kept."""
    if value == 0 or not math.isfinite(value):
        return value
    return rounded(Fraction(value), fmt)


def to_bits(value, fmt):
    if fmt is SINGLE:
        return struct.unpack("<I", struct.pack("<f", value))[0] if value == value else 0x7FC00000
    if fmt is DOUBLE:
        return struct.unpack("<Q", struct.pack("<d", value))[0] if value == value else 0x7FF8 << 48
    if fmt is HALF:
        return struct.unpack("<H", struct.pack("<e", value))[0] if value == value else 0x7E00
    return to_bits(value, SINGLE) >> 16


def from_bits(bits, fmt):
    if fmt is HALF:
        return struct.unpack("<e", struct.pack("<H", bits))[0]
    if fmt is BRAIN:
        bits, fmt = bits << 16, SINGLE
    if fmt is SINGLE:
        return struct.unpack("<f", struct.pack("<I", bits))[0]
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


# IEEE operations in double; Python raises where IEEE 754 has an answer.


def divide(a, b):
    if b != 0:
        return a / b
    if a == 0 or a != a:
        return NAN
    return math.copysign(INF, a) * math.copysign(1, b)


def square_root(a):
    return math.sqrt(a) if a >= 0 else NAN


# IEEE operations in the compute type.


def operate(fmt, a, b, exact, in_double):
    """a ? b in `fmt`: the exact result rounded once, except where double knows better (NaN, Inf, zeros)."""
    if math.isfinite(a) and math.isfinite(b):
        result = exact(Fraction(a), Fraction(b))
        if result != 0:
            return rounded(result, fmt)
    return in_double(a, b)


def add(fmt, a, b):
    return operate(fmt, a, b, lambda p, q: p + q, lambda p, q: p + q)


def subtract(fmt, a, b):
    return operate(fmt, a, b, lambda p, q: p - q, lambda p, q: p - q)


def multiply(fmt, a, b):
    return operate(fmt, a, b, lambda p, q: p * q, lambda p, q: p * q)


def fma(fmt, a, b, c):
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b + c
    if not math.isfinite(c):
        return c
    result = Fraction(a) * Fraction(b) + Fraction(c)
    if result != 0:
        return rounded(result, fmt)
    product_sign = math.copysign(1, a) * math.copysign(1, b)
    return -0.0 if product_sign < 0 and math.copysign(1, c) < 0 else 0.0


class Sum:
    """Exact sum of terms given by their factors."""

    def __init__(self, terms):
        self.exact = Fraction(0)
        self.special = []
        for factors in terms:
            if all(math.isfinite(f) for f in factors):
                self.exact += math.prod((Fraction(f) for f in factors), start=Fraction(1))
            else:
                self.special.append(math.prod(factors))

    def value(self):
        """Rounded to double, or the special value."""
        return sum(self.special) if self.special else rounded(self.exact, DOUBLE)


def centred(a, b, mean):
    """B - mean A"""
    if a.special or b.special or not math.isfinite(mean):
        return b.value() - mean * a.value()
    return rounded(b.exact - Fraction(mean) * a.exact, DOUBLE)


def statistics(xs):
    n = len(xs)
    s1 = Sum((x,) for x in xs)
    s2 = Sum((x, x) for x in xs)
    if s1.special or s2.special:
        return s1.value(), NAN, NAN
    mean = s1.value() / n
    m2 = rounded(n * s2.exact - s1.exact**2, DOUBLE)
    return mean, m2 / n / n, divide(m2 / n, float(n - 1))


def passes(y):
    return y > 0 or y != y


class Case:
    """One call of the layer by a group, forward and backward. x, residual, dy: [rank][channel] lists."""

    def __init__(self, name, fmt, params, channels, shares):
        self.name = name
        self.fmt = fmt
        self.compute = DOUBLE if fmt is DOUBLE else SINGLE
        self.params = params
        self.channels = channels
        self.shares = shares  # (samples, places) of each rank
        self.eps = 1e-5
        self.momentum = 0.1
        self.training = True
        self.relu = False
        self.group_gradients = False
        self.skip_update = False
        self.x = self.residual = self.dy = None
        self.weight = self.bias = None
        self.running_mean = self.running_var = None
        self.tracked = 0

    def run(self):
        everyone = range(self.channels)
        count = sum(n * s for n, s in self.shares)
        self.new_mean, self.new_var = self.running_mean, self.running_var
        self.new_tracked = self.tracked
        if self.training and self.running_mean is not None:
            self.new_mean, self.new_var = list(self.running_mean), list(self.running_var)
            self.new_tracked += 1
        self.mean, self.var, self.invstd = [], [], []
        ranks = range(len(self.shares))
        self.y = [[None] * self.channels for _ in ranks]
        self.dx = [[None] * self.channels for _ in ranks]
        self.d_residual = [[None] * self.channels for _ in ranks]
        self.weight_grad = [[0.0] * self.channels for _ in ranks]
        self.bias_grad = [[0.0] * self.channels for _ in ranks]
        for c in everyone:
            self.run_channel(c, float(count), ranks)

    def run_channel(self, c, n, ranks):
        of_batch = self.training or self.running_mean is None
        if of_batch:
            mean, var, var_unbiased = statistics([v for r in ranks for v in self.x[r][c]])
        else:
            mean, var = self.running_mean[c], self.running_var[c]
        invstd = divide(1.0, square_root(var + self.eps))
        self.mean.append(mean)
        self.var.append(var)
        self.invstd.append(invstd)
        finite = math.isfinite(mean) and math.isfinite(var)
        if self.training and self.running_mean is not None and (finite or not self.skip_update):
            f = self.momentum if self.momentum is not None else 1.0 / self.new_tracked
            g = 1.0 - f
            self.new_mean[c] = narrowed(g * self.running_mean[c] + f * mean, self.params)
            self.new_var[c] = narrowed(g * self.running_var[c] + f * var_unbiased, self.params)

        T = self.compute
        mean_hi = narrowed(mean, T)
        mean_lo = mean - mean_hi
        k64 = (1.0 if self.weight is None else self.weight[c]) * invstd
        k = narrowed(k64, T)
        shift = narrowed((0.0 if self.bias is None else self.bias[c]) - mean_lo * k64, T)
        masked = []
        for r in ranks:
            ys = [fma(T, subtract(T, x, mean_hi), k, shift) for x in self.x[r][c]]
            if self.residual is not None:
                ys = [add(T, y, e) for y, e in zip(ys, self.residual[r][c])]
            if self.relu:
                ys = [y if passes(y) else 0.0 for y in ys]
            ys = [narrowed(y, self.fmt) for y in ys]
            self.y[r][c] = ys
            masked.append([dy if not self.relu or passes(y) else 0.0 for dy, y in zip(self.dy[r][c], ys)])
            self.d_residual[r][c] = masked[r]

        def sums(of):
            pairs = [(dy, x) for r in of for dy, x in zip(masked[r], self.x[r][c])]
            return Sum((dy,) for dy, _ in pairs), Sum(pairs)

        A, B = sums(ranks)
        a, d = A.value(), centred(A, B, mean)
        c2_64 = -(k64 * (invstd * invstd)) * (d / n)
        c1_64 = -(k64 * (a / n)) - c2_64 * mean_lo
        c2, c1 = narrowed(c2_64, T), narrowed(c1_64, T)
        for r in ranks:
            if of_batch:
                self.dx[r][c] = [
                    narrowed(fma(T, k, dy, fma(T, c2, subtract(T, x, mean_hi), c1)), self.fmt)
                    for dy, x in zip(masked[r], self.x[r][c])
                ]
            else:
                self.dx[r][c] = [narrowed(multiply(T, k, dy), self.fmt) for dy in masked[r]]
            if not self.group_gradients and not masked[r]:
                continue
            Ar, Br = (A, B) if self.group_gradients else sums([r])
            self.bias_grad[r][c] = narrowed(Ar.value(), self.params)
            self.weight_grad[r][c] = narrowed(centred(Ar, Br, mean) * invstd, self.params)

    def write(self, out):
        def tensors(ranks):  # (N, C, S) in C order
            lines = []
            for (n, s), channels in zip(self.shares, ranks):
                flat = [channels[c][i * s + j] for i in range(n) for c in range(self.channels) for j in range(s)]
                lines.append(hexed(flat, self.fmt))
            return " ".join(lines)

        def put(key, text):
            out.write(f"{key} {text}\n")

        put("case", self.name)
        put("input", self.fmt.name)
        put("parameters", self.params.name)
        put("eps", hexed([self.eps], DOUBLE))
        put("momentum", "none" if self.momentum is None else hexed([self.momentum], DOUBLE))
        put("mode", "train" if self.training else "evaluate")
        put("relu", int(self.relu))
        put("group_gradients", int(self.group_gradients))
        put("skip_update", int(self.skip_update))
        put("channels", self.channels)
        put("shares", " ".join(f"{n} {s}" for n, s in self.shares))
        put("x", tensors(self.x))
        put("dy", tensors(self.dy))
        if self.residual is not None:
            put("residual", tensors(self.residual))
        if self.weight is not None:
            put("weight", hexed(self.weight, self.params))
            put("bias", hexed(self.bias, self.params))
        if self.running_mean is not None:
            put("running_mean", hexed(self.running_mean, self.params))
            put("running_var", hexed(self.running_var, self.params))
            put("tracked", self.tracked)
        for key, values in (("mean", self.mean), ("var", self.var), ("invstd", self.invstd)):
            put("=" + key, hexed(values, DOUBLE))
        for key, ranks in (("y", self.y), ("dx", self.dx), ("d_residual", self.d_residual)):
            put("=" + key, tensors(ranks))
        if self.weight is not None:
            for key, ranks in (("weight_grad", self.weight_grad), ("bias_grad", self.bias_grad)):
                put("=" + key, " ".join(hexed(channels, self.params) for channels in ranks))
        if self.running_mean is not None:
            put("=running_mean", hexed(self.new_mean, self.params))
            put("=running_var", hexed(self.new_var, self.params))
            put("=tracked", self.new_tracked)
        put("end", "")


# ---- the cases ----


class Random:
    """SplitMix64."""

    def __init__(self, seed):
        self.state = seed

    def bits(self, count):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return (z ^ (z >> 31)) >> (64 - count)

    def below(self, limit):
        return self.bits(32) % limit

    def bell(self):
        """Roughly normal, variance 1, a Fraction."""
        return (sum(Fraction(self.bits(30), 1 << 30) for _ in range(12)) - 6)


def ordinary(rng, fmt, count):
    return [rounded(rng.bell(), fmt) for _ in range(count)]


def offset(rng, fmt, count):
    """Large mean, tiny variance."""
    base = Fraction(10000)
    step = base * Fraction(2) ** (3 - fmt.precision)
    return [rounded(base + rng.bell() * step, fmt) for _ in range(count)]


def wide(rng, fmt, count):
    """Magnitudes over 60 binades, as far as the format has them."""
    return [rounded(rng.bell() * Fraction(2) ** (rng.below(60) - 30), fmt) for _ in range(count)]


def tiny(rng, fmt, count):
    """Subnormals and zeros of both signs."""
    return [math.copysign(float(rng.below(9) * fmt.quantum), rng.bits(1) - 0.5) for _ in range(count)]


def huge(rng, fmt, count):
    """Near the largest value: sums and products overflow."""
    return [rounded((Fraction(1, 2) + Fraction(rng.bits(8), 512)) * fmt.largest * (1 - 2 * rng.bits(1)), fmt)
            for _ in range(count)]


def cancelling(rng, fmt, count):
    """Each value and its negative: the sum is zero."""
    half = [rounded(rng.bell() * Fraction(2) ** (rng.below(24) - 12), fmt) for _ in range(count // 2)]
    return [v for pair in zip(half, (-v for v in half)) for v in pair] + [0.0] * (count % 2)


def constant(rng, fmt, count):
    return [rounded(rng.bell(), fmt)] * count


def patterns(rng, fmt, count):
    """Any bits but NaN's and infinity's, so that everything stays comparable."""
    values = []
    while len(values) < count:
        value = from_bits(rng.bits(fmt.bits), fmt)
        if math.isfinite(value):
            values.append(value)
    return values


def sprinkled(rng, fmt, count):
    """Ordinary, but now and then NaN or an infinity."""
    odd = [NAN, INF, -INF]
    return [odd[rng.below(3)] if rng.below(8) == 0 else v for v in ordinary(rng, fmt, count)]


KINDS = [ordinary, offset, wide, tiny, huge, cancelling, constant, patterns, sprinkled]


def make_case(name, rng, fmt, params, kind, dy_kind):
    channels = 1 + rng.below(3)
    spatial = [1, 2, 3][rng.below(3)]
    shares = [(rng.below(4), spatial) for _ in range(1 + rng.below(3))]
    shares[rng.below(len(shares))] = (2 + rng.below(2), spatial)
    case = Case(name, fmt, params, channels, shares)

    def batch(draw):
        ranks = [[None] * channels for _ in shares]
        for c in range(channels):  # drawn over the whole batch, so that a kind holds for the channel
            values = draw(rng, fmt, sum(n * s for n, s in shares))
            for r, (n, s) in enumerate(shares):
                ranks[r][c], values = values[: n * s], values[n * s :]
        return ranks

    case.x, case.dy = batch(kind), batch(dy_kind)
    if rng.bits(1):
        case.residual = batch(ordinary)
    case.relu = bool(rng.bits(1))
    case.group_gradients = bool(rng.bits(1))
    case.skip_update = rng.below(4) == 0
    case.eps = [1e-5, 1e-3, 0.0, 1.0][rng.below(4)]
    case.momentum = [0.1, 0.3, None, 1.0, 0.0][rng.below(5)]
    if rng.below(4):
        case.weight = ordinary(rng, params, channels)
        case.bias = ordinary(rng, params, channels)
    if rng.below(4):
        case.running_mean = ordinary(rng, params, channels)
        case.running_var = [abs(v) for v in ordinary(rng, params, channels)]
        case.tracked = rng.below(5)
    return case


def cases():
    rng = Random(20240607)
    for fmt in FORMATS:
        for params in FORMATS:
            for kind in (ordinary, KINDS[1 + rng.below(len(KINDS) - 1)]):
                name = f"{fmt.name}/{params.name}/{kind.__name__}"
                yield make_case(name, rng, fmt, params, kind, ordinary)
    for fmt in FORMATS:
        for kind in KINDS:
            for dy_kind in (ordinary, KINDS[rng.below(len(KINDS))]):
                params = FORMATS[rng.below(4)]
                name = f"{fmt.name}/{params.name}/{kind.__name__}/dy-{dy_kind.__name__}"
                yield make_case(name, rng, fmt, params, kind, dy_kind)
    # Where sum dy' is zero c1 is all c2_64 * mean_lo: it shows that the unrounded c2 goes in.
    for _ in range(4):
        case = make_case("float32/level", rng, SINGLE, SINGLE, offset, cancelling)
        case.relu = False
        yield case
    for fmt in FORMATS:
        for running_mean in ([1e300, 1e-310, -3.5], None):
            case = make_case(f"{fmt.name}/evaluate", rng, fmt, DOUBLE, ordinary, ordinary)
            case.training = False
            case.shares = [max(case.shares)]
            case.channels = 3
            size = case.shares[0][0] * case.shares[0][1]
            case.x, case.dy = ([[ordinary(rng, fmt, size) for _ in range(3)]] for _ in range(2))
            case.residual = None
            case.weight, case.bias = ordinary(rng, DOUBLE, 3), ordinary(rng, DOUBLE, 3)
            case.running_mean, case.running_var = running_mean, running_mean and [1.5, 0.0, 1e-300]
            case.group_gradients = False
            yield case


def hexed(values, fmt):
    return "".join(f"{to_bits(v, fmt):0{fmt.bits // 4}x}" for v in values) or "-"


def write_matmul(out):
    """c = transposed a times b over the rows of all ranks: every sum exact and rounded once."""
    rng = Random(20261130)
    for fmt in (SINGLE, DOUBLE):
        for a_kind in KINDS:
            for b_kind in (ordinary, KINDS[rng.below(len(KINDS))]):
                rows = [rng.below(4) for _ in range(1 + rng.below(3))]
                a, b = ([kind(rng, fmt, sum(rows)) for _ in range(1 + rng.below(3))] for kind in (a_kind, b_kind))
                sums = [Sum(zip(left, right)) for left in a for right in b]
                out.write(f"case {fmt.name}/{a_kind.__name__}/{b_kind.__name__}\ntype {fmt.name}\n")
                out.write(f"columns {len(a)} {len(b)}\nrows {' '.join(map(str, rows))}\n")
                for name, columns in (("a", a), ("b", b)):
                    ends = [sum(rows[: r + 1]) for r in range(len(rows))]
                    flat = [[column[n] for n in range(end - count, end) for column in columns]
                            for count, end in zip(rows, ends)]
                    out.write(f"{name} {' '.join(hexed(values, fmt) for values in flat)}\n")
                c = [sum(s.special) if s.special else rounded(s.exact, fmt) for s in sums]
                out.write(f"=c {hexed(c, fmt)}\nend \n")


def main():
    sys.stdout.write("# Golden vectors of syncbn, bits_version 1. Written by generate.py; do not edit.\n")
    if sys.argv[1:] == ["matmul"]:
        return write_matmul(sys.stdout)
    for number, case in enumerate(cases()):
        case.name = f"{number} {case.name}"
        case.run()
        case.write(sys.stdout)


if __name__ == "__main__":
    main()
