#!/bin/bash
# SPDX-License-Identifier: Apache-2.0

# Makes .venv with the packages of requirements-dev.txt, 8 GB with PyTorch and MindSpore; `scripts/venv.sh numpy`: with
# those of requirements-numpy.txt alone, unless it has all; `scripts/venv.sh torch24`: .venv-torch24, with PyTorch 2.4, for
# CPU tensors all the same, 4.5 GB. A complete one is left alone, without network; one that was
# left half-made, or was made for another list, another Python or another folder (its commands hold their own path), is
# made anew.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "scripts/venv.sh needs Python >= 3.10, found $(python3 --version)" >&2
  exit 1
fi
wanted() { python3 --version; pwd; sha256sum "$@"; }
all=$(wanted requirements-dev.txt requirements-numpy.txt)
light=$(wanted requirements-numpy.txt)
folder=.venv options=()
case "${1:-}" in
  "") list=requirements-dev.txt made=$all good=("$all") ;;
  numpy) list=requirements-numpy.txt made=$light good=("$light" "$all") ;;
  torch24)
    folder=.venv-torch24 list=requirements-torch24.txt options=(--no-deps)
    made=$(wanted "$list") good=("$(wanted "$list")")
    ;;
  *)
    echo "usage: scripts/venv.sh [numpy|torch24]" >&2
    exit 2
    ;;
esac
stamp=$folder/complete
for complete in "${good[@]}"; do
  if [[ -e $stamp && $(<$stamp) == "$complete" ]] && $folder/bin/python -c ''; then exit 0; fi
done

echo "Making $folder with the packages of $list"
rm -rf $folder
python3 -m venv $folder
$folder/bin/pip --quiet --disable-pip-version-check --no-input install "${options[@]}" --requirement "$list"
echo "$made" >$stamp
