#!/bin/bash
# SPDX-License-Identifier: Apache-2.0

# Runs one package test: run.sh <case>. From ctest come SOURCE_DIR, BUILD_DIR (complete), WORK_DIR, CXX, CMAKE and
# CMAKE_GENERATOR. The program and the text that it has to print are the first C++ block and the first text block after
# it in README.md.
set -euo pipefail

here=$SOURCE_DIR/tests/package
work=$WORK_DIR/$1
rm -rf "$work"
mkdir -p "$work"
program=$work/program.cpp
awk '/^```cpp$/ { inside = 1; next } /^```$/ && inside { exit } inside' "$SOURCE_DIR/README.md" >"$program"
awk '/^```cpp$/ { seen = 1 } seen && /^```text$/ { inside = 1; next } /^```$/ && inside { exit } inside' \
  "$SOURCE_DIR/README.md" | grep '^rank ' | sort >"$work/expected.txt"

configure() {  # configure <consumer> <cmake arguments…>
  "$CMAKE" -S "$here/$1" -B "$work/build" -DPROGRAM="$program" -DCMAKE_BUILD_TYPE=Debug \
    -DCMAKE_CXX_FLAGS_DEBUG=-O0 "${@:2}"
}

# expect <command…>: the command prints the README's lines, in any order, among whatever else.
expect() {
  echo "\$ $*"
  "$@" | tee "$work/output.txt"
  grep -o 'rank [0-9]*: .*' "$work/output.txt" | sort | diff "$work/expected.txt" -
}
under_syncbn_run() {
  expect "$WORK_DIR/static/bin/syncbn-run" --worker_num=2 --local_worker_num=2 --master_port="$(free_port)" \
    --log_dir="$work/log" --join=True --cluster_time_out=60 "$@"
}
free_port() {  # with the next one free too, where the rendezvous listens
  python3 - <<'PY'
import socket
while True:
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        try:
            b.bind(("127.0.0.1", a.getsockname()[1] + 1))
        except (OSError, OverflowError):
            continue
        print(a.getsockname()[1])
        break
PY
}

