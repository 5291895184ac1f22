#!/bin/bash
# Makes .venv with the packages of requirements-dev.txt, 8 GB with PyTorch and MindSpore; `scripts/venv.sh numpy`: with
# those of requirements-numpy.txt alone, unless it has all. A complete one is left alone, without network; one that was
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
case "${1:-}" in
  "") list=requirements-dev.txt made=$all good=("$all") ;;
  numpy) list=requirements-numpy.txt made=$light good=("$light" "$all") ;;
  *)
    echo "usage: scripts/venv.sh [numpy]" >&2
    exit 2
    ;;
esac
stamp=.venv/complete
for complete in "${good[@]}"; do
  if [[ -e $stamp && $(<$stamp) == "$complete" ]] && .venv/bin/python -c ''; then exit 0; fi
done

echo "Making .venv with the packages of $list"
rm -rf .venv
python3 -m venv .venv
.venv/bin/pip --quiet --disable-pip-version-check --no-input install --requirement "$list"
echo "$made" >$stamp
