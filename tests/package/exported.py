# SPDX-License-Identifier: Apache-2.0

"""Compares what a shared library of syncbn exports with symbols.txt.

    exported.py core <library>     every name of the list, and nothing else of syncbn or of another library
    exported.py engine <library>   nothing but names of the list

Instances of the standard library's templates are exported by every C++ library. They pass, unless they are made of
another library's names.
"""

import re
import subprocess
import sys
from pathlib import Path

FOREIGN = re.compile(r"\b(fmt|nlohmann|hwy|gloo)::")
NAME = re.compile(r"\bsyncbn(::\w+)+")
INNERMOST_ARGUMENTS = re.compile(r"<[^<>]*>|\([^()]*\)")


def listed():
    lines = (Path(__file__).parent / "symbols.txt").read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def exported(library):
    command = ["nm", "-D", "-C", "--defined-only", library]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {line.split(maxsplit=2)[2] for line in output.splitlines()}


def entry_of(name, allowed):
    """The entry that a name, or the class around it, is; None if there is none. Impl is no member that users see."""
    if "::Impl" in name:
        return None
    while name and name not in allowed:
        name = name.rpartition("::")[0]
    return name or None


def without_arguments(symbol):
    """`a::f<b::C>(d::E)` is a::f."""
    shorter = INNERMOST_ARGUMENTS.sub("", symbol)
    return shorter if shorter == symbol else without_arguments(shorter)


def main(kind, library):
    allowed = listed()
    found, faults = set(), []
    symbols = exported(library)
    for symbol in sorted(symbols):
        names = [match[0] for match in NAME.finditer(without_arguments(symbol))]
        entries = {entry_of(name, allowed) for name in names}
        if FOREIGN.search(symbol) or None in entries:
            faults.append(f"exported: {symbol}")
        found |= entries
    if kind == "core":
        faults += [f"not exported: {name}" for name in sorted(allowed - found)]
    print(f"{library}: {len(symbols)} symbols, {len(found - {None})} of {len(allowed)} names, {len(faults)} faults")
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
