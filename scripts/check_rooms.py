#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Checks that includes among the rooms of src/ follow the edges that the table in docs/design.md, section 7, allows.

`scripts/check_rooms.py` exits with 1 and names each include that does not. `--control` plants every forbidden include
in memory and expects that each one is found.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def edges():
    """Each room and the rooms that it may include, as the table of the design has them."""
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([\w, ]+) \|$", (ROOT / "docs/design.md").read_text(), re.MULTILINE)
    return {room: [] if allowed == "nothing" else allowed.split(", ") for room, allowed in rows}


EDGES = edges()


def included_rooms(text):
    return re.findall(r'^\s*#\s*(?:include|define\s+HWY_TARGET_INCLUDE)\s+"(\w+)/', text, re.MULTILINE)


def violations(files):
    """Yields (path, room) for each include of a room that the file's own room may not include. The public headers
    (syncbn/) belong to every room."""
    for path, text in files:
        room = path.parts[0]
        for target in included_rooms(text):
            if target not in ("syncbn", room, *EDGES.get(room, [])):
                yield path, target


def main():
    source = ROOT / "src"
    paths = sorted(p for p in source.rglob("*") if p.suffix in (".h", ".cpp", ".cu"))
    files = [(p.relative_to(source), p.read_text()) for p in paths]
    found = list(violations(files))
    strangers = {p.parts[0] for p, _ in files} - EDGES.keys()
    if "--control" in sys.argv[1:]:
        wrong = [(room, other) for room in EDGES for other in EDGES if other != room and other not in EDGES[room]]
        planted = [(Path(room, "planted.cpp"), f'#include "{other}/planted.h"\n') for room, other in wrong]
        missed = set(wrong) - {(p.parts[0], target) for p, target in violations(planted)}
        print(f"{len(wrong)} planted includes, {len(missed)} missed")
        return 1 if missed else 0
    for path, target in found:
        print(f"src/{path} includes {target}/, but {path.parts[0]} may include only "
              f"{', '.join(EDGES.get(path.parts[0], [])) or 'no other room'}")
    for room in sorted(strangers):
        print(f"src/{room}/ is no room of docs/design.md, section 7")
    return 1 if found or strangers else 0


sys.exit(main())
