# SPDX-License-Identifier: Apache-2.0

"""Tables in Markdown, and the places of documents that they fill."""

import os
import pathlib
import platform
import re


def table(header, rows, left=1):
    """The first `left` columns to the left, numbers to the right."""
    lines = [header, ["---"] * left + ["---:"] * (len(header) - left), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def number(value, scale=1):
    """Three digits, or all before the point."""
    value *= scale
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def fill(page, tables):
    """Puts each text between the lines `<!-- NAME -->` and `<!-- end -->` of the file; what else is there is left alone."""
    text = page.read_text()
    for name, new in tables.items():
        text, found = re.subn(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda at: at[1] + new + "\n" + at[2], text,
                              flags=re.DOTALL)
        if found != 1:
            raise SystemExit(f"{page} has {found} places for the table '{name}', expected 1")
    page.write_text(text)


def processor():
    """Its name; where that says little (a virtual machine's "AMD EPYC") family and model tell what it is."""
    found = dict(re.findall(r"^([a-z ]+?)\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    name = found.get("model name", platform.machine())
    numbers = f" (family {found['cpu family']}, model {found['model']})" if "cpu family" in found else ""
    return f"{name}{numbers}, {os.cpu_count()} cores"
