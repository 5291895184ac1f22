# SPDX-License-Identifier: Apache-2.0
"""A daemon made by forking twice, in a session of its own, that ignores SIGTERM, as the worker does. Then, by the
argument: "leave" ends at once; "tree" makes a child with a child, and rank 1 fails when the file `go` is there."""

import os
import signal
import sys
import time


def wait_for(file):
    while not os.path.exists(file):
        time.sleep(0.01)


folder, rank = os.environ["DIR"], os.environ["RANK"]
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    with open(f"{folder}/daemon{rank}", "w") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(1000)
os.wait()
if sys.argv[1] == "leave":
    wait_for(f"{folder}/daemon{rank}")
    sys.exit(0)
if os.fork() == 0:
    os.fork()
    time.sleep(1000)
if rank == "1":
    wait_for(f"{folder}/go")
    os._exit(4)
time.sleep(1000)
