# SPDX-License-Identifier: Apache-2.0

"""Waits for a peer that never comes, until Ctrl-C: in a call, in init, with threads, or with an engine of its own."""

import os
import signal
import sys
import threading
import time

import numpy as np
import syncbn

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
X = np.ones((2, 2, 2), np.float32)
X[0] = 0


class Slow:
    rank, size = 0, 2

    def all_reduce_sum(self, array, timeout):
        say()
        time.sleep(timeout)


def say():
    print("waiting", flush=True)
    if "itself" in sys.argv:  # where a launcher stands between the test and this process
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()


def call():
    syncbn.init()
    bn = syncbn.SyncBatchNorm(2)
    bn(X)
    if syncbn.get_rank() == 1:
        if "itself" in sys.argv:
            time.sleep(600)  # its launcher ends it
        sys.stdin.read()
        sys.exit()
    say()
    bn(X)


def init():
    say()
    syncbn.init()


def threads():
    def body(rank):
        if rank == 1:
            say()
            while time.monotonic() < deadline:
                time.sleep(0.01)
        syncbn.SyncBatchNorm(2)(X)

    deadline = time.monotonic() + 3
    syncbn.run_ranks(2, body)


def engine():
    syncbn.SyncBatchNorm(2, process_group=Slow())(X)


try:
    {"call": call, "init": init, "threads": threads, "engine": engine}[sys.argv[1]]()
except KeyboardInterrupt:
    print("interrupted", flush=True)
