#!/bin/bash
# SPDX-License-Identifier: Apache-2.0

# The wheel in a fresh environment: imports with NumPy alone, neither it nor its launcher needs what only the engines
# need, and it passes the tests of the package without frameworks. Usage: wheel.sh <virtual environment that builds>
set -euo pipefail
source=$(cd "$(dirname "$0")/../.." && pwd)
python=$(cd "$1" && pwd)/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

pip() { "$1" -m pip --quiet --disable-pip-version-check --no-input "${@:2}"; }
pip "$python" wheel --no-deps --no-build-isolation --wheel-dir . "$source"
"$python" -m venv fresh
fresh=$work/fresh/bin/python
pip "$fresh" install syncbn-*.whl
"$fresh" - <<'END'
import importlib.metadata
import numpy, syncbn
packages = {package.metadata["Name"] for package in importlib.metadata.distributions()}
assert packages - {"pip", "setuptools"} == {"numpy", "syncbn"}, packages
maps = open("/proc/self/maps").read()
for library in "libgloo", "libmpi", "libfmt":
    assert library not in maps, library
assert syncbn.SyncBatchNorm(2)(numpy.arange(8.0).reshape(2, 2, 2)).shape == (2, 2, 2)
END
# The control: the engine does need it.
readelf -d fresh/lib/python*/site-packages/syncbn/engine_gloo.so >needed
grep -q 'NEEDED.*libgloo' needed
readelf -d fresh/bin/syncbn-run >needed
if grep 'NEEDED.*\(libfmt\|libgloo\|libmpi\)' needed; then exit 1; fi
fresh/bin/syncbn-run --help >/dev/null
packages=$(dirname fresh/lib/python*/site-packages/syncbn)
python3 "$source/tests/package/exported.py" core "$packages/syncbn/libsyncbn_runtime.so"
python3 "$source/tests/package/exported.py" engine "$packages/syncbn/engine_gloo.so"
"$fresh" -m zipfile --list syncbn-*.whl >files
grep -q 'syncbn/py.typed' files
grep -q 'syncbn/_core.pyi' files

pip "$fresh" install --requirement <(grep -E '^(pytest|hypothesis|ml_dtypes|mpi4py|numpy)==' "$source/requirements-numpy.txt")
"$fresh" -B -m pytest -q -p no:cacheprovider "$source/tests/python/arrays"
