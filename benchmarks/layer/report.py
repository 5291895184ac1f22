# SPDX-License-Identifier: Apache-2.0

"""The tables that a person reads: a summary for a reader who chooses a library, every time, and the floors.

usage: report.py [performance.json]

Prints them; those of docs/performance.json go into docs/performance.md and benchmarks/floors.md, too.
"""

import json
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
import floors  # noqa: E402
import pages  # noqa: E402
from pages import number  # noqa: E402
from results import DIRECTIONS, ENGINES, LARGE, OPERATOR, SMALL, dims, find, geometric_mean, isas, ratios  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FLOORS = ROOT / "benchmarks" / "floors.md"
DIMS = ["direction", "layout", "shape"]


def machine(results):
    about = results["machine"]
    # Versions of the libraries that a benchmark was linked with: equal in every line of a suite.
    peers = {line["peer"] for line in results["results"] if "peer" in line}
    return f"{about['processor']}, {' and '.join(isas(results))}, {about['date']}; {', '.join(sorted(peers))}"


def summary(results):
    """How many times syncbn's time others take: over 1 syncbn is faster. Geometric means, the extremes in parentheses."""
    def cell(values):
        values = list(values.values())
        if not values:
            return ""
        if len(values) == 1:
            return f"{values[0]:.2f}"
        return f"{geometric_mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    def row(what, of):
        cells = [cell(of(direction, layout)) for direction, layout in DIRECTIONS]
        return [[what, *cells]] if any(cells) else []

    rows = []
    for isa in isas(results):
        def peers(suite, ratio, shapes, dtype="float32"):
            return lambda direction, layout: ratios(
                [line for line in find(results, suite, isa=isa, direction=direction, layout=layout, dtype=dtype)
                 if not line.get("compiled")], ratio(direction) if callable(ratio) else ratio, shapes)

        name = {"avx512": "AVX-512", "avx2": "AVX2"}.get(isa, isa)
        for shapes, which in ((LARGE, "large"), (SMALL, "small or odd")):
            rows += row(f"oneDNN, {which}, {name}", peers("peers", "onednn/syncbn", shapes))
            rows += row(f"`torch.nn.BatchNorm` against `syncbn.torch`, {which}, {name}", peers("nn", "nn/syncbn", shapes))
            rows += row(f"PyTorch's operator, from C++, {which}, {name}",
                        peers("torch", lambda direction: f"{OPERATOR[direction]}/syncbn", shapes))
        for dtype in ("bfloat16", "float16", "float64"):
            rows += row(f"`torch.nn.BatchNorm` against `syncbn.torch`, {dtype}, {name}", peers("nn", "nn/syncbn", None, dtype))
        rows += row(f"a copy of the bytes that must move, large, {name}", peers("peers", "copy/syncbn", LARGE))
    return pages.table(["compared with", *(", ".join(key) for key in DIRECTIONS)], rows)


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
    """Shapes at which another library is faster."""
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


def page_tables(results):
    """The tables of docs/performance.md that have results, by the name of their place."""
    suites = {line["suite"] for line in results["results"]}
    parts = {"summary": ("peers", summary), "times": ("peers", times), "layers": ("nn", layers), "losses": ("peers", losses),
             "messages": ("message", messages), "sums": ("sum", sums), "joint": ("joint", joint),
             "growth": ("growth", growth)}
    return {"machine": machine(results)} | {name: make(results) for name, (suite, make) in parts.items() if suite in suites}


def floor_tables(results):
    """The tables of benchmarks/floors.md, by the name of their place."""
    return {"machine": machine(results), **{f"floors {isa}": floors.table(results, isa) for isa in isas(results)}}


def text(results):
    return "\n\n".join(f"{name}:\n{made}" for name, made in (page_tables(results) | floor_tables(results)).items())


def fill(results):
    pages.fill(DOCS / "performance.md", page_tables(results))
    missing = {f"floors {isa}": "Not measured on this machine." for isa in ("avx512", "avx2")}
    pages.fill(FLOORS, missing | floor_tables(results))


def main():
    file = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "performance.json"
    results = json.loads(file.read_text())
    print(text(results))
    if file == DOCS / "performance.json":
        fill(results)


if __name__ == "__main__":
    main()
