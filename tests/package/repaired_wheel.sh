#!/bin/bash
# SPDX-License-Identifier: Apache-2.0

# The wheel of scripts/wheel.sh in a fresh environment: it imports with NumPy alone, brings every library that it needs,
# gives the golden bits, and works beside a PyTorch that brings an OpenMP library too.
# Usage: repaired_wheel.sh <wheel> <virtual environment that has PyTorch>
set -euo pipefail
source=$(cd "$(dirname "$0")/../.." && pwd)
wheel=$(realpath "$1")
frameworks=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"$frameworks/bin/python" -m venv fresh
fresh=$work/fresh/bin/python
pip() { "$fresh" -m pip --quiet --disable-pip-version-check --no-input "$@"; }
pip install "$wheel"
"$fresh" - <<'END'
import importlib.metadata
import numpy, syncbn
packages = {package.metadata["Name"] for package in importlib.metadata.distributions()}
assert packages - {"pip", "setuptools"} == {"numpy", "syncbn"}, packages
assert syncbn.SyncBatchNorm(2)(numpy.arange(8.0).reshape(2, 2, 2)).shape == (2, 2, 2)
END
fresh/bin/syncbn-run --version
"$fresh" -m syncbn | tee parts
for engine in gloo mpi mpich; do grep -E "engine $engine +not built" parts; done
packages=$(dirname fresh/lib/python*/site-packages/syncbn)

# Libraries of the system that the wheel needs. Allowed are those of the C library and of the compiler.
from_elsewhere() {
  local needed
  find "$packages"/syncbn* fresh/bin/syncbn-run -type f \( -name '*.so*' -o -name syncbn-run \) -exec readelf -d {} + |
    sed -nE 's/.*\(NEEDED\).*\[(.*)\]/\1/p' | sort -u |
    while read -r needed; do
      if [[ ! $needed =~ ^(ld-linux-|lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so) && -z $(find "$packages"/syncbn* -name "$needed") ]]; then
        echo "$needed"
      fi
    done
}
[[ -z $(from_elsewhere) ]]
# Control: without the libraries that auditwheel has put there, they are found.
mv "$packages/syncbn.libs" libs
from_elsewhere | grep libgomp
mv libs "$packages/syncbn.libs"

pip install --requirement <(grep -E '^(pytest|hypothesis|ml_dtypes|numpy)==' "$source/requirements-numpy.txt")
"$fresh" -B -m pytest -q -p no:cacheprovider "$source"/tests/python/arrays/test_{golden,ranks}.py

# The other environment's packages stand behind those of this one.
"$frameworks/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$packages/frameworks.pth"
for order in "syncbn torch" "torch syncbn"; do
  read -ra modules <<<"$order"
  "$fresh" -B "$source/tests/package/wheel_torch.py" "${modules[@]}" | tee -a digests
done
[[ $(sort -u digests | wc -l) == 1 ]]
