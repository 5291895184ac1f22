# SPDX-License-Identifier: Apache-2.0

# Toolchain: Debian's cross compiler for 64-bit ARM (instruction set neon); programs run under qemu-user.
# scripts/setup.sh --ci installs both, and the libraries as arm64 packages.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64)
