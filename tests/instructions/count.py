# SPDX-License-Identifier: Apache-2.0

"""Guards the number of instructions of three fixed calls, counted by callgrind, against regressions.

usage: count.py PROGRAM [--update | --control]

Counts do not depend on the machine's speed, only on compiler and libraries. More than MARGIN above counts.json fails;
--update writes what is counted now (`make instructions`), to be committed with the change that is worth it. --control
passes where the guard would not let the plain loops through.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

MARGIN = 0.03
COUNTS = pathlib.Path(__file__).with_name("counts.json")


def count(program, case, direction, isa="avx2"):
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=counted_call",
               program, case, direction]
    # valgrind 3.19 knows no AVX-512; one thread, for which no other waits in a loop of unknown length.
    environment = os.environ | {"SYNCBN_ISA": isa, "SYNCBN_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    found = re.search(r"Collected : (\d+)", ended.stderr)
    if ended.returncode != 0 or not found or int(found[1]) == 0:
        sys.exit(f"{case} {direction}: nothing was counted:\n{ended.stderr}")
    return int(found[1])


def main():
    program, mode = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    if mode == "--control":
        plain, allowed = count(program, "rows", "forward", "scalar"), json.loads(COUNTS.read_text())["rows forward"]
        print(f"the plain loops take {plain} instructions, {allowed} are allowed")
        sys.exit(plain <= (1 + MARGIN) * allowed)
    counted = {f"{case} {direction}": count(program, case, direction)
               for case in ("rows", "columns", "tiny") for direction in ("forward", "backward")}
    if mode == "--update":
        COUNTS.write_text(json.dumps(counted, indent=2) + "\n")
    allowed = json.loads(COUNTS.read_text())
    failed = set(counted) != set(allowed)
    for name, number in counted.items():
        change = number / allowed.get(name, number) - 1
        note = " TOO MANY" if change > MARGIN else " make instructions records the gain" if change < -MARGIN else ""
        failed |= change > MARGIN
        print(f"{name}: {number} instructions, {100 * change:+.1f} %{note}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
