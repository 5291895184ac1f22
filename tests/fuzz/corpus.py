# SPDX-License-Identifier: Apache-2.0
"""Corpora of the fuzz targets, one text file each: tests/fuzz/corpus/<target>.txt.

An input is a line: what it shows, a tab, and its bytes as a C string without quotes.

  corpus.py unpack TARGET FOLDER       one file an input, for libFuzzer
  corpus.py add TARGET NAME FILE...    adds inputs, all under the name if it is known what they show
"""

import pathlib
import re
import sys

CORPUS = pathlib.Path(__file__).with_name("corpus")


def escaped(data):
    text = "".join(chr(b) if 32 <= b < 127 and b != 92 else f"\\x{b:02x}" for b in data)
    return text[:-1] + "\\x20" if text.endswith(" ") else text  # a blank at a line's end may get lost


def bytes_of(text):
    return re.sub(rb"\\x(..)", lambda found: bytes([int(found[1], 16)]), text.encode())


def inputs(target):
    lines = (CORPUS / f"{target}.txt").read_text().splitlines()
    return [line.split("\t", 1) for line in lines if line and not line.startswith("#")]


def unpack(target, folder):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for number, (_, text) in enumerate(inputs(target)):
        pathlib.Path(folder, f"{number:03}").write_bytes(bytes_of(text))


def add(target, name, *files):
    with (CORPUS / f"{target}.txt").open("a") as corpus:
        for file in files:
            corpus.write(f"{name}\t{escaped(pathlib.Path(file).read_bytes())}\n")


if __name__ == "__main__":
    {"unpack": unpack, "add": add}[sys.argv[1]](*sys.argv[2:])
