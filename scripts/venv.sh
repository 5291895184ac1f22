#!/bin/bash
# Makes .venv with the packages of requirements-dev.txt: PyTorch and MindSpore, 8 GB, for the tests. A complete one is
# left alone, without network; one that was left half-made, or was made for another list, another Python or another
# folder (its commands hold their own path), is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "scripts/venv.sh needs Python >= 3.10, found $(python3 --version)" >&2
  exit 1
fi
stamp=.venv/complete
wanted=$(python3 --version; pwd; sha256sum requirements-dev.txt)
if [[ -e $stamp && $(<$stamp) == "$wanted" ]] && .venv/bin/python -c ''; then exit 0; fi

echo "Making .venv with PyTorch and MindSpore"
rm -rf .venv
python3 -m venv .venv
.venv/bin/pip --quiet --disable-pip-version-check --no-input install --requirement requirements-dev.txt
echo "$wanted" >$stamp
