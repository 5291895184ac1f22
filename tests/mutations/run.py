#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Applies deliberate faults, one at a time, and expects that the named tests turn red.

    tests/mutations/run.py BUILD [--only NAME ...] [--quick]

BUILD is a build tree in which the test programs are up to date. Nothing in the source tree or in BUILD is changed: a
fault is made in a copy of one file, the sources that see this file are compiled anew, and the test program is linked
once more, with these objects in place of the library's. A fault of the Python package is made in a copy of the package.

faults.toml lists the faults. --quick runs those that are marked `quick`, which take a few minutes.
Exits with 1 if a fault was not found, or if a test is red without any fault.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TEST_SECONDS = 60  # a fault may make a test wait for ever; without a fault each takes a few seconds


class Build:
    """The commands of a build tree that Ninja made."""

    def __init__(self, path):
        self.path = path.resolve()
        entries = json.loads((self.path / "compile_commands.json").read_text())
        self.compilations = {}
        for entry in entries:
            self.compilations.setdefault(Path(entry["file"]), []).append(entry)

    def compile(self, source, overlay, object_file, program):
        """Compiles `source` of the project, with the headers in `overlay` before those of the project. A source that
        several programs have is compiled as `program` has it."""
        entries = self.compilations[ROOT / source]
        entry = next((e for e in entries if f"/{program}.dir/" in e["command"]), entries[0])
        command = shlex.split(entry["command"])
        output = command.index("-o") + 1
        original = Path(entry["directory"], command[output])
        command[output] = str(object_file)
        if (overlay / source).exists():
            command = [str(overlay / source) if part == entry["file"] else part for part in command]
        command.append("-w")
        first_option = 2 if Path(command[0]).name == "ccache" else 1
        command[first_option:first_option] = [f"-I{overlay / 'src'}", f"-I{overlay / 'include'}"]
        subprocess.run(command, cwd=entry["directory"], check=True)
        return original

    def link(self, program, objects, executable):
        """Links the test program with `objects`, a dict of original object files to those that take their place."""
        commands = subprocess.run(["ninja", "-t", "commands", "-s", program], cwd=self.path, check=True,
                                  capture_output=True, text=True).stdout
        command = shlex.split(commands.strip().splitlines()[-1].split(" && ")[1])
        replaced = {str(original.relative_to(self.path)): str(new) for original, new in objects.items()}
        command = [replaced.pop(part, part) for part in command]
        command[command.index("-o") + 1] = str(executable)
        # The linker takes a symbol from an object file before it looks into a library.
        at = next(i for i, part in enumerate(command) if part.endswith(".o"))
        command[at:at] = replaced.values()
        subprocess.run(command, cwd=self.path, check=True)


def is_red(command, folder, environment=None):
    try:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=TEST_SECONDS, env={**os.environ, **(environment or {})})
    except subprocess.TimeoutExpired:
        return True, f"still running after {TEST_SECONDS} s"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "FAILED" in line or "Error" in line]
    if done.returncode == 0 and "[  PASSED  ] 0 tests" in done.stdout:
        sys.exit(f"{shlex.join(map(str, command))}: no test has this name")
    return done.returncode != 0, lines[0].strip() if lines else f"exit code {done.returncode}"


def faulty_text(fault):
    path = ROOT / fault["file"]
    text = path.read_text()
    if text.count(fault["find"]) != 1:
        sys.exit(f"{fault['name']}: {fault['file']} has {text.count(fault['find'])} places like {fault['find']!r}, "
                 "expected one: the fault must follow the code")
    return text.replace(fault["find"], fault["replace"])


def run_cpp(fault, build, folder):
    overlay = folder / "overlay"
    changed = overlay / fault["file"]
    changed.parent.mkdir(parents=True)
    changed.write_text(faulty_text(fault))
    objects = {}
    for i, source in enumerate(fault.get("sources", [fault["file"]])):
        object_file = folder / f"{i}.o"
        objects[build.compile(Path(source), overlay, object_file, fault["program"])] = object_file
    executable = folder / fault["program"]
    build.link(f"bin/{fault['program']}", objects, executable)
    return is_red([executable, f"--gtest_filter={fault['tests']}"], build.path / "tests", fault.get("environment"))


def run_python(fault, build, folder, python):
    package = folder / "python"
    shutil.copytree(build.path / "python" / "syncbn", package / "syncbn",
                    ignore=shutil.ignore_patterns("__pycache__"))
    (package / Path(fault["file"]).relative_to("python")).write_text(faulty_text(fault))
    return is_red([python, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *fault["tests"].split()], ROOT,
                  {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"})


def run_sound(fault, build, python):
    """The same tests without the fault."""
    if "program" in fault:
        return is_red([build.path / "bin" / fault["program"], f"--gtest_filter={fault['tests']}"],
                      build.path / "tests", fault.get("environment"))
    return is_red([python, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *fault["tests"].split()], ROOT,
                  {"PYTHONPATH": str(build.path / "python"), "PYTHONDONTWRITEBYTECODE": "1"})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--python", default=ROOT / ".venv/bin/python", type=Path)
    arguments = parser.parse_args()
    faults = tomllib.loads(Path(__file__).with_name("faults.toml").read_text())["fault"]
    chosen = [f for f in faults if (not arguments.only or f["name"] in arguments.only) and
              (not arguments.quick or f.get("quick", False))]
    if not chosen:
        sys.exit("no such fault")
    build = Build(arguments.build)
    missed = []
    for fault in chosen:
        start = time.monotonic()
        red, why = run_sound(fault, build, arguments.python)
        if red:
            sys.exit(f"{fault['name']}: {fault['tests']} is red without the fault: {why}")
        with tempfile.TemporaryDirectory(prefix="syncbn-fault-") as folder:
            if "program" in fault:
                red, why = run_cpp(fault, build, Path(folder))
            else:
                red, why = run_python(fault, build, Path(folder), arguments.python)
        print(f"{'found' if red else 'MISSED'}  {fault['name']}: {why if red else fault['tests'] + ' stayed green'} "
              f"({time.monotonic() - start:.0f} s)", flush=True)
        if not red:
            missed.append(fault["name"])
    print(f"{len(chosen)} faults, {len(missed)} missed{': ' if missed else ''}{', '.join(missed)}")
    return 1 if missed else 0


sys.exit(main())
