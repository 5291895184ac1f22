#!/bin/bash
# SPDX-License-Identifier: Apache-2.0

# The main job of the library, for `make demo`: the documented example on two worker processes, then a small network that
# learns digits, on one rank and on two. Ends with a verdict: do one rank and two have the same bits? A verdict of no is an
# error. Usage: demo.sh <folder of the programs>
set -euo pipefail
programs=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

run() {  # run <ranks> <program>: on worker processes
  echo
  echo "\$ syncbn-run -n $1 $2"
  "$programs/syncbn-run" -n "$1" --join=True --log_dir="$work/log" "$programs/$2" | tee "$work/$2.$1"
}
# Digests of a run that begin with these words. A run without them is a fault of this script.
digests() { grep -o "$1.*" "$2" || { echo "no line '$1' in the output above" >&2; exit 1; }; }

run 2 sync_batch_norm_example
run 1 train_digits
run 2 train_digits

echo
verdict=yes
for what in "first step" "whole run"; do
  if [[ $(digests "$what" "$work/train_digits.1") == $(digests "$what" "$work/train_digits.2") ]]; then
    echo "The $what has the same bits on 1 rank and on 2 ranks: yes"
  else
    echo "The $what has the same bits on 1 rank and on 2 ranks: NO"
    verdict=no
  fi
done
[[ $verdict == yes ]]
