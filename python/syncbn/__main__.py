# SPDX-License-Identifier: Apache-2.0

"""Prints what this installation of syncbn has: `python -m syncbn`."""

import ctypes
import pathlib
import platform
import shutil

import numpy

from . import __version__, _core, active_isa, available_isas, bits_version, get_num_threads

_PACKAGE_FOLDER = pathlib.Path(_core.__file__).parent
_ENGINES = {"gloo": "libgloo-dev", "mpi": "libopenmpi-dev openmpi-bin", "mpich": "libmpich-dev mpich"}


def _describe_engine(component: str, packages: str) -> str:
    """State of an engine's library. The library is loaded, as the first use of the engine would do."""
    library = _PACKAGE_FOLDER / f"engine_{component}.so"
    if not library.exists():
        return f"not built (Debian: apt install {packages}, then install syncbn anew)"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return f"built, but can't be loaded: {error}"
    return "found"


def _describe_launcher() -> str:
    return shutil.which("syncbn-run") or "not on PATH (built where nlohmann_json is found; Debian: apt install nlohmann-json3-dev)"


def main() -> None:
    print(f"syncbn {__version__}, bits_version {bits_version}")
    print(f"package          {_PACKAGE_FOLDER}")
    print(f"Python           {platform.python_version()}, NumPy {numpy.__version__}")
    print(f"instruction set  {active_isa()} (available: {', '.join(available_isas())})")
    print(f"threads          {get_num_threads()}")
    print("engine threads   built in")
    for component, packages in _ENGINES.items():
        print(f"engine {component:9} {_describe_engine(component, packages)}")
    print(f"syncbn-run       {_describe_launcher()}")


if __name__ == "__main__":
    main()
