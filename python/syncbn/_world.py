# SPDX-License-Identifier: Apache-2.0

"""The world of ranks: joining and leaving it."""

from __future__ import annotations

from . import _checks, _core
from ._errors import InvalidArgument


def init(
    backend: str = "auto",
    *,
    rank: int | None = None,
    size: int | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    timeout: float | None = None,
    token: str = "",
) -> None:
    """Join the world of ranks that the keywords describe, else the launcher's environment.

    Parameters
    ----------
    backend : {"auto", "gloo", "mpi", "simulation"}
        The engine that carries the sums. "auto" leaves the choice to the environment.
    rank, size : int, optional
        This rank and the number of ranks, given both or neither. With them the keywords describe the world, and the
        environment is not read. "auto" is then "gloo".
    host : str
        Address at which rank 0 serves the rendezvous (gloo).
    port : int
        TCP port of the rendezvous.
    timeout : float, optional
        Time limit of every call in seconds. None: the variable SYNCBN_TIMEOUT_S, else 300.
    token : str
        Shared secret of the job. "": the variable SYNCBN_TOKEN.

    Raises
    ------
    GroupError
        Variables contradict each other or are incomplete; the package lacks the engine, or the engine's library is
        not installed; or `rank` and `size` are given and a world has been joined already.
    TimeoutError, PeerError
        Not all ranks came.

    Notes
    -----
    Without a launcher the world has one rank. A second call without keywords does nothing. Under MindSpore's msrun, the
    process that msrun starts as its scheduler ends inside this call, since it is not a rank.
    """
    _checks.choice("backend", backend, ("auto", "gloo", "mpi", "simulation"))
    if rank is None and size is None:
        if (host, port, timeout, token) != ("127.0.0.1", 0, None, ""):
            raise InvalidArgument(f"host: {host!r}, port: {port!r}, timeout: {timeout!r}, token: expected together "
                                  "with rank and size only")
        _core.init(backend)
        return
    if rank is None or size is None:
        raise InvalidArgument(f"rank: {rank}, size: {size}, expected both or neither")
    _core.init_as(
        rank=_checks.integer("rank", rank, 32),
        size=_checks.integer("size", size, 32),
        host=_checks.string("host", host),
        port=_checks.integer("port", port, 32),
        backend="gloo" if backend == "auto" else backend,
        timeout=None if timeout is None else _checks.real("timeout", timeout),
        token=_checks.string("token", token),
    )


def is_initialized() -> bool:
    """Return True if this rank is in a world: after `init`, or in a body of `run_ranks`."""
    return _core.is_initialized()


def release() -> None:
    """Leave the world and drop every group; `init` may follow.

    A layer of a dropped group raises a GroupError at its next training call.

    Raises
    ------
    GroupError
        The world is not initialized.
    """
    _core.release()
