#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Writes examples/data/digits.bin, the handwritten digits that train_digits learns, from scikit-learn's copy.

    pip install --no-deps scikit-learn && scripts/make_digits.py          # the installed package
    scripts/make_digits.py scikit_learn-1.9.1-cp311-...-x86_64.whl        # or a downloaded wheel

Only the package's data file is read (nothing is imported, so NumPy is not needed). examples/data/README.md
describes the format.
"""

import argparse
import gzip
import importlib.util
import pathlib
import struct
import sys
import zipfile
import zlib

MEMBER = "datasets/data/digits.csv.gz"
OUTPUT = pathlib.Path(__file__).resolve().parent.parent / "examples" / "data" / "digits.bin"
MAGIC = b"digits1\n"
PIXELS = 64


def installed_package():
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("make_digits.py: scikit-learn is not installed here; install it or name its wheel")
    return pathlib.Path(spec.submodule_search_locations[0])


def read_csv(source):
    if source.is_file():
        with zipfile.ZipFile(source) as wheel:
            packed = wheel.read("sklearn/" + MEMBER)
    else:
        packed = (source / MEMBER).read_bytes()
    return gzip.decompress(packed).decode("ascii")


def record(number, line):
    """64 pixels, then the label, a byte each."""
    values = [int(float(field)) for field in line.split(",")]
    pixels, label = values[:-1], values[-1]
    if len(pixels) != PIXELS or not all(0 <= p <= 16 for p in pixels) or not 0 <= label <= 9:
        sys.exit(f"make_digits.py: line {number} is not {PIXELS} pixels in 0..16 and a label in 0..9: {line}")
    return bytes(values)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", type=pathlib.Path, help="a wheel, or the folder of the package sklearn")
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    arguments = parser.parse_args()
    lines = read_csv(arguments.source or installed_package()).split()
    records = b"".join(record(number, line) for number, line in enumerate(lines, 1))
    arguments.output.write_bytes(MAGIC + struct.pack("<II", len(lines), zlib.crc32(records)) + records)
    print(f"{arguments.output}: {len(lines)} digits, CRC-32 {zlib.crc32(records):08x}")


if __name__ == "__main__":
    main()