# consume <install prefix> <components>: find_package, build, run as threads and as processes.
consume() {
  configure find_package -DCMAKE_PREFIX_PATH="$1" -DCOMPONENTS="$2"
  "$CMAKE" --build "$work/build"
  expect "$work/build/threads"
}
pkg_config() {  # pkg_config <install prefix>: the same without CMake
  local pc module flags
  pc=$(find "$1" -name syncbn.pc)
  export PKG_CONFIG_PATH=${pc%/*}
  for module in syncbn syncbn-gloo; do
    read -ra flags <<<"$(pkg-config --cflags --libs "$module")"
    "$CXX" -std=c++20 "$program" "${flags[@]}" -Wl,-rpath,"${pc%/pkgconfig/*}" -o "$work/$module"
  done
  expect "$work/syncbn"
  under_syncbn_run "$work/syncbn-gloo"
}
refused() {  # refused <consumer> <install prefix> <components> <message>: CMake fails and says this
  rm -rf "$work/build"
  if configure "$1" -DCMAKE_PREFIX_PATH="$2" -DCOMPONENTS="$3" >"$work/log.txt" 2>&1; then
    echo "consumer $1 was configured with component $3" >&2
    exit 1
  fi
  # CMake breaks lines where it likes.
  tr -s ' \n' ' ' <"$work/log.txt" | grep -F -- "$4" || { cat "$work/log.txt"; exit 1; }
}

case $1 in
  readme_demo)  # What the READMEs show of `make demo`. Control: with one digit changed there, this fails.
    # Of training only the form is compared: accuracy hangs on the C library's exp(), the seconds on the machine.
    comparable() { sed -E '/%/ s/[0-9]+/0/g; /whole run/ s/\<[0-9a-f]{16}\>/0/g'; }
    run=("$BUILD_DIR/bin/syncbn-run" --worker_num=2 --local_worker_num=2 --log_dir="$work/log" --join=True)
    for program in sync_batch_norm_example train_digits; do
      "${run[@]}" --master_port="$(free_port)" "$BUILD_DIR/bin/$program"
    done | comparable >"$work/output.txt"
    for readme in README.md README.zh-CN.md; do
      grep '^\[[01]\]' "$SOURCE_DIR/$readme" | comparable >"$work/shown.txt"
      if grep -vxFf "$work/output.txt" "$work/shown.txt"; then
        echo "$readme shows these lines, make demo does not" >&2
        exit 1
      fi
    done
    ;;
  install_static)
    "$CMAKE" --install "$BUILD_DIR" --prefix "$WORK_DIR/static"
    "$WORK_DIR/static/bin/syncbn-run" --version
    documents=$(dirname "$(find "$WORK_DIR/static/share" -name CHANGELOG.md)")
    python3 "$SOURCE_DIR/tests/examples/links.py" "$documents"
    # Control: without one page, the links to it are found.
    cp -r "$documents" "$work/documents"
    rm "$work/documents/docs/errors.md"
    if python3 "$SOURCE_DIR/tests/examples/links.py" "$work/documents" >"$work/control.txt"; then
      echo "dead links were not found" >&2
      exit 1
    fi
    grep -F 'README.md: docs/errors.md' "$work/control.txt"
    ;;
  find_package_static)
    consume "$WORK_DIR/static" ""
    # Control: the core alone carries neither engine, so that what the next lines show is the component's doing.
    if "$WORK_DIR/static/bin/syncbn-run" --worker_num=2 --local_worker_num=2 --log_dir="$work/log" --join=True \
      --master_port="$(free_port)" "$work/build/threads" >"$work/control.txt" 2>&1; then
      echo "a program without an engine joined a world of two" >&2
      exit 1
    fi
    grep -F 'gloo' "$work/control.txt"
    rm -rf "$work/build"
    consume "$WORK_DIR/static" gloo
    under_syncbn_run "$work/build/with_gloo"
    ;;
  add_subdirectory)
    configure add_subdirectory -DSYNCBN_SOURCE_DIR="$SOURCE_DIR" -DSYNCBN_RANK_TABLES=OFF \
      -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON
    "$CMAKE" --build "$work/build"
    expect "$work/build/threads"
    "$CMAKE" --install "$work/build" --prefix "$WORK_DIR/shared"
    ;;
  find_package_shared)
    consume "$WORK_DIR/shared" gloo
    under_syncbn_run "$work/build/with_gloo"
    ;;
  mpi)
    consume "$WORK_DIR/static" "gloo;mpi"
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 expect mpirun -n 2 --oversubscribe "$work/build/with_mpi"
    ;;
  mpich)
    consume "$WORK_DIR/static" "gloo;mpich"
    expect mpiexec.mpich -n 2 "$work/build/with_mpich"
    PKG_CONFIG_PATH=$(dirname "$(find "$WORK_DIR/static" -name syncbn-mpich.pc)") \
      pkg-config --cflags --libs syncbn-mpich >"$work/flags"
    read -ra flags <"$work/flags"
    "$CXX" -std=c++20 "$program" "${flags[@]}" -o "$work/by_pkg_config"
    expect mpiexec.mpich -n 2 "$work/by_pkg_config"
    ;;
  two_mpis) refused two_mpis "$WORK_DIR/static" "" "INTERFACE_syncbn_mpi_component property of \"syncbn::mpich\" does not agree" ;;
  exported_symbols)  # of the shared installation, of the static core as a shared library, and of the Python package
    python3 "$here/exported.py" core "$(find "$WORK_DIR/shared" -name libsyncbn.so)"
    python3 "$here/exported.py" engine "$(find "$WORK_DIR/shared" -name libsyncbn_gloo.so)"
    whole=("-Wl,--whole-archive" "$(find "$WORK_DIR/static" -name libsyncbn.a)" "-Wl,--no-whole-archive")
    "$CXX" -shared "${whole[@]}" -o "$work/core.so"
    python3 "$here/exported.py" core "$work/core.so"
    for library in "$BUILD_DIR"/python/syncbn/{libsyncbn_runtime,engine_gloo,engine_mpi,engine_mpich}.so; do
      kind=engine
      [[ $library == *_runtime.so ]] && kind=core
      if [[ -e $library ]]; then python3 "$here/exported.py" "$kind" "$library"; fi
    done
    # Controls: one name of {fmt}, one of a room, and a missing one are found.
    for planted in "namespace fmt { void planted() {} }" "namespace syncbn::exact { void planted() {} }"; do
      "$CXX" -shared -fPIC -x c++ - -x none "${whole[@]}" -o "$work/planted.so" <<<"$planted"
      if python3 "$here/exported.py" core "$work/planted.so" >"$work/control.txt"; then
        echo "this was not found: $planted" >&2
        exit 1
      fi
      grep -F 'exported: ' "$work/control.txt" | grep -F '::planted()'
    done
    if python3 "$here/exported.py" core "$(find "$WORK_DIR/shared" -name libsyncbn_gloo.so)" >"$work/control.txt"; then
      echo "an engine's library passed for the core" >&2
      exit 1
    fi
    grep -F 'not exported: syncbn::init' "$work/control.txt"
    ;;
  public_headers)  # each alone, the fields that designated initializers leave out, and an older C++
    check() { "$CXX" -Wall -Wextra -Werror -fsyntax-only -I"$SOURCE_DIR/include" "$@"; }
    for header in "$SOURCE_DIR"/include/syncbn/*.h; do
      check -std=c++20 -x c++ - <<<"#include \"syncbn/${header##*/}\""
    done
    check -std=c++20 "$here/headers/designated.cpp"
    # Controls: a field without a default is refused, and C++17 gets a sentence.
    if check -std=c++20 -x c++ - <<<"struct S { int a, b; }; S s{1};" 2>"$work/control.txt"; then
      echo "the compiler does not warn of a field that is left out" >&2
      exit 1
    fi
    if check -std=c++17 "$here/headers/designated.cpp" 2>"$work/control.txt"; then
      echo "C++17 was accepted" >&2
      exit 1
    fi
    grep -F 'syncbn needs C++20: compile with -std=c++20' "$work/control.txt"
    ;;
  errors_across_libraries)
    configure errors -DCMAKE_PREFIX_PATH="$WORK_DIR/shared"
    "$CMAKE" --build "$work/build"
    "$work/build/catcher"
    ;;
  without_rank_tables)  # the shared installation is without; the README's program meets a table
    configure find_package -DCMAKE_PREFIX_PATH="$WORK_DIR/shared" -DCOMPONENTS=""
    "$CMAKE" --build "$work/build"
    expect "$work/build/threads"
    echo '{}' >"$work/table.json"
    if RANK_TABLE_FILE="$work/table.json" RANK_ID=0 "$work/build/threads" >"$work/output.txt" 2>&1; then
      echo "a rank table was passed over" >&2
      exit 1
    fi
    grep -F 'SYNCBN_RANK_TABLES' "$work/output.txt"
    # An option that is ON and cannot be met is an error, and so is a launcher without.
    for options in "-DSYNCBN_RANK_TABLES=ON" "-DSYNCBN_RANK_TABLES=OFF -DSYNCBN_LAUNCHER=ON"; do
      rm -rf "$work/build"
      read -ra flags <<<"$options"
      if configure add_subdirectory -DSYNCBN_SOURCE_DIR="$SOURCE_DIR" -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON \
        "${flags[@]}" >"$work/log.txt" 2>&1; then
        echo "configured with $options and without nlohmann_json" >&2
        exit 1
      fi
      grep -E 'nlohmann_json|SYNCBN_RANK_TABLES' "$work/log.txt" | head -n 3
    done
    ;;
  example_consumer)  # examples/consumer trains on threads and on processes, with the same losses
    project=$SOURCE_DIR/examples/consumer
    "$CMAKE" -S "$project" -B "$work/subproject" -DSYNCBN_SOURCE_DIR="$SOURCE_DIR" >"$work/log.txt"
    "$CMAKE" -S "$project" -B "$work/build" -DCMAKE_PREFIX_PATH="$WORK_DIR/static"
    "$CMAKE" --build "$work/build"
    "$work/build/train" | tee "$work/threads.txt"
    "$WORK_DIR/static/bin/syncbn-run" -n 2 --join=True --log_dir="$work/log" "$work/build/train" | tee "$work/processes.txt"
    grep -o 'step .*' "$work/processes.txt" | diff "$work/threads.txt" -
    grep -q 'step 2000: loss' "$work/threads.txt"
    ;;
  missing_libraries)  # AUTO leaves a part out and tells so; ON is an error that names the package and the option
    bare() {  # bare <cmake arguments…>: this project without its optional libraries
      rm -rf "$work/build"
      "$CMAKE" -S "$SOURCE_DIR" -B "$work/build" -G Ninja -DCMAKE_CXX_COMPILER="$CXX" -DSYNCBN_TESTS=OFF -DSYNCBN_EXAMPLES=OFF \
        -DCMAKE_DISABLE_FIND_PACKAGE_{Gloo,MPI,PkgConfig,nlohmann_json}=ON \
        -DSYNCBN_{GLOO,MPI,MPICH,RANK_TABLES,LAUNCHER}=AUTO "$@" >"$work/log.txt" 2>&1
    }
    says() { tr -s ' \n' ' ' <"$work/log.txt" | grep -F -- "$1" || { cat "$work/log.txt"; exit 1; }; }
    bare
    says "builds engine threads. Left out: SYNCBN_RANK_TABLES (needs the library nlohmann_json: apt install nlohmann-json3-dev)"
    while IFS='|' read -r option message; do
      if bare "$option"; then
        echo "configured with $option and without its library" >&2
        exit 1
      fi
      says "$message"
    done <<'END'
