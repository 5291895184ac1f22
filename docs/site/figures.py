# SPDX-License-Identifier: Apache-2.0

"""Draws the figures of the pages, docs/img/{idea,call,groups}.svg: `python3 docs/site/figures.py`."""

import html
import pathlib

FOLDER = pathlib.Path(__file__).parents[1] / "img"
BLUE, GREY, RED, GREEN, YELLOW = (("#eef4fb", "#1f6fb2"), ("#f6f6f6", "#888888"), ("#fbeeee", "#c0504d"), ("#eaf6ea", "#3a8a3a"),
                                  ("#fff6e6", "#d08a20"))
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>{title}</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0L8 4L0 8z" fill="#444444"/></marker></defs>
<rect width="{width}" height="{height}" fill="#ffffff"/>
"""


class Figure:
    """An SVG of boxes with text, and arrows between them. All lengths are pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.lines = [HEAD.format(width=width, height=height, title=html.escape(title))]

    def text(self, x: float, y: float, text: str, size: int = 13, anchor: str = "middle") -> None:
        self.lines.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-family="sans-serif" font-size="{size}" '
                          f'fill="#222222">{html.escape(text)}</text>\n')

    def box(self, x: float, y: float, width: float, height: float, text: str, colors: tuple[str, str] = BLUE,
            dashed: bool = False) -> None:
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.lines.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{colors[0]}" '
                          f'stroke="{colors[1]}"{dash}/>\n')
        lines = text.split("\n")
        for i, line in enumerate(lines):
            self.text(x + width / 2, y + height / 2 + 4.5 + (i - (len(lines) - 1) / 2) * 17, line)

    def arrow(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self.lines.append(f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="#444444" stroke-width="1.4" '
                          'marker-end="url(#tip)"/>\n')

    def save(self, name: str) -> None:
        (FOLDER / f"{name}.svg").write_text("".join(self.lines) + "</svg>\n")


def idea() -> None:
    figure = Figure(720, 250, "Local and synchronized statistics")
    for left, head in ((10, "Statistics of each rank"), (370, "Synchronized statistics")):
        figure.text(left + 170, 24, head, size=15)
        for rank in range(2):
            x = left + rank * 175
            figure.box(x, 40, 165, 44, f"rank {rank}:\n2 samples of the batch", GREY)
            figure.arrow(x + 82, 84, x + 82, 117)
            figure.arrow(x + 82, 162, x + 82, 195)
            figure.box(x, 196, 165, 40, "its normalized samples", GREY)
            if left == 10:
                figure.box(x, 118, 165, 44, "mean and variance\nof 2 samples", RED)
    figure.box(370, 118, 340, 44, "mean and variance of all 4 samples,\nfrom one exact sum over the ranks", GREEN)
    figure.save("idea")


def call() -> None:
    figure = Figure(760, 350, "A training call on two ranks")
    for rank, x in ((0, 20), (1, 520)):
        figure.text(x + 110, 18, f"rank {rank}", size=14)
        figure.box(x, 28, 220, 30, "check the arguments of this rank", GREY)
        figure.arrow(x + 110, 58, x + 110, 75)
        figure.box(x, 76, 220, 46, "accumulate x:\nexact sums of each channel")
        figure.box(x, 196, 220, 46, "finish: mean and variance,\neach rounded once")
        figure.arrow(x + 110, 242, x + 110, 257)
        figure.box(x, 258, 220, 30, "apply: y")
        figure.arrow(x + 110, 288, x + 110, 305)
        figure.box(x, 306, 220, 30, "commit: running statistics", GREY)
    figure.box(275, 130, 210, 50, "agreed sum:\none all-reduce of integers", GREEN)
    for outside, inside in ((130, 274), (630, 486)):
        figure.arrow(outside, 122, inside, 146)
        figure.arrow(inside, 166, outside, 195)
    figure.text(380, 204, "All ranks get the same sums, and learn", size=12)
    figure.text(380, 220, "whether all ranks made the same call.", size=12)
    figure.save("call")


def groups() -> None:
    figure = Figure(720, 262, "Ranks, hosts, the world and groups")
    figure.text(360, 20, "world: all ranks of the job", size=14)
    figure.box(10, 30, 700, 222, "", ("none", "#888888"), dashed=True)
    for host in range(2):
        left = 30 + host * 345
        figure.box(left, 48, 315, 92, "", ("#fafafa", "#bbbbbb"))
        figure.text(left + 10, 65, f"host {host}", size=12, anchor="start")
        for rank in range(2):
            figure.box(left + 20 + rank * 145, 78, 130, 46, f"rank {2 * host + rank}")
        figure.box(left, 156, 315, 34, f"group 'host{host}': world ranks {2 * host}, {2 * host + 1}", GREEN)
    figure.box(150, 206, 420, 34, "group 'even': world ranks 0, 2, which are its group ranks 0, 1", YELLOW)
    figure.save("groups")


if __name__ == "__main__":
    idea()
    call()
    groups()
