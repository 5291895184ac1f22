#!/bin/bash
# SPDX-License-Identifier: Apache-2.0

# Builds the wheel that is given away, in build/dist: auditwheel puts the libraries that it needs into it (Highway,
# OpenMP's) and names the oldest C library that it runs with. It is built without the engines of Gloo and MPI: a copy of
# an MPI in a wheel would not fit the launcher of the machine, and Gloo has no stable binary interface. A missing library
# of the launcher is an error. Usage: wheel.sh <virtual environment that builds>
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath "$1")/bin/python
tools=build/auditwheel

if ! cmp -s requirements-wheel.txt $tools/requirements.txt; then
  rm -rf $tools
  "$python" -m pip --quiet --disable-pip-version-check install --no-deps --target $tools --requirement requirements-wheel.txt
  cp requirements-wheel.txt $tools/requirements.txt
fi

options=()
for option in GLOO=OFF MPI=OFF MPICH=OFF RANK_TABLES=ON LAUNCHER=ON; do
  options+=(--config-settings "cmake.define.SYNCBN_$option")
done
rm -rf build/dist
"$python" -m pip --disable-pip-version-check --verbose wheel --no-deps --no-build-isolation --wheel-dir build/dist/built "${options[@]}" .
PYTHONPATH=$tools PATH=$PWD/$tools/bin:$PATH "$python" -m auditwheel repair --wheel-dir build/dist build/dist/built/*.whl
rm -r build/dist/built
