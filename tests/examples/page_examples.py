# SPDX-License-Identifier: Apache-2.0

"""The examples in the documentation pages, as programs, and what the pages say that they print.

usage: page_examples.py PAGE FOLDER     writes each C++ example of PAGE to FOLDER/<page>_<number>.cpp, prints the names

Every block of C++ is one program. The blocks of Python on a page are one program together, in their order. A block of
text directly after an example is what it prints, lines in any order. The line `<!-- not run: REASON -->` before a block
leaves it out.
"""

import dataclasses
import pathlib
import re
import sys

BLOCK = re.compile(r"^(<!-- not run: [^\n]+ -->\n\n?)?```(\w+)\n(.*?)^```$", re.M | re.S)


@dataclasses.dataclass
class Example:
    code: str
    output: str  # "" if the page does not show it


def examples(page, language):
    """The page's examples that run, in order."""
    text = pathlib.Path(page).read_text(encoding="utf-8")
    found, end, last = [], 0, None
    for block in BLOCK.finditer(text):
        follows = not text[end:block.start()].strip()
        if block[2] == language and not block[1]:
            last = Example(block[3], "")
            found.append(last)
        else:
            if block[2] == "text" and last and follows:
                last.output = block[3]
            last = None
        end = block.end()
    return found


def python_program(page):
    found = examples(page, "python")
    return Example("\n".join(example.code for example in found), "".join(example.output for example in found))


def program_names(page, count):
    return [f"{pathlib.Path(page).stem}_{number}" for number in range(1, count + 1)]


def main():
    page, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    found = examples(page, "cpp")
    names = program_names(page, len(found))
    for name, example in zip(names, found):
        source = folder / f"{name}.cpp"
        if not source.exists() or source.read_text(encoding="utf-8") != example.code:  # else nothing is compiled again
            source.write_text(example.code, encoding="utf-8")
    print(";".join(names), end="")


if __name__ == "__main__":
    main()
