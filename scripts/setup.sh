#!/bin/bash
# SPDX-License-Identifier: Apache-2.0

# Installs what building and testing need, on Debian 12 or a system that names its packages alike. Asks dpkg first, so
# that a complete machine is left alone, without network and without root. `--demo` installs only what `make demo` needs;
# `--ci` adds what .ci/run needs beyond the tests, `--docs` what `make docs` needs, `--bench` what `make bench` needs.
set -euo pipefail

packages=(
  g++ cmake make ninja-build
  libfmt-dev libhwy-dev nlohmann-json3-dev  # the core library
  libgloo-dev                    # component gloo
  libcli11-dev                   # examples
)
tests=(
  pkg-config
  libopenmpi-dev openmpi-bin     # component mpi
  libmpich-dev mpich             # component mpich
  libgtest-dev libgmp-dev libmpfr-dev python3 valgrind  # tests
  iproute2 nftables munge slurm-wlm  # tests of several nodes, of bad networks and of Slurm
  python3-venv python3-dev python3-mypy  # the Python package; PyTorch and MindSpore, in .venv
)
case "${1:-}" in
  "") packages+=("${tests[@]}") ;;
  --demo) ;;
  --ci)
    packages+=("${tests[@]}" clang clang-format doxygen libomp-dev)
    # The cross build for 64-bit ARM, and its libraries.
    packages+=(g++-aarch64-linux-gnu qemu-user)
    packages+=(lib{fmt-dev,hwy-dev,gtest-dev,gmp-dev,mpfr-dev,gomp1}:arm64)
    ;;
  --docs) packages+=(doxygen) ;;
  --bench) packages+=("${tests[@]}" libdnnl-dev libsimgrid-dev python3-matplotlib) ;;
  *)
    echo "usage: scripts/setup.sh [--demo | --ci | --docs | --bench]" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null; then
  echo "scripts/setup.sh installs Debian packages and there is no dpkg here. Install these by hand, then use the" \
    "CMake presets: ${packages[*]}" >&2
  exit 1
fi

native=$(dpkg --print-architecture)
installed=$(dpkg-query --show --showformat='${db:Status-Status} ${Package}:${Architecture}\n' "${packages[@]}" \
  2>/dev/null || true)
missing=()
for package in "${packages[@]}"; do
  name=${package%:*} architecture=$native
  if [[ $package == *:* ]]; then architecture=${package#*:}; fi
  grep -qxE "installed ${name//+/[+]}:($architecture|all)" <<<"$installed" || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then exit 0; fi

as_root=()
if [[ $EUID -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "Missing packages: ${missing[*]}. Run scripts/setup.sh as root, or install sudo." >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "Installing ${missing[*]}"
if [[ ${missing[*]} == *:arm64* ]]; then "${as_root[@]}" dpkg --add-architecture arm64; fi
"${as_root[@]}" apt-get -q update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get -q -y --no-install-recommends install "${missing[@]}"
