"""The tables that a person reads: each floor of the project beside what was measured, and what else was measured.

usage: report.py [performance.json]

Prints them; those of docs/performance.json go into docs/performance.md, too.
"""

import json
import math
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
import pages  # noqa: E402

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
LARGE = ("(32,64,112,112)", "(32,256,56,56)", "(32,512,28,28)", "(32,1024,14,14)")
SMALL = ("(32,2048,7,7)", "(4,64,56,56)", "(4,512,7,7)", "(256,1024)", "(2,2,2,2)")
FIRST, LAST = "channels-first", "channels-last"


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def find(results, suite, **wanted):
    return [line for line in results["results"]
            if line["suite"] == suite and all(line.get(key) == value for key, value in wanted.items())]


def isas(results):
    """Those measured, the machine's best first."""
    return list(dict.fromkeys(line["isa"] for line in results["results"]))


class Table:
    def __init__(self, results, isa):
        self.results = results
        self.isa = isa
        self.rows = []

    def find(self, suite, **wanted):
        return find(self.results, suite, isa=self.isa, **wanted)

    def add(self, what, values, floor, *, worst_floor=None, most=False, unit="×"):
        """One row of values by shape: their geometric mean against `floor`, the worst against `worst_floor`."""
        if not values:
            return
        mean = geometric_mean(values.values())
        worst = (max if most else min)(values, key=values.get)
        better = (lambda a, b: a <= b) if most else (lambda a, b: a >= b)
        good = (floor is None or better(mean, floor)) and (worst_floor is None or better(values[worst], worst_floor))
        sign = "≤" if most else "≥"
        asked = [f"{sign} {floor:g}"] if floor is not None else []
        if worst_floor is not None:
            asked.append(f"each {sign} {worst_floor:g}")
        reached = ("yes" if good else "NO") if asked else ""
        self.rows.append((what, f"{mean:.2f}{unit}", f"{values[worst]:.2f} at {worst}", ", ".join(asked), reached))

    def text(self):
        head = ("what", "measured", "worst", "floor", "reached")
        rows = [head, *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(lines)


def ratios(lines, ratio, shapes=None):
    return {line["shape"]: line["ratio"][ratio] for line in lines
            if ratio in line["ratio"] and (shapes is None or line["shape"] in shapes)}


DIRECTIONS = [("forward", FIRST), ("forward", LAST), ("backward", FIRST), ("backward", LAST)]
OPERATOR = {"forward": "torch_out", "backward": "torch"}  # the form without an allocation, where there is one


def floors(results, isa):
    """The project's floors for one instruction set."""
    t = Table(results, isa)
    wide = isa == "avx512"

    speed = {  # (torch, oneDNN, each)
        ("forward", FIRST): (4.5, 4.5, 2.5),
        ("forward", LAST): (3.5, 1.35 if wide else 1.1, 1),
        ("backward", FIRST): (2.5, 2.5, None),
        ("backward", LAST): (2, 1.15, None),
    }
    for (direction, layout), (torch, onednn, each) in speed.items():
        where = {"direction": direction, "layout": layout, "dtype": "float32"}
        t.add(f"{direction}, {layout}: nn.BatchNorm ÷ syncbn.torch",
              ratios(t.find("nn", compiled=False, **where), "nn/syncbn", LARGE), torch, worst_floor=each)
        operator = t.find("torch", **where)
        t.add(f"{direction}, {layout}: PyTorch's operator ÷ syncbn",
              ratios(operator, f"{OPERATOR[direction]}/syncbn", LARGE), None)
        t.add(f"{direction}, {layout}: PyTorch's operator ÷ copy", ratios(operator, f"{OPERATOR[direction]}/copy", LARGE),
              None)
        peers = t.find("peers", **where)
        t.add(f"{direction}, {layout}: oneDNN ÷ syncbn", ratios(peers, "onednn/syncbn", LARGE), onednn, worst_floor=each)
        t.add(f"{direction}, {layout}: double loops ÷ syncbn", ratios(peers, "loops/syncbn", LARGE), None)
    for direction, layout in DIRECTIONS:
        where = {"direction": direction, "layout": layout, "dtype": "float32"}
        # Small calls in C++, since Python's part of them has its own floor.
        small = ("(2,2,2,2)", "(4,512,7,7)")
        values = ratios(t.find("nn", compiled=False, **where), "nn/syncbn", set(SMALL) - set(small))
        values |= ratios(t.find("torch", **where), f"{OPERATOR[direction]}/syncbn", small)
        t.add(f"{direction}, {layout}, shapes B: PyTorch ÷ syncbn", values, None, worst_floor=1)
        t.add(f"{direction}, {layout}, shapes B: syncbn ÷ oneDNN", ratios(t.find("peers", **where), "syncbn/onednn", SMALL),
              None, worst_floor=1.3, most=True)

    copies = {("forward", FIRST): (0.6, 0.45), ("backward", FIRST): (0.55, 0.4),
              ("forward", LAST): (0.45, 0.35), ("backward", LAST): (0.4, 0.3)}
    for (direction, layout), (with_avx512, with_avx2) in copies.items():
        t.add(f"{direction}, {layout}: copy ÷ syncbn",
              ratios(t.find("peers", direction=direction, layout=layout), "copy/syncbn", LARGE), None,
              worst_floor=with_avx512 if wide else with_avx2)
    for layout in (FIRST, LAST):
        t.add(f"evaluation, {layout}: copy ÷ syncbn",
              ratios(t.find("evaluation", layout=layout), "copy/syncbn", LARGE), None, worst_floor=0.9)

    # Tensors that a fused form moves beyond the plain one's, at the copy's speed (two tensors a copy).
    further = {("relu", "forward"): 0, ("residual_relu", "forward"): 1,
               ("relu", "backward"): 1, ("residual_relu", "backward"): 2}
    for (form, direction), tensors in further.items():
        for layout in (FIRST, LAST):
            values = {}
            for line in t.find("fused", direction=direction, layout=layout):
                extra = tensors / 2 * line["median"]["copy"]
                values[line["shape"]] = (line["median"][form] - extra) / line["median"]["plain"]
            less = {0: "", 1: " less one tensor's traffic", 2: " less two tensors' traffic"}[tensors]
            t.add(f"{form.replace('_', ' + ')}, {direction}, {layout}{less} ÷ plain", values, None, worst_floor=1.1,
                  most=True)
    for dtype in ("float16", "bfloat16"):
        for direction, layout in DIRECTIONS:
            t.add(f"{dtype}, {direction}, {layout} ÷ float32",
                  ratios(t.find("dtypes", direction=direction, layout=layout), f"{dtype}/float32"), None,
                  worst_floor=0.65 if wide else 0.85, most=True)
    for direction, layout in DIRECTIONS:
        t.add(f"float64, {direction}, {layout}: syncbn.torch ÷ nn.BatchNorm",
              ratios(t.find("nn", dtype="float64", direction=direction, layout=layout), "syncbn/nn"), None,
              worst_floor=6, most=True)
    for data in ("lognormal", "cauchy", "spread"):
        for direction, layout in DIRECTIONS:
            t.add(f"{data} data, {direction}, {layout} ÷ normal",
                  ratios(t.find("tails", direction=direction, layout=layout), f"{data}/normal"), None, worst_floor=4,
                  most=True)
    for engine in ENGINES:
        for direction, layout in DIRECTIONS:
            t.add(f"2 ranks, {engine}, {direction}, {layout} ÷ 1 rank",
                  ratios(t.find("ranks", engine=engine, direction=direction, layout=layout), "together/alone"), None,
                  worst_floor=None if engine == "gloo" else 1.3, most=True)
    for direction in ("forward", "backward"):
        t.add(f"call at (2,2,2,2), {direction}, µs",
              {line["shape"]: 1e6 * line["median"]["syncbn"]
               for line in t.find("peers", shape="(2,2,2,2)", layout=FIRST, direction=direction)},
              None, worst_floor=2, most=True, unit="")
    for line in t.find("finish"):
        (name, seconds), = line["median"].items()
        t.add("finish, ns a channel", {name: 1e9 * seconds / int(name.split()[0])}, None, worst_floor=60, most=True, unit="")
    return t.text()


ENGINES = ("threads", "mpi", "gloo")
DIMS = ["direction", "layout", "shape"]


def number(value, scale=1):
    """Three digits, or all before the point."""
    value *= scale
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def dims(line):
    return tuple(map(int, line["shape"].strip("()").split(",")))


def machine(results):
    about = results["machine"]
    # What a program of ours was linked with: every line of a suite says the same.
    peers = {line["peer"] for line in results["results"] if "peer" in line}
    return f"{about['processor']}, {' and '.join(isas(results))}, {about['date']}; {', '.join(sorted(peers))}"


def times(results):
    """Milliseconds of every contender."""
    columns = {"syncbn": "syncbn", "onednn": "oneDNN", "torch": "PyTorch's operator", "loops": "double loops", "copy": "copy"}
    rows = []
    for direction, layout in DIRECTIONS:
        where = {"direction": direction, "layout": layout, "dtype": "float32", "isa": isas(results)[0]}
        torch = {line["shape"]: line["median"][OPERATOR[direction]] for line in find(results, "torch", **where)}
        for line in find(results, "peers", **where):
            of = {**line["median"], "torch": torch.get(line["shape"])}
            rows.append([*(line[key] for key in DIMS), *("" if of[name] is None else number(of[name], 1e3) for name in columns)])
    return pages.table([*DIMS, *columns.values()], rows, left=3)


def layers(results):
    """syncbn.torch against torch.nn in Python."""
    rows = []
    for line in find(results, "nn", isa=isas(results)[0]):
        spread = {name: (high - low) / 2 / line["median"][name] for name, (low, high) in line["quartiles"].items()}
        what = f"{line['shape']}, {line['layout']}, {line['dtype']}" + (", compiled" if line["compiled"] else "")
        rows.append([what, line["direction"], *(f"{number(line['median'][name], 1e6)} ±{spread[name]:.0%}"
                                                for name in ("syncbn", "nn")), number(line["ratio"]["nn/syncbn"])])
    return pages.table(["", "", "syncbn.torch, µs", "torch.nn, µs", "torch.nn ÷ syncbn.torch"], rows, left=2)


def losses(results):
    """Where somebody else is faster."""
    names = {"onednn": "oneDNN", "torch": "PyTorch's operator", "torch_out": "PyTorch's operator", "loops": "double loops",
             "nn": "torch.nn"}
    rows = []
    for isa in isas(results):
        for direction, layout in DIRECTIONS:
            found = {}
            for suite in ("peers", "torch", "nn"):
                for line in find(results, suite, isa=isa, direction=direction, layout=layout, dtype="float32"):
                    for name, who in names.items():
                        ratio = line["ratio"].get(f"syncbn/{name}", 0)
                        if ratio > 1 and not (name == "torch" and direction == "forward") and not line.get("compiled"):
                            found.setdefault(who, []).append(f"{line['shape']} {ratio:.2f}")
            rows += [[isa, direction, layout, who, "; ".join(shapes)] for who, shapes in found.items()]
    return pages.table(["", "direction", "layout", "faster", "at, syncbn's time over its"], rows, left=5)


def by_ranks(results, suite, cell):
    """A row for each engine and number of ranks, a column for each number of channels."""
    lines = [line for line in find(results, suite) if line["direction"] == "forward"]
    channels = sorted({dims(line)[1] for line in lines})
    rows = []
    for engine in ENGINES:
        for ranks in sorted({line["ranks"] for line in lines}):
            of = {dims(line)[1]: cell(line) for line in lines if (line["engine"], line["ranks"]) == (engine, ranks)}
            if of:
                rows.append([engine, ranks, *(of.get(c, "") for c in channels)])
    return pages.table(["engine", "ranks", *(f"C = {c}" for c in channels)], rows)


def messages(results):
    return by_ranks(results, "message",
                    lambda line: f"{number(line['median']['together'], 1e6)} ({number(line['median']['alone'], 1e6)})")


def sums(results):
    return by_ranks(results, "sum", lambda line: " / ".join(number(line["median"][f"{words} words a channel"], 1e6)
                                                            for words in (23, 8)))


def joint(results):
    columns = ("separate", "joint", "blocking", "overlapped", "work")
    rows = [[line["engine"], line["ranks"], dims(line)[1], *(number(line["median"][name], 1e6) for name in columns)]
            for engine in ENGINES for line in find(results, "joint", engine=engine)]
    return pages.table(["engine", "ranks", "C", "8 messages", "1 message", "sum, then work", "work within", "work alone"], rows)


def growth(results):
    """Milliseconds as N grows and as C does."""
    halves = []
    for axis, size, name in ((0, 28, "N of (N, 256, 28, 28)"), (1, 14, "C of (16384 / C, C, 14, 14)")):
        points = {}
        for direction, layout in DIRECTIONS:
            for line in find(results, "growth", direction=direction, layout=layout, isa=isas(results)[0]):
                if dims(line)[2] == size:
                    points.setdefault(dims(line)[axis], {})[direction, layout] = number(line["median"]["syncbn"], 1e3)
        rows = [[value, *(of.get(key, "") for key in DIRECTIONS)] for value, of in sorted(points.items())]
        halves.append(pages.table([name, *(", ".join(key) for key in DIRECTIONS)], rows))
    return "\n\n".join(halves)


def tables(results):
    """By the name of their place in docs/performance.md; those of which something was measured."""
    made = {"machine": machine(results), **{f"floors {isa}": floors(results, isa) for isa in isas(results)}}
    suites = {line["suite"] for line in results["results"]}
    parts = {"times": ("peers", times), "layers": ("nn", layers), "losses": ("peers", losses),
             "messages": ("message", messages), "sums": ("sum", sums), "joint": ("joint", joint),
             "growth": ("growth", growth)}
    return made | {name: make(results) for name, (suite, make) in parts.items() if suite in suites}


def text(results):
    return "\n\n".join(f"{name}:\n{made}" for name, made in tables(results).items())


def fill(results):
    made = tables(results)
    for isa in ("avx512", "avx2"):
        made.setdefault(f"floors {isa}", "Not measured on this machine.")
    pages.fill(DOCS / "performance.md", made)


def main():
    file = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "performance.json"
    results = json.loads(file.read_text())
    print(text(results))
    if file == DOCS / "performance.json":
        fill(results)


if __name__ == "__main__":
    main()
