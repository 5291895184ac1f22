#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Reads the machine code of libsyncbn_cuda.so: what the executor, which runs the same source, can't see.

    tests/device/machine_code.py LIBRARY CUOBJDUMP

CUOBJDUMP is NVIDIA's program (PyPI: nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm). Each kernel of sums must have no
contraction and no double precision, keep nothing in local memory, and add to records by native 64-bit reductions. The
same rules find what they forbid in kernels that may have it: without that, they would not be read from the code.
Prints, for each architecture, the number of kernels and of instructions.
"""

import collections
import os
import re
import subprocess
import sys
from pathlib import Path

RULES = {
    "contraction": r"FFMA",
    "double precision": r"D(ADD|MUL|FMA|SETP|MNMX)|F2F\S*F64",
    "local memory": r"LDL|STL",
}
REDUCTION = r"RED\w*\.E\.ADD\.64"


def kernels(library, cuobjdump):
    """For each architecture and kernel a Counter of instructions."""
    environment = {**os.environ, "PATH": f"{Path(cuobjdump).parent}:{os.environ['PATH']}"}  # it calls nvdisasm
    text = subprocess.run([cuobjdump, "-sass", library], check=True, capture_output=True, text=True,
                          env=environment).stdout
    found, architecture, counts = {}, None, None
    for line in text.splitlines():
        if match := re.search(r"code for (sm_\d+)", line):
            architecture = match[1]
        elif match := re.search(r"Function : (\S+)", line):
            counts = found.setdefault((architecture, match[1]), collections.Counter())
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", line):
            counts[match[1]] += 1
    return found


def count(counts, pattern):
    return sum(number for name, number in counts.items() if re.match(pattern, name))


def main():
    found = kernels(*sys.argv[1:3])
    # The name of a template's first argument: f, N6syncbn8bfloat16E as a substitution, or d.
    sums = {key: counts for key, counts in found.items() if re.search(r"sum_channels_(first|last)I(?!d)", key[1])}
    rest = collections.Counter()
    for (_, name), counts in found.items():
        if "sum_channels" not in name:
            rest.update(counts)
    errors = []
    for (architecture, name), counts in sums.items():
        for rule, pattern in RULES.items():
            if number := count(counts, pattern):
                errors.append(f"{architecture} {name}: {number} instructions of {rule}")
        if count(counts, REDUCTION) == 0:
            errors.append(f"{architecture} {name}: no native 64-bit reduction")
    for rule, pattern in RULES.items():  # the control
        if count(rest, pattern) == 0:
            errors.append(f"no kernel has {rule}: the machine code is not read as it is written")
    for architecture in sorted({key[0] for key in found}):
        of_it = [counts for key, counts in found.items() if key[0] == architecture]
        print(f"{architecture}: {len(of_it)} kernels, {sum(sum(counts.values()) for counts in of_it)} instructions; "
              f"{sum(key[0] == architecture for key in sums)} kernels of sums checked")
    if not sums:
        errors.append("no kernel of sums")
    print("\n".join(errors))
    return 1 if errors else 0


sys.exit(main())
