# SPDX-License-Identifier: Apache-2.0

"""The floors: what the project asks of its own speed, each beside what was measured. benchmarks/floors.md has the tables."""

from results import DIRECTIONS, ENGINES, FIRST, LARGE, LAST, OPERATOR, SMALL, find, geometric_mean, ratios


class Table:
    """Rows of what was measured, what was asked, and whether it was reached."""

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


def table(results, isa):
    """The floors for one instruction set."""
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
            where = {"direction": direction, "layout": layout}
            t.add(f"{dtype}, {direction}, {layout} ÷ float32", ratios(t.find("dtypes", **where), f"{dtype}/float32"),
                  None, worst_floor=0.65 if wide else 0.85, most=True)
            t.add(f"{dtype}, {direction}, {layout}: nn.BatchNorm ÷ syncbn.torch",
                  ratios(t.find("nn", dtype=dtype, **where), "nn/syncbn"), 1.3, worst_floor=1)
    for direction, layout in DIRECTIONS:
        t.add(f"float64, {direction}, {layout}: syncbn.torch ÷ nn.BatchNorm",
              ratios(t.find("nn", dtype="float64", direction=direction, layout=layout), "syncbn/nn"), None,
              worst_floor=2.5, most=True)
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
