#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Fails unless every source (C++, Python, CMake, shell) names its license near its beginning.

usage: check_spdx.py [--list]     --list prints the sources that are checked
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
LINE = "SPDX-License-Identifier: Apache-2.0"
NAMES = ("CMakeLists.txt", "Makefile")
SUFFIXES = (".h", ".cpp", ".cu", ".cuh", ".py", ".pyi", ".sh", ".cmake", ".cmake.in")


def is_source(path):
    """By its name; a file without a suffix by its first line."""
    if path.is_symlink() or not path.is_file():
        return False
    if path.name in NAMES or path.name.endswith(SUFFIXES):
        return True
    if path.suffix or path.name.startswith("."):
        return False
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def sources():
    """What git tracks, and new files that it does not ignore."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout
    return [path for path in sorted(ROOT / name for name in set(listed.split("\0")) if name) if is_source(path)]


def has_line(path):
    """In the first or the second line, after a shebang."""
    head = path.read_text(encoding="utf-8").splitlines()[:2]
    return any(line in (f"// {LINE}", f"# {LINE}") for line in head)


def main():
    found = sources()
    if "--list" in sys.argv[1:]:
        print(*(path.relative_to(ROOT) for path in found), sep="\n")
        return
    missing = [path.relative_to(ROOT) for path in found if not has_line(path)]
    for path in missing:
        print(f"{path}: neither of the first two lines is a comment with '{LINE}'", file=sys.stderr)
    if not found or missing:
        sys.exit(f"{len(missing)} of {len(found)} sources do not name their license")


if __name__ == "__main__":
    main()