-DSYNCBN_GLOO=ON|SYNCBN_GLOO=ON needs the library Gloo: install it (Debian: apt install libgloo-dev), or configure with -DSYNCBN_GLOO=OFF
-DSYNCBN_MPI=ON|apt install libopenmpi-dev openmpi-bin), or configure with -DSYNCBN_MPI=OFF
-DSYNCBN_MPICH=ON|apt install libmpich-dev mpich pkg-config), or configure with -DSYNCBN_MPICH=OFF
-DSYNCBN_RANK_TABLES=ON|apt install nlohmann-json3-dev), or configure with -DSYNCBN_RANK_TABLES=OFF
-DSYNCBN_LAUNCHER=ON|SYNCBN_LAUNCHER=ON needs SYNCBN_RANK_TABLES
-DCMAKE_DISABLE_FIND_PACKAGE_fmt=ON|syncbn needs the library {fmt}: install it (Debian: apt install libfmt-dev)
-DCMAKE_DISABLE_FIND_PACKAGE_hwy=ON|syncbn needs the library Highway: install it (Debian: apt install libhwy-dev)
END
    ;;
  wheel_options)  # what `pip install . -C cmake.define.SYNCBN_…=OFF` configures: no part of the package needs another one
    wheel() {  # wheel <cmake arguments…>: lists the commands that build its parts
      rm -rf "$work/build"
      "$CMAKE" -S "$SOURCE_DIR" -B "$work/build" -G Ninja -DCMAKE_CXX_COMPILER="$CXX" -DSKBUILD=2 \
        -DSKBUILD_SCRIPTS_DIR=scripts -DPython_EXECUTABLE="$PYTHON" -DSYNCBN_PYTHON=ON -DSYNCBN_{TESTS,EXAMPLES,INSTALL}=OFF "$@" \
        >"$work/log.txt" 2>&1 || { cat "$work/log.txt"; exit 1; }
      "$CMAKE" --build "$work/build" -- -t commands syncbn_package >"$work/commands.txt"
      grep -q libsyncbn_runtime "$work/commands.txt"
    }
    wheel -DSYNCBN_LAUNCHER=OFF
    if grep -F bin/syncbn-run "$work/commands.txt"; then exit 1; fi
    grep -q engine_gloo "$work/commands.txt"
    wheel -DSYNCBN_{GLOO,MPI,MPICH,RANK_TABLES,LAUNCHER}=OFF
    if grep -F engine_ "$work/commands.txt"; then exit 1; fi
    wheel -DSYNCBN_{GLOO,MPI,MPICH}=OFF
    grep -q bin/syncbn-run "$work/commands.txt"
    ;;
  pkg_config_static) pkg_config "$WORK_DIR/static" ;;
  pkg_config_shared) pkg_config "$WORK_DIR/shared" ;;
  missing_component)
    refused missing "$WORK_DIR/static" nccl "syncbn has no component nccl (installed: gloo"
    refused missing "$WORK_DIR/shared" mpi "component mpi is not part of this installation of syncbn (installed: gloo)"
    ;;
  *)
    echo "run.sh: no case '$1'" >&2
    exit 2
    ;;
esac
